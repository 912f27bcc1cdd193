"""Group counts of one checkpoint, and the accuracies that follow from them (protocol section 6).

Everything here also takes counts with leading batch axes: the bootstrap evaluates the same functions on resampled
counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.data import BoolArray, FloatArray, IntArray, TestLabels
from benchmark.metrics.distributions import binomial_probability

Counts = NDArray[np.int64] | FloatArray
"""Whole numbers: integers as observed, floats as resampled."""


@dataclass(frozen=True, eq=False)
class GroupCounts:
    """Counts that decide every metric but flips and calibration.

    Attributes:
        n: Test rows per group, [..., classes, attributes].
        correct: Right answers per group, [..., classes, attributes].
        predicted: Rows with that attribute that were answered with that class, [..., classes, attributes].
    """

    n: Counts
    correct: Counts
    predicted: Counts


def count_groups(test: TestLabels, label: NDArray[np.integer]) -> GroupCounts:
    """Count rows, right answers and answers by attribute; integers, so that recomputation is exact.

    Args:
        test: Labels of n rows.
        label: Predicted labels [n].
    """
    shape = (test.n_classes, test.n_attributes)
    answers = label.astype(np.int64)

    def table(cells: IntArray) -> IntArray:
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)

    return GroupCounts(
        table(test.group), table(test.group[answers == test.y]), table(answers * test.n_attributes + test.a)
    )


def accuracies(counts: GroupCounts) -> FloatArray:
    """Return the accuracy of every group, float [..., classes, attributes]; NaN where a group is empty."""
    return np.asarray(np.divide(counts.correct, counts.n, out=np.full(counts.n.shape, np.nan), where=counts.n > 0))


def average_weights(test: TestLabels, populated: BoolArray, train_counts: IntArray) -> dict[str, FloatArray]:
    """Return the unnormalised weights of the groups in every weighted average of group accuracies.

    Args:
        test: Says which groups are bias-aligned.
        populated: Groups with test rows, bool [classes, attributes].
        train_counts: Real training images, int [classes, attributes].

    Returns:
        Metric name to non-negative integers as float [classes, attributes]. All zeros: the metric is undefined.
    """
    return {
        "acc_adjusted": train_counts.astype(np.float64),
        "acc_group_mean": populated.astype(np.float64),
        "acc_aligned": (populated & test.aligned).astype(np.float64),
        "acc_conflicting": (populated & ~test.aligned).astype(np.float64),
    }


def weighted_accuracy(counts: GroupCounts, weights: FloatArray) -> FloatArray:
    """Average group accuracies.

    Args:
        counts: Counts, [..., classes, attributes].
        weights: Unnormalised weights, float [classes, attributes], not all zero; weighted groups must be populated.

    Returns:
        float [...].
    """
    used = weights > 0
    # Whole-number weights are divided by only at the end, so that a perfect classifier gets exactly 1.
    return np.asarray((accuracies(counts)[..., used] * weights[used]).sum(axis=-1) / weights.sum())


def mean_accuracy(counts: GroupCounts) -> FloatArray:
    """Return the share of right answers over all rows, float [...]."""
    return np.asarray(counts.correct.sum(axis=(-2, -1)) / counts.n.sum(axis=(-2, -1)))


def averages(counts: GroupCounts, weights: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Return every average accuracy that is defined, and the gap, by metric name.

    Args:
        counts: Counts, [..., classes, attributes].
        weights: From :func:`average_weights`; entries of zeros are left out.
    """
    found = {"acc_mean": mean_accuracy(counts)}
    found |= {name: weighted_accuracy(counts, table) for name, table in weights.items() if table.any()}
    if "acc_aligned" in found and "acc_conflicting" in found:
        found["gap"] = found["acc_aligned"] - found["acc_conflicting"]
    return found


def expected_disparity(n: IntArray, accuracy: float) -> float:
    """Return E[best - worst group accuracy] when every group has one true accuracy: what sampling alone produces.

    Exact for independent groups, from E[max] = ∫ 1 - ΠF and E[min] = ∫ Π(1 - F) over the binomial distribution
    functions. In crossed tests, groups of a class share their units; their positive correlation makes the true
    expectation smaller. Our protocol.

    Args:
        n: Sizes of the populated groups, positive integers [groups].
        accuracy: The accuracy that all groups share.
    """
    sizes, repeats = np.unique(n, return_counts=True)
    steps = np.unique(np.concatenate([np.arange(size + 1) / size for size in sizes]))
    below = np.ones(len(steps) - 1)
    above = np.ones(len(steps) - 1)
    for size, repeat in zip(sizes, repeats, strict=True):
        # Half a step of slack: k / n and its product with n differ in the last bit.
        distribution = binomial_probability(np.floor(steps[:-1] * size + 1e-9), size, accuracy)
        below *= distribution**repeat
        above *= (1 - distribution) ** repeat
    return float(((1 - below - above) * np.diff(steps)).sum())
