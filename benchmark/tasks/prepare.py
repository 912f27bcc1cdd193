"""Prepared images: a data set decoded once into a memory-mapped uint8 array at one size; no epoch decodes again.

A plain memory map, not Arrow: rows of one size need no offsets, a batch is one gather, and one page cache serves
several processes (`benchmarks/` has the measurement). Built in parallel through joblib, resumable at any moment,
published whole.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedFile, DataError, StoreError
from benchmark.progress import Progress
from benchmark.records.canonical import sha256_hex, sha256_of
from benchmark.records.files import (
    TEMPORARY_PREFIX,
    fsync_tree,
    make_folder,
    publish_folder,
    read_json,
    storage_error,
    write_json,
)
from benchmark.records.store import Store
from benchmark.tasks.containers import read_file
from benchmark.tasks.lazy import LazyImages

PREPARED_FORMAT = 1
INDEX, IMAGES, ROWS = "index.json", "images.npy", "rows.parquet"
_JOURNAL = "journal"
_CHUNK, _CHUNK_BYTES = 128, 8 * 2**20
"""Images that a thread takes at a time, and bytes after which fewer make a piece."""
PROCESSES_FROM = 4096
"""Images from which worker processes are used instead of threads."""
_VOUCHED = 512
"""Images between two writes of the journal."""
_LISTED = 5
_SLACK = 64 * 2**20
_LINE = re.compile(r"(?P<file>[0-9a-f]{64}) (?P<pixels>[0-9a-f]{64}) (?P<converted>\S+) (?P<name>.+)")

logger = logging.getLogger(__name__)

Content = bytes | NDArray[np.uint8]
"""An image file's bytes, or the pixels of a source that holds them bare."""

Given = Content | Path
"""Content, or the file that holds it, which the decoding worker then reads itself."""


@dataclass(frozen=True)
class Recipe:
    """What decides prepared pixels besides the files themselves.

    Attributes:
        data_set: Name of the data set.
        size: Height and width in pixels.
        channels: 3, or 1 where the task colours the images itself.
        crop: See :func:`benchmark.tasks.decode.decode`.
        decoder: Version of the decoder.
    """

    data_set: str
    size: int
    channels: int
    crop: str
    decoder: int

    def as_dict(self) -> dict[str, str | int]:
        """Return plain values, for the index and the identity."""
        return {"format_version": PREPARED_FORMAT, **self.__dict__}


@dataclass(frozen=True)
class Files:
    """The images of a data set as a source gives them.

    Attributes:
        ids: Every image at hand, sorted.
        stream: Yields (id, content) of the wanted ids, in any order.
        signature: Cheap fingerprint of where they come from.
    """

    ids: tuple[str, ...]
    stream: Callable[[frozenset[str]], Iterable[tuple[str, Given]]]
    signature: str


Decode = Callable[[Content], tuple[NDArray[np.uint8], str | None]]


