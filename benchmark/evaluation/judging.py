"""How a trial of a tuning study is judged: its last stage's cross-entropy on validation images (protocol §3)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import NotApplicable, TrainingDiverged
from benchmark.evaluation.answer import stage_model
from benchmark.evaluation.job import FitJob, Part, SavedStage
from benchmark.tasks.manifest import VALIDATION
from benchmark.training.features import Normaliser, logits_of
from benchmark.training.pixels import Pixels


def apart(parts: dict[str, Part], track: Track) -> tuple[dict[str, Part], Part]:
    """Return what a trial's `fit` sees of the splits, and the validation images that judge it.

    A method that trains on validation images (track ``val-train``) sees every second image of each group and is judged
    on the others, as Kirichenko 2023 chose DFR's settings; all others are judged on the whole split. A method of track
    ``train`` that trains on validation images too cannot be told from others: it is judged on what it has seen.

    Args:
        parts: The splits by name.
        track: The track of the method.
    """
    whole = parts[VALIDATION]
    if track is not Track.VALIDATION_TRAINS:
        return parts, whole
    # By group, each in its order, so that both halves have as many of each as can be.
    order = np.lexsort((np.arange(len(whole.y)), whole.a, whole.y))
    first, second = np.sort(order[::2]), np.sort(order[1::2])
    return {**parts, VALIDATION: _taken(whole, first)}, _taken(whole, second)


def _taken(part: Part, rows: np.ndarray) -> Part:
    return Part(part.images[rows], part.y[rows], part.a[rows])


def judge(job: FitJob, stage: SavedStage, folder: Path, part: Part) -> float:
    """Return the cross-entropy of a stage on validation images.

    By the job's rule it is the mean over images (``val-average``) or over those of the worst populated group
    (``val-worst-group``). The stage's checkpoint under this rule is judged, or the only one that it has.

    Args:
        job: The fitting job.
        stage: The saved last stage.
        folder: Folder of its weights.
        part: Validation images.

    Raises:
        NotApplicable: When there is no validation image.
        TrainingDiverged: When it is not finite.
    """
    if not len(part.y):
        raise NotApplicable("the task has no validation image at this bias level, so no configuration can be judged")
    by_rule = {checkpoint.rule: checkpoint for checkpoint in stage.checkpoints}
    checkpoint = by_rule.get(job.judge or SelectionRule.LAST, by_rule[SelectionRule.LAST])
    device = torch.device(job.device)
    model = stage_model(job, stage, folder / checkpoint.file).to(device)
    normalise = Normaliser(job.mean, job.std, device)
    logits = logits_of(model, Pixels(part.images, device, limit=0), normalise, device, job.precision)
    each = functional.cross_entropy(logits, torch.tensor(part.y, device=device), reduction="none").double().cpu()
    value = float(each.mean())
    if job.judge is SelectionRule.VALIDATION_WORST_GROUP:
        group = torch.tensor(part.y * len(job.attributes) + part.a)
        value = max(float(each[group == number].mean()) for number in group.unique())
    if not math.isfinite(value):
        raise TrainingDiverged(f"the cross-entropy on validation images is {value}")
    return value
