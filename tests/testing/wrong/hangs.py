"""Waits for something that never comes."""

import time

from genbias_bench import Method, MethodCard, Stage, Track


class Hangs(Method):
    card = MethodCard(name="hangs", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",))

    def fit(self, data, tools, hparams):
        time.sleep(100_000)
        yield Stage("real", tools.train(data.train))
