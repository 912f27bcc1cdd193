"""One shard of a pool: a Parquet file of images with a provenance row each, and the index ranges that it holds.

Written through `datasets`, read through pyarrow alone, so that using a finished pool costs no heavy import.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedFile
from benchmark.generators.recipe import GroupKey, PoolRecipe
from benchmark.records.canonical import sha256_hex, sha256_of
from benchmark.records.files import read_json, write_json

ROWS = "rows.parquet"
RANGES = "ranges.json"
FORMAT_VERSION = 1

Row = tuple[GroupKey, int]
"""One image of a pool: its group and its index inside the group."""


@dataclass(frozen=True)
class Range:
    """The images ``[start, stop)`` of one group."""

    group: GroupKey
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def ranges_of(rows: Sequence[Row]) -> list[Range]:
    """Return the fewest ranges that hold sorted rows."""
    ranges: list[Range] = []
    for group, index in rows:
        if ranges and ranges[-1].group == group and ranges[-1].stop == index:
            ranges[-1] = Range(group, ranges[-1].start, index + 1)
        else:
            ranges.append(Range(group, index, index + 1))
    return ranges


def _as_lists(ranges: Sequence[Range]) -> list[list[int | None]]:
    return [[r.group.y, r.group.a, r.start, r.stop] for r in ranges]


def shard_name(ranges: Sequence[Range]) -> str:
    """Return the name under which a shard with these ranges is published."""
    return sha256_of(_as_lists(ranges))


def pixel_sha256(images: NDArray[np.uint8]) -> list[str]:
    """Return the SHA-256 of each image's bytes; ``images`` is uint8 [n, ...] and contiguous."""
    return [sha256_hex(memoryview(image).cast("B")) for image in images]


def write_shard(folder: Path, recipe: PoolRecipe, rows: Sequence[Row], images: NDArray[np.uint8]) -> None:
    """Write a shard's files into an empty folder.

    Args:
        folder: The folder, to be sealed and published by the store.
        recipe: The pool's recipe.
        rows: What each image is, sorted by group and index.
        images: uint8 [n, size, size, 3] in the same order.
    """
    from datasets import Dataset

    columns: dict[str, list[Any]] = {
        "y": [group.y for group, _ in rows],
        "a": [group.a for group, _ in rows],
        "index": [index for _, index in rows],
        "prompt": [recipe.prompts[group] for group, _ in rows],
        "seed": [recipe.seed(group, index) for group, index in rows],
        "adapter": [recipe.adapter(group, index) for group, index in rows],
        "sha256": pixel_sha256(images),
        "pixels": [image.tobytes() for image in images],
    }
    columns |= {name: [value] * len(rows) for name, value in _constants(recipe).items()}
    with _silent_datasets():
        dataset = Dataset.from_dict(columns, features=_features(recipe))
        dataset.to_parquet(folder / ROWS, batch_size=len(rows))
    ranges = ranges_of(rows)
    write_json(
        folder / RANGES,
        {"format_version": FORMAT_VERSION, "pool_id": recipe.pool_id, "ranges": _as_lists(ranges)},
    )


def _constants(recipe: PoolRecipe) -> dict[str, Any]:
    """The provenance that all images of a pool share, and what filters will fill in."""
    return {
        "task": recipe.task,
        "negative_prompt": recipe.negative_prompt,
        "generator": recipe.generator.get("name"),
        "revision": recipe.generator_version,
        "scheduler": recipe.scheduler,
        "steps": recipe.steps,
        "guidance": recipe.guidance,
        "generation": recipe.generation,
        "filter_score": None,
        "kept": True,
        "oracle": recipe.oracle,
    }


def _types(recipe: PoolRecipe) -> dict[str, str]:
    """Column types, in the names that `datasets` has for them."""
    text = dict.fromkeys(
        ("task", "prompt", "negative_prompt", "generator", "revision", "adapter", "scheduler"), "string"
    )
    whole = dict.fromkeys(("y", "a", "index", "steps", "seed", "generation"), "int64")
    return {
        **text,
        **whole,
        "guidance": "float64",
        "filter_score": "float64",
        "kept": "bool",
        "oracle": "bool",
        "sha256": "string",
        "pixels": f"fixed_size_binary[{recipe.bytes_per_image}]",
    }


