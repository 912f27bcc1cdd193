"""Executing one resolved cell: fit (here or isolated), answer the test split, compute, draw, and fill the record."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmark.contract.tracks import row_track
from benchmark.errors import ContractViolation
from benchmark.evaluation.answer import TEST_VIEW, Answers, answer_stage
from benchmark.evaluation.audit import Audit, auditors_of
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.draft import utc_now
from benchmark.evaluation.fit import run_fit
from benchmark.evaluation.isolated import answer_isolated, fit_isolated
from benchmark.evaluation.job import IN_MEMORY, FitJob, FitReport, SavedStage, make_job, split_parts
from benchmark.evaluation.pictures import draw_pictures, draw_trajectory
from benchmark.evaluation.scoring import mixture_of, score_predictions, score_views
from benchmark.progress import Progress
from benchmark.records.files import temporary_folder
from benchmark.records.provenance import environment
from benchmark.records.schema import (
    BudgetUse,
    CheckpointResult,
    Cost,
    Environment,
    GroupTable,
    Isolation,
    MetricValue,
    PredictionsFile,
    Record,
    StageResult,
)
from benchmark.tasks.lazy import in_memory, sha256_images
from benchmark.tasks.manifest import TEST, TRAIN
from benchmark.tasks.task import View
from benchmark.training.device import default_precision, describe_device, resolve_device

Score = tuple[dict[str, MetricValue], GroupTable]
"""Metrics of one file of answers, and its results by group."""


class Execution:
    """One run of a cell on one device.

    Args:
        cell: What to run.
        store: Folder of pools and trained stages.
        device: As given by the user.
        threads: CPU threads, or None for torch's default.
        force: Train again even what the store remembers.
        isolated: Fit in a process without the test split.
        progress: Where to say how far it is.
    """

    def __init__(
        self,
        cell: ResolvedCell,
        store: Path,
        device: str,
        threads: int | None,
        *,
        force: bool,
        isolated: bool,
        progress: Progress,
    ) -> None:
        self.cell, self._progress, self._isolated = cell, progress, isolated
        self._device = resolve_device(device)
        self._threads = threads or torch.get_num_threads()
        self._precision = default_precision(self._device)
        self._job = make_job(
            cell, store=store, device=str(self._device), precision=self._precision, threads=self._threads,
            remember=not force,
        )  # fmt: skip

    @property
    def environment(self) -> Environment:
        """Where it runs."""
        name, capability = describe_device(self._device)
        return environment(
            device=name, device_kind=self._device.type, cpu_capability=capability, precision=self._precision,
            threads=self._threads,
        )  # fmt: skip

    def isolation(self, *, network_blocked: bool = False, data_hidden: bool = False) -> Isolation:
        """Say what is kept from `fit`, and what could not be."""
        limits = []
        if self._isolated:
            if self.cell.task.data_folders() and not data_hidden:
                limits.append("the system does not let this process hide the task's data folders")
            limits += [] if network_blocked else ["the system does not let this process block the network"]
            if any(source.kind == "package" for source in self.cell.card.task.sources):
                limits.append("an installed package carries the source of this task, so a method could read it there")
        return Isolation(
            requested=self._isolated,
            separate_process=self._isolated,
            test_split_absent=self._isolated,
            network_blocked=network_blocked,
            limits=limits,
        )

    def share(self) -> None:
        """Make what this run shares with others, and no more: pools, adapters, filters, auditors."""
        torch.set_num_threads(self._threads)
        parts, job = split_parts(self.cell), self._job.model_copy(update={"shared_only": True, "remember": True})
        with temporary_folder(job.store / "work") as folder:
            if self._isolated:
                fit_isolated(job, parts, folder, self._progress)
            else:
                run_fit(job, parts, folder, self._progress, lambda _: None)
        auditors_of(self.cell, job, self._progress)

    def run(self, folder: Path, draft: Record) -> Record:
        """Fit, answer, compute and draw into ``folder``; returns the finished record."""
        torch.set_num_threads(self._threads)
        parts = split_parts(self.cell)
        test = self.cell.manifest.splits[TEST]
        views = {
            TEST_VIEW: View(test, self.cell.task.images(test, self.cell.image_size)),
            **self.cell.task.views(self.cell.image_size),
        }
        # They are hashed, and looked at by every checkpoint.
        views = {name: View(view.rows, in_memory(view.images, IN_MEMORY)) for name, view in views.items()}
        prepared = {name: sha256_images(part.images) for name, part in parts.items()}
        prepared |= {name: sha256_images(view.images) for name, view in views.items()}
        with temporary_folder(self._job.store / "work") as weights:
            if self._isolated:
                report = fit_isolated(self._job, parts, weights, self._progress)
                answers = answer_isolated(report, weights, views, folder)
            else:
                answers = {}

                def on_stage(stage: SavedStage) -> None:
                    answers[stage.name] = answer_stage(self._job, stage, weights, views, folder)

                report = run_fit(self._job, parts, weights, self._progress, on_stage)
            check_budget(self._job, report)
            findings = Audit(self.cell, self._job, parts[TRAIN], self._progress).look(report, weights)
        scores = self._scores(answers, views, folder)
        handle = self._progress.start("pictures", 1)
        stages = [
            self._stage_result(stage, answers[stage.name], findings.probes.get(stage.name, {}), scores)
            for stage in report.stages
        ]
        artifacts = draw_pictures(self.cell, self._job, report, stages[-1], parts[TRAIN], folder)
        artifacts |= draw_trajectory(self.cell, stages, findings.pools, folder)
        self._progress.finish(handle)
        return draft.model_copy(
            update={
                "status": "success",
                "finished": utc_now(),
                "task": draft.task.model_copy(update={"prepared_sha256": prepared}),
                "budget": budget_use(self._job, report),
                "stages": stages,
                "pools": findings.pools,
                "auditors": findings.auditors,
                "isolation": self.isolation(network_blocked=report.network_blocked, data_hidden=report.data_hidden),
                "cost": cost_of(report),
                "notes": report.notes,
                "artifacts": artifacts,
            }
        )

    def _scores(self, answers: Mapping[str, Answers], views: Mapping[str, View], folder: Path) -> dict[str, Score]:
        """Compute the metrics of every file of answers, as many at a time as there are threads; by the file's name."""
        found = {files[TEST_VIEW].file: files for rules in answers.values() for files in rules.values()}
        handle = self._progress.start("metrics", len(found))

        def score(files: Mapping[str, PredictionsFile]) -> Score:
            metrics, groups = score_predictions(self.cell.task, self.cell.manifest, folder / files[TEST_VIEW].file)
            return metrics | score_views(folder, _further(files), views), groups

        scores: dict[str, Score] = {}
        with ThreadPoolExecutor(self._threads) as pool:
            for name, each in zip(found, pool.map(score, found.values()), strict=True):
                scores[name] = each
                self._progress.advance(handle, 1)
        self._progress.finish(handle)
        return scores

    def _stage_result(
        self, stage: SavedStage, answers: Answers, probes: dict[str, MetricValue], scores: Mapping[str, Score]
    ) -> StageResult:
        checkpoints = []
        for checkpoint in stage.checkpoints:
            files = answers[checkpoint.rule.value]
            metrics, groups = scores[files[TEST_VIEW].file]
            checkpoints.append(
                CheckpointResult(
                    rule=checkpoint.rule.value,
                    track=row_track(self.cell.track, checkpoint.rule).value,
                    step=checkpoint.step,
                    weights_sha256=checkpoint.sha256,
                    predictions=files[TEST_VIEW],
                    metrics=metrics,
                    groups=groups,
                    views=_further(files),
                )
            )
        mixture = None
        if stage.mixture is not None:
            mixture = mixture_of(stage.mixture, stage.without_attribute or [0] * self.cell.task.n_classes)
        return StageResult(
            name=stage.name,
            steps=stage.steps,
            seconds=stage.seconds,
            remembered=stage.remembered,
            mixture=mixture,
            curves=stage.curves,
            checkpoints=checkpoints,
            probes=probes,
        )


