"""Executing one trial of a tuning study: fit, and judge on the validation split; the test split is not even read."""

from __future__ import annotations

from pathlib import Path

from benchmark.evaluation.cell import Configuration
from benchmark.evaluation.draft import utc_now
from benchmark.evaluation.execution import Execution, budget_use, check_budget, cost_of
from benchmark.evaluation.fit import run_fit
from benchmark.evaluation.isolated import fit_isolated
from benchmark.evaluation.job import FitReport, SavedStage, split_parts
from benchmark.evaluation.scoring import mixture_of
from benchmark.records.files import temporary_folder
from benchmark.records.schema import Record, StageResult, TrialResult
from benchmark.tasks.lazy import sha256_images


class TrialExecution(Execution):
    """One trial on one device; see :class:`~benchmark.evaluation.execution.Execution`."""

    def run(self, folder: Path, draft: Record) -> Record:
        """Fit and judge; returns the finished record, which has no answers, metrics or pictures."""
        del folder
        tried = self.cell.request.configuration
        assert tried is not None
        parts = split_parts(self.cell)
        job = self._job.model_copy(update={"judge": tried.criterion})
        with temporary_folder(job.store / "work") as weights:
            if self._isolated:
                report = fit_isolated(job, parts, weights, self._progress)
            else:
                report = run_fit(job, parts, weights, self._progress, lambda _: None)
        check_budget(job, report)
        prepared = {name: sha256_images(part.images) for name, part in parts.items()}
        return draft.model_copy(
            update={
                "status": "success",
                "finished": utc_now(),
                "task": draft.task.model_copy(update={"prepared_sha256": prepared}),
                "budget": budget_use(job, report),
                "stages": [self._unanswered(stage) for stage in report.stages],
                "pools": report.pools,
                "isolation": self.isolation(network_blocked=report.network_blocked, data_hidden=report.data_hidden),
                "cost": cost_of(report),
                "notes": report.notes,
                "trial": _result(tried, report),
            }
        )

    def _unanswered(self, stage: SavedStage) -> StageResult:
        mixture = None
        if stage.mixture is not None:
            mixture = mixture_of(stage.mixture, stage.without_attribute or [0] * self.cell.task.n_classes)
        return StageResult(
            name=stage.name, steps=stage.steps, seconds=stage.seconds, remembered=stage.remembered, mixture=mixture,
            curves=stage.curves, checkpoints=[], probes={},
        )  # fmt: skip


def _result(tried: Configuration, report: FitReport) -> TrialResult:
    assert report.judged is not None
    return TrialResult(study=tried.study, number=tried.trial, criterion=tried.criterion.value, value=report.judged)
