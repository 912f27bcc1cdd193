"""From stored predictions to the numbers of a record: the same function for `evaluate` and `score`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.ablations import ablation_metrics
from benchmark.metrics.data import GroupResult, IntArray, Metric, Predictions, TestLabels
from benchmark.metrics.information import information_y_a, information_y_ag
from benchmark.metrics.registry import METRICS
from benchmark.metrics.table import compute_metrics, group_table
from benchmark.records.canonical import derive_seed
from benchmark.records.predictions import read_argmax, read_predictions
from benchmark.records.provenance import package_versions
from benchmark.records.schema import GroupTable, MetricValue, Mixture, PredictionsFile, Record
from benchmark.tasks.manifest import TEST, TRAIN, Manifest
from benchmark.tasks.task import Task, View

ROUNDING = 1e-9
"""What other versions of numerical libraries may change of a metric or of an end of its interval."""
CALIBRATION = ("calibration_error", "calibration_error_worst_group")
"""What needs the probabilities; all other metrics of the test split follow from the arg-max."""
_NUMERICAL = ("numpy", "scipy")


def recorded_manifest(task: Task, record: Record) -> Manifest:
    """Return the split that a record was made on: without the samples that it names as missing.

    Where it lacked too many to name, the split of what is at hand here.
    """
    if record.task.missing_samples is None:
        return task.manifest(record.task.level, record.task.draw)
    return task.manifest_without(record.task.level, record.task.draw, frozenset(record.task.missing_samples))


def labels_of(task: Task, manifest: Manifest) -> TestLabels:
    """Return the labels of the test split with what the card declares about them."""
    block, rows = task.card.task, manifest.splits[TEST]
    aligned = np.zeros((task.n_classes, task.n_attributes), dtype=np.bool_)
    aligned[np.arange(task.n_classes), list(task.card.law.aligned)] = True
    index = {value: k for k, value in enumerate(block.attribute.values)}
    names = task.units(rows)
    units = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return TestLabels(
        y=rows.y,
        a=rows.a,
        unit=np.array([units[name] for name in names], dtype=np.int64),
        n_classes=task.n_classes,
        n_attributes=task.n_attributes,
        aligned=aligned,
        comparable=tuple(tuple(index[value] for value in family) for family in block.attribute_family),
        class_family=tuple((block.class_family or {}).get(label, 0) for label in block.label.values),
        crossed=block.test == "crossed",
        bias_kind=block.bias_kind,
        positive_class=None if block.positive_class is None else block.label.values.index(block.positive_class),
        ranking_metric=block.ranking_metric,
    )


def score_predictions(task: Task, manifest: Manifest, file: Path) -> tuple[dict[str, MetricValue], GroupTable]:
    """Compute every metric of one checkpoint from its predictions file alone.

    Raises:
        DamagedFile: When the file does not answer this test split.
    """
    rows = manifest.splits[TEST]
    stored = read_predictions(file, rows=len(rows), rows_digest=rows.digest)
    return score_answers(task, manifest, Predictions(stored.label, stored.top_probability))


def score_argmax(
    task: Task, manifest: Manifest, file: Path, named: PredictionsFile
) -> tuple[dict[str, MetricValue], GroupTable]:
    """Compute every metric of one checkpoint that follows from the arg-max of the predictions that its record names.

    Raises:
        DamagedFile: When the file is not that, or does not answer this test split.
    """
    rows = manifest.splits[TEST]
    label = read_argmax(file, rows=len(rows), rows_digest=rows.digest, sha256=named.sha256)
    # Any probabilities would do: what depends on them is left out.
    predictions = Predictions(label, np.ones(len(label), np.float16))
    metrics, groups = score_test(
        labels_of(task, manifest), rows.digest, manifest.counts(TRAIN), predictions, bands=False
    )
    return {name: metric for name, metric in metrics.items() if name not in CALIBRATION}, groups


def beyond_argmax(recorded: Mapping[str, MetricValue]) -> list[str]:
    """Return the names of a checkpoint's metrics that need its probabilities, or its answers to further views."""
    return [name for name in recorded if name in CALIBRATION or (name in METRICS and METRICS[name].scope == "views")]


def score_answers(
    task: Task, manifest: Manifest, predictions: Predictions
) -> tuple[dict[str, MetricValue], GroupTable]:
    """Compute every metric of one checkpoint from its answers."""
    rows = manifest.splits[TEST]
    return score_test(labels_of(task, manifest), rows.digest, manifest.counts(TRAIN), predictions)


