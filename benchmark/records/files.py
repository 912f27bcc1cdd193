"""Writing that survives interruption: everything is made aside, flushed, and renamed into place."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import DamagedFile, StoreError

TEMPORARY_PREFIX = ".tmp-"
ORPHAN_AGE_S = 7 * 24 * 3600.0
"""Age at which what is temporary counts as a dead producer's: longer than a training that writes nothing on the way."""
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def storage_error(path: Path, error: Exception) -> StoreError:
    """Turn an operating-system error, also one that reached us through `safetensors`, into a sentence on what to do."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _RUST_ERROR.search(str(error))):
        number = int(match[1])
    reason = str(error) if number is None else os.strerror(number)
    if number == errno.ENOSPC:
        return StoreError(f"no space left while writing {path}; free some space and run the same command again")
    if number == errno.EDQUOT:
        return StoreError(f"disk quota used up while writing {path}; free some space and run the same command again")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"cannot write to {path}: {reason}; choose another folder")
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return StoreError(f"cannot use {path}: {reason}; a file stands where a folder is needed, or vice versa")
    return StoreError(f"cannot write {path}: {reason}")


def make_folder(path: Path) -> Path:
    """Create ``path`` with its parents.

    Raises:
        StoreError: When it cannot be created or is not a folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush every file below ``folder`` and the folders themselves."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            fsync_folder(path)
    fsync_folder(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` atomically: a reader sees the old file or the new one.

    Raises:
        StoreError: When the folder cannot be written or the disk is full; the old file is then untouched.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(6)}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by UTF-8 ``text`` atomically."""
    write_bytes(path, text.encode())


def pretty_json(value: Any) -> str:
    """Return indented JSON with sorted keys, no NaN, and a final newline."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as :func:`pretty_json` atomically."""
    write_text(path, pretty_json(value))


def read_json(path: Path) -> Any:
    """Read JSON strictly: no NaN, no number beyond a float's range, no duplicate keys.

    Raises:
        DamagedFile: When the file is missing or is not such JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read as JSON: {error}") from error
    return strict_json(data, str(path))


def strict_json(data: bytes, origin: str) -> Any:
    """Read JSON as :func:`read_json` does, from memory.

    Args:
        data: The text.
        origin: What to call it in errors.

    Raises:
        DamagedFile: When it is not such JSON.
    """

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{digits} is out of range")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return result

    try:
        return json.loads(data, parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{origin} cannot be read as JSON: {error}") from error


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder inside ``parent`` that is removed at the end unless it was renamed away."""
    folder = make_folder(parent) / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(temporary: Path, target: Path) -> bool:
    """Rename a finished folder onto a name that must not exist yet.

    Args:
        temporary: The finished folder, on the same file system.
        target: Its final name.

    Returns:
        True when this call published it; False when somebody else was first (``temporary`` is then left as it is).
    """
    make_folder(target.parent)
    try:
        fsync_tree(temporary)
        # rename(2) replaces an *empty* folder silently; what we publish always holds files, so a
        # published target is never empty and the call fails instead of replacing it.
        temporary.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise storage_error(target, error) from error
    fsync_folder(target.parent)
    return True


def remove_orphans(folder: Path, candidates: Iterable[Path], age_s: float = ORPHAN_AGE_S) -> int:
    """Remove files and folders in which nothing changed for a while.

    Each gets another name before it is emptied: a producer that was only slow then fails at its next step, instead of
    publishing what is left. Age is judged by the clock that stamps the files, on a network folder the server's:
    machines that share it need not agree on the time.

    Args:
        folder: Where they lie; one that cannot be written keeps them.
        candidates: What may be removed.
        age_s: Seconds without a change.

    Returns:
        How many were removed.
    """
    removed = 0
    with contextlib.suppress(OSError):
        os.utime(folder)
        now = folder.stat().st_mtime
        for path in candidates:
            with contextlib.suppress(OSError):  # it was published, or removed by another process
                if now - _last_change(path) >= age_s:
                    _remove(path)
                    removed += 1
    return removed


def _remove(path: Path) -> None:
    aside = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    path.rename(aside)
    if stat.S_ISDIR(aside.lstat().st_mode):
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _last_change(path: Path) -> float:
    below = (Path(parent, name) for parent, folders, files in os.walk(path) for name in (*folders, *files))
    return max(found.lstat().st_mtime for found in (path, *below))
