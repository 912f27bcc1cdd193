"""What an auditor answers, corrected for its errors: a known composition comes back inside its interval."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.audits.correction import corrected_fidelity, corrected_shares, raw_fidelity, true_shares
from benchmark.errors import InvalidValue
from benchmark.metrics.data import Metric


def auditor(values: int, accuracy: float) -> np.ndarray:
    """Probabilities [true, answered] of an auditor with evenly spread errors."""
    table = np.full((values, values), (1 - accuracy) / (values - 1))
    np.fill_diagonal(table, accuracy)
    return table


def confusion_of(rng: np.random.Generator, table: np.ndarray, images: int) -> np.ndarray:
    return np.array([rng.multinomial(images, row) for row in table])


def answers(rng: np.random.Generator, table: np.ndarray, shown: np.ndarray) -> np.ndarray:
    return (rng.random(len(shown))[:, None] > table[shown].cumsum(axis=1)).sum(axis=1)


def inside(metric: Metric, truth: float) -> bool:
    assert metric.low is not None
    assert metric.high is not None
    assert metric.value is not None
    assert metric.low <= metric.value <= metric.high
    return metric.low <= truth <= metric.high


# --- least squares -------------------------------------------------------------------------------------------------


def test_an_auditor_of_ninety_percent_turns_one_percent_into_eleven_and_back() -> None:
    confusion = np.array([[900, 100], [100, 900]])
    assert true_shares(np.array([892, 108]), confusion) == pytest.approx([0.99, 0.01], abs=1e-6)


def test_shares_are_never_negative_and_sum_to_one() -> None:
    # Fewer answers of the second value than a pure first one would get.
    assert true_shares(np.array([97, 3]), np.array([[90, 10], [10, 90]])) == pytest.approx([1, 0])


def test_the_solution_satisfies_the_optimality_conditions_of_the_simplex() -> None:
    rng = np.random.default_rng(0)
    for values in (2, 5, 10, 40):
        confusion = rng.integers(0, 20, (values, values)) + np.diag(rng.integers(1, 60, values))
        observed = rng.multinomial(30, rng.dirichlet(np.full(values, 0.3)))
        shares = true_shares(observed, confusion)
        rates = confusion / confusion.sum(axis=1, keepdims=True)
        slope = rates @ (rates.T @ shares - observed / observed.sum())
        assert shares.min() >= 0
        assert shares.sum() == pytest.approx(1)
        # Where a share is positive the slope is least, and equal.
        assert slope[shares > 1e-9] == pytest.approx(slope.min(), abs=1e-6)


def test_a_value_that_the_audit_split_lacks_gets_no_share() -> None:
    confusion = np.array([[9, 0, 1], [0, 0, 0], [1, 0, 9]])
    assert true_shares(np.array([9, 0, 1]), confusion) == pytest.approx([1, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("observed", "confusion"),
    [
        ([1, 2], np.eye(3)),
        ([0, 0], np.eye(2)),
        ([1, -1], np.eye(2)),
        ([1, 1], np.zeros((2, 2))),
        ([1], np.ones((1, 2))),
    ],
)
def test_what_is_no_count_is_refused(observed: list[int], confusion: np.ndarray) -> None:
    with pytest.raises(InvalidValue):
        true_shares(np.array(observed), confusion.astype(np.int64))


# --- shares --------------------------------------------------------------------------------------------------------


def test_a_rare_value_comes_back_inside_its_interval_about_as_often_as_it_says() -> None:
    table, hits, raw = auditor(2, 0.9), 0, []
    for repetition in range(40):
        rng = np.random.default_rng(repetition)
        seen = answers(rng, table, (np.arange(1000) < 10).astype(np.int64))
        raw.append(float(seen.mean()))
        hits += inside(corrected_shares(seen, confusion_of(rng, table, 300), seed=repetition)[1], 0.01)
    assert np.mean(raw) == pytest.approx(0.108, abs=0.005)
    assert hits >= 36


def test_many_shares_come_back_inside_their_intervals() -> None:
    table, truth = auditor(10, 0.8), np.array([300, 200, 100, 100, 100, 100, 50, 30, 20, 0])
    hits = 0
    for repetition in range(10):
        rng = np.random.default_rng(repetition)
        seen = answers(rng, table, np.repeat(np.arange(10), truth))
        shares = corrected_shares(seen, confusion_of(rng, table, 100), seed=repetition)
        hits += sum(inside(share, n / 1000) for share, n in zip(shares, truth, strict=True))
    assert hits >= 90


def test_shares_of_untested_values_are_null_and_the_others_do_without_them() -> None:
    confusion = np.array([[90, 0, 10], [0, 0, 0], [10, 0, 90]])
    first, second, third = corrected_shares(np.array([0] * 90 + [2] * 10), confusion, seed=0)
    assert second == Metric.undefined("the auditor was tested on no real image of value 1")
    assert first.value == pytest.approx(1, abs=1e-6)
    assert third.value == pytest.approx(0, abs=1e-6)


def test_no_images_have_no_shares() -> None:
    assert [share.reason for share in corrected_shares(np.array([], dtype=np.int64), np.eye(2, dtype=np.int64), seed=0)]


# --- fidelity ------------------------------------------------------------------------------------------------------


def show(rng: np.random.Generator, requested: np.ndarray, values: int, fidelity: float) -> np.ndarray:
    """Show exactly that share of what was requested (requests in turn), and some other value instead."""
    miss = np.arange(len(requested)) >= round(fidelity * len(requested))
    return np.where(miss, (requested + rng.integers(1, values, len(requested))) % values, requested)


@pytest.mark.parametrize(
    ("values", "accuracy", "images", "fidelity"),
    [(2, 0.97, 20, 0.9), (2, 0.9, 300, 0.99), (10, 0.9, 60, 1.0), (10, 0.9, 60, 0.5), (10, 0.97, 6, 0.9)],
)
def test_a_known_fidelity_comes_back_inside_its_interval(
    values: int, accuracy: float, images: int, fidelity: float
) -> None:
    """Also where every answer is right, and where the auditor was tested on twenty or on six images."""
    table, requested, hits = auditor(values, accuracy), np.arange(1000) % values, 0
    for repetition in range(40):
        rng = np.random.default_rng(repetition)
        seen = answers(rng, table, show(rng, requested, values, fidelity))
        hits += inside(corrected_fidelity(requested, seen, confusion_of(rng, table, images), seed=repetition), fidelity)
    assert hits >= 35


def test_the_correction_hardly_moves_a_perfect_generator_on_average() -> None:
    table, requested = auditor(10, 0.9), np.arange(2000) % 10
    found, raw = [], []
    for repetition in range(20):
        rng = np.random.default_rng(repetition)
        seen = answers(rng, table, requested)
        found.append(corrected_fidelity(requested, seen, confusion_of(rng, table, 60), seed=0, draws=10).value or 0.0)
        raw.append(raw_fidelity(requested, seen).value or 0.0)
    assert np.mean(raw) == pytest.approx(0.9, abs=0.01)
    # Solved within bounds for each requested value, this would be 0.975.
    assert np.mean(found) > 0.985


def test_a_perfect_auditor_and_generator_leave_the_doubt_of_the_sample_and_of_the_test() -> None:
    requested = np.arange(200) % 2
    metric = corrected_fidelity(requested, requested, np.diag([500, 500]), seed=0)
    assert metric.value == pytest.approx(1)
    assert metric.high == 1
    assert metric.low is not None
    assert 0.97 < metric.low < 1


def test_fewer_independent_images_behind_the_matrix_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    table, requested = auditor(2, 0.8), np.arange(400) % 2
    seen, confusion = answers(rng, table, show(rng, requested, 2, 0.8)), confusion_of(rng, table, 200)
    every = corrected_fidelity(requested, seen, confusion, seed=0)
    tenth = corrected_fidelity(requested, seen, confusion, seed=0, independent=np.array([20, 20]))
    assert every.value == tenth.value
    assert (tenth.high or 0) - (tenth.low or 0) > 1.3 * ((every.high or 0) - (every.low or 0))


def test_requested_values_may_differ_in_number() -> None:
    confusion = np.diag([100, 100])
    requested = np.array([0] * 90 + [1] * 10)
    seen = np.array([0] * 90 + [0] * 10)
    assert corrected_fidelity(requested, seen, confusion, seed=0).value == pytest.approx(0.9)


def test_a_requested_value_that_the_auditor_was_not_tested_on_is_null_with_the_reason() -> None:
    confusion = np.array([[5, 0], [0, 0]])
    metric = corrected_fidelity(np.array([0, 1]), np.array([0, 0]), confusion, seed=0)
    assert metric.reason == "the auditor was tested on no real image of value 1, which was requested"
    assert corrected_fidelity(np.array([0, 0]), np.array([0, 0]), confusion, seed=0).value == pytest.approx(1)


def test_an_auditor_that_answers_alike_whatever_it_sees_determines_nothing() -> None:
    metric = corrected_fidelity(np.array([0, 1]), np.array([0, 1]), np.array([[50, 50], [50, 50]]), seed=0)
    assert metric.value is None
    assert "cannot be told apart" in (metric.reason or "")


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(1)
    requested = np.arange(300) % 3
    seen, confusion = answers(rng, auditor(3, 0.7), requested), confusion_of(rng, auditor(3, 0.7), 50)
    first = corrected_fidelity(requested, seen, confusion, seed=4)
    assert corrected_fidelity(requested, seen, confusion, seed=4) == first
    assert corrected_fidelity(requested, seen, confusion, seed=5).low != first.low


def test_values_outside_of_the_matrix_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"answered values span 0\.\.2, allowed are 0\.\.1"):
        corrected_fidelity(np.array([0, 1]), np.array([0, 2]), np.eye(2, dtype=np.int64), seed=0)


def test_raw_fidelity_is_a_share_with_its_exact_interval() -> None:
    metric = raw_fidelity(np.array([0] * 10), np.array([0] * 9 + [1]))
    assert metric.value == 0.9
    assert (metric.low, metric.high) == (pytest.approx(0.555, abs=1e-3), pytest.approx(0.9975, abs=1e-3))
    assert raw_fidelity(np.array([]), np.array([])).reason == "there are no images"
