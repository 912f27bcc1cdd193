"""Placebo: generated images that repeat the training bias; what are more images worth, without any repair?"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from genbias_bench import GroupsOf, Hparams, Loss, Method, MethodCard, MethodData, Stage, Tools, Track


class PlaceboHparams(Hparams):
    """The loss on the mixture."""

    loss: Loss = Field("erm", description="loss on the mixture")
    groups: GroupsOf = Field("y,a", description="groups of a group loss; `y,a,source` also separates generated images")


class Placebo(Method):
    """`sd-augment` with the attribute shuffled within each class as the training images have it (our protocol).

    The number of generated images per class is that of filling the smallest groups, but their attributes follow the
    biased training split. What it gains over ERM is due to more images, not to balance.
    """

    card = MethodCard(
        name="placebo",
        version=1,
        summary="Mix in generated images whose attributes repeat the training bias.",
        source="Our protocol: the control for `sd-augment` (USB of Qraitem 2024, arXiv 2308.04553).",
        track=Track.TRAIN,
        stages=("mixed",),
        kind="control",
        hparams=PlaceboHparams,
        uses_generator=True,
        space={
            "loss": ["erm", "resampling", "group-dro"],
            "groups": ["y,a", "y,a,source"],
        },
    )

    def fit(self, data: MethodData, tools: Tools, hparams: PlaceboHparams) -> Iterator[Stage]:
        """Generate, mix, train once."""
        plan = tools.budget.like_training(data.train, tools.budget.fill(data.train))
        fake = tools.synthesize(data, plan=plan)
        yield Stage("mixed", tools.train(data.train + fake, loss=hparams.loss, groups=hparams.groups))
