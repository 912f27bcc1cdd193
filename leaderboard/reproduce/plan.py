"""What a reproduction will do, written down before it begins: rows, seeds, time, and how many comparisons are made."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.contract.space import SEED
from benchmark.errors import DamagedFile, GenBiasError, UsageError
from benchmark.records.canonical import sha256_of
from benchmark.records.files import make_folder, read_json, write_json
from benchmark.records.provenance import git_state, scrub
from benchmark.records.schema import Environment, Number, Sha256
from leaderboard.claims import changed_settings, recipe_of
from leaderboard.replay import Where, environment_here, fresh_seed, plan_replay
from leaderboard.replayed import other_conditions
from leaderboard.reproduce.sample import CORES, Candidate, Wanted, sample, wall_seconds, work_seconds

PLAN_FILE = "plan.json"
FAMILY_ERROR = 0.05
"""Chance that an honest reproduction fails, over all its comparisons together (protocol section 9)."""
_SAID = {
    "task": "another task",
    "levels": "other levels",
    "methods": "other methods",
    "minutes": "another time",
    "records": "other accepted records",
    "code": "another commit or version",
    "fresh_seed": "another seed",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(_Part):
    """The installed code."""

    version: str
    git_commit: str | None
    git_dirty: bool | None = Field(description="whether the checkout has changes")


class PlannedRow(_Part):
    """One row of the board that is made again."""

    id: Sha256 = Field(description="of what identifies it; rows are taken in this order")
    method: str = Field(description="name@version")
    level: str
    recipe: str
    changed: dict[str, Any] = Field(description="settings that are not the default")
    rules: list[str]
    runs: dict[str, Sha256] = Field(description="committed run folder → SHA-256 of the record's content")
    seed: int = Field(description="committed, to be repeated")
    threads: int = Field(description="of both runs, as committed")
    conditions: list[str] = Field(description="what keeps the repeated run from being equal here; empty: nothing does")
    not_here: str | None = Field(description="why this code cannot make the row again at all")
    seconds: Number = Field(description="estimated time of both runs, alone")


class Plan(_Part):
    """A whole reproduction."""

    format_version: Literal[1] = 1
    task: str
    levels: list[str] = Field(description="that were asked for; empty: all")
    methods: list[str] = Field(description="the same")
    minutes: Number | None = Field(description="wall time into which the rows fit by estimate; null: all rows")
    records: Sha256 = Field(description="of the digests of all committed records that could be chosen")
    code: Code
    rows_to_choose_from: int
    work_seconds: Number = Field(description="estimated, on one core of the machine of the committed records")
    wall_seconds: Number = Field(description="the same on two cores")
    fresh_seed: int
    rows: list[PlannedRow] = Field(min_length=1)

    @property
    def comparisons(self) -> int:
        """How many values are held against an interval: of fresh seeds, and of repeated ones under other conditions."""
        return sum(len(row.rules) * (2 if row.conditions else 1) for row in self.rows)

    @property
    def confidence(self) -> float:
        """Probability with which each interval holds its value, so that all do with 95 % (Bonferroni)."""
        return 1 - FAMILY_ERROR / self.comparisons


@dataclass(frozen=True, eq=False)
class Chosen:
    """A plan with the rows that it names.

    Attributes:
        plan: The plan.
        rows: Its rows, in the same order.
    """

    plan: Plan
    rows: Sequence[Candidate]


def make_plan(
    ordered: Sequence[Candidate], wanted: Wanted, where: Where, *, minutes: float | None, seed: int | None
) -> Chosen:
    """Choose rows and seeds, and find out what can be made again here.

    Args:
        ordered: All rows, from :func:`~leaderboard.reproduce.sample.candidates`.
        wanted: What was asked for.
        where: Where the runs will run; ``threads`` plays no part.
        minutes: From :func:`~leaderboard.reproduce.sample.sample`.
        seed: The fresh seed; None takes a random one.

    Raises:
        UsageError: When nothing fits, or the seed is a committed one.
    """
    rows = sample(ordered, minutes)
    committed = {scored.run.record.seed for candidate in ordered for scored in candidate.row.runs}
    if seed in committed:
        listed = ", ".join(map(str, sorted(committed)))
        raise UsageError(f"seed {seed} is a committed one ({listed}); give another, or leave --seed out")
    digests = sorted(scored.run.digest for candidate in ordered for scored in candidate.row.runs)
    plan = Plan(
        task=wanted.task,
        levels=sorted(wanted.levels),
        methods=sorted(wanted.methods),
        minutes=minutes,
        records=sha256_of(digests),
        code=installed_code(),
        rows_to_choose_from=len(ordered),
        work_seconds=work_seconds(rows),
        wall_seconds=wall_seconds(rows, CORES),
        fresh_seed=fresh_seed({*committed, SEED}) if seed is None else seed,
        rows=[_planned(candidate, where) for candidate in rows],
    )
    return Chosen(plan, rows)


def installed_code() -> Code:
    """Return what is installed."""
    commit, dirty = git_state()
    return Code(version=importlib.metadata.version("genbias-bench"), git_commit=commit, git_dirty=dirty)


def _planned(candidate: Candidate, where: Where) -> PlannedRow:
    row = candidate.row
    record, card = row.record, row.runs[0].split.task.card
    repeated = next(scored.run.record for scored in row.runs if scored.run.record.seed == candidate.seed)
    conditions, not_here = _conditions(candidate, where, repeated.environment)
    return PlannedRow(
        id=candidate.id,
        method=record.cell.method,
        level=record.cell.level,
        recipe=recipe_of(record, card),
        changed=changed_settings(record, card),
        rules=[str(rule) for rule in row.groups],
        runs={scored.run.file.parent.name: scored.run.digest for scored in row.runs},
        seed=candidate.seed,
        threads=repeated.environment.threads,
        conditions=conditions,
        not_here=not_here,
        seconds=sum(cost.whole for cost in candidate.costs),
    )


def _conditions(candidate: Candidate, where: Where, committed: Environment) -> tuple[list[str], str | None]:
    """Return what keeps the repeated run from being equal here, and why the row cannot be made again at all."""
    try:
        planned = plan_replay(candidate.row, where, candidate.seed, same_seed=True)
    except GenBiasError as error:
        return [], scrub(str(error))
    return other_conditions(committed, environment_here(planned, where)), None


def keep_plan(folder: Path, chosen: Chosen, seed: int | None) -> Chosen:
    """Write the plan, or go on with the one that the folder holds if it is of the same.

    Args:
        folder: Folder of the reproduction.
        chosen: What would be done now.
        seed: The fresh seed that was asked for; None takes the one that was chosen when the folder was begun.

    Returns:
        What to do: with the fresh seed of the plan that was there.

    Raises:
        UsageError: When the folder holds a reproduction of something else.
        DamagedFile: When its plan cannot be read.
    """
    file = make_folder(folder) / PLAN_FILE
    if not file.exists():
        write_json(file, chosen.plan.model_dump(mode="json"))
        return chosen
    begun = read_plan(file)
    now = chosen.plan if seed is not None else chosen.plan.model_copy(update={"fresh_seed": begun.fresh_seed})
    if now != begun:
        differing = [said for name, said in _SAID.items() if getattr(now, name) != getattr(begun, name)]
        raise UsageError(
            f"{folder} holds a reproduction with {', '.join(differing) or 'another machine'}; go on with the same, "
            "or give a new folder by --output"
        )
    return Chosen(now, chosen.rows)


def read_plan(file: Path) -> Plan:
    """Read a plan.

    Raises:
        DamagedFile: When it is something else.
    """
    try:
        return Plan.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise DamagedFile(f"{file} is no plan of a reproduction: {place}: {first['msg']}") from error
