"""Reads training groups that its card does not declare."""

import numpy as np

from genbias_bench import Method, MethodCard, Stage, Track


class ReadsAttribute(Method):
    card = MethodCard(
        name="reads-attribute", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        minority = np.flatnonzero(data.train.a != data.train.y)
        yield Stage("real", tools.train(data.train.take(minority)))
