"""Pools of synthetic images: generated once, appended by immutable shards, shared by whoever has the same recipe.

Methods reach pools through ``tools.synthesize``; audits and the command line read and list them. Nothing here imports
torch, diffusers or datasets unless images are missing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedFile, DataError, GeneratorError, InvalidValue, NotAvailable
from benchmark.generators.recipe import GroupKey, PoolRecipe, sorted_groups
from benchmark.generators.shards import (
    ROWS,
    Range,
    Row,
    ranges_of,
    read_ranges,
    read_rows,
    shard_name,
    write_shard,
)
from benchmark.records.canonical import sha256_of
from benchmark.records.files import make_folder, read_json, write_json
from benchmark.records.store import Store, verify_sealed

RECIPE = "recipe.json"
PIECE_IMAGES = 512
PIECE_BYTES = 64 * 2**20
PIECE_SECONDS = 60.0
STREAM_BLOCK = 512

Counts = Mapping[tuple[int, int | None], int]
"""How many images of each group, from index 0."""

logger = logging.getLogger(__name__)


class Sampler(Protocol):
    """What a pool needs of a loaded generator; `pipelines.TextToImage` is one."""

    def conditions(self) -> dict[str, Any]:
        """What was loaded and how; the keys are attributes of the recipe."""
        ...

    def sample(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        height: int,
        width: int,
        batch_size: int,
        resize: str,
        adapters: Sequence[str | None] | None,
    ) -> NDArray[np.uint8]:
        """Make one image, uint8 [height, width, 3], per prompt, seed and adapter."""
        ...


@dataclass(frozen=True, eq=False)
class PoolImages:
    """Images of a pool in their one order: by group (label, attribute), then index.

    Attributes:
        images: uint8 [n, size, size, 3].
        y: Labels, int64 [n].
        a: Attributes, int64 [n]; -1 where images were asked for by class alone.
        index: Index inside the group, int64 [n].
        pool_id: SHA-256 of the recipe.
        ranges: Which images of each group were read, ``[start, stop)``.
        sha256: SHA-256 of each image's pixels, text [n].
    """

    images: NDArray[np.uint8]
    y: NDArray[np.int64]
    a: NDArray[np.int64]
    index: NDArray[np.int64]
    pool_id: str
    ranges: dict[GroupKey, tuple[int, int]]
    sha256: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.y)

    @functools.cached_property
    def rows_sha256(self) -> str:
        """SHA-256 over (group, index, SHA-256 of the pixels) of these rows."""
        rows = zip(self.y.tolist(), self.a.tolist(), self.index.tolist(), self.sha256.tolist(), strict=True)
        return sha256_of([list(row) for row in rows])

    def take(self, indices: Sequence[int]) -> PoolImages:
        """Return some of the images, in the order given; the ranges stay those that were read.

        Raises:
            InvalidValue: For a mask or fractions: read as positions they would silently choose other images.
        """
        positions = np.asarray(indices)
        if positions.size and positions.dtype.kind not in "iu":
            raise InvalidValue(f"take() wants positions, not {positions.dtype}; for a mask use np.flatnonzero(mask)")
        chosen = positions.astype(np.int64)
        return PoolImages(
            self.images[chosen], self.y[chosen], self.a[chosen], self.index[chosen], self.pool_id, self.ranges,
            self.sha256[chosen],
        )  # fmt: skip

    def as_record(self) -> dict[str, Any]:
        """Return what a record says about the images used."""
        ranges = [[group.y, group.a, start, stop] for group, (start, stop) in self.ranges.items()]
        return {"pool_id": self.pool_id, "ranges": ranges, "rows_sha256": self.rows_sha256}


class Layout:
    """The one order of some images of a pool: by group, then index.

    Attributes:
        y: Labels, int64 [n].
        a: Attributes, int64 [n]; -1 where images were asked for by class alone.
        index: Index inside the group, int64 [n].

    Args:
        counts: How many images of each group, from index 0.
    """

    def __init__(self, counts: Counts) -> None:
        groups = sorted_groups(counts)
        sizes = [counts[group] for group in groups]
        self.y = np.repeat(np.asarray([group.y for group in groups], dtype=np.int64), sizes)
        self.a = np.repeat(np.asarray([group.attribute for group in groups], dtype=np.int64), sizes)
        self.index = np.concatenate([np.arange(n, dtype=np.int64) for n in sizes] or [np.empty(0, dtype=np.int64)])
        starts = np.cumsum([0, *sizes]).tolist()
        self._starts = {(group.y, group.attribute): start for group, start in zip(groups, starts, strict=False)}

    def __len__(self) -> int:
        return len(self.y)

    def positions(self, images: PoolImages) -> NDArray[np.int64]:
        """Return the place of each image in the order, int64 [n]."""
        groups = zip(images.y.tolist(), images.a.tolist(), strict=True)
        return np.array([self._starts[group] for group in groups], dtype=np.int64) + images.index


@dataclass(frozen=True)
class PoolSummary:
    """One line of a list of pools.

    Attributes:
        pool_id: SHA-256 of the recipe.
        recipe: The recipe.
        images: Number of images per group; only groups that have some.
        size: Bytes on disk.
    """

    pool_id: str
    recipe: PoolRecipe
    images: dict[GroupKey, int]
    size: int


class Pool:
    """The images of one recipe in a store.

    Args:
        store: Where shards are kept, under ``pools/<pool_id>/``.
        recipe: The recipe.

    Raises:
        DataError: When the folder of this pool holds another recipe.
    """

    def __init__(self, store: Store, recipe: PoolRecipe) -> None:
        self.store, self.recipe = store, recipe
        self.kind = f"pools/{recipe.pool_id}"
        self.folder = store.root / "pools" / recipe.pool_id
        self._verified: dict[str, tuple[int, int]] = {}
        self._check_recipe()

    def missing(self, counts: Counts) -> int:
        """Return how many of these images are not in the store yet."""
        return len(self._missing(self._checked(counts)))

    def ensure(
        self, counts: Counts, sampler: Callable[[], Sampler], *, progress: Callable[[int], None] | None = None
    ) -> None:
        """Generate what is missing. What is published stays, so that an interrupted call continues where it was.

        Args:
            counts: How many images of each group, from index 0.
            sampler: Loads the generator; called only when an image is missing.
            progress: Called with the number of images after each batch; see :meth:`missing` for the total.

        Raises:
            InvalidValue: For a group without prompt or a negative number.
            GeneratorError: When the generator fails, or is not the one that the recipe names.
            StoreError: When the store cannot be written; what was published before stays.
        """
        wanted = self._checked(counts)
        if not self._missing(wanted):
            return
        with self.store.claim(f"pool-{self.recipe.pool_id}"):
            rows = self._missing(wanted)
            if not rows:
                return
            source = sampler()
            self.recipe.check_made_by(source.conditions())
            self._write_recipe()
            for made, images in self._pieces(source, rows, progress):
                self._publish(made, images)

    def read(self, counts: Counts) -> PoolImages:
        """Read images from the store.

        Args:
            counts: How many images of each group, from index 0.

        Raises:
            InvalidValue: For a group without prompt or a negative number.
            NotAvailable: When some are missing; see :meth:`ensure`.
        """
        ranges = {group: (0, n) for group, n in self._checked(counts).items() if n}
        layout = Layout(counts)
        total, size = len(layout), self.recipe.image_size
        images = np.empty((total, size, size, 3), dtype=np.uint8)
        digests = np.zeros(total, dtype="U64")
        for part in self.stream(counts):
            at = layout.positions(part)
            images[at], digests[at] = part.images, part.sha256
        if (digests == "").any():
            raise NotAvailable(
                f"pool {self.recipe.pool_id[:12]} of {self.recipe.task} lacks {int((digests == '').sum())} of {total} "
                "images (never generated, or set aside as damaged); run the same command again to generate them"
            )
        return PoolImages(images, layout.y, layout.a, layout.index, self.recipe.pool_id, ranges, digests)

    def stream(self, counts: Counts, block: int = STREAM_BLOCK) -> Iterator[PoolImages]:
        """Read images from the store piece by piece, so that memory does not grow with the pool: one shard at a time.

        Each image comes once, in the order of the shards rather than the pool's own (:class:`Layout` knows that one).
        What is missing, or set aside as damaged on the way, is left out.

        Args:
            counts: How many images of each group, from index 0.
            block: Images of a piece, at most.

        Raises:
            InvalidValue: For a group without prompt or a negative number.
        """
        wanted = {group: n for group, n in self._checked(counts).items() if n}
        absent = {group: np.ones(n, dtype=np.bool_) for group, n in wanted.items()}
        everything, nothing = {group: (0, n) for group, n in wanted.items()}, np.empty(0, dtype=np.bool_)
        for folder, ranges in self._shards(wanted):
            try:
                rows = read_rows(folder, self.recipe, ranges, check=False)
            except DamagedFile:  # another process has set it aside in this moment
                continue
            found, offset = [], 0
            for piece in ranges:
                still = absent.get(piece.group, nothing)[piece.start : piece.stop]
                new = np.flatnonzero(still)
                still[new] = False
                group = np.tile([piece.group.y, piece.group.attribute], (len(new), 1))
                found.append(np.column_stack([offset + new, group, piece.start + new]).astype(np.int64))
                offset += len(piece)
            chosen = np.concatenate(found)
            for start in range(0, len(chosen), block):
                row, y, a, index = chosen[start : start + block].T
                digests = np.array([rows.sha256[k] for k in row.tolist()])
                yield PoolImages(rows.images[row], y, a, index, self.recipe.pool_id, everything, digests)

    def held(self) -> Counts:
        """Return where the images of each group end, as the shards say it; some before that may be missing."""
        ends: dict[GroupKey, int] = {}
        for name in _shard_names(self.folder):
            with contextlib.suppress(DamagedFile):
                for piece in read_ranges(self.folder / name, self.recipe):
                    ends[piece.group] = max(ends.get(piece.group, 0), piece.stop)
        return {group: ends[group] for group in sorted_groups(ends)}

    @property
    def damaged(self) -> int:
        """Number of shards that lie set aside as damaged."""
        return len(list(self.folder.glob(".damaged-*")))

    def _checked(self, counts: Counts) -> dict[GroupKey, int]:
        for group in sorted_groups(counts):
            if group not in self.recipe.prompts:
                raise InvalidValue(f"the recipe of this pool of {self.recipe.task} has no prompt for group {group}")
            if counts[group] < 0:
                raise InvalidValue(f"{counts[group]} images of group {group} cannot be")
        return {group: int(counts[group]) for group in sorted_groups(counts)}

    def _check_recipe(self) -> bool:
        """Return whether the recipe is written; a damaged one is written again, since its hash is the folder's name."""
        if not (self.folder / RECIPE).exists():
            return False
        try:
            found = read_json(self.folder / RECIPE)
        except DamagedFile as error:
            logger.warning("%s; it will be written again", error)
            return False
        if sha256_of(found) != self.recipe.pool_id:
            raise DataError(
                f"{self.folder / RECIPE} is the recipe of another pool; remove the folder or use another store"
            )
        return True

    def _write_recipe(self) -> None:
        if not self._check_recipe():
            write_json(make_folder(self.folder) / RECIPE, self.recipe.as_record())

    def _missing(self, wanted: dict[GroupKey, int]) -> list[Row]:
        """Return the missing rows, one of each group in turn, so that batches mix groups."""
        absent = {group: np.ones(n, dtype=np.bool_) for group, n in wanted.items()}
        for _, ranges in self._shards(wanted):
            for piece in ranges:
                if piece.group in absent:
                    absent[piece.group][piece.start : piece.stop] = False
        turns = [
            (turn, group.order, group, int(index))
            for group, mask in absent.items()
            for turn, index in enumerate(np.flatnonzero(mask))
        ]
        return [(group, index) for _, _, group, index in sorted(turns, key=lambda row: row[:2])]

    def _shards(self, wanted: dict[GroupKey, int]) -> Iterator[tuple[Path, list[Range]]]:
        """Yield the undamaged shards that hold a wanted image, by name; others are set aside with a warning."""
        for name in _shard_names(self.folder):
            with self.store.examining(self.folder / name):
                ranges = read_ranges(self.folder / name, self.recipe)
                if any(piece.start < wanted.get(piece.group, 0) for piece in ranges):
                    self._verify(name, ranges)
                    yield self.folder / name, ranges

    def _verify(self, name: str, ranges: list[Range]) -> None:
        """Check digests, rows and pixels of a shard, once in the life of this object unless its file changes."""
        try:
            stat = (self.folder / name / ROWS).stat()
        except OSError as error:
            raise DamagedFile(f"{self.folder / name / ROWS} is missing") from error
        state = (stat.st_size, stat.st_mtime_ns)
        if self._verified.get(name) != state:
            verify_sealed(self.folder / name)
            read_rows(self.folder / name, self.recipe, ranges)
            self._verified[name] = state

    def _pieces(
        self, source: Sampler, rows: list[Row], progress: Callable[[int], None] | None
    ) -> Iterator[tuple[list[Row], NDArray[np.uint8]]]:
        """Generate rows in order and yield them in bounded pieces, so that an interruption loses little."""
        batch_size = self.recipe.batch_size
        limit = max(batch_size, min(PIECE_IMAGES, PIECE_BYTES // self.recipe.bytes_per_image))
        made: list[Row] = []
        images: list[NDArray[np.uint8]] = []
        since = time.monotonic()
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            images.append(self._sample(source, batch))
            made += batch
            if progress is not None:
                progress(len(batch))
            full = len(made) + batch_size > limit or time.monotonic() - since > PIECE_SECONDS
            if full or start + batch_size >= len(rows):
                yield made, np.concatenate(images)
                made, images, since = [], [], time.monotonic()

    def _sample(self, source: Sampler, batch: list[Row]) -> NDArray[np.uint8]:
        recipe = self.recipe
        images = source.sample(
            [recipe.prompts[group] for group, _ in batch],
            [recipe.negative_prompt] * len(batch),
            [recipe.seed(group, index) for group, index in batch],
            steps=recipe.steps,
            guidance=recipe.guidance,
            height=recipe.image_size,
            width=recipe.image_size,
            batch_size=recipe.batch_size,
            resize=recipe.resize,
            adapters=[recipe.adapter(group, index) for group, index in batch] if recipe.adapters else None,
        )
        expected = (len(batch), recipe.image_size, recipe.image_size, 3)
        if images.shape != expected or images.dtype != np.uint8:
            raise GeneratorError(f"the generator gave {images.dtype} {images.shape} instead of uint8 {expected}")
        return images

    def _publish(self, made: list[Row], images: NDArray[np.uint8]) -> None:
        """Publish images, without those that another process published while they were made here."""
        ends: dict[GroupKey, int] = {}
        for group, index in made:
            ends[group] = max(ends.get(group, 0), index + 1)
        absent = set(self._missing(ends))
        order = sorted((k for k in range(len(made)) if made[k] in absent), key=lambda k: (made[k][0].order, made[k][1]))
        rows = [made[k] for k in order]
        if not rows:
            return
        name = shard_name(ranges_of(rows))
        self.store.publish(self.kind, name, lambda folder: write_shard(folder, self.recipe, rows, images[order]))


def _shard_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def open_pool(store: Store, pool_id: str) -> Pool:
    """Return a pool of the store by its id.

    Raises:
        DamagedFile: When its recipe is missing, damaged or another pool's.
    """
    file = store.root / "pools" / pool_id / RECIPE
    recipe = PoolRecipe.from_record(read_json(file))
    if recipe.pool_id != pool_id:
        raise DamagedFile(f"{file} is the recipe of another pool")
    return Pool(store, recipe)


def list_pools(store: Store) -> list[PoolSummary]:
    """Describe every pool of a store, by id, from recipes and ranges alone; what cannot be read is left out."""
    summaries = []
    root = store.root / "pools"
    for pool_id in _shard_names(root):
        try:
            summaries.append(describe_pool(root / pool_id))
        except DamagedFile as error:
            logger.warning("%s; this pool is not listed", error)
    return summaries


def describe_pool(folder: Path) -> PoolSummary:
    """Describe the pool in a folder.

    Raises:
        DamagedFile: When its recipe cannot be read.
    """
    recipe = PoolRecipe.from_record(read_json(folder / RECIPE))
    if recipe.pool_id != folder.name:
        raise DamagedFile(f"{folder / RECIPE} is the recipe of another pool")
    held: dict[GroupKey, set[int]] = {}
    for name in _shard_names(folder):
        with contextlib.suppress(DamagedFile):
            for piece in read_ranges(folder / name, recipe):
                held.setdefault(piece.group, set()).update(range(piece.start, piece.stop))
    images = {group: len(held[group]) for group in sorted_groups(held)}
    return PoolSummary(recipe.pool_id, recipe, images, _size(folder))


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder, also while others write there."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += Path(parent, name).stat().st_size
    return size
