"""What may leave this machine (protocol §10): `submit`, `leaderboard push` and `leaderboard build --site` ask here.

Numbers of every task may: records, predictions, charts. Pictures of people and of ImageNet may not, nor may pools,
adapters, generators and audits that were made from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.canonical import sha256_file
from benchmark.records.kept import argmax_file, is_reduced, kept_checkpoints, named_files
from benchmark.records.predictions import read_argmax
from benchmark.records.results import ACCEPTED_FILE, MAX_RECORD_BYTES, RECORD_FILE, record_file
from benchmark.records.schema import Record
from benchmark.tasks.card import card_names, load_card
from leaderboard.load import check_plain
from leaderboard.untrusted import SUBMISSION_FILE

MAX_PREDICTIONS_BYTES = 256 * 2**20
_NUMBERS = {RECORD_FILE, ACCEPTED_FILE, SUBMISSION_FILE, "groups.png", "trajectory.png"}
_COLUMNS = ({"label", "top_probability"}, {"label"})
_IMAGENET = "imagenet"


def may_show_pictures(task: str) -> bool:
    """Return whether images of a task, real or generated, may be published.

    Args:
        task: ``name`` or ``name@version``; of a task without a card nothing may.
    """
    return why_private(task) is None


def why_private(task: str) -> str | None:
    """Return why a task's images, and what was made from them, stay on this machine; None where they need not.

    Args:
        task: ``name`` or ``name@version``.
    """
    name = task.partition("@")[0]
    if name not in card_names():
        return "no data card says whose images these are"
    card = load_card(name)
    if card.task.faces:
        return "its images show people's faces"
    if _IMAGENET in str(card.hub.get("license_name", "")):
        return "its images are ImageNet's"
    return None


def refuse_private(files: Iterable[Path], task: str) -> None:
    """Refuse to publish what protocol §10 keeps on this machine.

    Of such a task only records, predictions of the exact columns and charts of numbers pass. A picture that bears a
    chart's name passes too: nothing but records and predictions is ever sent by `submit` and `push`.

    Args:
        files: What is about to be published.
        task: The task that it belongs to, ``name`` or ``name@version``.

    Raises:
        UsageError: Naming the first such file and the rule.
    """
    reason = why_private(task)
    if reason is None:
        return
    for file in files:
        if file.name not in _NUMBERS and not _is_predictions(file):
            raise UsageError(
                f"{file} may not leave this machine: it belongs to {task}, and {reason}. Protocol §10 lets only "
                "records, predictions and charts of numbers out: no image, pool, adapter, generator or audit"
            )


def run_files(folder: Path, record: Record) -> list[Path]:
    """Return what is submitted of a run: its record and the predictions that it names, each checked.

    Raises:
        DamagedFile: When a file is missing, no plain file, too large, or not the one that the record names.
        UsageError: For an accepted run, and as :func:`refuse_private`.
    """
    if record_file(folder).name == ACCEPTED_FILE:
        raise UsageError(f"{folder} holds an accepted run, which is on the board; submit runs of your results folder")
    check_plain(folder / RECORD_FILE, MAX_RECORD_BYTES)
    files = [folder / RECORD_FILE, *_predictions(folder, record)]
    refuse_private(files, record.task.name)
    return files


def accepted_answers(folder: Path, record: Record) -> list[Path]:
    """Return what is published of an accepted run's answers, each file checked: its predictions, or what is kept.

    Raises:
        DamagedFile: As :func:`run_files`; of the arg-max, when it is not that of the predictions that the record names.
        UsageError: As :func:`refuse_private`.
    """
    files = _argmax(folder, record) if is_reduced(folder, record) else _predictions(folder, record)
    refuse_private(files, record.task.name)
    return files


def _predictions(folder: Path, record: Record) -> list[Path]:
    for file, digest in sorted({(named.file, named.sha256) for named in named_files(record)}):
        check_plain(folder / file, MAX_PREDICTIONS_BYTES)
        if sha256_file(folder / file) != digest:
            raise DamagedFile(f"{folder / file} is not the file that its record names (SHA-256 differs); run it again")
    return [folder / file for file in sorted({named.file for named in named_files(record)})]


def _argmax(folder: Path, record: Record) -> list[Path]:
    files = set()
    for named in (each.predictions for each in kept_checkpoints(record)):
        file = folder / argmax_file(named)
        files.add(file)
        check_plain(file, MAX_PREDICTIONS_BYTES)
        read_argmax(file, rows=named.rows, rows_digest=named.rows_digest, sha256=named.sha256)
    return sorted(files)


def _is_predictions(file: Path) -> bool:
    """Whether a file is predictions by its columns, whatever its name: shards of pools are Parquet files too."""
    if file.suffix != ".parquet":
        return False
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return set(pq.read_schema(file).names) in _COLUMNS
    except (OSError, ValueError, pa.ArrowException):
        return False
