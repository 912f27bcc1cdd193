"""How the audit split is divided between training an auditor and testing it, and which images count in the test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from benchmark.tasks.levels import round_half_up
from benchmark.tasks.manifest import IntArray, Rows

HELD_OUT = Fraction(1, 3)


@dataclass(frozen=True, eq=False)
class Division:
    """Positions in the audit split, int64, each in hash order of the sources."""

    train: IntArray
    held_out: IntArray


def divide(rows: Rows, task: str) -> Division:
    """Hold out a third of the sources, in the order of SHA-256 of ``{task}/auditors/{source}``.

    A third of the sources of each label that show the same attributes: of each group where an attribute is observed,
    of each class where every source is rendered in all. All rows of a source stay together, so that no digit is on
    both sides.

    Args:
        rows: The audit split.
        task: Name and version of the task.
    """
    members: dict[str, list[int]] = {}
    for position, source in enumerate(rows.sources):
        members.setdefault(source, []).append(position)
    strata: dict[tuple[int, ...], list[str]] = {}
    for source in sorted(members, key=lambda name: hashlib.sha256(f"{task}/auditors/{name}".encode()).digest()):
        positions = members[source]
        key = (int(rows.y[positions[0]]), *sorted(int(rows.a[k]) for k in positions))
        strata.setdefault(key, []).append(source)
    train: list[int] = []
    held_out: list[int] = []
    for sources in strata.values():
        cut = round_half_up(len(sources) * HELD_OUT)
        held_out += [k for source in sources[:cut] for k in members[source]]
        train += [k for source in sources[cut:] for k in members[source]]
    return Division(np.array(train, dtype=np.int64), np.array(held_out, dtype=np.int64))


def balanced(value: IntArray, other: IntArray) -> IntArray:
    """Choose images so that every value is shown equally often with each populated value of the other variable.

    Otherwise an auditor's row for, say, blond would be its answers to blond women. The smallest group of a value
    decides how many each of them gives, the first in the order given.

    Args:
        value: The variable that is answered, int64 [n].
        other: The other variable of the group, int64 [n].

    Returns:
        Positions, int64, ascending.
    """
    chosen: list[IntArray] = []
    for v in np.unique(value):
        groups = [np.flatnonzero((value == v) & (other == w)) for w in np.unique(other[value == v])]
        size = min(len(group) for group in groups)
        chosen += [group[:size] for group in groups]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)
