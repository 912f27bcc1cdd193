"""Differences and ratios of rates between comparable attribute values (protocol section 6).

Per class one-vs-rest; the extremes run over the attribute values of the class's own family. A binary task with a
positive class has one one-vs-rest problem, that of its positive class: the values then equal fairlearn's
demographic-parity, equal-opportunity and equalized-odds metrics, and mean and maximum over classes coincide.
The rates are P(answer = class | attribute), and the same given that the label is, or is not, that class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmark.metrics.data import BoolArray, FloatArray, TestLabels
from benchmark.metrics.groups import Counts, GroupCounts


@dataclass(frozen=True, eq=False)
class Bounded:
    """Numbers between bounds, arrays of one shape; NaN where undefined."""

    value: FloatArray
    low: FloatArray
    high: FloatArray

    def where(self, mask: BoolArray) -> Bounded:
        """Return the same with NaN outside the mask."""
        return Bounded(*(np.where(mask, part, np.nan) for part in (self.value, self.low, self.high)))


@dataclass(frozen=True, eq=False)
class RateTables:
    """Successes and trials of the one-vs-rest rates, integers [classes, attributes]; no trials where not comparable.

    Attributes:
        selection: (successes, trials) of P(answer = class | attribute).
        true_positive: The same of P(answer = class | label = class, attribute).
        false_positive: The same of P(answer = class | label ≠ class, attribute).
        accuracy: (successes, trials) of P(answer = label | attribute), integers [attributes].
    """

    selection: tuple[FloatArray, FloatArray]
    true_positive: tuple[FloatArray, FloatArray]
    false_positive: tuple[FloatArray, FloatArray]
    accuracy: tuple[FloatArray, FloatArray]


def compared_classes(test: TestLabels) -> list[int]:
    """Return the classes whose one-vs-rest problem counts: the positive class of a binary task, else all."""
    if test.n_classes == 2 and test.positive_class is not None:
        return [test.positive_class]
    return list(range(test.n_classes))


def rate_tables(test: TestLabels, counts: GroupCounts) -> RateTables:
    """Return the rates' successes and trials, restricted to compared classes and comparable attribute values."""
    mask = test.comparable_pairs & np.isin(np.arange(test.n_classes), compared_classes(test))[:, None]
    rows = np.broadcast_to(counts.n.sum(axis=0), counts.n.shape)

    def kept(successes: Counts, trials: Counts) -> tuple[FloatArray, FloatArray]:
        return np.where(mask, successes, 0).astype(np.float64), np.where(mask, trials, 0).astype(np.float64)

    return RateTables(
        selection=kept(counts.predicted, rows),
        true_positive=kept(counts.correct, counts.n),
        false_positive=kept(counts.predicted - counts.correct, rows - counts.n),
        accuracy=(counts.correct.sum(axis=0).astype(np.float64), counts.n.sum(axis=0).astype(np.float64)),
    )


def spread(rates: Bounded) -> Bounded:
    """Return highest minus lowest along the last axis, with bounds that hold whenever all rates lie in theirs.

    Rows with fewer than two defined rates are NaN.
    """
    comparable = np.isfinite(rates.value).sum(axis=-1) >= 2
    top, bottom = _extreme(rates, np.max, -np.inf), _extreme(rates, np.min, np.inf)
    with np.errstate(invalid="ignore"):
        low = np.maximum(top.low - bottom.high, 0)
        return Bounded(top.value - bottom.value, low, top.high - bottom.low).where(comparable)


def ratio(rates: Bounded) -> Bounded:
    """Return lowest over highest along the last axis, bounded likewise.

    Rows with fewer than two defined rates, or with no positive one, are NaN.
    """
    comparable = (np.isfinite(rates.value).sum(axis=-1) >= 2) & (np.nan_to_num(rates.value).max(axis=-1) > 0)
    top, bottom = _extreme(rates, np.max, -np.inf), _extreme(rates, np.min, np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        high = np.where(top.low > 0, np.minimum(bottom.high / top.low, 1), 1)
        return Bounded(bottom.value / top.value, bottom.low / top.high, high).where(comparable)


def larger(first: Bounded, second: Bounded) -> Bounded:
    """Return the element-wise maximum; NaN where either is undefined."""
    return Bounded(
        np.maximum(first.value, second.value), np.maximum(first.low, second.low), np.maximum(first.high, second.high)
    )


def over_classes(values: Bounded, how: str) -> tuple[float, float, float]:
    """Reduce per-class values [classes] to one, leaving out undefined classes.

    Args:
        values: Per class, at least one of them defined.
        how: ``mean``, ``max`` or ``min``.

    Returns:
        Value, low, high.
    """
    reduce: dict[str, Callable[..., float]] = {"mean": np.mean, "max": np.max, "min": np.min}
    kept = np.isfinite(values.value)
    return (
        float(reduce[how](values.value[kept])),
        float(reduce[how](values.low[kept])),
        float(reduce[how](values.high[kept])),
    )


def _extreme(rates: Bounded, reduce: Callable[..., FloatArray], neutral: float) -> Bounded:
    defined = np.isfinite(rates.value)
    return Bounded(
        *(
            np.asarray(reduce(np.where(defined, part, neutral), axis=-1))
            for part in (rates.value, rates.low, rates.high)
        )
    )
