"""Trains once with all optimiser steps, and then some."""

from genbias_bench import Method, MethodCard, Stage, Track


class TooManySteps(Method):
    card = MethodCard(
        name="too-many-steps", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        model = tools.train(data.train, share=1.0)
        yield Stage("real", tools.train(data.train, init=model, share=0.5))
