"""Several seeds of one method: what training (seed and draw) adds to the uncertainty (protocol sections 7 and 9)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.metrics.data import CONFIDENCE, FloatArray, IntArray, Metric
from benchmark.metrics.distributions import t_quantile


def mean_over_seeds(values: FloatArray) -> Metric:
    """Return the mean of per-seed values with its t interval (S - 1 degrees of freedom).

    The values are taken as independent draws of seed and minority; test sampling is not in the interval.

    Args:
        values: One metric, one value per seed, [seeds].

    Raises:
        InvalidValue: Without seeds, or with values that are no numbers.
    """
    numbers = _checked(values)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Metric(mean, reason="one seed has no spread")
    half = _t_quantile(len(numbers) - 1) * float(numbers.std(ddof=1)) / len(numbers) ** 0.5
    return Metric(mean, mean - half, mean + half, "t")


def worst_group_of_mean(accuracies: FloatArray, n: IntArray | None = None) -> Metric:
    """Return the lowest of the groups' seed-averaged accuracies; the mean of per-seed minima is lower by construction.

    Args:
        accuracies: Group accuracies, [seeds, groups].
        n: Test rows of the groups, [groups]; empty ones are left out. None: every group has some.

    Raises:
        InvalidValue: When the shapes disagree.
    """
    table = np.asarray(accuracies, dtype=np.float64)
    if table.ndim != 2 or not len(table) or (n is not None and n.shape != table.shape[1:]):
        raise InvalidValue(f"expected accuracies [seeds, groups] and sizes [groups]; got {table.shape}")
    kept = table if n is None else table[:, n > 0]
    if not kept.shape[1]:
        return Metric.undefined("no group has test images")
    return Metric(float(_checked(kept).mean(axis=0).min()))


def pooled_deviation(cells: Sequence[FloatArray]) -> float | None:
    """Return the pooled standard deviation √(Σ (S_i - 1) s_i² / Σ (S_i - 1)); None when no cell has two seeds.

    Args:
        cells: Per-seed values of each method of a task, [seeds] each.
    """
    several = [_checked(values) for values in cells if len(values) >= 2]
    if not several:
        return None
    freedom = sum(len(values) - 1 for values in several)
    return float((sum(float(((values - values.mean()) ** 2).sum()) for values in several) / freedom) ** 0.5)


def prediction_interval(values: FloatArray, pooled: float | None = None, confidence: float = CONFIDENCE) -> Metric:
    """Return the interval in which one further seed falls with 95 % (protocol section 9), or another probability.

    The half-width is t(S - 1) · s · √(1 + 1/S), with s capped at twice the task's pooled standard deviation:
    otherwise a submission could buy itself an interval that nothing misses by spreading its seeds.

    Args:
        values: The submitted seeds' values, [seeds].
        pooled: From :func:`pooled_deviation`; None leaves s as it is.
        confidence: That probability.

    Returns:
        The mean, with the prediction interval; without one when there is one seed.
    """
    numbers = _checked(values)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Metric(mean, reason="one seed has no spread")
    deviation = float(numbers.std(ddof=1))
    if pooled is not None:
        deviation = min(deviation, 2 * pooled)
    half = _t_quantile(len(numbers) - 1, confidence) * deviation * (1 + 1 / len(numbers)) ** 0.5
    return Metric(mean, mean - half, mean + half, "t-prediction")


def _checked(values: FloatArray) -> FloatArray:
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size or not bool(np.isfinite(numbers).all()):
        raise InvalidValue(f"values over seeds must be numbers, at least one; got {numbers.tolist()}")
    return numbers


def _t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    return float(t_quantile((1 + confidence) / 2, np.float64(freedom)))
