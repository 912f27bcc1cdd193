"""What the runs took, as they recorded it: seconds by method, and the hours of each task's grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from benchmark.records.schema import Cost, Record
from leaderboard.claims import changed_settings
from leaderboard.findings.hypotheses import RowSpec
from leaderboard.findings.markup import NONE, seconds, table
from leaderboard.findings.questions import NOTHING
from leaderboard.groups import Scored

_LOOKED_UP = 1e-3
"""Seconds per sampled image: to look one up takes less, to make one takes more."""
_HOUR = 3600.0
_HEADERS = (
    "row", "runs", "training s", "generator: fitting s", "generator: sampling s", "auxiliary s", "wall s", "hours",
    "wall s where made (runs)", "wall s where at hand (runs)",
)  # fmt: skip


def cost_tables(scored: Iterable[Scored]) -> str:
    """Return a table for each task, each below a line with its totals; means are per run.

    Fitting is fine-tuning or training a generator, as far as this run did it: weights and images that lay in the store
    cost it nothing, whoever made them.
    """
    tasks: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for each in scored:
        record, card = each.run.record, each.split.task.card
        row = RowSpec(method=record.method.name, changed=changed_settings(record, card))
        tasks[card.task.name][row.text].append(record)
    parts = []
    for task, rows in sorted(tasks.items()):
        records = [record for members in rows.values() for record in members]
        parts += [
            _about(task, records),
            table(_HEADERS, [_line(row, members) for row, members in sorted(rows.items())]),
        ]
    return "\n\n".join(parts) or NOTHING


def _about(task: str, records: Sequence[Record]) -> str:
    devices = sorted({(each.environment.device, each.environment.threads) for each in records})
    ran_on = "; ".join(f"{name}, {threads} thread{'s' * (threads > 1)}" for name, threads in devices)
    return f"**`{task}`.** {len(records)} runs, {_hours(records):.1f} h of wall time in all, on {ran_on}."


def _line(row: str, records: Sequence[Record]) -> list[str]:
    made = [record for record in records if record.pools and not _at_hand(record)]
    found = [record for record in records if record.pools and _at_hand(record)]
    sampling = [sum(pool.seconds for pool in record.pools) for record in records]
    fitting = [_cost(each).generator_seconds - spent for each, spent in zip(records, sampling, strict=True)]
    columns = [
        [_cost(each).training_seconds for each in records],
        [max(0.0, each) for each in fitting],
        sampling,
        [_cost(each).auxiliary_seconds for each in records],
        [_cost(each).wall_seconds for each in records],
    ]
    means = [seconds(fmean(column)) for column in columns]
    return [row, str(len(records)), *means, f"{_hours(records):.2f}", _wall(made), _wall(found)]


def _cost(record: Record) -> Cost:
    assert record.cost is not None  # a finished run has one
    return record.cost


def _at_hand(record: Record) -> bool:
    """Return whether a run found its generated images in the store."""
    return _cost(record).generator_seconds < _LOOKED_UP * sum(pool.sampled for pool in record.pools)


def _wall(records: Sequence[Record]) -> str:
    if not records:
        return NONE
    return f"{seconds(fmean(_cost(each).wall_seconds for each in records))} ({len(records)})"


def _hours(records: Sequence[Record]) -> float:
    return sum(_cost(each).wall_seconds for each in records) / _HOUR
