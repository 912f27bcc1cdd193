"""Auditors of y and of a: classifiers that only measure, trained on real images of the audit split and nowhere else.

Evaluation loads them to see whether generated images show what was asked for; inside ``fit`` they refuse to answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from benchmark.audits.division import Division, balanced, divide
from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.oracle import guard
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import InvalidValue, NotAvailable
from benchmark.metrics.data import IntArray
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.records.files import read_json, write_json
from benchmark.records.store import Store
from benchmark.tasks.block import TrainingRecipe
from benchmark.tasks.lazy import Images, LazyImages, concatenated
from benchmark.tasks.manifest import AUDIT, Rows
from benchmark.tasks.task import Task
from benchmark.training.augment import augmented_copies
from benchmark.training.backbones import fresh_state, load_backbone
from benchmark.training.device import Precision
from benchmark.training.features import penultimate
from benchmark.training.loop import TrainingConfig, predict, train_classifier
from benchmark.training.remember import contiguous, load_state, training_key
from benchmark.training.specs import backbone_spec, weights_identity

KIND = "auditors"
CODE_VERSION = 1
"""Moves whenever dividing, training or testing auditors changes."""
FEWEST_SOURCES = 2
_REPORT = "auditors.json"

Variable = Literal["y", "a"]


@dataclass(frozen=True, eq=False)
class Auditor:
    """A classifier of one variable that only measures.

    Attributes:
        of: The label ``y`` or the attribute ``a``.
        id: SHA-256 of everything that made it.
        confusion: Held-out real images, int64 [K, K]: rows the true value, columns the answer. Within a row every
            populated group (y, a) counts equally often, so plentiful groups are cut to the smallest of their row.
            Values that the audit split lacks have empty rows.
        independent: Sources behind each row, int64 [K]. Errors on ten renderings of one digit are nearly one error, so
            this, not the images, says how certain a row is.
        trained_on: Real images in training; each stands there once more as an augmented copy.
        tested_on: Real images of other sources behind ``confusion``.
        image_size: Height and width of the images that it knows, in pixels.
    """

    of: Variable
    id: str
    confusion: IntArray
    independent: IntArray
    trained_on: int
    tested_on: int
    image_size: int
    _model: nn.Module = field(repr=False)
    _config: TrainingConfig = field(repr=False)
    _device: torch.device = field(repr=False)

    def answers(self, images: Images) -> IntArray:
        """Return the value that each image shows, int64 [n].

        Args:
            images: uint8 [n, h, w, 3].

        Raises:
            OracleUse: Inside ``fit`` of a method that is no declared oracle.
            InvalidValue: For images of another size.
        """
        self._admit(images)
        if not len(images):
            return np.empty(0, dtype=np.int64)
        return _answers(self._model, images, self._config, self._device)

    def features(self, images: Images) -> NDArray[np.float32]:
        """Return the penultimate features of each image, float32 [n, d].

        Args:
            images: uint8 [n, h, w, 3].

        Raises:
            OracleUse: Inside ``fit`` of a method that is no declared oracle.
            InvalidValue: For images of another size.
        """
        self._admit(images)
        return penultimate(
            self._model,
            images,
            mean=self._config.mean,
            std=self._config.std,
            device=self._device,
            precision=self._config.precision,
        )

    def _admit(self, images: Images) -> None:
        guard(self.of)
        if images.shape[1:3] != (self.image_size, self.image_size):
            raise InvalidValue(
                f"the auditor of {self.of} knows images of {self.image_size} pixels, not {images.shape[1:3]}; load "
                "auditors for that size"
            )


@dataclass(frozen=True)
class Auditors:
    """The two auditors of a task."""

    y: Auditor
    a: Auditor


def load_auditors(
    task: Task,
    *,
    store: Store,
    recipe: TrainingRecipe,
    image_size: int,
    device: torch.device,
    precision: Precision,
    progress: Progress,
) -> Auditors:
    """Return a task's auditors from the store, training them when they are missing.

    Two thirds of the audit split's sources train, with groups (y, a) equally often, for the steps of the recipe and
    without any selection; the other third gives the confusion matrices. The audit split is the same for all levels and
    draws, so one pair of auditors serves them all.

    Args:
        task: Whose audit split.
        store: Where they are kept.
        recipe: Backbone, its initial weights, and optimiser.
        image_size: Height and width of the images, in pixels.
        device: Where to compute.
        precision: With or without bf16 autocast.
        progress: Where to say how far it is.

    Raises:
        NotAvailable: When the audit split holds too few images, or named weights are not at hand.
    """
    rows = task.manifest(task.card.task.default_level, 0).splits[AUDIT]
    division = divide(rows, task.card.id)
    _check_sizes(task, rows, division)
    views = {of: _View.of_task(task, rows, of, recipe, image_size, precision, device) for of in ("y", "a")}

    def build(folder: Path) -> None:
        images = task.images(rows, image_size)
        copies = augmented_copies(images.take(division.train), derive_seed(task=task.card.id, purpose="audit copies"))
        report = {}
        for of, view in views.items():
            state = _train(view, images, division, copies, device, progress)
            save_file(contiguous(state), folder / f"{of}.safetensors")
            report[of] = _test(view, state, images, rows, division, device)
        write_json(folder / _REPORT, report)

    folder, _ = store.produce(KIND, sha256_of({of: view.id for of, view in views.items()}), build)
    report = read_json(folder / _REPORT)
    return Auditors(*(_loaded(view, folder, report[of], image_size, device) for of, view in views.items()))


@dataclass(frozen=True, eq=False)
class _View:
    """The audit split as one auditor sees it: what it answers, the other variable of the group, and its recipe.

    Attributes:
        id: SHA-256 of everything that makes the auditor.
        value: What it answers, int64 [n].
        other: The other variable, int64 [n].
        names: Names of both, the answered one first.
        config: Its training.
        seed: Seed of its initial weights.
    """

    of: Variable
    id: str
    value: IntArray
    other: IntArray
    names: GroupNames
    config: TrainingConfig
    seed: int

    @classmethod
    def of_task(
        cls,
        task: Task,
        rows: Rows,
        of: Variable,
        recipe: TrainingRecipe,
        image_size: int,
        precision: Precision,
        device: torch.device,
    ) -> _View:
        block = task.card.task
        value, other = (rows.y, rows.a) if of == "y" else (rows.a, rows.y)
        values = [block.label.values, block.attribute.values]
        names = GroupNames(*(values if of == "y" else reversed(values)))
        spec = backbone_spec(recipe.backbone, len(names.labels), recipe.backbone_weights)
        seed = derive_seed(task=task.card.id, purpose=f"weights of the auditor of {of}")
        config = _config(task, of, recipe, spec, precision)
        split = {
            "code": CODE_VERSION,
            "of": of,
            "task": task.card.id,
            "rows": rows.digest,
            "image_size": image_size,
            "pixels": block.pixels.model_dump(mode="json"),
        }
        initial = f"{weights_identity(spec)}, seed {seed}"
        key = training_key(config, images=sha256_of(split), validation="none", initial=initial, device=device)
        return cls(of, key, value, other, names, config, seed)


def _config(
    task: Task, of: Variable, recipe: TrainingRecipe, spec: dict[str, Any], precision: Precision
) -> TrainingConfig:
    return TrainingConfig(
        spec=spec,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        optimiser=recipe.optimiser,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_share=recipe.warmup_share,
        evaluations=1,
        loss="resampling",
        groups="y,a",
        freeze_bn=False,
        seed=derive_seed(task=task.card.id, purpose=f"batches of the auditor of {of}"),
        mean=task.card.task.pixels.mean,
        std=task.card.task.pixels.std,
        precision=precision,
    )


def _check_sizes(task: Task, rows: Rows, division: Division) -> None:
    """Refuse an audit split that could not tell how well its auditors answer."""
    name = task.card.task.name
    if not len(rows):
        raise NotAvailable(f"{name} has no audit split at hand, so there are no auditors")
    sources = np.asarray(rows.sources)[division.held_out]
    for what, column in ((task.card.task.label, rows.y), (task.card.task.attribute, rows.a)):
        for value in np.unique(column):
            found = len(np.unique(sources[column[division.held_out] == value]))
            if found < FEWEST_SOURCES:
                raise NotAvailable(
                    f"the audit split of {name} holds out {found} samples of {what.name} {what.values[value]!r} to "
                    f"test auditors on, of {len(set(rows.sources))} in all; at least {FEWEST_SOURCES} are needed"
                )


def _train(
    view: _View, images: LazyImages, division: Division, copies: NDArray[np.uint8], device: torch.device,
    progress: Progress,
) -> dict[str, torch.Tensor]:  # fmt: skip
    known = division.train
    twice = np.concatenate([known, known])
    training = ImageSet(
        images=concatenated(images.take(known), copies),
        y=view.value[twice],
        synthetic=np.zeros(len(twice), dtype=np.bool_),
        names=view.names,
        needs=Track.TRAIN,
        granted=Track.TRAIN,
        _attributes=view.other[twice],
    )
    handle = progress.start(f"training the auditor of {view.of}", view.config.steps)
    try:
        outcome = train_classifier(
            view.config,
            training,
            training.take([]),
            fresh_state(view.config.spec, view.seed),
            device,
            lambda n: progress.advance(handle, n),
        )
    finally:
        progress.finish(handle)
    return outcome.checkpoints[SelectionRule.LAST]


def _test(
    view: _View, state: dict[str, torch.Tensor], images: LazyImages, rows: Rows, division: Division,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    held = division.held_out
    tested = held[balanced(view.value[held], view.other[held])]
    true, size = view.value[tested], len(view.names.labels)
    answers = _answers(load_backbone(view.config.spec, state), images.take(tested), view.config, device)
    confusion = np.zeros((size, size), dtype=np.int64)
    np.add.at(confusion, (true, answers), 1)
    sources = np.asarray(rows.sources)[tested]
    return {
        "confusion": confusion.tolist(),
        "independent": [len(np.unique(sources[true == value])) for value in range(size)],
        "trained_on": len(division.train),
        "tested_on": len(tested),
    }


def _answers(model: nn.Module, images: Images, config: TrainingConfig, device: torch.device) -> IntArray:
    label, _ = predict(model, images, mean=config.mean, std=config.std, device=device, precision=config.precision)
    return label.astype(np.int64)


def _loaded(view: _View, folder: Path, report: dict[str, Any], image_size: int, device: torch.device) -> Auditor:
    return Auditor(
        of=view.of,
        id=view.id,
        confusion=np.array(report["confusion"], dtype=np.int64),
        independent=np.array(report["independent"], dtype=np.int64),
        trained_on=int(report["trained_on"]),
        tested_on=int(report["tested_on"]),
        image_size=image_size,
        _model=load_backbone(view.config.spec, load_state(folder / f"{view.of}.safetensors")),
        _config=view.config,
        _device=device,
    )
