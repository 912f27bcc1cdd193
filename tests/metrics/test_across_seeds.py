"""Averages over seeds, prediction intervals, and the worst group of the mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from benchmark.errors import InvalidValue
from benchmark.metrics.across_seeds import mean_over_seeds, pooled_deviation, prediction_interval, worst_group_of_mean

VALUES = np.array([0.61, 0.64, 0.58, 0.66, 0.62])


def test_the_interval_over_seeds_is_scipys_t_interval():
    found = mean_over_seeds(VALUES)
    expected = ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(0.622)
    assert found.interval == "t"


def test_one_seed_has_a_mean_and_no_interval():
    for found in (mean_over_seeds(VALUES[:1]), prediction_interval(VALUES[:1])):
        assert (found.value, found.low, found.interval) == (0.61, None, "none")
        assert "one seed" in found.reason


def test_the_worst_group_of_the_mean_is_not_the_mean_of_the_worst():
    # Each seed has another worst group.
    table = np.array([[0.2, 0.8, 0.9], [0.8, 0.2, 0.9]])
    assert worst_group_of_mean(table).value == pytest.approx(0.5)
    assert table.min(axis=1).mean() == pytest.approx(0.2)


def test_the_worst_group_of_the_mean_leaves_out_empty_groups():
    table = np.array([[0.7, np.nan], [0.5, np.nan]])
    assert worst_group_of_mean(table, np.array([10, 0])).value == pytest.approx(0.6)
    assert worst_group_of_mean(table, np.array([0, 0])).value is None
    with pytest.raises(InvalidValue):
        worst_group_of_mean(table)


def test_the_prediction_interval_holds_a_further_seed_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(4000):
        *seen, new = rng.normal(0.6, 0.03, 6)
        found = prediction_interval(np.array(seen))
        inside.append(found.low <= new <= found.high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.011)


def test_spreading_seeds_does_not_buy_a_wider_prediction_interval():
    wild = np.array([0.1, 0.9, 0.5, 0.2, 0.8])
    free, capped = prediction_interval(wild), prediction_interval(wild, pooled=0.02)
    assert capped.high - capped.low == pytest.approx((free.high - free.low) * 0.04 / wild.std(ddof=1))
    assert prediction_interval(VALUES, pooled=10.0) == prediction_interval(VALUES)


def test_the_pooled_deviation_weighs_cells_by_their_degrees_of_freedom():
    cells = [np.array([0.0, 2.0]), np.array([1.0, 1.0, 1.0]), np.array([5.0])]
    assert pooled_deviation(cells) == pytest.approx((2 / 3) ** 0.5)
    assert pooled_deviation([np.array([1.0])]) is None


def test_values_must_be_numbers():
    for wrong in (np.array([]), np.array([0.5, np.nan])):
        with pytest.raises(InvalidValue):
            mean_over_seeds(wrong)
