"""The results folder: one sub-folder per run, published whole; a success is never overwritten.

A run's record is plain JSON; among the accepted ones it is compressed, under another name. Both are read everywhere but
in submissions; where both lie in one folder, the plain one counts.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.errors import DamagedFile, NewerSchema
from benchmark.records.canonical import sha256_file
from benchmark.records.files import TEMPORARY_PREFIX, publish_folder, remove_orphans, strict_json, write_text
from benchmark.records.kept import answers_file
from benchmark.records.schema import SCHEMA_MAJOR, PredictionsFile, Record

RECORD_FILE, ACCEPTED_FILE = "record.json", "record.json.gz"
MAX_RECORD_BYTES = 32 * 2**20
"""Of a record's JSON: what claims to hold more is read no further."""
_GZIP = 16 + zlib.MAX_WBITS
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


def compressed(text: str) -> bytes:
    """Return a text as it lies among the accepted records: gzip without a time or a name, the same for equal texts.

    Another release of zlib may give other bytes, which hold the same.
    """
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=stream, mtime=0) as file:
        file.write(text.encode())
    return stream.getvalue()


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
    file = record_file(path) if path.is_dir() else path
    return parse_record(read_content(file), str(file))


def record_file(folder: Path) -> Path:
    """Return the file of a run's record: the plain one, also where there is none, or the compressed one alone."""
    plain, accepted = folder / RECORD_FILE, folder / ACCEPTED_FILE
    return accepted if accepted.is_file() and not plain.is_file() else plain


def read_content(file: Path) -> Any:
    """Read a record's JSON, strictly.

    Raises:
        DamagedFile: As :func:`record_bytes`, and when it is no JSON.
    """
    return strict_json(record_bytes(file), str(file))


def record_bytes(file: Path) -> bytes:
    """Return a record's text, never more than :data:`MAX_RECORD_BYTES` of it.

    Raises:
        DamagedFile: When it is missing or too large, or compressed and damaged, cut, or followed by something else.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        raise DamagedFile(f"{file} cannot be read as JSON: {error}") from error
    if file.suffix == ".gz" and len(data) <= MAX_RECORD_BYTES:
        data = _decompressed(data, file)
    if len(data) > MAX_RECORD_BYTES:
        raise DamagedFile(f"{file} holds more than {MAX_RECORD_BYTES:,} bytes, so it is no record")
    return data


def _decompressed(data: bytes, file: Path) -> bytes:
    decoder = zlib.decompressobj(_GZIP)
    try:
        text = decoder.decompress(data, MAX_RECORD_BYTES + 1)
    except zlib.error as error:
        raise DamagedFile(f"{file} cannot be read as gzip: {error}") from error
    if len(text) > MAX_RECORD_BYTES:
        return text
    if not decoder.eof:
        raise DamagedFile(f"{file} cannot be read as gzip: it is cut off; fetch it again")
    if decoder.unused_data:
        raise DamagedFile(f"{file} cannot be read as gzip: something follows its end; fetch it again")
    return text


def parse_record(content: Any, origin: str) -> Record:
    """Turn a record's JSON, as :func:`read_content` gives it, into a model.

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
    plain = any(entry.name == RECORD_FILE for entry in entries)
    for entry in entries:
        if entry.name.startswith(TEMPORARY_PREFIX):
            continue
        if entry.name == (RECORD_FILE if plain else ACCEPTED_FILE):
            yield folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from record_files(folder / entry.name)


def records_of(folder: Path, pattern: str) -> list[Path]:
    """Return the record files of the runs below a folder whose folders fit a glob pattern, in path order."""
    return sorted(file for run in folder.glob(pattern) if (file := record_file(run)).is_file())


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
    """Return the names of a record's predictions files that are missing or not what it says they are.

    Of an accepted run that keeps the arg-max, those of the files that stand in their place.
    """
    files = {c.predictions.file: c.predictions for stage in record.stages for c in stage.checkpoints}
    places = ((answers_file(folder, record, named), named) for named in files.values())
    return [file.name for file, named in places if file is not None and not _is_sound(file, named)]


def _is_sound(file: Path, named: PredictionsFile) -> bool:
    if file.name == named.file:
        return file.is_file() and sha256_file(file) == named.sha256
    from benchmark.records.predictions import read_argmax

    try:
        read_argmax(file, rows=named.rows, rows_digest=named.rows_digest, sha256=named.sha256)
    except DamagedFile:
        return False
    return True


def find_success(results: Path, cell_id: str, prefix: Path, *, isolated: bool = False) -> Path | None:
    """Return the folder of a finished success of this cell, if there is an undamaged one.

    Args:
        results: The results folder.
        cell_id: The cell.
        prefix: ``task/method`` below the results folder.
        isolated: Accept only a run whose `fit` was isolated.
    """
    for file in records_of(results / prefix, f"*-{cell_id[:12]}*"):
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
