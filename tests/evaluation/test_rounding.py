"""Records are recomputed to the last bit under the libraries that made them, and to rounding under others."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.evaluation.scoring import ROUNDING, alike, groups_differ, metrics_differ, rounding_against
from benchmark.records.provenance import package_versions
from benchmark.records.results import read_record
from benchmark.records.schema import MetricValue, Record

ACCEPTED = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits" / "erm"


@pytest.fixture(scope="module")
def record() -> Record:
    return read_record(next(iter(sorted(ACCEPTED.glob("0.95-seed0-*")))))


def under(record: Record, **packages: str) -> Record:
    named = {**package_versions(), **packages}
    return record.model_copy(update={"environment": record.environment.model_copy(update={"packages": named})})


def test_the_versions_of_numerical_libraries_decide(record: Record) -> None:
    assert rounding_against(under(record)) == 0.0
    assert rounding_against(under(record, torch="1.0")) == 0.0
    assert rounding_against(under(record, scipy="1.0")) == rounding_against(under(record, numpy="1.0")) == ROUNDING


def test_last_bits_differ_only_where_they_may(record: Record) -> None:
    recorded = record.stages[-1].checkpoints[0].metrics
    metric = recorded["acc_mean"]
    assert metric.low is not None
    near = {**recorded, "acc_mean": metric.model_copy(update={"low": metric.low + 1e-12})}
    far = {**recorded, "acc_mean": metric.model_copy(update={"low": metric.low + 1e-6})}
    assert metrics_differ(recorded, near, 0.0) == metrics_differ(recorded, far, ROUNDING) == ["acc_mean"]
    assert metrics_differ(recorded, near, ROUNDING) == []


def test_words_nulls_and_missing_metrics_are_never_rounded(record: Record) -> None:
    recorded = record.stages[-1].checkpoints[0].metrics
    null = MetricValue(value=None, interval="none", reason="undefined")
    other = recorded["gap"].model_copy(update={"interval": "another"})
    without = {name: metric for name, metric in recorded.items() if name != "gap"}
    for changed in ({**recorded, "gap": null}, {**recorded, "gap": other}, without):
        assert metrics_differ(recorded, changed, ROUNDING) == ["gap"]


def test_counts_of_groups_are_never_rounded(record: Record) -> None:
    groups = record.stages[-1].checkpoints[0].groups
    correct = [list(row) for row in groups.correct]
    correct[0][0] -= 1
    assert groups_differ(groups, groups.model_copy(update={"correct": correct}), ROUNDING)
    assert not groups_differ(groups, groups, 0.0)
    assert not alike([1.0], [1.0, 1.0], ROUNDING)
