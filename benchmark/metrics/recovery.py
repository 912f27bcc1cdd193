"""Numbers that need reference runs: the recovered gap, and sensitivity to the foreground (protocol section 6)."""

from __future__ import annotations

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.metrics.data import CONFIDENCE, FloatArray, Metric
from benchmark.metrics.distributions import t_quantile

LEAST_RECOVERABLE = 0.01
"""real-oracle must beat erm by this much, or there is no gap to recover: one point of accuracy (our protocol)."""


def recovered_gap(method: float | None, erm: float | None, oracle: float | None) -> Metric:
    """Return (method - erm) / (oracle - erm): 0 is plain training, 1 is what real images of the same groups achieve.

    Args:
        method: Ranking metric of the method; None where undefined.
        erm: Ranking metric of ``erm`` on the same task, level and rule.
        oracle: Ranking metric of ``real-oracle``; None also when it had fewer images than the budget.
    """
    reason = _why_no_gap(method, erm, oracle)
    if reason or method is None or erm is None or oracle is None:
        return Metric.undefined(str(reason))
    return Metric((method - erm) / (oracle - erm))


def recovered_gap_across_seeds(method: FloatArray, erm: FloatArray, oracle: FloatArray) -> Metric:
    """Return the recovered gap of three seed averages with an interval for training (delta method, Satterthwaite t).

    The three trainings are taken as independent, and the test sample as given.

    Args:
        method: Ranking metric per seed, [seeds]; likewise ``erm`` and ``oracle``. One seed each gives no interval.
        erm: Values of ``erm``.
        oracle: Values of ``real-oracle``; empty when it had fewer images than the budget.
    """
    arms = [np.asarray(arm, dtype=np.float64) for arm in (method, erm, oracle)]
    point = recovered_gap(*(float(arm.mean()) if len(arm) else None for arm in arms))
    if point.value is None or any(len(arm) < 2 for arm in arms):
        return point
    # The derivative of (m - e) / (o - e) in m, e and o, times (o - e).
    slopes = (1.0, point.value - 1.0, -point.value)
    parts = np.array([slope**2 * arm.var(ddof=1) / len(arm) for slope, arm in zip(slopes, arms, strict=True)])
    variance = float(parts.sum())
    if variance == 0:
        return Metric(point.value, point.value, point.value, "t")
    freedom = variance**2 / float((parts**2 / np.array([len(arm) - 1 for arm in arms])).sum())
    quantile = float(t_quantile((1 + CONFIDENCE) / 2, np.float64(freedom)))
    half = quantile * variance**0.5 / float(arms[2].mean() - arms[1].mean())
    return Metric(point.value, point.value - half, point.value + half, "t")


def _why_no_gap(method: float | None, erm: float | None, oracle: float | None) -> str | None:
    for name, value in (("the method", method), ("erm", erm), ("real-oracle", oracle)):
        if value is None:
            return f"{name} has no value of the ranking metric"
    if erm is None or oracle is None:
        return None
    # Differences of accuracies carry rounding: .51 - .5 is just below .01.
    if oracle - erm < LEAST_RECOVERABLE - 1e-12:
        return (
            f"real-oracle ({oracle:.3f}) is not at least {LEAST_RECOVERABLE} above erm ({erm:.3f}): no gap to recover"
        )
    return None


def relative_foreground_sensitivity(foreground: FloatArray, background: FloatArray) -> float:
    """Return the class mean of (a_bg - a_fg) / (2 min(ā, 1 - ā)), 0 for classes with ā at 0 or 1 (Moayeri et al. 2022).

    Negative values mean reliance on the background.

    Args:
        foreground: Accuracy per class with noise on the object, [classes].
        background: Accuracy per class with noise on everything else, [classes].

    Raises:
        InvalidValue: When the arrays differ in length, are empty or leave [0, 1].
    """
    fg, bg = np.asarray(foreground, dtype=np.float64), np.asarray(background, dtype=np.float64)
    both = np.concatenate([fg.ravel(), bg.ravel()])
    if fg.shape != bg.shape or fg.ndim != 1 or not fg.size or not bool(((both >= 0) & (both <= 1)).all()):
        raise InvalidValue("foreground and background accuracies must be equally many shares per class")
    mean = (fg + bg) / 2
    room = 2 * np.minimum(mean, 1 - mean)
    return float(np.divide(bg - fg, room, out=np.zeros_like(mean), where=room > 0).mean())
