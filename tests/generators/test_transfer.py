"""Which real image becomes which moved one, and that the sampler makes exactly those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.contract.generation import Invertible
from benchmark.errors import GeneratorError, InvalidValue
from benchmark.generators.invertible import InvertibleNetwork, trained_invertible
from benchmark.generators.own import OwnModel
from benchmark.generators.pools import Pool, Sampler
from benchmark.generators.recipe import GroupKey, PoolRecipe
from benchmark.generators.transfer import REUSE_NOISE, TransferSampler, transfer_sources
from benchmark.records.store import Store

SIZE, SIZES = 16, (2, 3)
HOW = Invertible(autoencoder_steps=4, steps=4, batch_size=8, learning_rate=1e-3, latent=8, blocks=2, width=16)
FACTORS: NDArray[np.int64] = np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [1, 2]])
IMAGES: NDArray[np.uint8] = (
    np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
)
OF_SEED = {11: (0, (0, 1), 0.0), 12: (0, (0, 2), 0.0), 13: (0, (0, 1), 0.3), 14: (5, (1, 0), 0.3)}

#            0  1  2  3  4  5  6  7
Y = np.array([0, 0, 0, 0, 0, 0, 1, 1])
A = np.array([2, 0, 1, 0, 1, 0, 3, 3])


def positions(y: int, a: int, n: int, counts: dict[tuple[int, int | None], int] | None = None) -> list[int]:
    found = transfer_sources(Y, A, counts or {(y, a): n})
    return [found[GroupKey(y, a), index][0] for index in range(n)]


def test_images_of_other_attributes_are_used_in_turn_those_of_larger_groups_first() -> None:
    assert positions(0, 3, 6) == [1, 3, 5, 2, 4, 0]
    assert positions(0, 0, 3) == [2, 4, 0]
    assert positions(0, 1, 4) == [1, 3, 5, 0]


def test_a_source_that_is_used_again_gets_noise() -> None:
    found = transfer_sources(Y, A, {(0, 0): 7})
    assert [found[GroupKey(0, 0), index] for index in range(7)] == [
        (2, 0.0), (4, 0.0), (0, 0.0), (2, REUSE_NOISE), (4, REUSE_NOISE), (0, REUSE_NOISE), (2, REUSE_NOISE),
    ]  # fmt: skip


def test_the_groups_of_a_class_use_different_images_while_there_are_enough() -> None:
    counts: dict[tuple[int, int | None], int] = {(0, 4): 2, (0, 3): 2, (1, 0): 1}
    first, second = positions(0, 3, 2, counts), positions(0, 4, 2, counts)
    assert (first, second) == ([1, 3], [5, 2])
    assert positions(1, 0, 1, counts) == [6]


def test_equally_large_groups_stay_whole_in_the_order_of_their_attributes() -> None:
    y, a = np.zeros(5, dtype=np.int64), np.array([2, 1, 2, 1, 0])
    found = transfer_sources(y, a, {(0, 0): 4})
    assert [position for position, _ in found.values()] == [1, 3, 0, 2]


def test_a_class_of_a_single_attribute_lends_the_images_of_the_group_itself() -> None:
    assert positions(1, 3, 2) == [6, 7]
    assert transfer_sources(Y, A, {(1, 3): 3})[GroupKey(1, 3), 2] == (6, REUSE_NOISE)


def test_what_cannot_be_moved_is_refused() -> None:
    with pytest.raises(InvalidValue, match="no real image of class 2"):
        transfer_sources(Y, A, {(2, 0): 1})
    with pytest.raises(InvalidValue, match="the plan must name one"):
        transfer_sources(Y, A, {(0, None): 1})
    assert transfer_sources(Y, A, {(2, 0): 0}) == {}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OwnModel:
    return trained_invertible(
        Store(tmp_path_factory.mktemp("store")), IMAGES, FACTORS, SIZES, HOW, seed=0, device=torch.device("cpu"),
        precision="float32", progress=lambda _: None,
    )  # fmt: skip


@pytest.fixture
def sampler(model: OwnModel) -> TransferSampler:
    return TransferSampler.load(
        model, HOW, SIZES, sources=IMAGES, source_factors=FACTORS, of_seed=OF_SEED, device=torch.device("cpu")
    )


def sample(sampler: Sampler, seeds: list[int], **options: Any) -> NDArray[np.uint8]:
    settings: dict[str, Any] = {
        "steps": 1, "guidance": 0.0, "height": SIZE, "width": SIZE, "batch_size": 3, "resize": "lanczos",
        "adapters": None,
    }  # fmt: skip
    return sampler.sample(["asked"] * len(seeds), [""] * len(seeds), seeds, **settings | options)


def test_each_seed_gives_the_image_that_it_stands_for(sampler: TransferSampler, model: OwnModel) -> None:
    images = sample(sampler, [14, 11, 12, 13])
    network = InvertibleNetwork.load(model, HOW, SIZES, SIZE, torch.device("cpu"))
    for image, seed in zip(images, (14, 11, 12, 13), strict=True):
        position, target, deviation = OF_SEED[seed]
        noise = deviation * torch.randn(HOW.latent, generator=torch.Generator().manual_seed(seed))[None]
        source = slice(position, position + 1)
        expected = network.translate(IMAGES[source], FACTORS[source], np.array([target]), noise=noise)
        assert np.abs(image.astype(int) - expected[0]).max() <= 1
    assert not np.array_equal(images[1], images[3])


def test_an_image_does_not_depend_on_its_neighbours_or_on_autocast(sampler: TransferSampler) -> None:
    together = sample(sampler, [11, 12, 13, 14])
    assert np.array_equal(sample(sampler, [13])[0], together[2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(sample(sampler, [11, 12, 13, 14]), together)


def test_a_seed_that_stands_for_nothing_and_another_size_are_refused(sampler: TransferSampler) -> None:
    with pytest.raises(GeneratorError, match="seed 99 stands for no image"):
        sample(sampler, [11, 99])
    with pytest.raises(InvalidValue, match="cannot be moved at 32×32"):
        sample(sampler, [11], height=32, width=32)


def test_a_pool_is_filled_by_the_plan(model: OwnModel, tmp_path: Path) -> None:
    y, a = FACTORS[:, 0], FACTORS[:, 1]
    recipe = PoolRecipe(
        task="some-task@1", generator=model.as_record(), prompts={(0, 2): "zero, two", (1, 0): "one, zero"},
        negative_prompt="", scheduler="native", steps=1, guidance=0.0, image_size=SIZE, batch_size=4,
    )  # fmt: skip
    counts: dict[tuple[int, int | None], int] = {(0, 2): 4, (1, 0): 2}
    of_seed = {
        recipe.seed(group, index): (position, (group.y, group.attribute), deviation)
        for (group, index), (position, deviation) in transfer_sources(y, a, counts).items()
    }

    def load() -> Sampler:
        return TransferSampler.load(
            model, HOW, SIZES, sources=IMAGES, source_factors=FACTORS, of_seed=of_seed, device=torch.device("cpu")
        )

    pool = Pool(Store(tmp_path), recipe)
    pool.ensure(counts, load)
    read = pool.read(counts)
    assert read.y.tolist() == [0] * 4 + [1] * 2
    assert read.a.tolist() == [2] * 4 + [0] * 2
    # Three sources for four images: the fourth is the first one again, with noise.
    assert len(np.unique(read.sha256)) == 6
