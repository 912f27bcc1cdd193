"""Quantiles and probabilities of three distributions, as scipy.stats gives them to the last bit, without importing it.

That import takes half a second, more than all else in scoring a small test split.
"""

from __future__ import annotations

import numpy as np

from benchmark.metrics.data import FloatArray


def beta_quantile(probability: float, a: FloatArray, b: FloatArray) -> FloatArray:
    """Return quantiles of beta distributions with parameters ``a`` and ``b``."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(a, b, probability))


def t_quantile(probability: float, freedom: FloatArray | np.float64) -> FloatArray:
    """Return quantiles of Student's t with some degrees of freedom."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, probability))


def binomial_probability(most: FloatArray, trials: float, share: float) -> FloatArray:
    """Return the probability of at most so many successes in so many trials."""
    try:
        # What scipy.stats calls; public functions differ from it in the last bit, and records are compared bit for bit.
        from scipy.special._ufuncs import _binom_cdf
    except ImportError:
        from scipy.stats import binom

        return np.asarray(binom.cdf(most, trials, share))
    return np.asarray(_binom_cdf(np.floor(most), float(trials), float(share)))
