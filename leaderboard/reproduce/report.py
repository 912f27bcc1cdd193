"""What a reproduction found: each value against its prediction interval, each repeated seed against its own run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmark.records.results import read_record
from benchmark.records.schema import Environment, Number
from leaderboard.replayed import EQUALITY, REPLAY_FILE, Replay, RuleVerdict, at_confidence, read_replays
from leaderboard.reproduce.plan import FAMILY_ERROR, Plan, PlannedRow

NOT_RUN = "not run yet"
Key = tuple[str, bool]
"""Id of a row, and whether the run repeats a committed seed."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleResult(_Part):
    """One value of a run made again, under one selection rule."""

    rule: str
    metric: str
    mean: Number = Field(description="of the committed seeds")
    low: Number | None = Field(description="lower end of the prediction interval, at the confidence of the report")
    high: Number | None
    value: Number
    by_equality: bool = Field(description="whether equality with the committed run decides, and not the interval")
    why: str
    differing: list[str] | None = Field(description="metrics that differ by more than 1e-6; null for the fresh seed")
    largest_difference: Number | None = Field(description="of any metric; null for the fresh seed")
    capped: bool = Field(description="whether s was above twice the pooled s, so that the interval is narrower")
    holds: bool


class RunResult(_Part):
    """One run made again."""

    seed: int
    same_seed: bool = Field(description="whether it repeats a committed seed")
    run: str | None = Field(description="name of its run folder; null where there is none")
    seconds: Number | None = Field(description="wall time of the run")
    failure: str | None = Field(description="why there is no result")
    rules: list[RuleResult]

    @property
    def holds(self) -> bool:
        """Whether it came out as committed."""
        return self.failure is None and all(rule.holds for rule in self.rules)

    @property
    def said(self) -> str:
        """What came out, in a word."""
        if self.failure is not None:
            return self.failure
        words = ("equal", "different") if self.rules[0].by_equality else ("inside", "outside")
        return words[0] if self.holds else words[1]


class RowResult(_Part):
    """One row: the fresh seed and the repeated one."""

    row: PlannedRow
    fresh: RunResult
    repeated: RunResult


class Measured(_Part):
    """What it took."""

    work_seconds: Number = Field(description="wall time of all runs, added up")
    wall_seconds: Number = Field(description="of the last call")
    workers: int = Field(description="runs at a time in it")
    runs_before: int = Field(description="runs that earlier calls had finished")


class Report(_Part):
    """A whole reproduction."""

    format_version: Literal[1] = 1
    plan: Plan
    comparisons: int = Field(description="values held against a prediction interval")
    confidence: Number = Field(description="of each of these intervals")
    machine: Environment | None = Field(description="of the first run; null where none finished")
    measured: Measured
    rows: list[RowResult]
    holds: bool
    verdict: str

    @property
    def runs(self) -> list[RunResult]:
        """Both runs of every row."""
        return [run for row in self.rows for run in (row.fresh, row.repeated)]


def finished(folder: Path, plan: Plan) -> dict[Key, tuple[Path, Replay]]:
    """Return the replays that a folder of results holds, by row and whether they repeat a seed.

    Raises:
        DamagedFile: For a file that is no replay.
    """
    wanted = {
        (tuple(sorted(row.runs.values())), seed, same): (row.id, same)
        for row in plan.rows
        for seed, same in ((plan.fresh_seed, False), (row.seed, True))
    }
    found = {}
    for file in sorted(folder.rglob(REPLAY_FILE)):
        for replay in read_replays(file):
            key = wanted.get((tuple(sorted(replay.records.values())), replay.seed, replay.same_seed))
            if key is not None:
                found[key] = (file.parent, replay)
    return found


def make_report(
    plan: Plan,
    found: Mapping[Key, tuple[Path, Replay]],
    failures: Mapping[Key, str],
    *,
    wall_seconds: float,
    workers: int,
    runs_before: int,
) -> Report:
    """Judge all that was made again.

    Args:
        plan: What was to be done.
        found: From :func:`finished`.
        failures: Why runs failed, by row and whether they repeat a seed.
        wall_seconds: Of this call.
        workers: Runs at a time.
        runs_before: Runs that earlier calls had finished.
    """

    def run(row: PlannedRow, *, same_seed: bool) -> RunResult:
        seed, key = row.seed if same_seed else plan.fresh_seed, (row.id, same_seed)
        if key in found:
            return run_result(*found[key], plan.confidence)
        failure = row.not_here or failures.get(key, NOT_RUN)
        return RunResult(seed=seed, same_seed=same_seed, run=None, seconds=None, failure=failure, rules=[])

    rows = [RowResult(row=row, fresh=run(row, same_seed=False), repeated=run(row, same_seed=True)) for row in plan.rows]
    runs = [each for row in rows for each in (row.fresh, row.repeated)]
    work = sum(each.seconds for each in runs if each.seconds is not None)
    return Report(
        plan=plan,
        comparisons=plan.comparisons,
        confidence=plan.confidence,
        machine=next((replay.environment for _, replay in found.values()), None),
        measured=Measured(work_seconds=work, wall_seconds=wall_seconds, workers=workers, runs_before=runs_before),
        rows=rows,
        holds=all(each.holds for each in runs),
        verdict=_verdict(plan, rows),
    )


def run_result(folder: Path, replay: Replay, confidence: float) -> RunResult:
    """Judge one run.

    Args:
        folder: Where it lies.
        replay: What ``replay`` said of it.
        confidence: Of the prediction intervals.
    """
    cost = read_record(folder).cost
    return RunResult(
        seed=replay.seed,
        same_seed=replay.same_seed,
        run=replay.run,
        seconds=None if cost is None else cost.wall_seconds,
        failure=None,
        rules=[_rule(at_confidence(rule, confidence)) for rule in replay.rules],
    )


def _rule(verdict: RuleVerdict) -> RuleResult:
    values = np.array(verdict.values, dtype=np.float64)
    return RuleResult(
        rule=verdict.rule,
        metric=verdict.metric,
        mean=float(values.mean()),
        low=verdict.low,
        high=verdict.high,
        value=verdict.replayed,
        by_equality=verdict.decided_by == EQUALITY,
        why=verdict.why,
        differing=verdict.differing,
        largest_difference=verdict.largest_difference,
        capped=verdict.pooled is not None and float(values.std(ddof=1)) > 2 * verdict.pooled,
        holds=verdict.inside,
    )


def _verdict(plan: Plan, rows: Sequence[RowResult]) -> str:
    """Return in one sentence what came out, and how likely an honest reproduction fails."""
    runs = [run for row in rows for run in (row.fresh, row.repeated)]
    held = [rule for run in runs for rule in run.rules if not rule.by_equality]
    outside, capped = sum(not rule.holds for rule in held), sum(rule.capped for rule in held)
    exact = [run for run in runs if run.rules and run.rules[0].by_equality]
    different, failed = sum(not run.holds for run in exact), sum(run.failure is not None for run in runs)
    found = [
        f"{len(held) - outside} of {plan.comparisons} values lie inside their prediction intervals",
        f"{len(exact) - different} of {len(exact)} repeated runs are equal to 1e-6",
        *([f"{failed} of {len(runs)} runs have no result"] if failed else []),
    ]
    narrowed = f", more because the cap on s narrows {capped} of the intervals" if capped else ""
    return (
        f"{'Not reproduced' if outside or different else 'Not complete' if failed else 'Reproduced'}: "
        f"{', '.join(found)}; by chance alone an honest reproduction fails in {100 * FAMILY_ERROR:.0f} % of cases at "
        f"most, by construction{narrowed}."
    )
