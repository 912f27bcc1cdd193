"""The same numbers as scipy.stats to the last bit, and without importing it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from benchmark.metrics.distributions import beta_quantile, binomial_probability, t_quantile

PROBABILITIES = (0.025, 0.05 / 200, 1 - 0.95 ** (1 / 100), 0.975, 1 - 0.05 / 200)


@pytest.mark.parametrize("probability", PROBABILITIES)
@pytest.mark.parametrize("trials", [1, 9, 36, 359, 3590, 100_000])
def test_beta_quantiles(trials: int, probability: float) -> None:
    successes = np.unique(np.random.default_rng(trials).integers(1, trials + 1, 300)).astype(float)
    for worth in (1.0, 0.371):  # effective sizes are no whole numbers
        k, n = successes * worth, trials * worth
        assert np.array_equal(beta_quantile(probability, k, n - k + 1), stats.beta.ppf(probability, k, n - k + 1))


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_t_quantiles(probability: float) -> None:
    freedom = np.concatenate([np.arange(1, 2000), np.random.default_rng(0).uniform(1, 50, 500)])
    assert np.array_equal(t_quantile(probability, freedom), stats.t.ppf(probability, freedom))


@pytest.mark.parametrize("trials", [1, 2, 9, 36, 359])
def test_binomial_probabilities(trials: int) -> None:
    steps = np.linspace(0, trials, 4 * trials + 1)
    for share in (*np.random.default_rng(trials).uniform(0, 1, 40), 0.0, 0.5, 1.0):
        expected = stats.binom.cdf(steps, trials, share)
        assert np.array_equal(binomial_probability(steps, trials, share), expected)


def test_scoring_does_not_import_scipy_stats() -> None:
    program = (
        "import sys, numpy as np\n"
        "from benchmark.metrics.binomial import clopper_pearson\n"
        "from benchmark.metrics.groups import expected_disparity\n"
        "clopper_pearson(np.array([3.0]), np.array([9.0]), 0.05)\n"
        "expected_disparity(np.array([9, 36]), 0.7)\n"
        "sys.exit('scipy.stats' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
