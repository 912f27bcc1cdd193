"""The recovered gap has null rules; foreground sensitivity follows its formula."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import InvalidValue
from benchmark.metrics.recovery import recovered_gap, recovered_gap_across_seeds, relative_foreground_sensitivity


@pytest.mark.parametrize(("method", "expected"), [(0.5, 0.0), (0.9, 1.0), (0.7, 0.5), (0.3, -0.5), (1.0, 1.25)])
def test_recovered_gap_places_a_method_between_erm_and_the_oracle(method, expected):
    assert recovered_gap(method, erm=0.5, oracle=0.9).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((None, 0.5, 0.9), "the method"),
        ((0.6, None, 0.9), "erm"),
        ((0.6, 0.5, None), "real-oracle"),
        ((0.6, 0.5, 0.509), "no gap to recover"),
        ((0.6, 0.5, 0.4), "no gap to recover"),
    ],
)
def test_recovered_gap_is_null_with_a_reason(values, reason):
    found = recovered_gap(*values)
    assert found.value is None
    assert reason in found.reason


def test_a_gap_of_one_point_counts_despite_rounding():
    assert recovered_gap(0.505, 0.5, 0.51).value == pytest.approx(0.5)


def test_recovered_gap_across_seeds_covers_the_truth():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(1000):
        arms = [rng.normal(mean, 0.02, 5) for mean in (0.7, 0.5, 0.9)]
        found = recovered_gap_across_seeds(*arms)
        inside.append(found.low <= 0.5 <= found.high)
    assert 0.92 <= np.mean(inside) <= 0.98


def test_recovered_gap_across_seeds_without_an_oracle_or_a_spread():
    three = np.array([0.6, 0.62, 0.64])
    assert recovered_gap_across_seeds(three, three - 0.1, np.array([])).value is None
    single = recovered_gap_across_seeds(np.array([0.7]), np.array([0.5]), np.array([0.9]))
    assert (single.value, single.interval) == (pytest.approx(0.5), "none")
    constant = recovered_gap_across_seeds(np.full(2, 0.7), np.full(2, 0.5), np.full(2, 0.9))
    assert constant.low == constant.high == constant.value


def test_foreground_sensitivity_of_hand_computed_classes():
    # Means .7, .3, 1, 0: (-.2)/(2*.3), .2/(2*.3), 0, 0.
    found = relative_foreground_sensitivity(np.array([0.8, 0.2, 1, 0]), np.array([0.6, 0.4, 1, 0]))
    assert found == pytest.approx((-1 / 3 + 1 / 3 + 0 + 0) / 4)
    assert relative_foreground_sensitivity(np.array([1.0]), np.array([0.0])) == -1.0


def test_foreground_sensitivity_refuses_what_is_no_accuracy():
    with pytest.raises(InvalidValue):
        relative_foreground_sensitivity(np.array([1.2]), np.array([0.5]))
    with pytest.raises(InvalidValue):
        relative_foreground_sensitivity(np.array([0.2, 0.3]), np.array([0.5]))
