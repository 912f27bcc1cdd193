"""Flips: one digit compared with itself under every attribute value."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import InvalidValue

TRAIN = np.array([[9, 1], [1, 9]])


def test_flip_rate_of_hand_computed_digits(tools):
    test = tools.crossed_test(1, 3)
    # Three digits, three colours each: no flip; one of three; three different answers.
    label = np.array([0, 0, 0, 1, 1, 2, 0, 1, 2])
    found = tools.metrics_of(test, label, np.ones((3, 3), int) + np.eye(3, dtype=int))
    assert found["flip_rate"].value == pytest.approx((0 + (1 - 5 / 9) + (1 - 3 / 9)) / 3)
    assert found["flip_any"].value == pytest.approx(2 / 3)


def test_a_wrong_but_steady_answer_does_not_flip(tools):
    test = tools.crossed_test(4, 2)
    found = tools.metrics_of(test, 1 - test.y, TRAIN)
    assert found["flip_rate"].value == found["flip_any"].value == 0
    # Eight digits without a flip do not prove that there is none.
    assert found["flip_any"].high == pytest.approx(1 - 0.025 ** (1 / 8))
    assert found["flip_rate"].high == pytest.approx((1 - 0.025 ** (1 / 8)) / 2)
    assert found["flip_any"].interval == "exact"


def test_tests_that_are_not_crossed_have_no_flips(tools):
    found = tools.metrics_of(tools.grouped_test(np.full((2, 2), 5)), np.zeros(20, int), TRAIN)
    assert found["flip_rate"].value is None
    assert "not crossed" in found["flip_rate"].reason


def test_a_crossed_test_must_be_crossed(tools):
    test = tools.crossed_test(2, 2)
    for broken in ({"a": np.zeros(8, int)}, {"unit": np.arange(8)}, {"y": np.arange(8) % 2}):
        with pytest.raises(InvalidValue, match="every unit exactly once"):
            type(test)(**{**test.__dict__, **broken})
