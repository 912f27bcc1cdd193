"""``colorized-mnist``: the 70,000 real digits of MNIST in ten ink colours, from LeCun's idx files or Hub Parquet."""

from __future__ import annotations

import functools
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError, InvalidValue
from benchmark.records.canonical import sha256_of
from benchmark.tasks.file_task import FileTask, first_differing
from benchmark.tasks.hub_parquet import HubSplit, hub_files_present, hub_split
from benchmark.tasks.ink import colourise, ink_jitter
from benchmark.tasks.lazy import LazyImages
from benchmark.tasks.listings import read_listing
from benchmark.tasks.manifest import TEST, TRAIN, UNCOLOURED, Listing, Rows
from benchmark.tasks.prepare import Content, Decode, Files

LISTING = "colorized-mnist"
_SIDE = 28
PARTS = {TRAIN: ("train", 60_000), TEST: ("t10k", 10_000)}
_HUB = {TRAIN: "mnist/train-00000-of-00001.parquet", TEST: "mnist/test-00000-of-00001.parquet"}
_MAGIC = {"images": 0x803, "labels": 0x801}
_LARGEST = 2**26


class ColorizedMnist(FileTask):
    """MNIST with a rendered attribute: grey scans are prepared, colours are put on when images are read."""

    channels = 1

    def list_samples(self) -> Listing:
        """List the digits as ``train-00000`` … and ``test-00000`` … from the shipped listing, in the files' order."""
        columns = read_listing(LISTING, ("id", "y"))
        ids = tuple(columns["id"])
        return Listing(
            ids,
            np.array(columns["y"], dtype=np.int64),
            np.full(len(ids), UNCOLOURED, dtype=np.int64),
            tuple(name.partition("-")[0] for name in ids),
        )

    def matches(self, folder: Path) -> bool:
        """The four idx files, gzipped or not, here or in ``MNIST/raw``; or the Hub's two Parquet files."""
        return _idx_folder(folder) is not None or hub_files_present(folder, _HUB.values())

    def signature(self, folder: Path) -> str:
        """Names, sizes and times of the files."""
        idx = _idx_folder(folder)
        paths = list(_idx_files(idx).values()) if idx else [folder / name for name in _HUB.values()]
        return sha256_of([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths])

    def files(self, folder: Path) -> Files:
        """Read the scans and compare their labels with the shipped listing."""
        idx = _idx_folder(folder)
        parts = {name: read_part(idx, name) if idx else _read_hub_part(folder, name) for name in PARTS}
        found: dict[str, object] = {}
        for name, (_, labels) in parts.items():
            found |= {f"{name}-{k:05d}": y for k, y in enumerate(labels.tolist())}
        expected = dict(zip(self.listing.ids, self.listing.y.tolist(), strict=True))
        first_differing(dict(expected), found, "the labels of MNIST")

        def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Content]]:
            for name, (scans, _) in parts.items():
                for k, scan in enumerate(scans):
                    if (key := f"{name}-{k:05d}") in wanted:
                        yield key, scan

        return Files(tuple(sorted(found)), stream, self.signature(folder))

    def decoder(self, size: int) -> Decode:
        """Pad scans with black to the task's size."""
        return functools.partial(_padded, margin=(size - _SIDE) // 2)

    def images(self, rows: Rows, size: int | None = None) -> LazyImages:
        """Colour the scans of ``rows``: grey value × (palette colour + the digit's own jitter)."""
        pixels, own = self.card.task.pixels, self.card.task.pixels.size
        if size not in (None, own):
            raise InvalidValue(f"{self.card.task.name} has images of {own} pixels only, not {size}")
        prepared = self.prepared(own)
        palette = pixels.palette or {}
        colours = np.array([palette[value] for value in self.card.task.attribute.values], dtype=np.int64)
        grey, where = prepared.open(), prepared.rows(rows.sources)
        ink = colours[rows.a] + ink_jitter(self.card.task.name, rows.sources, pixels.ink_jitter)
        return LazyImages(len(rows), own, lambda index: colourise(grey[where[index], :, :, 0], ink[index]))


def _padded(content: Content, margin: int) -> tuple[NDArray[np.uint8], None]:
    return np.pad(np.asarray(content), margin)[:, :, None], None


def _idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the idx files of a folder by (part, kind); gzipped or not."""
    found: dict[tuple[str, str], Path] = {}
    for name, (prefix, _) in PARTS.items():
        for kind, dimension in (("images", 3), ("labels", 1)):
            for stem in (f"{prefix}-{kind}-idx{dimension}-ubyte", f"{prefix}-{kind}.idx{dimension}-ubyte"):
                for path in (folder / f"{stem}.gz", folder / stem):
                    if path.is_file():
                        found.setdefault((name, kind), path)
    return found


def _idx_folder(folder: Path) -> Path | None:
    for candidate in (folder, folder / "MNIST" / "raw", folder / "raw"):
        if len(_idx_files(candidate)) == 2 * len(PARTS):
            return candidate
    return None


def read_part(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read scans [n, 28, 28] and labels [n] of ``train`` or ``test`` from the idx files in a folder."""
    files, (_, count) = _idx_files(folder), PARTS[name]
    images = read_idx(files[name, "images"], "images", (count, _SIDE, _SIDE))
    return images, read_idx(files[name, "labels"], "labels", (count,))


def read_idx(path: Path, kind: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read one idx file of bytes.

    Args:
        path: The file; gzipped when it begins so, whatever its name.
        kind: ``images`` or ``labels``.
        shape: What it must hold.

    Raises:
        DataError: When it is damaged, or not this file.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                content = stream.read(_LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read ({error}); get it again from its source") from error
    header = np.frombuffer(content[: 4 * (1 + len(shape))].ljust(4 * (1 + len(shape)), b"\0"), dtype=">u4").tolist()
    if header != [_MAGIC[kind], *shape] or len(content) != 4 * (1 + len(shape)) + int(np.prod(shape)):
        raise DataError(
            f"{path.name} is not MNIST's file of {kind}: expected {shape} values behind an idx header, found "
            f"{len(content):,} bytes that begin with {content[:8].hex(' ')}; get it again from its source"
        )
    values: NDArray[np.uint8] = np.frombuffer(content, dtype=np.uint8, offset=4 * (1 + len(shape))).reshape(shape)
    return values


def _read_hub_part(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    part: HubSplit = hub_split([folder / _HUB[name]], image="image", columns=("label",))
    count = PARTS[name][1]
    if part.rows != count:
        raise DataError(f"{_HUB[name]} holds {part.rows:,} rows, MNIST's has {count:,}; get it again")
    if strange := [label for label in part.values["label"] if label not in range(10)]:
        raise DataError(f"{_HUB[name]} holds the label {strange[0]}; digits are 0 to 9; get it again")
    scans = np.stack([part.pixels(content, (_SIDE, _SIDE)) for content in part.images()])
    return scans, np.array(part.values["label"], dtype=np.uint8)
