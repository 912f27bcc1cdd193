"""Computing what the locks pin, for ``data verify`` (compare) and ``data pin`` (write)."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.errors import DataError
from benchmark.tasks.card import LevelCounts
from benchmark.tasks.law import DRAWS
from benchmark.tasks.locks import Pinned, load_lock, split_key, write_lock
from benchmark.tasks.manifest import AUDIT, TEST, TRAIN, VALIDATION, Manifest
from benchmark.tasks.task import Task


@dataclass(frozen=True)
class Verified:
    """What ``data verify`` found for one level and draw."""

    task: str
    level: str
    draw: int
    state: Pinned
    digest: str
    counts: LevelCounts


def level_counts_of(task: Task, manifest: Manifest) -> LevelCounts:
    """Return the sizes of a manifest that a card states."""
    train, validation = manifest.counts(TRAIN), manifest.counts(VALIDATION)
    classes = range(task.n_classes)
    aligned = sum(int(train[y, task.card.law.aligned[y]]) for y in classes)
    validation_aligned = sum(int(validation[y, task.card.law.aligned[y]]) for y in classes)
    return LevelCounts(
        level=manifest.level,
        train=int(train.sum()),
        aligned=aligned,
        conflicting=int(train.sum()) - aligned,
        populated_groups=int((train > 0).sum()),
        smallest_group=int(train[train > 0].min()),
        validation=int(validation.sum()),
        validation_conflicting=int(validation.sum()) - validation_aligned,
        test=len(manifest.splits[TEST]),
        audit=len(manifest.splits[AUDIT]),
    )


def verify_task(task: Task) -> list[Verified]:
    """Recompute every split and pixel digest of a task and compare them with the locks and the card.

    Raises:
        DataError: When a digest or a count differs.
    """
    expected = {counts.level: counts for counts in task.card.task.expected}
    found = []
    for level in task.card.task.levels:
        for draw in DRAWS:
            manifest = task.manifest(level, draw)
            counts = level_counts_of(task, manifest)
            if task.listing.complete and level in expected and counts != expected[level]:
                raise DataError(
                    f"{task.card.id} at {level}, draw {draw}: the card expects {expected[level]}, found {counts}"
                )
            found.append(Verified(task.card.id, level, draw, task.pin_state(manifest), manifest.digest, counts))
    pinned = load_lock("pixels").entries.get(task.card.task.name)
    for key, digest in pixel_digests(task).items() if pinned else ():
        if pinned and pinned.get(key) != digest:
            raise DataError(f"{task.card.id}: the prepared pixels of {key!r} differ from pixels.lock")
    return found


def pixel_digests(task: Task) -> dict[str, str]:
    """Return the SHA-256 of the prepared arrays: test, audit, and the training split of every level and draw."""
    first = task.manifest(task.card.task.levels[0], DRAWS[0])
    digests = {name: task.pixel_digest(first.splits[name]) for name in (TEST, AUDIT)}
    for level in task.card.task.levels:
        for draw in DRAWS:
            rows = task.manifest(level, draw).splits[TRAIN]
            digests[split_key(task.card, level, draw)] = task.pixel_digest(rows)
    return digests


def pin_task(task: Task) -> None:
    """Write a task's digests into the locks, for a pull request that pins it.

    Raises:
        DataError: When the data at hand are only part of the data set.
    """
    if not task.listing.complete:
        raise DataError(f"{task.card.id} is only partly at hand, so it cannot be pinned")
    name = task.card.task.name
    splits = {
        split_key(task.card, level, draw): task.manifest(level, draw).digest
        for level in task.card.task.levels
        for draw in DRAWS
    }
    write_lock("splits", {**load_lock("splits").entries, name: splits})
    write_lock("pixels", {**load_lock("pixels").entries, name: pixel_digests(task)})
