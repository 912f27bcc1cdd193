"""Yields a stage that its card does not declare."""

from genbias_bench import Method, MethodCard, Stage, Track


class WrongStage(Method):
    card = MethodCard(
        name="wrong-stage", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        yield Stage("fake", tools.train(data.train))
