"""Images of one group fall into clusters that are large enough, and into one where there is nothing to tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmark.errors import InvalidValue
from benchmark.generators.clusters import Clustering, cluster

Features = NDArray[np.float32]


def blobs(sizes: Sequence[int], *, dimensions: int = 16, spread: float = 0.2) -> Features:
    """Images one blob after the other, each blob around a centre that is random in every dimension."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(len(sizes), dimensions))[blocks(*sizes)]
    return (centres + spread * draw.normal(size=centres.shape)).astype(np.float32)


def split(features: Features, clusters: int | None = None, *, smallest: int = 8, seed: int = 0) -> Clustering:
    return cluster(features, clusters=clusters, smallest=smallest, seed=seed)


def blocks(*sizes: int) -> list[int]:
    return np.repeat(np.arange(len(sizes)), sizes).tolist()


@pytest.mark.parametrize("dimensions", [4, 16, 200])
def test_the_number_of_clusters_is_found(dimensions: int) -> None:
    found = split(blobs([30, 20, 12], dimensions=dimensions))
    assert found.labels.tolist() == blocks(30, 20, 12)
    assert found.labels.dtype == np.int64
    assert found.sizes == (30, 20, 12)
    assert found.silhouette is not None
    assert found.silhouette > 0.3


@pytest.mark.parametrize("n", [20, 60, 400])
def test_noise_remains_one_cluster(n: int) -> None:
    noise = np.random.default_rng(0).normal(size=(n, 64)).astype(np.float32)
    assert split(noise).sizes == (n,)
    assert split(noise).silhouette is None
    assert len(split(noise, 2).sizes) == 2  # unless two are asked for


def test_a_fixed_number_is_kept() -> None:
    features = blobs([30, 20, 12])
    assert split(features, 1).sizes == (62,)
    assert split(features, 3).sizes == (30, 20, 12)
    assert len(split(features, 2).sizes) == 2


def test_a_number_that_the_group_is_too_small_for_is_cut() -> None:
    assert split(blobs([10, 10]), 5).sizes == (10, 10)
    assert split(blobs([8, 7]), 2).sizes == (15,)
    assert split(blobs([2, 1]), 2, smallest=2).sizes == (3,)
    assert split(blobs([1, 1]), 2, smallest=1).sizes == (1, 1)


def test_a_small_cluster_joins_the_nearest() -> None:
    features = blobs([20, 30])
    outliers = features[:3] + np.float32(2) * (features[:20].mean(axis=0) - features[20:].mean(axis=0))
    found = split(np.concatenate([features, outliers]), 3)
    assert found.labels.tolist() == [1] * 20 + [0] * 30 + [1] * 3


def test_outliers_do_not_hide_the_number_of_clusters() -> None:
    features = np.concatenate([blobs([20, 30]), np.full((1, 16), 6, dtype=np.float32)])
    assert split(features, 2).sizes == (51,)
    assert split(features).sizes == (31, 20)


def test_one_cluster_is_left_when_all_others_are_too_small() -> None:
    features = np.concatenate([blobs([15]), blobs([1]) + np.float32(9)])
    assert split(features, 2).sizes == (16,)
    assert split(features).sizes == (16,)


def test_clusters_are_numbered_by_size_and_then_by_first_member() -> None:
    assert split(blobs([9, 12, 10]), 3).labels.tolist() == [2] * 9 + [0] * 12 + [1] * 10
    equal = split(blobs([10, 10, 10])[::-1].copy(), 3)
    assert equal.labels.tolist() == blocks(10, 10, 10)


def test_the_scale_and_offset_of_a_dimension_do_not_matter() -> None:
    features = blobs([30, 20, 12])
    scaled = features * np.float32(10) ** np.arange(-4, 12, dtype=np.float32) + np.float32(1e-3)
    constant = np.full((62, 3), 0.1, dtype=np.float32)
    assert split(np.hstack([scaled, constant])).labels.tolist() == blocks(30, 20, 12)


@pytest.mark.parametrize("clusters", [None, 2, 5])
def test_identical_images_are_one_cluster(clusters: int | None) -> None:
    for features in (np.full((40, 16), 0.1, dtype=np.float32), np.zeros((40, 0), dtype=np.float32)):
        found = split(features, clusters)
        assert (found.sizes, found.silhouette) == ((40,), None)


def test_repeated_images_give_no_more_clusters_than_there_are_different_ones() -> None:
    features = blobs([1, 1, 1])[blocks(20, 15, 10)]
    for clusters in (None, 3, 5):
        assert split(features, clusters, smallest=1).sizes == (20, 15, 10)
    features[44] += np.float32(1)
    assert split(features, 5, smallest=1).sizes == (20, 15, 9, 1)


@pytest.mark.parametrize("noise", [1e-7, 1e-5, 1e-3])
def test_images_that_hardly_differ_cause_no_warnings(noise: float) -> None:
    repeated = blobs([1, 1, 1])[blocks(20, 15, 10)]
    features = (repeated + noise * np.random.default_rng(1).normal(size=repeated.shape)).astype(np.float32)
    assert split(features, smallest=1).sizes == (20, 15, 10)
    assert sum(split(features, 20, smallest=1).sizes) == 45


def test_the_seed_decides_and_nothing_else() -> None:
    noise = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    state = str(np.random.get_state())
    labels = split(noise, 6, seed=2**63 - 1).labels
    assert str(np.random.get_state()) == state
    assert not labels.flags.writeable
    np.testing.assert_array_equal(split(noise, 6, seed=2**63 - 1).labels, labels)
    assert (split(noise, 6, seed=1).labels != labels).any()


def test_the_number_of_threads_does_not_matter() -> None:
    features = blobs([150, 90, 60], dimensions=64, spread=0.5)
    with threadpool_limits(1):
        one = split(features)
    with threadpool_limits(2):
        two = split(features)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.sizes == two.sizes == (150, 90, 60)


def test_large_groups_are_fitted_to_a_sample() -> None:
    found = split(blobs([9000, 4000], dimensions=40), 2)
    assert found.labels.tolist() == blocks(9000, 4000)


def test_a_large_group_of_one_image_and_a_stranger_is_one_cluster() -> None:
    features = np.zeros((12_000, 40), dtype=np.float32)
    features[5] = 1
    for seed in range(8):  # in some of the samples the stranger is missing
        assert split(features, seed=seed).sizes == (12_000,)


def test_a_group_without_images_has_no_clusters() -> None:
    found = split(np.zeros((0, 16), dtype=np.float32))
    assert (found.labels.tolist(), found.sizes, found.silhouette) == ([], (), None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_features_are_refused_with_the_image(value: float) -> None:
    features = blobs([5])
    features[3, 1] = value
    with pytest.raises(InvalidValue, match="features of 1 of 5 images are NaN or infinite, those of image 3 first"):
        split(features)


def test_arguments_that_make_no_sense_are_refused() -> None:
    features = blobs([20])
    with pytest.raises(InvalidValue, match="clusters must be at least 1, not 0"):
        split(features, 0)
    with pytest.raises(InvalidValue, match="smallest must be at least 1, not 0"):
        split(features, smallest=0)
    with pytest.raises(InvalidValue, match="seed must be at least 0, not -1"):
        split(features, seed=-1)
    with pytest.raises(InvalidValue, match=r"float32 \[n, d\], not float64 \(20, 16\)"):
        split(features.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"not float32 \(20,\)"):
        split(features[:, 0])
