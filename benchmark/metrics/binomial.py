"""Simultaneous intervals of shares: Clopper-Pearson at Šidák's level, with effective sizes for clustered rows.

Clopper-Pearson rather than Wilson: with a hundred groups the level per group is .9995, where Wilson's interval misses
far too often near 0 and 1 (a test measures it); the exact one never covers less than it says.
"""

from __future__ import annotations

import numpy as np

from benchmark.metrics.data import CONFIDENCE, BoolArray, FloatArray, IntArray
from benchmark.metrics.distributions import beta_quantile, t_quantile


def sidak_alpha(intervals: int) -> float:
    """Return the error probability of each of so many intervals that together have ``CONFIDENCE`` (Šidák 1967)."""
    return float(1 - CONFIDENCE ** (1 / max(intervals, 1)))


def clopper_pearson(successes: FloatArray, trials: FloatArray, alpha: float) -> tuple[FloatArray, FloatArray]:
    """Return exact two-sided intervals of shares (Clopper & Pearson 1934).

    Args:
        successes: Successes, arrays of any shape; fractions are allowed (effective sizes).
        trials: Trials, same shape; 0 gives NaN.
        alpha: Error probability of each interval.

    Returns:
        Lower and upper ends.
    """
    k, n = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64))
    low, high = np.zeros(k.shape), np.ones(k.shape)
    inner = (n > 0) & (k > 0)
    low[inner] = beta_quantile(alpha / 2, k[inner], n[inner] - k[inner] + 1)
    inner = (n > 0) & (k < n)
    high[inner] = beta_quantile(1 - alpha / 2, k[inner] + 1, n[inner] - k[inner])
    low[n <= 0] = high[n <= 0] = np.nan
    return low, high


def simultaneous(successes: FloatArray, trials: FloatArray, effective: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return intervals of all shares with trials that hold together with probability ``CONFIDENCE``.

    Args:
        successes: Successes, any shape.
        trials: Trials, same shape; 0 gives NaN and does not count among the intervals.
        effective: Effective trials, same shape (see :func:`effective_trials`).
    """
    alpha = sidak_alpha(int((trials > 0).sum()))
    share = np.divide(successes, trials, out=np.zeros(np.shape(trials)), where=trials > 0)
    return clopper_pearson(share * effective, np.where(trials > 0, effective, 0), alpha)


def effective_trials(unit: IntArray, cell: IntArray, success: BoolArray, n_cells: int, alpha: float) -> FloatArray:
    """Return how many independent rows the rows of each cell are worth (Korn & Graubard 1998).

    Where every unit has at most one row in a cell the rows are independent within the cell, and this is their number.
    That is so in a crossed test: each group holds every unit of its class once. Otherwise the cluster variance of the
    share decides, kept between the extremes of no and of perfect agreement inside units; shares of 0 and 1 get the
    latter.

    Args:
        unit: Unit of each row, int64 [n].
        cell: Cell (group, or conditioning set of a rate) of each row, int64 [n].
        success: Whether the row is a success, bool [n].
        n_cells: Number of cells.
        alpha: Error probability of the interval that will use the result.

    Returns:
        float [n_cells]; 0 for empty cells.
    """
    n = np.bincount(cell, minlength=n_cells).astype(np.float64)
    pairs, inverse = np.unique(unit * np.int64(n_cells) + cell, return_inverse=True)
    if len(pairs) == len(unit):
        return n
    size = np.bincount(inverse.reshape(-1)).astype(np.float64)
    right = np.bincount(inverse.reshape(-1), weights=success.astype(np.float64))
    owner = pairs % n_cells
    units = np.bincount(owner, minlength=n_cells).astype(np.float64)
    filled = n > 0
    share = np.divide(
        np.bincount(cell, weights=success.astype(np.float64), minlength=n_cells), n, out=np.zeros(n_cells), where=filled
    )
    residual = np.bincount(owner, weights=(right - share[owner] * size) ** 2, minlength=n_cells)
    least = np.divide(n**2, np.bincount(owner, weights=size**2, minlength=n_cells), out=np.zeros(n_cells), where=filled)
    varies = filled & (units > 1) & (residual > 0)
    effective = least.copy()
    spread = residual[varies] * units[varies] / (units[varies] - 1)
    effective[varies] = np.clip(share[varies] * (1 - share[varies]) * n[varies] ** 2 / spread, least[varies], n[varies])
    # A variance estimated from few units is itself uncertain.
    several = filled & (units > 1) & (units < n)
    quantiles = t_quantile(1 - alpha / 2, n[several] - 1) / t_quantile(1 - alpha / 2, units[several] - 1)
    effective[several] *= quantiles**2
    return effective