@dataclass(frozen=True)
class Prepared:
    """A finished store of prepared images.

    Attributes:
        folder: Where it lies.
        ids: Image ids, sorted.
        sha256: Digest of each source file (or of the bare pixels).
        converted: How many images were not plain RGB, by kind.
        pixels_sha256: Digest of all images' digests.
        signature: Fingerprint of the source it was made from.
    """

    folder: Path
    ids: tuple[str, ...]
    sha256: tuple[bytes, ...]
    converted: Mapping[str, int]
    pixels_sha256: str
    signature: str

    def open(self) -> NDArray[np.uint8]:
        """Return the memory-mapped array, uint8 [n, size, size, channels]."""
        array: NDArray[np.uint8] = np.load(self.folder / IMAGES, mmap_mode="r", allow_pickle=False)
        return array

    def images(self, ids: Sequence[str]) -> LazyImages:
        """Return the images of some ids, in their order; nothing is read yet.

        Raises:
            DataError: When one of them was not prepared.
        """
        rows, array = self.rows(ids), self.open()
        return LazyImages(len(rows), array.shape[1], lambda index: array[rows[index]])

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the positions of some ids."""
        where = {name: k for k, name in enumerate(self.ids)}
        if unknown := next((name for name in ids if name not in where), None):
            raise DataError(f"image {unknown} was not prepared; run `genbias-bench data prepare` again")
        return np.array([where[name] for name in ids], dtype=np.int64)

    def verify(self) -> None:
        """Compare every image with its digest.

        Raises:
            DamagedFile: When some differ; the first one is named.
        """
        import pyarrow.parquet as pq

        digests = pq.read_table(self.folder / ROWS, columns=["pixels_sha256"]).column(0).to_pylist()
        shape = self.open().shape
        each, wrong = math.prod(shape[1:]), []
        # Read, not mapped: mapped pages would count as this process's memory.
        with (self.folder / IMAGES).open("rb") as stream:
            stream.seek(-each * shape[0], os.SEEK_END)
            for name, digest in zip(self.ids, digests, strict=True):
                if hashlib.sha256(stream.read(each)).digest() != digest:
                    wrong.append(name)
        if wrong or sha256_hex(b"".join(digests)) != self.pixels_sha256:
            named = f" ({len(wrong)} of them, such as {wrong[0]})" if wrong else ""
            raise DamagedFile(
                f"the prepared images in {self.folder} are damaged{named}; delete the folder, and they are made again"
            )


def open_prepared(root: Path, recipe: Recipe) -> Iterator[Prepared]:
    """Yield the finished stores of a recipe below ``root``, the newest first; damaged ones are passed over."""
    folders = sorted(root.glob(f"{recipe.size}px-*/{INDEX}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in folders:
        try:
            prepared = _load(file.parent, recipe)
        except DamagedFile as error:
            logger.warning("%s; it is passed over", error)
            continue
        if prepared is not None:
            yield prepared


def _load(folder: Path, recipe: Recipe) -> Prepared | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("recipe") != recipe.as_dict():
        return None
    try:
        table = pq.read_table(folder / ROWS, columns=["id", "sha256"])
        size = (folder / IMAGES).stat().st_size
        if size != index["bytes"] or table.num_rows != index["n"]:
            raise DamagedFile(f"the prepared images in {folder} are not of the size that their index says")
        return Prepared(
            folder=folder,
            ids=tuple(table.column("id").to_pylist()),
            sha256=tuple(table.column("sha256").to_pylist()),
            converted=index["converted"],
            pixels_sha256=index["pixels_sha256"],
            signature=index["signature"],
        )
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DamagedFile(f"the prepared images in {folder} cannot be read: {error}") from error


def prepare(root: Path, recipe: Recipe, files: Files, decode: Decode, progress: Progress, workers: int = 0) -> Prepared:
    """Decode every image of a source into a store below ``root``; what an interrupted call had done is kept.

    Args:
        root: Folder of the data set's prepared images.
        recipe: What decides pixels.
        files: The images.
        decode: From content to uint8 [size, size, channels], with a word on what was converted.
        progress: Where to say how far it is.
        workers: Threads, or processes where there are many images; 0 takes one per processor.

    Raises:
        DataError: When images cannot be read; their names and number are given, the others are kept for the next call.
        StoreError: When the disk is full or the folder cannot be written.
    """
    if not files.ids:
        raise DataError(f"the source of {recipe.data_set} holds no image")
    if strange := next((name for name in files.ids if not name.isprintable()), None):
        raise DataError(f"the source of {recipe.data_set} holds an image called {strange!r}; it is not the original")
    # The signature too: a file that was replaced under its old name must be decoded again.
    key = sha256_of([recipe.as_dict(), files.signature, list(files.ids)])[:12]
    name = f"{recipe.size}px-{key}"
    target, work = root / name, root / f".work-{name}"
    with Store(root.parent.parent).claim(f"prepare-{recipe.data_set}-{name}"):
        # One that is damaged is passed over, and made again below.
        if (done := _finished(root, recipe, target)) is not None:
            return done
        _Build(work, recipe, files, decode, progress, workers or os.cpu_count() or 1).run()
        if target.exists():
            # Another process may have finished it, where this one was stopped until its claim had expired.
            if (done := _finished(root, recipe, target)) is not None:
                shutil.rmtree(work, ignore_errors=True)
                return done
            # Without a readable index it is no finished store.
            aside = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
            target.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        if not publish_folder(work, target):
            raise StoreError(f"{target} appeared while it was being made; run the same command again")
    finished = _load(target, recipe)
    assert finished is not None  # just written from this recipe
    return finished


def _finished(root: Path, recipe: Recipe, target: Path) -> Prepared | None:
    return next((found for found in open_prepared(root, recipe) if found.folder == target), None)


@dataclass(frozen=True)
class _Work:
    """What a worker needs to know: it may be another process."""

    path: Path
    offset: int
    bytes_per_image: int
    decode: Decode


@dataclass(frozen=True)
class _Made:
    """One image: digests of its file and of its pixels, what was converted, what went wrong."""

    name: str
    file_sha256: bytes
    pixels_sha256: bytes = b""
    converted: str | None = None
    failure: str | None = None


def _decode_chunk(work: _Work, chunk: list[tuple[str, int, Given]]) -> list[_Made]:
    """Decode some images into the array's file.

    Written by position, not through a memory map: mapped pages would count as this process's memory, and a full disk
    would kill it instead of raising an error.
    """
    made = []
    with work.path.open("r+b") as stream:
        for name, row, given in chunk:
            digest = b""
            try:
                content = read_file(given) if isinstance(given, Path) else given
                digest = hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).digest()
                pixels, converted = work.decode(content)
            except DataError as error:
                made.append(_Made(name, digest, failure=str(error)))
                continue
            data, at = pixels.tobytes(), work.offset + row * work.bytes_per_image
            if len(data) != work.bytes_per_image or os.pwrite(stream.fileno(), data, at) != len(data):
                raise StoreError(f"image {name} could not be written whole to {work.path.parent}; is the disk full?")
            made.append(_Made(name, digest, hashlib.sha256(data).digest(), converted))
    return made


class _Build:
    """One preparation, from the journal of an interrupted one to the finished folder."""

    def __init__(
        self, work: Path, recipe: Recipe, files: Files, decode: Decode, progress: Progress, workers: int
    ) -> None:
        self._work, self._recipe, self._files, self._decode = work, recipe, files, decode
        self._progress, self._workers = progress, workers
        self._row = {name: k for k, name in enumerate(files.ids)}
        self._done: dict[str, tuple[bytes, bytes]] = {}
        self._converted: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._unwritten: list[str] = []

    def run(self) -> None:
        """Decode what is missing and write the index."""
        make_folder(self._work)
        try:
            self._allocate()
            self._read_journal()
            missing = frozenset(self._files.ids) - self._done.keys()
            if missing:
                self._fill(missing)
        except OSError as error:
            raise storage_error(self._work, error) from error
        self._check()
        self._finish()

    def _allocate(self) -> None:
        """Make the array's file, or find that of an interrupted call."""
        path, size, channels = self._work / IMAGES, self._recipe.size, self._recipe.channels
        shape = (len(self._files.ids), size, size, channels)
        need = math.prod(shape)
        self._bytes_per_image = need // shape[0]
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        self._offset = header.tell()
        if not path.exists() or path.stat().st_size != self._offset + need:
            (self._work / _JOURNAL).unlink(missing_ok=True)
            free = shutil.disk_usage(self._work).free
            if free < need + _SLACK:
                raise StoreError(
                    f"no space left in {self._work}: the prepared images of {self._recipe.data_set} take "
                    f"{need / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free; free some or set GENBIAS_STORE"
                )
            # Only the header is written here; the recipe, and so the shape, is in the folder's name.
            aside = path.with_name("header")
            with aside.open("wb") as stream:
                stream.write(header.getvalue())
                stream.truncate(self._offset + need)
            aside.rename(path)

    def _read_journal(self) -> None:
        path = self._work / _JOURNAL
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.decode(errors="replace").split("\n"):
            match = _LINE.fullmatch(line)
            if match is not None and (name := match["name"]) in self._row:
                self._done[name] = bytes.fromhex(match["file"]), bytes.fromhex(match["pixels"])
                if match["converted"] != "-":
                    self._converted[name] = match["converted"]
        # A torn last line would swallow the next one.
        path.write_bytes(whole)

    def _fill(self, missing: frozenset[str]) -> None:
        from joblib import Parallel, delayed

        # Worker processes pay from some thousand images on: what Python does around the decoder holds its lock.
        backend = "loky" if self._workers > 1 and len(missing) >= PROCESSES_FROM else "threading"
        work = _Work(self._work / IMAGES, self._offset, self._bytes_per_image, self._decode)
        chunks = ([(name, self._row[name], content) for name, content in chunk] for chunk in
                  _chunks(self._files.stream(missing)))  # fmt: skip
        # `pre_dispatch` bounds what waits, so that memory does not grow with the data set.
        parallel = Parallel(
            n_jobs=self._workers, backend=backend, return_as="generator_unordered", batch_size=1,
            pre_dispatch="3 * n_jobs",
        )  # fmt: skip
        handle = self._progress.start(f"preparing {self._recipe.data_set} at {self._recipe.size} px", len(missing))
        try:
            with (self._work / IMAGES).open("r+b") as images, (self._work / _JOURNAL).open("ab") as journal:
                results = parallel(delayed(_decode_chunk)(work, chunk) for chunk in chunks)
                try:
                    for made in results:
                        self._note(made)
                        if len(self._unwritten) >= _VOUCHED:
                            self._vouch(images, journal)
                        self._progress.advance(handle, len(made))
                finally:
                    results.close()
                    self._vouch(images, journal)
        finally:
            self._progress.finish(handle)

    def _note(self, made: list[_Made]) -> None:
        """Keep what was done for the next :meth:`_vouch`."""
        for each in made:
            if each.failure is not None:
                self._failed[each.name] = each.failure
                continue
            self._done[each.name] = each.file_sha256, each.pixels_sha256
            if each.converted is not None:
                self._converted[each.name] = each.converted
            digests = f"{each.file_sha256.hex()} {each.pixels_sha256.hex()}"
            self._unwritten.append(f"{digests} {each.converted or '-'} {each.name}\n")

    def _vouch(self, images: BinaryIO, journal: BinaryIO) -> None:
        """Write the journal, after the pixels that it vouches for have reached the disk."""
        os.fdatasync(images.fileno())
        journal.write("".join(self._unwritten).encode())
        journal.flush()
        self._unwritten.clear()

    def _check(self) -> None:
        if self._failed:
            shown = [f"{name}: {why}" for name, why in sorted(self._failed.items())[:_LISTED]]
            more = len(self._failed) - len(shown)
            raise DataError(
                f"{len(self._failed)} image(s) of {self._recipe.data_set} cannot be read: {'; '.join(shown)}"
                + (f"; and {more} more" if more else "")
                + ". Get these files again from their source; the others are prepared and will not be decoded again"
            )
        if lost := sorted(set(self._files.ids) - self._done.keys()):
            raise DataError(
                f"the source of {self._recipe.data_set} lists {len(lost)} image(s) that it does not give, such as "
                f"{lost[0]}; get it again"
            )

    def _finish(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids = self._files.ids
        digests = [self._done[name] for name in ids]
        columns = {"sha256": [file for file, _ in digests], "pixels_sha256": [pixels for _, pixels in digests]}
        table = pa.table(
            {"id": pa.array(ids), **{key: pa.array(value, type=pa.binary(32)) for key, value in columns.items()}}
        )
        converted = Counter(self._converted.values())
        try:
            pq.write_table(table, self._work / ROWS, compression="zstd")
            content = {
                "recipe": self._recipe.as_dict(),
                "n": len(ids),
                "bytes": (self._work / IMAGES).stat().st_size,
                "pixels_sha256": sha256_hex(b"".join(columns["pixels_sha256"])),
                "converted": dict(sorted(converted.items())),
                "signature": self._files.signature,
            }
            write_json(self._work / INDEX, content)
            (self._work / _JOURNAL).unlink(missing_ok=True)
            fsync_tree(self._work)
        except OSError as error:
            raise storage_error(self._work, error) from error
        if converted:
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(converted.items()))
            first = min(self._converted)
            logger.warning("%s: converted to RGB: %s (the first is %s)", self._recipe.data_set, kinds, first)


def _chunks(stream: Iterable[tuple[str, Given]]) -> Iterator[list[tuple[str, Given]]]:
    chunk: list[tuple[str, Given]] = []
    size = 0
    for name, content in stream:
        chunk.append((name, content))
        # A file that is read later counts for little here: its bytes wait nowhere.
        size += 0 if isinstance(content, Path) else len(content) if isinstance(content, bytes) else content.nbytes
        if len(chunk) == _CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
