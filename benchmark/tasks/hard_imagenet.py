"""``hard-imagenet``: fifteen ImageNet classes, split by how strong their spurious cue is; ablated views of the object.

The masks and ranks come from the data set's own archive, the images from the user's copy of ImageNet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.progress import Progress, Silent
from benchmark.records.canonical import sha256_of
from benchmark.tasks import ablations, home
from benchmark.tasks.containers import Container
from benchmark.tasks.file_task import FileTask, drop_duplicates
from benchmark.tasks.lazy import LazyImages
from benchmark.tasks.levels import round_half_up
from benchmark.tasks.manifest import Listing, Rows
from benchmark.tasks.pickles import read_pickle
from benchmark.tasks.prepare import Files, Given, Prepared, prepare
from benchmark.tasks.task import View

_MASKS, _IMAGENET = "hardImageNet", ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
_RANKS = ("meta/paths_by_rank2.pkl", "paths_by_rank2.pkl", "meta/paths_by_rank.pkl", "paths_by_rank.pkl")
_CLASSES, _WNIDS = ("meta/hard_imagenet_idx.pkl",), ("meta/idx_to_wnid.pkl",)
STRONG, WEAK = 0, 1
_NO_GROUP = -1


class HardImageNet(FileTask):
    """Hard ImageNet: the strongest and the weakest third of each class's ranking are the groups."""

    def matches(self, folder: Path) -> bool:
        """``hardImageNet`` (folder or zip) beside ``imagenet`` with train and val."""
        return _mask_source(folder) is not None and _image_root(folder) is not None

    def signature(self, folder: Path) -> str:
        """Names, sizes and times of masks and of the images' class folders, and which images are used."""
        masks, root = self._sources(folder)
        folders = [root / part / wnid for part in ("train", "val") for wnid in self._wnids(masks)]
        times = [[p.name, p.stat().st_mtime_ns] for p in folders if p.is_dir()]
        return sha256_of([masks.signature(), times, sorted(self._used(masks))])

    def _sources(self, folder: Path) -> tuple[Container, Path]:
        masks, root = _mask_source(folder), _image_root(folder)
        if masks is None or root is None:
            raise self.not_here()
        return Container(masks), root

    # --- metadata --------------------------------------------------------------------------------------------------

    def _wnids(self, masks: Container) -> tuple[str, ...]:
        """Return the WordNet id of each class, in the order of the data set's own labels."""
        classes = _class_numbers(masks)
        wnids = _metadata(masks, _WNIDS, dict)
        try:
            found = tuple(str(wnids[k]) for k in classes)
        except KeyError as error:
            raise DataError(f"the metadata of Hard ImageNet name no WordNet id for class {error}") from error
        expected = tuple(self.card.task.label.codes or ())
        if found != expected:
            raise DataError(
                f"the metadata of Hard ImageNet list the classes {', '.join(found)}; the card has {', '.join(expected)}"
            )
        return found

    def _ranks(self, masks: Container) -> list[list[str]]:
        """Return the training paths of each class, weakest cue first."""
        classes = _class_numbers(masks)
        ranks = _metadata(masks, _RANKS, dict)
        found = []
        for k, wnid in zip(classes, self._wnids(masks), strict=True):
            listed = ranks.get(k)
            paths = [str(path) for path in listed] if isinstance(listed, list | tuple) else []
            for path in paths:
                parts = PurePosixPath(path).parts
                # The authors' loader reads the last parts only, so a path may come with a prefix of their machine.
                if len(parts) < 3 or parts[-3:-1] != ("train", wnid) or ".." in parts:
                    raise DataError(f"the ranking of Hard ImageNet holds {path!r} under class {wnid}")
            paths = ["/".join(PurePosixPath(path).parts[-3:]) for path in paths]
            if not paths or len(set(paths)) != len(paths):
                raise DataError(f"the ranking of Hard ImageNet is empty or repeats an image for class {wnid}")
            found.append(paths)
        return found

    @functools.cached_property
    def _thirds(self) -> dict[str, tuple[int, int]]:
        """Label and attribute of every ranked training image of an outer third."""
        if self.place is None:
            raise self.not_here()
        masks, _ = self._sources(self.place.folder)
        labels: dict[str, tuple[int, int]] = {}
        for y, paths in enumerate(self._ranks(masks)):
            third = round_half_up(Fraction(len(paths), 3))
            # The middle third is unused; with two images the thirds would meet.
            third = min(third, len(paths) // 2)
            labels |= dict.fromkeys(paths[:third], (y, WEAK))
            labels |= dict.fromkeys(paths[len(paths) - third :], (y, STRONG))
        return labels

    # --- images ----------------------------------------------------------------------------------------------------

    def files(self, folder: Path) -> Files:
        """The outer thirds of the ranked training images, and the validation images that have a mask."""
        masks, root = self._sources(folder)
        wanted = self._used(masks)
        present = tuple(sorted(name for name in wanted if (root / name).is_file()))
        if not present:
            raise DataError(
                f"none of Hard ImageNet's {len(wanted):,} images lies in {root.name}/train and {root.name}/val"
            )

        def stream(names: frozenset[str]) -> Iterator[tuple[str, Given]]:
            yield from Container(root).deferred(names)

        return Files(present, stream, self.signature(folder))

    def _used(self, masks: Container) -> set[str]:
        return set(self._thirds) | set(self._masked(masks))

    def _masked(self, masks: Container) -> dict[str, str]:
        """Return the members of the masks of validation images, by image id ``val/<wnid>/<name>``."""
        wnids, found = set(self._wnids(masks)), {}
        for name in masks.names():
            parts = PurePosixPath(name).parts
            wnid, _, file = parts[-1].partition("_")
            if len(parts) >= 2 and parts[-2] == "val" and wnid in wnids and file:
                found[f"val/{wnid}/{file}"] = name
        return found

    def list_samples(self) -> Listing:
        """List the outer thirds without duplicates; images that are not here are ``missing``."""
        prepared = self.any_prepared()
        ids = tuple(sorted(self._thirds))
        digests = dict(zip(prepared.ids, prepared.sha256, strict=True))
        copies, contradictory = drop_duplicates(ids, digests, self._thirds)
        kept = tuple(name for name in ids if name not in copies | contradictory)
        return Listing(
            kept,
            np.array([self._thirds[name][0] for name in kept], dtype=np.int64),
            np.array([self._thirds[name][1] for name in kept], dtype=np.int64),
            missing=frozenset(kept) - set(prepared.ids),
        )

    # --- ablated views ---------------------------------------------------------------------------------------------

    def make_ready(self, size: int, progress: Progress) -> None:
        """Prepare images and masks."""
        super().make_ready(size, progress)
        self._prepared_masks(size, progress)

    def _prepared_masks(self, size: int, progress: Progress) -> Prepared:
        if self.place is None:
            raise self.not_here()
        masks, _ = self._sources(self.place.folder)
        members = self._masked(masks)
        present = tuple(sorted(set(members) & set(self.prepared(size).ids)))

        def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Given]]:
            names = {members[key]: key for key in wanted}
            for name, content in masks.deferred(names):
                yield names[name], content

        recipe = self.recipe(size)
        recipe = type(recipe)(f"{recipe.data_set}-masks", size, 1, recipe.crop, recipe.decoder)
        return prepare(
            home.prepared_folder(self.card) / "masks",
            recipe,
            Files(present, stream, masks.signature()),
            functools.partial(ablations.decode_mask, size=size, crop=self.card.task.pixels.crop),
            progress,
        )

    def views(self, size: int) -> Mapping[str, View]:
        """The official validation images: as they are, with the object removed in three ways, and with noise."""
        images, masks = self.prepared(size), self._prepared_masks(size, Silent())
        ids = masks.ids
        wnids = list(self.card.task.label.codes or ())
        y = np.array([wnids.index(name.split("/")[1]) for name in ids], dtype=np.int64)
        rows = Rows(ids, ids, y, np.full(len(ids), _NO_GROUP, dtype=np.int64))
        pixels, covered = images.images(ids), masks.open()

        def ablated(name: str) -> LazyImages:
            def read(index: NDArray[np.int64]) -> NDArray[np.uint8]:
                pairs = zip(index.tolist(), pixels[index], strict=True)
                made = [ablations.ablate(name, image, covered[k, :, :, 0] > 0, ids[k]) for k, image in pairs]
                return np.stack(made) if made else np.zeros((0, size, size, 3), dtype=np.uint8)

            return LazyImages(len(ids), size, read)

        return {name: View(rows, ablated(name)) for name in ablations.VIEWS}


