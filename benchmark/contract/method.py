"""The method contract: one file, one class, one generator function that yields its stages."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from benchmark.contract.budget import Budget, Plan
from benchmark.contract.generation import Filter, FineTuning, OwnGenerator
from benchmark.contract.images import ImageSet, MethodData
from benchmark.contract.space import Space, check_space
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import ContractViolation

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")

Loss = Literal["erm", "resampling", "reweighting", "group-dro"]
GroupsOf = Literal["y,a", "y,a,source"]
"""Groups of a group loss: (y, a), or (y, a, real or synthetic)."""
Trainable = Literal["all", "last-layer"]
"""Which weights a training moves."""


class Hparams(BaseModel):
    """Base of a method's hyper-parameters: frozen, no unknown names, every field with a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class External:
    """A pre-trained component that a method brings itself.

    Attributes:
        component: What it is.
        trained_on: The data it was trained on.
        may_contain_task_images: Whether these may hold the task's images; None where nobody knows.
    """

    component: str
    trained_on: str
    may_contain_task_images: bool | None = None


@dataclass(frozen=True)
class MethodCard:
    """What a method says about itself.

    Attributes:
        name: The name on the board; an in-tree adapter's file has it with underscores.
        version: Moves with any change that can change results.
        summary: One sentence.
        source: Paper or "our protocol", and what of it is whose.
        track: The group labels it uses, or a function of its hyper-parameters that says so.
        stages: Names of the stages that ``fit`` yields, in order; or a function of the hyper-parameters.
        hparams: The model of its hyper-parameters.
        uses_generator: Whether it asks for images of a text-to-image generator, or a function of its hyper-parameters
            that says so.
        citation: BibTeX, or empty.
        external_data: Pre-trained components it brings itself.
        kind: A method that means to repair bias, a control, or a process that is only observed and never ranked.
        oracle: Uses knowledge that no method has; measured, never ranked.
        rounds: Of a process: how often it generates, as a function of its hyper-parameters. In each round it may make
            as many images as there are real ones, and train a classifier for all optimiser steps of the task.
        tier_defaults: Defaults of hyper-parameters by tier of the task (``demo``, ``core``, ``extended``) where they
            differ from the model's own: thirty-two pixels and photographs do not want the same fine-tuning.
        space: What ``tune`` searches besides the recipe's learning rate and weight decay, in plain literals: by
            hyper-parameter ``(low, high)``, ``(low, high, "log")`` or a list of values. On lines of its own it is no
            part of the method's digest. Nothing that would make it another method belongs here.
    """

    name: str
    version: int
    summary: str
    source: str
    track: Track | Callable[[Any], Track]
    stages: tuple[str, ...] | Callable[[Any], tuple[str, ...]]
    hparams: type[Hparams] = Hparams
    uses_generator: bool | Callable[[Any], bool] = False
    citation: str = ""
    external_data: tuple[External, ...] = ()
    kind: Literal["mitigation", "control", "process"] = "mitigation"
    oracle: bool = False
    rounds: Callable[[Any], int] | None = None
    tier_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    space: Space = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names and versions that identities cannot hold, and a space that the hyper-parameters do not have."""
        if not _NAME.fullmatch(self.name):
            raise ContractViolation(f"method name {self.name!r} must be lower-case letters, digits and hyphens")
        if self.version < 1:
            raise ContractViolation(f"method {self.name!r}: version {self.version} must be at least 1")
        if (self.rounds is not None) != (self.kind == "process"):
            raise ContractViolation(
                f"method {self.name!r}: a process, and nothing else, must say how many rounds it has"
            )
        check_space(self)

    @property
    def id(self) -> str:
        """Name and version, such as ``ffr@1``."""
        return f"{self.name}@{self.version}"

    def defaults(self, tier: str) -> Hparams:
        """Return the hyper-parameters of a run that sets none, on a task of this tier."""
        return self.hparams.model_validate(dict(self.tier_defaults.get(tier, {})))

    def generator_for(self, hparams: Hparams) -> bool:
        """Say whether one configuration asks for images of a text-to-image generator."""
        return self.uses_generator(hparams) if callable(self.uses_generator) else self.uses_generator

    def track_of(self, hparams: Hparams) -> Track:
        """Resolve the track for one configuration."""
        return self.track(hparams) if callable(self.track) else self.track

    def stages_of(self, hparams: Hparams) -> tuple[str, ...]:
        """Resolve the stage names for one configuration."""
        return self.stages(hparams) if callable(self.stages) else self.stages


@dataclass(frozen=True)
class Trained:
    """A classifier as ``tools.train`` returns it: weights per selection rule, never changed afterwards.

    Attributes:
        spec: What builds the architecture again.
        checkpoints: State dicts per rule; ``last`` always exists.
        steps_at: The optimiser step at which each checkpoint was taken.
        digest: SHA-256 of the ``last`` weights.
        curves: One row per validation pass: step, losses and accuracies.
        steps: Optimiser steps of this training.
        seconds: Wall time of this training, also when it was remembered from an earlier run.
        remembered: Whether an earlier run had finished it.
        training_set: The images it was trained on: the harness records its mixture.
    """

    spec: Mapping[str, Any]
    checkpoints: Mapping[SelectionRule, Mapping[str, torch.Tensor]]
    steps_at: Mapping[SelectionRule, int]
    digest: str
    curves: tuple[Mapping[str, float | int | None], ...]
    steps: int
    seconds: float
    remembered: bool
    training_set: ImageSet


@dataclass(frozen=True)
class Stage:
    """A named classifier that a method yields on its way.

    Attributes:
        name: One of the card's stages.
        model: What ``tools.train`` returned, or a ``torch.nn.Module`` of the adapter's own that maps normalised
            images to logits.
        spec: For an own module: what the adapter's :meth:`Method.build` needs to build it again.
    """

    name: str
    model: Trained | torch.nn.Module
    spec: Mapping[str, Any] = field(default_factory=dict)


class Tools(Protocol):
    """What the harness lends to a method; each call is remembered by a hash of its inputs, so resuming is quick."""

    @property
    def budget(self) -> Budget:
        """What may be spent."""

    @property
    def device(self) -> torch.device:
        """The device to compute on."""

    def seed(self, purpose: str) -> int:
        """A seed below 2**63 that depends on the run's seed, task, method and ``purpose``."""

    def synthesize(
        self,
        data: MethodData,
        *,
        plan: Plan,
        tuning: FineTuning | None = None,
        keep: Filter = "none",
        generation: int = 0,
        labels: Trained | None = None,
    ) -> ImageSet:
        """Return generated images by plan, from the shared pool.

        Args:
            data: The run's splits; fine-tuning and filters look at its training split only.
            plan: How many images of each group.
            tuning: Fine-tune the generator first, for the groups of the plan (reads group labels, so track
                ``train``, unless adapters are per class); groups below
                :data:`~benchmark.contract.generation.SMALLEST_GROUP` real images take the
                adapter of their class, or the base generator.
            keep: Sample twice as many and keep those of each group that a filter scores best; a filter that errs on
                too many validation images is refused, with a note.
            generation: In a self-consuming loop: which generation's training set the images are for.
            labels: A classifier whose answers become the images' labels, in place of those asked for.

        Raises:
            BudgetExceeded: When the plan asks for more than B.
            GeneratorError: When the generator cannot be fine-tuned, or fails.
            TrainingDiverged: When the loss of an adapter is not finite.
        """

    def generate(
        self,
        images: ImageSet,
        *,
        plan: Plan,
        model: OwnGenerator,
        keep: Filter = "none",
        generation: int = 0,
        labels: Trained | None = None,
    ) -> ImageSet:
        """Train a generator on ``images`` and return what it makes.

        Args:
            images: What it is trained on. :class:`Invertible` and ``condition="group"`` read their group labels.
            plan: How many images of each group; of each class alone where the model is conditioned on the class.
            model: What is trained, and how. :class:`Invertible` moves images of a class to the attribute asked for;
                :class:`Bootstrap` draws images with replacement.
            keep: As in :meth:`synthesize`.
            generation: As in :meth:`synthesize`.
            labels: As in :meth:`synthesize`.

        Raises:
            BudgetExceeded: When the plan asks for more than B.
            InvalidValue: For a plan that the model cannot serve.
            TrainingDiverged: When the loss of the generator is not finite.
        """

    def copies(self, images: ImageSet, *, plan: Plan) -> ImageSet:
        """Return augmented copies of real images by plan (the control for generated ones)."""

    def reserve(self, *, plan: Plan) -> ImageSet:
        """Return real images by plan that this level and draw left out, as many as there are; for oracles only.

        Raises:
            OracleUse: When the method's card does not say that it is an oracle.
        """

    def train(
        self,
        images: ImageSet,
        *,
        init: Trained | None = None,
        loss: Loss = "erm",
        groups: GroupsOf = "y,a",
        share: float | None = None,
        learning_rate_scale: float = 1.0,
        freeze_bn: bool = False,
        trainable: Trainable = "all",
        contrastive: float = 0.0,
    ) -> Trained:
        """Train a classifier and return it; ``init`` is not changed.

        Args:
            images: What to train on.
            init: Weights to start from; None starts from the task's default backbone.
            loss: ``erm``, or a group loss (reads group labels).
            groups: What a group is for the group losses.
            share: Share of all optimiser steps; None gives every declared stage the same.
            learning_rate_scale: Factor on the card's learning rate.
            freeze_bn: Keep the statistics of batch normalisation as in ``init``.
            trainable: Move all weights, or those of the last layer only.
            contrastive: Weight of the supervised contrastive loss (Khosla 2020) on penultimate features, which is
                added to the cross-entropy.

        Raises:
            BudgetExceeded: When more steps are asked for than are left.
            NotApplicable: When there is no image because the budget of generated ones is zero.
            TrainingDiverged: When the loss is not finite.
        """

    def refit_last_layer(self, model: Trained, images: ImageSet) -> Trained:
        """Return ``model`` with its last layer fitted anew on group-balanced subsets (DFR, Kirichenko 2023).

        No optimiser steps are spent: it is a logistic regression on frozen features. Reads group labels.

        Args:
            model: What to start from.
            images: Usually ``data.validation``; real images that no weight has seen.

        Raises:
            NotApplicable: When no class has images in two groups, or no group has two images.
        """

    def predict(self, model: Trained, images: ImageSet) -> NDArray[np.int64]:
        """Return the label that a classifier gives each image, int64 [n]."""

    def note(self, message: str) -> None:
        """Say something to the user and keep it in the record."""


class Method(abc.ABC):
    """Base of every adapter: turns biased training data, and perhaps generated data, into a classifier."""

    card: ClassVar[MethodCard]

    @abc.abstractmethod
    def fit(self, data: MethodData, tools: Tools, hparams: Any) -> Iterator[Stage]:
        """Yield the declared stages in order; the last is ranked, all are recorded.

        Raises:
            NotApplicable: When the method cannot run on this cell; the record's status becomes ``skipped``.
        """

    def build(self, spec: Mapping[str, Any]) -> torch.nn.Module:
        """Build the architecture of an own stage from its spec; only for adapters that yield own modules."""
        del spec
        raise ContractViolation(f"{type(self).__name__} yields its own modules, so it needs a build(spec) method")


@dataclass(frozen=True)
class Origin:
    """Where a method's code comes from."""

    kind: Literal["in-tree", "plug-in"]
    package: str
    version: str
    file: Path
