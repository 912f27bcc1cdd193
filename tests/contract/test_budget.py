"""Budgets and plans, computed by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from benchmark.contract.budget import Budget, usb_total
from benchmark.contract.tracks import Track
from benchmark.errors import BudgetExceeded, InvalidValue, UndeclaredGroupLabels

ALL = np.ones((3, 2), dtype=bool)


def budget_of(counts: Any, per_real: str = "2", allowed: np.ndarray | None = None) -> Budget:
    table = np.array(counts)
    everything = np.ones(table.shape, dtype=bool) if allowed is None else allowed
    return Budget.of(table, per_real=Fraction(per_real), steps=100, allowed=everything)


def test_usb_fills_every_group_up_to_the_largest() -> None:
    assert usb_total(np.array([[6, 1], [0, 5], [2, 4]])) == 0 + 5 + 6 + 1 + 4 + 2
    # FFR's UTKFace at .95: 16.2 thousand images.
    assert usb_total(np.array([[934, 50], [302, 5731]])) == 3 * 5731 - 934 - 50 - 302


def test_b_is_the_smaller_of_usb_s_total_and_a_multiple_of_the_real_images() -> None:
    counts = [[6, 1], [0, 5], [2, 4]]  # USB 18, N 18
    assert [budget_of(counts, c).synthetic for c in ("2", "1", "0.5", "0.25", "0")] == [18, 18, 9, 5, 0]
    assert budget_of(counts, "0.25").synthetic == 5  # 4.5, halves up
    assert budget_of([[5, 5], [5, 5]]).synthetic == 0


def test_twice_b_may_be_sampled() -> None:
    assert budget_of([[6, 1], [0, 5], [2, 4]]).sampled == 36


def test_groups_that_cannot_be_count_neither_in_b_nor_in_plans() -> None:
    allowed = np.array([[True, True, False], [False, True, True]])
    budget = budget_of([[8, 2, 0], [0, 3, 7]], "5", allowed)
    assert budget.synthetic == 6 + 5 + 1
    assert budget.groups == [(0, 0), (0, 1), (1, 1), (1, 2)]
    assert budget.balanced() == {(0, 0): 3, (0, 1): 3, (1, 1): 3, (1, 2): 3}
    with pytest.raises(InvalidValue, match=r"group \(0, 2\), which cannot be"):
        budget.check({(0, 2): 1})


def test_add_gives_every_group_the_same_and_the_first_groups_the_rest() -> None:
    budget = budget_of([[6, 1], [0, 5], [2, 4]], "0.8")  # 14.4 → 14
    assert budget.synthetic == 14
    assert budget.balanced() == {(0, 0): 3, (0, 1): 3, (1, 0): 2, (1, 1): 2, (2, 0): 2, (2, 1): 2}
    assert sum(budget.balanced().values()) == 14
    assert budget_of([[6, 1], [0, 5], [2, 4]], "0.1").balanced() == {(0, 0): 1, (0, 1): 1}


def test_add_by_class_names_no_attribute() -> None:
    budget = budget_of([[6, 1], [0, 5], [2, 4]], "0.8")
    assert budget.balanced_by_class() == {(0, None): 5, (1, None): 5, (2, None): 4}


def test_fill_pours_into_the_smallest_group_first(contract: Any) -> None:
    train = contract.images_of(contract.groups_of(contract.counts), granted=Track.TRAIN)
    # 6 1 / 0 5 / 2 4: nine images lift 0, 1, 2 to 4, 4, 4; that takes 4 + 3 + 2.
    assert budget_of(contract.counts, "0.5").fill(train) == {(0, 1): 3, (1, 0): 4, (2, 0): 2}
    # All eighteen make every group six.
    assert budget_of(contract.counts).fill(train) == {(0, 1): 5, (1, 0): 6, (1, 1): 1, (2, 0): 4, (2, 1): 2}
    # Five: 0 → 1, then the two ones by index, then the rest: 3, 2, 2 → 2, 2, 2 and one more for (0, 1).
    assert budget_of(contract.counts, "0.25").fill(train) == {(0, 1): 2, (1, 0): 3}


def test_fill_for_copies_leaves_empty_groups_empty(contract: Any) -> None:
    train = contract.images_of(contract.groups_of(contract.counts), granted=Track.TRAIN)
    plan = budget_of(contract.counts, "0.5").fill(train, populated_only=True)
    # 1 and 2 rise with 4: 1 → 5, 2 → 5, 4 → 5 take 4 + 3 + 1, the ninth goes to the first group of five.
    assert plan == {(0, 1): 5, (2, 0): 3, (2, 1): 1}
    assert sum(plan.values()) == 9


def test_fill_by_class_needs_no_group_labels(contract: Any) -> None:
    train = contract.images_of(contract.groups_of(contract.counts))
    # 7, 5, 6 images: nine more make nine each.
    assert budget_of(contract.counts, "0.5").fill_by_class(train) == {(0, None): 2, (1, None): 4, (2, None): 3}


def test_a_placebo_keeps_the_classes_and_repeats_the_bias(contract: Any) -> None:
    train = contract.images_of(contract.groups_of(contract.counts), granted=Track.TRAIN)
    budget = budget_of(contract.counts)
    plan = {(0, 1): 5, (1, 0): 6, (1, 1): 1, (2, 0): 4, (2, 1): 2}
    # Class 0: 5 over 6:1 → 4.29 and .71 → 4 and 1. Class 1: 7 over 0:5. Class 2: 6 over 2:4.
    assert budget.like_training(train, plan) == {(0, 0): 4, (0, 1): 1, (1, 1): 7, (2, 0): 2, (2, 1): 4}
    # A tie of remainders goes to the first attribute: class 2, 5 over 2:4 → 1.67 and 3.33; class 0, 7 over 6:1.
    assert budget.like_training(train, {(2, 0): 5, (0, 0): 7}) == {(0, 0): 6, (0, 1): 1, (2, 0): 2, (2, 1): 3}
    even = contract.images_of([(0, 0), (0, 1)], granted=Track.TRAIN)
    assert budget.like_training(even, {(0, 1): 3}) == {(0, 0): 2, (0, 1): 1}


def test_a_placebo_of_a_class_without_real_images_asks_for_none(contract: Any) -> None:
    train = contract.images_of([(0, 0)], granted=Track.TRAIN)
    assert budget_of(contract.counts).like_training(train, {(0, 1): 2, (1, 0): 3}) == {(0, 0): 2}


def test_plans_by_group_counts_need_the_training_track(contract: Any) -> None:
    train = contract.images_of(contract.groups_of(contract.counts), granted=Track.VALIDATION_TRAINS)
    budget = budget_of(contract.counts)
    for plan in (lambda: budget.fill(train), lambda: budget.like_training(train, budget.balanced())):
        with pytest.raises(UndeclaredGroupLabels):
            plan()


@pytest.mark.parametrize("per_real", ["2", "1", "0.5", "0.25", "0"])
def test_every_plan_keeps_within_b_and_spends_it(contract: Any, per_real: str) -> None:
    train = contract.images_of(contract.groups_of(contract.counts), granted=Track.TRAIN)
    budget = budget_of(contract.counts, per_real)
    plans = [budget.balanced(), budget.balanced_by_class(), budget.fill(train), budget.fill_by_class(train)]
    plans.append(budget.like_training(train, budget.fill(train)))
    for plan in plans:
        budget.check(plan)
        assert sum(plan.values()) == budget.synthetic
        assert all(n > 0 for n in plan.values())


def test_more_than_b_is_refused_with_both_numbers() -> None:
    budget = budget_of([[6, 1], [0, 5], [2, 4]])
    budget.check({(0, 0): 10, (1, None): 8})
    with pytest.raises(BudgetExceeded, match="asks for 19 generated images, the budget is 18"):
        budget.check({(0, 0): 10, (1, None): 9})


@pytest.mark.parametrize("group", [(-1, 0), (3, 0), (0, -1), (0, 2), (3, None)])
def test_an_unknown_group_is_refused_by_name(group: tuple[int, int | None]) -> None:
    with pytest.raises(InvalidValue, match="which cannot be"):
        budget_of([[6, 1], [0, 5], [2, 4]]).check({group: 1})


def test_a_negative_number_is_refused_even_if_the_sum_fits() -> None:
    with pytest.raises(InvalidValue, match=r"-3 images of group \(0, 1\)"):
        budget_of([[6, 1], [0, 5], [2, 4]]).check({(0, 0): 5, (0, 1): -3})
