"""The committed locks: what pins every manifest's digest, rendered pixels, and the image files of JPEG tasks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.errors import DataError
from benchmark.records.files import read_json, write_json
from benchmark.tasks.card import DataCard
from benchmark.tasks.manifest import Manifest

LOCK_FORMAT = 1
Pinned = Literal["pinned", "unpinned", "partial"]
LockName = Literal["splits", "pixels", "sources"]


@dataclass(frozen=True)
class Lock:
    """The content of one lock file: task → key → SHA-256."""

    entries: dict[str, dict[str, str]]

    def state(self, card: DataCard, manifest: Manifest, *, complete: bool) -> Pinned:
        """Compare a manifest with the lock.

        Raises:
            DataError: When the data are complete but the digest differs.
        """
        if not complete:
            return "partial"
        key = split_key(card, manifest.level, manifest.draw)
        pinned = self.entries.get(card.task.name, {}).get(key)
        if pinned is None:
            return "unpinned"
        if pinned != manifest.digest:
            raise DataError(
                f"{card.id} at {manifest.level}, draw {manifest.draw}: the split digest {manifest.digest[:12]}… "
                f"differs from splits.lock ({pinned[:12]}…); the source data or the split code have changed"
            )
        return "pinned"


def split_key(card: DataCard, level: str, draw: int) -> str:
    """Name a manifest inside the lock."""
    return f"split-{card.task.split_version}/{level}/draw-{draw}"


def lock_path(name: LockName) -> Path:
    """Return the path of a lock file."""
    return Path(__file__).with_name(f"{name}.lock")


@functools.cache
def load_lock(name: LockName) -> Lock:
    """Read a lock file.

    Raises:
        DataError: When it is of another format.
    """
    content = read_json(lock_path(name))
    if content.get("format_version") != LOCK_FORMAT:
        raise DataError(f"{name}.lock has format {content.get('format_version')!r}, this version reads {LOCK_FORMAT}")
    return Lock(content["tasks"])


def write_lock(name: LockName, entries: dict[str, dict[str, str]]) -> None:
    """Replace a lock file."""
    write_json(lock_path(name), {"format_version": LOCK_FORMAT, "tasks": entries})
    load_lock.cache_clear()
