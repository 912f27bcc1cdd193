"""Tuning studies as files: what was searched, every trial, and what was chosen; `tune` writes them (torch-free)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark.contract.space import LEVEL, MOST_ERM_RUNS, MOST_TRIALS, SEED, TRAINING, Dimension
from benchmark.contract.tracks import SelectionRule
from benchmark.errors import DamagedFile, InvalidValue
from benchmark.evaluation.cell import Configuration, Request
from benchmark.records.canonical import sha256_of
from benchmark.records.files import read_json
from benchmark.records.schema import Number, Sha256, TuningUse
from benchmark.tasks.card import DEFAULT_RECIPE

STUDY_FILE = "tuning.json"

Value = str | bool | int | float


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hardware(_Strict):
    """What device time was measured on; values move with it too, if little."""

    device: str
    device_kind: str
    precision: str
    threads: int


class Definition(_Strict):
    """What defines a study: its trials follow from it."""

    task: str = Field(description="name@version")
    split_digest: Sha256
    recipe: str = Field(description="which of the card's training recipes")
    level: Literal["0.95"] = Field(default=LEVEL, description="bias level of every trial")
    draw: Literal[0] = 0
    seed: Literal[1000] = Field(default=SEED, description="training seed of every trial; no reported row has it")
    method: str = Field(description="name@version")
    source_digest: Sha256 = Field(description="of the method's code")
    generator: dict[str, Any] | None
    criterion: SelectionRule = Field(description="what is minimised on the validation split, by the method's track")
    space: dict[str, Dimension] = Field(description="hyper-parameters, and settings of the recipe by `training.` names")
    default: dict[str, Value] = Field(description="the first trial")
    sampler: Literal["random"] = "random"
    sampler_seed: int = 0
    trials: int = Field(ge=1, le=MOST_TRIALS, description="configurations that may be tried")
    erm_runs: int = Field(default=MOST_ERM_RUNS, description="device time that may be used, in runs of ERM")
    hardware: Hardware

    @property
    def digest(self) -> str:
        """SHA-256 of it."""
        return sha256_of(self.model_dump(mode="json"))


class Tried(_Strict):
    """One trial."""

    number: int = Field(ge=0)
    cell_id: Sha256
    values: dict[str, Value]
    state: Literal["finished", "diverged"]
    value: Number | None = Field(description="of the criterion; null where training diverged")
    steps: int = Field(ge=0, description="optimiser steps")
    device_seconds: Number = Field(ge=0, description="training, generator and auxiliary classifiers")


class Study(_Strict):
    """The content of a tuning.json."""

    format_version: Literal[1] = 1
    definition: Definition
    study: Sha256 = Field(description="SHA-256 of the definition; every trial's cell names it")
    erm_seconds: Number = Field(gt=0, description="device time of one ERM run on this task and hardware")
    trials: list[Tried]
    device_seconds: Number = Field(description="of all trials")
    ended: Literal["trials", "device time"] | None = Field(description="what was used up; null while it goes on")
    winner: int | None = Field(description="number of the best trial, the first of equals")
    expected_best: list[Number] = Field(
        description="expected best value after 1, 2 … trials: the first is the default, the others in random order"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for name, value in _summary(self.definition, self.erm_seconds, self.trials).items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} does not follow from its definition and trials")
        for number, trial in enumerate(self.trials):
            strange = {n for n, d in self.definition.space.items() if not d.holds(trial.values.get(n))}
            if trial.number != number or strange or set(trial.values) != set(self.definition.space):
                raise ValueError(f"trial {number} is not one of its space")
            if (trial.value is None) != (trial.state == "diverged"):
                raise ValueError(f"trial {number} has a value exactly if it finished")
        if self.trials and self.trials[0].values != self.definition.default:
            raise ValueError("trial 0 is not the default configuration")
        return self

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.definition.method.partition("@")[0]

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.definition.task.partition("@")[0]

    @property
    def share_used(self) -> float:
        """Share of the device time that is used up; a trial that overran makes it more than one."""
        return self.device_seconds / (self.definition.erm_runs * self.erm_seconds)

    def chosen(self) -> Configuration:
        """Return the configuration that the finished study chose.

        Raises:
            InvalidValue: When it has not ended, or every trial diverged.
        """
        if self.ended is None or self.winner is None:
            reason = "every trial diverged" if self.ended else "it has not ended; give `tune` the same command again"
            raise InvalidValue(f"the study of {self.definition.method} chose nothing: {reason}")
        use = TuningUse(
            study=sha256_of(self.model_dump(mode="json")), trial=self.winner, trials=len(self.trials),
            criterion=self.definition.criterion.value, expected_best=self.expected_best,
        )  # fmt: skip
        best = configuration(self.definition, self.winner, self.trials[self.winner].values, use.study)
        return replace(best, chosen=use)

    def tuned(self, request: Request) -> Request:
        """Return a request with what the study chose, under its recipe.

        Raises:
            InvalidValue: When it chose nothing.
        """
        recipe = request.recipe or (None if self.definition.recipe == DEFAULT_RECIPE else self.definition.recipe)
        return replace(request, configuration=self.chosen(), recipe=recipe)


def study_of(definition: Definition, erm_seconds: float, trials: Sequence[Tried]) -> Study:
    """Return a study with what follows from its trials."""
    summary = _summary(definition, erm_seconds, trials)
    return Study(definition=definition, erm_seconds=erm_seconds, trials=list(trials), **summary)


def _summary(definition: Definition, erm_seconds: float, trials: Sequence[Tried]) -> dict[str, Any]:
    values = {trial.number: trial.value for trial in trials if trial.value is not None}
    device_seconds = sum(trial.device_seconds for trial in trials)
    ended = None
    if len(trials) >= definition.trials:
        ended = "trials"
    elif device_seconds >= definition.erm_runs * erm_seconds:
        ended = "device time"
    return {
        "study": definition.digest,
        "device_seconds": device_seconds,
        "ended": ended,
        "winner": min(values, key=lambda number: (values[number], number), default=None),
        "expected_best": expected_best([trial.value for trial in trials]),
    }


def configuration(definition: Definition, number: int, values: Mapping[str, Value], study: str) -> Configuration:
    """Return the configuration of one trial, as a request wants it."""
    training = {name.removeprefix(TRAINING): value for name, value in values.items() if name.startswith(TRAINING)}
    return Configuration(
        study=study,
        method=definition.method,
        task=definition.task,
        recipe=definition.recipe,
        generator=definition.generator,
        hparams={name: value for name, value in values.items() if not name.startswith(TRAINING)},
        training={name: float(value) for name, value in training.items()},
        criterion=definition.criterion,
        trial=number,
    )


def expected_best(values: Sequence[float | None]) -> list[float]:
    """Return the expected lowest value after 1, 2 … n trials (Dodge 2019, arXiv 1909.03004).

    The first trial is the default's, which every user has; the others were drawn independently, so every order of them
    was as likely. The expectation is over these orders, without replacement (the unbiased form of Tang 2020, arXiv
    2004.13705): the i-th lowest of m draws is the lowest of k with probability C(m - i, k - 1) / C(m, k).

    Args:
        values: One per trial; None, where training diverged, counts as the worst that finished.

    Returns:
        Never rising; the last is the lowest value. Empty where nothing finished.
    """
    finished = [value for value in values if value is not None]
    if not finished:
        return []
    first, *drawn = (max(finished) if value is None else value for value in values)
    lowest = sorted(min(first, value) for value in drawn)
    curve = [first]
    for k in range(1, len(lowest) + 1):
        ways = [math.comb(len(lowest) - i, k - 1) for i in range(1, len(lowest) + 1)]
        curve.append(sum(w * v for w, v in zip(ways, lowest, strict=True)) / math.comb(len(lowest), k))
    return curve


def read_study(path: Path) -> Study:
    """Read a study from its file or folder.

    Raises:
        DamagedFile: When it is missing, or not what `tune` wrote.
    """
    file = path / STUDY_FILE if path.is_dir() else path
    try:
        return Study.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "study"
        raise DamagedFile(f"{file} is no tuning study: {where}: {first['msg']}") from error
