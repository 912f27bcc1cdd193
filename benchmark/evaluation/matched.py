"""Matched samples of an invertible network (Esser 2020): the same code, decoded as the balanced and as the biased data.

One network is trained on the images of two bias levels together, and told of which level each image is. What differs
between the two decodings of a code is what the network takes for the difference of the levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.audits.auditors import Auditors
from benchmark.audits.charts import Gallery
from benchmark.audits.groups import as_value
from benchmark.audits.joint import Answers, PairShares, matched_shares
from benchmark.audits.report import Condition, Matched, Shift
from benchmark.contract.generation import Invertible
from benchmark.evaluation import report_images
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import FitJob
from benchmark.metrics.data import IntArray
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed
from benchmark.records.store import Store
from benchmark.tasks.lazy import concatenated, in_memory
from benchmark.tasks.levels import BALANCED, NAMED_LEVELS, rho_of
from benchmark.tasks.manifest import TRAIN

if TYPE_CHECKING:
    from benchmark.generators.invertible import InvertibleNetwork

MOST_CODES = 1000
_TOGETHER = 256
_SHOWN = 30
_IN_MEMORY = 1 << 30


def levels_to_match(cell: ResolvedCell) -> tuple[str, str] | None:
    """Return the least and the most biased of a task's levels; None where it offers a single one."""
    levels = cell.card.task.levels
    biased = sorted((level for level in levels if level not in NAMED_LEVELS), key=rho_of)
    order = [*([BALANCED] if BALANCED in levels else []), *biased]
    return (order[0], order[-1]) if len(order) > 1 else None


def matched(
    cell: ResolvedCell, job: FitJob, auditors: Auditors, how: Invertible, *, codes: int, progress: Progress
) -> tuple[Matched, Gallery]:
    """Train the network on two levels, decode the same codes under both, and measure the shift.

    Args:
        cell: Task and draw; it offers two levels at least.
        job: Its fitting job.
        auditors: Of the task.
        how: How the network is trained.
        codes: How many latent codes, at most :data:`MOST_CODES`.
        progress: Where to say how far it is.

    Raises:
        TrainingDiverged: When a loss is not finite.
    """
    levels = levels_to_match(cell)
    assert levels is not None
    network = _network(cell, job, how, levels, progress)
    seed = derive_seed(task=cell.card.id, purpose="matched samples")
    decoded = _decoded(network, auditors, min(codes, MOST_CODES), how.latent, seed, progress)
    answers = Answers.of(auditors, seed=seed)
    found = matched_shares(decoded.answered, answers, cell.card.law.aligned)
    conditions = [_condition(found, k, f"bias level {level}") for k, level in enumerate(levels)]
    return Matched(codes=decoded.codes, conditions=conditions), report_images.strips(decoded.shown, levels)


def _network(
    cell: ResolvedCell, job: FitJob, how: Invertible, levels: tuple[str, str], progress: Progress
) -> InvertibleNetwork:
    from benchmark.generators.invertible import InvertibleNetwork, trained_invertible

    rows = [cell.task.manifest(level, cell.manifest.draw).splits[TRAIN] for level in levels]
    both = [in_memory(cell.task.images(part, cell.image_size), _IN_MEMORY) for part in rows]
    images = concatenated(*both)
    factors = np.repeat(np.arange(len(rows), dtype=np.int64), [len(part) for part in rows])[:, None]
    device = torch.device(job.device)
    handle = progress.start(
        f"training an invertible network on levels {levels[0]} and {levels[1]}", how.autoencoder_steps + how.steps
    )
    try:
        model = trained_invertible(
            Store(job.store), images, factors, (len(rows),), how,
            seed=derive_seed(base=job.seed, task=job.task, purpose="matched samples"), device=device,
            precision="float32", progress=lambda n: progress.advance(handle, n),
        )  # fmt: skip
    finally:
        progress.finish(handle)
    return InvertibleNetwork.load(model, how, (len(rows),), cell.image_size, device)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What auditors see in the images of the codes under each condition, and the first of these images."""

    codes: int
    answered: list[tuple[IntArray, IntArray]]
    shown: list[NDArray[np.uint8]]


def _decoded(
    network: InvertibleNetwork, auditors: Auditors, codes: int, latent: int, seed: int, progress: Progress
) -> _Decoded:
    """Decode codes block by block; only the first images are kept."""
    random = torch.Generator().manual_seed(seed)
    answers: list[list[tuple[IntArray, IntArray]]] = [[], []]
    shown: list[NDArray[np.uint8]] = []
    handle = progress.start("decoding matched samples", codes)
    try:
        for start in range(0, codes, _TOGETHER):
            v = torch.randn((min(_TOGETHER, codes - start), latent), generator=random)
            for k in range(2):
                images = network.matched(v, np.full((len(v), 1), k, dtype=np.int64))
                answers[k].append((auditors.y.answers(images), auditors.a.answers(images)))
                if start == 0:
                    shown.append(images[:_SHOWN])
            progress.advance(handle, len(v))
    finally:
        progress.finish(handle)
    answered = [(np.concatenate([y for y, _ in part]), np.concatenate([a for _, a in part])) for part in answers]
    return _Decoded(codes, answered, shown)


def _condition(found: PairShares, k: int, name: str) -> Condition:
    shift = None
    if k:
        shift = Shift(
            y=[as_value(share) for share in found.y_shift[k - 1]],
            a=[as_value(share) for share in found.a_shift[k - 1]],
            conflicting=as_value(found.conflicting_shift[k - 1]),
        )
    return Condition(
        name=name,
        y=[as_value(share) for share in found.y[k]],
        a=[as_value(share) for share in found.a[k]],
        conflicting=as_value(found.conflicting[k]),
        shift=shift,
    )
