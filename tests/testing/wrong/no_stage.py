"""Yields nothing."""

from genbias_bench import Method, MethodCard, Track


class NoStage(Method):
    card = MethodCard(
        name="no-stage", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        yield from ()
