"""Answering the test split from saved weights, and writing the answers down before anything is computed from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.contract.registry import load_method
from benchmark.errors import ContractViolation
from benchmark.evaluation.job import FitJob, SavedStage
from benchmark.records.canonical import sha256_file
from benchmark.records.predictions import StoredPredictions, write_predictions
from benchmark.records.schema import PredictionsFile
from benchmark.tasks.manifest import Rows
from benchmark.training.backbones import load_backbone
from benchmark.training.loop import predict
from benchmark.training.remember import load_state


def answer_stage(
    job: FitJob, stage: SavedStage, weights: Path, rows: Rows, pixels: NDArray[np.uint8], out: Path
) -> dict[str, PredictionsFile]:
    """Predict the test split with every checkpoint of a stage.

    Args:
        job: The fitting job.
        stage: The saved stage.
        weights: Folder of its weights.
        rows: The test rows.
        pixels: Their images.
        out: Where predictions go.

    Returns:
        The predictions file per selection rule; checkpoints with equal weights share one.
    """
    files: dict[str, PredictionsFile] = {}
    by_weights: dict[str, PredictionsFile] = {}
    for checkpoint in stage.checkpoints:
        if checkpoint.sha256 not in by_weights:
            model = _model(job, stage, weights / checkpoint.file)
            label, top = predict(
                model, pixels, mean=job.mean, std=job.std, device=torch.device(job.device), precision=job.precision
            )
            _check(label, top, len(rows), len(job.labels), stage.name)
            name = f"predictions-{stage.name}-{checkpoint.rule.value}.parquet"
            write_predictions(out / name, StoredPredictions(label, top, rows.digest), len(job.labels))
            by_weights[checkpoint.sha256] = PredictionsFile(
                file=name, sha256=sha256_file(out / name), rows=len(rows), rows_digest=rows.digest
            )
        files[checkpoint.rule.value] = by_weights[checkpoint.sha256]
    return files


def _model(job: FitJob, stage: SavedStage, file: Path) -> nn.Module:
    state = load_state(file)
    if stage.own_module:
        model = load_method(job.method).build(stage.spec)
        model.load_state_dict(state)
    else:
        model = load_backbone(stage.spec, state)
    return model.to(memory_format=torch.channels_last)


def _check(label: NDArray[np.int64], top: NDArray[np.float16], rows: int, classes: int, stage: str) -> None:
    if label.shape != (rows,) or label.max(initial=0) >= classes or not np.isfinite(top).all():
        raise ContractViolation(f"stage {stage!r} does not map {rows} images to finite logits of {classes} classes")
