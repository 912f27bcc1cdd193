"""A file of remembered results: it only saves work. Without it, or with a damaged one, everything is computed again."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_WAIT_S = 2.0
_KEYS_AT_ONCE = 500

logger = logging.getLogger(__name__)


def fingerprint(found: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes with a file's content: size, times of its change in ns, and inode.

    The time of change cannot be set by whoever writes the file, so restoring the modification time hides nothing.
    """
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


class Cache:
    """A table of values by key in an SQLite file that several processes may share.

    A file that is missing is made; one that is no database is made again; one that is locked, or cannot be written,
    is read as far as possible. A value whose checksum is wrong counts as absent. Nothing here raises.

    Args:
        file: The file; None remembers nothing.
        table: Name of the table; another meaning of the values takes another name.
    """

    def __init__(self, file: Path | None, table: str) -> None:
        self._file, self._table = file, f'"{table}"'
        self._connection = None if file is None else self._open(file)

    def __enter__(self) -> Cache:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; afterwards nothing is remembered."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the remembered values of some keys."""
        found: dict[str, bytes] = {}
        for some in _batches(keys):
            query = f"SELECT key, value, checksum FROM {self._table} WHERE key IN ({','.join('?' * len(some))})"
            with self._tolerant() as connection:
                rows = () if connection is None else connection.execute(query, [_encoded(key) for key in some])
                found.update(
                    (_decoded(key), value)
                    for key, value, checksum in rows
                    if isinstance(value, bytes) and zlib.crc32(value) == checksum
                )
        return found

    def put(self, values: Mapping[str, bytes]) -> None:
        """Remember values, all of them or, where the file cannot be written, none."""
        rows = [(_encoded(key), value, zlib.crc32(value)) for key, value in values.items()]
        self._write(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?)", rows)

    def forget(self, unwanted: Callable[[str], bool]) -> None:
        """Forget the keys of which a function says so, so that the file does not grow for ever."""
        with self._tolerant() as connection:
            if connection is not None:
                keys = [key for (key,) in connection.execute(f"SELECT key FROM {self._table}")]
                self._write(
                    f"DELETE FROM {self._table} WHERE key = ?", [(key,) for key in keys if unwanted(_decoded(key))]
                )

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._tolerant() as connection:
            if rows and connection is not None:
                with connection:
                    connection.executemany(statement, rows)

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[sqlite3.Connection | None]:
        try:
            yield self._connection
        except sqlite3.OperationalError as error:
            logger.debug("%s: %s", self._file, error)
        except sqlite3.DatabaseError as error:
            logger.debug("%s: %s; it is made again", self._file, error)
            self.close()
            assert self._file is not None
            self._connection = self._open(self._file, again=True)

    def _open(self, file: Path, *, again: bool = False) -> sqlite3.Connection | None:
        connection = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if again:
                for damaged in (file, file.with_name(f"{file.name}-journal")):
                    damaged.unlink(missing_ok=True)
            connection = sqlite3.connect(file, timeout=_WAIT_S)
            with connection:
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {self._table} (key BLOB PRIMARY KEY, value BLOB, checksum INTEGER)"
                )
            return connection
        except (OSError, sqlite3.Error) as error:
            logger.debug("%s: %s", file, error)
            if connection is not None:
                connection.close()
            no_database = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            return self._open(file, again=True) if no_database and not again else None


def _encoded(key: str) -> bytes:
    """Return a key as bytes: names of files need not be Unicode."""
    return key.encode(errors="surrogateescape")


def _decoded(key: bytes) -> str:
    return key.decode(errors="surrogateescape")


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    keys = list(keys)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]
