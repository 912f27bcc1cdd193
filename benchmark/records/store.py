"""The store: finished pieces of work (pools, trained stages), each published once under a content address.

Work may be done twice; it is published once. Claims only save work: correctness never depends on them.
"""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
from safetensors import SafetensorError

from benchmark.errors import DamagedFile, StoreError
from benchmark.records.canonical import sha256_file
from benchmark.records.files import (
    ORPHAN_AGE_S,
    TEMPORARY_PREFIX,
    make_folder,
    publish_folder,
    read_json,
    remove_orphans,
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
_POLL_S = 0.2
_VISIBLE_AFTER_S = 90.0  # a network folder may hide for a minute what another machine has published
_DAMAGED_PREFIX = ".damaged-"

logger = logging.getLogger(__name__)


def default_store() -> Path:
    """Return ``GENBIAS_STORE``, or a folder in the user's cache."""
    return Path(os.environ.get("GENBIAS_STORE") or platformdirs.user_cache_dir("genbias-bench"))


def seal(folder: Path) -> dict[str, str]:
    """Write the SHA-256 of every file in ``folder`` beside them, so that damage is found later."""
    digests = {name: sha256_file(path) for name, path in _files(folder).items()}
    write_json(folder / DIGESTS, {"format_version": FORMAT_VERSION, "files": digests})
    return digests


def verify_sealed(folder: Path) -> None:
    """Check every file of a sealed folder against its digest.

    Raises:
        DamagedFile: For a missing, extra, changed or unreadable file.
    """
    sealed = read_json(folder / DIGESTS)
    if not isinstance(sealed, dict) or not isinstance(sealed.get("files"), dict):
        raise DamagedFile(f"{folder / DIGESTS} holds no list of files")
    try:
        present = _files(folder)
        if extra := sorted(present.keys() - sealed["files"].keys()):
            raise DamagedFile(f"{folder / extra[0]} is not among the files that were sealed")
        for name, digest in sealed["files"].items():
            if name not in present:
                raise DamagedFile(f"{folder / name} is missing")
            if sha256_file(present[name]) != digest:
                raise DamagedFile(f"{folder / name} does not match its digest")
    except OSError as error:
        raise DamagedFile(f"{folder} cannot be read: {error}") from error


def _files(folder: Path) -> dict[str, Path]:
    """Return an entry's files by name; ``.nfs…`` are what network folders keep of removed files that are still open."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DIGESTS and not path.name.startswith(".nfs")
    }


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one that took its name; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


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
        try:
            found = marker.read_text(errors="replace").strip()
        except OSError as error:
            raise storage_error(marker, error) from error
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
        with self.examining(target):
            verify_sealed(target)
            return target
        return None

    @contextlib.contextmanager
    def examining(self, folder: Path) -> Iterator[None]:
        """Set ``folder`` aside with a warning when what is done inside finds it damaged; the code after goes on.

        When another process did that first, and put a sound one in its place, the sound one stays.

        Raises:
            StoreError: When it is damaged and the store cannot be written.
        """
        before = _identity(folder)
        try:
            yield
        except DamagedFile as error:
            if before is None or _identity(folder) != before:
                return
            aside = folder.with_name(f"{_DAMAGED_PREFIX}{folder.name}-{secrets.token_hex(4)}")
            try:
                folder.rename(aside)
            except FileNotFoundError:
                return
            except OSError as failure:
                raise storage_error(folder, failure) from failure
            if _identity(aside) != before:
                publish_folder(aside, folder)
                return
            logger.warning("%s; it is set aside as %s and will be made again", error, aside.name)

    def publish(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Let ``build`` fill a temporary folder, seal it and publish it; a faster producer's sound entry wins.

        Raises:
            StoreError: When the disk is full or the folder cannot be written; nothing half-made stays.
        """
        target = self.path(kind, key)
        with temporary_folder(make_folder(target.parent)) as folder:
            try:
                build(folder)
                seal(folder)
            except (OSError, SafetensorError) as error:
                raise storage_error(target, error) from error
            deadline = time.monotonic() + _VISIBLE_AFTER_S
            while not publish_folder(folder, target) and self.load(kind, key) is None:
                if time.monotonic() > deadline:
                    raise StoreError(f"{target} is taken, but cannot be read; run the same command again")
                time.sleep(_POLL_S)
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
        the waiter's own monotonic clock, never by file times, which differ between machines. A holder that was only
        stopped then shares the work with the one who took over: both are right, and the first publishes.

        `flock` would need no ages, but network folders may ignore it, or never release a dead machine's.
        """
        path = make_folder(self.root / "claims") / f"{name}.claim"
        token = secrets.token_hex(16)
        expires_s = _CLAIM_EXPIRES_S if self._claim_expires_s is None else self._claim_expires_s
        with _acquire(path, token, expires_s) as stream:
            stop = threading.Event()
            beat = threading.Thread(target=_heartbeat, args=(stream, token, stop, expires_s / _BEATS), daemon=True)
            beat.start()
            try:
                yield
            finally:
                stop.set()
                beat.join()
                with contextlib.suppress(StoreError):  # it will expire
                    if (content := _content(path)) is not None and content.startswith(token.encode()):
                        _remove_claim(path, content)

    def claimed(self) -> frozenset[str]:
        """Return the names of claims that were refreshed lately, for telling people: nothing may depend on it.

        Age is judged by the clock that stamps the files.
        """
        folder = make_folder(self.root / "claims")
        expires_s = _CLAIM_EXPIRES_S if self._claim_expires_s is None else self._claim_expires_s
        found = set()
        with contextlib.suppress(OSError):
            os.utime(folder)
            now = folder.stat().st_mtime
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):  # released meanwhile
                    if entry.name.endswith(".claim") and now - entry.stat().st_mtime <= expires_s:
                        found.add(entry.name.removesuffix(".claim"))
        return frozenset(found)

    def collect_garbage(self, age_s: float = ORPHAN_AGE_S) -> int:
        """Remove what dead processes left (temporary files and folders, claims) and what was set aside as damaged.

        Args:
            age_s: Seconds in which nothing changed in it.

        Returns:
            How many files and folders were removed.
        """
        return remove_orphans(self.root, self._leftovers(), age_s)

    def _leftovers(self) -> Iterator[Path]:
        for pattern in (".*", "*/.*", "*/*/.*", "claims/*.claim"):
            # Not Path.glob, which raises when a folder is renamed while it looks inside.
            for name in glob.iglob(pattern, root_dir=self.root):  # noqa: PTH207
                path = self.root / name
                if path.name.startswith((TEMPORARY_PREFIX, _DAMAGED_PREFIX)) or path.suffix == ".claim":
                    yield path


def _acquire(path: Path, token: str, expires_s: float) -> io.FileIO:
    """Wait until the claim can be created; returns its open file."""
    start = since = time.monotonic()
    seen: bytes | None = None
    told = False
    while (stream := _create_claim(path, token)) is None:
        content, now = _content(path), time.monotonic()
        if content != seen:
            seen, since = content, now
        elif now - since > expires_s:
            _remove_claim(path, content)
            seen, since = None, now
            continue
        if not told and now - start > _TELL_AFTER_S:
            told = True
            logger.warning(
                "another process is at the same work; waiting for it (if it died, its claim ends after %.0f s)",
                expires_s,
            )
        time.sleep(_POLL_S)
    return stream


def _create_claim(path: Path, token: str) -> io.FileIO | None:
    """Return the open file of a new claim, or None when there is one."""
    try:
        stream = path.open("xb", buffering=0)
    except FileExistsError:
        return None
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        _write_claim(stream, token, 0)
    except OSError as error:
        stream.close()
        path.unlink(missing_ok=True)
        raise storage_error(path, error) from error
    return stream


def _write_claim(stream: io.FileIO, token: str, count: int) -> None:
    """Refresh a claim in place, through the file that was created.

    By its name it might be another's by now, and truncating it would show waiters an empty one.
    """
    stream.seek(0)
    stream.write(f"{token} {count}\n".encode())
    os.fsync(stream.fileno())  # other machines see it then


def _heartbeat(stream: io.FileIO, token: str, stop: threading.Event, every_s: float) -> None:
    count = 0
    while not stop.wait(every_s):
        count += 1
        with contextlib.suppress(OSError):
            _write_claim(stream, token, count)


def _content(path: Path) -> bytes | None:
    """Return what a claim says; None where it is gone, or will never say anything."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _remove_claim(path: Path, content: bytes | None) -> None:
    """Remove the claim that says ``content``; one that another process put in its place meanwhile stays.

    Between reading and removing under the claim's own name, another's could slip in. So it is renamed, read, and put
    back when it is the wrong one, unless a third was created since.

    Raises:
        StoreError: When the store cannot be written.
    """
    aside = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error
    if _content(aside) != content:
        with contextlib.suppress(OSError):
            path.hardlink_to(aside)
    with contextlib.suppress(OSError):
        aside.unlink()
