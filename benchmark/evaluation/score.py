"""`score`: recompute every metric of a record from its stored predictions and compare, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.errors import DamagedFile, DataError
from benchmark.evaluation.scoring import (
    beyond_argmax,
    groups_differ,
    metrics_differ,
    recorded_manifest,
    rounding_against,
    score_argmax,
    score_predictions,
    score_views,
)
from benchmark.metrics.versions import is_older
from benchmark.records.canonical import sha256_file, sha256_of
from benchmark.records.kept import answers_file
from benchmark.records.results import read_record, record_file
from benchmark.records.schema import CheckpointResult, GroupTable, MetricValue, Record
from benchmark.tasks.catalog import load_task
from benchmark.tasks.manifest import TRAIN, Manifest
from benchmark.tasks.task import Task, View


@dataclass(frozen=True)
class Rescored:
    """One checkpoint, recomputed.

    Attributes:
        stage: Name of the stage.
        rule: Selection rule.
        metrics: The metrics as recomputed.
        differing: Names of metrics (and ``groups``) that differ from the record; of a record of an older metrics
            version only ``groups`` can.
        recorded: Names of metrics that stand as recorded: of an accepted run only the arg-max may be kept, and they
            need more.
    """

    stage: str
    rule: str
    metrics: dict[str, MetricValue]
    differing: list[str]
    recorded: list[str] = field(default_factory=list)


def score(path: Path | str) -> tuple[Record, list[Rescored]]:
    """Recompute every metric of a record from its predictions.

    Of an accepted run that keeps the arg-max of its ranked stage, what follows from that.

    Args:
        path: The record's file or folder.

    Returns:
        The record, and each checkpoint recomputed whose answers are there.

    Raises:
        DamagedFile: When the record or a predictions file is damaged, or an identity does not hold.
        DataError: When the task's split is not the one that the record names.
        NewerSchema: When the record's metrics are of a newer version.
    """
    path = Path(path)
    record = read_record(path)
    file = record_file(path) if path.is_dir() else path
    _check_scorable(record, file)
    older = is_older(record.metrics_version, str(file))
    task = load_task(f"{record.task.name}@{record.task.version}")
    manifest = recorded_manifest(task, record)
    _check_split(record, task, manifest, file)
    folder = _Folder(file.parent, record, task, manifest)
    results, rounding = [], rounding_against(record)
    for stage in record.stages:
        for checkpoint in stage.checkpoints:
            found = folder.recomputed(checkpoint)
            if found is None:
                continue
            metrics, groups, recorded = found
            compared = {name: metric for name, metric in checkpoint.metrics.items() if name not in recorded}
            differing = [] if older else metrics_differ(compared, metrics, rounding)
            if groups_differ(checkpoint.groups, groups, rounding):
                differing.append("groups")
            results.append(Rescored(stage.name, checkpoint.rule, metrics, differing, recorded))
    return record, results


class _Folder:
    """A run's answers, each file scored once."""

    def __init__(self, folder: Path, record: Record, task: Task, manifest: Manifest) -> None:
        self._folder, self._record, self._task, self._manifest = folder, record, task, manifest
        further = any(checkpoint.views for stage in record.stages for checkpoint in stage.checkpoints)
        size = record.task.image_size or task.card.task.pixels.size
        self._views: Mapping[str, View] = task.views(size) if further else {}
        self._known: dict[str, tuple[dict[str, MetricValue], GroupTable, list[str]]] = {}

    def recomputed(self, checkpoint: CheckpointResult) -> tuple[dict[str, MetricValue], GroupTable, list[str]] | None:
        """Return metrics, groups, and names of what stands as recorded; None where no answers are kept."""
        named = checkpoint.predictions
        if named.file not in self._known:
            file = answers_file(self._folder, self._record, named)
            if file is None:
                return None
            self._known[named.file] = (
                self._whole(checkpoint)
                if file.name == named.file
                else (*score_argmax(self._task, self._manifest, file, named), beyond_argmax(checkpoint.metrics))
            )
        return self._known[named.file]

    def _whole(self, checkpoint: CheckpointResult) -> tuple[dict[str, MetricValue], GroupTable, list[str]]:
        for named in (checkpoint.predictions, *checkpoint.views.values()):
            _check_file(self._folder / named.file, named.sha256)
        metrics, groups = score_predictions(self._task, self._manifest, self._folder / checkpoint.predictions.file)
        return metrics | score_views(self._folder, checkpoint.views, self._views), groups, []


def _check_scorable(record: Record, file: Path) -> None:
    if record.status != "success":
        raise DamagedFile(f"{file} has status {record.status!r}; only a success has predictions")
    if record.kind != "run":
        raise DamagedFile(f"{file} is a trial of a tuning study, which has no predictions to score")
    if sha256_of(record.cell.model_dump(mode="json")) != record.cell_id:
        raise DamagedFile(f"{file}: cell_id is not the SHA-256 of its cell")


def _check_split(record: Record, task: Task, manifest: Manifest, file: Path) -> None:
    if manifest.digest != record.task.split_digest:
        raise DataError(
            f"{file} was made on another split ({record.task.split_digest[:12]}…, here {manifest.digest[:12]}…)"
        )
    if manifest.counts(TRAIN).tolist() != record.task.train_counts:
        raise DamagedFile(f"{file}: its training counts are not those of its split")
    if task.resampling_unit != record.task.resampling_unit:
        raise DataError(
            f"{file} was resampled by {record.task.resampling_unit}, the data here allow {task.resampling_unit} only: "
            "its intervals cannot be recomputed (see the layout in the task's card)"
        )


def _check_file(file: Path, sha256: str) -> None:
    if not file.is_file() or sha256_file(file) != sha256:
        raise DamagedFile(f"{file} is missing or not the file that the record names")
