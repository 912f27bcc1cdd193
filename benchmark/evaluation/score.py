"""`score`: recompute every metric of a record from its stored predictions and compare, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import DamagedFile, DataError
from benchmark.evaluation.scoring import (
    groups_differ,
    metrics_differ,
    recorded_manifest,
    rounding_against,
    score_predictions,
    score_views,
)
from benchmark.metrics.versions import is_older
from benchmark.records.canonical import sha256_file, sha256_of
from benchmark.records.results import RECORD_FILE, read_record
from benchmark.records.schema import GroupTable, MetricValue, Record
from benchmark.tasks.catalog import load_task
from benchmark.tasks.manifest import TRAIN


@dataclass(frozen=True)
class Rescored:
    """One checkpoint, recomputed.

    Attributes:
        stage: Name of the stage.
        rule: Selection rule.
        metrics: The metrics as recomputed.
        differing: Names of metrics (and ``groups``) that differ from the record; of a record of an older metrics
            version only ``groups`` can.
    """

    stage: str
    rule: str
    metrics: dict[str, MetricValue]
    differing: list[str]


def score(path: Path | str) -> tuple[Record, list[Rescored]]:
    """Recompute every metric of a record from its predictions.

    Args:
        path: The record's file or folder.

    Returns:
        The record, and each checkpoint recomputed.

    Raises:
        DamagedFile: When the record or a predictions file is damaged, or an identity does not hold.
        DataError: When the task's split is not the one that the record names.
        NewerSchema: When the record's metrics are of a newer version.
    """
    path = Path(path)
    record = read_record(path)
    folder = path if path.is_dir() else path.parent
    if record.status != "success":
        raise DamagedFile(f"{folder / RECORD_FILE} has status {record.status!r}; only a success has predictions")
    if record.kind != "run":
        raise DamagedFile(f"{folder / RECORD_FILE} is a trial of a tuning study, which has no predictions to score")
    if sha256_of(record.cell.model_dump(mode="json")) != record.cell_id:
        raise DamagedFile(f"{folder / RECORD_FILE}: cell_id is not the SHA-256 of its cell")
    older = is_older(record.metrics_version, str(folder / RECORD_FILE))
    task = load_task(f"{record.task.name}@{record.task.version}")
    manifest = recorded_manifest(task, record)
    if manifest.digest != record.task.split_digest:
        raise DataError(
            f"{folder / RECORD_FILE} was made on another split ({record.task.split_digest[:12]}…, here "
            f"{manifest.digest[:12]}…)"
        )
    if manifest.counts(TRAIN).tolist() != record.task.train_counts:
        raise DamagedFile(f"{folder / RECORD_FILE}: its training counts are not those of its split")
    if task.resampling_unit != record.task.resampling_unit:
        raise DataError(
            f"{folder / RECORD_FILE} was resampled by {record.task.resampling_unit}, the data here allow "
            f"{task.resampling_unit} only: its intervals cannot be recomputed (see the layout in the task's card)"
        )
    further = any(checkpoint.views for stage in record.stages for checkpoint in stage.checkpoints)
    views = task.views(record.task.image_size or task.card.task.pixels.size) if further else {}
    cache: dict[str, tuple[dict[str, MetricValue], GroupTable]] = {}
    results, rounding = [], rounding_against(record)
    for stage in record.stages:
        for checkpoint in stage.checkpoints:
            name = checkpoint.predictions.file
            file = folder / name
            for named in (checkpoint.predictions, *checkpoint.views.values()):
                _check_file(folder / named.file, named.sha256)
            if name not in cache:
                metrics, groups = score_predictions(task, manifest, file)
                cache[name] = metrics | score_views(folder, checkpoint.views, views), groups
            metrics, groups = cache[name]
            differing = [] if older else metrics_differ(checkpoint.metrics, metrics, rounding)
            results.append(
                Rescored(
                    stage.name,
                    checkpoint.rule,
                    metrics,
                    differing + (["groups"] if groups_differ(checkpoint.groups, groups, rounding) else []),
                )
            )
    return record, results


def _check_file(file: Path, sha256: str) -> None:
    if not file.is_file() or sha256_file(file) != sha256:
        raise DamagedFile(f"{file} is missing or not the file that the record names")
