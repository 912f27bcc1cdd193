"""Copy augmentation: the synthetic budget spent on augmented copies of real images, the control for generated ones."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from genbias_bench import GroupsOf, Hparams, Loss, Method, MethodCard, MethodData, Stage, Tools, Track


class CopyAugmentHparams(Hparams):
    """The loss on the mixture of originals and copies."""

    loss: Loss = Field("erm", description="loss on the mixture")
    groups: GroupsOf = Field("y,a", description="groups of a group loss; `y,a,source` also separates the copies")


class CopyAugment(Method):
    """What are *synthetic* images worth? The same budget, filled with shifted and rotated copies (our protocol)."""

    card = MethodCard(
        name="copy-augment",
        version=1,
        summary="Fill the smallest populated groups with augmented copies of their own real images.",
        source="Our protocol: the control that separates generated content from more images of small groups.",
        track=Track.TRAIN,
        stages=("mixed",),
        kind="control",
        hparams=CopyAugmentHparams,
        space={
            "loss": ["erm", "resampling", "group-dro"],
            "groups": ["y,a", "y,a,source"],
        },
    )

    def fit(self, data: MethodData, tools: Tools, hparams: CopyAugmentHparams) -> Iterator[Stage]:
        """Copy, mix, train once; groups without a real image have nothing to copy."""
        copies = tools.copies(data.train, plan=tools.budget.fill(data.train, populated_only=True))
        yield Stage("mixed", tools.train(data.train + copies, loss=hparams.loss, groups=hparams.groups))
