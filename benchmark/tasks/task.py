"""A task: its card, its listing, its frozen splits and its pixels. Everything downstream asks here."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InvalidValue
from benchmark.progress import Progress
from benchmark.records.canonical import sha256_hex
from benchmark.tasks.card import DataCard
from benchmark.tasks.law import DRAWS, Splitter
from benchmark.tasks.lazy import Images, LazyImages, sha256_images
from benchmark.tasks.locks import Pinned, load_lock
from benchmark.tasks.manifest import Listing, Manifest, Rows


@dataclass(frozen=True)
class View:
    """A further set of test images that the task's own metrics look at, such as images with the object removed.

    Attributes:
        rows: Which images, in order; their attribute is -1 where they have no group.
        images: Their pixels.
    """

    rows: Rows
    images: Images


class Task(abc.ABC):
    """One data set with a label, a bias attribute, frozen splits and bias levels.

    A data source subclasses it with :meth:`list_samples` and :meth:`render` (or :meth:`images`); the split law, draws,
    levels and digests are shared.

    Attributes:
        card: The task's data card.
    """

    def __init__(self, card: DataCard) -> None:
        self.card = card

    @abc.abstractmethod
    def list_samples(self) -> Listing:
        """List every usable sample of the source, without touching pixels where that is possible.

        Raises:
            DataError: When the source is missing or not what it should be.
        """

    @abc.abstractmethod
    def render(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the pixels of some rows, uint8 [n, size, size, 3]."""

    def images(self, rows: Rows, size: int | None = None) -> LazyImages:
        """Return the images of some rows, read when they are asked for.

        Args:
            rows: Which.
            size: Height and width in pixels; None takes the card's.

        Raises:
            InvalidValue: For a size that the task does not have.
        """
        own = self.card.task.pixels.size
        if size not in (None, own):
            raise InvalidValue(f"{self.card.task.name} has images of {own} pixels only, not {size}")
        return LazyImages(len(rows), own, lambda index: self.render(rows.take(index)))

    def make_ready(self, size: int, progress: Progress) -> None:
        """Do what must be done once before listing and images are quick; nothing for data inside a package."""
        del size, progress

    def data_folders(self) -> tuple[Path, ...]:
        """Return the folders in which the task's images lie on this machine, test images among them."""
        return ()

    def views(self, size: int) -> Mapping[str, View]:
        """Return further sets of test images by name; most tasks have none."""
        del size
        return {}

    @property
    def resampling_unit(self) -> str:
        """What counts as one independent observation in the test: ``sample`` or ``identity``."""
        return "sample"

    def units(self, rows: Rows) -> Sequence[str]:
        """Return the resampling unit of each row: the sample that it is made from, unless the task knows better."""
        return rows.sources

    @functools.cached_property
    def listing(self) -> Listing:
        """The samples at hand."""
        return self.list_samples()

    @property
    def n_classes(self) -> int:
        """Number of labels."""
        return len(self.card.task.label.values)

    @property
    def n_attributes(self) -> int:
        """Number of attribute values."""
        return len(self.card.task.attribute.values)

    def manifest(self, level: str, draw: int, *, whole: bool = False) -> Manifest:
        """Return which sample is in which split at one bias level and draw.

        Args:
            level: A bias level of the card.
            draw: One of the frozen draws.
            whole: The split of the whole data set, images that are not at hand included.

        Raises:
            InvalidValue: For a level or draw that the task does not offer.
        """
        if draw not in DRAWS:
            raise InvalidValue(f"draw {draw} does not exist; there are {', '.join(map(str, DRAWS))}")
        return _manifest(self, self.card.check_level(level), draw, whole=whole and bool(self.listing.missing))

    def known_listing(self) -> Listing:
        """Return the list of the whole data set as far as it is known; some tasks know it without having the images."""
        return replace(self.listing, missing=frozenset())

    def list_digests(self) -> dict[str, str]:
        """Return the SHA-256 of the list of samples: ids in order, official partitions, labels and attributes."""
        listing = self.known_listing()
        partition = listing.partition or ("",) * len(listing.ids)
        rows = sorted(zip(listing.ids, partition, listing.y.tolist(), listing.a.tolist(), strict=True))
        lines = "".join(f"{name}\t{part}\t{y}\t{a}\n" for name, part, y, a in rows)
        return {"samples": sha256_hex(lines.encode())}

    def manifest_without(self, level: str, draw: int, missing: frozenset[str]) -> Manifest:
        """Return the split of a data set that lacks some samples, whichever images are at hand.

        So a record that names what it lacked can be checked anywhere.

        Raises:
            DataError: When a missing sample is not in the data set's list.
        """
        if draw not in DRAWS:
            raise InvalidValue(f"draw {draw} does not exist; there are {', '.join(map(str, DRAWS))}")
        return _known_splitter(self, missing).split(self.card.check_level(level), draw)

    def reserve(self, manifest: Manifest, *, most: int) -> Rows:
        """Return training images that a level and draw left out, at most ``most`` of each group; for oracles only."""
        return self._splitter.reserve(manifest, most=most)

    def pin_state(self, manifest: Manifest) -> Pinned:
        """Say whether a manifest is the one that ``splits.lock`` pins; only pinned splits are ranked.

        Raises:
            DataError: When the data are complete and the digest still differs from the lock.
        """
        return load_lock("splits").state(self.card, manifest, complete=self.listing.whole)

    def pixel_digest(self, rows: Rows) -> str:
        """Return the SHA-256 of the prepared pixels of some rows."""
        return sha256_images(self.images(rows))

    @functools.cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self.listing, self.card.law)


@functools.lru_cache(maxsize=8)
def _known_splitter(task: Task, missing: frozenset[str]) -> Splitter:
    return Splitter(replace(task.known_listing(), missing=missing), task.card.law)


@functools.lru_cache(maxsize=64)
def _manifest(task: Task, level: str, draw: int, *, whole: bool) -> Manifest:
    return task._splitter.split(level, draw, whole=whole)
