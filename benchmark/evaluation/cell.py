"""Resolving what was asked for into one cell of the grid, with its identity; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.contract.budget import Budget
from benchmark.contract.method import Hparams, Method
from benchmark.contract.registry import load_method, resolve_hparams
from benchmark.contract.tracks import Track
from benchmark.errors import InvalidValue
from benchmark.generators.identity import GeneratorIdentity, resolve_generator
from benchmark.records.canonical import sha256_of
from benchmark.records.schema import SCHEMA_MAJOR, Cell
from benchmark.tasks.card import DataCard
from benchmark.tasks.catalog import DEFAULT_TASK, load_task
from benchmark.tasks.law import DRAWS
from benchmark.tasks.manifest import TRAIN, Manifest
from benchmark.tasks.task import Task
from benchmark.training.specs import backbone_spec, weights_identity

_MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Request:
    """What a user asks for: one method on one task at one level with one seed."""

    method: str
    task: str = DEFAULT_TASK
    level: str | None = None
    seed: int = 0
    generator: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = False


@dataclass(frozen=True)
class ResolvedCell:
    """A request with everything looked up.

    Attributes:
        budget: What the method may spend.
        generator: The generator's identity, or None for a method that uses none.
        cell: What identifies the run.
        cell_id: SHA-256 of it.
    """

    request: Request
    task: Task
    manifest: Manifest
    method: Method
    hparams: Hparams
    track: Track
    budget: Budget
    generator: GeneratorIdentity | None
    cell: Cell
    cell_id: str

    @property
    def card(self) -> DataCard:
        """The task's card."""
        return self.task.card


def allowed_groups(card: DataCard) -> NDArray[np.bool_]:
    """Return which pairs (y, a) are comparable groups, bool [classes, attributes]: a's family must be y's."""
    task = card.task
    allowed = np.zeros((len(task.label.values), len(task.attribute.values)), dtype=np.bool_)
    for y, label in enumerate(task.label.values):
        family = task.attribute_family[(task.class_family or {}).get(label, 0)]
        for value in family:
            allowed[y, task.attribute.values.index(value)] = True
    return allowed


def resolve_cell(request: Request) -> ResolvedCell:
    """Look everything up and compute the identity.

    Raises:
        UsageError: For unknown names, levels, hyper-parameters, or a negative seed.
        DataError: When the task's data are not at hand.
        GeneratorError: When the generator cannot be identified.
    """
    if not 0 <= request.seed <= _MAX_SEED:
        raise InvalidValue(f"seed {request.seed} must lie in 0..{_MAX_SEED}")
    method = load_method(request.method)
    task = load_task(request.task)
    level = task.card.check_level(request.level)
    hparams = resolve_hparams(method, dict(request.overrides))
    if request.generator is not None and not method.card.uses_generator:
        raise InvalidValue(
            f"method {method.card.name!r} generates nothing, so --generator {request.generator} has no use"
        )
    generator = None
    if method.card.uses_generator:
        generator = resolve_generator(request.generator or task.card.task.generator.name, offline=request.offline)
    draw = request.seed % len(DRAWS)
    manifest = task.manifest(level, draw)
    recipe = task.card.task.training
    budget = Budget.of(
        manifest.counts(TRAIN),
        per_real=task.card.task.synthetic.per_real,
        steps=recipe.steps,
        allowed=allowed_groups(task.card),
    )
    spec = backbone_spec(recipe.backbone, task.n_classes, recipe.backbone_weights)
    sampling = task.card.task.generator.model_dump(exclude={"name", "batch_size"})
    cell = Cell(
        task=task.card.id,
        split_digest=manifest.digest,
        level=level,
        draw=draw,
        seed=request.seed,
        method=f"{request.method}@{method.card.version}",
        hparams=hparams.model_dump(mode="json"),
        generator=None if generator is None else {**generator.as_record(), **sampling},
        backbone=recipe.backbone,
        backbone_weights=weights_identity(spec),
        training=recipe.model_dump(mode="json"),
        budget={"synthetic": budget.synthetic, "sampled": budget.sampled, "steps": budget.steps},
        schema_major=SCHEMA_MAJOR,
    )
    return ResolvedCell(
        request=request,
        task=task,
        manifest=manifest,
        method=method,
        hparams=hparams,
        track=method.card.track_of(hparams),
        budget=budget,
        generator=generator,
        cell=cell,
        cell_id=sha256_of(cell.model_dump(mode="json")),
    )
