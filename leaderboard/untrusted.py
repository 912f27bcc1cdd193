"""Folders and JSON of strangers: read only as plain files of bounded number and size, in the layout of a submission.

Every file is opened below the folder's own descriptor without following links, judged by what was opened, and read
once: what was checked is what is used. Predictions go on to :mod:`leaderboard.sealed`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.results import RECORD_FILE
from leaderboard.text import plain

SUBMISSION_FILE = "submission.json"
MOST_FILES = 2_000
MOST_BYTES = 256 * 2**20
JSON_BYTES = 2**20
JSON_DEPTH = 32
JSON_VALUES = 100_000
_LARGEST_INTEGER = 2**63 - 1
_DEPTH = 3
"""Folders above a run's files: task, method, run."""

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_RUN_NAME = re.compile(r"[a-z0-9.]{1,40}-seed\d{1,10}-[0-9a-f]{12}(?:-\d{1,6})?", re.ASCII)
_PREDICTIONS_NAME = re.compile(r"predictions-[A-Za-z0-9._-]{1,180}\.parquet")
_NOT_BRACKETS = re.compile(rb"[^\[\]{}]+")

Complaint = Callable[[str, str], None]
"""Takes the place of a problem, relative to the folder, and what it is."""


@dataclass(frozen=True)
class _Place:
    """An entry that was met on the way."""

    name: str
    parts: tuple[str, ...]
    found: os.stat_result

    @property
    def where(self) -> str:
        return "/".join((*self.parts, self.name))


class UntrustedFolder:
    """A folder of a submission, of results, or of one run; nothing outside of it is ever opened.

    Attributes:
        files: Size of each file that may be read, by its path relative to the folder, in path order.
        others: Plain files in it that have no place in a submission, such as pictures; they are never opened.
        single_run: Whether it is the folder of one run.
    """

    def __init__(self, path: Path, complain: Complaint | None = None) -> None:
        """Open a folder and list it.

        Args:
            path: The folder; links on the way to it are the caller's own.
            complain: Told of everything in it that is not read, but for :attr:`others`.

        Raises:
            UsageError: When it is no folder.
        """
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            hint = "; give the folder, and unpack an archive into an empty one first" if path.is_file() else ""
            raise UsageError(f"{path} is no folder that can be read: {os.strerror(error.errno or 0)}{hint}") from error
        self._complain = complain
        self._seen = self._bytes = 0
        self.files: dict[str, int] = {}
        self.others: list[str] = []
        self.single_run = self._holds(RECORD_FILE)
        try:
            self._walk(self._root, ())
        except DamagedFile as error:
            self.files, self.others = {}, []
            self._refuse("", str(error))
        self.files = dict(sorted(self.files.items()))

    def __enter__(self) -> UntrustedFolder:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the folder."""
        os.close(self._root)

    def read(self, name: str, most: int) -> bytes:
        """Return the content of one of its files.

        Raises:
            DamagedFile: When it is not among the files, is no plain file any more, or is larger than ``most``.
        """
        if name not in self.files:
            raise DamagedFile(f"{name} is missing; a record and the files that it names belong together")
        try:
            with self._opened(name) as descriptor:
                found = os.fstat(descriptor)
                if problem := _no_plain_file(found):
                    raise DamagedFile(f"{name} {problem}")
                data = _at_most(descriptor, most)
        except OSError as error:
            raise DamagedFile(f"{name} cannot be read: {os.strerror(error.errno or 0)}") from error
        if len(data) > most:
            raise DamagedFile(f"{name} holds {found.st_size:,} bytes; at most {most:,} are read")
        return data

    def beside(self, name: str) -> list[str]:
        """Return the files in the folder of one of its files, that one included."""
        return self._by_folder[name.rpartition("/")[0]]

    @functools.cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.files:
            found.setdefault(name.rpartition("/")[0], []).append(name)
        return found

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Open a file step by step: no part of its path may be a link, whatever it was when the folder was listed."""
        *folders, last = name.split("/")
        with contextlib.ExitStack() as stack:
            inside = self._root
            for folder in folders:
                inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
                stack.callback(os.close, inside)
            # Not blocking: a pipe in the place of a file would wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(last, flags, dir_fd=inside)
            stack.callback(os.close, descriptor)
            yield descriptor

    def _holds(self, name: str) -> bool:
        try:
            os.lstat(name, dir_fd=self._root)
        except OSError:
            return False
        return True

    def _walk(self, folder: int, parts: tuple[str, ...]) -> None:
        names: dict[str, str] = {}
        for place in self._entries(folder, parts):
            twin = names.setdefault(place.name.casefold(), place.name)
            if twin != place.name:
                self._refuse(place.where, f"differs from {twin} only in upper and lower case")
            elif stat.S_ISDIR(place.found.st_mode):
                self._enter(folder, place)
            elif problem := _no_plain_file(place.found):
                self._refuse(place.where, problem)
            elif self._belongs(place):
                self._keep(place)
            else:
                self.others.append(plain(place.where))

    def _entries(self, folder: int, parts: tuple[str, ...]) -> list[_Place]:
        """Return what lies in a folder in the order of names.

        Raises:
            DamagedFile: When the folders hold more than is looked at, or change meanwhile.
        """
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._seen += 1
                    if self._seen > 2 * MOST_FILES:
                        raise DamagedFile(f"holds more than {2 * MOST_FILES:,} files and folders; nothing was read")
                    found.append(_Place(entry.name, parts, entry.stat(follow_symlinks=False)))
        except OSError as error:
            raise DamagedFile(f"cannot be listed: {os.strerror(error.errno or 0)}; nothing was read") from error
        return sorted(found, key=lambda place: place.name)

    def _enter(self, folder: int, place: _Place) -> None:
        depth = len(place.parts) + 1
        name = _RUN_NAME if depth == _DEPTH else _FOLDER_NAME
        if self.single_run or depth > _DEPTH or not name.fullmatch(place.name):
            self._refuse(place.where, "is no folder of a submission: <task>/<method>/<level>-seed<seed>-<run id>")
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            inside = os.open(place.name, flags, dir_fd=folder)
        except OSError as error:
            self._refuse(place.where, f"cannot be opened: {os.strerror(error.errno or 0)}")
            return
        try:
            self._walk(inside, (*place.parts, place.name))
        finally:
            os.close(inside)

    def _belongs(self, place: _Place) -> bool:
        if not place.parts and place.name == SUBMISSION_FILE:
            return True
        known = place.name == RECORD_FILE or _PREDICTIONS_NAME.fullmatch(place.name) is not None
        return known and len(place.parts) == (0 if self.single_run else _DEPTH)

    def _keep(self, place: _Place) -> None:
        self.files[place.where] = place.found.st_size
        self._bytes += place.found.st_size
        if len(self.files) > MOST_FILES or self._bytes > MOST_BYTES:
            most = f"{MOST_FILES:,} files or {MOST_BYTES // 2**20} MiB"
            raise DamagedFile(f"holds more than {most}, and nothing was read; submit it in parts")

    def _refuse(self, where: str, problem: str) -> None:
        if self._complain is not None:
            self._complain(plain(where), problem)


