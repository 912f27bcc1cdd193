"""From predictions files to what the board compares: test splits at hand, answers checked against their digests.

Everything that the board shows about a checkpoint is computed here from its predictions; the record's own numbers are
only compared with it. Intervals from test sampling are the records', and `genbias-bench score` recomputes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmark.contract.budget import Budget
from benchmark.errors import DamagedFile, InvalidValue, NotAvailable, UsageError
from benchmark.evaluation.scoring import labels_of, recorded_manifest
from benchmark.metrics import amplification, crossed
from benchmark.metrics.data import BoolArray, IntArray, TestLabels
from benchmark.metrics.groups import GroupCounts, accuracies, average_weights, averages, count_groups
from benchmark.metrics.registry import METRICS_VERSION
from benchmark.records.canonical import sha256_file
from benchmark.records.predictions import StoredPredictions, read_predictions
from benchmark.records.schema import CheckpointResult, Record
from benchmark.tasks.catalog import find_card, load_task
from benchmark.tasks.locks import Pinned, load_lock
from benchmark.tasks.manifest import TEST, TRAIN, Manifest
from benchmark.tasks.task import Task
from leaderboard.load import Run, check_plain

_BYTES_PER_ROW, _BYTES_BESIDES = 16, 2**16
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
        budget: What the protocol allows.
        pinned: Whether it is the split that the lock pins.
    """

    task: Task
    labels: TestLabels
    rows_digest: str
    digest: str
    train_counts: IntArray
    budget: Budget
    pinned: Pinned


@dataclass(frozen=True, eq=False)
class Answers:
    """One checkpoint's answers, reduced.

    Attributes:
        correct: Whether each test row is answered rightly, bool [rows].
        counts: Per group.
        values: Metrics by name; None where undefined.
        reasons: Why they are.
    """

    correct: BoolArray
    counts: GroupCounts
    values: dict[str, float | None]
    reasons: dict[str, str]


@dataclass
class Splits:
    """The splits that the records need, each computed once."""

    _known: dict[tuple[str, str, int, tuple[str, ...] | None], Split] = field(default_factory=dict)

    def of(self, run: Run) -> Split | str:
        """Return the split of a run; or why a sound record cannot be shown.

        That is so when its task, version or level is not in this release, or when it was made on other (partial) data.

        Raises:
            DataError: When the data are not at hand or not what the lock says.
            DamagedFile: When the record's split is not the task's although it says so.
        """
        record, cell = run.record, run.record.cell
        try:
            card = find_card(cell.task)
            level = card.check_level(cell.level)
        except UsageError as error:
            return str(error)
        if level != cell.level:
            raise DamagedFile(f"{run.file}: level {cell.level!r} is spelt {level!r}")
        missing = record.task.missing_samples
        key = (cell.task, cell.level, cell.draw, None if missing is None else tuple(missing))
        if key not in self._known:
            task = load_task(cell.task)
            try:
                self._known[key] = _split(task, recorded_manifest(task, record), missing)
            except NotAvailable as error:
                return f"its answers cannot be checked: {error}"
        split = self._known[key]
        return _check_split(split, record, run) or split


def _split(task: Task, manifest: Manifest, missing: list[str] | None) -> Split:
    recipe, counts = task.card.task, manifest.counts(TRAIN)
    budget = Budget.of(
        counts, per_real=recipe.synthetic.per_real, steps=recipe.training.steps, allowed=task.card.allowed_groups()
    )
    return Split(
        task=task,
        labels=labels_of(task, manifest),
        rows_digest=manifest.splits[TEST].digest,
        digest=manifest.digest,
        train_counts=counts,
        budget=budget,
        pinned=_pin_state(task, manifest, missing),
    )


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


def read_answers(run: Run, split: Split) -> dict[tuple[int, str], Answers]:
    """Read and check every predictions file of a run, each once.

    Returns:
        Answers by (index of the stage, selection rule).

    Raises:
        DamagedFile: When a file is missing, is not the one that the record names, does not answer this test split, or
            gives other numbers than the record.
    """
    found: dict[tuple[int, str], Answers] = {}
    known: dict[tuple[str, str], Answers] = {}
    for position, stage in enumerate(run.record.stages):
        for checkpoint in stage.checkpoints:
            name = (checkpoint.predictions.file, checkpoint.predictions.sha256)
            if name not in known:
                known[name] = _read(run, split, checkpoint)
            _check_numbers(run, checkpoint, known[name])
            found[position, checkpoint.rule] = known[name]
    return found


def _read(run: Run, split: Split, checkpoint: CheckpointResult) -> Answers:
    file = run.file.parent / checkpoint.predictions.file
    check_plain(file, _BYTES_PER_ROW * len(split.labels) + _BYTES_BESIDES)
    if sha256_file(file) != checkpoint.predictions.sha256:
        raise DamagedFile(f"{file} is not the file that its record names (SHA-256 differs); fetch both again")
    stored = read_predictions(file, rows=len(split.labels), rows_digest=split.rows_digest)
    if int(stored.label.max()) >= split.labels.n_classes:
        raise DamagedFile(f"{file} answers with class {int(stored.label.max())} of {split.labels.n_classes}")
    return _answers(split, stored)


def _answers(split: Split, stored: StoredPredictions) -> Answers:
    test, label = split.labels, stored.label.astype(np.int64)
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
    return Answers(label == test.y, counts, values, reasons)


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
    counts, table = answers.counts, checkpoint.groups
    where = f"{run.file}, {checkpoint.predictions.file}"
    if table.n != counts.n.tolist() or table.correct != counts.correct.tolist():
        raise DamagedFile(f"{where}: the record's group counts are not those of its predictions")
    if run.record.metrics_version != METRICS_VERSION:
        return  # shown as this version computes them
    for name, value in answers.values.items():
        recorded = checkpoint.metrics.get(name)
        said = None if recorded is None else recorded.value
        if (said is None) != (value is None) or abs((said or 0) - (value or 0)) > _TOLERANCE:
            raise DamagedFile(f"{where}: the record says {name} = {said}, its predictions give {value}")


def populated_accuracies(runs: list[Answers]) -> tuple[np.ndarray, IntArray]:
    """Return the group accuracies of several runs, float [runs, groups], and the groups' test rows, int [groups]."""
    if not runs:
        raise InvalidValue("no runs to average")
    return (
        np.stack([np.nan_to_num(accuracies(answers.counts)).ravel() for answers in runs]),
        np.asarray(runs[0].counts.n, dtype=np.int64).ravel(),
    )
