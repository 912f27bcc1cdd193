"""``celeba-blond`` and ``celeba-smiling``: one of CelebA's forty annotations, biased by another."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.records.canonical import sha256_of
from benchmark.tasks import home
from benchmark.tasks.containers import Container
from benchmark.tasks.file_task import FileTask
from benchmark.tasks.hub_parquet import hub_files_present, hub_split
from benchmark.tasks.manifest import TEST, TRAIN, VALIDATION, Listing, Rows
from benchmark.tasks.prepare import Files, Given

_ATTRIBUTES, _PARTITIONS, _IDENTITIES = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"
_IMAGES = "img_align_celeba"
_N = 202_599
_PARTITION = {"0": TRAIN, "1": VALIDATION, "2": TEST}
_HUB_PARTS = ((TRAIN, "train", 19, 162_770), (VALIDATION, "valid", 3, 19_867), (TEST, "test", 3, 19_962))
_HUB_FOLDER = "img_align+identity+attr"
_HUB_FILES = tuple(
    f"{_HUB_FOLDER}/{name}-{k:05d}-of-{shards:05d}.parquet" for _, name, shards, _ in _HUB_PARTS for k in range(shards)
)


@dataclass(frozen=True)
class Annotations:
    """CelebA's lists.

    Attributes:
        names: Image names in order.
        values: The annotations that were asked for by name, bool [n].
        partition: Official partition of each image.
        identity: Identity of each image, or None where the file is not here.
    """

    names: tuple[str, ...]
    values: Mapping[str, NDArray[np.bool_]]
    partition: tuple[str, ...]
    identity: tuple[str, ...] | None


class CelebA(FileTask):
    """CelebA with the label and the bias attribute that the card names; official partitions.

    The annotations decide the splits of all 202,599 images; images that are not at hand keep their place and drop out.
    """

    def matches(self, folder: Path) -> bool:
        """The two lists (gzipped or not) beside the aligned images as folder or zip; or the Hub's Parquet files."""
        lists = all(_list_file(folder, name) is not None for name in (_ATTRIBUTES, _PARTITIONS))
        return (lists and _image_source(folder) is not None) or hub_files_present(folder, _HUB_FILES)

    def signature(self, folder: Path) -> str:
        """Name, size and time of the images' container."""
        images = _image_source(folder)
        if images is not None:
            return Container(images).signature()
        paths = [folder / name for name in _HUB_FILES]
        return sha256_of([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths])

    def list_samples(self) -> Listing:
        """List all images that have annotations; those whose file is not here are ``missing``."""
        lists = self.annotations
        block = self.card.task
        columns = [lists.values[variable.name] for variable in (block.label, block.attribute)]
        ids, at_hand = lists.names, self.ids_at_hand()
        if strangers := sorted(at_hand - set(ids)):
            raise DataError(
                f"{len(strangers)} image(s) have no annotation, such as {strangers[0]}; the images and the lists are "
                "not of the same data set"
            )
        return Listing(
            ids,
            columns[0].astype(np.int64),
            columns[1].astype(np.int64),
            lists.partition,
            complete=len(ids) == _N,
            missing=frozenset(ids) - at_hand,
        )

    @functools.cached_property
    def annotations(self) -> Annotations:
        """The lists at hand."""
        home.require_terms(self.card)
        if self.place is None:
            raise self.not_here()
        folder = self.place.folder
        if _image_source(folder) is None:
            return _hub_annotations(folder, self._columns)
        return read_annotations(folder, self._columns)

    @property
    def _columns(self) -> tuple[str, str]:
        return self.card.task.label.name, self.card.task.attribute.name

    @property
    def resampling_unit(self) -> str:
        """The identity where CelebA's list of identities is here, else the image."""
        return "sample" if self.annotations.identity is None else "identity"

    def units(self, rows: Rows) -> Sequence[str]:
        """Return the identity of each row where it is known."""
        lists = self.annotations
        if lists.identity is None:
            return rows.sources
        return [self._identity_of[source] for source in rows.sources]

    @functools.cached_property
    def _identity_of(self) -> dict[str, str]:
        lists = self.annotations
        return dict(zip(lists.names, lists.identity or (), strict=True))

    def files(self, folder: Path) -> Files:
        """The aligned images of a folder, a zip, or the Hub's Parquet files."""
        images = _image_source(folder)
        if images is None:
            return self._hub_images(folder)
        container = Container(images)
        names = [name for name in container.names() if name.lower().endswith(".jpg")]
        # Macs put a file "._<name>" beside each; it is no image.
        members = {Path(name).name: name for name in names if not Path(name).name.startswith("._")}

        def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Given]]:
            for name, content in container.deferred([members[key] for key in wanted]):
                yield Path(name).name, content

        return Files(tuple(sorted(members)), stream, container.signature())

    def _hub_images(self, folder: Path) -> Files:
        files = [folder / name for name in _HUB_FILES]
        split = hub_split(files, image="image", columns=())
        ids = tuple(f"{k + 1:06d}.jpg" for k in range(split.rows))

        def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Given]]:
            for name, content in zip(ids, split.images(), strict=True):
                if name in wanted:
                    yield name, content

        return Files(ids, stream, self.signature(folder))


# --- the original files --------------------------------------------------------------------------------------------