def _no_plain_file(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "is no plain file; links and devices are not read"
    if found.st_nlink > 1:
        return f"has {found.st_nlink} names (hard links), so it may be somebody else's file; copy it"
    return ""


def _at_most(descriptor: int, most: int) -> bytes:
    """Read a little more than allowed, so that the caller sees what was too long."""
    parts, left = [], most + 1
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def parse_json(data: bytes, origin: str) -> Any:
    """Read JSON strictly and within bounds, in time and memory that grow with its size only.

    Args:
        data: UTF-8, at most :data:`JSON_BYTES`.
        origin: What to call it in errors.

    Raises:
        DamagedFile: For anything else, and for duplicate keys, NaN, infinities, numbers beyond 64 bits, text that is no
            Unicode, nesting deeper than :data:`JSON_DEPTH` or more values than :data:`JSON_VALUES`.
    """
    if len(data) > JSON_BYTES:
        raise DamagedFile(f"{origin} holds {len(data):,} bytes; at most {JSON_BYTES:,} are read")
    _check_extent(data, origin)
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_unique,
        )
        # An escape may name half of a surrogate pair, which no file and no terminal can show.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{origin} cannot be read as JSON: {plain(str(error))}") from error
    return value


def _check_extent(data: bytes, origin: str) -> None:
    """Refuse what is nested too deeply or holds too much before it is parsed."""
    outside = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    if outside.count(b",") > JSON_VALUES:
        raise DamagedFile(f"{origin} holds more than {JSON_VALUES:,} values")
    depth = 0
    for bracket in _NOT_BRACKETS.sub(b"", outside):
        depth += 1 if bracket in b"[{" else -1
        if depth > JSON_DEPTH:
            raise DamagedFile(f"{origin} is nested deeper than {JSON_DEPTH} levels")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.20} is out of range")
    return value


def _integer(digits: str) -> int:
    # Longer texts are never turned into numbers, which would take quadratic time.
    if len(digits) > len(str(_LARGEST_INTEGER)) + 1 or abs(int(digits)) > _LARGEST_INTEGER:
        raise ValueError(f"{digits:.20}… is no 64-bit number")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result