def _features(recipe: PoolRecipe) -> Any:
    from datasets import Features, Value

    return Features({name: Value(kind) for name, kind in _types(recipe).items()})


@contextlib.contextmanager
def _silent_datasets() -> Iterator[None]:
    """Keep `datasets` from drawing progress bars of its own."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def read_ranges(folder: Path, recipe: PoolRecipe) -> list[Range]:
    """Read which images a shard says it holds; the folder's name vouches for the list.

    Raises:
        DamagedFile: When the list is missing, damaged, or of another pool.
    """
    content = read_json(folder / RANGES)
    try:
        version, pool, lists = content["format_version"], content["pool_id"], content["ranges"]
        ranges = [Range(GroupKey(y, a), start, stop) for y, a, start, stop in lists]
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedFile(f"{folder / RANGES} holds no list of ranges") from error
    if version != FORMAT_VERSION:
        raise DamagedFile(f"{folder / RANGES} has format version {version}, this version reads {FORMAT_VERSION}")
    if pool != recipe.pool_id:
        raise DamagedFile(f"{folder} belongs to another pool, {str(pool)[:12]}…")
    if shard_name(ranges) != folder.name:
        raise DamagedFile(f"{folder / RANGES} does not match the name of its folder")
    return ranges


@dataclass(frozen=True, eq=False)
class ShardRows:
    """The images of a shard in the order of its ranges.

    Attributes:
        images: uint8 [n, size, size, 3], read-only.
        sha256: Of each image's pixels.
    """

    images: NDArray[np.uint8]
    sha256: list[str]


def read_rows(folder: Path, recipe: PoolRecipe, ranges: Sequence[Range], *, check: bool = True) -> ShardRows:
    """Read a shard's images, and by default check that each is the one that recipe, group and index call for.

    Raises:
        DamagedFile: When the file cannot be read, or a column, a seed or a pixel is not what it should be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / ROWS
    total = sum(len(r) for r in ranges)
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(path, file.schema_arrow, recipe)
            if file.metadata.num_rows != total:
                raise DamagedFile(f"{path} has {file.metadata.num_rows} rows, its ranges name {total}")
            table = file.read(columns=["y", "a", "index", "seed", "sha256", "pixels"])
    except (OSError, pa.ArrowException) as error:
        raise DamagedFile(f"{path} cannot be read as Parquet: {error}") from error
    size = recipe.image_size
    images = _bytes_column(table["pixels"], recipe.bytes_per_image).reshape(total, size, size, 3)
    rows = ShardRows(images, table["sha256"].to_pylist())
    if check:
        _check_rows(path, recipe, ranges, table, rows)
    return rows


def _check_rows(path: Path, recipe: PoolRecipe, ranges: Sequence[Range], table: Any, rows: ShardRows) -> None:
    expected = [
        (r.group.y, r.group.a, index, recipe.seed(r.group, index)) for r in ranges for index in range(r.start, r.stop)
    ]
    names = ("y", "a", "index", "seed")
    found = zip(*(table[name].to_pylist() for name in names), strict=True)
    digests = pixel_sha256(rows.images)
    for wanted, got, promised, digest in zip(expected, found, rows.sha256, digests, strict=True):
        if wanted != got:
            raise DamagedFile(f"{path} holds an image with {names} = {got} where the pool has {wanted}")
        if promised != digest:
            raise DamagedFile(f"{path}: the pixels of image (y, a, index) = {got[:3]} do not match their digest")


def _check_schema(path: Path, schema: Any, recipe: PoolRecipe) -> None:
    found = {field.name: str(field.type) for field in schema}
    expected = {name: {"float64": "double"}.get(kind, kind) for name, kind in _types(recipe).items()}
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))
        raise DamagedFile(f"{path} has other columns than a shard of this pool: {wrong[0][0]}")


def _bytes_column(column: Any, width: int) -> NDArray[np.uint8]:
    """Return a fixed-size binary column as uint8 [n, width], without a copy where it is one piece."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width).reshape(-1, width)
        for chunk in column.chunks
        if len(chunk)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
