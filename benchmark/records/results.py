"""The results folder: one sub-folder per run, published whole; a success is never overwritten."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.errors import DamagedFile, NewerSchema
from benchmark.records.canonical import sha256_file
from benchmark.records.files import TEMPORARY_PREFIX, publish_folder, read_json, remove_orphans, write_text
from benchmark.records.schema import SCHEMA_MAJOR, Record

RECORD_FILE = "record.json"
# A raw line break never stands inside a JSON string, so only real arrays match.
_NUMBERS = re.compile(r"\[\n\s*((?:-?[\d.eE+-]+|null)(?:,\n\s*(?:-?[\d.eE+-]+|null))*)\n\s*\]")
_VERSION = re.compile(r"(\d{1,6})(?:\.\d{1,6})*", re.ASCII)

logger = logging.getLogger(__name__)


def record_text(record: Record) -> str:
    """Return a record as JSON that diffs well: sorted keys, one line per row of numbers."""
    text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda m: "[" + re.sub(r",\s+", ", ", m.group(1)) + "]", text) + "\n"


def accepted_text(record: Record) -> str:
    """Return a record as it lies among the accepted ones: a line for each part, without other white space."""
    content = record.model_dump(mode="json")
    lines = [
        f"{json.dumps(name)}:"
        + json.dumps(content[name], separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
        for name in sorted(content)
    ]
    return "{" + ",\n".join(lines) + "}\n"


def write_record(folder: Path, record: Record) -> None:
    """Write a record into its (unpublished) folder."""
    write_text(folder / RECORD_FILE, record_text(record))


def upgrade(content: dict[str, Any], origin: str) -> dict[str, Any]:
    """Bring a record's JSON to this major version.

    Raises:
        NewerSchema: When it was written by a newer major version.
        DamagedFile: When it names no version.
    """
    version = str(content.get("schema_version", ""))
    match = _VERSION.fullmatch(version)
    if match is None:
        raise DamagedFile(f"{origin} has no schema_version, so it is no record of a run")
    major = int(match.group(1))
    if major > SCHEMA_MAJOR:
        raise NewerSchema(f"{origin} has schema {version}; this version reads {SCHEMA_MAJOR}.x: update genbias-bench")
    if major < SCHEMA_MAJOR:
        raise DamagedFile(f"{origin} has schema {version}, which never was released")
    return content


def read_record(path: Path) -> Record:
    """Read one record from its file or its folder.

    Raises:
        DamagedFile: When it is missing or does not fit the schema.
        NewerSchema: When a newer version wrote it.
    """
    file = path / RECORD_FILE if path.is_dir() else path
    return parse_record(read_json(file), str(file))


def parse_record(content: Any, origin: str) -> Record:
    """Turn a record's JSON, as :func:`read_json` gives it, into a model.

    Raises:
        DamagedFile: When it does not fit the schema.
        NewerSchema: When a newer version wrote it.
    """
    if not isinstance(content, dict):
        raise DamagedFile(f"{origin} holds no JSON object")
    try:
        # Strict, as JSON: numbers are numbers, never strings that look like one.
        return Record.model_validate_json(json.dumps(upgrade(content, origin)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise DamagedFile(f"{origin} does not fit the record schema: {where}: {first['msg']}") from error


def run_folder(task: str, method: str) -> Path:
    """Return the folder of a method's runs on a task, below the results folder."""
    return Path(task) / method.replace("/", "--")


def run_folder_name(record: Record) -> Path:
    """Return where a run's folder belongs below the results folder."""
    name = f"{record.task.level}-seed{record.seed}-{record.run_id}"
    return run_folder(record.task.name, record.method.name) / name


def publish_run(temporary: Path, results: Path, record: Record) -> Path:
    """Write the record and publish its folder under the next free attempt; two processes get one attempt each.

    What killed runs left in the results folder long ago is removed.

    Returns:
        The folder's final path.
    """
    for attempt in range(1, 10_000):
        run_id = record.cell_id[:12] + ("" if attempt == 1 else f"-{attempt}")
        final = record.model_copy(update={"run_id": run_id})
        target = results / run_folder_name(final)
        if target.exists():
            continue
        write_record(temporary, final)
        if publish_folder(temporary, target):
            remove_orphans(results, results.glob(f"{TEMPORARY_PREFIX}*"))
            return target
    raise DamagedFile(f"{results} holds 10,000 attempts of one cell; move them away")


def record_files(folder: Path) -> Iterator[Path]:
    """Yield every record file below a folder in path order, but for what is being written."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, PermissionError):
        return
    for entry in entries:
        if entry.name.startswith(TEMPORARY_PREFIX):
            continue
        if entry.name == RECORD_FILE:
            yield folder / RECORD_FILE
        if entry.is_dir(follow_symlinks=False):
            yield from record_files(folder / entry.name)


def iterate_records(folders: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
    """Yield every finished record below some folders or files, in path order.

    Raises:
        DamagedFile: For a folder or file that does not exist, or a record that does not fit.
    """
    for folder in folders:
        if not folder.exists():
            raise DamagedFile(f"{folder} does not exist")
        for file in [folder] if folder.is_file() else record_files(folder):
            yield file, read_record(file)


def damaged_predictions(folder: Path, record: Record) -> list[str]:
    """Return the names of a record's predictions files that are missing or not what it says they are."""
    files = {c.predictions.file: c.predictions.sha256 for stage in record.stages for c in stage.checkpoints}
    return [
        name for name, digest in files.items() if not (folder / name).is_file() or sha256_file(folder / name) != digest
    ]


def find_success(results: Path, cell_id: str, prefix: Path, *, isolated: bool = False) -> Path | None:
    """Return the folder of a finished success of this cell, if there is an undamaged one.

    Args:
        results: The results folder.
        cell_id: The cell.
        prefix: ``task/method`` below the results folder.
        isolated: Accept only a run whose `fit` was isolated.
    """
    for file in sorted((results / prefix).glob(f"*-{cell_id[:12]}*/{RECORD_FILE}")):
        try:
            record = read_record(file)
        except DamagedFile as error:
            logger.warning("%s; the run is made again", error)
            continue
        fits = record.cell_id == cell_id and record.status == "success"
        if not fits or (isolated and not record.isolation.separate_process):
            continue
        if missing := damaged_predictions(file.parent, record):
            logger.warning("%s is missing or changed; the run is made again", file.parent / missing[0])
            continue
        return file.parent
    return None
