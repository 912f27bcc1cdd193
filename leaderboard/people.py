"""What may leave this machine (protocol §10): `submit`, `leaderboard push` and `leaderboard build --site` ask here.

Numbers of every task may: records, predictions, charts. Pictures of people and of ImageNet may not, nor may pools,
adapters, generators and audits that were made from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.canonical import sha256_file
from benchmark.records.results import RECORD_FILE
from benchmark.records.schema import Record
from benchmark.tasks.card import card_names, load_card
from leaderboard.load import check_plain
from leaderboard.untrusted import SUBMISSION_FILE

MAX_RECORD_BYTES = 32 * 2**20
MAX_PREDICTIONS_BYTES = 256 * 2**20
_NUMBERS = {RECORD_FILE, SUBMISSION_FILE, "groups.png", "trajectory.png"}
_COLUMNS = {"label", "top_probability"}
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
    """Return what is published of a run: its record and the predictions that it names, each checked.

    Raises:
        DamagedFile: When a file is missing, no plain file, too large, or not the one that the record names.
        UsageError: As :func:`refuse_private`.
    """
    check_plain(folder / RECORD_FILE, MAX_RECORD_BYTES)
    checkpoints = [checkpoint for stage in record.stages for checkpoint in stage.checkpoints]
    named = {(part.file, part.sha256) for each in checkpoints for part in (each.predictions, *each.views.values())}
    for file, digest in sorted(named):
        check_plain(folder / file, MAX_PREDICTIONS_BYTES)
        if sha256_file(folder / file) != digest:
            raise DamagedFile(f"{folder / file} is not the file that its record names (SHA-256 differs); run it again")
    files = [folder / RECORD_FILE, *(folder / file for file in sorted({file for file, _ in named}))]
    refuse_private(files, record.task.name)
    return files


def _is_predictions(file: Path) -> bool:
    """Whether a file is predictions by its columns, whatever its name: shards of pools are Parquet files too."""
    if file.suffix != ".parquet":
        return False
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return set(pq.read_schema(file).names) == _COLUMNS
    except (OSError, ValueError, pa.ArrowException):
        return False
