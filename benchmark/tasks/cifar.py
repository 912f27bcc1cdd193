"""``cifar20-100``: CIFAR-100's twenty superclasses with their five fine classes as sub-populations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.records.canonical import sha256_of
from benchmark.tasks.containers import Container
from benchmark.tasks.file_task import FileTask
from benchmark.tasks.hub_parquet import hub_files_present, hub_split
from benchmark.tasks.manifest import TEST, TRAIN, Listing
from benchmark.tasks.pickles import read_pickle
from benchmark.tasks.prepare import Content, Files

_ARCHIVE, _FOLDER = "cifar-100-python.tar.gz", "cifar-100-python"
_HUB = {TRAIN: "cifar100/train-00000-of-00001.parquet", TEST: "cifar100/test-00000-of-00001.parquet"}
_PER_CLASS = {TRAIN: 500, TEST: 100}
_SIDE = 32


class Cifar20(FileTask):
    """CIFAR-100 by index: ``train-00000`` … and ``test-00000`` … in the order of the original files."""

    def matches(self, folder: Path) -> bool:
        """Toronto's archive or its folder, or the Hub's two Parquet files."""
        return _toronto(folder) is not None or hub_files_present(folder, _HUB.values())

    def signature(self, folder: Path) -> str:
        """Names, sizes and times of the files."""
        toronto = _toronto(folder)
        if toronto is not None and toronto.is_file():
            return Container(toronto).signature()
        paths = [toronto / part for part in (TRAIN, TEST)] if toronto else [folder / name for name in _HUB.values()]
        return sha256_of([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths])

    def list_samples(self) -> Listing:
        """List the images with fine class and superclass; complete when every fine class has its official number.

        Raises:
            DataError: When superclasses and fine classes are not those of the card.
        """
        ids, y, a, partition = [], [], [], []
        labels = self._labels
        for part in (TRAIN, TEST):
            fine, coarse = labels[part]
            self._check(fine, coarse, part)
            ids += [f"{part}-{k:05d}" for k in range(len(fine))]
            y.append(coarse)
            a.append(fine)
            partition += [part] * len(fine)
        n_fine = self.n_attributes
        complete = all(
            (np.bincount(labels[part][0], minlength=n_fine) == count).all() for part, count in _PER_CLASS.items()
        )
        return Listing(tuple(ids), np.concatenate(y), np.concatenate(a), tuple(partition), complete=complete)

    def _check(self, fine: NDArray[np.int64], coarse: NDArray[np.int64], part: str) -> None:
        allowed = self.card.allowed_groups()
        if not len(fine) or fine.min() < 0 or fine.max() >= self.n_attributes:
            raise DataError(f"the {part} file of CIFAR-100 holds fine labels outside 0..{self.n_attributes - 1}")
        if coarse.min() < 0 or coarse.max() >= self.n_classes or not allowed[coarse, fine].all():
            raise DataError(f"the {part} file of CIFAR-100 pairs fine classes and superclasses otherwise than the card")

    @functools.cached_property
    def _labels(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Fine and coarse labels by part, from whatever form is here."""
        if self.place is None:
            raise self.not_here()
        folder = self.place.folder
        if (toronto := _toronto(folder)) is not None:
            parts = {part: _read_part(toronto, part) for part in (TRAIN, TEST)}
            self._check_names(toronto)
            return {part: (content[1], content[2]) for part, content in parts.items()}
        found = {}
        for part, name in _HUB.items():
            split = hub_split([folder / name], image="img", columns=("fine_label", "coarse_label"))
            columns = (split.values["fine_label"], split.values["coarse_label"])
            found[part] = (np.array(columns[0], dtype=np.int64), np.array(columns[1], dtype=np.int64))
        return found

    def _check_names(self, toronto: Path) -> None:
        meta = _plain_keys(read_pickle(_member(toronto, "meta"), "the file `meta` of CIFAR-100"))
        block = self.card.task
        for key, variable in (("coarse_label_names", block.label), ("fine_label_names", block.attribute)):
            if [_text(name).replace("_", " ") for name in meta.get(key) or []] != list(variable.values):
                raise DataError(f"the file `meta` of CIFAR-100 names other classes under {key} than the card")

    def files(self, folder: Path) -> Files:
        """Read the images."""
        if (toronto := _toronto(folder)) is not None:
            pixels = {part: _read_part(toronto, part)[0] for part in (TRAIN, TEST)}
            counts = {part: len(images) for part, images in pixels.items()}
            return Files(_ids(counts), lambda wanted: _arrays(pixels, wanted), self.signature(folder))
        splits = {part: hub_split([folder / name], image="img", columns=()) for part, name in _HUB.items()}

        def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Content]]:
            for part, split in splits.items():
                for k, content in enumerate(split.images()):
                    if (name := f"{part}-{k:05d}") in wanted:
                        yield name, content

        return Files(_ids({part: split.rows for part, split in splits.items()}), stream, self.signature(folder))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _plain_keys(content: Any) -> dict[str, Any]:
    """Return a pickled dictionary with its keys as text: Python 2 wrote them as bytes."""
    return {_text(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _ids(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(f"{part}-{k:05d}" for part, n in counts.items() for k in range(n)))


def _arrays(pixels: dict[str, NDArray[np.uint8]], wanted: frozenset[str]) -> Iterator[tuple[str, Content]]:
    for part, images in pixels.items():
        for k, image in enumerate(images):
            if (name := f"{part}-{k:05d}") in wanted:
                yield name, image


def _toronto(folder: Path) -> Path | None:
    """Return Toronto's archive or its unpacked folder."""
    for candidate in (folder / _ARCHIVE, folder / _FOLDER, folder):
        if candidate.is_file() or all((candidate / name).is_file() for name in ("train", "test", "meta")):
            return candidate
    return None


def _member(toronto: Path, name: str) -> bytes:
    return Container(toronto).read(name if toronto.is_dir() else f"{_FOLDER}/{name}")


@functools.lru_cache(maxsize=2)
def _read_part_once(
    toronto: Path, part: str, changed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    del changed  # a replaced file is read again
    origin = f"the file `{part}` of CIFAR-100"
    content = _plain_keys(read_pickle(_member(toronto, part), origin))
    columns: list[Any] = [content.get(key) for key in ("data", "fine_labels", "coarse_labels")]
    if any(column is None for column in columns):
        raise DataError(f"{origin} lacks data, fine_labels or coarse_labels; get it again from its source")
    try:
        data, fine, coarse = (np.asarray(column) for column in columns)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{origin} holds no tables ({error}); get it again from its source") from error
    n = fine.size
    labelled = all(labels.shape == (n,) and labels.dtype.kind in "iu" for labels in (fine, coarse))
    if data.shape != (n, 3 * _SIDE * _SIDE) or data.dtype != np.uint8 or not labelled:
        raise DataError(f"{origin} holds {data.dtype} {data.shape} beside {n} labels; get it again from its source")
    images = np.ascontiguousarray(data.reshape(n, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
    return images, fine.astype(np.int64), coarse.astype(np.int64)


def _read_part(toronto: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    file = toronto / part if toronto.is_dir() else toronto
    return _read_part_once(toronto, part, file.stat().st_mtime_ns)
