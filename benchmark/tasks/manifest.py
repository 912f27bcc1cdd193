"""Listings (what a data source holds) and manifests (which sample goes to which split at one level and draw)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.records.canonical import sha256_hex

IntArray = NDArray[np.int64]

TRAIN, VALIDATION, TEST, AUDIT = "train", "validation", "test", "audit"
SPLITS = (TRAIN, VALIDATION, TEST, AUDIT)
UNCOLOURED = -1


@dataclass(frozen=True)
class Listing:
    """Every usable sample of a data source, in any order: the split law never depends on it.

    Attributes:
        ids: Unique sample ids.
        y: Labels, int64 [n].
        a: Attributes, int64 [n]; -1 where the task renders the attribute itself.
        partition: Official partition per sample (``train``, ``validation`` or ``test``), or None where there is none.
        complete: False when the source at hand is only part of the data set, in a way that the list does not tell.
        missing: Samples that are listed but whose images are not at hand. They keep their place in the split law, so
            that every other sample stays where it is in the whole data set, and then drop out.
    """

    ids: tuple[str, ...]
    y: IntArray
    a: IntArray
    partition: tuple[str, ...] | None = None
    complete: bool = True
    missing: frozenset[str] = frozenset()

    @property
    def whole(self) -> bool:
        """Whether the data set is at hand with every image."""
        return self.complete and not self.missing

    def __post_init__(self) -> None:
        """Refuse duplicate ids, columns of different lengths and unknown partitions."""
        if len(set(self.ids)) != len(self.ids):
            raise DataError("a sample id stands twice in the listing")
        lengths = {len(self.ids), len(self.y), len(self.a), len(self.partition or self.ids)}
        if len(lengths) != 1:
            raise DataError(f"the listing's columns have different lengths: {sorted(lengths)}")
        if strangers := sorted(self.missing - set(self.ids)):
            raise DataError(f"{strangers[0]!r} is named as missing but is not in the listing")
        if unknown := sorted(set(self.partition or ()) - {TRAIN, VALIDATION, TEST}):
            raise DataError(f"unknown official partition {unknown[0]!r}; there are {TRAIN}, {VALIDATION} and {TEST}")


@dataclass(frozen=True)
class Rows:
    """The rows of one split, in the split's order.

    Attributes:
        ids: Row ids; in a crossed split ``"<sample>/<attribute>"``.
        sources: The sample that each row is made from; the resampling unit in crossed tests.
        y: Labels, int64 [n].
        a: Attributes, int64 [n].
    """

    ids: tuple[str, ...]
    sources: tuple[str, ...]
    y: IntArray
    a: IntArray

    def __len__(self) -> int:
        return len(self.ids)

    def sorted_by(self, rank: dict[str, int]) -> Rows:
        """Return the rows in ascending rank of their source."""
        return self.take(sorted(range(len(self.ids)), key=lambda k: rank[self.sources[k]]))

    def take(self, indices: Sequence[int] | IntArray) -> Rows:
        """Return the chosen rows, in the order given."""
        chosen = [int(k) for k in indices]
        return Rows(
            tuple(self.ids[k] for k in chosen), tuple(self.sources[k] for k in chosen), self.y[chosen], self.a[chosen]
        )

    def without(self, missing: frozenset[str]) -> Rows:
        """Return the rows whose source is not among ``missing``."""
        if not missing:
            return self
        return self.take([k for k, source in enumerate(self.sources) if source not in missing])

    def counts(self, n_classes: int, n_attributes: int) -> IntArray:
        """Return the number of rows per group, int64 [n_classes, n_attributes]."""
        table = np.zeros((n_classes, n_attributes), dtype=np.int64)
        np.add.at(table, (self.y, self.a), 1)
        return table

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the rows in their order, as written into the footer of predictions."""
        return sha256_hex("\n".join(_lines("", self)).encode())


@dataclass(frozen=True)
class Manifest:
    """Which samples are in which split, for one task, bias level and draw."""

    task: str
    level: str
    draw: int
    n_classes: int
    n_attributes: int
    splits: dict[str, Rows] = field(hash=False)

    def counts(self, split: str) -> IntArray:
        """Return the number of rows per group of a split, int64 [n_classes, n_attributes]."""
        return self.splits[split].counts(self.n_classes, self.n_attributes)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted ``id, split, y, a`` of all splits: what ``splits.lock`` pins."""
        lines = [line for name in SPLITS for line in _lines(name, self.splits[name])]
        return sha256_hex("\n".join(sorted(lines)).encode())


def _lines(split: str, rows: Rows) -> list[str]:
    return [f"{i}\t{split}\t{y}\t{a}" for i, y, a in zip(rows.ids, rows.y.tolist(), rows.a.tolist(), strict=True)]
