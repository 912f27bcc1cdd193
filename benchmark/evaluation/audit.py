"""What the harness measures about generated images after `fit`: auditors, copies, quality, and linear probes.

Nothing here reaches a method. A pool that no auditor can look at is recorded as null with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.audits.auditors import Auditor, Auditors, load_auditors
from benchmark.audits.correction import corrected_fidelity, raw_fidelity
from benchmark.audits.groups import EXTRACTOR, group_record, groups_seen
from benchmark.audits.joint import Answers, matched_shares
from benchmark.audits.memorised import memorised_share
from benchmark.audits.moved import moved_metrics
from benchmark.audits.probes import probe_metrics
from benchmark.audits.quality import frechet_and_kernel
from benchmark.contract.images import NO_ATTRIBUTE
from benchmark.contract.tracks import SelectionRule
from benchmark.errors import NotAvailable, TrainingDiverged
from benchmark.evaluation.answer import stage_model
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import FitJob, FitReport, Part, SavedStage
from benchmark.evaluation.scoring import metric_value
from benchmark.evaluation.used import used_images
from benchmark.generators.pools import PoolImages
from benchmark.metrics.data import Metric
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed
from benchmark.records.schema import AuditorInfo, GroupAudit, MetricValue, PoolUse
from benchmark.records.store import Store
from benchmark.tasks.lazy import Images, LazyImages
from benchmark.tasks.manifest import AUDIT, TRAIN, Rows
from benchmark.training.features import penultimate

MOST_REAL = 5000
"""Real images of the audit split that quality and probes look at."""


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
        pools: The pools of the report, with fidelity and quality filled in.
        probes: Stage → probes.
        auditors: ``y`` and ``a``, where there were any.
    """

    pools: list[PoolUse]
    probes: dict[str, dict[str, MetricValue]] = field(default_factory=dict)
    auditors: dict[Literal["y", "a"], AuditorInfo] = field(default_factory=dict)


