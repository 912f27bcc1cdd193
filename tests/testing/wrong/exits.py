"""Ends the process without a word."""

import os

from genbias_bench import Method, MethodCard, Track


class Exits(Method):
    card = MethodCard(name="exits", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",))

    def fit(self, data, tools, hparams):
        tools.train(data.train)
        os._exit(3)
        yield
