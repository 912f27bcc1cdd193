"""Leaves half of the optimiser steps unused."""

from genbias_bench import Method, MethodCard, Stage, Track


class TooFewSteps(Method):
    card = MethodCard(
        name="too-few-steps", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        yield Stage("real", tools.train(data.train, share=0.5))
