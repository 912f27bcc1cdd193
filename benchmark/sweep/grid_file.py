"""Grid files: TOML with one ``[[cells]]`` table per block; what is wrong in one is said with its line (torch-free)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmark.errors import InvalidValue, NotAvailable, UsageError
from benchmark.evaluation.cell import Request
from benchmark.sweep.selection import Block, requests_of

_TABLE = "cells"
_HEADER = re.compile(rf"\s*\[\[\s*{_TABLE}\s*\]\]")
_NAMED = re.compile(r"'([^']+)'|([\w.-]+)=|--([\w-]+)")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class GridFile:
    """What a grid file says.

    Attributes:
        title: One line for people.
        requests: Its cells.
    """

    title: str
    requests: list[Request]


def read_grid(path: Path, *, offline: bool = False) -> GridFile:
    """Read a grid file.

    Raises:
        NotAvailable: When it cannot be read.
        InvalidValue: When it is no grid, or names what does not exist; the message has the line.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InvalidValue(f"{path} holds more than {_MOST_BYTES:,} bytes, which no grid needs")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise NotAvailable(f"the grid {path} cannot be read: {error}") from error
    try:
        entries = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidValue(f"{path} is no TOML: {error}") from error
    title, tables = entries.pop("title", path.stem), entries.pop(_TABLE, None)
    lines = text.splitlines()
    if entries:
        name = next(iter(entries))
        line = _line_of(lines, range(len(lines)), [name])
        raise InvalidValue(f"{path}, line {line}: unknown entry {name!r}; a grid has title and [[{_TABLE}]]")
    if not isinstance(title, str) or not isinstance(tables, list) or not tables:
        raise InvalidValue(f"{path} needs a title in quotes and at least one [[{_TABLE}]] table")
    requests: list[Request] = []
    for number, table in enumerate(tables):
        requests += _cells(table, path, lines, number, offline)
    return GridFile(title, requests)


def _cells(table: object, path: Path, lines: Sequence[str], number: int, offline: bool) -> list[Request]:
    if isinstance(table, dict) and isinstance(table.get("tuned"), str):
        table = {**table, "tuned": str(path.parent / table["tuned"])}  # as seen from the grid's folder
    try:
        return requests_of([Block.model_validate(table)], offline=offline)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]] or [_TABLE]
        given = f" {first['input']!r}" if first["type"] != "missing" else ""
        words = where if first["type"] == "extra_forbidden" else [repr(first["input"]).strip("'"), *where]
        message = f"{'.'.join(where)}{given}: {first['msg']}"
    except UsageError as error:
        words, message = _named(str(error)), str(error)
    raise InvalidValue(f"{path}, line {_line_of(lines, _span(lines, number), words)}: {message}")


def _named(message: str) -> list[str]:
    """Return what may be wrong by a message: what it quotes, settings that have a value, and options."""
    words = []
    for quoted, setting, option in _NAMED.findall(message):
        key = option.replace("-", "_")
        words += [quoted or setting] if quoted or setting else [key, f"{key}s"]
    return words


def _span(lines: Sequence[str], number: int) -> range:
    """Return the lines of a table: from its header to the next; the whole file where it has none."""
    headers = [index for index, line in enumerate(lines) if _HEADER.match(line)]
    if number >= len(headers):
        return range(len(lines))
    return range(headers[number], [*headers, len(lines)][number + 1])


def _line_of(lines: Sequence[str], span: range, words: Sequence[str]) -> int:
    """Return the number of the line with the first of some words that stands there; else of the first line."""
    for word in words:
        pattern = re.compile(rf"(?<![\w.-]){re.escape(word)}(?![\w-])")
        for index in span:
            if pattern.search(lines[index].partition("#")[0]):
                return index + 1
    return span.start + 1
