"""What stays of a run's answers among the accepted records.

Of a small test split all predictions stay; of a large one only the arg-max of what the board compares, in other files.
Everything was recomputed from the whole predictions when the run was accepted, and the record keeps naming them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmark.records.generations import PROCESS
from benchmark.records.schema import CheckpointResult, PredictionsFile, Record

FULL_ROWS = 2_000
"""Test images up to which an accepted run keeps all its predictions. Beyond, the probabilities, which hardly compress,
and the stages that are not ranked would fill the repository: 8 kB a checkpoint at 3,590 images, 200 kB at 100,000."""
_LAST = "last"


def is_large(record: Record) -> bool:
    """Return whether an accepted run keeps the arg-max in place of its predictions."""
    return record.task.test_rows > FULL_ROWS


def kept_checkpoints(record: Record) -> list[CheckpointResult]:
    """Return the checkpoints whose answers are compared: the ranked stage's; of a process, each generation's last."""
    earlier = record.stages[:-1] if record.method.kind == PROCESS else []
    last = [each for stage in earlier for each in stage.checkpoints if each.rule == _LAST]
    return last + [each for stage in record.stages[-1:] for each in stage.checkpoints]


def argmax_file(named: PredictionsFile) -> str:
    """Return the name of the file that holds the arg-max of a predictions file."""
    return f"argmax-{named.file.removeprefix('predictions-')}"


def is_reduced(folder: Path, record: Record) -> bool:
    """Return whether a folder holds a finished run that keeps the arg-max, whatever else lies there."""
    kept = kept_checkpoints(record)
    return bool(kept) and is_large(record) and all((folder / argmax_file(c.predictions)).is_file() for c in kept)


def answers_file(folder: Path, record: Record, named: PredictionsFile) -> Path | None:
    """Return the file of a checkpoint's answers to the test split: where none lies, the one that should.

    That is its predictions; in a folder that keeps the arg-max and not them, the arg-max; None where it keeps neither.
    """
    file = folder / named.file
    if os.path.lexists(file) or not is_reduced(folder, record):
        return file
    kept = any(each.predictions.file == named.file for each in kept_checkpoints(record))
    return folder / argmax_file(named) if kept else None


def named_files(record: Record) -> Iterator[PredictionsFile]:
    """Yield the files of answers that a record names, of further views too; a file may come more than once."""
    for stage in record.stages:
        for checkpoint in stage.checkpoints:
            yield from (checkpoint.predictions, *checkpoint.views.values())
