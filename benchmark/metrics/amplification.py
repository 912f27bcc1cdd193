"""Does training replicate, amplify or remove the association between label and attribute (protocol section 6)?

Associations are counted within families of comparable attributes: the classes of a family and its attribute values.
Functions take counts with leading batch axes, so that the bootstrap can call them on resampled counts.
"""

from __future__ import annotations

import numpy as np

from benchmark.metrics.data import FloatArray, IntArray, TestLabels
from benchmark.metrics.groups import GroupCounts

LEAST_TRAINING_BIAS = 0.05
"""Below this, training and test associate label and attribute alike: nothing to retain (protocol section 6)."""


def association_signs(test: TestLabels, train_counts: IntArray) -> IntArray:
    """Return the sign of P(a, t) - P(a) P(t) in training, exact from integers, int [classes, attributes].

    Pairs outside a family are 0.
    """
    signs = np.zeros((test.n_classes, test.n_attributes), dtype=np.int64)
    for block in _blocks(test):
        # Python integers: products of counts of a large data set leave int64 in principle.
        n = train_counts[block].astype(object)
        difference = n * n.sum() - n.sum(axis=1, keepdims=True) * n.sum(axis=0, keepdims=True)
        signs[block] = np.sign(difference.astype(np.float64)).astype(np.int64)
    return signs


def bias_amplification(test: TestLabels, counts: GroupCounts, train_counts: IntArray) -> FloatArray:
    """Return BiasAmp A→T (Wang & Russakovsky 2021): mean over (a, t) of sign · (P(answer t | a) - P(t | a)).

    Attribute values without test rows are left out; pairs that are independent in training count with 0. Undefined
    (see :func:`why_no_amplification`) is NaN.

    Args:
        test: Families.
        counts: Test counts [..., classes, attributes].
        train_counts: Real training images [classes, attributes].
    """
    pairs = test.comparable_pairs & (counts.n.sum(axis=-2) > 0)[..., None, :]
    change = _rate(counts.predicted, counts.n) - _rate(counts.n, counts.n)
    total = np.where(pairs, association_signs(test, train_counts) * change, 0).sum(axis=(-2, -1))
    return _divide(total, pairs.sum(axis=(-2, -1)))


def bias_retained(test: TestLabels, counts: GroupCounts, train_counts: IntArray) -> FloatArray:
    """Return Σ s·(P(answer t | a) - P_test(t | a)) / Σ s·(P_train(t | a) - P_test(t | a)): 0 removed, 1 replicated.

    Sums run over families' pairs whose attribute value occurs in training and test; s is the sign of association in
    training. NaN where the denominator is not positive. Our protocol.

    Args:
        test: Families.
        counts: Test counts [..., classes, attributes].
        train_counts: Real training images [classes, attributes].
    """
    kept, retained, trained = _sums(test, counts, train_counts)
    return _divide(np.where(kept, retained, 0).sum(axis=(-2, -1)), np.where(kept, trained, 0).sum(axis=(-2, -1)))


def training_bias(test: TestLabels, counts: GroupCounts, train_counts: IntArray) -> float:
    """Return how far training associates label and attribute more than the test does, per attribute value.

    It is the denominator of :func:`bias_retained` divided by the number of attribute values: the plain sum grows with
    that number, and on a balanced ten-colour task the rounding of group sizes alone would lift it over the threshold.
    """
    kept, _, trained = _sums(test, counts, train_counts)
    values = int(kept.any(axis=-2).sum())
    return float(np.where(kept, trained, 0).sum()) / values if values else 0.0


def why_no_amplification(test: TestLabels, counts: GroupCounts, train_counts: IntArray) -> str | None:
    """Say why bias amplification is undefined, or None."""
    if not association_signs(test, train_counts).any():
        return "label and attribute are independent in the training split"
    if not (test.comparable_pairs & (counts.n.sum(axis=0) > 0)).any():
        return "no comparable attribute value has test images"
    return None


def why_not_retained(test: TestLabels, counts: GroupCounts, train_counts: IntArray) -> str | None:
    """Say why the retained share of the bias is undefined, or None."""
    bias = training_bias(test, counts, train_counts)
    if bias < LEAST_TRAINING_BIAS:
        return (
            f"training associates label and attribute by only {bias:.3f} per attribute value more than the test split "
            f"(at least {LEAST_TRAINING_BIAS} is needed)"
        )
    return None


def _sums(test: TestLabels, counts: GroupCounts, train_counts: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    signs = association_signs(test, train_counts)
    in_test = counts.n.sum(axis=-2) > 0
    kept = test.comparable_pairs & (in_test & (train_counts.sum(axis=0) > 0))[..., None, :]
    base = _rate(counts.n, counts.n)
    retained = signs * (_rate(counts.predicted, counts.n) - base)
    trained = signs * (_rate(train_counts, train_counts) - base)
    return np.asarray(kept), retained, trained


def _rate(numerator: FloatArray | IntArray, denominator: FloatArray | IntArray) -> FloatArray:
    totals = np.broadcast_to(denominator.sum(axis=-2, keepdims=True), numerator.shape)
    return np.asarray(np.divide(numerator, totals, out=np.zeros(numerator.shape), where=totals > 0))


def _divide(numerator: FloatArray, denominator: FloatArray | IntArray) -> FloatArray:
    denominator = np.asarray(denominator, dtype=np.float64)
    return np.asarray(
        np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 1e-12)
    )


def _blocks(test: TestLabels) -> list[tuple[IntArray, ...]]:
    classes = np.asarray(test.class_family)
    return [
        np.ix_(np.flatnonzero(classes == family), np.asarray(values, dtype=np.int64))
        for family, values in enumerate(test.comparable)
    ]
