"""A run's answers in its folder: read whole or as the arg-max that was kept, and written as accepted runs keep them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.canonical import sha256_file
from benchmark.records.files import write_bytes
from benchmark.records.kept import answers_file, argmax_file, is_large, is_reduced, kept_checkpoints, named_files
from benchmark.records.predictions import read_argmax, read_predictions, write_argmax
from benchmark.records.results import ACCEPTED_FILE, accepted_text, compressed
from benchmark.records.schema import CheckpointResult, PredictionsFile, Record
from leaderboard.load import check_plain

_BYTES_PER_ROW, _BYTES_BESIDES = 16, 2**16
_SHOWN = (
    "acc_mean", "acc_group_mean", "acc_aligned", "acc_conflicting", "gap", "acc_worst_group", "bias_retained",
    "flip_rate",
)  # fmt: skip
"""What the board computes of a checkpoint."""
_OTHER_VERSION = "recorded by an earlier metrics version, and its answers were not kept"


def most_bytes(rows: int) -> int:
    """Return how large a predictions file of so many rows may be."""
    return _BYTES_PER_ROW * rows + _BYTES_BESIDES


def check_digest(file: Path, sha256: str, named: PredictionsFile) -> None:
    """Refuse a file of another content than its record names.

    Raises:
        DamagedFile: When the digests differ.
    """
    if sha256 != named.sha256:
        raise DamagedFile(f"{file} is not the file that its record names (SHA-256 differs); fetch both again")


def read_labels(
    folder: Path, record: Record, named: PredictionsFile, *, rows: int, rows_digest: str
) -> NDArray[np.integer] | None:
    """Return a checkpoint's answers to the test split, labels [rows]; None where none are kept.

    Args:
        folder: The run's.
        record: Its record.
        named: The checkpoint's predictions.
        rows: Rows of the test split.
        rows_digest: Digest of these rows.

    Raises:
        DamagedFile: When a file is missing, is not the one that the record names or its arg-max, or does not answer
            this test split.
    """
    file = answers_file(folder, record, named)
    if file is None:
        return None
    check_plain(file, most_bytes(rows))
    if file.name != named.file:
        return read_argmax(file, rows=rows, rows_digest=rows_digest, sha256=named.sha256)
    check_digest(file, sha256_file(file), named)
    return read_predictions(file, rows=rows, rows_digest=rows_digest).label


def read_files(folder: Path, record: Record) -> set[str]:
    """Return the names of what :func:`read_labels` reads of a run; ``.`` is the folder, where that may change."""
    predictions = (each.predictions for stage in record.stages for each in stage.checkpoints)
    files = {file.name for each in predictions if (file := answers_file(folder, record, each)) is not None}
    return files | ({"."} if is_reduced(folder, record) else set())


def recorded_values(checkpoint: CheckpointResult, *, older: bool) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return what the board shows of a checkpoint whose answers were not kept, and why some of it is undefined.

    Args:
        checkpoint: As recorded.
        older: Whether its metrics are of an older version, so that they are not to be shown as today's.
    """
    found = {} if older else {name: each for name, each in checkpoint.metrics.items() if name in _SHOWN}
    values = {name: found[name].value if name in found else None for name in _SHOWN}
    absent = _OTHER_VERSION if older else "not recorded"
    reasons = {name: (found[name].reason or absent) if name in found else absent for name in _SHOWN}
    return values, {name: reason for name, reason in reasons.items() if values[name] is None}


def check_whole(file: Path, record: Record, *, accepted: bool) -> None:
    """Refuse a run that keeps the arg-max alone, unless its numbers were recomputed when it was accepted before.

    Raises:
        UsageError: When it is such a run.
    """
    if is_reduced(file.parent, record) and not accepted:
        raise UsageError(
            f"{file} lies beside the arg-max of its predictions and was never accepted, so its numbers cannot be "
            "recomputed; give the run with all its predictions"
        )


def keep_run(source: Path, record: Record, target: Path) -> None:
    """Write a run as accepted ones lie: its record, compressed, and what is kept of its answers.

    Args:
        source: The run's folder; it may keep its answers so already.
        record: Its record, checked against the answers.
        target: The new folder.

    Raises:
        DamagedFile: When a file is not the one that the record names.
    """
    write_bytes(target / ACCEPTED_FILE, compressed(accepted_text(record)))
    if not is_large(record):
        for named in named_files(record):
            check_plain(source / named.file, most_bytes(named.rows))
            shutil.copyfile(source / named.file, target / named.file)
            check_digest(source / named.file, sha256_file(target / named.file), named)
        return
    if not is_reduced(source, record):
        for named in named_files(record):
            check_plain(source / named.file, most_bytes(named.rows))
            check_digest(source / named.file, sha256_file(source / named.file), named)
    for checkpoint in kept_checkpoints(record):
        named = checkpoint.predictions
        labels = read_labels(source, record, named, rows=named.rows, rows_digest=named.rows_digest)
        assert labels is not None
        write_argmax(target / argmax_file(named), labels, rows_digest=named.rows_digest, sha256=named.sha256)
