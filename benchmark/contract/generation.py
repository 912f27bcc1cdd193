"""How a method wants its images generated: fine-tuning of a text-to-image generator, and filters on what it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmark.errors import InvalidValue

FeaturesOf = Literal["erm", "clip"]
"""Image features for clustering: of an ERM model trained on the run's own biased split, or of an external CLIP."""

Filter = Literal["none", "own", "clip"]
"""Scores by which twice as many images are thinned out: of a classifier of the run's own split, or of CLIP."""

SMALLEST_GROUP = 8
"""A group with fewer real images has no adapter of its own (protocol §4)."""


@dataclass(frozen=True)
class FineTuning:
    """Low-rank adapters for a text-to-image generator, one per group or per cluster of a group.

    Without ``token`` and ``prior_weight`` this is LoRA; with them DreamBooth (Ruiz 2023) on low-rank weights.

    Attributes:
        steps: Optimiser steps of each adapter.
        batch_size: Real images per step and adapter.
        learning_rate: Of AdamW, constant.
        rank: Of the low-rank update.
        per: What has an adapter of its own.
        token: Rare token behind the prompt, or empty.
        prior_weight: Weight of the prior preservation loss; 0 is none.
        prior_images: Images of the unchanged generator per prompt that the prior is preserved on.
        clusters: Number of clusters per group; None chooses it by silhouette.
        features: What clusters are made of.
    """

    steps: int
    batch_size: int
    learning_rate: float
    rank: int
    per: Literal["group", "cluster"] = "group"
    token: str = ""
    prior_weight: float = 0.0
    prior_images: int = 0
    clusters: int | None = None
    features: FeaturesOf = "erm"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("steps", "batch_size", "rank"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"fine-tuning: {name} must be at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0 or self.prior_weight < 0:
            raise InvalidValue(
                f"fine-tuning: learning rate {self.learning_rate} must be above 0, prior weight "
                f"{self.prior_weight} at least 0"
            )
        if (self.prior_weight > 0) != (self.prior_images > 0):
            raise InvalidValue("fine-tuning: prior preservation needs both a weight and a number of images")
        if self.clusters is not None and self.clusters < 1:
            raise InvalidValue(f"fine-tuning: {self.clusters} clusters make no sense; use 1 or more")

    @property
    def kind(self) -> str:
        """What the field calls it."""
        if self.per == "cluster":
            return "clustered-dreambooth" if self.token else "clustered-lora"
        return "dreambooth" if self.token else "lora"
