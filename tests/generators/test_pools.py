"""Pools: generated once, appended, shared; damage, kills and races end in the same images."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from benchmark.errors import DamagedFile, DataError, GeneratorError, InvalidValue, NotAvailable, StoreError, UnknownName
from benchmark.generators import pools
from benchmark.generators.pools import Layout, Pool, PoolImages, list_pools, open_pool
from benchmark.generators.recipe import GroupKey, PoolRecipe
from benchmark.generators.shards import pixel_sha256
from benchmark.records.canonical import sha256_of
from benchmark.records.store import Store

ROOT = Path(__file__).parents[2]
PROMPTS = {(0, 0): "a red zero", (0, 1): "a blue zero", (1, None): "a one"}
THREE_EACH = {(0, 0): 3, (0, 1): 3, (1, None): 3}


def no_loading() -> NoReturn:
    raise AssertionError("the generator was loaded although every image is there")


@pytest.fixture(scope="module")
def recipe(small_generator: Any) -> PoolRecipe:
    conditions = small_generator.conditions()
    return PoolRecipe(
        task="colorized-digits@1",
        prompts=PROMPTS,
        negative_prompt="",
        steps=1,
        guidance=2.0,
        image_size=32,
        batch_size=4,
        **conditions,
    )


@pytest.fixture(scope="module")
def reference(small_generator: Any, recipe: PoolRecipe, tmp_path_factory: pytest.TempPathFactory) -> PoolImages:
    """Twenty images of each group, generated at once, undisturbed."""
    pool = Pool(Store(tmp_path_factory.mktemp("reference")), recipe)
    counts = dict.fromkeys(PROMPTS, 20)
    pool.ensure(counts, lambda: small_generator)
    return pool.read(counts)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def filled(store: Store, recipe: PoolRecipe, small_generator: Any, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool of three images of each group in three shards."""
    monkeypatch.setattr(pools, "PIECE_IMAGES", 4)
    pool = Pool(store, recipe)
    pool.ensure(THREE_EACH, lambda: small_generator)
    return pool


def first(images: PoolImages, n: int) -> NDArray[np.uint8]:
    """The first n images of each group."""
    return images.images[images.index < n]


def shards(pool: Pool) -> list[Path]:
    return sorted(path for path in pool.folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def test_images_come_by_group_and_index(filled: Pool, reference: PoolImages) -> None:
    images = filled.read(THREE_EACH)
    assert images.y.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert images.a.tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1]
    assert images.index.tolist() == [0, 1, 2] * 3
    assert images.ranges == {(0, 0): (0, 3), (0, 1): (0, 3), (1, None): (0, 3)}
    assert images.images.flags.c_contiguous
    np.testing.assert_array_equal(images.images, first(reference, 3))
    digests = pixel_sha256(images.images)
    rows = [[*row] for row in zip(images.y.tolist(), images.a.tolist(), images.index.tolist(), digests, strict=True)]
    assert images.rows_sha256 == sha256_of(rows)
    assert images.as_record()["ranges"] == [[0, 0, 0, 3], [0, 1, 0, 3], [1, None, 0, 3]]


def test_what_is_there_is_used_without_loading_the_generator(filled: Pool) -> None:
    again = Pool(filled.store, filled.recipe)
    again.ensure(THREE_EACH, no_loading)
    again.ensure({(0, 1): 2}, no_loading)
    assert again.missing({(0, 1): 5, (1, None): 3}) == 2
    assert len(again.read({(0, 1): 2, (0, 0): 0})) == 2


def test_a_pool_is_appended_and_what_was_there_stays(filled: Pool, small_generator: Any, reference: PoolImages) -> None:
    before = {path: (path / "rows.parquet").stat().st_mtime_ns for path in shards(filled)}
    done: list[int] = []
    more = {(0, 0): 5, (1, None): 4}
    assert filled.missing(more) == 3
    filled.ensure(more, lambda: small_generator, progress=done.append)
    assert sum(done) == 3
    images = filled.read(more)
    np.testing.assert_array_equal(images.images[:5], first(reference, 5)[:5])
    np.testing.assert_array_equal(images.images[5:], reference.images[40:44])
    assert {path: (path / "rows.parquet").stat().st_mtime_ns for path in before} == before


