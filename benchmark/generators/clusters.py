"""Splits the images of one group into clusters by k-means on their features.

Fine-tuning per cluster calls it once for each group; whose features they may be is the caller's to know (protocol §3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from benchmark.errors import InvalidValue

MOST_CLUSTERS = 8
"""The largest number that is tried where the number is chosen."""

LOWEST_SILHOUETTE = 0.1
"""A group whose best silhouette is lower stays whole: one cluster must be possible, and k-means always finds more.

Gaussian noise reaches 0.02 to 0.04 in 32 dimensions and about 0.12 in eight, but 0.35 in two: the features of a
network have enough dimensions for this to tell.
"""

DIMENSIONS = 32
"""More dimensions than these are reduced."""

_FITTED = 10_000
_SILHOUETTE_SAMPLE = 2000
_STARTS = 10
_DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Clustering:
    """The clusters of one group.

    Attributes:
        labels: Cluster of each image, int64 [n]; 0 is the largest, and of equal ones that with the earliest member.
        sizes: Number of images of each cluster, falling.
        silhouette: Mean silhouette (Rousseeuw 1987) of these clusters over at most 2,000 images, in [-1, 1]; None
            where it is undefined, as for a single cluster.
    """

    labels: NDArray[np.int64]
    sizes: tuple[int, ...]
    silhouette: float | None

    def __post_init__(self) -> None:
        """Freeze the labels."""
        self.labels.setflags(write=False)


def cluster(features: NDArray[np.float32], *, clusters: int | None, smallest: int, seed: int) -> Clustering:
    """Split the images of one group into clusters of a minimum size.

    k-means (scikit-learn's, ten starts) runs on standardised features, reduced to 32 principal components where there
    are more dimensions: distances between images lose their contrast in hundreds of dimensions, where standardising
    has also blown up every direction of mere noise. Both are fitted to at most 10,000 images, to which the plain
    algorithm is fast enough that mini-batches, whose result depends on their order, are not needed; the other images
    then go to the nearest centre.

    A cluster that is too small joins the one with the nearest centre, the smallest first. Where the number of clusters
    is chosen, it is that of the best silhouette *after* joining, so a few outliers in a cluster of their own do not
    hide what else is there; a group in which nothing reaches a silhouette of 0.1 remains one cluster.

    The same arguments give the same clusters. One thread does it all: several would add up in another order, and on
    so little data they mostly wait for each other.

    Args:
        features: float32 [n, d], one row per image of the group.
        clusters: How many, fewer where there is no room for that many of ``smallest`` or the images are too alike;
            None chooses from 1 to 8.
        smallest: Fewest images of a cluster; a group of fewer than twice as many is not split.
        seed: Of the starts of k-means, of the reduction, and of the silhouette's sample; not negative.

    Raises:
        InvalidValue: For NaN or infinite features, arrays of another shape, and numbers below their minimum.
    """
    _check(features, clusters, smallest, seed)
    n = len(features)
    most = min(MOST_CLUSTERS if clusters is None else clusters, n // smallest)
    if most < 2:
        return _whole(n)

    random_state = int(np.random.SeedSequence(seed).generate_state(1)[0])  # scikit-learn takes 32 bits
    fitted = _sample(n, _FITTED, random_state)
    with threadpool_limits(1):
        points = _points(features, fitted, random_state)
        most = min(most, _distinct(points[fitted]))
        if most < 2:
            return _whole(n)
        if clusters is not None:
            return _split(points, fitted, most, smallest, random_state)
        tried = [_split(points, fitted, k, smallest, random_state) for k in range(2, most + 1)]
    best = max(tried, key=_quality)
    return best if _quality(best) >= LOWEST_SILHOUETTE else _whole(n)


def _check(features: NDArray[np.float32], clusters: int | None, smallest: int, seed: int) -> None:
    if features.ndim != 2 or features.dtype != np.float32:
        raise InvalidValue(f"features must be float32 [n, d], not {features.dtype} {features.shape}")
    for name, value, least in (("clusters", clusters, 1), ("smallest", smallest, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise InvalidValue(f"clustering: {name} must be at least {least}, not {value}")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise InvalidValue(
            f"the features of {len(bad)} of {len(features)} images are NaN or infinite, those of image {bad[0]} first; "
            "the model that made them is broken or ran in too low a precision"
        )


def _quality(clustering: Clustering) -> float:
    return -1.0 if clustering.silhouette is None else clustering.silhouette


def _whole(n: int) -> Clustering:
    return Clustering(np.zeros(n, dtype=np.int64), (n,) if n else (), None)


def _points(features: NDArray[np.float32], fitted: NDArray[np.int64], random_state: int) -> NDArray[np.float64]:
    """Standardise, reduce and round, float64 [n, at most 32]; dimensions in which all images agree say nothing."""
    points = features[:, np.ptp(features[fitted], axis=0) > 0].astype(np.float64)
    points -= points.mean(axis=0)
    points /= points.std(axis=0)
    if points.shape[1] > DIMENSIONS:
        # n centred rows span n - 1 dimensions, so a small group loses nothing.
        reduction = PCA(min(DIMENSIONS, len(fitted) - 1), random_state=random_state)
        points = reduction.fit(points[fitted]).transform(points)
    # Rows that differ by less than this are one to the arithmetic of k-means, which would then miss a cluster.
    # Adding 0 makes -0 equal to 0.
    return points.round(_DECIMALS) + 0.0


def _sample(n: int, most: int, random_state: int) -> NDArray[np.int64]:
    """Return which of ``n`` rows stand for all: at most ``most``, in order."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(random_state).choice(n, most, replace=False))


def _distinct(points: NDArray[np.float64]) -> int:
    """Return the number of different rows: k-means finds no more clusters than that."""
    if points.shape[1] == 0:
        return min(len(points), 1)
    rows = np.ascontiguousarray(points).view(np.dtype((np.void, points.itemsize * points.shape[1])))
    return len(np.unique(rows))


def _split(
    points: NDArray[np.float64], fitted: NDArray[np.int64], k: int, smallest: int, random_state: int
) -> Clustering:
    found = KMeans(k, n_init=_STARTS, random_state=random_state).fit(points[fitted]).predict(points)
    labels = _joined(points, found.astype(np.int64), smallest)
    return Clustering(labels, tuple(np.bincount(labels).tolist()), _silhouette(points, labels, random_state))


def _joined(points: NDArray[np.float64], labels: NDArray[np.int64], smallest: int) -> NDArray[np.int64]:
    """Let each cluster that is too small join the one with the nearest centre, the smallest cluster first."""
    labels = _renumbered(labels)
    while True:
        sizes = np.bincount(labels)
        if len(sizes) == 1 or sizes[-1] >= smallest:
            return labels
        centres = np.stack([points[labels == one].mean(axis=0) for one in range(len(sizes))])
        nearest = int(np.argmin(np.linalg.norm(centres[:-1] - centres[-1], axis=1)))
        labels = _renumbered(np.where(labels == len(sizes) - 1, nearest, labels))


def _renumbered(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters by falling size, equal ones by their first member."""
    _, first, positions, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(first))
    return rank[positions]


def _silhouette(points: NDArray[np.float64], labels: NDArray[np.int64], random_state: int) -> float | None:
    """Return the mean silhouette over a sample, the same for every clustering of a group."""
    sample = _sample(len(labels), _SILHOUETTE_SAMPLE, random_state)
    points, labels = points[sample], labels[sample]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(points, labels))
