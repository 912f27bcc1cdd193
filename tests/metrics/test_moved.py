"""Bias that moves to an attribute which the task does not name is seen at fixed (y, a)."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import InvalidValue
from benchmark.metrics.moved import bias_moved


@pytest.fixture
def world(tools):
    test = tools.grouped_test(np.full((2, 2), 40))
    return test, np.arange(160) % 2


def wrong_share(test, other, shares):
    """Answers that are wrong for a share of the rows of each value of the other attribute, in every group alike."""
    label = test.y.copy()
    for group in range(4):
        for value, share in enumerate(shares):
            rows = np.flatnonzero((test.group == group) & (other == value))
            label[rows[: round(share * len(rows))]] ^= 1
    return label


def test_moved_bias_is_the_change_of_the_gap_against_erm(world):
    test, other = world
    found = bias_moved(test, other, wrong_share(test, other, (0.0, 0.4)), wrong_share(test, other, (0.2, 0.1)))
    assert found.value == pytest.approx(0.4 - 0.1)
    assert found.low < found.value < found.high
    assert found.interval == "bootstrap-band"


def test_an_error_that_the_task_s_own_attribute_explains_has_not_moved(world):
    test, other = world
    label = np.where(test.a == 1, 1 - test.y, test.y)
    assert bias_moved(test, other, label, test.y).value == 0.0


def test_small_cells_and_unknown_values_are_left_out(world):
    test, other = world
    rare = np.where(np.arange(160) % 40 == 0, 2, other)  # one row per group
    label = np.where(rare == 2, 1 - test.y, test.y)
    assert bias_moved(test, rare, label, test.y).value == 0.0
    assert "unknown everywhere" in bias_moved(test, np.full(160, -1), label, test.y).reason
    assert "no group has 10" in bias_moved(test, np.arange(160), label, test.y).reason


def test_the_band_covers_no_change_between_equally_good_methods(world):
    test, other = world
    rng = np.random.default_rng(0)
    inside = []
    for seed in range(60):
        first, second = (np.where(rng.random(160) < 0.8, test.y, 1 - test.y) for _ in range(2))
        found = bias_moved(test, other, first, second, seed=seed)
        inside.append(found.low <= 0 <= found.high)
    assert np.mean(inside) >= 0.92


def test_columns_must_answer_every_row(world):
    test, other = world
    with pytest.raises(InvalidValue, match="160 rows"):
        bias_moved(test, other[:-1], test.y, test.y)


def test_groups_with_one_value_only_do_not_dilute_the_mean(world):
    test, other = world
    lone = np.where(test.group == 3, 0, other)
    label = wrong_share(test, other, (0.0, 0.4))
    label[test.group == 3] = test.y[test.group == 3]
    assert bias_moved(test, lone, label, test.y).value == pytest.approx(0.4)
