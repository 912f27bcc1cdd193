"""FID and KID on given features: zero for one distribution, the known value for two Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.audits.quality import frechet_and_kernel
from benchmark.errors import InvalidValue

WHERE = "penultimate features of the auditor of y"


def gaussian(n: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0, width: int = 4) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(n, width))
    # Exactly the wanted mean and covariance, so that the distance is known exactly.
    drawn -= drawn.mean(axis=0)
    whitened = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T)).T)
    return (whitened * scale + shift).astype(np.float64)


def test_fid_of_two_gaussians_is_the_distance_of_their_means_and_deviations() -> None:
    found = frechet_and_kernel(gaussian(400), gaussian(300, shift=1, scale=2, seed=1), extractor=WHERE, seed=0)
    # |Δμ|² + Σ (σ1 - σ2)² over four directions.
    assert found["fid"].value == pytest.approx(4 * 1 + 4 * 1, rel=1e-6)
    assert found["fid"].interval == "none"
    assert found["fid"].reason == f"no interval: FID of 400 real and 300 generated images, on {WHERE}"


def test_equal_images_have_no_distance() -> None:
    same = gaussian(300)
    found = frechet_and_kernel(same, same, extractor=WHERE, seed=0)
    assert found["fid"].value == pytest.approx(0, abs=1e-6)
    assert found["fid"].value >= 0


def test_kid_covers_zero_for_one_distribution_and_not_for_two() -> None:
    near = frechet_and_kernel(gaussian(400), gaussian(400, seed=1), extractor=WHERE, seed=0)["kid"]
    far = frechet_and_kernel(gaussian(400), gaussian(400, shift=1, seed=1), extractor=WHERE, seed=0)["kid"]
    assert near.low is not None
    assert near.high is not None
    assert near.low < 0 < near.high
    assert far.low is not None
    assert far.low > 0
    assert far.interval == f"±1.96 standard deviations over 100 subsets of 200 images, on {WHERE}"


def test_the_seed_decides_the_subsets_and_the_global_generator_stays_as_it_was() -> None:
    real, fake = gaussian(300), gaussian(300, seed=1)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first = frechet_and_kernel(real, fake, extractor=WHERE, seed=1)
    assert torch.rand(1) == expected
    assert frechet_and_kernel(real, fake, extractor=WHERE, seed=1) == first
    assert frechet_and_kernel(real, fake, extractor=WHERE, seed=2)["kid"].value != first["kid"].value


def test_too_few_images_are_null_with_the_reason() -> None:
    few = frechet_and_kernel(gaussian(200), np.zeros((4, 4)), extractor=WHERE, seed=0)
    assert few["fid"].reason == f"200 real and 4 generated images; FID on 4 features needs 5 of each ({WHERE})"
    assert few["kid"].reason == f"200 real and 4 generated images; KID needs 100 of each ({WHERE})"
    assert frechet_and_kernel(gaussian(99), gaussian(99), extractor=WHERE, seed=0)["kid"].value is None
    assert frechet_and_kernel(gaussian(100), gaussian(100), extractor=WHERE, seed=0)["kid"].value is not None


def test_dead_features_do_no_harm() -> None:
    """Behind a ReLU some features are zero for every image."""
    real, fake = (np.pad(gaussian(200, seed=seed), ((0, 0), (0, 3))) for seed in (0, 1))
    assert frechet_and_kernel(real, fake, extractor=WHERE, seed=0)["fid"].value == pytest.approx(0, abs=1e-5)


def test_features_that_are_not_finite_are_null_and_different_widths_refused() -> None:
    broken = np.full((200, 4), np.inf)
    assert frechet_and_kernel(broken, gaussian(200), extractor=WHERE, seed=0)["fid"].reason == (
        f"some features are not finite ({WHERE})"
    )
    with pytest.raises(InvalidValue, match="features of real images are"):
        frechet_and_kernel(gaussian(200), gaussian(200, width=5), extractor=WHERE, seed=0)
