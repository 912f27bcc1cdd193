"""The kinds of interval of one checkpoint's metrics (protocol section 7, test sampling).

* ``cluster-bootstrap``, percentile: averages of group accuracies, gap, bias amplification and retention, flips.
* ``sidak-propagated``: minima, maxima, ranges and ratios. Simultaneous intervals of the groups or rates are carried
  through; conservative. The percentile bootstrap would almost never cover a minimum over equal groups.
* ``bootstrap-band``: calibration and moved bias, sums of absolute values with the same fault; value ± the 95 %
  quantile of the distance between resampled and observed gaps. By the triangle inequality it covers, also where the
  truth is 0.

A resample of answers that do not vary cannot vary either: where the bootstrap gives one point only (or empties groups
all the time), the interval is propagated from the simultaneous ones and named so, or ``exact`` where one follows from
how many units showed no exception: accuracies of 0 and 1, and flips.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.binomial import clopper_pearson, effective_trials, sidak_alpha, simultaneous
from benchmark.metrics.data import CONFIDENCE, FloatArray, IntArray, Metric, TestLabels
from benchmark.metrics.fairness import Bounded, RateTables
from benchmark.metrics.groups import GroupCounts, accuracies
from benchmark.metrics.units import sampling_design


def percentile(values: FloatArray) -> tuple[float, float] | None:
    """Return the percentile interval of bootstrap values, leaving out undefined ones; None when half are undefined."""
    finite = values[np.isfinite(values)]
    if len(finite) * 2 < len(values) or not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def group_bounds(test: TestLabels, label: NDArray[np.integer], counts: GroupCounts) -> Bounded:
    """Return group accuracies with simultaneous intervals, [classes, attributes]; NaN where a group is empty."""
    cells = test.n_classes * test.n_attributes
    alpha = sidak_alpha(int((counts.n > 0).sum()))
    unit = sampling_design(test).unit
    effective = effective_trials(unit, test.group, label == test.y, cells, alpha).reshape(counts.n.shape)
    low, high = simultaneous(counts.correct.astype(np.float64), counts.n.astype(np.float64), effective)
    return Bounded(accuracies(counts), low, high)


def rate_bounds(test: TestLabels, label: NDArray[np.integer], tables: RateTables) -> dict[str, Bounded]:
    """Return one-vs-rest rates with simultaneous intervals.

    Selection rates and accuracies are simultaneous each among themselves; true- and false-positive rates together,
    because the odds difference reads both.

    Returns:
        ``selection``, ``true_positive``, ``false_positive`` and ``opportunity`` (true-positive rates simultaneous among
        themselves), [classes, attributes], and ``accuracy`` [attributes].
    """
    unit = sampling_design(test).unit
    # False positives of a class ignore its own rows, so their cells differ from those of selection.
    selection = _one_rate(test, unit, label, tables.selection, "any")
    true_positive = _one_rate(test, unit, label, tables.true_positive, "own")
    false_positive = _one_rate(test, unit, label, tables.false_positive, "other")
    effective = effective_trials(unit, test.a, label == test.y, test.n_attributes, sidak_alpha(test.n_attributes))
    joint = [np.stack(parts) for parts in zip(true_positive, false_positive, strict=True)]
    odds = _bounded(joint[0], joint[1], joint[2])
    return {
        "selection": _bounded(*selection),
        "opportunity": _bounded(*true_positive),
        "true_positive": Bounded(odds.value[0], odds.low[0], odds.high[0]),
        "false_positive": Bounded(odds.value[1], odds.low[1], odds.high[1]),
        "accuracy": _bounded(*tables.accuracy, effective),
    }


def lowest(bounds: Bounded) -> Metric:
    """Return the minimum over all defined entries as a metric."""
    value, low, high = (float(np.nanmin(part)) for part in (bounds.value, bounds.low, bounds.high))
    return Metric(value, low, high, "sidak-propagated")


def propagated(value: float, weights: FloatArray, bounds: Bounded) -> Metric:
    """Carry simultaneous bounds through a number that is linear in the bounded ones.

    Args:
        value: The number.
        weights: Its coefficients, of either sign; 0 where the bounds are undefined.
        bounds: Bounds of the same shape.
    """
    used = weights != 0
    w, down, up = weights[used], (bounds.low - bounds.value)[used], (bounds.high - bounds.value)[used]
    low = value + float(np.where(w > 0, w * down, w * up).sum())
    high = value + float(np.where(w > 0, w * up, w * down).sum())
    return Metric(value, low, high, "sidak-propagated")


def all_alike(value: float, weights: FloatArray, units: IntArray) -> Metric:
    """Bound a weighted accuracy when every weighted answer is right, or every one wrong: exact, jointly over strata.

    If stratum h has q_h units with an exception, n_h units show none with probability Π (1 - q_h)^n_h; the accuracy
    is at most Σ w_h q_h away from what was seen. The interval holds the largest such sum that keeps the probability
    above half of 5 % (for one stratum it is Clopper-Pearson's).

    Args:
        value: 0 or 1.
        weights: Weight of each stratum, not negative, summing to 1, [strata].
        units: Units of each stratum, [strata].
    """
    used = weights > 0
    w, n = weights[used], units[used].astype(np.float64)
    least = np.log((1 - CONFIDENCE) / 2)

    def logs(multiplier: float) -> FloatArray:
        # The maximum of a linear sum under the constraint: 1 - q_h is proportional to n_h / w_h, and at most 1.
        return np.minimum(0.0, multiplier + np.log(n / w))

    below, above = -800.0, 0.0
    for _ in range(100):
        middle = (below + above) / 2
        below, above = (below, middle) if float((n * logs(middle)).sum()) > least else (middle, above)
    distance = float((w * -np.expm1(logs(above))).sum())
    ends = (1 - distance, 1.0) if value > 0.5 else (0.0, distance)
    return Metric(value, *ends, "exact")


def constant_over_units(value: float, most: float, units: int) -> Metric:
    """Bound the mean of a number in [0, most] that was the same in every unit, by how many units could differ."""
    least, _ = clopper_pearson(np.array([units]), np.array([units]), 1 - CONFIDENCE)
    same = float(least[0])
    return Metric(value, same * value, same * value + (1 - same) * most, "exact")


def _bounded(successes: FloatArray, trials: FloatArray, effective: FloatArray) -> Bounded:
    low, high = simultaneous(successes, trials, effective)
    value = np.divide(successes, trials, out=np.full(trials.shape, np.nan), where=trials > 0)
    return Bounded(value, low, high)


def _one_rate(
    test: TestLabels,
    unit: NDArray[np.int64],
    label: NDArray[np.integer],
    table: tuple[FloatArray, FloatArray],
    rows: str,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    successes, trials = table
    effective = trials.copy()
    alpha = sidak_alpha(int((trials > 0).sum()))
    for y in np.flatnonzero(trials.any(axis=1)):
        kept = {"any": np.ones(len(test), dtype=np.bool_), "own": test.y == y, "other": test.y != y}[rows]
        found = effective_trials(unit[kept], test.a[kept], label[kept] == y, test.n_attributes, alpha)
        effective[y] = np.where(trials[y] > 0, found, 0)
    return successes, trials, effective
