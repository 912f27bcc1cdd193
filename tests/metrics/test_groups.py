"""Accuracies by hand, from integer counts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.metrics.groups import accuracies, count_groups, expected_disparity

SIZES = np.array([[4, 2], [1, 5]])
TRAIN = np.array([[70, 10], [5, 15]])
# Right answers per group: [[3, 1], [1, 2]]
LABEL = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0])


@pytest.fixture
def found(tools):
    return tools.metrics_of(tools.grouped_test(SIZES), LABEL, TRAIN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("acc_mean", 7 / 12),
        ("acc_adjusted", (70 * 0.75 + 10 * 0.5 + 5 * 1 + 15 * 0.4) / 100),
        ("acc_group_mean", (0.75 + 0.5 + 1 + 0.4) / 4),
        ("acc_worst_group", 0.4),
        ("acc_aligned", (0.75 + 0.4) / 2),
        ("acc_conflicting", (0.5 + 1) / 2),
        ("gap", (0.75 + 0.4) / 2 - 0.75),
        ("max_disparity", 0.6),
    ],
)
def test_accuracies_equal_hand_computed_ones(found, name, value):
    assert found[name].value == pytest.approx(value, abs=1e-15)


def test_counts_are_integers_per_group(tools):
    counts = count_groups(tools.grouped_test(SIZES), LABEL)
    np.testing.assert_array_equal(counts.n, SIZES)
    np.testing.assert_array_equal(counts.correct, [[3, 1], [1, 2]])
    # Answered 0 under a = 0: three; under a = 1: one of y = 0 and three of y = 1.
    np.testing.assert_array_equal(counts.predicted, [[3, 4], [2, 3]])
    assert counts.n.dtype == counts.correct.dtype == counts.predicted.dtype == np.int64


def test_empty_groups_take_no_part_and_are_not_zero(tools):
    test = tools.grouped_test(np.array([[4, 2], [0, 5]]))
    label = np.delete(LABEL, 6)
    assert np.isnan(accuracies(count_groups(test, label))[1, 0])
    found = tools.metrics_of(test, label, TRAIN)
    assert found["acc_group_mean"].value == pytest.approx((0.75 + 0.5 + 0.4) / 3)
    assert found["acc_conflicting"].value == pytest.approx(0.5)
    assert found["acc_worst_group"].value == pytest.approx(0.4)
    assert found["acc_adjusted"].value is None
    assert "1 training group(s) have no test image" in found["acc_adjusted"].reason


def test_without_a_conflicting_group_there_is_no_gap(tools):
    found = tools.metrics_of(tools.grouped_test(np.array([[4, 0], [0, 5]])), np.zeros(9, int), TRAIN)
    for name in ("acc_conflicting", "gap"):
        assert found[name].value is None
        assert "bias-conflicting" in found[name].reason
    assert found["acc_aligned"].value == 0.5


def test_values_do_not_depend_on_the_order_of_rows(tools):
    rng = np.random.default_rng(0)
    test = tools.crossed_test(7, 3)
    label = rng.integers(0, 3, len(test))
    order = rng.permutation(len(test))
    shuffled = type(test)(
        **{**test.__dict__, "y": test.y[order], "a": test.a[order], "unit": test.unit[order]},
    )
    train = rng.integers(1, 50, (3, 3))
    first, second = tools.metrics_of(test, label, train), tools.metrics_of(shuffled, label[order], train)
    assert {k: m.value for k, m in first.items()} == {k: m.value for k, m in second.items()}


def test_expected_disparity_of_one_coin_in_each_of_two_groups():
    # |X - Y| of two fair coins is 0 or 1 with equal chance.
    assert expected_disparity(np.array([1, 1]), 0.5) == pytest.approx(0.5)
    # Four coins: all equal with chance 2/16.
    assert expected_disparity(np.array([1, 1, 1, 1]), 0.5) == pytest.approx(14 / 16)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_expected_disparity_vanishes_without_noise(accuracy):
    assert expected_disparity(np.array([10, 36, 7]), accuracy) == pytest.approx(0)


def test_expected_disparity_equals_simulation():
    rng = np.random.default_rng(1)
    sizes = np.array([36] * 60 + [35] * 20 + [180, 7])
    shares = rng.binomial(sizes, 0.8, size=(20000, len(sizes))) / sizes
    simulated = np.ptp(shares, axis=1)
    assert expected_disparity(sizes, 0.8) == pytest.approx(simulated.mean(), abs=4 * simulated.std() / 20000**0.5)
