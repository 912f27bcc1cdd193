"""Trains, and returns None."""

from genbias_bench import Method, MethodCard, Track


class ReturnsNothing(Method):
    card = MethodCard(
        name="returns-nothing", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        tools.train(data.train)
