"""Small listings whose splits can be computed by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.tasks.card import DataCard
from benchmark.tasks.law import SplitLaw
from benchmark.tasks.manifest import Listing, Rows
from benchmark.tasks.task import Task


def listing_of(groups: dict[tuple[int, int], int], partition: str | None = None, prefix: str = "") -> Listing:
    """Samples ``<y>-<a>-0000``, … with as many samples per group as asked for."""
    ids, y, a = [], [], []
    for (label, attribute), n in groups.items():
        ids += [f"{prefix}{label}-{attribute}-{k:05d}" for k in range(n)]
        y += [label] * n
        a += [attribute] * n
    parts = None if partition is None else (partition,) * len(ids)
    return Listing(tuple(ids), np.array(y, dtype=np.int64), np.array(a, dtype=np.int64), parts)


def joined(*listings: Listing) -> Listing:
    """Several listings in one."""
    return Listing(
        tuple(i for part in listings for i in part.ids),
        np.concatenate([part.y for part in listings]),
        np.concatenate([part.a for part in listings]),
        tuple(p for part in listings for p in part.partition or ()) or None,
    )


def shuffled(listing: Listing, seed: int) -> Listing:
    """The same samples in another order."""
    order = np.random.default_rng(seed).permutation(len(listing.ids))
    parts = listing.partition
    return Listing(
        tuple(listing.ids[k] for k in order),
        listing.y[order],
        listing.a[order],
        None if parts is None else tuple(parts[k] for k in order),
    )


def law_of(
    n_classes: int,
    n_attributes: int,
    aligned: Sequence[int],
    *,
    attribute: str = "observed",
    audit: str = "0",
    test: str | None = None,
    validation: str | None = None,
    cap: tuple[int | None, ...] | None = None,
) -> SplitLaw:
    """A law named ``toy`` with exact shares; nothing is cut unless asked for."""

    def share(text: str | None) -> Fraction | None:
        return None if text is None else Fraction(text)

    shares = (Fraction(audit), share(test), share(validation))
    return SplitLaw("toy", 1, n_classes, n_attributes, tuple(aligned), attribute, *shares, aligned_cap=cap)


def order_of(ids: Sequence[str], draw: str | int, task: str = "toy", version: int = 1) -> list[str]:
    """The protocol's order, computed from its sentence: ascending SHA-256 of ``task/version/draw/id``."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{task}/{version}/{draw}/{i}".encode()).hexdigest())


def conflicting(rows: Rows, aligned: Sequence[int]) -> set[str]:
    """Ids of the rows whose attribute is not the aligned one of their class."""
    return {i for i, y, a in zip(rows.ids, rows.y, rows.a, strict=True) if a != aligned[y]}


class Toy(Task):
    """A task over a listing of the test's own; its images are black."""

    def __init__(self, card: DataCard, samples: Listing) -> None:
        super().__init__(card)
        self._samples = samples

    def list_samples(self) -> Listing:
        return self._samples

    def render(self, rows: Rows) -> NDArray[np.uint8]:
        size = self.card.task.pixels.size
        return np.zeros((len(rows), size, size, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Splits:
    """What the tests of this folder share."""

    listing_of = staticmethod(listing_of)
    joined = staticmethod(joined)
    shuffled = staticmethod(shuffled)
    law_of = staticmethod(law_of)
    order_of = staticmethod(order_of)
    conflicting = staticmethod(conflicting)
    Task = Toy


@pytest.fixture(scope="session")
def toy() -> Splits:
    """Small listings and laws."""
    return Splits()
