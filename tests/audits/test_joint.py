"""Pairs of label and attribute, corrected for both auditors: known compositions come back, shifts are paired."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from benchmark.audits.auditors import Auditors
from benchmark.audits.correction import corrected_fidelity
from benchmark.audits.joint import Answers, both_shown, matched_shares
from benchmark.errors import InvalidValue
from benchmark.metrics.data import IntArray

C, A = 3, 4
ALIGNED = (0, 1, 2)


class Known:
    """What an auditor has besides its network: a confusion matrix with a known share of right answers."""

    def __init__(self, values: int, right: float, tested: int = 4000) -> None:
        wrong = round(tested * (1 - right) / (values - 1))
        self.confusion = np.full((values, values), wrong, dtype=np.int64)
        np.fill_diagonal(self.confusion, tested - wrong * (values - 1))
        self.independent = self.confusion.sum(axis=1)

    def answers(self, true: IntArray, random: np.random.Generator) -> IntArray:
        rates = self.confusion / self.confusion.sum(axis=1, keepdims=True)
        return np.array([random.choice(len(rates), p=rates[value]) for value in true], dtype=np.int64)


def auditors(y: Known, a: Known) -> Auditors:
    return Auditors(cast("Any", y), cast("Any", a))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_images_that_show_both_are_found_in_spite_of_the_auditors_errors(random: np.random.Generator) -> None:
    y, a = Known(C, 0.85), Known(A, 0.9)
    wanted = random.integers(0, C, 3000), random.integers(0, A, 3000)
    good = random.random(3000) < 0.7
    true = wanted[0], np.where(good, wanted[1], (wanted[1] + 1) % A)
    seen = y.answers(true[0], random), a.answers(true[1], random)
    found = both_shown(wanted, seen, Answers.of(auditors(y, a), seed=1))
    raw = float(((seen[0] == wanted[0]) & (seen[1] == wanted[1])).mean())
    assert found.low is not None
    assert found.high is not None
    assert found.low < float(good.mean()) < found.high
    assert raw < found.low


def test_the_estimate_is_that_of_the_product_of_both_confusion_matrices(random: np.random.Generator) -> None:
    y, a = Known(C, 0.85), Known(A, 0.9)
    wanted = random.integers(0, C, 400), random.integers(0, A, 400)
    seen = y.answers(wanted[0], random), a.answers(wanted[1], random)
    found = both_shown(wanted, seen, Answers.of(auditors(y, a), seed=1, draws=50))
    product = corrected_fidelity(
        wanted[0] * A + wanted[1], seen[0] * A + seen[1], np.kron(y.confusion, a.confusion), seed=1, draws=50
    )
    assert found.value == pytest.approx(product.value, abs=1e-6)


def test_shares_under_each_condition_and_their_shift_are_those_of_the_images(random: np.random.Generator) -> None:
    y, a = Known(C, 0.9), Known(A, 0.9)
    label = random.integers(0, C, 2000)
    free = random.integers(0, A, 2000)
    biased = np.where(random.random(2000) < 0.95, np.array(ALIGNED)[label], free)
    conditions = [(y.answers(label, random), a.answers(shown, random)) for shown in (free, biased)]
    found = matched_shares(conditions, Answers.of(auditors(y, a), seed=1), ALIGNED)
    for k, shown in enumerate((free, biased)):
        share = float((shown != np.array(ALIGNED)[label]).mean())
        metric = found.conflicting[k]
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low < share < metric.high
        assert sum(part.value or 0.0 for part in found.a[k]) == pytest.approx(1, abs=1e-6)
        assert sum(part.value or 0.0 for part in found.y[k]) == pytest.approx(1, abs=1e-6)
    (shift,) = found.conflicting_shift
    assert shift.value == pytest.approx((found.conflicting[1].value or 0) - (found.conflicting[0].value or 0))
    assert shift.high is not None
    assert shift.high < -0.6
    assert found.a_shift[0][3].high is not None
    assert found.a_shift[0][3].high < 0  # the fourth attribute goes with no label


def test_codes_that_are_decoded_alike_have_no_shift() -> None:
    answers = Answers.of(auditors(Known(C, 0.9), Known(A, 0.9)), seed=1, draws=50)
    same = np.arange(300) % C, np.arange(300) % A
    found = matched_shares([same, same], answers, ALIGNED)
    assert (found.conflicting_shift[0].value, found.conflicting_shift[0].low) == (0, None)
    assert "no draw" in str(found.conflicting_shift[0].reason)
    other = (np.roll(same[0], 1), same[1])
    paired = matched_shares([same, other], answers, ALIGNED).y_shift[0][0]
    assert paired.value == pytest.approx(0, abs=1e-9)


def test_values_that_an_auditor_was_not_tested_on_are_null() -> None:
    y, a = Known(C, 0.9), Known(A, 0.9)
    a.confusion[1] = 0
    answers = Answers.of(auditors(y, a), seed=1, draws=20)
    seen = np.zeros(30, dtype=np.int64), np.zeros(30, dtype=np.int64)
    found = both_shown((seen[0], np.ones(30, dtype=np.int64)), seen, answers)
    assert (found.value, found.reason) == (
        None,
        "the auditor was tested on no real image of value 1, which was wanted",
    )
    matched = matched_shares([seen, seen], answers, ALIGNED)
    assert [share.value is None for share in matched.a[0]] == [False, True, False, False]
    assert (matched.conflicting[0].value, matched.conflicting_shift[0].value) == (None, None)
    assert matched.y[0][0].value == pytest.approx(1, abs=0.2)


def test_auditors_that_confuse_everything_tell_nothing() -> None:
    y = Known(C, 0.9)
    y.confusion[:] = 100
    answers = Answers.of(auditors(y, Known(A, 0.9)), seed=1, draws=20)
    seen = np.zeros(30, dtype=np.int64), np.zeros(30, dtype=np.int64)
    assert "cannot be told apart" in str(both_shown(seen, seen, answers).reason)
    assert matched_shares([seen, seen], answers, ALIGNED).conflicting[1].value is None


def test_conditions_of_different_sizes_are_not_matched() -> None:
    answers = Answers.of(auditors(Known(C, 0.9), Known(A, 0.9)), seed=1, draws=5)
    one, two = np.zeros(1, dtype=np.int64), np.zeros(2, dtype=np.int64)
    with pytest.raises(InvalidValue, match="not matched"):
        matched_shares([(one, one), (two, two)], answers, ALIGNED)
