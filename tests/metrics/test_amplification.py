"""Bias amplification and the retained share of the bias, by hand and at their fixed points."""

from __future__ import annotations

import numpy as np
import pytest

TRAIN = np.array([[90, 10], [10, 90]])


def answers(test, rates):
    """Answer class 1 for the given share of rows under each attribute."""
    label = np.zeros(len(test), dtype=int)
    for a, rate in enumerate(rates):
        rows = np.flatnonzero(test.a == a)
        label[rows[: round(rate * len(rows))]] = 1
    return label


def test_bias_amplification_of_a_hand_computed_example(tools):
    # On the test split P(1 | a) = .5 for both; the answers have .3 and .8. Signs: + for (0,0), (1,1), else -.
    test = tools.grouped_test(np.full((2, 2), 50))
    found = tools.metrics_of(test, answers(test, (0.3, 0.8)), TRAIN)
    # (0,0): +.2, (0,1): -(-.3), (1,0): -(-.2), (1,1): +.3
    assert found["bias_amplification"].value == pytest.approx((0.2 + 0.3 + 0.2 + 0.3) / 4)
    # Training adds .4 per pair over the test's .5.
    assert found["bias_retained"].value == pytest.approx((0.2 + 0.3 + 0.2 + 0.3) / 1.6)


@pytest.mark.parametrize(
    ("rates", "retained"), [((0.5, 0.5), 0.0), ((0.1, 0.9), 1.0), ((0.0, 1.0), 1.25), ((0.9, 0.1), -1.0)]
)
def test_removed_replicated_amplified_and_reversed_bias(tools, rates, retained):
    test = tools.grouped_test(np.full((2, 2), 50))
    assert tools.metrics_of(test, answers(test, rates), TRAIN)["bias_retained"].value == pytest.approx(retained)


def test_right_answers_retain_nothing_on_any_test_mix(tools):
    test = tools.grouped_test(np.array([[72, 10], [12, 71]]))
    found = tools.metrics_of(test, test.y, np.array([[99, 1], [1, 99]]))
    assert found["bias_retained"].value == found["bias_amplification"].value == 0


def test_answering_the_attribute_in_a_crossed_test_amplifies_beyond_training(tools):
    test = tools.crossed_test(5, 4)
    train = np.full((4, 4), 5) + 85 * np.eye(4, dtype=int)
    # Given a, training has 90 of 105 in the aligned class, the test a quarter, the answers all.
    found = tools.metrics_of(test, test.a, train)
    assert found["bias_retained"].value == pytest.approx((1 - 1 / 4) / (90 / 105 - 1 / 4))
    assert found["bias_amplification"].value == pytest.approx((4 * 0.75 + 12 * 0.25) / 16)


def test_a_balanced_training_split_has_no_bias_to_amplify_or_retain(tools):
    test = tools.grouped_test(np.full((2, 2), 50))
    found = tools.metrics_of(test, answers(test, (0.3, 0.8)), np.full((2, 2), 40))
    assert found["bias_amplification"].value is None
    assert "independent" in found["bias_amplification"].reason
    assert found["bias_retained"].value is None


def test_rounding_of_group_sizes_is_no_bias_to_retain(tools):
    # Ten colours, groups of 9 or 10: the plain sum of differences is above .05, the mean per colour below.
    rng = np.random.default_rng(0)
    train = rng.integers(9, 11, (10, 10))
    test = tools.crossed_test(6, 10)
    found = tools.metrics_of(test, rng.integers(0, 10, len(test)), train)["bias_retained"]
    assert found.value is None
    assert "per attribute value" in found.reason


def test_training_and_test_with_the_same_bias_leave_nothing_to_retain(tools):
    # CelebA's official partitions, in miniature.
    found = tools.metrics_of(
        tools.grouped_test(np.array([[977, 754], [248, 18]])),
        np.zeros(1997, dtype=int),
        np.array([[71629, 66874], [22880, 1387]]),
    )
    assert found["bias_retained"].value is None
    assert found["bias_amplification"].value is not None


def test_associations_are_counted_inside_families(tools):
    # Balanced inside both families. Over all classes together every bird would be "associated" with land and water.
    sizes = np.zeros((4, 4), dtype=int)
    sizes[:2, :2] = sizes[2:, 2:] = 20
    options = {"comparable": ((0, 1), (2, 3)), "class_family": (0, 0, 1, 1)}
    test = tools.grouped_test(sizes, **options)
    label = np.random.default_rng(0).integers(0, 4, len(test))
    assert tools.metrics_of(test, label, sizes)["bias_amplification"].value is None
    assert tools.metrics_of(tools.grouped_test(sizes), label, sizes)["bias_amplification"].value is not None


def test_attribute_values_missing_in_training_or_test_are_left_out(tools):
    # a = 2 never occurs in training: what the answers do there cannot be compared with it.
    test = tools.grouped_test(np.full((2, 3), 50))
    train = np.array([[90, 10, 0], [10, 90, 0]])
    first = tools.metrics_of(test, answers(test, (0.1, 0.9, 0.2)), train)["bias_retained"]
    second = tools.metrics_of(test, answers(test, (0.1, 0.9, 1.0)), train)["bias_retained"]
    assert first.value == second.value == pytest.approx(1.0)
