"""ERM: plain training on the biased training split; the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Iterator

from genbias_bench import Hparams, Method, MethodCard, MethodData, Stage, Tools, Track


class ERM(Method):
    """Empirical risk minimisation on real images (Vapnik 1991): no group labels, no generated images."""

    card = MethodCard(
        name="erm",
        version=1,
        summary="Plain training on the biased real images.",
        source="Empirical risk minimisation; the baseline of every paper named in this project.",
        track=Track.NONE,
        stages=("real",),
    )

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Train once, on everything."""
        yield Stage("real", tools.train(data.train))
