"""Real oracle: the synthetic budget spent on real images that this bias level left out; the upper end of the scale."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from genbias_bench import Hparams, Loss, Method, MethodCard, MethodData, Stage, Tools, Track


class RealOracleHparams(Hparams):
    """The loss on the mixture of the biased images and the further real ones."""

    loss: Loss = Field("erm", description="loss on the mixture")


class RealOracle(Method):
    """What would a perfect generator be worth? Real images of the small groups in place of generated ones (ours).

    Uses images that no method has, so it is never ranked. Colorized tasks re-render training digits in the missing
    colours. Where fewer than B such images exist the row says so, and no recovered gap is computed from it.
    """

    card = MethodCard(
        name="real-oracle",
        version=1,
        summary="Fill the smallest groups with real images that this level and draw left out.",
        source="Our protocol: the upper end of the scale on which generated images are measured.",
        track=Track.TRAIN,
        stages=("mixed",),
        kind="control",
        hparams=RealOracleHparams,
        oracle=True,
        space={
            "loss": ["erm", "resampling", "group-dro"],
        },
    )

    def fit(self, data: MethodData, tools: Tools, hparams: RealOracleHparams) -> Iterator[Stage]:
        """Fill, mix, train once."""
        plan = tools.budget.fill(data.train)
        further = tools.reserve(plan=plan)
        if len(further) < tools.budget.synthetic:
            tools.note(f"only {len(further)} of B = {tools.budget.synthetic} further real images exist")
        yield Stage("mixed", tools.train(data.train + further, loss=hparams.loss))
