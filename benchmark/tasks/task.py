"""A task: its card, its listing, its frozen splits and its pixels. Everything downstream asks here."""

from __future__ import annotations

import abc
import functools

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InvalidValue
from benchmark.records.canonical import sha256_array
from benchmark.tasks.card import DataCard
from benchmark.tasks.law import DRAWS, split
from benchmark.tasks.locks import Pinned, load_lock
from benchmark.tasks.manifest import Listing, Manifest, Rows


class Task(abc.ABC):
    """One data set with a label, a bias attribute, frozen splits and bias levels.

    A data source subclasses it with :meth:`list_samples` and :meth:`render`; the split law, draws, levels and digests
    are shared.

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

    def manifest(self, level: str, draw: int) -> Manifest:
        """Return which sample is in which split at one bias level and draw.

        Raises:
            InvalidValue: For a level or draw that the task does not offer.
        """
        if draw not in DRAWS:
            raise InvalidValue(f"draw {draw} does not exist; there are {', '.join(map(str, DRAWS))}")
        return _manifest(self, self.card.check_level(level), draw)

    def pin_state(self, manifest: Manifest) -> Pinned:
        """Say whether a manifest is the one that ``splits.lock`` pins; only pinned splits are ranked.

        Raises:
            DataError: When the data are complete and the digest still differs from the lock.
        """
        return load_lock("splits").state(self.card, manifest, complete=self.listing.complete)

    def pixel_digest(self, rows: Rows) -> str:
        """Return the SHA-256 of the prepared pixels of some rows."""
        return sha256_array(self.render(rows))


@functools.lru_cache(maxsize=64)
def _manifest(task: Task, level: str, draw: int) -> Manifest:
    return split(task.listing, task.card.law, level, draw)
