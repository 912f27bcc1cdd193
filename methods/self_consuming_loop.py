"""The self-consuming loop: generators trained on what earlier generators made; does bias grow over generations?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from genbias_bench import (
    Bootstrap,
    FineTuning,
    FromScratch,
    ImageSet,
    Method,
    MethodCard,
    MethodData,
    Stage,
    Tools,
    Track,
    Trained,
)
from methods._fine_tuned import DEMO
from methods._generator import AdapterHparams


def _widths(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


class LoopHparams(AdapterHparams):
    """The arms of the protocol (section 5), and how the generator is trained."""

    generations: int = Field(5, ge=1, le=100, description="generations of generated images after the real data")
    generator: Literal["from-scratch", "fine-tuned", "base", "identity", "real"] = Field(
        "from-scratch",
        description="`fine-tuned`, `base`: a text-to-image generator; null arms: `identity` (bootstrap), `real`",
    )
    mixture: Literal["accumulate", "replace"] = Field(
        "accumulate", description="uniform over all generations so far, real included; or real and the newest one"
    )
    share: float = Field(1.0, gt=0, le=1, description="`replace`: share λ of the newest generation")
    condition: Literal["class", "group"] = Field(
        "class", description="images are asked for by class, the attribute is free; `group` shows fidelity only"
    )
    labels: Literal["prompt", "classifier"] = Field(
        "prompt", description="labels of generated images: as asked for, or by the previous classifier"
    )
    filter: Literal["none", "own"] = Field(
        "none", description="`own`: keep the better half of twice as many images, by classifiers of the real split"
    )
    generator_steps: int = Field(6_000, ge=1, le=1_000_000, description="optimiser steps of each generator")
    generator_batch_size: int = Field(256, ge=1, le=4096, description="images per step of the generator")
    generator_learning_rate: float = Field(5e-4, gt=0, le=1, description="peak learning rate of the generator")
    channels: Annotated[tuple[int, ...], BeforeValidator(_widths)] = Field(
        (128, 256), description="widths of the generator from scratch, such as 128,256"
    )
    layers: int = Field(2, ge=1, le=8, description="residual blocks per resolution of the generator from scratch")
    patch: int = Field(2, ge=1, le=16, description="pixels of a patch's side that become channels")
    sampling_steps: int = Field(25, ge=1, le=1000, description="denoising steps of the generator from scratch")
    sampling_batch: int = Field(512, ge=1, le=4096, description="images per forward pass when sampling")
    guidance: float = Field(1.0, ge=0, le=20, description="guidance of the generator from scratch; 1 is none")

    @model_validator(mode="after")
    def _possible(self) -> LoopHparams:
        if self.mixture == "accumulate" and self.share != 1.0:
            raise ValueError("share belongs to mixture=replace; accumulate is uniform over the generations")
        if self.generator == "real" and (self.filter != "none" or self.labels != "prompt"):
            raise ValueError("retraining on real data generates nothing to filter or to label")
        return self

    def stages(self) -> tuple[str, ...]:
        """Name every generation, the real data's first."""
        return tuple(f"generation-{g}" for g in range(self.generations + 1))

    def track(self) -> Track:
        """Asking for groups reads the training groups; asking for classes reads none."""
        by_group = self.condition == "group" and self.generator != "real"
        return Track.TRAIN if by_group else Track.NONE

    def text_to_image(self) -> bool:
        """Say whether a text-to-image generator makes the images."""
        return self.generator in ("fine-tuned", "base")

    def from_scratch(self) -> FromScratch:
        """Return how a generator is trained from random weights."""
        return FromScratch(
            steps=self.generator_steps,
            batch_size=self.generator_batch_size,
            learning_rate=self.generator_learning_rate,
            channels=self.channels,
            layers=self.layers,
            patch=self.patch,
            condition=self.condition,
            sampling_steps=self.sampling_steps,
            guidance=self.guidance,
            sampling_batch=self.sampling_batch,
        )

    def tuning(self) -> FineTuning | None:
        """Return how a text-to-image generator is fine-tuned, per class or per group as it is asked."""
        return self.adapters(self.condition) if self.generator == "fine-tuned" else None


