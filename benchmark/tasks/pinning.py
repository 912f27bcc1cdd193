"""Computing what the locks pin, for ``data verify`` (compare) and ``data pin`` (write)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import DataError
from benchmark.progress import Progress, Silent
from benchmark.records.files import write_text
from benchmark.tasks.block import LevelCounts
from benchmark.tasks.card import cards_folder, load_card
from benchmark.tasks.file_task import FileTask
from benchmark.tasks.law import DRAWS
from benchmark.tasks.locks import LockName, Pinned, load_lock, split_key, write_lock
from benchmark.tasks.manifest import AUDIT, TEST, TRAIN, VALIDATION, Manifest
from benchmark.tasks.task import Task

_FEW_GROUPS = 20
_LOCKS: tuple[LockName, ...] = ("pixels", "sources")
_FILES = "files"


@dataclass(frozen=True)
class Verified:
    """What ``data verify`` found for one level and draw.

    Attributes:
        digest: Of the whole data set's split, which the lock pins; where the whole is not known, of what is at hand.
        counts: Sizes of that split.
    """

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
        groups=tuple(tuple(row) for row in train.tolist()) if train.size <= _FEW_GROUPS else None,
    )


def common(counts: Sequence[LevelCounts]) -> LevelCounts:
    """Return the sizes in which several draws of a level agree; the others are null."""
    first, *others = (each.model_dump() for each in counts)
    agreed = {key: value if all(other[key] == value for other in others) else None for key, value in first.items()}
    return LevelCounts.model_validate(agreed)


def agree(expected: LevelCounts, found: LevelCounts) -> bool:
    """Return whether sizes are those that a card states; what the card leaves open may be anything."""
    return all(getattr(found, key) == value for key, value in expected if value is not None)


def verify_task(task: Task, progress: Progress | None = None) -> list[Verified]:
    """Recompute every split, pixel and source digest of a task and compare them with the locks and the card.

    Raises:
        DataError: When a digest or a count differs.
        DamagedFile: When prepared images are damaged.
    """
    task.make_ready(task.card.task.pixels.size, progress or Silent())
    expected = {counts.level: counts for counts in task.card.task.expected}
    found = []
    for level in task.card.task.levels:
        for draw in DRAWS:
            manifest = task.manifest(level, draw, whole=True)
            counts = level_counts_of(task, manifest)
            if task.listing.complete and level in expected and not agree(expected[level], counts):
                raise DataError(
                    f"{task.card.id} at {level}, draw {draw}: the card expects {expected[level]}, found {counts}"
                )
            # The whole data set's split is compared even where some images are not here.
            state = load_lock("splits").state(task.card, manifest, complete=task.listing.complete)
            if task.listing.missing:
                state = "partial"
            found.append(Verified(task.card.id, level, draw, state, manifest.digest, counts))
    if isinstance(task, FileTask):
        task.prepared(task.card.task.pixels.size).verify()
    name = task.card.task.name
    for lock, digests in _digests(task, {lock for lock in _LOCKS if name in load_lock(lock).entries}).items():
        pinned = load_lock(lock).entries[name]
        if wrong := sorted(key for key in digests if pinned.get(key, digests[key]) != digests[key]):
            raise DataError(f"{task.card.id}: the {lock} digest of {wrong[0]!r} differs from {lock}.lock")
    return found


def pixel_digests(task: Task) -> dict[str, str]:
    """Return the SHA-256 of the prepared arrays: test, audit, and the training split of every level and draw.

    Only where pixels are made by integer arithmetic alone; JPEG decoders may differ in the last bit, so there the files
    are pinned instead.
    """
    if task.card.task.attribute_kind != "rendered":
        return {}
    first = task.manifest(task.card.task.levels[0], DRAWS[0])
    digests = {name: task.pixel_digest(first.splits[name]) for name in (TEST, AUDIT)}
    for level in task.card.task.levels:
        for draw in DRAWS:
            rows = task.manifest(level, draw).splits[TRAIN]
            digests[split_key(task.card, level, draw)] = task.pixel_digest(rows)
    return digests


def source_digests(task: Task) -> dict[str, str]:
    """Return digests of what the splits are made from: the lists, and all image files where they are at hand."""
    if not isinstance(task, FileTask):
        return {}  # the card pins the file inside the package
    digests = task.list_digests()
    if task.listing.whole and task.card.task.attribute_kind != "rendered":
        prepared = task.prepared(task.card.task.pixels.size)
        digest = hashlib.sha256()
        for name, file in zip(prepared.ids, prepared.sha256, strict=True):
            digest.update(f"{name}\t{file.hex()}\n".encode())
        digests[_FILES] = digest.hexdigest()
    return digests


def _digests(task: Task, locks: set[LockName]) -> dict[LockName, dict[str, str]]:
    """Return what can be pinned beside the splits with the data at hand, by lock; empty ones are left out."""
    found: dict[LockName, dict[str, str]] = {}
    if "sources" in locks and task.listing.complete:
        found["sources"] = source_digests(task)
    if "pixels" in locks and task.listing.whole:
        found["pixels"] = pixel_digests(task)
    return {lock: digests for lock, digests in found.items() if digests}


def pin_task(task: Task, progress: Progress | None = None) -> None:
    """Write a task's split digests into the locks and its sizes into its card, for a pull request that pins it.

    The lists are pinned too, and pixels or image files where all images are at hand.

    Raises:
        DataError: When the samples at hand are only part of the data set.
    """
    task.make_ready(task.card.task.pixels.size, progress or Silent())
    if not task.listing.complete:
        raise DataError(f"{task.card.id} is only partly at hand, so it cannot be pinned")
    name = task.card.task.name
    manifests = {
        (level, draw): task.manifest(level, draw, whole=True) for level in task.card.task.levels for draw in DRAWS
    }
    splits = {split_key(task.card, *key): manifest.digest for key, manifest in manifests.items()}
    entries = load_lock("splits").entries
    # Splits of other versions stay pinned: their records are still shown.
    own = split_key(task.card, "", 0).partition("/")[0]
    others = {key: digest for key, digest in entries.get(name, {}).items() if key.partition("/")[0] != own}
    write_lock("splits", {**entries, name: {**others, **splits}})
    for lock, digests in _digests(task, set(_LOCKS)).items():
        entries = load_lock(lock).entries
        # What a partial copy cannot compute, the digest of all files, stays as it was pinned.
        kept = entries.get(name, {}) if lock == "sources" else {}
        write_lock(lock, {**entries, name: {**kept, **digests}})
    counts = [
        common([level_counts_of(task, manifests[level, draw]) for draw in DRAWS]) for level in task.card.task.levels
    ]
    path = cards_folder() / f"{name}.md"
    write_text(path, with_expected(path.read_text(encoding="utf-8"), counts, path))
    load_card.cache_clear()


def with_expected(text: str, counts: Sequence[LevelCounts], path: Path) -> str:
    """Return a card's text with other expected sizes: the last entry of its front matter.

    Raises:
        DataError: When the card does not end its front matter so.
    """
    head, mark, rest = text.partition("\n  expected:")
    entries, end, prose = rest.partition("\n---\n")
    if not mark or not end or any(line[:3].strip() for line in entries.split("\n")[1:]):
        raise DataError(f"{path.name}: `expected` must be the last entry of the front matter")
    return f"{head}{mark}\n{chr(10).join(_line(each) for each in counts)}{end}{prose}"


def _line(counts: LevelCounts) -> str:
    """Return one entry as a line of YAML."""
    fields = counts.model_dump(exclude={"groups"})
    words = [f"{key}: {'null' if value is None else value}" for key, value in fields.items()]
    if counts.groups is not None:
        words.append(f"groups: {[list(row) for row in counts.groups]}")
    level = counts.level
    words[0] = f"level: {level if level.isalpha() else repr(level)}"
    return f"    - {{{', '.join(words)}}}"
