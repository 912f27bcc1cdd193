"""Answering the test split from saved weights, and writing the answers down before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping
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
from benchmark.tasks.task import View
from benchmark.training.backbones import load_backbone
from benchmark.training.loop import predict
from benchmark.training.remember import load_state

TEST_VIEW = "test"
"""The test split among a task's views; the others are extra."""

Answers = dict[str, dict[str, PredictionsFile]]
"""Selection rule → view → file; every rule has the view :data:`TEST_VIEW`."""


def answer_stage(job: FitJob, stage: SavedStage, weights: Path, views: Mapping[str, View], out: Path) -> Answers:
    """Predict the test split, and the task's further views, with every checkpoint of a stage.

    Args:
        job: The fitting job.
        stage: The saved stage.
        weights: Folder of its weights.
        views: The test split under :data:`TEST_VIEW`, and further views by name.
        out: Where predictions go.

    Returns:
        The predictions files; checkpoints with equal weights share them.
    """
    answers: Answers = {}
    by_weights: dict[str, dict[str, PredictionsFile]] = {}
    for checkpoint in stage.checkpoints:
        if checkpoint.sha256 not in by_weights:
            model = stage_model(job, stage, weights / checkpoint.file)
            stem = f"predictions-{stage.name}-{checkpoint.rule.value}"
            by_weights[checkpoint.sha256] = {
                name: _answer(
                    job, stage.name, model, view, out / f"{stem}{'' if name == TEST_VIEW else f'-{name}'}.parquet"
                )
                for name, view in views.items()
            }
        answers[checkpoint.rule.value] = by_weights[checkpoint.sha256]
    return answers


def _answer(job: FitJob, stage: str, model: nn.Module, view: View, file: Path) -> PredictionsFile:
    rows = view.rows
    label, top = predict(
        model, view.images, mean=job.mean, std=job.std, device=torch.device(job.device), precision=job.precision
    )
    _check(label, top, len(rows), len(job.labels), stage)
    write_predictions(file, StoredPredictions(label, top, rows.digest), len(job.labels))
    return PredictionsFile(file=file.name, sha256=sha256_file(file), rows=len(rows), rows_digest=rows.digest)


def stage_model(job: FitJob, stage: SavedStage, file: Path) -> nn.Module:
    """Return a stage's classifier from one of its saved checkpoints."""
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
