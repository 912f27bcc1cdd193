"""From Fake to Real: pre-train on balanced generated images, then fine-tune on the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from genbias_bench import ImageSet, Loss, Method, MethodCard, MethodData, Stage, Tools, Track
from methods._fine_tuned import DEMO
from methods._generator import GeneratorHparams


class FFRHparams(GeneratorHparams):
    """Defaults follow the paper; the others are controls that its reviewers asked for."""

    real_loss: Literal[Loss, "dfr"] = Field(
        "erm", description="loss of the stage on real images; `dfr`: ERM, then the last layer on validation images"
    )
    synthetic_share: float = Field(0.5, gt=0, lt=1, description="share of all optimiser steps on generated images")
    order: Literal["fake-to-real", "reversed"] = Field("fake-to-real", description="control: real images first")
    balanced: bool = Field(True, description="control `false`: generated images carry the training bias")
    synthetic_only: bool = Field(False, description="control: all steps on generated images, none on real ones")
    freeze_bn: bool = Field(False, description="keep batch statistics of the first stage in the second")
    second_lr_scale: float = Field(1.0, gt=0, le=10, description="learning rate of the second stage, times the card's")

    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        if self.synthetic_only:
            return ("synthetic",)
        order = ("synthetic", "real") if self.order == "fake-to-real" else ("real", "synthetic")
        return (*order, "last-layer") if self.real_loss == "dfr" else order

    def track(self) -> Track:
        """Adapters, group losses and the biased control read the training groups, DFR those of validation."""
        if self.generator == "fine-tuned" or not self.balanced:
            return Track.TRAIN
        if self.synthetic_only or self.real_loss == "erm":
            return Track.NONE
        return Track.VALIDATION_TRAINS if self.real_loss == "dfr" else Track.TRAIN


class FFR(Method):
    """Two steps (Qraitem, Saenko, Plummer 2024, arXiv 2308.04553).

    Theirs: stage 1 on ASB's synthetic images alone (the same number for every group), stage 2 on the real images with
    ERM, resampling, Group-DRO or DFR, all layers, optional ``freeze_bn``. Ours: the steps of both stages together equal
    those of ERM, DFR follows ERM on the real images, the controls (reversed order, unbalanced, synthetic only), and the
    arm with a fine-tuned generator (adapters of Basu 2025).
    """

    card = MethodCard(
        name="ffr",
        version=1,
        summary="Pre-train on balanced generated images, then fine-tune on the real ones.",
        source="Qraitem, Saenko, Plummer 2024 (arXiv 2308.04553); steps, controls, fine-tuned arm: our protocol.",
        track=FFRHparams.track,
        stages=FFRHparams.stages,
        hparams=FFRHparams,
        uses_generator=True,
        tier_defaults={"demo": DEMO},
        space={
            "synthetic_share": (0.25, 0.9),
            "freeze_bn": [False, True],
            "second_lr_scale": (0.1, 10.0, "log"),
        },
        citation="""@inproceedings{qraitem2024fake,
  title = {From Fake to Real: Pretraining on Balanced Synthetic Images to Prevent Spurious Correlations},
  author = {Qraitem, Maan and Saenko, Kate and Plummer, Bryan A.},
  booktitle = {ECCV},
  year = {2024}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: FFRHparams) -> Iterator[Stage]:
        """Train on one kind of image, then on the other."""
        plan = tools.budget.balanced()
        if not hparams.balanced:
            plan = tools.budget.like_training(data.train, plan)
        real_loss: Loss = "erm" if hparams.real_loss == "dfr" else hparams.real_loss
        sets: dict[str, tuple[ImageSet, Loss, float]] = {
            "synthetic": (tools.synthesize(data, plan=plan, tuning=hparams.tuning()), "erm", hparams.synthetic_share),
            "real": (data.train, real_loss, 1 - hparams.synthetic_share),
        }
        model, scale = None, 1.0
        for name in hparams.stages():
            if name == "last-layer" and model is not None:
                yield Stage(name, tools.refit_last_layer(model, data.validation))
                continue
            images, loss, share = sets[name]
            model = tools.train(
                images,
                init=model,
                loss=loss,
                share=1.0 if hparams.synthetic_only else share,
                learning_rate_scale=scale,
                freeze_bn=hparams.freeze_bn and model is not None,
            )
            scale = hparams.second_lr_scale
            yield Stage(name, model)
