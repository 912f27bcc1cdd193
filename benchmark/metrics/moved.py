"""Did the bias move to an attribute that the task does not name (protocol section 6, ``bias_moved``; our protocol)?

The other attribute may be any annotation of the test images. It may also be G: give real test images and
auditor-verified synthetic images of the same groups as one test, and 0 for real, 1 for synthetic as the other
attribute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InvalidValue
from benchmark.metrics.data import CONFIDENCE, BoolArray, FloatArray, IntArray, Metric, TestLabels
from benchmark.metrics.resampling import unit_weights
from benchmark.metrics.units import sampling_design

LEAST_ROWS = 10
"""Cells (group, other value) with fewer test images are left out: their accuracy would make the range."""
RESAMPLES = 500


def bias_moved(
    test: TestLabels, other: IntArray, label: NDArray[np.integer], erm_label: NDArray[np.integer], *, seed: int = 0
) -> Metric:
    """Return how much larger the accuracy gap over another attribute is than under plain training, at fixed (y, a).

    The gap of a group is its best minus its worst accuracy over the other attribute's values; the metric is the mean
    over groups of the method's gap minus ERM's. Positive: bias moved there. The same cells enter both gaps, so the
    upward bias of a range of noisy shares largely cancels. The interval is a bootstrap band: the value ± the 95 %
    quantile of the sum of both ranges of resampling errors, conservative.

    Args:
        test: Labels of n rows.
        other: Values of the other attribute, integers from 0, [n]; negative where unknown.
        label: The method's answers [n].
        erm_label: Answers of ``erm`` [n].
        seed: Decides the resamples.

    Raises:
        InvalidValue: When a column has another length.
    """
    if {len(other), len(label), len(erm_label)} != {len(test)}:
        raise InvalidValue(
            f"the test has {len(test)} rows; got columns of {len(other)}, {len(label)} and {len(erm_label)}"
        )
    known = other >= 0
    if not known.any():
        return Metric.undefined("the other attribute is unknown everywhere")
    values = int(other.max()) + 1
    cells = test.n_classes * test.n_attributes * values
    cell = (test.group * values + other)[known]
    n = np.bincount(cell, minlength=cells).astype(np.float64)
    used = (n >= LEAST_ROWS).reshape(-1, values)
    used &= used.sum(axis=1, keepdims=True) >= 2
    if not used.any():
        return Metric.undefined(f"no group has {LEAST_ROWS} test images of two values of the other attribute")
    rights = ((label == test.y)[known], (erm_label == test.y)[known])
    observed = [
        _shares(np.bincount(cell, weights=right, minlength=cells).astype(np.float64), n).reshape(-1, values)
        for right in rights
    ]
    gaps = [_ranges(share, used) for share in observed]
    half = _half_width(test, (known, cell, n), rights, (observed, used), seed)
    value = float((gaps[0] - gaps[1]).mean())
    return Metric(value, value - half, value + half, "bootstrap-band")


def _half_width(
    test: TestLabels,
    cells: tuple[BoolArray, IntArray, FloatArray],
    rights: tuple[BoolArray, BoolArray],
    shown: tuple[list[FloatArray], BoolArray],
    seed: int,
) -> float:
    from scipy.sparse import csr_array

    known, cell, n = cells
    design = sampling_design(test)
    unit, shape = design.unit[known], (design.units, len(n))
    rows = csr_array((np.ones(len(cell)), (unit, cell)), shape=shape)
    right_rows = [csr_array((right.astype(np.float64), (unit, cell)), shape=shape) for right in rights]
    observed, used = shown
    widths = []
    for weights in unit_weights(design, RESAMPLES, seed, max(1, 1_000_000 // design.units)):
        drawn = weights @ rows
        total = np.zeros(len(weights))
        for share, table in zip(observed, right_rows, strict=True):
            errors = _shares(weights @ table, drawn).reshape(len(weights), *used.shape) - share
            # A cell that a resample emptied says nothing about its error.
            total += _ranges(np.where(np.isfinite(errors), errors, 0.0), used).mean(axis=-1)
        widths.append(total)
    return float(np.quantile(np.concatenate(widths), CONFIDENCE))


def _shares(right: FloatArray, n: FloatArray) -> FloatArray:
    return np.asarray(np.divide(right, n, out=np.full(right.shape, np.nan), where=n > 0))


def _ranges(shares: FloatArray, used: BoolArray) -> FloatArray:
    """Return best minus worst along the last axis over used cells, in the groups that have some."""
    top = np.where(used, shares, -np.inf).max(axis=-1)
    bottom = np.where(used, shares, np.inf).min(axis=-1)
    kept = used.any(axis=-1)
    return np.asarray(top[..., kept] - bottom[..., kept])