def test_every_image_has_a_provenance_row(filled: Pool, recipe: PoolRecipe) -> None:
    rows = [row for shard in shards(filled) for row in pq.read_table(shard / "rows.parquet").to_pylist()]
    assert len(rows) == 9
    row = next(row for row in rows if (row["y"], row["a"], row["index"]) == (1, None, 2))
    assert pixel_sha256(np.frombuffer(row.pop("pixels"), np.uint8).reshape(1, 32, 32, 3)) == [row.pop("sha256")]
    assert row == {
        "task": "colorized-digits@1",
        "y": 1,
        "a": None,
        "index": 2,
        "prompt": "a one",
        "negative_prompt": "",
        "generator": "small-sd",
        "revision": f"sha256:{recipe.generator['content_sha256']}",
        "adapter": None,
        "scheduler": "native",
        "steps": 1,
        "guidance": 2.0,
        "seed": recipe.seed(GroupKey(1, None), 2),
        "generation": 0,
        "filter_score": None,
        "kept": True,
        "oracle": False,
    }


def test_shards_open_with_datasets(filled: Pool, tmp_path: Path) -> None:
    import datasets

    files = [str(shard / "rows.parquet") for shard in shards(filled)]
    rows = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 9
    assert rows.features["pixels"].dtype == "fixed_size_binary[3072]"