def score_test(
    test: TestLabels, rows_digest: str, train_counts: IntArray, predictions: Predictions, *, bands: bool = True
) -> tuple[dict[str, MetricValue], GroupTable]:
    """Compute every metric of one checkpoint from its answers to a test split that is at hand.

    Args:
        test: The test split's labels.
        rows_digest: Digest of its rows.
        train_counts: Images of the real training split, int [n_classes, n_attributes].
        predictions: The answers.
        bands: Also resample the bands of the calibration errors, by far the dearest part.
    """
    # The bootstrap's seed depends on the test split only, so two methods are resampled alike.
    seed = derive_seed(test=rows_digest, purpose="bootstrap")
    metrics = compute_metrics(test, predictions, train_counts, seed=seed, bands=bands)
    table = _table((test.n_classes, test.n_attributes), group_table(test, predictions))
    return {name: metric_value(metric) for name, metric in metrics.items()}, table


def score_views(
    folder: Path, files: Mapping[str, PredictionsFile], views: Mapping[str, View]
) -> dict[str, MetricValue]:
    """Compute the metrics of a task's further views from the answers in a run's folder; none where there are none.

    Raises:
        DamagedFile: When a file does not answer its view's rows.
    """
    if not files:
        return {}
    answers = {}
    for name, file in files.items():
        rows = views[name].rows
        answers[name] = read_predictions(folder / file.file, rows=len(rows), rows_digest=rows.digest).label
    return view_metrics(views, answers)


def view_metrics(views: Mapping[str, View], answers: Mapping[str, NDArray[np.integer]]) -> dict[str, MetricValue]:
    """Compute the metrics of a task's further views from the answers to them, labels [rows] by view."""
    rows = [views[name].rows for name in answers][-1]
    seed = derive_seed(test=rows.digest, purpose="bootstrap of views")
    found = ablation_metrics(rows.y, dict(answers), seed=seed)
    return {name: metric_value(metric) for name, metric in found.items()}


def metric_value(metric: Metric) -> MetricValue:
    """Turn a computed metric into a record's."""
    return MetricValue(**asdict(metric))


def _table(shape: tuple[int, int], groups: list[GroupResult]) -> GroupTable:
    n, correct = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    low: list[list[float | None]] = [[None] * shape[1] for _ in range(shape[0])]
    high: list[list[float | None]] = [[None] * shape[1] for _ in range(shape[0])]
    for group in groups:
        n[group.y, group.a], correct[group.y, group.a] = group.n, group.correct
        low[group.y][group.a], high[group.y][group.a] = group.low, group.high
    return GroupTable(n=n.tolist(), correct=correct.tolist(), low=low, high=high)


def mixture_of(table: list[list[list[int]]], without_attribute: list[int]) -> Mixture:
    """Describe a stage's training set: its counts, I(Y;A) and I(Y;(A,G)) in bits."""
    counts: NDArray[np.int64] = np.array(table, dtype=np.int64)
    return Mixture(
        real=counts[..., 0].tolist(),
        synthetic=counts[..., 1].tolist(),
        synthetic_without_attribute=without_attribute,
        information_y_a=metric_value(information_y_a(counts, sum(without_attribute))),
        information_y_ag=metric_value(information_y_ag(counts, sum(without_attribute))),
    )


def rounding_against(record: Record) -> float:
    """Return by how much recomputed numbers may differ from a record's: not at all under the same numerical libraries.

    Other versions of numpy and scipy give other last bits of quantiles and sums.
    """
    here, there = package_versions(), record.environment.packages
    return 0.0 if all(here.get(name) == there.get(name) for name in _NUMERICAL) else ROUNDING


def metrics_differ(
    recorded: Mapping[str, MetricValue], computed: Mapping[str, MetricValue], rounding: float
) -> list[str]:
    """Return the names of metrics that differ by more than rounding, or that only one side has."""
    names = sorted(set(recorded) | set(computed))
    return [name for name in names if not alike(_plain(recorded.get(name)), _plain(computed.get(name)), rounding)]


def groups_differ(recorded: GroupTable, computed: GroupTable, rounding: float) -> bool:
    """Say whether the results by group differ: counts at all, their intervals by more than rounding."""
    return not alike(recorded.model_dump(mode="json"), computed.model_dump(mode="json"), rounding)


def alike(one: Any, other: Any, rounding: float) -> bool:
    """Compare plain values; floats may differ by so much."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= rounding
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key], rounding) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(*pair, rounding) for pair in zip(one, other, strict=True))
    return bool(one == other)


def _plain(value: MetricValue | None) -> Any:
    return None if value is None else value.model_dump(mode="json")
