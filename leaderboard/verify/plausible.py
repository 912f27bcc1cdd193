"""Values of a record that cannot stand together: what no run of ours writes, whatever its predictions are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from benchmark.metrics.registry import METRICS
from benchmark.records.schema import CheckpointResult, Record, StageResult

_ROUNDING = 1e-9
_CLOCK = timedelta(days=1)
"""By how much the clocks of two machines may differ."""
_SECONDS = 1.0
_NEVER_ABOVE = (
    ("acc_worst_group", "acc_group_mean"),
    ("acc_worst_group", "acc_mean"),
    ("acc_worst_group", "acc_aligned"),
    ("acc_worst_group", "acc_conflicting"),
    ("flip_rate", "flip_any"),
    ("parity_difference_mean", "parity_difference_max"),
    ("opportunity_difference_mean", "opportunity_difference_max"),
    ("odds_difference_mean", "odds_difference_max"),
    ("disparate_impact_min", "disparate_impact_mean"),
)
"""Pairs of metrics of which the first is never larger than the second."""
_RANGES = {"share": (0.0, 1.0), "ratio": (0.0, 1.0), "difference of shares": (-1.0, 1.0)}


def impossible(record: Record, now: datetime | None = None) -> Iterator[str]:
    """Yield what cannot be.

    Args:
        record: A finished run.
        now: The present time; None asks the clock.
    """
    yield from _dates(record, now or datetime.now(UTC))
    yield from _seconds(record)
    yield from _counts(record)
    for stage in record.stages:
        for checkpoint in stage.checkpoints:
            for problem in _checkpoint(record, stage, checkpoint):
                yield f"{stage.name}/{checkpoint.rule}: {problem}"


def unlikely(record: Record) -> Iterator[str]:
    """Yield what may be, but asks for an explanation."""
    cost = record.cost
    if cost is None:
        return
    if cost.training_seconds == 0:
        yield "its training took no time"
    if cost.generator_seconds > 0 and not record.pools:
        yield f"a generator took {cost.generator_seconds:.3g} s, but no generated image was used"


def _dates(record: Record, now: datetime) -> Iterator[str]:
    times = {}
    for name, text in (("started", record.started), ("finished", record.finished)):
        try:
            times[name] = datetime.fromisoformat(text or "").astimezone(UTC)
        except (ValueError, OverflowError):
            yield f"{name} is {text!r:.40}, no time in ISO 8601"
    for name, time in times.items():
        if time > now + _CLOCK:
            yield f"{name} lies in the future: {time:%Y-%m-%d}"
    if len(times) == 2 and times["finished"] < times["started"]:
        yield "it finished before it started"


def _seconds(record: Record) -> Iterator[str]:
    cost = record.cost
    if cost is None:
        return
    # What was remembered from an earlier run counts as training, but took no time in this one.
    trained = 0.0 if any(stage.remembered for stage in record.stages) else cost.training_seconds
    if cost.wall_seconds + _SECONDS < trained + cost.generator_seconds:
        yield f"it took {cost.wall_seconds:.6g} s in all, but {trained + cost.generator_seconds:.6g} s of it were work"
    stages = sum(stage.seconds for stage in record.stages)
    if abs(stages - cost.training_seconds) > _SECONDS:
        yield f"its stages trained for {stages:.6g} s, its cost says {cost.training_seconds:.6g} s"
    for name in ("wall_seconds", "training_seconds", "generator_seconds"):
        if getattr(cost, name) < 0:
            yield f"{name} is negative"


def _counts(record: Record) -> Iterator[str]:
    task = record.task
    groups = [n for row in task.train_counts for n in row if n > 0]
    said = (task.n_train, task.smallest_group, task.populated_groups)
    if said != (held := (sum(groups), min(groups, default=0), len(groups))):
        yield f"n_train, smallest_group and populated_groups are {said}, its training counts give {held}"
    shape = len(task.labels), len(task.attributes)
    if shape != (len(task.train_counts), len(task.train_counts[0]) if task.train_counts else 0):
        yield "its training counts are not one for each label and attribute"


def _checkpoint(record: Record, stage: StageResult, checkpoint: CheckpointResult) -> Iterator[str]:
    if checkpoint.step > stage.steps:
        yield f"taken at step {checkpoint.step} of {stage.steps}"
    if checkpoint.predictions.rows != record.task.test_rows:
        yield f"{checkpoint.predictions.rows} predictions for {record.task.test_rows} test images"
    yield from _metrics(checkpoint)
    yield from _groups(record, checkpoint)


def _metrics(checkpoint: CheckpointResult) -> Iterator[str]:
    values = {name: found.value for name, found in checkpoint.metrics.items() if found.value is not None}
    for name, value in values.items():
        low, high = _RANGES.get(METRICS[name].unit, (value, value)) if name in METRICS else (value, value)
        if not low - _ROUNDING <= value <= high + _ROUNDING:
            yield f"{name} is {value:.6g}, outside of {low:g} to {high:g}"
        ends = checkpoint.metrics[name]
        if ends.low is not None and ends.high is not None and ends.low > ends.high:
            yield f"the interval of {name} ends before it begins"
    for lesser, greater in _NEVER_ABOVE:
        if lesser in values and greater in values and values[lesser] > values[greater] + _ROUNDING:
            yield f"{lesser} is {values[lesser]:.6g}, above {greater} with {values[greater]:.6g}"
    if {"gap", "acc_aligned", "acc_conflicting"} <= set(values):
        gap = values["acc_aligned"] - values["acc_conflicting"]
        if abs(values["gap"] - gap) > _ROUNDING:
            yield f"gap is {values['gap']:.6g}, but acc_aligned - acc_conflicting is {gap:.6g}"


def _groups(record: Record, checkpoint: CheckpointResult) -> Iterator[str]:
    table = checkpoint.groups
    pairs = [pair for rows in zip(table.n, table.correct, strict=False) for pair in zip(*rows, strict=False)]
    rows, right = sum(n for n, _ in pairs), sum(correct for _, correct in pairs)
    if rows != record.task.test_rows:
        yield f"its groups hold {rows} test images, the test split {record.task.test_rows}"
        return
    if any(not 0 <= correct <= n for n, correct in pairs):
        yield "a group has more right answers than test images"
    mean = checkpoint.metrics.get("acc_mean")
    if rows and mean is not None and mean.value is not None and abs(mean.value - right / rows) > _ROUNDING:
        yield f"acc_mean is {mean.value:.6g}, its groups give {right / rows:.6g}"
