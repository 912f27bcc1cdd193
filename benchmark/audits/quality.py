"""Fréchet and kernel distance of generated from real images, on features that the caller names.

Heusel et al. 2017 (FID) and Bińkowski et al. 2018 (KID) take Inception's features; here the extractor is a parameter,
so a value compares only with values on the same one. The arithmetic is torchmetrics'.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.errors import InvalidValue
from benchmark.metrics.data import Metric

SUBSETS = 100
SUBSET_SIZE = 500
SMALLEST_SUBSET = 50
_NORMAL = 1.96


class _AsTheyAre(nn.Module):
    """Hands features through, where torchmetrics expects a network that makes them from images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_and_kernel(
    real: NDArray[np.floating[Any]], generated: NDArray[np.floating[Any]], *, extractor: str, seed: int
) -> dict[str, Metric]:
    """Compute FID and KID between real and generated images.

    ``kid`` is the mean over 100 random subsets of up to 500 images of each side; its interval is ±1.96 standard
    deviations of the subsets' values. That is the spread of one subset, wider than the error of the mean, and subsets
    of few images overlap. ``fid`` has no interval, and falls with the number of images even where nothing else changes.

    Args:
        real: Features of real images, [n, d].
        generated: Features of generated images by the same extractor, [m, d].
        extractor: What made the features; it stands in the metrics' texts.
        seed: Decides KID's subsets.

    Returns:
        ``fid``, null for fewer than d + 1 images on a side, whose covariance is singular; ``kid``, null for fewer than
        twice the smallest subset.

    Raises:
        InvalidValue: When the two have different widths.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise InvalidValue(f"features of real images are {real.shape}, of generated ones {generated.shape}")
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        null = Metric.undefined(f"some features are not finite ({extractor})")
        return {"fid": null, "kid": null}
    first, second = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (real, generated))
    return {"fid": _fid(first, second, extractor), "kid": _kid(first, second, extractor, seed)}


def _fid(real: torch.Tensor, generated: torch.Tensor, extractor: str) -> Metric:
    from torchmetrics.image.fid import FrechetInceptionDistance

    n, m, width = len(real), len(generated), real.shape[1]
    if min(n, m) < width + 1:
        return Metric.undefined(
            f"{n} real and {m} generated images; FID on {width} features needs {width + 1} of each ({extractor})"
        )
    distance = FrechetInceptionDistance(_AsTheyAre(width))
    distance.update(real, real=True)
    distance.update(generated, real=False)
    # Rounding leaves about -1e-12 between equal sets.
    value = max(float(distance.compute()), 0.0)
    return Metric(value, reason=f"no interval: FID of {n} real and {m} generated images, on {extractor}")


def _kid(real: torch.Tensor, generated: torch.Tensor, extractor: str, seed: int) -> Metric:
    from torchmetrics.image.kid import KernelInceptionDistance

    n, m = len(real), len(generated)
    # Half of the smaller side at most: subsets of all images would not differ.
    size = min(SUBSET_SIZE, n // 2, m // 2)
    if size < SMALLEST_SUBSET:
        return Metric.undefined(
            f"{n} real and {m} generated images; KID needs {2 * SMALLEST_SUBSET} of each ({extractor})"
        )
    with warnings.catch_warnings():
        # Says that features stay in memory; they are there already.
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`", category=UserWarning)
        distance = KernelInceptionDistance(_AsTheyAre(real.shape[1]), subsets=SUBSETS, subset_size=size)
    distance.update(real, real=True)
    distance.update(generated, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, spread = (float(part) for part in distance.compute())
    how = f"±1.96 standard deviations over {SUBSETS} subsets of {size} images, on {extractor}"
    return Metric(mean, mean - _NORMAL * spread, mean + _NORMAL * spread, how)
