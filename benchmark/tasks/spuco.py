"""``spuco-animals``: SpuCo's birds before land or water and dogs indoors or outdoors, two families in one task."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from benchmark.records.canonical import sha256_of
from benchmark.tasks.containers import ARCHIVES, Container
from benchmark.tasks.file_task import FileTask, drop_duplicates
from benchmark.tasks.manifest import TEST, TRAIN, VALIDATION, Listing
from benchmark.tasks.prepare import Files, Given

_PARTS = ("spuco_birds", "spuco_dogs")
_PATH = re.compile(
    r"(?:^|/)(spuco_birds/(?:train|val|test)/(?:landbirds|waterbirds)/(?:land|water)/(?!\._)[^/]+\.jpe?g"
    r"|spuco_dogs/(?:train|val|test)/(?:small_dogs|big_dogs)/(?:indoor|outdoor)/(?!\._)[^/]+\.jpe?g)$",
    re.IGNORECASE,
)
_LABELS = {"landbirds": 0, "waterbirds": 1, "small_dogs": 2, "big_dogs": 3}
_ATTRIBUTES = {"land": 0, "water": 1, "indoor": 2, "outdoor": 3}
_PARTITIONS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_OFFICIAL = {TRAIN: (10_000, 500), VALIDATION: (500, 25), TEST: (500, 500)}


class SpuCoAnimals(FileTask):
    """SpuCo Animals from its folders; an image's id is its path, such as ``spuco_birds/train/landbirds/land/7.jpg``."""

    def matches(self, folder: Path) -> bool:
        """Both folders, or their archives."""
        return all(_source(folder, part) is not None for part in _PARTS)

    def signature(self, folder: Path) -> str:
        """Names, sizes and times of both; where they are folders, also of those in which the images lie."""
        containers = self._containers(folder)
        inside = [p for each in containers if each.path.is_dir() for p in sorted(each.path.glob("*/*/*")) if p.is_dir()]
        times = [[p.relative_to(folder).as_posix(), p.stat().st_mtime_ns] for p in inside]
        return sha256_of([[container.signature() for container in containers], times])

    def _containers(self, folder: Path) -> list[Container]:
        sources = [_source(folder, part) for part in _PARTS]
        if any(source is None for source in sources):
            raise self.not_here()
        return [Container(source) for source in sources if source is not None]

    def files(self, folder: Path) -> Files:
        """The images in their official folders; other files are left out."""
        containers = self._containers(folder)
        members: dict[str, tuple[int, str]] = {}
        for k, container in enumerate(containers):
            for name in container.names():
                # A folder is given from inside, so its own name has to be put before.
                full = name if not container.path.is_dir() else f"{container.path.name}/{name}"
                if match := _PATH.search(full):
                    members.setdefault(match.group(1), (k, name))

        def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Given]]:
            for k, container in enumerate(containers):
                names = {name: key for key, (which, name) in members.items() if which == k and key in wanted}
                for name, content in container.deferred(names):
                    yield names[name], content

        return Files(tuple(sorted(members)), stream, self.signature(folder))

    def list_samples(self) -> Listing:
        """List the images without duplicates; complete when every folder holds its official number of files."""
        prepared = self.any_prepared()
        ids = prepared.ids
        described = {name: _describe(name) for name in ids}
        labels = {name: (y, a) for name, (_, y, a) in described.items()}
        copies, contradictory = drop_duplicates(ids, dict(zip(ids, prepared.sha256, strict=True)), labels)
        kept = tuple(name for name in ids if name not in copies | contradictory)
        return Listing(
            kept,
            np.array([labels[name][0] for name in kept], dtype=np.int64),
            np.array([labels[name][1] for name in kept], dtype=np.int64),
            tuple(described[name][0] for name in kept),
            complete=self._official_counts(tuple(described.values())),
        )

    @functools.cached_property
    def _aligned(self) -> tuple[int, ...]:
        return self.card.law.aligned

    def _official_counts(self, found: tuple[tuple[str, int, int], ...]) -> bool:
        expected = {
            (partition, y, a): sizes[0 if self._aligned[y] == a else 1]
            for partition, sizes in _OFFICIAL.items()
            for y in range(self.n_classes)
            for a in range(self.n_attributes)
            if self.card.allowed_groups()[y, a]
        }
        counts = dict.fromkeys(expected, 0)
        for key in found:
            counts[key] += 1
        return counts == expected


def _describe(name: str) -> tuple[str, int, int]:
    """Return partition, label and attribute of an id."""
    _, partition, label, attribute, _ = PurePosixPath(name).parts
    return _PARTITIONS[partition.lower()], _LABELS[label.lower()], _ATTRIBUTES[attribute.lower()]


def _source(folder: Path, part: str) -> Path | None:
    candidates = (folder / part, *(folder / f"{part}{suffix}" for suffix in ARCHIVES))
    return next((path for path in candidates if path.exists()), None)
