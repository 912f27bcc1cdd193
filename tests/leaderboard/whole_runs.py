"""Accepted runs as runs of one's own: a plain record and all predictions, made up where only the arg-max was kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.evaluation.scoring import CALIBRATION, recorded_manifest, score_predictions
from benchmark.records.canonical import derive_seed, sha256_file
from benchmark.records.kept import argmax_file
from benchmark.records.predictions import StoredPredictions, read_argmax, write_predictions
from benchmark.records.results import read_record, write_record
from benchmark.records.schema import PredictionsFile, Record
from benchmark.tasks.catalog import load_task


def whole_run(accepted: Path, target: Path) -> Path:
    """Write an accepted run of one stage with all its predictions and a record that fits them.

    Where these were not kept, their probabilities are made up, and the record's digests and calibration errors are
    those of the predictions so made. Its cell, and so its name, stay.

    Args:
        accepted: The folder of the accepted run.
        target: The new folder.
    """
    target.mkdir(parents=True)
    record = read_record(accepted)
    content, made = record.model_dump(mode="json"), {}
    for stage in content["stages"]:
        for checkpoint in stage["checkpoints"]:
            named = PredictionsFile(**checkpoint["predictions"])
            if (accepted / named.file).is_file():
                shutil.copyfile(accepted / named.file, target / named.file)
                continue
            if named.file not in made:
                made[named.file] = _made_up(accepted, record, named, target / named.file)
            checkpoint["metrics"] |= made[named.file]
            checkpoint["predictions"]["sha256"] = sha256_file(target / named.file)
    write_record(target, Record.model_validate(content))
    return target


def _made_up(accepted: Path, record: Record, named: PredictionsFile, file: Path) -> dict[str, Any]:
    """Write predictions with the labels that were kept, and return the metrics that their probabilities decide."""
    label = read_argmax(
        accepted / argmax_file(named), rows=named.rows, rows_digest=named.rows_digest, sha256=named.sha256
    )
    random = np.random.default_rng(derive_seed(predictions=named.sha256))
    top = random.uniform(0.2, 1.0, len(label)).astype(np.float16)
    write_predictions(file, StoredPredictions(label, top, named.rows_digest), len(record.task.labels))
    task = load_task(record.cell.task)
    metrics, _ = score_predictions(task, recorded_manifest(task, record), file)
    return {name: metrics[name].model_dump(mode="json") for name in CALIBRATION}
