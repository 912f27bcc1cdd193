"""``utkface``: gender biased by age on UTKFace, with the names of all 23,708 files pinned by the shipped listing."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from benchmark.errors import DataError
from benchmark.records.canonical import sha256_hex
from benchmark.tasks.containers import ARCHIVES, Container
from benchmark.tasks.file_task import FileTask, drop_duplicates
from benchmark.tasks.listings import read_listing
from benchmark.tasks.manifest import Listing
from benchmark.tasks.prepare import Files, Given, Prepared

LISTING = "utkface"
_NAME = re.compile(r"^(\d+)_([01])_([0-4])_\d+\.jpg\.chip\.jpg$")
_FOLDER = "UTKFace"
_YOUNG, _OLD = range(6), range(20, 51)
_SHOWN = 5

logger = logging.getLogger(__name__)


class UTKFace(FileTask):
    """Aligned and cropped UTKFace; the label and the attribute are in the names of the files."""

    def matches(self, folder: Path) -> bool:
        """The folder ``UTKFace`` or an archive of that name."""
        return _source(folder) is not None

    def signature(self, folder: Path) -> str:
        """Name, size and time of the folder or archive."""
        return Container(self._required(folder)).signature()

    @functools.cached_property
    def pinned(self) -> dict[str, bytes | None]:
        """Digest of every file of the whole data set by name; None for one that we never saw."""
        columns = read_listing(LISTING, ("name", "sha256"))
        return dict(zip(columns["name"], columns["sha256"], strict=True))

    @functools.cached_property
    def whole(self) -> tuple[str, ...]:
        """The images that the task uses of the whole data set: well-formed names, the two age groups, no duplicates."""
        labels = {name: found for name in self.pinned if (found := label_of(name)) is not None}
        digests = {name: digest for name, digest in self.pinned.items() if digest is not None}
        # All ages: a file that stands elsewhere under another age contradicts itself, whichever group that age is in.
        annotated = {name: (gender, age) for name, (age, gender) in _well_formed(self.pinned).items()}
        copies, contradictory = drop_duplicates(tuple(annotated), digests, annotated)
        return tuple(sorted(set(labels) - copies - contradictory))

    def list_samples(self) -> Listing:
        """List the images of the whole data set; those that are not at hand are ``missing``."""
        whole = self.known_listing()
        return replace(whole, missing=frozenset(whole.ids) - self.ids_at_hand())

    def known_listing(self) -> Listing:
        """List the images of the whole data set from the shipped names alone."""
        pairs = [label_of(name) or (-1, -1) for name in self.whole]
        return Listing(
            self.whole,
            np.array([y for y, _ in pairs], dtype=np.int64),
            np.array([a for _, a in pairs], dtype=np.int64),
        )

    def list_digests(self) -> dict[str, str]:
        """Return the digest of the samples, and that of all 23,708 names."""
        return {**super().list_digests(), "names": sha256_hex("".join(f"{n}\n" for n in sorted(self.pinned)).encode())}

    def files(self, folder: Path) -> Files:
        """The used images at hand; names that UTKFace does not have are counted and left out."""
        container = Container(self._required(folder))
        members: dict[str, str] = {}
        # The copy nearest to the root counts: one popular archive holds the folder a second time, further down.
        for name in sorted(container.names(), key=lambda name: (name.count("/"), name)):
            members.setdefault(PurePosixPath(name).name, name)
        if strangers := sorted(name for name in members if name not in self.pinned and name.endswith(".jpg")):
            shown = ", ".join(strangers[:_SHOWN])
            logger.warning("%d file(s) are not of UTKFace and are left out: %s", len(strangers), shown)
        used = {name: members[name] for name in self.whole if name in members}

        def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Given]]:
            for name, content in container.deferred([used[key] for key in wanted]):
                yield PurePosixPath(name).name, content

        return Files(tuple(sorted(used)), stream, container.signature())

    def check_prepared(self, prepared: Prepared) -> None:
        """Compare the files' digests with the shipped ones.

        Raises:
            DataError: When a file is not the original, with the first names.
        """
        differing = [
            name
            for name, digest in zip(prepared.ids, prepared.sha256, strict=True)
            if self.pinned[name] not in (None, digest)
        ]
        if differing:
            shown = ", ".join(differing[:_SHOWN])
            raise DataError(
                f"{len(differing)} file(s) of UTKFace are not the originals (their SHA-256 differs), such as {shown}; "
                "get them again from their source"
            )

    def _required(self, folder: Path) -> Path:
        source = _source(folder)
        if source is None:
            raise self.not_here()
        return source


def _source(folder: Path) -> Path | None:
    candidates = [folder / _FOLDER, *(folder / f"{_FOLDER}{suffix}" for suffix in ARCHIVES)]
    if folder.name == _FOLDER:
        candidates.append(folder)
    return next((path for path in candidates if path.exists()), None)


def _well_formed(names: dict[str, bytes | None]) -> dict[str, tuple[int, int]]:
    """Return (age, gender) of the names that have UTKFace's form."""
    return {name: (int(m.group(1)), int(m.group(2))) for name in names if (m := _NAME.match(name))}


def label_of(name: str) -> tuple[int, int] | None:
    """Return (y, a) of a file name: gender, and 0 for up to five years, 1 for 20 to 50; None for all others."""
    match = _NAME.match(name)
    if match is None:
        return None
    age, gender = int(match.group(1)), int(match.group(2))
    if age in _YOUNG:
        return gender, 0
    return (gender, 1) if age in _OLD else None
