"""Imports what is internal and may change in any release."""

from benchmark.testing.small import STEPS
from genbias_bench import Method, MethodCard, Stage, Track


class UsesInternals(Method):
    card = MethodCard(
        name="uses-internals", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        self.steps = STEPS
        yield Stage("real", tools.train(data.train))
