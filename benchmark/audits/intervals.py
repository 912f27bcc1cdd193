"""From bootstrap draws of a share to a metric; correction and probes end here."""

from __future__ import annotations

import numpy as np

from benchmark.metrics.binomial import clopper_pearson
from benchmark.metrics.data import CONFIDENCE, FloatArray, Metric

_CONSTANT = 1e-9
"""Shares that differ by less than this come from the same counts."""


def exact_share(successes: float, trials: int, how: str = "exact") -> Metric:
    """Return a share with its exact binomial interval; ``trials`` must be positive."""
    low, high = clopper_pearson(np.array([float(successes)]), np.array([float(trials)]), 1 - CONFIDENCE)
    return Metric(successes / trials, float(low[0]), float(high[0]), how)


def share_of_draws(value: float, draws: FloatArray, *, independent: int, how: str) -> Metric:
    """Return a share with the percentile interval of its bootstrap draws.

    Where no draw differs (every answer is right, or none) a bootstrap knows no uncertainty at all; the interval is then
    the exact binomial one of so many independent observations.

    Args:
        value: The share.
        draws: The share in each bootstrap draw, float [draws].
        independent: Independent observations behind the share, at least 1.
        how: How the draws were made, and what was measured on.
    """
    low, high = (float(end) for end in np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    if high - low < _CONSTANT:
        share = min(max(value, 0.0), 1.0)
        exact = exact_share(share * independent, independent, f"exact, since no draw of the {how} differs")
        return Metric(value, exact.low, exact.high, exact.interval)
    # A value at the edge of what is possible may lie a rounding error outside of its own draws.
    return Metric(value, min(low, value), max(high, value), how)
