"""The generator as an axis of a method: as it is, or fine-tuned on the run's training images, everything else equal."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from genbias_bench import FineTuning, Hparams


class AdapterHparams(Hparams):
    """How adapters of a generator are trained: those of `lora`, with the same settings."""

    adapter_steps: int = Field(500, ge=1, le=100_000, description="optimiser steps of each adapter")
    adapter_batch_size: int = Field(4, ge=1, le=256, description="real images per step and adapter")
    adapter_learning_rate: float = Field(1e-4, gt=0, le=1, description="learning rate of the adapters")
    rank: int = Field(16, ge=1, le=256, description="rank of the adapters")

    def adapters(self, per: Literal["group", "class"]) -> FineTuning:
        """Return how the generator is fine-tuned.

        Args:
            per: What has an adapter of its own; adapters per group read the training groups.
        """
        return FineTuning(
            steps=self.adapter_steps,
            batch_size=self.adapter_batch_size,
            learning_rate=self.adapter_learning_rate,
            rank=self.rank,
            per=per,
        )


class GeneratorHparams(AdapterHparams):
    """Which generator.

    Basu 2025 (arXiv 2511.08711) claims that classifiers gain from fine-tuning the generator; Bansal and Grover 2023
    (arXiv 2302.02503) found, under natural shift, that the generator as it is helped more. Both arms of a method get
    the same number of images and the same optimiser steps, so their difference is the generator's.
    """

    generator: Literal["base", "fine-tuned"] = Field(
        "base",
        description="the generator as it is, or with adapters trained as in `lora`, one per group (per class where "
        "prompts name no attribute), everything else equal",
    )

    def tuning(self, *, per: Literal["group", "class"] = "group") -> FineTuning | None:
        """Return how the generator is fine-tuned; None for the generator as it is."""
        return None if self.generator == "base" else self.adapters(per)
