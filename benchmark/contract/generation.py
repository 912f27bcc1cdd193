"""How a method wants its images generated: by a text-to-image generator, as it is or fine-tuned, or by one of its own.

Own generators are trained from random weights on images that the method hands over: :class:`FromScratch` and
:class:`Invertible`; :class:`Bootstrap` stands in for a perfect one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmark.errors import InvalidValue

FeaturesOf = Literal["erm", "clip"]
"""Image features for clustering: of an ERM model trained on the run's own biased split, or of an external CLIP."""

Filter = Literal["none", "own", "clip"]
"""Scores by which twice as many images are thinned out: of a classifier of the run's own split, or of CLIP."""

OVERSAMPLING = 2
"""Images sampled for each one that a filter keeps; no more than the budget allows to sample."""

Condition = Literal["class", "group"]
"""What images are asked for by: the class alone, or class and attribute."""

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
        per: What has an adapter of its own. With ``class`` prompts name the class alone and no attribute is read.
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
    per: Literal["group", "cluster", "class"] = "group"
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


@dataclass(frozen=True)
class FromScratch:
    """A conditional diffusion model (Ho 2020; UNet2DModel of diffusers) trained from random weights.

    Attributes:
        steps: Optimiser steps.
        batch_size: Images per step.
        learning_rate: Peak of AdamW, after a warm-up, with cosine decay.
        channels: Width of each resolution of the UNet, the finest first.
        layers: Residual blocks per resolution.
        patch: Pixels of ``patch`` x ``patch`` squares become channels before the UNet, without loss.
        condition: What images are asked for by: the class alone, or class and attribute (reads group labels).
        sampling_steps: Denoising steps.
        guidance: Classifier-free guidance scale; 1 is none.
        sampling_batch: Images per forward pass when sampling.
    """

    steps: int
    batch_size: int
    learning_rate: float
    channels: tuple[int, ...]
    layers: int = 1
    patch: int = 1
    condition: Condition = "class"
    sampling_steps: int = 25
    guidance: float = 1.0
    sampling_batch: int = 128

    def __post_init__(self) -> None:
        """Refuse what cannot be trained or sampled."""
        for name in ("steps", "batch_size", "layers", "patch", "sampling_steps", "sampling_batch"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"generator from scratch: {name} must be at least 1, not {getattr(self, name)}")
        if not self.channels or min(self.channels) < 1:
            raise InvalidValue(f"generator from scratch: {self.channels} are no widths of a network")
        if not self.learning_rate > 0 or self.guidance < 0:
            raise InvalidValue(
                f"generator from scratch: learning rate {self.learning_rate} must be above 0, guidance "
                f"{self.guidance} at least 0"
            )


@dataclass(frozen=True)
class Invertible:
    """An autoencoder and a conditional invertible network on its latent (Esser 2020), both from random weights.

    Attributes:
        autoencoder_steps: Optimiser steps of the autoencoder.
        steps: Optimiser steps of the invertible network.
        batch_size: Images per step of either.
        learning_rate: Of Adam.
        latent: Numbers in a latent.
        blocks: ActNorm, two affine couplings and a shuffle each.
        width: Hidden width of the couplings' networks.
        depth: Hidden layers of the couplings' networks.
        condition: ``group``: label and attribute through added embeddings; ``attribute``: the attribute alone.
    """

    autoencoder_steps: int
    steps: int
    batch_size: int
    learning_rate: float
    latent: int = 128
    blocks: int = 20
    width: int = 1024
    depth: int = 2
    condition: Literal["group", "attribute"] = "group"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name, least in (("autoencoder_steps", 1), ("steps", 1), ("batch_size", 2), ("latent", 2), ("blocks", 1),
                            ("width", 1), ("depth", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise InvalidValue(f"invertible network: {name} must be at least {least}, not {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InvalidValue(f"invertible network: learning rate {self.learning_rate} must be above 0")


@dataclass(frozen=True)
class Bootstrap:
    """Stands in for a generator without fault: images drawn with replacement, as they are (the loop's null arm)."""


OwnGenerator = FromScratch | Invertible | Bootstrap
"""A generator that is trained on images which the method hands over."""
