"""Precision, recall, density and coverage of generated against real images, on features that the caller names.

Both sides are seen as unions of balls around their images that reach to the k-th nearest neighbour of their own side:
Kynkäänniemi et al. 2019 (precision, recall), Naeem et al. 2020 (density, coverage). All four depend on how many images
there are, so values compare at equal numbers only.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.errors import InvalidValue
from benchmark.metrics.data import IntArray
from benchmark.records.schema import Shares

NEIGHBOURS = 5
"""Of Naeem 2020."""

DECIMALS = 5
_BLOCK = 1024
_TIE = 1e-6
"""Distances that differ by less than this share of the features' spread are equal: rounding parts copies."""

Features = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Manifold:
    """How two sets of images lie to each other; precision, recall and coverage in 0..1, density from 0, near 1 at best.

    Attributes:
        precision: Share of generated images inside a ball of a real one.
        recall: Share of real images inside a ball of a generated one.
        density: Real balls around a generated image over ``neighbours``, on average.
        coverage: Share of real images with a generated one in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True, eq=False)
class GroupManifolds:
    """The four numbers per group, [C][A]; None where there are too few images."""

    precision: Shares
    recall: Shares
    density: Shares
    coverage: Shares


def precision_recall_density_coverage(real: Features, generated: Features, *, neighbours: int = NEIGHBOURS) -> Manifold:
    """Compare generated with real images. Memory grows with the number of images, not with its square.

    Balls are closed: a copy of an image lies in its ball even where the image has so many duplicates that the ball is a
    point.

    Args:
        real: Features of real images, [n, d].
        generated: Features of generated images by the same extractor, [m, d].
        neighbours: Which nearest neighbour the balls reach to, not counting the image itself.

    Raises:
        InvalidValue: For different widths, fewer than ``neighbours`` + 1 images on a side, and features that are not
            finite.
    """
    _check(real, generated, neighbours)
    for name, side in (("real", real), ("generated", generated)):
        if len(side) <= neighbours:
            raise InvalidValue(f"{len(side)} {name} images have no {neighbours} neighbours; take fewer neighbours")
        if not np.isfinite(side).all():
            raise InvalidValue(f"some features of {name} images are not finite")
    first, second = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (real, generated))
    # Centred, the products behind the distances are smaller and lose fewer digits.
    centre = first.mean(dim=0)
    first, second = first - centre, second - centre
    slack = _TIE * float(first.square().sum(dim=1).mean().sqrt())
    around_real, around_generated = (_radii(side, neighbours) + slack for side in (first, second))
    inside_real = torch.zeros(len(second), dtype=torch.int64)
    inside_generated, covered = (torch.zeros(len(first), dtype=torch.bool) for _ in range(2))
    for start in range(0, len(second), _BLOCK):
        part = slice(start, start + _BLOCK)
        distance = _distance(second[part], first)
        near_real = distance <= around_real
        inside_real[part] = near_real.sum(dim=1)
        covered |= near_real.any(dim=0)
        inside_generated |= (distance <= around_generated[part, None]).any(dim=0)
    return Manifold(
        precision=float((inside_real > 0).double().mean()),
        recall=float(inside_generated.double().mean()),
        density=float(inside_real.double().mean() / neighbours),
        coverage=float(covered.double().mean()),
    )


def by_group(
    real: Features,
    real_group: IntArray,
    generated: Features,
    generated_group: IntArray,
    shape: tuple[int, int],
    *,
    neighbours: int = NEIGHBOURS,
    fewest: int = NEIGHBOURS + 1,
) -> GroupManifolds:
    """Compare generated with real images within each group.

    A group is None where either side has fewer than ``fewest`` images, or so few that balls do not exist: one threshold
    for all four numbers, although precision would be defined for a single generated image, so that all of them speak
    of the same groups. It is None too where a feature is not finite.

    Args:
        real: Features of real images, [n, d].
        real_group: Index ``y * A + a`` of their groups, int64 [n].
        generated: Features of generated images by the same extractor, [m, d].
        generated_group: Index of their groups, int64 [m]; other numbers, such as -1, belong to none.
        shape: Numbers C of labels and A of attribute values.
        neighbours: Which nearest neighbour the balls reach to.
        fewest: Images that a side needs; ``neighbours`` + 1 at least count.

    Raises:
        InvalidValue: For different widths or lengths.
    """
    _check(real, generated, neighbours)
    if len(real) != len(real_group) or len(generated) != len(generated_group):
        raise InvalidValue(
            f"{len(real)} real images with {len(real_group)} groups, {len(generated)} generated ones with "
            f"{len(generated_group)}; give one group per image"
        )
    least = max(fewest, neighbours + 1)
    found = np.full((4, shape[0] * shape[1]), np.nan)
    for group in range(shape[0] * shape[1]):
        sides = real[real_group == group], generated[generated_group == group]
        if min(map(len, sides)) >= least and all(np.isfinite(side).all() for side in sides):
            found[:, group] = astuple(precision_recall_density_coverage(*sides, neighbours=neighbours))
    return GroupManifolds(*(_table(numbers.reshape(shape)) for numbers in found))


def _check(real: Features, generated: Features, neighbours: int) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise InvalidValue(f"features of real images are {real.shape}, of generated ones {generated.shape}")
    if neighbours < 1:
        raise InvalidValue(f"{neighbours} neighbours make no balls; use 1 or more")


def _distance(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    return torch.cdist(queries, references, compute_mode="use_mm_for_euclid_dist")


def _radii(images: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Return the distance of each image to its k-th nearest other one, float64 [n]."""
    # An image is its own nearest, hence one more.
    return torch.cat([_distance(part, images).kthvalue(neighbours + 1).values for part in images.split(_BLOCK)])


def _table(numbers: NDArray[np.float64]) -> Shares:
    return [[None if np.isnan(number) else round(float(number), DECIMALS) for number in row] for row in numbers]