class SelfConsumingLoop(Method):
    """Bias over generations (Zhang 2024, arXiv 2410.10160): a process that is observed, not a mitigation.

    Theirs: generators trained on data that earlier generators joined, and the bias of each generation's classifier.
    Ours, since their full text could not be read (protocol section 5): N images in every generation's training set;
    generator and classifier start afresh at fixed steps; `accumulate` (Gerstgrasser 2024, arXiv 2404.01413) or
    `replace` with the share λ; labels from the request or the previous classifier (Wyllie 2024, arXiv 2403.07857);
    the null arms. Each generation has the task's optimiser steps, so its rows compare with ERM's, and no rank.
    """

    card = MethodCard(
        name="self-consuming-loop",
        version=1,
        summary="Train generators on what earlier generators made, and watch the bias of each generation.",
        source="Zhang et al. 2024 (arXiv 2410.10160); the loop's arms, sizes and null arms: our protocol.",
        track=LoopHparams.track,
        stages=LoopHparams.stages,
        hparams=LoopHparams,
        uses_generator=LoopHparams.text_to_image,
        kind="process",
        rounds=lambda hparams: int(hparams.generations),
        tier_defaults={
            "demo": {
                **DEMO,
                "generator_steps": 800,
                "generator_batch_size": 64,
                "generator_learning_rate": 4e-3,
                "channels": (64, 96),
                "layers": 1,
                "patch": 4,
                "sampling_steps": 15,
                "sampling_batch": 110,
            }
        },
        citation="""@article{zhang2024inclusion,
  title = {Will the Inclusion of Generated Data Amplify Bias Across Generations in Future Image Classification Models?},
  author = {Zhang, Zeliang and Liang, Xin and Feng, Mingqian and Liang, Susan and Xu, Chenliang},
  journal = {arXiv:2410.10160},
  year = {2024}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: LoopHparams) -> Iterator[Stage]:
        """Train, generate, mix, and start again."""
        made: list[ImageSet] = []
        share = 1 / (hparams.generations + 1)
        for generation, name in enumerate(hparams.stages()):
            images = mixture(data.train, made, hparams, tools.seed(f"mixture of generation {generation}"))
            model = tools.train(images, share=share)
            yield Stage(name, model)
            if generation < hparams.generations and hparams.generator != "real":
                made.append(_generated(images, data, tools, hparams, generation + 1, model))


def mixture(real: ImageSet, made: list[ImageSet], hparams: LoopHparams, seed: int) -> ImageSet:
    """Return a generation's training set, as many images as there are real ones.

    Args:
        real: The real training images.
        made: What each generation so far has made, oldest first; empty for the real generation.
        hparams: Which mixture.
        seed: Decides which images of each part are taken.
    """
    if not made:
        return real
    if hparams.mixture == "accumulate":
        parts, shares = [real, *made], [1.0] * (len(made) + 1)
    else:
        parts, shares = [real, made[-1]], [1 - hparams.share, hparams.share]
    random = np.random.default_rng(seed)
    ends = [round(len(real) * end / sum(shares)) for end in np.cumsum(shares)]
    chosen = [
        part.take(np.sort(random.permutation(len(part))[: stop - start]))
        for part, start, stop in zip(parts, [0, *ends], ends, strict=False)
    ]
    whole = chosen[0]
    for part in chosen[1:]:
        whole = whole + part
    return whole


def _generated(
    images: ImageSet, data: MethodData, tools: Tools, hparams: LoopHparams, generation: int, model: Trained
) -> ImageSet:
    """Train a generator on a generation's images and return N images for the next one."""
    plan = tools.budget.marginal(data.train, len(data.train), by=hparams.condition)
    labels = model if hparams.labels == "classifier" else None
    if hparams.text_to_image():
        current = MethodData(images, data.validation)
        return tools.synthesize(
            current, plan=plan, tuning=hparams.tuning(), keep=hparams.filter, generation=generation, labels=labels
        )
    own = hparams.from_scratch() if hparams.generator == "from-scratch" else Bootstrap()
    return tools.generate(images, plan=plan, model=own, keep=hparams.filter, generation=generation, labels=labels)