def flip_a_byte(shard: Path) -> None:
    content = bytearray((shard / "rows.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (shard / "rows.parquet").write_bytes(content)


def truncate(shard: Path) -> None:
    content = (shard / "rows.parquet").read_bytes()
    (shard / "rows.parquet").write_bytes(content[: len(content) // 2])


def edit_ranges(shard: Path) -> None:
    content = json.loads((shard / "ranges.json").read_text())
    content["ranges"][0][2] += 100
    (shard / "ranges.json").write_text(json.dumps(content))


def reseal_with_other_pixels(shard: Path) -> None:
    from benchmark.records.store import seal

    table = pq.read_table(shard / "rows.parquet")
    pixels = table.schema.get_field_index("pixels")
    pq.write_table(table.set_column(pixels, table.schema.field(pixels), table["pixels"].take([1, 0, 2])), shard / "r")
    (shard / "r").rename(shard / "rows.parquet")
    seal(shard)


def remove(name: str) -> Callable[[Path], None]:
    return lambda shard: (shard / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        truncate,
        edit_ranges,
        remove("rows.parquet"),
        remove("ranges.json"),
        remove("digests.json"),
    ],
)
def test_a_damaged_shard_is_set_aside_and_made_again(
    filled: Pool,
    small_generator: Any,
    reference: PoolImages,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = shards(filled)
    damage(before[0])
    again = Pool(filled.store, filled.recipe)
    assert again.missing(THREE_EACH) in (1, 4)
    assert "set aside" in caplog.text
    with pytest.raises(NotAvailable, match="run the same command again"):
        again.read(THREE_EACH)
    again.ensure(THREE_EACH, lambda: small_generator)
    np.testing.assert_array_equal(again.read(THREE_EACH).images, first(reference, 3))


def test_pixels_that_do_not_match_their_row_are_found(
    store: Store, recipe: PoolRecipe, small_generator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Pool(store, recipe)
    pool.ensure({(0, 0): 3}, lambda: small_generator)
    reseal_with_other_pixels(shards(pool)[0])
    assert Pool(store, recipe).missing({(0, 0): 3}) == 3
    assert "do not match their digest" in caplog.text


def test_an_unfinished_folder_of_a_dead_producer_is_not_read(filled: Pool, reference: PoolImages) -> None:
    unfinished = filled.folder / ".tmp-1-dead"
    shutil.copytree(shards(filled)[0], unfinished)
    truncate(unfinished)
    again = Pool(filled.store, filled.recipe)
    again.ensure(THREE_EACH, no_loading)
    np.testing.assert_array_equal(again.read(THREE_EACH).images, first(reference, 3))


def test_the_same_image_in_two_shards_is_read_once(filled: Pool, small_generator: Any, reference: PoolImages) -> None:
    hidden = [shard.rename(filled.store.root / shard.name) for shard in shards(filled)]
    filled.ensure({(0, 0): 3}, lambda: small_generator)
    for shard in hidden:
        shard.rename(filled.folder / shard.name)
    assert filled.missing(THREE_EACH) == 0
    np.testing.assert_array_equal(filled.read(THREE_EACH).images, first(reference, 3))
    (summary,) = list_pools(filled.store)
    assert summary.images == THREE_EACH


def test_a_stream_gives_each_image_once_piece_by_piece(filled: Pool, reference: PoolImages) -> None:
    layout = Layout(THREE_EACH)
    pieces = list(Pool(filled.store, filled.recipe).stream(THREE_EACH, block=2))
    assert max(len(piece) for piece in pieces) == 2
    images = np.zeros((9, 32, 32, 3), dtype=np.uint8)
    for piece in pieces:
        at = layout.positions(piece)
        assert (layout.y[at] == piece.y).all()
        assert (layout.a[at] == piece.a).all()
        assert (layout.index[at] == piece.index).all()
        assert piece.sha256.tolist() == pixel_sha256(piece.images)
        images[at] = piece.images
    np.testing.assert_array_equal(images, first(reference, 3))
    assert sum(len(piece) for piece in pieces) == 9
    only = list(filled.stream({(0, 1): 2, (0, 0): 0}))
    assert [(piece.y.tolist(), piece.a.tolist()) for piece in only] == [([0] * len(p), [1] * len(p)) for p in only]
    assert sorted(k for piece in only for k in piece.index.tolist()) == [0, 1]


def test_a_stream_leaves_out_what_is_damaged_and_missing(filled: Pool, reference: PoolImages) -> None:
    assert filled.held() == THREE_EACH
    truncate(shards(filled)[0])
    again = Pool(filled.store, filled.recipe)
    assert (again.held(), again.damaged) == (THREE_EACH, 0)
    there = list(again.stream({(0, 0): 9, (0, 1): 9, (1, None): 9}))
    layout = Layout(THREE_EACH)
    assert sum(len(piece) for piece in there) in (5, 8)
    assert again.damaged == 1
    for piece in there:
        np.testing.assert_array_equal(piece.images, first(reference, 3)[layout.positions(piece)])


def test_a_stream_holds_a_shard_and_not_the_pool(
    store: Store, recipe: PoolRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PIECE_IMAGES", 64)
    pool, counts = Pool(store, recipe), dict.fromkeys(PROMPTS, 300)
    pool.ensure(counts, Noise)

    def most(read: Callable[[], object]) -> int:
        read()  # what is imported and cached on the way is no part of it
        tracemalloc.start()
        try:
            read()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    streamed = most(lambda: [len(piece) for piece in pool.stream(counts)])
    whole = most(lambda: pool.read(counts))
    assert whole > 900 * recipe.bytes_per_image
    assert streamed < 4 * 64 * recipe.bytes_per_image < whole / 3


def test_a_stream_of_what_cannot_be_asked_for_is_refused(filled: Pool) -> None:
    with pytest.raises(InvalidValue, match="no prompt for group"):
        list(filled.stream({(7, 7): 1}))


def test_a_shard_that_vanishes_before_it_is_read_is_left_out(filled: Pool, reference: PoolImages) -> None:
    assert filled.missing(THREE_EACH) == 0  # each shard is verified now, and not again unless its file changes
    file = shards(filled)[0] / "rows.parquet"
    found = file.stat()
    file.write_bytes(bytes(found.st_size))
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    pieces = list(filled.stream(THREE_EACH))
    assert sum(len(piece) for piece in pieces) in (5, 8)
    with pytest.raises(NotAvailable, match="run the same command again"):
        filled.read(THREE_EACH)
    assert Pool(filled.store, filled.recipe).missing(THREE_EACH) in (1, 4)


def test_anything_that_changes_images_changes_the_pool(recipe: PoolRecipe) -> None:
    changes: list[dict[str, Any]] = [
        {"task": "colorized-mnist@1"},
        {"generator": {**recipe.generator, "content_sha256": "0" * 64}},
        {"prompts": {**PROMPTS, (0, 0): "a crimson zero"}},
        {"negative_prompt": "a letter"},
        {"scheduler": "DDIMScheduler"},
        {"steps": 2},
        {"guidance": 2.5},
        {"image_size": 64},
        {"batch_size": 8},
        {"resize": "box"},
        {"precision": "bfloat16"},
        {"device_kind": "cuda"},
        {"adapters": {(0, 1): ("1" * 64,)}},
        {"generation": 1},
        {"oracle": True},
    ]
    assert {name for change in changes for name in change} == {f.name for f in dataclasses.fields(recipe)}
    ids = {dataclasses.replace(recipe, **change).pool_id for change in changes}
    assert len(ids - {recipe.pool_id}) == len(changes)
    same = dataclasses.replace(recipe, prompts=dict(reversed(PROMPTS.items())), guidance=2)
    assert same.pool_id == recipe.pool_id
    assert PoolRecipe.from_record(json.loads(json.dumps(recipe.as_record()))) == recipe


def test_a_pool_without_adapters_has_the_identity_it_had_before_there_were_any() -> None:
    published = PoolRecipe(
        task="colorized-digits@1",
        generator={"kind": "hub", "name": "org/sd", "revision": "0" * 40, "content_sha256": None},
        prompts=PROMPTS,
        negative_prompt="",
        scheduler="native",
        steps=25,
        guidance=7.5,
        image_size=32,
        batch_size=16,
    )
    # Both numbers were computed by the version before adapters; pools made then must still be found.
    assert published.pool_id == "39e071c315cf908dceeff90c0b6894f5d4a3999c947d442b6764f17be11dedb0"
    assert published.seed(GroupKey(0, 1), 7) == 6887017920138738813
    assert dataclasses.replace(published, adapters={(0, 0): (), (0, 1): (None,)}).pool_id == published.pool_id


def test_adapters_and_their_order_are_part_of_the_identity(recipe: PoolRecipe) -> None:
    cycles: list[tuple[str | None, ...]] = [("1" * 64,), ("1" * 64, "2" * 64), ("2" * 64, "1" * 64), ("1" * 64, None)]
    recipes = [dataclasses.replace(recipe, adapters={(0, 1): cycle}) for cycle in cycles]
    assert len({r.pool_id for r in recipes} | {recipe.pool_id}) == 5
    assert dataclasses.replace(recipe, adapters={(0, 0): cycles[0]}).pool_id != recipes[0].pool_id
    for r in recipes:
        again = PoolRecipe.from_record(json.loads(json.dumps(r.as_record())))
        assert again == r
        assert again.pool_id == r.pool_id
    both = {(0, 0): cycles[0], (1, None): cycles[1]}
    same = dataclasses.replace(recipe, adapters=dict(reversed(both.items())))
    assert same.pool_id == dataclasses.replace(recipe, adapters=both).pool_id


def test_the_adapters_of_a_group_take_turns(recipe: PoolRecipe) -> None:
    a, b = "1" * 64, "2" * 64
    cycled = dataclasses.replace(recipe, adapters={(0, 0): (a, None, b), (0, 1): (b,)})
    assert [cycled.adapter(GroupKey(0, 0), k) for k in range(7)] == [a, None, b, a, None, b, a]
    assert [cycled.adapter(GroupKey(0, 1), k) for k in range(2)] == [b, b]
    assert cycled.adapter(GroupKey(1, None), 0) is None


def test_adapters_of_a_group_without_prompt_and_damaged_ones_are_refused(recipe: PoolRecipe) -> None:
    with pytest.raises(InvalidValue, match=r"group \(y=7, a=7\) has an adapter but no prompt"):
        dataclasses.replace(recipe, adapters={(7, 7): ("1" * 64,)})
    for damaged in ("1" * 64, [[0, 1]], 3, [[7, 7, ["1" * 64]]]):
        with pytest.raises(DamagedFile, match="no recipe of a pool"):
            PoolRecipe.from_record({**recipe.as_record(), "adapter": damaged})


def test_seeds_are_derived_from_pool_group_and_index(recipe: PoolRecipe) -> None:
    seeds = {recipe.seed(group, index) for group in recipe.groups for index in range(50)}
    assert len(seeds) == 150
    assert max(seeds) < 2**63
    assert recipe.seed(GroupKey(0, 1), 7) != dataclasses.replace(recipe, steps=2).seed(GroupKey(0, 1), 7)


def test_shards_and_recipes_of_another_pool_cannot_be_mixed_in(
    filled: Pool, small_generator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    other = Pool(filled.store, dataclasses.replace(filled.recipe, task="colorized-mnist@1"))
    other.ensure({(0, 0): 1}, lambda: small_generator)
    shutil.copytree(shards(filled)[0], other.folder / shards(filled)[0].name)
    assert other.missing({(0, 0): 3}) == 2
    assert "belongs to another pool" in caplog.text
    shutil.copy(filled.folder / "recipe.json", other.folder / "recipe.json")
    with pytest.raises(DataError, match="the recipe of another pool"):
        Pool(filled.store, other.recipe)


def test_a_damaged_recipe_is_written_again(filled: Pool, small_generator: Any) -> None:
    (filled.folder / "recipe.json").write_text("{")
    assert list_pools(filled.store) == []
    Pool(filled.store, filled.recipe).ensure({(0, 0): 4}, lambda: small_generator)
    assert [summary.pool_id for summary in list_pools(filled.store)] == [filled.recipe.pool_id]


def test_a_generator_other_than_the_recipe_names_is_refused(
    store: Store, recipe: PoolRecipe, small_generator: Any
) -> None:
    for change in ({"scheduler": "DDIMScheduler"}, {"precision": "bfloat16"}):
        with pytest.raises(GeneratorError, match=f"has {next(iter(change))} .* the recipe of the pool says"):
            Pool(store, dataclasses.replace(recipe, **change)).ensure({(0, 0): 1}, lambda: small_generator)
    assert list_pools(store) == []


def test_what_cannot_be_asked_for_is_refused(store: Store, recipe: PoolRecipe) -> None:
    pool = Pool(store, recipe)
    with pytest.raises(InvalidValue, match=r"no prompt for group \(y=1, a=0\)"):
        pool.ensure({(1, 0): 1}, no_loading)
    with pytest.raises(InvalidValue, match="-1 images of group"):
        pool.ensure({(0, 0): -1}, no_loading)
    with pytest.raises(NotAvailable, match="lacks 2 of 2 images"):
        pool.read({(0, 0): 2})
    with pytest.raises(UnknownName, match="unknown scheduler 'Euler'"):
        dataclasses.replace(recipe, scheduler="Euler")
    for change in ({"steps": 0}, {"guidance": float("nan")}, {"prompts": {}}, {"prompts": {(0, 0): " "}}):
        with pytest.raises(InvalidValue):
            dataclasses.replace(recipe, **change)
    with pytest.raises(DamagedFile, match="no recipe"):
        PoolRecipe.from_record({"law": 1, "task": "x"})


def test_pools_are_listed_with_task_generator_counts_and_size(filled: Pool) -> None:
    (summary,) = list_pools(filled.store)
    assert summary.recipe == filled.recipe
    assert summary.images == THREE_EACH
    assert summary.size >= 9 * 3072 * 0.5


@pytest.fixture(scope="module")
def adapted(small_generator: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small generator with two adapters that change much."""
    import torch

    from benchmark.generators.adapters import Adapter, base_of, fresh_adapter
    from benchmark.generators.pipelines import TextToImage

    folder, base = tmp_path_factory.mktemp("adapters"), base_of(small_generator.identity.as_record())
    files = {}
    for seed in range(2):
        random = torch.Generator().manual_seed(seed)
        fresh = fresh_adapter(small_generator.pipe.unet, 4, base, seed)
        weights = {name: torch.randn(w.shape, generator=random) / 3 for name, w in fresh.weights.items()}
        files[Adapter(weights, base).sha256] = Adapter(weights, base).save(folder)
    return TextToImage(small_generator.pipe, small_generator.identity, adapters=files)


def test_each_row_names_the_adapter_that_made_it(
    store: Store, recipe: PoolRecipe, adapted: Any, small_generator: Any
) -> None:
    a, b = adapted.adapters
    cycled = dataclasses.replace(recipe, adapters={(0, 0): (a, b, None), (0, 1): (b,)})
    pool = Pool(store, cycled)
    pool.ensure({(0, 0): 4}, lambda: adapted)
    pool.ensure({(0, 0): 5, (0, 1): 2, (1, None): 2}, lambda: adapted)
    rows = [row for shard in shards(pool) for row in pq.read_table(shard / "rows.parquet").to_pylist()]
    made_by = {(row["y"], row["a"], row["index"]): row["adapter"] for row in rows}
    assert [made_by[0, 0, k] for k in range(5)] == [a, b, None, a, b]
    assert [made_by[0, 1, k] for k in range(2)] == [b, b]
    assert [made_by[1, None, k] for k in range(2)] == [None, None]

    images = open_pool(store, cycled.pool_id).read({(0, 0): 5, (0, 1): 2, (1, None): 2})
    groups = [GroupKey(0, 0)] * 5 + [GroupKey(0, 1)] * 2 + [GroupKey(1, None)] * 2
    for adapter in (a, b, None):
        chosen = [k for k, row in enumerate(zip(groups, images.index, strict=True)) if cycled.adapter(*row) == adapter]
        wanted = adapted.sample(
            [PROMPTS[groups[k]] for k in chosen],
            [""] * len(chosen),
            [cycled.seed(groups[k], int(images.index[k])) for k in chosen],
            **{"steps": 1, "guidance": 2.0, "height": 32, "width": 32, "batch_size": 4},
            adapters=[adapter] * len(chosen),
        )
        np.testing.assert_array_equal(images.images[chosen], wanted)


def test_a_pool_with_adapters_is_read_without_them(
    store: Store, recipe: PoolRecipe, adapted: Any, small_generator: Any
) -> None:
    cycled = dataclasses.replace(recipe, adapters={(0, 0): tuple(adapted.adapters)})
    Pool(store, cycled).ensure({(0, 0): 3}, lambda: adapted)
    again = open_pool(store, cycled.pool_id)
    assert again.recipe == cycled
    again.ensure({(0, 0): 3}, no_loading)
    assert len(again.read({(0, 0): 2})) == 2
    with pytest.raises(NotAvailable, match=r"adapter .* is not in the store; run the same command again to train it"):
        again.ensure({(0, 0): 5}, lambda: small_generator)
    assert again.missing({(0, 0): 5}) == 2
    again.ensure({(0, 0): 3, (0, 1): 1}, lambda: small_generator)  # a group of the same pool that needs no adapter


def test_a_pool_is_opened_by_its_id(filled: Pool) -> None:
    opened = open_pool(filled.store, filled.recipe.pool_id)
    assert opened.recipe == filled.recipe
    assert opened.missing(THREE_EACH) == 0
    with pytest.raises(DamagedFile, match="cannot be read"):
        open_pool(filled.store, "0" * 64)
    (filled.store.root / "pools" / ("1" * 64)).mkdir()
    shutil.copy(filled.folder / "recipe.json", filled.store.root / "pools" / ("1" * 64) / "recipe.json")
    with pytest.raises(DamagedFile, match="the recipe of another pool"):
        open_pool(filled.store, "1" * 64)


def test_chosen_images_keep_their_rows_and_have_a_digest_of_their_own(filled: Pool) -> None:
    images = filled.read(THREE_EACH)
    chosen = images.take([8, 0, 4])
    np.testing.assert_array_equal(chosen.images, images.images[[8, 0, 4]])
    assert (chosen.y.tolist(), chosen.a.tolist(), chosen.index.tolist()) == ([1, 0, 0], [-1, 0, 1], [2, 0, 1])
    assert chosen.sha256.tolist() == pixel_sha256(chosen.images)
    digests = pixel_sha256(images.images)
    assert chosen.rows_sha256 == sha256_of([[1, -1, 2, digests[8]], [0, 0, 0, digests[0]], [0, 1, 1, digests[4]]])
    assert chosen.as_record() == {**images.as_record(), "rows_sha256": chosen.rows_sha256}
    assert images.take(range(9)).rows_sha256 == images.rows_sha256
    assert len(images.take([])) == 0
    with pytest.raises(InvalidValue, match="positions, not bool"):
        images.take(images.y == 1)


class Noise:
    """A sampler that needs no model: pixels drawn from the seed."""

    def conditions(self) -> dict[str, Any]:
        return {}

    def sample(self, prompts: Sequence[str], negative: Sequence[str], seeds: Sequence[int], **options: Any) -> Any:
        size = (options["height"], options["width"], 3)
        return np.stack([np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8) for seed in seeds])


class Overtaken(Noise):
    """Another process takes the claim over, as if this one had been stopped, and is done first."""

    def __init__(self, pool: Pool, counts: dict[tuple[int, int | None], int], after: int) -> None:
        self.pool, self.counts, self.after = pool, counts, after

    def sample(self, *given: Any, **options: Any) -> Any:
        self.after -= 1
        if self.after == 0:
            (claim,) = (self.pool.store.root / "claims").iterdir()
            claim.unlink()
            Pool(self.pool.store, self.pool.recipe).ensure(self.counts, Noise)
        return super().sample(*given, **options)


@pytest.mark.parametrize("theirs", [THREE_EACH, {(0, 0): 2, (1, None): 7}, {(0, 0): 9, (0, 1): 9, (1, None): 9}])
def test_two_that_append_at_once_publish_each_image_once(
    store: Store, recipe: PoolRecipe, monkeypatch: pytest.MonkeyPatch, theirs: dict[tuple[int, int | None], int]
) -> None:
    monkeypatch.setattr(pools, "PIECE_IMAGES", 4)
    alone = Pool(Store(store.root / "alone"), recipe)
    pool, counts = Pool(store, recipe), dict.fromkeys(PROMPTS, 5)
    pool.ensure(counts, lambda: Overtaken(pool, theirs, after=2))
    both = {group: max(counts[group], theirs.get(group, 0)) for group in counts}
    alone.ensure(both, Noise)
    np.testing.assert_array_equal(pool.read(both).images, alone.read(both).images)
    rows = sum(pq.ParquetFile(shard / "rows.parquet").metadata.num_rows for shard in shards(pool))
    assert rows == sum(both.values())
    assert not list(pool.folder.glob(".*"))


def test_pools_are_listed_while_one_is_appended(store: Store, recipe: PoolRecipe) -> None:
    pool, done = Pool(store, recipe), threading.Event()
    pool.ensure({(0, 0): 1}, Noise)

    def append() -> None:
        n = 1
        while not done.is_set():
            n += 1
            pool.ensure({(0, 0): n}, Noise)

    producer = threading.Thread(target=append)
    producer.start()
    until, listed = time.monotonic() + 0.7, []
    try:
        while time.monotonic() < until:
            listed += [summary.images[GroupKey(0, 0)] for summary in list_pools(store)]
    finally:
        done.set()
        producer.join()
    assert listed == sorted(listed)
    assert 1 <= listed[-1] <= pool.held()[GroupKey(0, 0)]


def test_a_finished_pool_is_read_fast_and_without_heavy_imports(store: Store, recipe: PoolRecipe) -> None:
    prompts = {(y, a): f"{a} {y}" for y in range(10) for a in range(10)}
    large = dataclasses.replace(recipe, prompts=prompts, batch_size=64)
    Pool(store, large).ensure(dict.fromkeys(prompts, 22), Noise)
    program = f"""
import json, sys, time, pyarrow.parquet
from pathlib import Path
from benchmark.generators.pools import Pool, PoolRecipe
from benchmark.records.store import Store
recipe = PoolRecipe.from_record(json.loads({json.dumps(large.as_record())!r}))
start = time.process_time()
pool, counts = Pool(Store(Path({str(store.root)!r})), recipe), dict.fromkeys(recipe.groups, 22)
pool.ensure(counts, None)
images = pool.read(counts)
heavy = [m for m in ("torch", "diffusers", "transformers", "datasets", "pandas") if m in sys.modules]
print(json.dumps([len(images), time.process_time() - start, heavy]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    n, seconds, heavy = json.loads(done.stdout)
    assert (n, heavy) == (2200, [])
    assert seconds < 0.75  # about 0.2 s; processor time, so that a busy machine does not fail it


def test_a_full_disk_keeps_what_was_published(
    tmp_path: Path, recipe: PoolRecipe, reference: PoolImages, small_generator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    monkeypatch.setattr(pools, "PIECE_IMAGES", 4)
    try:
        pool = Pool(Store(disk / "store"), recipe)
        with pytest.raises(StoreError, match="no space left"):
            pool.ensure({(0, 0): 20}, lambda: small_generator)
        kept = shards(pool)
        assert kept
        assert not list(pool.folder.glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        pool.ensure({(0, 0): 20}, lambda: small_generator)
        assert set(kept) < set(shards(pool))
        np.testing.assert_array_equal(pool.read({(0, 0): 20}).images, reference.images[:20])
    finally:
        subprocess.run(["umount", disk], check=True)


PRODUCER = """
import json, sys
from pathlib import Path
import torch
from benchmark.generators import pools
from benchmark.generators.identity import resolve_generator
from benchmark.generators.pipelines import TextToImage
from benchmark.records.store import Store
torch.set_num_threads(1)
pools.PIECE_IMAGES = 4
generator = TextToImage.load(resolve_generator(sys.stdin.readline().strip(), offline=True), device="cpu")
print("ready", flush=True)
for line in sys.stdin:
    root, record, n = json.loads(line)
    pool = pools.Pool(Store(Path(root)), pools.PoolRecipe.from_record(record))
    pool.ensure(dict.fromkeys(pool.recipe.groups, n), lambda: generator)
    print("done", flush=True)
"""


@pytest.fixture(scope="session", autouse=True)
def starting_process() -> Iterator[subprocess.Popen[str]]:
    """Another process, started first of all, so that it imports while this one does."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PRODUCER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def producer(starting_process: subprocess.Popen[str], small_sd: Path) -> subprocess.Popen[str]:
    """The other process with the generator loaded; it produces the pools it is told to."""
    assert starting_process.stdin is not None
    assert starting_process.stdout is not None
    starting_process.stdin.write(f"{small_sd}\n")
    starting_process.stdin.flush()
    assert starting_process.stdout.readline() == "ready\n"
    return starting_process


def tell(process: subprocess.Popen[str], store: Store, recipe: PoolRecipe, n: int) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps([str(store.root), recipe.as_record(), n]) + "\n")
    process.stdin.flush()


@pytest.mark.slow
def test_two_processes_at_once_make_one_consistent_pool(
    producer: subprocess.Popen[str],
    store: Store,
    recipe: PoolRecipe,
    reference: PoolImages,
    small_generator: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "PIECE_IMAGES", 4)
    pool, counts = Pool(store, recipe), dict.fromkeys(PROMPTS, 12)
    tell(producer, store, recipe, 8)
    pool.ensure(counts, lambda: small_generator)
    assert producer.stdout is not None
    assert producer.stdout.readline() == "done\n"
    np.testing.assert_array_equal(pool.read(counts).images, first(reference, 12))
    rows = sum(pq.ParquetFile(shard / "rows.parquet").metadata.num_rows for shard in shards(pool))
    assert rows == 36  # the claim kept the work from being done twice
    assert not list(pool.folder.glob(".*"))


@pytest.mark.slow
def test_a_killed_producer_loses_one_piece_and_is_continued(
    producer: subprocess.Popen[str],
    store: Store,
    recipe: PoolRecipe,
    reference: PoolImages,
    small_generator: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, counts = Pool(store, recipe), dict.fromkeys(PROMPTS, 20)
    tell(producer, store, recipe, 20_000)
    deadline = time.monotonic() + 60
    while not (pool.folder.is_dir() and len(shards(pool)) >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(producer.pid, signal.SIGKILL)
    producer.wait()
    published = {shard.name: (shard / "rows.parquet").stat().st_mtime_ns for shard in shards(pool)}
    assert pool.missing(counts) <= 60 - 12

    monkeypatch.setattr("benchmark.records.store._CLAIM_EXPIRES_S", 0.5)  # the dead producer's claim is still there
    again = Pool(store, recipe)
    again.ensure(counts, lambda: small_generator)
    np.testing.assert_array_equal(again.read(counts).images, reference.images)
    assert published.items() <= {s.name: (s / "rows.parquet").stat().st_mtime_ns for s in shards(pool)}.items()
