"""What earlier builds found out, so that a build reads only what is new: runs, splits, distances of rows, tables.

It is a file of the maintainer's own, in the store; nothing in a submission reaches it. A board is the same with it,
without it, or with a damaged one. What was found out is used again only

* by the same code and libraries, whose digest stands in every value;
* for a run: while its record and the files of its answers are untouched (size, times, inode), its folder too where it
  keeps the arg-max, since whole predictions beside it would be read in its place; and while the task still has the test
  split and the data card that its answers were checked against. What the method's card and verification.json say
  about it is checked in every build;
* for a split: while ``splits.lock`` pins the same digest;
* for two rows: by the digests of the predictions of all their seeds;
* for a table: while its runs, their levels and splits, the card, and the code of the methods are the same.
"""

from __future__ import annotations

import functools
import importlib.metadata
import io
import json
import os
import platform
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.records.cache import Cache, fingerprint
from benchmark.records.canonical import sha256_file, sha256_of
from benchmark.records.schema import Record
from leaderboard.models import GeneratedRow, Table

BOARD_CACHE = "board.sqlite"
"""The file's usual name in the store folder."""
_AT_ONCE = 500
_CODE = (
    "leaderboard/*.py",
    "benchmark/contract/*.py",
    "benchmark/evaluation/scoring.py",
    "benchmark/metrics/*.py",
    "benchmark/records/*.py",
    "benchmark/tasks/*.py",
)
_SHOWN = ("benchmark/generators/*.py", "methods/*.py")
"""What else decides what is shown: cards and defaults of methods and of sampling."""
_LIBRARIES = ("numpy", "pyarrow", "pydantic", "pydantic-core", "scipy")

Mark = tuple[int, int, int, int]
Arrays = Mapping[str, NDArray[Any]]


