"""Copies of training images are found; other real images of the same kind are not called copies."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.audits import memorised
from benchmark.audits.memorised import memorised_share
from benchmark.errors import InvalidValue
from benchmark.tasks.catalog import load_task
from benchmark.tasks.lazy import LazyImages
from benchmark.tasks.manifest import TEST, TRAIN

TASK = load_task("colorized-digits")


def images(split: str, step: int = 1) -> LazyImages:
    rows = TASK.manifest("balanced", 0).splits[split]
    return TASK.images(rows.take(np.arange(0, len(rows), step)))


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return np.asarray(images(TRAIN))


def test_training_images_themselves_are_all_memorised(train: np.ndarray) -> None:
    metric = memorised_share(train[::10], train)
    assert (metric.value, metric.high) == (1, 1)
    assert metric.low is not None
    assert 0.95 < metric.low < 1
    assert metric.interval == "exact; L2 on 32x32 pixels to 990 of 990 training images"


def test_copies_with_a_little_noise_are_memorised(train: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (50, *train.shape[1:]), dtype=np.uint8)
    assert memorised_share(np.minimum(train[:50], 250) + noise, train).value == 1


@pytest.mark.slow
def test_real_digits_outside_of_training_show_about_one_percent(train: np.ndarray) -> None:
    """All-pairs distances as a yardstick would call nearly all of them memorised."""
    metric = memorised_share(images(TEST, 7), train)
    assert metric.low is not None
    assert metric.high is not None
    assert metric.low <= 0.01 <= metric.high
    flat, test = (np.asarray(part).reshape(-1, 3072)[:300].astype(np.float64) for part in (train, images(TEST, 7)))
    between = np.linalg.norm(flat[:, None, ::16] - flat[None, :, ::16], axis=2)[np.triu_indices(300, 1)]
    nearest = np.linalg.norm(test[:, None, ::16] - flat[None, :, ::16], axis=2).min(axis=1)
    assert (nearest < np.percentile(between, 1)).mean() > 0.4


def test_half_a_pool_of_copies_is_half_memorised(train: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    assert memorised_share(np.concatenate([train[:40], noise]), train).value == 0.5


def test_larger_images_are_averaged_by_area(train: np.ndarray) -> None:
    big = train[:200].repeat(3, axis=1).repeat(3, axis=2)
    metric = memorised_share(big[:20], big)
    assert metric.value == 1
    assert metric.interval.startswith("exact; L2 on 32x32 pixels")
    # What differs below the averaged size does not count.
    turned = big[:20].reshape(20, 32, 3, 32, 3, 3)[:, :, ::-1].reshape(20, 96, 96, 3)
    assert memorised_share(turned, big).value == 1


def test_images_are_read_in_blocks_whether_in_memory_or_not(train: np.ndarray) -> None:
    lazy = LazyImages(len(train), 32, lambda index: train[index])
    assert memorised_share(lazy.take(np.arange(0, 990, 5)), lazy) == memorised_share(train[::5], train)


def test_duplicates_among_training_images_leave_exact_copies_as_the_only_ones_counted(train: np.ndarray) -> None:
    doubled = np.concatenate([train[:200], train[:200]])
    assert memorised_share(train[:30], doubled).value == 1
    near = np.minimum(train[:30], 250) + 1
    assert memorised_share(near, doubled).value == 0
    assert memorised_share(near, train[:200]).value == 1


def test_of_too_many_training_images_evenly_spaced_ones_stand_for_all(
    train: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorised, "LARGEST", 200)
    metric = memorised_share(train[:50], train)
    assert metric.interval == "exact; L2 on 32x32 pixels to 200 of 990 training images"
    assert metric.value is not None
    assert 0.1 <= metric.value < 0.5, "copies of the images left out are missed: a lower bound"
    assert memorised_share(train[:50], train) == metric


def test_too_few_images_are_null_with_the_reason(train: np.ndarray) -> None:
    assert memorised_share(train[:0], train).reason == "there are no generated images"
    assert memorised_share(train[:5], train[:99]).reason == "99 training images; a 1st percentile needs 100"


def test_sizes_that_do_not_meet_are_refused(train: np.ndarray) -> None:
    with pytest.raises(InvalidValue, match="both sides need one size"):
        memorised_share(np.zeros((2, 16, 16, 3), dtype=np.uint8), train)