def _list_file(folder: Path, name: str) -> Path | None:
    for parent in (folder, folder / "Anno", folder / "Eval"):
        for path in (parent / name, parent / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _image_source(folder: Path) -> Path | None:
    for parent in (folder, folder / "Img"):
        for path in (parent / f"{_IMAGES}.zip", parent / _IMAGES):
            if path.exists():
                return path
    return None


def _lines(path: Path) -> list[str]:
    """Return the lines, whatever ends them, without empty ones at the end."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("ascii").rstrip().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read ({error}); get it again from its source") from error


def read_annotations(folder: Path, columns: Sequence[str]) -> Annotations:
    """Read CelebA's lists of attributes, partitions and, where it is there, identities.

    Raises:
        DataError: When a list is damaged, has another number of rows than it says, or names other images than the
            other lists.
    """
    paths = {name: _list_file(folder, name) for name in (_ATTRIBUTES, _PARTITIONS, _IDENTITIES)}
    attributes_file, partitions_file = paths[_ATTRIBUTES], paths[_PARTITIONS]
    if attributes_file is None or partitions_file is None:
        raise DataError(f"{_ATTRIBUTES} and {_PARTITIONS} must lie beside the images of CelebA")
    names, values = _read_attributes(attributes_file, columns)
    partition = _read_pairs(partitions_file, names)
    if unknown := sorted(set(partition) - set(_PARTITION)):
        raise DataError(f"{partitions_file.name} holds the partition {unknown[0]!r}; there are 0, 1 and 2")
    identities_file = paths[_IDENTITIES]
    identity = None if identities_file is None else tuple(_read_pairs(identities_file, names))
    return Annotations(names, values, tuple(_PARTITION[code] for code in partition), identity)


def _read_attributes(path: Path, columns: Sequence[str]) -> tuple[tuple[str, ...], dict[str, NDArray[np.bool_]]]:
    lines = _lines(path)
    if len(lines) < 3 or not lines[0].strip().isdigit():
        raise DataError(f"{path.name} does not begin with the number of images and the names of the attributes")
    said, attributes, rows = int(lines[0]), lines[1].split(), lines[2:]
    if len(rows) != said:
        raise DataError(f"{path.name} says {said:,} images and lists {len(rows):,}; get it again from its source")
    if absent := [name for name in columns if name not in attributes]:
        raise DataError(f"{path.name} has no column {absent[0]!r}; it is not the original")
    places = [attributes.index(name) + 1 for name in columns]
    names, found = [], []
    for number, line in enumerate(rows, 3):
        row = line.split()
        if len(row) != len(attributes) + 1:
            raise DataError(f"{path.name}, line {number}: {len(row)} words, expected {len(attributes) + 1}")
        names.append(row[0])
        found.append([row[place] for place in places])
    table = np.array(found)
    if strange := sorted(set(np.unique(table).tolist()) - {"1", "-1"}):
        raise DataError(f"{path.name} holds the value {strange[0]!r}; attributes are 1 or -1")
    if len(set(names)) != len(names):
        raise DataError(f"{path.name} lists an image twice; get it again from its source")
    return tuple(names), {name: table[:, k] == "1" for k, name in enumerate(columns)}


def _read_pairs(path: Path, names: tuple[str, ...]) -> list[str]:
    lines = [line.split() for line in _lines(path)]
    if bad := next((k for k, line in enumerate(lines, 1) if len(line) != 2), None):
        raise DataError(f"{path.name}, line {bad}: expected an image and a value")
    found = {line[0]: line[1] for line in lines}
    if lost := [name for name in names if name not in found]:
        raise DataError(f"{path.name} lacks {len(lost)} of the {len(names):,} images, such as {lost[0]}; get it again")
    if extra := sorted(Counter(line[0] for line in lines) - Counter(names)):
        raise DataError(f"{path.name} lists {extra[0]} twice, or without attributes; get it again from its source")
    return [found[name] for name in names]


# --- the Hub's copy ------------------------------------------------------------------------------------------------


def _hub_annotations(folder: Path, columns: Sequence[str]) -> Annotations:
    """Rebuild the lists from the Hub's columns: rows stand in the order of the image numbers, part after part."""
    names: list[str] = []
    partition: list[str] = []
    identity: list[str] = []
    values = []
    for part, prefix, shards, count in _HUB_PARTS:
        files = [folder / _HUB_FOLDER / f"{prefix}-{k:05d}-of-{shards:05d}.parquet" for k in range(shards)]
        split = hub_split(files, image="image", columns=("celeb_id", *columns))
        if split.rows != count:
            raise DataError(f"the Hub's split {prefix} holds {split.rows:,} rows, CelebA's has {count:,}; get it again")
        names += [f"{len(names) + k + 1:06d}.jpg" for k in range(count)]
        partition += [part] * count
        identity += [str(number) for number in split.values["celeb_id"]]
        if strange := {type(value).__name__ for name in columns for value in split.values[name]} - {"bool"}:
            raise DataError(f"the Hub's split {prefix} holds annotations of type {min(strange)}, expected bool")
        values.append(np.array([split.values[name] for name in columns], dtype=np.bool_).T)
    table = np.concatenate(values)
    by_name = {name: table[:, k] for k, name in enumerate(columns)}
    return Annotations(tuple(names), by_name, tuple(partition), tuple(identity))
