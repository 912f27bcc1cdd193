"""Chooses its training images by a generator that nobody seeded."""

import numpy as np

from genbias_bench import Method, MethodCard, Stage, Track


class Unseeded(Method):
    card = MethodCard(
        name="unseeded", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        chosen = np.random.default_rng().permutation(len(data.train))[:500]
        yield Stage("real", tools.train(data.train.take(chosen)))
