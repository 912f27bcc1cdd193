"""Calibration over fifteen bins of equal mass, whatever the order of rows and however many ties."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.metrics.calibration import BINS, bin_gaps, calibration_error
from benchmark.metrics.data import Predictions
from benchmark.metrics.table import compute_metrics

TRAIN = np.array([[9, 1], [1, 9]])


def brute_force(probability, right):
    """The textbook way for distinct probabilities and a multiple of fifteen rows."""
    order = np.argsort(probability)
    return np.mean([abs(right[rows].mean() - probability[rows].mean()) for rows in np.split(order, BINS)])


def test_distinct_probabilities_give_the_textbook_value():
    rng = np.random.default_rng(0)
    probability = rng.random(15 * 40)
    right = rng.random(600) < probability**2
    assert calibration_error(probability, right) == pytest.approx(brute_force(probability, right), abs=1e-12)


def test_bins_cut_through_rows_when_the_number_does_not_divide():
    # Sixteen rows: each bin holds 16/15 rows. All wrong, so each gap is minus the mean confidence of its mass.
    probability = np.arange(1, 17) / 20
    gaps = bin_gaps(probability, np.zeros(16, dtype=bool))
    assert gaps[0] == pytest.approx(-(probability[0] + probability[1] / 15) / (16 / 15))
    assert gaps.mean() == pytest.approx(-probability.mean())


def test_one_probability_for_all_gives_the_difference_of_the_means():
    right = np.arange(100) < 70
    assert calibration_error(np.full(100, 0.9), right) == pytest.approx(0.2)


def test_ties_make_the_error_independent_of_the_order_of_rows():
    rng = np.random.default_rng(1)
    probability = rng.choice([0.5, 0.75, 1.0], 400)
    right = rng.random(400) < 0.7
    order = rng.permutation(400)
    assert calibration_error(probability, right) == calibration_error(probability[order], right[order])


def test_the_worst_group_is_the_worst_of_those_with_an_image_per_bin(tools):
    test = tools.grouped_test(np.array([[100, 14], [30, 40]]))
    label = test.y.copy()
    label[test.group == 1] = 1  # all 14 wrong at probability 1, but too few for fifteen bins
    label[np.flatnonzero(test.group == 2)[:15]] = 0
    probability = np.ones(len(test), dtype=np.float16)
    found = compute_metrics(test, Predictions(label, probability), TRAIN)
    assert found["calibration_error_worst_group"].value == pytest.approx(0.5)
    assert found["calibration_error"].value == pytest.approx(29 / 184)


def test_small_groups_everywhere_leave_the_worst_group_undefined(tools):
    test = tools.grouped_test(np.full((2, 2), 10))
    found = compute_metrics(test, Predictions(test.y, np.ones(40, np.float16)), TRAIN)["calibration_error_worst_group"]
    assert found.value is None
    assert "the largest has 10" in found.reason


def test_perfect_answers_do_not_prove_perfect_calibration(tools):
    test = tools.grouped_test(np.full((2, 2), 50))
    found = compute_metrics(test, Predictions(test.y, np.ones(200, np.float16)), TRAIN)["calibration_error"]
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 200))


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 2.0], ids=["calibrated", "overconfident"])
def test_the_band_covers_the_true_error_also_where_it_is_zero(tools, power):
    rng = np.random.default_rng(2)
    test = tools.grouped_test(np.array([[300, 100], [100, 300]]))
    fine = np.linspace(0.5, 1, 150001)
    truth = float(np.mean(fine - fine**power))
    inside, inside_worst = [], []
    for repetition in range(50):
        probability = rng.uniform(0.5, 1, len(test))
        label = np.where(rng.random(len(test)) < probability**power, test.y, 1 - test.y)
        found = compute_metrics(
            test, Predictions(label, probability.astype(np.float16)), TRAIN, seed=repetition, resamples=2
        )
        inside.append(found["calibration_error"])
        inside_worst.append(found["calibration_error_worst_group"])
    assert tools.share_inside(truth, inside) >= 0.92
    assert tools.share_inside(truth, inside_worst) >= 0.92
    assert np.mean([m.high - m.low for m in inside]) < 0.16
