"""What a replay found: the model behind its JSON, the verdict under each selection rule, and its Markdown summary.

The statistics are those of :mod:`benchmark.metrics.across_seeds`; here they are only applied (protocol section 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tabulate import tabulate

from benchmark.errors import DamagedFile
from benchmark.metrics.across_seeds import prediction_interval
from benchmark.metrics.data import CONFIDENCE
from benchmark.records.files import read_json
from benchmark.records.schema import Environment, Isolation, MetricValue, Number, Sha256
from benchmark.tasks.card import DEFAULT_RECIPE
from leaderboard.text import safe

REPLAY_FILE = "replay.json"
EQUAL = 1e-6
"""Metrics of the same seed, threads, precision and CPU capability agree within this (protocol section 9)."""
_ROUNDING = 1e-9
"""Means of equal shares are not equal to the last bit; a row without spread has an interval of this width."""
_CONDITIONS = ("threads", "precision", "cpu_capability")
EQUALITY, INTERVAL = "equality", "prediction interval"
"""What decides on a replay."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleVerdict(_Part):
    """Whether the replayed run confirms the submitted ones under one selection rule."""

    rule: Literal["last", "val-average", "val-worst-group"]
    metric: str = Field(description="the task's ranking metric")
    seeds: list[int] = Field(description="submitted")
    values: list[Number] = Field(description="the ranking metric of each, recomputed from its predictions")
    replayed: Number = Field(description="the ranking metric of the replay")
    pooled: Number | None = Field(
        description="pooled standard deviation of the ranked rows of the same task, bias level, recipe and rule; the "
        "row's own is capped at twice it; null where there is no such row"
    )
    low: Number | None = Field(description="lower end of the 95 % prediction interval; null with one seed")
    high: Number | None
    decided_by: Literal["equality", "prediction interval"]
    why: str
    differing: list[str] | None = Field(description="metrics that differ by more than 1e-6; null with another seed")
    largest_difference: Number | None = Field(
        default=None, description="largest absolute difference of a metric that both have; null with another seed"
    )
    same_predictions: bool | None = Field(description="whether the answers are the same file; null with another seed")
    inside: bool


class Replay(_Part):
    """One row of submitted runs, one of them or a further seed made again from the installed code."""

    format_version: Literal[1] = 1
    task: str = Field(description="name@version")
    level: str
    recipe: str
    method: str = Field(description="name@version")
    hparams: dict[str, Any]
    configuration: Literal["default", "changed", "tuned"]
    generator: dict[str, Any] | None
    records: dict[str, Sha256] = Field(
        min_length=1, description="submitted run folder → SHA-256 of the record's content"
    )
    seed: int = Field(description="of the replay")
    draw: int
    same_seed: bool = Field(description="whether the seed is one of the submitted")
    run: str = Field(description="name of the replay's run folder")
    record: Sha256 = Field(description="SHA-256 of the content of the replay's own record")
    environment: Environment
    isolation: Isolation
    rules: list[RuleVerdict] = Field(min_length=1)
    inside: bool = Field(description="under every selection rule")

    @model_validator(mode="after")
    def _follows(self) -> Replay:
        if self.inside != all(rule.inside for rule in self.rules):
            raise ValueError("`inside` is not what the rules say")
        return self


def read_replays(file: Path) -> list[Replay]:
    """Read what ``replay`` wrote: one replay, or a list of them.

    Raises:
        DamagedFile: When it is something else.
    """
    content = read_json(file)
    try:
        return [Replay.model_validate(each) for each in (content if isinstance(content, list) else [content])]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise DamagedFile(f"{file} is no replay: {where}: {first['msg']}") from error


def other_conditions(submitted: Environment, replayed: Environment) -> list[str]:
    """Return what keeps one seed's answers from being equal: other threads, precision or CPU, or an accelerator."""
    found = [
        f"{name} ({getattr(submitted, name)}, here {getattr(replayed, name)})"
        for name in _CONDITIONS
        if getattr(submitted, name) != getattr(replayed, name)
    ]
    kinds = (submitted.device_kind, replayed.device_kind)
    return found if kinds == ("cpu", "cpu") else [*found, f"device ({kinds[0]}, here {kinds[1]}; only CPUs repeat)"]


Metrics = Mapping[str, MetricValue]


def differing_metrics(submitted: Metrics, replayed: Metrics) -> list[str]:
    """Return the names of metrics that are further apart than :data:`EQUAL`, or that only one side has."""
    return sorted(name for name, pair in _pairs(submitted, replayed).items() if not _equal(*pair))


def largest_difference(submitted: Metrics, replayed: Metrics) -> float | None:
    """Return how far apart the metrics that both sides have are at most; None where they have none in common."""
    pairs = _pairs(submitted, replayed).values()
    return max(
        (abs(first - second) for first, second in pairs if first is not None and second is not None), default=None
    )


def _pairs(submitted: Metrics, replayed: Metrics) -> dict[str, tuple[float | None, float | None]]:
    def value(side: Metrics, name: str) -> float | None:
        return side[name].value if name in side else None

    return {name: (value(submitted, name), value(replayed, name)) for name in submitted.keys() | replayed.keys()}


def _equal(first: float | None, second: float | None) -> bool:
    return first == second if first is None or second is None else abs(first - second) <= EQUAL


