"""The split law: which sample goes where, at every bias level and draw (protocol §2).

One piece for all tasks. It never sees an image, uses no random generator and no directory order: every order is the
ascending SHA-256 of ``"{task}/{split_version}/{draw}/{sample_id}"``, with ``fixed`` in place of the draw for what all
draws share (test, audit). Two kinds of task exist: the attribute is *observed* (a face's, a background's), or it is
*rendered* by us onto the sample (the ink of colorized digits).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from benchmark.errors import DataError
from benchmark.tasks.levels import BALANCED, NATIVE, rho_of, round_half_up
from benchmark.tasks.manifest import AUDIT, TEST, TRAIN, VALIDATION, IntArray, Listing, Manifest, Rows

DRAWS = (0, 1, 2, 3, 4)
_FIXED = "fixed"
_REFERENCE_RHO = Fraction(9, 10)


@dataclass(frozen=True)
class SplitLaw:
    """What a card says about splitting.

    Attributes:
        task: Name without version.
        split_version: Moves only when the law or the ids do.
        n_classes: Number of labels.
        n_attributes: Number of attribute values.
        aligned: The attribute value that the biased training set associates with each class.
        attribute: ``observed`` in the data, or ``rendered`` by the task.
        audit_share: Share of each group cut first, for auditors.
        test_share: Share of each group for the test split; None where an official one exists.
        validation_share: Share of each group for validation; None where an official one exists.
        aligned_cap: Most aligned training samples per class, cut in hash order before any level.
    """

    task: str
    split_version: int
    n_classes: int
    n_attributes: int
    aligned: tuple[int, ...]
    attribute: Literal["observed", "rendered"]
    audit_share: Fraction
    test_share: Fraction | None
    validation_share: Fraction | None
    aligned_cap: tuple[int | None, ...] | None = None


def hash_order(ids: Sequence[str], law: SplitLaw, draw: str | int) -> list[int]:
    """Return the indices of ``ids`` in ascending SHA-256 of ``{task}/{split_version}/{draw}/{id}``."""
    prefix = f"{law.task}/{law.split_version}/{draw}/"
    keys = [hashlib.sha256((prefix + i).encode()).digest() for i in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


class Splitter:
    """The law applied to one listing; hash orders and partitions are computed once for all levels.

    Args:
        listing: The whole data source.
        law: The task's law.

    Raises:
        DataError: When labels lie outside the card's.
    """

    def __init__(self, listing: Listing, law: SplitLaw) -> None:
        _check(listing, law)
        self._listing, self._law = listing, law
        self._fixed = hash_order(listing.ids, law, _FIXED)
        # The draw's order decides who conflicts, so handing rows out in it would tell a method the group labels.
        self._rank = {listing.ids[i]: k for k, i in enumerate(self._fixed)}
        self._cuts: dict[int, dict[str, list[int]]] = {}

    def split(self, level: str, draw: int, *, whole: bool = False) -> Manifest:
        """Return every sample's split, label and attribute at one bias level and draw.

        Args:
            level: ``balanced``, ``native`` or a decimal string such as ``"0.95"``.
            draw: One of :data:`DRAWS`.
            whole: Keep samples whose images are not at hand: the split of the whole data set, which locks pin.

        Raises:
            DataError: When a class has no training sample.
        """
        listing, law, cut = self._listing, self._law, self._cut(draw)
        if law.attribute == "rendered":
            splits = _rendered(listing, law, cut, level, draw)
        else:
            splits = _observed(listing, law, cut, level)
        if not whole:
            splits = {name: rows.without(listing.missing) for name, rows in splits.items()}
        empty = np.flatnonzero(np.bincount(splits[TRAIN].y, minlength=law.n_classes) == 0)
        if len(empty):
            raise DataError(f"{law.task}: class {empty[0]} has no training sample at level {level}")
        for name in (TRAIN, VALIDATION):
            splits[name] = splits[name].sorted_by(self._rank)
        return Manifest(law.task, level, draw, law.n_classes, law.n_attributes, splits)

    def reserve(self, manifest: Manifest, *, most: int) -> Rows:
        """Return what a level and draw left out of training, for oracles: in the draw's hash order.

        Where the attribute is observed these are the unused images of the training cut; where it is rendered, every
        training sample in each attribute value that it does not have.

        Args:
            manifest: A split of this listing.
            most: Rows that one group needs at most.
        """
        listing, law, train = self._listing, self._law, manifest.splits[TRAIN]
        used = dict(zip(train.sources, train.a.tolist(), strict=True))
        taken: Counter[tuple[int, int]] = Counter()
        chosen: list[tuple[int, int]] = []
        for i in self._cut(manifest.draw)[TRAIN]:
            name, y = listing.ids[i], int(listing.y[i])
            if name in listing.missing:
                continue
            values = range(law.n_attributes) if law.attribute == "rendered" else (int(listing.a[i]),)
            for a in values:
                if used.get(name) != a and taken[y, a] < most:
                    taken[y, a] += 1
                    chosen.append((i, a))
        rendered = law.attribute == "rendered"
        sources = tuple(listing.ids[i] for i, _ in chosen)
        ids = tuple(f"{listing.ids[i]}/{a}" for i, a in chosen) if rendered else sources
        attributes = np.array([a for _, a in chosen], dtype=np.int64)
        return Rows(ids, sources, listing.y[np.array([i for i, _ in chosen], dtype=np.int64)], attributes)

    def _cut(self, draw: int) -> dict[str, list[int]]:
        if draw not in self._cuts:
            order = hash_order(self._listing.ids, self._law, draw)
            self._cuts[draw] = _cut_partitions(self._listing, self._law, self._fixed, order)
        return self._cuts[draw]


def split(listing: Listing, law: SplitLaw, level: str, draw: int) -> Manifest:
    """Apply the law once; see :class:`Splitter`."""
    return Splitter(listing, law).split(level, draw)


def _check(listing: Listing, law: SplitLaw) -> None:
    if len(listing.ids) == 0:
        raise DataError(f"{law.task}: the source holds no sample")
    if listing.y.min() < 0 or listing.y.max() >= law.n_classes:
        raise DataError(f"{law.task}: labels must lie in 0..{law.n_classes - 1}")
    lowest = -1 if law.attribute == "rendered" else 0
    if listing.a.min() < lowest or listing.a.max() >= law.n_attributes:
        raise DataError(f"{law.task}: attributes must lie in 0..{law.n_attributes - 1}")


def _cut_partitions(listing: Listing, law: SplitLaw, fixed: list[int], drawn: list[int]) -> dict[str, list[int]]:
    """Divide the listing into the four splits, before any bias level; each in the hash order that it is used in."""
    group = listing.y * (law.n_attributes + 1) + listing.a + 1
    partition = listing.partition or (TRAIN,) * len(listing.ids)
    cut: dict[str, list[int]] = {name: [] for name in (TRAIN, VALIDATION, TEST, AUDIT)}
    assigned: dict[int, str] = {}
    members = _by_group([i for i in fixed if partition[i] == TRAIN], group)
    for indices in members.values():
        n_audit = round_half_up(len(indices) * law.audit_share)
        n_test = round_half_up(len(indices) * law.test_share) if law.test_share is not None else 0
        assigned |= dict.fromkeys(indices[:n_audit], AUDIT)
        assigned |= dict.fromkeys(indices[n_audit : n_audit + n_test], TEST)
    remaining = _by_group([i for i in drawn if partition[i] == TRAIN and i not in assigned], group)
    for key, indices in remaining.items():
        n_validation = round_half_up(len(members[key]) * law.validation_share) if law.validation_share else 0
        assigned |= dict.fromkeys(indices[:n_validation], VALIDATION)
        assigned |= dict.fromkeys(indices[n_validation:], TRAIN)
    for order, names in ((fixed, (TEST, AUDIT)), (drawn, (TRAIN, VALIDATION))):
        for i in order:
            name = assigned.get(i, partition[i])
            if name in names:
                cut[name].append(i)
    return cut


def _by_group(indices: Sequence[int], group: IntArray) -> dict[int, list[int]]:
    result: dict[int, list[int]] = {}
    for i in indices:
        result.setdefault(int(group[i]), []).append(i)
    return result


# --- observed attributes -------------------------------------------------------------------------------------------


def _observed(listing: Listing, law: SplitLaw, cut: dict[str, list[int]], level: str) -> dict[str, Rows]:
    def rows(indices: Sequence[int]) -> Rows:
        chosen = list(indices)
        ids = tuple(listing.ids[i] for i in chosen)
        return Rows(ids, ids, listing.y[chosen], listing.a[chosen])

    train = choose_level(cut[TRAIN], listing, law, level, training=True)
    validation = choose_level(cut[VALIDATION], listing, law, level, training=False)
    return {
        TRAIN: rows(train),
        VALIDATION: rows(validation),
        TEST: rows(cut[TEST]),
        AUDIT: rows(cut[AUDIT]),
    }


def choose_level(indices: Sequence[int], listing: Listing, law: SplitLaw, level: str, *, training: bool) -> list[int]:
    """Keep the samples of one split that a bias level allows, in the order given.

    Args:
        indices: Candidates in hash order.
        listing: Their labels and attributes.
        law: The task's law.
        level: The bias level.
        training: The training split keeps at least one conflicting sample per class and obeys the cap on aligned
            ones; validation does neither.
    """
    if level == NATIVE:
        return list(indices)
    aligned: list[list[int]] = [[] for _ in range(law.n_classes)]
    conflicting: list[list[int]] = [[] for _ in range(law.n_classes)]
    for i in indices:
        y = int(listing.y[i])
        (aligned if listing.a[i] == law.aligned[y] else conflicting)[y].append(i)
    if law.aligned_cap is not None and training:
        aligned = [part[:cap] if cap is not None else part for part, cap in zip(aligned, law.aligned_cap, strict=True)]
    if level == BALANCED:
        return _balanced(indices, aligned, conflicting, listing, floor=training)
    keep: set[int] = set()
    for part_aligned, part_conflicting in zip(aligned, conflicting, strict=True):
        n_aligned, n_conflicting = level_counts(len(part_aligned), len(part_conflicting), rho_of(level), floor=training)
        keep.update(part_aligned[:n_aligned], part_conflicting[:n_conflicting])
    return [i for i in indices if i in keep]


def level_counts(n_aligned: int, n_conflicting: int, rho: Fraction, *, floor: bool) -> tuple[int, int]:
    """Return how many aligned and conflicting samples of one class a level keeps.

    Levels below .9 are cut to the class size of the .9 level where that is possible, so that level is not sample
    size in disguise.

    Args:
        n_aligned: Aligned samples at hand.
        n_conflicting: Conflicting samples at hand.
        rho: Share of aligned samples.
        floor: Keep at least one conflicting sample where one exists.
    """
    if rho >= _REFERENCE_RHO:
        return _biased(n_aligned, n_conflicting, rho, floor=floor)
    size = sum(_biased(n_aligned, n_conflicting, _REFERENCE_RHO, floor=floor))
    want_aligned = min(round_half_up(size * rho), n_aligned)
    if size - want_aligned <= n_conflicting:
        return want_aligned, size - want_aligned
    return _biased(want_aligned, n_conflicting, rho, floor=floor)


def _biased(n_aligned: int, n_conflicting: int, rho: Fraction, *, floor: bool) -> tuple[int, int]:
    want = round_half_up(n_aligned * (1 - rho) / rho)
    if floor:
        want = max(want, 1)
    if want <= n_conflicting:
        return n_aligned, want
    if n_conflicting == 0:
        return n_aligned, 0
    return min(n_aligned, round_half_up(n_conflicting * rho / (1 - rho))), n_conflicting


def _balanced(
    indices: Sequence[int],
    aligned: list[list[int]],
    conflicting: list[list[int]],
    listing: Listing,
    *,
    floor: bool,
) -> list[int]:
    groups: dict[tuple[int, int], list[int]] = {}
    for y, parts in enumerate(zip(aligned, conflicting, strict=True)):
        for i in (*parts[0], *parts[1]):
            groups.setdefault((y, int(listing.a[i])), []).append(i)
    if not groups:
        return []
    size = min(len(members) for members in groups.values())
    for y, parts in enumerate(zip(aligned, conflicting, strict=True)):
        n_groups = sum(1 for key in groups if key[0] == y)
        reference = sum(_biased(len(parts[0]), len(parts[1]), _REFERENCE_RHO, floor=floor))
        if n_groups and reference // n_groups >= 1:
            size = min(size, reference // n_groups)
    keep = {i for members in groups.values() for i in members[:size]}
    return [i for i in indices if i in keep]


# --- rendered attributes -------------------------------------------------------------------------------------------


def _rendered(listing: Listing, law: SplitLaw, cut: dict[str, list[int]], level: str, draw: int) -> dict[str, Rows]:
    if level == NATIVE:
        raise DataError(f"{law.task} renders its attribute, so it has no native level")
    return {
        TRAIN: _coloured(cut[TRAIN], listing, law, level, draw, floor=True),
        VALIDATION: _coloured(cut[VALIDATION], listing, law, level, draw, floor=False),
        TEST: _crossed(cut[TEST], listing, law),
        AUDIT: _crossed(cut[AUDIT], listing, law),
    }


def _coloured(indices: Sequence[int], listing: Listing, law: SplitLaw, level: str, draw: int, *, floor: bool) -> Rows:
    """Give the first round(n·(1−ρ)) of each class conflicting attributes, round-robin; the rest the aligned one."""
    rho = Fraction(1, law.n_attributes) if level == BALANCED else rho_of(level)
    attribute: dict[int, int] = {}
    for y in range(law.n_classes):
        members = [i for i in indices if listing.y[i] == y]
        n_conflicting = round_half_up(len(members) * (1 - rho))
        if floor and members:
            n_conflicting = max(n_conflicting, 1)
        others = conflicting_order(law, y, draw)
        attribute |= {i: others[k % len(others)] for k, i in enumerate(members[:n_conflicting])}
        attribute |= dict.fromkeys(members[n_conflicting:], law.aligned[y])
    ids = tuple(listing.ids[i] for i in indices)
    return Rows(ids, ids, listing.y[list(indices)], np.array([attribute[i] for i in indices], dtype=np.int64))


def conflicting_order(law: SplitLaw, y: int, draw: int) -> list[int]:
    """Return the conflicting attributes of class ``y`` in the draw's hash order, so that no hue is favoured."""
    others = [a for a in range(law.n_attributes) if a != law.aligned[y]]
    order = hash_order([f"class-{y}/attribute-{a}" for a in others], law, draw)
    return [others[k] for k in order]


def _crossed(indices: Sequence[int], listing: Listing, law: SplitLaw) -> Rows:
    """Render every sample in every attribute: groups are exactly balanced, one sample can be compared with itself."""
    ids, sources = [], []
    for i in indices:
        ids += [f"{listing.ids[i]}/{a}" for a in range(law.n_attributes)]
        sources += [listing.ids[i]] * law.n_attributes
    y = np.repeat(listing.y[list(indices)], law.n_attributes)
    a = np.tile(np.arange(law.n_attributes, dtype=np.int64), len(indices))
    return Rows(tuple(ids), tuple(sources), y, a)
