"""Tasks whose images lie in files: found, prepared once, and read from the prepared store ever after."""

from __future__ import annotations

import abc
import functools
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError, NotAvailable
from benchmark.progress import Progress, Silent
from benchmark.tasks import home
from benchmark.tasks.card import DataCard
from benchmark.tasks.lazy import LazyImages
from benchmark.tasks.manifest import Rows
from benchmark.tasks.prepare import Decode, Files, Prepared, Recipe, open_prepared, prepare
from benchmark.tasks.task import Task


class FileTask(Task):
    """A task over image files.

    A data source says how its folder looks (:meth:`matches`), what it holds (:meth:`files`) and how one image is
    decoded; the rest is shared.
    """

    channels = 3

    def __init__(self, card: DataCard) -> None:
        super().__init__(card)
        self._prepared: dict[int, Prepared] = {}

    @abc.abstractmethod
    def matches(self, folder: Path) -> bool:
        """Return whether a folder holds the data set; a cheap look at names only."""

    @abc.abstractmethod
    def signature(self, folder: Path) -> str:
        """Return a cheap fingerprint of the data in a folder, which moves when they are replaced."""

    @abc.abstractmethod
    def files(self, folder: Path) -> Files:
        """Return the images in a folder, checked against what the task knows of them.

        Raises:
            DataError: When they are not this data set.
        """

    def decoder(self, size: int) -> Decode:
        """Return what decodes one image to uint8 [size, size, channels]; worker processes get a copy of it."""
        from benchmark.tasks.decode import decode

        pixels = self.card.task.pixels
        return functools.partial(decode, size=size, crop=pixels.crop, scaled=pixels.scaled_decoding)

    @functools.cached_property
    def place(self) -> home.Place | None:
        """Where the data are, or None."""
        return home.find(self.card, self.matches)

    def recipe(self, size: int) -> Recipe:
        """Return what decides the prepared pixels at one size."""
        from benchmark.tasks.decode import DECODER_VERSION

        pixels = self.card.task.pixels
        how = f"{pixels.crop}, {'scaled' if pixels.scaled_decoding else 'whole'}"
        name = self.card.task.data_set or self.card.task.name
        return Recipe(name, size, self.channels, how, DECODER_VERSION)

    def make_ready(self, size: int, progress: Progress) -> None:
        """Prepare the images at one size where they are not yet.

        Raises:
            NotAvailable: When the data are not here.
            DataError: When they are damaged, or their terms have not been accepted.
        """
        self.prepared(size, progress)

    def prepared(self, size: int, progress: Progress | None = None) -> Prepared:
        """Return the prepared images at one size, preparing them first where needed; see :meth:`make_ready`."""
        if size not in self._prepared:
            home.require_terms(self.card)
            found = self.find_prepared(size)
            if found is None:
                if self.place is None:
                    raise self.not_here()
                found = prepare(
                    home.prepared_folder(self.card),
                    self.recipe(size),
                    self.files(self.place.folder),
                    self.decoder(size),
                    progress or Silent(),
                )
            try:
                self.check_prepared(found)
            except DataError:
                if self.place is not None:
                    # Kept, it would be found again after the files were replaced under their old names.
                    shutil.rmtree(found.folder, ignore_errors=True)
                raise
            self._prepared[size] = found
        return self._prepared[size]

    def check_prepared(self, prepared: Prepared) -> None:
        """Hold prepared files against what the task pins of them; tasks that pin nothing have nothing to say."""
        del prepared

    def not_here(self) -> NotAvailable:
        """Return the error for data that are nowhere."""
        return home.not_here(self.card)

    def find_prepared(self, size: int) -> Prepared | None:
        """Return finished prepared images of the data at hand, or None; decodes nothing."""
        if size in self._prepared:
            return self._prepared[size]
        stores = open_prepared(home.prepared_folder(self.card), self.recipe(size))
        if self.place is None:
            # The files may be gone; what was prepared from them is still good.
            return next(stores, None)
        signature = self.signature(self.place.folder)
        return next((store for store in stores if store.signature == signature), None)

    def ids_at_hand(self) -> frozenset[str]:
        """Return the images that are here, looking into the files only where nothing is prepared yet.

        Raises:
            NotAvailable: When there are none.
        """
        home.require_terms(self.card)
        for size in self.sizes():
            if (found := self.find_prepared(size)) is not None:
                return frozenset(found.ids)
        if self.place is None:
            raise self.not_here()
        return frozenset(self.files(self.place.folder).ids)

    def any_prepared(self) -> Prepared:
        """Return prepared images at whichever size there are, else at the card's: for the digests of their files."""
        home.require_terms(self.card)
        sizes = (*self._prepared, *self.sizes())
        found = next((each for size in sizes if (each := self.find_prepared(size)) is not None), None)
        return found or self.prepared(self.card.task.pixels.size)

    def data_folders(self) -> tuple[Path, ...]:
        """Return the folder of fetched and prepared data, and the copy in use where it lies elsewhere."""
        found = [home.data_home(), *([self.place.folder] if self.place is not None else [])]
        return tuple(dict.fromkeys(folder.resolve() for folder in found))

    def sizes(self) -> tuple[int, ...]:
        """Return the image sizes of the card's recipes, the default first."""
        task = self.card.task
        return tuple(dict.fromkeys((task.pixels.size, *(recipe.image_size for recipe in task.recipes.values()))))

    def images(self, rows: Rows, size: int | None = None) -> LazyImages:
        """Return the images of some rows; nothing is read yet."""
        return self.prepared(size or self.card.task.pixels.size).images(rows.sources)

    def render(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the pixels of some rows at the card's size, all in memory."""
        return np.asarray(self.images(rows))


def drop_duplicates(
    ids: tuple[str, ...], digests: dict[str, bytes], labels: dict[str, tuple[int, int]]
) -> tuple[set[str], set[str]]:
    """Find byte-identical files (protocol §2).

    Args:
        ids: Images to look at.
        digests: Digest of each file; an id without one counts as unlike every other.
        labels: Label and attribute of each image; equal ids of a cluster agree when these are equal.

    Returns:
        Ids to drop because a smaller id holds the same file, and ids to drop because the labels of their copies differ.
    """
    clusters: dict[bytes, list[str]] = {}
    for name in sorted(ids):
        if name in digests:
            clusters.setdefault(digests[name], []).append(name)
    copies: set[str] = set()
    contradictory: set[str] = set()
    for members in clusters.values():
        if len({labels[name] for name in members}) > 1:
            contradictory.update(members)
        else:
            copies.update(members[1:])
    return copies, contradictory


def first_differing(expected: dict[str, object], found: dict[str, object], what: str, most: int = 5) -> None:
    """Refuse two descriptions of the same samples that differ.

    Raises:
        DataError: With the number of differing ids and the first ones.
    """
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differing:
        shown = ", ".join(differing[:most])
        more = f" and {len(differing) - most} more" if len(differing) > most else ""
        raise DataError(f"{what}: {len(differing)} sample(s) differ from the pinned ones: {shown}{more}")
