"""The small task that adapters are checked on: real digits, few optimiser steps, few generated images, one thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.contract.method import MethodCard
from benchmark.contract.registry import load_method, resolve_hparams
from benchmark.contract.tracks import Track
from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.evaluation.job import FitJob, Part, make_job, split_parts
from benchmark.tasks.catalog import DEFAULT_TASK
from benchmark.tasks.manifest import TRAIN, VALIDATION
from benchmark.testing.outcome import SEED

LEVEL = "0.95"
STEPS, BATCH, IMAGES = 12, 16, 40
"""Optimiser steps over all stages, images per step, and generated images that may be kept."""

LARGEST = {"steps": 2, "generations": 1, "prior_images": 2}
"""Whole-number hyper-parameters whose names end so are cut down to this, unless they are set by hand."""


@dataclass(frozen=True)
class SmallTask:
    """One adapter's configuration on the small task.

    Attributes:
        cell: The cell, with its budget cut down.
        parts: Training and validation images, for an oracle the reserve too; within each class the images stand in
            another order than in the frozen split.
        frozen: Attributes at the training set's places in the frozen split, int64 [n].
        cut: Hyper-parameters that were cut down.
    """

    cell: ResolvedCell
    parts: dict[str, Part]
    frozen: NDArray[np.int64]
    cut: dict[str, int]

    def job(self, store: Path, *, seed: int) -> FitJob:
        """Return the job of one run."""
        job = make_job(self.cell, store=store, device="cpu", precision="float32", threads=1, remember=True)
        training = job.training.model_copy(update={"steps": STEPS, "batch_size": BATCH, "evaluations": 2})
        return job.model_copy(update={"training": training, "seed": seed, "offline": True})

    def without_groups(self) -> dict[str, Part]:
        """Return the same images with their undeclared group labels dealt out anew within each class."""
        granted, parts = self.cell.track, dict(self.parts)
        for name, needs in ((TRAIN, Track.TRAIN), (VALIDATION, Track.VALIDATION_SELECTS)):
            if not granted.covers(needs):
                part = parts[name]
                parts[name] = dataclasses.replace(part, a=part.a[_within_classes(part.y, seed=1)])
        return parts


def small_task(name: str, overrides: Mapping[str, Any]) -> SmallTask:
    """Resolve an adapter on the small task.

    Raises:
        GenBiasError: When the adapter or its hyper-parameters cannot be resolved.
    """
    card = load_method(name).card
    cut = _cut_down(name, card, overrides)
    cell = resolve_cell(Request(name, DEFAULT_TASK, LEVEL, SEED, overrides={**overrides, **cut}, offline=True))
    rounds = cell.budget.steps // cell.recipe.steps
    budget = dataclasses.replace(cell.budget, steps=STEPS * rounds)
    if card.kind != "process":
        budget = dataclasses.replace(budget, synthetic=min(budget.synthetic, IMAGES))
    cell = dataclasses.replace(cell, budget=budget)
    parts = split_parts(cell)
    frozen = parts[TRAIN].a.copy()
    for split in (TRAIN, VALIDATION):
        part = parts[split]
        order = _within_classes(part.y, seed=0)
        parts[split] = Part(np.asarray(part.images)[order], part.y, part.a[order])
    return SmallTask(cell, parts, frozen, cut)


def _within_classes(y: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return a permutation of positions that leaves every label where it is, int64 [n]."""
    random, order = np.random.default_rng(seed), np.arange(len(y))
    for label in np.unique(y):
        places = np.flatnonzero(y == label)
        order[places] = random.permutation(places)
    return order


def _cut_down(name: str, card: MethodCard, overrides: Mapping[str, Any]) -> dict[str, int]:
    method = load_method(name)
    defaults = card.defaults("demo").model_dump()
    cut = {
        field: most
        for field, value in defaults.items()
        for ending, most in LARGEST.items()
        if field.endswith(ending) and type(value) is int and value > most and field not in overrides
    }
    resolve_hparams(method, {**overrides, **cut}, "demo")
    return cut
