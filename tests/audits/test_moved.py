"""Moved images: what is kept, what is reached, and both, corrected for auditors that err."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.audits.auditors import Auditor, Auditors
from benchmark.audits.joint import Answers
from benchmark.audits.moved import moved_metrics

N = 4000
CONFUSION = np.array([[900, 100], [100, 900]])


def auditors(confusion: np.ndarray) -> Auditors:
    """Two auditors that made these answers on real images; they are not asked for more here."""
    worth = confusion.sum(axis=1)
    made = [
        Auditor(of, "", confusion, worth, 1, 1, 8, torch.nn.Identity(), None, torch.device("cpu"))  # type: ignore[arg-type]
        for of in ("y", "a")
    ]
    return Auditors(*made)


def answered(true: tuple[np.ndarray, np.ndarray], confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the auditors see: each errs as on real images, independently of the other."""
    random = np.random.default_rng(0)
    rates = confusion / confusion.sum(axis=1, keepdims=True)
    first, second = (np.where(random.random(len(each)) < rates[each, each], each, 1 - each) for each in true)
    return first, second


def test_errors_of_both_auditors_are_taken_out_of_all_three_shares() -> None:
    random = np.random.default_rng(1)
    y, a = random.integers(0, 2, N), random.integers(0, 2, N)
    kept, reached = random.random(N) < 0.8, random.random(N) < 0.7
    seen = answered((np.where(kept, y, 1 - y), np.where(reached, a, 1 - a)), CONFUSION)
    pair = auditors(CONFUSION)
    found = moved_metrics((y, a), seen, pair, Answers.of(pair, seed=3))
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
    shown = np.where(np.arange(100) < 10, 1 - y, y)
    pair = auditors(np.array([[1000, 0], [0, 1000]]))
    found = moved_metrics((y, a), (shown, a), pair, Answers.of(pair, seed=0))
    assert found["y_kept"].value == pytest.approx(0.9)
    assert found["a_reached"].value == pytest.approx(1.0)
    assert found["both"].value == pytest.approx(0.9)
    assert found["both_raw"].value == pytest.approx(0.9)