@dataclass(frozen=True)
class SameSeed:
    """How a replay of a submitted seed compares with that seed's own run, under one rule.

    Attributes:
        conditions: From :func:`other_conditions`.
        differing: From :func:`differing_metrics`.
        same_predictions: Whether the answers are the same file.
        largest_difference: From :func:`largest_difference`.
    """

    conditions: list[str]
    differing: list[str]
    same_predictions: bool
    largest_difference: float | None = None


def judge(
    rule: str, metric: str, values: Mapping[int, float], replayed: float, pooled: float | None, same: SameSeed | None
) -> RuleVerdict:
    """Decide whether a replay confirms the submitted seeds under one rule.

    Args:
        rule: The selection rule.
        metric: The task's ranking metric.
        values: It by submitted seed.
        replayed: It of the replay.
        pooled: Standard deviation over seeds; twice it caps the row's own. None where unknown.
        same: The comparison with the same seed; None for a fresh one.
    """
    low, high, inside = _predicted(list(values.values()), replayed, pooled, CONFIDENCE)
    decided_by, why = INTERVAL, "a fresh seed"
    if same is not None and same.conditions:
        why = f"the same seed, but not the same {', '.join(same.conditions)}"
    elif same is not None:
        decided_by, inside = EQUALITY, not same.differing
        why = "same seed, threads, precision and CPU capability: every metric must be equal to 1e-6"
    return RuleVerdict.model_validate(
        {
            "rule": rule, "metric": metric, "seeds": list(values), "values": list(values.values()),
            "replayed": replayed, "pooled": pooled, "low": low, "high": high, "decided_by": decided_by, "why": why,
            "differing": same and same.differing, "largest_difference": same and same.largest_difference,
            "same_predictions": same and same.same_predictions, "inside": inside,
        }
    )  # fmt: skip


def at_confidence(verdict: RuleVerdict, confidence: float) -> RuleVerdict:
    """Return a verdict by the prediction interval of another probability; what equality decides stays decided.

    Args:
        verdict: The verdict.
        confidence: With what probability one further seed lies in the interval.
    """
    low, high, inside = _predicted(verdict.values, verdict.replayed, verdict.pooled, confidence)
    if verdict.decided_by == EQUALITY:
        inside = verdict.inside
    return verdict.model_copy(update={"low": low, "high": high, "inside": inside})


def _predicted(
    values: Sequence[float], replayed: float, pooled: float | None, confidence: float
) -> tuple[float | None, float | None, bool]:
    """Return the ends of the prediction interval, and whether the replay lies in it."""
    found = prediction_interval(np.array(values, dtype=np.float64), pooled, confidence)
    if found.low is None or found.high is None:
        return None, None, False
    return found.low, found.high, found.low - _ROUNDING <= replayed <= found.high + _ROUNDING


def render_replay(replay: Replay) -> str:
    """Return a replay as Markdown; every string of a record is escaped."""
    where, verdict = replay.environment, "inside" if replay.inside else "outside"
    recipe = "" if replay.recipe == DEFAULT_RECIPE else f", recipe {safe(replay.recipe)}"
    commit = "no commit" if where.git_commit is None else f"commit {where.git_commit[:12]}"
    changes = "with changes" if where.git_dirty else "clean"
    network = " and without a network" if replay.isolation.network_blocked else ""
    limits = "".join(f"; {safe(limit)}" for limit in replay.isolation.limits)
    metric = replay.rules[0].metric
    headers = ["Rule", f"{metric} %: submitted", "95 % prediction interval", "replay", "decided by", "verdict"]
    return "\n\n".join(
        [
            f"## Replay of {safe(replay.method)} on {safe(replay.task)}, bias level {safe(replay.level)}{recipe}: "
            f"{verdict}",
            f"Seed {replay.seed} (draw {replay.draw}), {'one of those submitted' if replay.same_seed else 'fresh'}; "
            f"submitted: {', '.join(map(str, replay.rules[0].seeds))}. Made at {commit} ({changes}) on "
            f"{safe(where.device)} ({where.device_kind}), {where.threads} thread(s), {where.precision}, "
            f"{safe(where.cpu_capability)}; `fit` ran without the test split{network}{limits}.",
            tabulate([_line(rule) for rule in replay.rules], headers=headers, tablefmt="github", disable_numparse=True),
            "\n".join(f"- `{rule.rule}`: {_reason(rule)}" for rule in replay.rules),
        ]
    )


def _line(rule: RuleVerdict) -> list[str]:
    interval = "–" if rule.low is None or rule.high is None else f"[{_points(rule.low)}, {_points(rule.high)}]"
    submitted = " ".join(_points(value) for value in rule.values)
    verdict = "inside" if rule.inside else "outside"
    return [f"`{rule.rule}`", submitted, interval, _points(rule.replayed), rule.decided_by, verdict]


def _reason(rule: RuleVerdict) -> str:
    text = rule.why
    if rule.decided_by == INTERVAL:
        cap = "no ranked row to cap s by" if rule.pooled is None else f"s capped at 2 × {_points(rule.pooled)} points"
        text += f"; {cap}"
    if rule.same_predictions is not None:
        text += f"; the predictions are {'the same file' if rule.same_predictions else 'another file'}"
    return text + (f"; differing: {', '.join(map(safe, rule.differing))}" if rule.differing else "")


def _points(value: float) -> str:
    return f"{100 * value:.1f}"
