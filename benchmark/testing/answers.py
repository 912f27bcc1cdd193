"""What a saved stage answers: finite logits of the right shape, the same twice, each image for itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmark.evaluation.answer import stage_model
from benchmark.evaluation.job import FitJob, SavedStage
from benchmark.records.canonical import sha256_hex
from benchmark.tasks.lazy import Images
from benchmark.testing.watch import Watch
from benchmark.training.features import Normaliser

_IMAGES = 32
_TOLERANCE = 1e-3


def answers_digest(job: FitJob, stage: SavedStage, file: Path, images: Images, watch: Watch) -> str:
    """Let a stage's last checkpoint answer some images, note what is wrong, and return the digest of its answers."""
    model = stage_model(job, stage, file).eval()
    pixels = torch.from_numpy(np.asarray(images[np.arange(min(len(images), _IMAGES))]).copy()).permute(0, 3, 1, 2)
    batch = Normaliser(job.mean, job.std, torch.device(job.device))(pixels)
    name = f"stage {stage.name!r}"
    with torch.inference_mode(), torch.random.fork_rng():
        logits = model(batch)
        if problem := _shape_problem(logits, (len(batch), len(job.labels))):
            watch.note("answers", f"{name} {problem}")
            return ""
        again, alone = model(batch), model(batch[:1])
    if not torch.equal(logits, again):
        watch.note("answers", f"{name} answers the same images differently the second time, in evaluation mode")
    elif not torch.allclose(logits[:1], alone, atol=_TOLERANCE, rtol=_TOLERANCE):
        watch.note("answers", f"{name} answers an image differently when others stand beside it")
    return sha256_hex(logits.argmax(1).numpy().tobytes())


def _shape_problem(logits: object, wanted: tuple[int, int]) -> str:
    if not isinstance(logits, torch.Tensor):
        return f"answers with a {type(logits).__name__}, not with a tensor of logits"
    if tuple(logits.shape) != wanted:
        return f"answers {wanted[0]} images with logits of shape {list(logits.shape)}, not {list(wanted)}"
    if not logits.is_floating_point():
        return f"answers with {logits.dtype}, not with floating-point logits"
    if not bool(torch.isfinite(logits).all()):
        return "answers with logits that are not finite"
    return ""
