"""Reads training groups through a private field, which no guard sees."""

import numpy as np

from genbias_bench import Method, MethodCard, Stage, Track


class ReadsPrivate(Method):
    card = MethodCard(
        name="reads-private", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        minority = np.flatnonzero(data.train._attributes != data.train.y)
        yield Stage("real", tools.train(data.train + data.train.take(minority)))
