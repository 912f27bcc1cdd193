"""A real cell of the embedded task with few optimiser steps, so that the whole path runs in a second or two."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.progress import Silent
from benchmark.tasks.catalog import load_task
from benchmark.tasks.task import Task

STEPS = 12


def _short_task(steps: int) -> Task:
    task = load_task("colorized-digits")
    training = task.card.task.training.model_copy(update={"steps": steps, "evaluations": 2, "batch_size": 16})
    block = task.card.task.model_copy(update={"training": training})
    return type(task)(task.card.model_copy(update={"task": block}))


@pytest.fixture(scope="session")
def short_cell() -> Callable[..., ResolvedCell]:
    """Resolve a cell whose training is ``steps`` long and whose pool holds few images."""

    def build(
        method: str,
        level: str = "0.95",
        seed: int = 0,
        overrides: Mapping[str, Any] | None = None,
        steps: int = STEPS,
        synthetic: int | None = None,
    ) -> ResolvedCell:
        cell = resolve_cell(Request(method, level=level, seed=seed, overrides=overrides or {}))
        # A process trains a classifier in every round.
        budget = dataclasses.replace(cell.budget, steps=steps * (cell.budget.steps // cell.recipe.steps))
        if synthetic is not None:
            budget = dataclasses.replace(budget, synthetic=synthetic)
        task = _short_task(steps)
        return dataclasses.replace(cell, task=task, recipe=task.card.task.training, budget=budget)

    return build


@pytest.fixture
def short_task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The embedded task, whose recipe is ``STEPS`` long in every cell that the test resolves."""
    task = _short_task(STEPS)
    monkeypatch.setattr("benchmark.evaluation.cell.load_task", lambda name: task)
    return task


@pytest.fixture
def run_short(tmp_path: Path, short_cell: Callable[..., ResolvedCell]) -> Callable[..., Evaluation]:
    """Run a short cell in a folder of the test's own."""

    def run(
        cell: ResolvedCell | str, *, force: bool = False, isolated: bool = False, name: str = "", **cell_options: Any
    ) -> Evaluation:
        resolved = short_cell(cell, **cell_options) if isinstance(cell, str) else cell
        return evaluate_cell(
            resolved, results=tmp_path / f"results{name}", store=tmp_path / f"store{name}", device="cpu", threads=1,
            force=force, isolated=isolated, progress=Silent(),
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; a skip where it is absent is a failure where it is required."""
    folder = os.environ.get("GENBIAS_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if "data" in os.environ.get("GENBIAS_REQUIRE", "").split(","):
        pytest.fail("GENBIAS_REQUIRE asks for the real data, but GENBIAS_DATA names no folder")
    pytest.skip("GENBIAS_DATA names no folder of real data sets")
