"""Stable Diffusion augmentation: off-the-shelf text-to-image images mixed into the real training set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from genbias_bench import GroupsOf, Loss, Method, MethodCard, MethodData, Plan, Stage, Tools, Track
from methods._fine_tuned import DEMO
from methods._generator import GeneratorHparams


class SDAugmentHparams(GeneratorHparams):
    """How many images of which group, how they are asked for, and with which loss the mixture is trained."""

    balance: Literal["fill", "add"] = Field("fill", description="fill the smallest groups (USB), or add evenly (ASB)")
    prompt: Literal["class", "class+attribute"] = Field("class+attribute", description="what the prompt names")
    loss: Literal[Loss, "dfr"] = Field(
        "erm", description="loss on the mixture; `dfr`: ERM, then the last layer on validation images"
    )
    groups: GroupsOf = Field(
        "y,a", description="groups of a group loss; `y,a,source` also separates real and generated"
    )
    placebo: bool = Field(False, description="control: the generated images carry the training bias")

    @model_validator(mode="after")
    def _possible(self) -> SDAugmentHparams:
        if self.prompt == "class" and (self.placebo or self.loss not in ("erm", "dfr")):
            raise ValueError("images asked for by class alone have no attribute, so no placebo and no group loss")
        return self

    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return ("mixed", "last-layer") if self.loss == "dfr" else ("mixed",)

    def track(self) -> Track:
        """Filling and adapters by group, placebo and group losses read the training groups, DFR those of validation."""
        by_group = self.prompt == "class+attribute" and (self.balance == "fill" or self.generator == "fine-tuned")
        if by_group or self.placebo or self.loss not in ("erm", "dfr"):
            return Track.TRAIN
        return Track.VALIDATION_TRAINS if self.loss == "dfr" else Track.NONE

    def plan(self, data: MethodData, tools: Tools) -> Plan:
        """Return how many images of each group to ask for."""
        budget = tools.budget
        if self.prompt == "class":
            return budget.fill_by_class(data.train) if self.balance == "fill" else budget.balanced_by_class()
        plan = budget.fill(data.train) if self.balance == "fill" else budget.balanced()
        return budget.like_training(data.train, plan) if self.placebo else plan


class SDAugment(Method):
    """USB and ASB of Qraitem 2024 (arXiv 2308.04553): generated and real images in one training set.

    Theirs: the two ways of balancing, prompts with class and attribute, the losses, groups (y,a) or
    (y,a,real/synthetic). Ours: the budget B, class-only prompts, the arm with a fine-tuned generator (adapters of Basu
    2025; per class and without group labels where prompts name the class alone), and the placebo, whose images repeat
    the training bias (a method of its own too, `placebo`): what are more images alone worth?
    """

    card = MethodCard(
        name="sd-augment",
        version=1,
        summary="Mix off-the-shelf text-to-image images into the real training set.",
        source="USB and ASB of Qraitem, Saenko, Plummer 2024 (arXiv 2308.04553); budget, other arms: ours.",
        track=SDAugmentHparams.track,
        stages=SDAugmentHparams.stages,
        hparams=SDAugmentHparams,
        uses_generator=True,
        tier_defaults={"demo": DEMO},
        space={
            "loss": ["erm", "resampling", "group-dro"],
            "groups": ["y,a", "y,a,source"],
        },
        citation="""@inproceedings{qraitem2024fake,
  title = {From Fake to Real: Pretraining on Balanced Synthetic Images to Prevent Spurious Correlations},
  author = {Qraitem, Maan and Saenko, Kate and Plummer, Bryan A.},
  booktitle = {ECCV},
  year = {2024}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: SDAugmentHparams) -> Iterator[Stage]:
        """Generate, mix, train once."""
        tuning = hparams.tuning(per="class" if hparams.prompt == "class" else "group")
        fake = tools.synthesize(data, plan=hparams.plan(data, tools), tuning=tuning)
        loss: Loss = "erm" if hparams.loss == "dfr" else hparams.loss
        model = tools.train(data.train + fake, loss=loss, groups=hparams.groups, share=1.0)
        yield Stage("mixed", model)
        if hparams.loss == "dfr":
            yield Stage("last-layer", tools.refit_last_layer(model, data.validation))
