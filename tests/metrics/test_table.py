"""The table of one checkpoint: complete, in order, defined or null with a reason, light to import, fast."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from benchmark.errors import InvalidValue
from benchmark.metrics.data import Metric, Predictions, TestLabels
from benchmark.metrics.registry import METRICS, METRICS_VERSION
from benchmark.metrics.table import COMPUTED, compute_metrics, group_table

TRAIN2 = np.array([[90, 10], [10, 90]])
ONLY_SPURIOUS = {
    name for name in COMPUTED if name.split("_")[0] in ("parity", "opportunity", "odds", "disparate", "bias", "flip")
}


@pytest.fixture
def random_answers(tools):
    test = tools.crossed_test(16, 4)
    rng = np.random.default_rng(0)
    label = np.where(rng.random(len(test)) < 0.6, test.y, rng.integers(0, 4, len(test))).astype(np.uint8)
    return test, Predictions(label, rng.uniform(0.3, 1, len(test)).astype(np.float16))


def test_every_metric_is_there_in_the_registry_s_order(random_answers):
    found = compute_metrics(*random_answers, np.full((4, 4), 2) + 20 * np.eye(4, dtype=int))
    assert tuple(found) == COMPUTED
    for name, metric in found.items():
        assert metric.value is not None, name
        assert metric.interval == METRICS[name].interval, name
        if metric.interval != "none":
            assert metric.low <= metric.value <= metric.high, name


def test_the_registry_says_what_docs_and_board_need():
    assert METRICS_VERSION == 1
    for name, definition in METRICS.items():
        assert definition.name == name
        assert definition.definition.endswith(".")
        assert definition.direction in ("higher", "lower", "none")
        assert definition.unit in ("share", "difference of shares", "ratio", "bits", "index")


def test_recomputing_gives_the_same_bits(random_answers):
    train = np.full((4, 4), 3) + 20 * np.eye(4, dtype=int)
    assert compute_metrics(*random_answers, train, seed=4) == compute_metrics(*random_answers, train, seed=4)


def test_subpopulation_tasks_have_accuracies_gaps_and_calibration_only(tools):
    test = tools.grouped_test(np.full((2, 2), 30), bias_kind="subpopulation")
    found = compute_metrics(test, Predictions(test.a, np.ones(120, np.float16)), TRAIN2)
    null = {name for name, metric in found.items() if metric.value is None}
    assert null == ONLY_SPURIOUS | {"accuracy_ratio"}
    assert all("only accuracies, gaps and calibration" in found[name].reason for name in null)


def test_the_group_table_lists_all_groups_and_leaves_empty_ones_null(tools):
    test = tools.grouped_test(np.array([[4, 0], [2, 3]]))
    rows = group_table(test, Predictions(np.array([0, 0, 1, 0, 1, 1, 1, 0, 1]), np.ones(9, np.float16)))
    assert [(r.y, r.a, r.n, r.correct, r.accuracy) for r in rows] == [
        (0, 0, 4, 3, 0.75),
        (0, 1, 0, 0, None),
        (1, 0, 2, 2, 1.0),
        (1, 1, 3, 2, 2 / 3),
    ]
    assert (rows[1].low, rows[1].high) == (None, None)
    # Three groups: exact intervals at level .95 ** (1/3).
    assert rows[2].low == pytest.approx(((1 - 0.95 ** (1 / 3)) / 2) ** 0.5)


def test_the_worst_group_s_interval_comes_from_the_group_table(tools):
    test = tools.grouped_test(np.array([[30, 12], [10, 40]]))
    predictions = Predictions(np.where(np.arange(92) % 4 == 0, 1 - test.y, test.y), np.ones(92, np.float16))
    worst = compute_metrics(test, predictions, TRAIN2)["acc_worst_group"]
    rows = group_table(test, predictions)
    assert worst.value == min(r.accuracy for r in rows)
    assert worst.low == min(r.low for r in rows)
    assert worst.high == min(r.high for r in rows)


@pytest.mark.parametrize(
    ("label", "probability", "message"),
    [
        (np.zeros(3, int), np.ones(4), "4 rows"),
        (np.array([0, 1, 2, 0]), np.ones(4), "2 classes"),
        (np.zeros(4, int), np.array([0.5, np.nan, 0.5, 0.5]), "probabilities"),
    ],
)
def test_predictions_that_do_not_answer_the_test_are_refused(tools, label, probability, message):
    with pytest.raises(InvalidValue, match=message):
        compute_metrics(tools.grouped_test(np.ones((2, 2), int)), Predictions(label, probability), TRAIN2)


def test_training_counts_of_another_shape_are_refused(tools):
    test = tools.grouped_test(np.ones((2, 2), int))
    with pytest.raises(InvalidValue, match="training counts"):
        compute_metrics(test, Predictions(test.y, np.ones(4)), np.ones((2, 3), int))


@pytest.mark.parametrize(
    "broken",
    [
        {"y": np.array([0, 1, 2, 1])},
        {"y": np.array([0, 1])},
        {"aligned": np.eye(3, dtype=bool)},
        {"comparable": ((0, 0),)},
        {"class_family": (0, 1)},
        {"positive_class": 2},
        {"bias_kind": "other"},
    ],
)
def test_contradictory_test_labels_are_refused(broken):
    good = {
        "y": np.array([0, 0, 1, 1]),
        "a": np.array([0, 1, 0, 1]),
        "unit": np.arange(4),
        "n_classes": 2,
        "n_attributes": 2,
        "aligned": np.eye(2, dtype=bool),
    }
    assert len(TestLabels(**good)) == 4
    with pytest.raises(InvalidValue):
        TestLabels(**{**good, **broken})


def test_a_metric_is_a_number_or_null_with_a_reason():
    for wrong in (
        {"value": None},
        {"value": float("nan")},
        {"value": 0.5, "low": 0.1},
        {"value": 1.0, "interval": "t"},
    ):
        with pytest.raises(InvalidValue):
            Metric(**wrong)
    assert Metric.undefined("because").reason == "because"


def test_importing_the_package_and_its_words_loads_no_heavy_library():
    code = (
        "import sys, benchmark.metrics\n"
        "from benchmark.metrics import across_seeds, compare, moved, ranking, registry, table\n"
        "heavy = {'scipy', 'sklearn', 'fairlearn', 'pandas', 'torch'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def seconds(tools, units, classes=10):
    test = tools.crossed_test(units, classes)
    rng = np.random.default_rng(0)
    label = np.where(rng.random(len(test)) < 0.8, test.y, test.a).astype(np.uint8)
    predictions = Predictions(label, rng.beta(5, 1, len(test)).astype(np.float16))
    train = np.full((10, 10), 1) + 80 * np.eye(10, dtype=int)
    start = time.process_time()
    compute_metrics(test, predictions, train)
    return time.process_time() - start


def test_a_demo_checkpoint_takes_at_most_two_seconds(tools):
    seconds(tools, 2)  # imports
    assert seconds(tools, 36) < 2


@pytest.mark.slow
def test_a_hundred_thousand_images_take_at_most_fifteen_seconds(tools):
    assert seconds(tools, 1000) < 15