def _mask_source(folder: Path) -> Path | None:
    candidates = (folder / _MASKS, folder / f"{_MASKS}.zip")
    return next((path for path in candidates if path.exists()), None)


def _image_root(folder: Path) -> Path | None:
    roots = (folder / name for name in _IMAGENET)
    return next((root for root in roots if (root / "train").is_dir() and (root / "val").is_dir()), None)


def _class_numbers(masks: Container) -> list[int]:
    try:
        return [int(k) for k in _metadata(masks, _CLASSES, list)]
    except (TypeError, ValueError) as error:
        raise DataError(f"{_CLASSES[0]} of Hard ImageNet holds something else than numbers ({error})") from error


def _metadata(masks: Container, names: tuple[str, ...], kind: type) -> Any:
    """Read one of the data set's pickles, wherever in the archive it lies."""
    members = masks.names()
    for name in names:
        for member in members:
            if member == name or member.endswith(f"/{name}"):
                content = read_pickle(masks.read(member), f"{name} of Hard ImageNet", encoding="latin1")
                if not isinstance(content, kind) and not (kind is list and isinstance(content, tuple | np.ndarray)):
                    raise DataError(
                        f"{name} of Hard ImageNet holds a {type(content).__name__}, expected {kind.__name__}"
                    )
                return content
    raise DataError(f"the masks of Hard ImageNet come without {names[0]}; get the archive again from its source")
