"""What the three methods of Basu 2025 share: a fine-tuned generator, then two-step training of the classifier."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from genbias_bench import Filter, FineTuning, Hparams, Loss, Method, MethodData, Stage, Tools, Track

CITATION = """@article{basu2025harnessing,
  title = {Harnessing Diffusion-Generated Synthetic Images for Fair Image Classification},
  author = {Basu, Abhipsa and Gupta, Aviral and Bhat, Abhijnya and Babu, R. Venkatesh},
  journal = {arXiv:2511.08711},
  year = {2025}
}"""

DEMO = {"adapter_steps": 100, "adapter_batch_size": 8, "adapter_learning_rate": 2e-3, "rank": 8}
"""Fine-tuning of a generator of four million weights at 32×32; the models' own defaults are for Stable Diffusion."""


class FineTunedHparams(Hparams):
    """Fine-tuning of the generator, and training of the classifier."""

    generator: Literal["fine-tuned", "base"] = Field(
        "fine-tuned", description="arm `base`: the generator as it is, everything else equal"
    )
    adapter_steps: int = Field(500, ge=1, le=100_000, description="optimiser steps of each adapter")
    adapter_batch_size: int = Field(4, ge=1, le=256, description="real images per step and adapter")
    adapter_learning_rate: float = Field(1e-4, gt=0, le=1, description="learning rate of the adapters")
    rank: int = Field(16, ge=1, le=256, description="rank of the adapters")
    filter: Filter = Field(
        "own", description="keep the better half of twice as many images: by classifiers of the own split, or by CLIP"
    )
    contrastive: float = Field(
        0.5, ge=0, le=10, description="weight of the supervised contrastive loss in pre-training"
    )
    synthetic_share: float = Field(0.75, gt=0, lt=1, description="share of all optimiser steps on generated images")
    real_layers: Literal["last-layer", "all"] = Field("last-layer", description="what the stage on real images moves")
    real_loss: Loss = Field("erm", description="loss of the stage on real images")

    def common(self) -> dict[str, Any]:
        """Return what every kind of adapter needs."""
        return {
            "steps": self.adapter_steps,
            "batch_size": self.adapter_batch_size,
            "learning_rate": self.adapter_learning_rate,
            "rank": self.rank,
        }

    def track(self) -> Track:
        """Fine-tuning, the own filter and group losses read the training groups; the base generator alone does not."""
        reads = self.generator == "fine-tuned" or self.filter == "own" or self.real_loss != "erm"
        return Track.TRAIN if reads else Track.NONE

    @abc.abstractmethod
    def tuning(self) -> FineTuning:
        """Return how the generator is fine-tuned."""


class DreamBoothHparams(FineTunedHparams):
    """Fine-tuning with a rare token and prior preservation."""

    token: str = Field("sks", min_length=1, max_length=32, description="rare token behind the prompt")
    prior_weight: float = Field(1.0, ge=0, le=10, description="weight of the prior preservation loss; 0 is none")
    prior_images: int = Field(
        50, ge=1, le=10_000, description="images of the base generator that each adapter holds on to"
    )

    def dreambooth(self) -> dict[str, Any]:
        """Return what DreamBooth adds."""
        images = self.prior_images if self.prior_weight else 0
        return {"token": self.token, "prior_weight": self.prior_weight, "prior_images": images}


class FineTunedPretraining(Method):
    """Balanced synthetic pre-training on a fine-tuned generator's images, then the last layer on real ones."""

    def fit(self, data: MethodData, tools: Tools, hparams: FineTunedHparams) -> Iterator[Stage]:
        """Fine-tune, generate, train on generated images, then on real ones."""
        tuning = hparams.tuning() if hparams.generator == "fine-tuned" else None
        fake = tools.synthesize(data, plan=tools.budget.balanced(), tuning=tuning, keep=hparams.filter)
        model = tools.train(fake, share=hparams.synthetic_share, contrastive=hparams.contrastive)
        yield Stage("synthetic", model)
        share, layers = 1 - hparams.synthetic_share, hparams.real_layers
        yield Stage("real", tools.train(data.train, init=model, loss=hparams.real_loss, share=share, trainable=layers))
