"""From predictions files to what the board compares: test splits at hand, answers checked against their digests.

What the board shows of a checkpoint is computed here from its answers; the record's own numbers are compared with it,
and shown only where answers were not kept. Intervals are the records', and `genbias-bench score` recomputes them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.contract.budget import Budget
from benchmark.errors import DamagedFile, DataError, InvalidValue, NotAvailable, UsageError
from benchmark.evaluation.scoring import labels_of, recorded_manifest
from benchmark.metrics import amplification, crossed
from benchmark.metrics.data import BoolArray, FloatArray, IntArray, TestLabels
from benchmark.metrics.groups import GroupCounts, accuracies, average_weights, averages, count_groups
from benchmark.metrics.versions import is_older
from benchmark.records.canonical import sha256_of
from benchmark.records.predictions import StoredPredictions
from benchmark.records.schema import CheckpointResult, Record
from benchmark.tasks.catalog import find_card, load_task, superseded_by
from benchmark.tasks.locks import Pinned, load_lock, split_key
from benchmark.tasks.manifest import TEST, TRAIN, Manifest
from benchmark.tasks.task import Task
from leaderboard.kept import read_labels, recorded_values
from leaderboard.load import Run
from leaderboard.remembered import Remembered, pack, unpack

_SUBPOPULATION = "defined only where the attribute varies within every class"
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Split:
    """One task, level and draw as this machine's data give it.

    Attributes:
        task: The task.
        labels: Test labels.
        rows_digest: Digest of the test rows.
        digest: Digest of the whole split.
        train_counts: Real training images, int [classes, attributes].
        pinned: Whether it is the split that the lock pins.
    """

    task: Task
    labels: TestLabels
    rows_digest: str
    digest: str
    train_counts: IntArray
    pinned: Pinned

    @functools.cached_property
    def budget(self) -> Budget:
        """What the protocol allows."""
        recipe, allowed = self.task.card.task, self.task.card.allowed_groups()
        per_real = recipe.synthetic.per_real
        return Budget.of(self.train_counts, per_real=per_real, steps=recipe.training.steps, allowed=allowed)

    @functools.cached_property
    def groups(self) -> IntArray:
        """Index of each test row's group, int [rows]."""
        return self.labels.group

    @functools.cached_property
    def sizes(self) -> IntArray:
        """Test rows by group, int [groups]."""
        return np.bincount(self.groups, minlength=self.labels.n_classes * self.labels.n_attributes)

    @functools.cached_property
    def identity(self) -> str:
        """What answers are checked against: the split and the card that says what its rows mean."""
        return sha256_of([self.digest, self.rows_digest, self.task.card.digest])


@dataclass(frozen=True, eq=False)
class Answers:
    """One checkpoint's answers, reduced.

    Attributes:
        split: What they answer.
        packed: Whether each test row is answered rightly, as :func:`pack` gives it; None where they were not kept.
        values: Metrics by name; None where undefined.
        reasons: Why they are.
        counted: Right answers by group as recorded, where they were not kept.
    """

    split: Split
    packed: str | None
    values: dict[str, float | None]
    reasons: dict[str, str]
    counted: list[int] | None = None

    @property
    def correct(self) -> BoolArray:
        """Whether each test row is answered rightly, bool [rows].

        Raises:
            InvalidValue: When the answers were not kept.
        """
        if self.packed is None:
            raise InvalidValue("of this checkpoint no answers were kept, only numbers")
        return unpack(self.packed, len(self.split.labels))

    @functools.cached_property
    def right(self) -> IntArray:
        """Right answers by group, int [groups]."""
        if self.counted is not None:
            return np.array(self.counted, dtype=np.int64)
        return np.bincount(self.split.groups[self.correct], minlength=len(self.split.sizes))


