"""Crossed tests: the same unit under every attribute value, compared with itself (protocol section 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.data import IntArray, TestLabels


def answers_by_unit(test: TestLabels, label: NDArray[np.integer]) -> IntArray:
    """Return the answers to every unit's renderings, int64 [units, n_attributes], units in ascending order.

    Args:
        test: Labels of a crossed test.
        label: Predicted labels [n].
    """
    order = np.lexsort((test.a, test.unit))
    return label.astype(np.int64)[order].reshape(-1, test.n_attributes)


def agreeing_pairs(answers: IntArray) -> IntArray:
    """Return Σ_k n_k² per unit, n_k the renderings answered k: agreeing ordered pairs, int64 [units]."""
    equal = answers[:, :, None] == answers[:, None, :]
    return np.asarray(equal.sum(axis=(1, 2), dtype=np.int64))


def ever_changes(answers: IntArray) -> IntArray:
    """Return 1 for units whose answer changes with the attribute, else 0, int64 [units]."""
    return np.asarray((answers != answers[:, :1]).any(axis=1).astype(np.int64))


def flip_rate(agreeing: float, units: float, n_attributes: int) -> float:
    """Return the mean over units of 1 - Σ p_k², from the sum of :func:`agreeing_pairs`. Our protocol."""
    pairs = units * n_attributes**2
    return float((pairs - agreeing) / pairs)