class Audit:
    """The audit of one run.

    Args:
        cell: What was run.
        job: Its fitting job.
        train: Its training split.
        progress: Where to say how far it is.
    """

    def __init__(self, cell: ResolvedCell, job: FitJob, train: Part, progress: Progress) -> None:
        self._cell, self._job, self._train, self._progress = cell, job, train, progress
        self._store = Store(job.store)
        self._device = torch.device(job.device)
        rows = cell.manifest.splits[AUDIT]
        # In hash order, so the first ones are a random part.
        rows = rows.take(range(min(len(rows), MOST_REAL)))
        self._rows: Rows = rows
        self._real: LazyImages = cell.task.images(rows, cell.image_size)

    def look(self, report: FitReport, weights: Path) -> Findings:
        """Measure every pool of a run, and probe every stage.

        Args:
            report: What `fit` left.
            weights: Folder of the stages' weights.
        """
        if not report.pools:
            return Findings(report.pools)
        used = [used_images(self._store, use) for use in report.pools]
        auditors, why_not = auditors_of(self._cell, self._job, self._progress)
        handle = self._progress.start("auditing generated images", len(used) + len(report.stages))
        pools, probes = [], {}
        try:
            for use, images in zip(report.pools, used, strict=True):
                pools.append(self._pool(use, images, auditors, why_not))
                self._progress.advance(handle, 1)
            for stage in report.stages:
                probes[stage.name] = self._probes(stage, weights, used)
                self._progress.advance(handle, 1)
        finally:
            self._progress.finish(handle)
        return Findings(pools, probes, {} if auditors is None else auditors_info(auditors))

    def _pool(self, use: PoolUse, images: PoolImages, auditors: Auditors | None, why_not: str) -> PoolUse:
        seed = derive_seed(pool=use.rows_sha256, purpose="audit")
        quality = {
            "memorised_share": metric_value(memorised_share(images.images, self._train.images, device=self._device))
        }
        if auditors is None:
            null = metric_value(Metric(None, interval="none", reason=why_not))
            fidelity = dict.fromkeys(("y", "y_raw", "a", "a_raw"), null)
            quality |= dict.fromkeys(("fid", "kid"), null)
            return use.model_copy(update={"label_fidelity": fidelity, "quality": quality})
        # Images count under the label that they carry.
        y = images.y if use.labels is None else np.array(use.labels.y, dtype=np.int64)
        fidelity = _fidelity("y", auditors.y, images.images, y, seed)
        fidelity |= _fidelity("a", auditors.a, images.images, images.a, seed)
        real, features = auditors.y.features(self._real), auditors.y.features(images.images)
        found = frechet_and_kernel(real, features, seed=seed, extractor=EXTRACTOR)
        quality |= {name: metric_value(metric) for name, metric in found.items()}
        update: dict[str, Any] = {"label_fidelity": fidelity, "quality": quality}
        if use.own is not None or use.recipe["generation"]:
            update["groups"] = self._groups(images, y, auditors, real, features, seed)
        if use.own is not None and use.own.kind == "invertible":
            seen = auditors.y.answers(images.images), auditors.a.answers(images.images)
            answers = Answers.of(auditors, seed=seed)
            moved = moved_metrics((y, images.a), seen, auditors, answers)
            # Of the groups' table this cannot be had: there, images count under the label that they carry.
            moved["conflicting_shown"] = matched_shares([seen], answers, self._cell.card.law.aligned).conflicting[0]
            update["transfer"] = {name: metric_value(metric) for name, metric in moved.items()}
        return use.model_copy(update=update)

    def _groups(
        self,
        images: PoolImages,
        y: NDArray[np.int64],
        auditors: Auditors,
        real: NDArray[np.float32],
        features: NDArray[np.float32],
        seed: int,
    ) -> GroupAudit:
        card, rows = self._cell.card, self._rows
        shape = self._job.names.shape
        shares, shown = groups_seen(
            images.images, y, images.a, auditors, aligned=card.law.aligned, shape=shape, seed=seed,
            expected=self._cell.manifest.counts(TRAIN) > 0,
        )  # fmt: skip
        return group_record(shares, y * shape[1] + shown, features, rows.y * shape[1] + rows.a, real, shape)

    def _probes(self, stage: SavedStage, weights: Path, used: list[PoolImages]) -> dict[str, MetricValue]:
        """Probe the features of a stage as it ended: real images of the audit split beside the generated ones."""
        job = self._job
        last = next(c for c in stage.checkpoints if c.rule is SelectionRule.LAST)
        try:
            model = stage_model(job, stage, weights / last.file)
            sides: list[Images] = [self._real, *(each.images for each in used)]
            real, *fake = (
                penultimate(model, side, mean=job.mean, std=job.std, device=self._device, precision=job.precision)
                for side in sides
            )
        except NotAvailable as reason:
            null = metric_value(Metric(None, interval="none", reason=str(reason)))
            return dict.fromkeys(("a", "g", "ag"), null)
        metrics = probe_metrics(
            real, self._rows.a, np.concatenate(fake), np.concatenate([each.a for each in used]),
            units=self._cell.task.units(self._rows), seed=derive_seed(purpose="probes"),
            extractor=f"penultimate features of stage {stage.name}",
        )  # fmt: skip
        return {name: metric_value(metric) for name, metric in metrics.items()}


def _fidelity(
    name: str, auditor: Auditor, images: NDArray[np.uint8], requested: NDArray[np.int64], seed: int
) -> dict[str, MetricValue]:
    if bool((requested == NO_ATTRIBUTE).any()):
        null = Metric(None, interval="none", reason="images were asked for by class alone")
        return {name: metric_value(null), f"{name}_raw": metric_value(null)}
    answered = auditor.answers(images)
    corrected = corrected_fidelity(requested, answered, auditor.confusion, seed=seed, independent=auditor.independent)
    return {name: metric_value(corrected), f"{name}_raw": metric_value(raw_fidelity(requested, answered))}


def auditors_of(cell: ResolvedCell, job: FitJob, progress: Progress) -> tuple[Auditors | None, str]:
    """Return the auditors of a cell's task, training them when they are missing; or None and why there are none.

    Args:
        cell: Whose task.
        job: Its fitting job.
        progress: Where to say how far it is.
    """
    try:
        auditors = load_auditors(
            cell.task, store=Store(job.store), recipe=job.training, image_size=cell.image_size,
            device=torch.device(job.device), precision=job.precision, progress=progress,
        )  # fmt: skip
    except NotAvailable as reason:
        return None, str(reason)
    except TrainingDiverged as reason:
        # What there is to measure was made, so it counts.
        return None, f"the training of an auditor diverged: {reason}"
    return auditors, ""


def auditors_info(auditors: Auditors) -> dict[Literal["y", "a"], AuditorInfo]:
    """Return what a record says of the auditors."""
    return {
        each.of: AuditorInfo(
            id=each.id, trained_on=each.trained_on, tested_on=each.tested_on, confusion=each.confusion.tolist()
        )
        for each in (auditors.y, auditors.a)
    }