@dataclass
class Splits:
    """The splits that the records need, each computed once; those that the lock pins are remembered between builds."""

    memory: Remembered
    _known: dict[tuple[str, str, int, tuple[str, ...] | None], Split] = field(default_factory=dict)

    def of(self, run: Run) -> Split | str:
        """Return the split of a run; or why a sound record cannot be shown.

        That is so when its task, version or level is not in this release, or when it was made on other (partial) data.

        Raises:
            DataError: When the data are not at hand or not what the lock says.
            DamagedFile: When the record's split is not the task's although it says so.
        """
        split = self.at_hand(run)
        return split if isinstance(split, str) else _check_split(split, run.record, run) or split

    def at_hand(self, run: Run) -> Split | str:
        """Return the split of a run as the data at hand give it, whatever its record says about it; see :meth:`of`."""
        record, cell = run.record, run.record.cell
        missing = record.task.missing_samples
        key = (cell.task, cell.level, cell.draw, None if missing is None else tuple(missing))
        if key in self._known:
            return self._known[key]
        try:
            card = find_card(cell.task)
            level = card.check_level(cell.level)
        except UsageError as error:
            return str(error)
        if level != cell.level:
            raise DamagedFile(f"{run.file}: level {cell.level!r} is spelt {level!r}")
        try:
            return self._known.setdefault(key, self._find(record))
        except (NotAvailable, DataError) as error:
            # Today's data need not be those of an earlier version; that is no fault of its records.
            if isinstance(error, DataError) and superseded_by(card) is None:
                raise
            return f"its answers cannot be checked: {error}"

    def _find(self, record: Record) -> Split:
        task, missing = load_task(record.cell.task), record.task.missing_samples
        lock_key = split_key(task.card, record.cell.level, record.cell.draw)
        pinned = load_lock("splits").entries.get(task.card.task.name, {}).get(lock_key)
        if missing or missing is None or pinned is None:
            return _split(task, recorded_manifest(task, record), missing)
        key = f"split {record.cell.task} {lock_key}"
        known = self.memory.arrays(key)
        if known is not None and known[0]["pinned"] == [pinned, task.card.digest]:
            return _recalled(task, pinned, *known)
        split = _split(task, recorded_manifest(task, record), missing)
        if split.pinned == "pinned":
            self.memory.keep_arrays(key, {"pinned": [pinned, task.card.digest], **_about(split)}, _arrays(split))
        return split


def _split(task: Task, manifest: Manifest, missing: list[str] | None) -> Split:
    return Split(
        task=task,
        labels=labels_of(task, manifest),
        rows_digest=manifest.splits[TEST].digest,
        digest=manifest.digest,
        train_counts=manifest.counts(TRAIN),
        pinned=_pin_state(task, manifest, missing),
    )


def _about(split: Split) -> dict[str, Any]:
    """Return what a remembered split holds besides arrays."""
    named = {each.name: getattr(split.labels, each.name) for each in fields(split.labels)}
    labels = {name: value for name, value in named.items() if not isinstance(value, np.ndarray)}
    return {"rows_digest": split.rows_digest, "labels": labels}


def _arrays(split: Split) -> dict[str, NDArray[Any]]:
    named = {each.name: getattr(split.labels, each.name) for each in fields(split.labels)}
    return {name: value for name, value in named.items() if isinstance(value, np.ndarray)} | {
        "train_counts": split.train_counts
    }