class FoundAnswers(BaseModel):
    """One predictions file, reduced.

    Attributes:
        file: Its name.
        sha256: Its digest.
        correct: Right answers by row, packed bits in base 64; null where they were not kept.
        values: Metrics by name.
        reasons: Why some are undefined.
        counted: Right answers by group as recorded, where they were not kept.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    sha256: str
    correct: str | None
    values: dict[str, float | None]
    reasons: dict[str, str]
    counted: list[int] | None


class FoundRun(BaseModel):
    """One record that was read and checked.

    Attributes:
        code: Digest of the code that checked it.
        mark: Fingerprint of the record from before it was read; None where there was no file.
        marks: The same of the files of its answers, by name; ``.`` is its folder, where it keeps the arg-max.
        checked_against: Identity of the split that its answers were checked against; None without answers.
        digest: SHA-256 of the record's JSON content.
        record: What the board shows of it.
        answers: Its predictions files.
    """

    model_config = ConfigDict(frozen=True)

    code: str
    mark: Mark | None
    marks: dict[str, Mark | None]
    checked_against: str | None
    digest: str
    record: Record
    answers: list[FoundAnswers]


class FoundTable(BaseModel):
    """One table that was built.

    Attributes:
        basis: Digest of what it was built from.
        table: The table.
        generated: The generated images of its rows.
    """

    model_config = ConfigDict(frozen=True)

    basis: str
    table: Table
    generated: list[GeneratedRow]


@functools.cache
def code_digest() -> str:
    """Return the SHA-256 of the code and of the versions of the libraries that decide what a build finds out."""
    return sha256_of(
        {
            "code": _digests(_CODE),
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "python": [platform.python_version(), platform.machine()],
        }
    )


@functools.cache
def shown_digest() -> str:
    """Return the SHA-256 of all code that decides what is shown of runs."""
    return sha256_of([code_digest(), _digests(_SHOWN)])


def _digests(patterns: Sequence[str]) -> dict[str, str]:
    root = Path(__file__).resolve().parents[1]
    files = [file for pattern in patterns for file in sorted(root.glob(pattern))]
    return {file.relative_to(root).as_posix(): sha256_file(file) for file in files}


class Remembered:
    """What is remembered between builds.

    Args:
        file: Where; None remembers nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._runs, self._arrays, self._tables = (Cache(file, name) for name in ("runs", "arrays", "tables"))
        self._seen: set[str] = set()
        self._new: dict[str, bytes] = {}

    def __enter__(self) -> Remembered:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is new, also after an error: each value stands for itself."""
        if self._new:
            self._write()
            self._runs.forget(lambda file: file not in self._seen and not Path(file).exists())
        for cache in (self._runs, self._arrays, self._tables):
            cache.close()

    def runs(self, files: Sequence[Path]) -> Iterator[tuple[Path, FoundRun | None]]:
        """Yield record files, each with what is known of it while it and its predictions are untouched."""
        for start in range(0, len(files), _AT_ONCE):
            some = files[start : start + _AT_ONCE]
            known = self._runs.get(map(str, some))
            self._seen.update(known)
            for file in some:
                yield file, _valid(file, known.get(str(file)))

    def keep_run(self, file: Path, found: FoundRun) -> None:
        """Remember a run that was read and checked; not one whose files came and went meanwhile."""
        if self._file is None or None in (found.mark, *found.marks.values()):
            return
        self._new[str(file)] = found.model_dump_json().encode()
        if len(self._new) >= _AT_ONCE:
            self._write()

    def arrays(self, key: str) -> tuple[Any, dict[str, NDArray[Any]]] | None:
        """Return what is remembered under a key: a description, as JSON has it, and arrays."""
        value = self._arrays.get([key]).get(key)
        if value is None:
            return None
        try:
            with np.load(io.BytesIO(value), allow_pickle=False) as found:
                description = json.loads(found["description"].tobytes())
                arrays = {name: found[name] for name in found.files if name != "description"}
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            return None
        return (description["about"], arrays) if description["code"] == code_digest() else None

    def keep_arrays(self, key: str, about: Any, arrays: Arrays) -> None:
        """Remember a description and arrays under a key."""
        if self._file is None:
            return
        description = json.dumps({"code": code_digest(), "about": about}).encode()
        parts: dict[str, Any] = {"description": np.frombuffer(description, dtype=np.uint8), **arrays}
        stream = io.BytesIO()
        np.savez(stream, **parts)
        self._arrays.put({key: stream.getvalue()})

    def table(self, place: str, basis: str) -> FoundTable | None:
        """Return the table that is remembered for a place, if it was built from the same."""
        value = self._tables.get([place]).get(place)
        if value is None:
            return None
        try:
            found = FoundTable.model_validate_json(value)
        except ValidationError:
            return None
        return found if found.basis == basis else None

    def keep_table(self, place: str, found: FoundTable) -> None:
        """Remember a table."""
        if self._file is not None:
            self._tables.put({place: found.model_dump_json().encode()})

    def _write(self) -> None:
        self._runs.put(self._new)
        self._new = {}


def mark_of(folder: Path, name: str) -> Mark | None:
    """Return the fingerprint of a file in a folder, to be taken before it is read; None where there is none."""
    try:
        return fingerprint(os.lstat(folder / name))
    except OSError:
        return None  # whoever reads it will say so


def _valid(file: Path, value: bytes | None) -> FoundRun | None:
    if value is None:
        return None
    try:
        found = FoundRun.model_validate_json(value)
    except ValidationError:
        return None
    marks = {file.name: found.mark, **found.marks}
    untouched = all(mark_of(file.parent, name) == mark for name, mark in marks.items())
    return found if untouched and found.code == code_digest() else None


def pack(correct: NDArray[np.bool_]) -> str:
    """Pack booleans into text."""
    return b64encode(np.packbits(correct).tobytes()).decode()


def unpack(text: str, rows: int) -> NDArray[np.bool_]:
    """Return ``rows`` booleans that :func:`pack` packed."""
    return np.unpackbits(np.frombuffer(b64decode(text), dtype=np.uint8), count=rows).astype(np.bool_)