def _further(files: Mapping[str, PredictionsFile]) -> dict[str, PredictionsFile]:
    return {name: file for name, file in files.items() if name != TEST_VIEW}


def check_budget(job: FitJob, report: FitReport) -> None:
    """Refuse a run that spent fewer optimiser steps than every method of the task.

    Raises:
        ContractViolation: With both numbers.
    """
    if report.steps_used and report.steps_used != job.budget.steps:
        raise ContractViolation(
            f"{job.method} used {report.steps_used} optimiser steps; every method of a task uses {job.budget.steps}"
        )


def budget_use(job: FitJob, report: FitReport) -> BudgetUse:
    """Return what a record says of the budget."""
    return BudgetUse(
        synthetic_allowed=job.budget.synthetic,
        synthetic_kept=report.synthetic_kept,
        sampled_allowed=job.budget.sampled,
        sampled=report.sampled,
        steps_allowed=job.budget.steps,
        steps_used=report.steps_used,
    )


def cost_of(report: FitReport) -> Cost:
    """Return what a record says of the cost; the wall time is known when the run has ended."""
    return Cost(
        wall_seconds=0.0,
        training_seconds=sum(stage.seconds for stage in report.stages),
        generator_seconds=report.generator_seconds,
        auxiliary_seconds=report.auxiliary_seconds,
        peak_memory_bytes=report.peak_memory_bytes,
        peak_device_memory_bytes=report.peak_device_memory_bytes,
        energy_joules=MetricValue(value=None, interval="none", reason="no energy counter was read"),
    )
