"""Says nothing of what its hyper-parameter means, and promises images that it never asks for."""

from genbias_bench import Hparams, Method, MethodCard, Stage, Track


class Silent(Hparams):
    strength: float = 0.5


class SilentCard(Method):
    card = MethodCard(
        name="silent-card",
        version=1,
        summary="Wrong.",
        source="A test.",
        track=Track.NONE,
        stages=("real",),
        hparams=Silent,
        uses_generator=True,
    )

    def fit(self, data, tools, hparams):
        yield Stage("real", tools.train(data.train))
