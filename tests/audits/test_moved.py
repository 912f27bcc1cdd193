"""Moved images: what is kept, what is reached, and both, corrected for auditors that err."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

from benchmark.audits.auditors import Auditors
from benchmark.audits.moved import moved_metrics

N = 4000
CONFUSION = np.array([[900, 100], [100, 900]])


@dataclass
class Erring:
    """Answers what it is told, through the errors of its confusion matrix."""

    seen: np.ndarray
    confusion: np.ndarray
    independent: np.ndarray

    def answers(self, images: Any) -> np.ndarray:
        return self.seen[: len(images)]


def auditors(true_y: np.ndarray, true_a: np.ndarray, confusion: np.ndarray, seed: int = 0) -> Auditors:
    random = np.random.default_rng(seed)
    rates = confusion / confusion.sum(axis=1, keepdims=True)
    seen = [np.where(random.random(len(true)) < rates[true, true], true, 1 - true) for true in (true_y, true_a)]
    worth = confusion.sum(axis=1)
    return cast("Auditors", Auditors(*(cast("Any", Erring(each, confusion, worth)) for each in seen)))


def test_errors_of_both_auditors_are_taken_out_of_all_three_shares() -> None:
    random = np.random.default_rng(1)
    y, a = random.integers(0, 2, N), random.integers(0, 2, N)
    kept, reached = random.random(N) < 0.8, random.random(N) < 0.7
    found = moved_metrics(
        np.zeros((N, 8, 8, 3), np.uint8), y, a,
        auditors(np.where(kept, y, 1 - y), np.where(reached, a, 1 - a), CONFUSION), seed=3,
    )  # fmt: skip
    truth = {"y_kept": kept.mean(), "a_reached": reached.mean(), "both": (kept & reached).mean()}
    for name, share in truth.items():
        metric = found[name]
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= share <= metric.high
        assert metric.value == pytest.approx(share, abs=0.05)
    # An auditor that is right nine times in ten sees .8·.9 + .2·.1.
    assert found["y_kept_raw"].value == pytest.approx(0.74, abs=0.03)


def test_with_auditors_without_error_the_corrected_shares_are_the_raw_ones() -> None:
    y, a = np.array([0, 0, 1, 1] * 25), np.array([0, 1] * 50)
    shown_y = np.where(np.arange(100) < 10, 1 - y, y)
    found = moved_metrics(
        np.zeros((100, 8, 8, 3), np.uint8), y, a, auditors(shown_y, a, np.array([[1000, 0], [0, 1000]])), seed=0
    )
    assert found["y_kept"].value == pytest.approx(0.9)
    assert found["a_reached"].value == pytest.approx(1.0)
    assert found["both"].value == pytest.approx(0.9)
    assert found["both_raw"].value == pytest.approx(0.9)