def _recalled(task: Task, digest: str, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Split:
    """Return a split that the lock pins as it is remembered."""
    train_counts = arrays.pop("train_counts")
    said: dict[str, Any] = {**about["labels"], **arrays}
    said |= {"comparable": tuple(map(tuple, said["comparable"])), "class_family": tuple(said["class_family"])}
    return Split(task, TestLabels(**said), about["rows_digest"], digest, train_counts, "pinned")


def _pin_state(task: Task, manifest: Manifest, missing: list[str] | None) -> Pinned:
    if missing:
        return "partial"
    complete = task.listing.whole if missing is None else task.known_listing().complete
    return load_lock("splits").state(task.card, manifest, complete=complete)


def _check_split(split: Split, record: Record, run: Run) -> str | None:
    if split.digest != record.task.split_digest:
        if record.task.pinned == "pinned" and split.pinned == "pinned":
            raise DamagedFile(
                f"{run.file} was made on another split ({record.task.split_digest[:12]}…) than {record.cell.task} at "
                f"{record.cell.level}, draw {record.cell.draw} has ({split.digest[:12]}…)"
            )
        return f"its split is {record.task.pinned} and not the one at hand, so its answers cannot be checked"
    if split.train_counts.tolist() != record.task.train_counts:
        raise DamagedFile(f"{run.file}: its training counts are not those of its split")
    return None


def read_answers(
    run: Run, split: Split, stored: Mapping[str, StoredPredictions] | None = None
) -> dict[tuple[str, str], Answers]:
    """Read and check the answers of every checkpoint of a run, each file once.

    Args:
        run: The run.
        split: Its split.
        stored: What its files hold, by name, where they were read and checked already; None reads them.

    Returns:
        Answers by the file's (name, digest).

    Raises:
        DamagedFile: When a file is missing, is not the one that the record names or its arg-max, does not answer this
            test split, or gives other numbers than the record.
        NewerSchema: When the record's metrics are of a newer version.
    """
    known: dict[tuple[str, str], Answers] = {}
    for stage in run.record.stages:
        for checkpoint in stage.checkpoints:
            name = (checkpoint.predictions.file, checkpoint.predictions.sha256)
            if name not in known:
                known[name] = (
                    _read(run, split, checkpoint)
                    if stored is None
                    else _reduced(run, split, checkpoint, stored[name[0]].label)
                )
            _check_numbers(run, checkpoint, known[name])
    return known


def by_checkpoint(record: Record, known: Mapping[tuple[str, str], Answers]) -> dict[tuple[int, str], Answers]:
    """Return a run's answers by (index of the stage, selection rule)."""
    return {
        (position, checkpoint.rule): known[checkpoint.predictions.file, checkpoint.predictions.sha256]
        for position, stage in enumerate(record.stages)
        for checkpoint in stage.checkpoints
    }


def _read(run: Run, split: Split, checkpoint: CheckpointResult) -> Answers:
    rows, named = len(split.labels), checkpoint.predictions
    labels = read_labels(run.file.parent, run.record, named, rows=rows, rows_digest=split.rows_digest)
    return _recorded(run, split, checkpoint) if labels is None else _reduced(run, split, checkpoint, labels)


def _reduced(run: Run, split: Split, checkpoint: CheckpointResult, labels: NDArray[np.integer]) -> Answers:
    if int(labels.max()) >= split.labels.n_classes:
        file = run.file.parent / checkpoint.predictions.file
        raise DamagedFile(f"{file} answers with class {int(labels.max())} of {split.labels.n_classes}")
    return reduce_answers(split, labels)


def _recorded(run: Run, split: Split, checkpoint: CheckpointResult) -> Answers:
    """Return what the record says of a checkpoint whose answers were not kept."""
    values, reasons = recorded_values(checkpoint, older=is_older(run.record.metrics_version, str(run.file)))
    counted = [n for row in checkpoint.groups.correct for n in row]
    if len(counted) != len(split.sizes) or min(counted) < 0 or (np.array(counted) > split.sizes).any():
        raise DamagedFile(f"{run.file}: the record's group counts of an earlier stage are impossible")
    return Answers(split, None, values, reasons, counted)


def reduce_answers(split: Split, labels: NDArray[np.integer]) -> Answers:
    """Reduce a checkpoint's answers, labels [rows], to what the board compares."""
    test, label = split.labels, labels.astype(np.int64)
    counts = count_groups(test, label)
    values: dict[str, float | None] = {}
    weights = average_weights(test, counts.n > 0, split.train_counts)
    del weights["acc_adjusted"]  # not shown, and undefined where a training group has no test image
    found = averages(counts, weights)
    for name in ("acc_mean", *weights, "gap"):
        values[name] = float(found[name]) if name in found else None
    values["acc_worst_group"] = float(np.nanmin(accuracies(counts)))
    reasons = {name: "the test split has no such group" for name, value in values.items() if value is None}
    association = _association(test, counts, split.train_counts, label)
    for name, (value, reason) in association.items():
        values[name] = value
        if value is None:
            reasons[name] = reason
    return Answers(split, pack(label == test.y), values, reasons)


def _association(
    test: TestLabels, counts: GroupCounts, train_counts: IntArray, label: IntArray
) -> dict[str, tuple[float | None, str]]:
    if test.bias_kind == "subpopulation":
        return dict.fromkeys(("bias_retained", "flip_rate"), (None, _SUBPOPULATION))
    reason = amplification.why_not_retained(test, counts, train_counts)
    retained = None if reason else float(amplification.bias_retained(test, counts, train_counts))
    flips = None
    if test.crossed:
        agreeing = float(crossed.agreeing_pairs(crossed.answers_by_unit(test, label)).sum())
        flips = crossed.flip_rate(agreeing, len(test) / test.n_attributes, test.n_attributes)
    return {
        "bias_retained": (retained, reason or ""),
        "flip_rate": (flips, "the test is not crossed: no image under every attribute"),
    }


def _check_numbers(run: Run, checkpoint: CheckpointResult, answers: Answers) -> None:
    split, table = answers.split, checkpoint.groups
    shape = (split.labels.n_classes, split.labels.n_attributes)
    where = f"{run.file}, {checkpoint.predictions.file}"
    if table.n != split.sizes.reshape(shape).tolist() or table.correct != answers.right.reshape(shape).tolist():
        raise DamagedFile(f"{where}: the record's group counts are not those of its predictions")
    if is_older(run.record.metrics_version, str(run.file)):
        return  # shown as this version computes them
    for name, value in answers.values.items():
        recorded = checkpoint.metrics.get(name)
        said = None if recorded is None else recorded.value
        if (said is None) != (value is None) or abs((said or 0) - (value or 0)) > _TOLERANCE:
            raise DamagedFile(f"{where}: the record says {name} = {said}, its predictions give {value}")


def populated_accuracies(runs: list[Answers]) -> tuple[FloatArray, IntArray]:
    """Return the group accuracies of several runs, float [runs, groups], and the groups' test rows, int [groups]."""
    if not runs:
        raise InvalidValue("no runs to average")
    sizes = runs[0].split.sizes
    right = np.stack([answers.right for answers in runs]).astype(np.float64)
    return np.divide(right, sizes, out=np.zeros(right.shape), where=sizes > 0), sizes
