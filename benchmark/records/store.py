"""The store: finished pieces of work (pools, trained stages), each published once under a content address.

Work may be done twice; it is published once. Claims only save work: correctness never depends on them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from benchmark.errors import DamagedFile, StoreError
from benchmark.records.canonical import sha256_file
from benchmark.records.files import (
    TEMPORARY_PREFIX,
    make_folder,
    publish_folder,
    read_json,
    storage_error,
    temporary_folder,
    write_json,
    write_text,
)

FORMAT_VERSION = 1
DIGESTS = "digests.json"
_CLAIM_EXPIRES_S = 30.0
_TELL_AFTER_S = 3.0
_BEATS = 6  # how often a claim is refreshed before it would expire
_ORPHAN_AGE_S = 24 * 3600.0

logger = logging.getLogger(__name__)


def default_store() -> Path:
    """Return ``GENBIAS_STORE``, or a folder in the user's cache."""
    return Path(os.environ.get("GENBIAS_STORE") or platformdirs.user_cache_dir("genbias-bench"))


def seal(folder: Path) -> dict[str, str]:
    """Write the SHA-256 of every file in ``folder`` beside them, so that damage is found later."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != DIGESTS)
    digests = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    write_json(folder / DIGESTS, {"format_version": FORMAT_VERSION, "files": digests})
    return digests


def verify_sealed(folder: Path) -> None:
    """Check every file of a sealed folder against its digest.

    Raises:
        DamagedFile: For a missing, extra or changed file.
    """
    sealed = read_json(folder / DIGESTS)
    if not isinstance(sealed, dict) or not isinstance(sealed.get("files"), dict):
        raise DamagedFile(f"{folder / DIGESTS} holds no list of files")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != DIGESTS}
    if extra := sorted(present - set(sealed["files"])):
        raise DamagedFile(f"{folder / extra[0]} is not among the files that were sealed")
    for name, digest in sealed["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedFile(f"{path} is missing")
        if sha256_file(path) != digest:
            raise DamagedFile(f"{path} does not match its digest")


class Store:
    """A folder of content-addressed entries ``<root>/<kind>/<key>``.

    Args:
        root: The folder; created when missing.
        claim_expires_s: Seconds after which a claim that is not refreshed counts as a dead producer's.

    Raises:
        StoreError: When it cannot be written or has another format version.
    """

    def __init__(self, root: Path, *, claim_expires_s: float | None = None) -> None:
        self.root = make_folder(root)
        self._claim_expires_s = claim_expires_s
        marker = self.root / "format_version"
        if not marker.exists():
            write_text(marker, f"{FORMAT_VERSION}\n")
        found = marker.read_text(errors="replace").strip()
        if found != str(FORMAT_VERSION):
            raise StoreError(
                f"the store {root} has format version {found}, this version reads {FORMAT_VERSION}; "
                "choose another folder with --store or GENBIAS_STORE"
            )

    def path(self, kind: str, key: str) -> Path:
        """Return where an entry is or would be."""
        return self.root / kind / key

    def load(self, kind: str, key: str) -> Path | None:
        """Return a finished, undamaged entry, or None; a damaged one is set aside with a warning."""
        target = self.path(kind, key)
        if not target.exists():
            return None
        try:
            verify_sealed(target)
        except DamagedFile as error:
            aside = target.with_name(f".damaged-{target.name}-{secrets.token_hex(4)}")
            logger.warning("%s; it is set aside as %s and will be made again", error, aside.name)
            with contextlib.suppress(FileNotFoundError):
                target.rename(aside)
            return None
        return target

    def publish(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Let ``build`` fill a temporary folder, seal it and publish it; a faster producer's entry wins.

        Raises:
            StoreError: When the disk is full or the folder cannot be written; nothing half-made stays.
        """
        target = self.path(kind, key)
        with temporary_folder(make_folder(target.parent)) as folder:
            try:
                build(folder)
                seal(folder)
            except OSError as error:
                raise storage_error(target, error) from error
            if not publish_folder(folder, target):
                verify_sealed(target)
        return target

    def produce(self, kind: str, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
        """Return the entry, building it when it is missing; two processes normally build it once.

        Returns:
            The entry's folder, and whether this call built it.
        """
        if (found := self.load(kind, key)) is not None:
            return found, False
        with self.claim(f"{kind}-{key}"):
            if (found := self.load(kind, key)) is not None:
                return found, False
            return self.publish(kind, key, build), True

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Hold a claim while working, so that others wait instead of doing the same work.

        A claim whose content stopped changing for a while is a dead producer's and is taken over. Age is judged by
        the waiter's own monotonic clock, never by file times, which differ between machines.
        """
        path = make_folder(self.root / "claims") / f"{name}.claim"
        token = secrets.token_hex(16)
        expires_s = _CLAIM_EXPIRES_S if self._claim_expires_s is None else self._claim_expires_s
        _acquire(path, token, expires_s)
        stop = threading.Event()
        beat = threading.Thread(target=_heartbeat, args=(path, token, stop, expires_s / _BEATS), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            with contextlib.suppress(OSError):
                if path.read_text().startswith(token):
                    path.unlink()

    def collect_garbage(self) -> int:
        """Remove temporary and damaged folders in which nothing changed for a day; returns how many."""
        removed = 0
        for path in [*self.root.glob("*/.*"), *self.root.glob("*/*/.*")]:
            if not path.is_dir() or not path.name.startswith((TEMPORARY_PREFIX, ".damaged-")):
                continue
            with contextlib.suppress(OSError):
                changed = max(p.stat().st_mtime for p in (path, *path.rglob("*")))
                if time.time() - changed > _ORPHAN_AGE_S:
                    shutil.rmtree(path)
                    removed += 1
        return removed


def _acquire(path: Path, token: str, expires_s: float) -> None:
    seen, since = "", time.monotonic()
    start, told = since, False
    while True:
        if not told and time.monotonic() - start > _TELL_AFTER_S:
            told = True
            logger.warning(
                "another process is at the same work; waiting for it (if it died, its claim ends after %.0f s)",
                expires_s,
            )
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            try:
                content = path.read_text()
            except FileNotFoundError:
                continue
            if content != seen:
                seen, since = content, time.monotonic()
            elif time.monotonic() - since > expires_s:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                continue
            time.sleep(0.2)
        except OSError as error:
            raise storage_error(path, error) from error
        else:
            try:
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(f"{token} 0\n")
            except OSError as error:
                path.unlink(missing_ok=True)
                raise storage_error(path, error) from error
            return


def _heartbeat(path: Path, token: str, stop: threading.Event, every_s: float) -> None:
    count = 0
    while not stop.wait(every_s):
        count += 1
        with contextlib.suppress(OSError):
            if not path.read_text().startswith(token):
                return
            path.write_text(f"{token} {count}\n")
