"""Rows of a table as a contest: how far apart the answers of every two of them are, computed once for any two rows.

A row is known by the digests of its seeds' predictions, so what is remembered of two rows holds as long as neither has
other answers, whatever else is on the board.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.metrics.compare import (
    Performance,
    Standings,
    performance,
    sampling_freedom,
    spread,
    squared_distances,
    standings,
)
from benchmark.metrics.data import FloatArray
from benchmark.metrics.ranking import Contest
from benchmark.metrics.units import sampling_design
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.tasks.law import DRAWS
from leaderboard.groups import Group
from leaderboard.remembered import Remembered

_DRAWS = np.array(DRAWS, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows by the digest of their answers.

    Attributes:
        keys: The digests.
        columns: Mean over seeds, and the columns of :class:`Standings`, [rows, 5].
        distances: Squared distances of their spreads, [rows, rows].
    """

    keys: list[str]
    columns: FloatArray
    distances: FloatArray

    @functools.cached_property
    def position(self) -> dict[str, int]:
        """Where each row stands."""
        return {key: k for k, key in enumerate(self.keys)}

    def take(self, keys: list[str]) -> _Rows:
        """Return some of the rows."""
        chosen = [self.position[key] for key in keys]
        return _Rows(keys, self.columns[chosen], self.distances[np.ix_(chosen, chosen)])


def enter(
    groups: Sequence[Group], metric: str, memory: Remembered, place: str
) -> tuple[Contest | None, dict[str, str]]:
    """Bring rows that cover all draws into one contest.

    Args:
        groups: The rows.
        metric: The task's ranking metric.
        memory: What earlier builds found out.
        place: Which table it is.

    Returns:
        The contest, None without rows; and why some cannot take part, by their id.
    """
    known = _recall(memory, place)
    keys = {group.id: _key(group, metric) for group in groups}
    new: dict[str, Performance] = {}
    refused = {}
    for group in groups:
        if keys[group.id] not in known.position:
            try:
                new[group.id] = _performance(group, metric)
            except InvalidValue as error:
                refused[group.id] = str(error)
    entered = [group for group in groups if group.id not in refused]
    if not entered:
        return None, refused
    rows = known
    if new:
        rows = _extended(known, new, entered, keys, metric)
        memory.keep_arrays(place, rows.keys, {"columns": rows.columns, "distances": rows.distances})
    return _contest(entered, rows.take([keys[group.id] for group in entered])), refused


def _contest(groups: Sequence[Group], rows: _Rows) -> Contest:
    return Contest(
        names=tuple(group.id for group in groups),
        means=rows.columns[:, 0],
        standings=Standings(*rows.columns[:, 1:].T),
        distances=rows.distances,
        freedom=sampling_freedom(sampling_design(groups[0].first.split.labels)),
    )


def _recall(memory: Remembered, place: str) -> _Rows:
    found = memory.arrays(place)
    if found is None:
        return _Rows([], np.zeros((0, 5)), np.zeros((0, 0)))
    return _Rows(found[0], found[1]["columns"], found[1]["distances"])


def _key(group: Group, metric: str) -> str:
    split = group.first.split
    runs = [
        [scored.run.record.cell.draw, checkpoint.predictions.sha256]
        for scored in group.runs
        if (checkpoint := scored.checkpoint(group.rule)) is not None
    ]
    return sha256_of([split.rows_digest, split.task.card.digest, metric, runs])


def _performance(group: Group, metric: str, *, biased: bool = True) -> Performance:
    split = group.first.split
    return performance(
        split.labels,
        np.stack([answers.correct for answers in group.answers]),
        np.array([scored.run.record.cell.draw for scored in group.runs], dtype=np.int64),
        metric,
        seed=derive_seed(test=split.rows_digest, purpose="bootstrap") if biased else None,
    )


def _extended(
    known: _Rows, new: Mapping[str, Performance], groups: Sequence[Group], keys: Mapping[str, str], metric: str
) -> _Rows:
    """Return the rows of some groups; only distances to new ones are computed."""
    spreads, columns = [], []
    for group in groups:
        row = new.get(group.id)
        columns.append(known.columns[known.position[keys[group.id]]] if row is None else _columns(row))
        spreads.append(spread(_performance(group, metric, biased=False) if row is None else row, _DRAWS))
    old = [k for k, group in enumerate(groups) if group.id not in new]
    distances = np.zeros((len(groups), len(groups)))
    distances[np.ix_(old, old)] = known.take([keys[groups[k].id] for k in old]).distances
    table = np.stack(spreads)
    for k, group in enumerate(groups):
        if group.id in new:
            distances[k] = distances[:, k] = squared_distances(table, table[k])
    return _Rows([keys[group.id] for group in groups], np.stack(columns), distances)


def _columns(found: Performance) -> FloatArray:
    row = standings([found], _DRAWS)
    return np.array([float(found.values.mean()), row.value[0], row.bias[0], row.training[0], row.seeds[0]])
