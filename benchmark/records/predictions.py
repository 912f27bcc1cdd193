"""Predictions as Parquet: arg-max and top probability in the order of the test rows, whose digest is in the footer.

A file of the arg-max alone also names, in its footer, the predictions that it was taken from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedFile

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_FOOTER = {
    "rows_digest": b"genbias.rows_digest",
    "format": b"genbias.format",
    "predictions": b"genbias.predictions_sha256",
}
_LABEL, _TOP = "label", "top_probability"
_EXPECTED = {_LABEL: "label (uint8 or uint16)", _TOP: "top_probability (float16)"}
_FORMAT, _ARGMAX_FORMAT = b"1", b"argmax-1"
_MAX_BYTES = 256 * 2**20
_BATCH = 65536
_SMALLEST = 19
"""Level of zstd beyond which labels hardly shrink."""

Columns = dict[str, NDArray[Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class StoredPredictions:
    """Answers of one checkpoint.

    Attributes:
        label: Arg-max taken before any rounding, uint8 or uint16 [n].
        top_probability: float16 [n].
        rows_digest: Digest of the test rows they answer.
    """

    label: NDArray[np.integer]
    top_probability: NDArray[np.float16]
    rows_digest: str


def write_predictions(path: Path, predictions: StoredPredictions, n_classes: int) -> None:
    """Write a predictions file.

    Args:
        path: Where; the caller publishes the folder atomically.
        predictions: What to write.
        n_classes: Decides between uint8 and uint16 labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    label_type = np.uint8 if n_classes <= 256 else np.uint16
    table = pa.table(
        {
            _LABEL: pa.array(predictions.label.astype(label_type)),
            _TOP: pa.array(predictions.top_probability.astype(np.float16)),
        }
    ).replace_schema_metadata({_FOOTER["rows_digest"]: predictions.rows_digest.encode(), _FOOTER["format"]: _FORMAT})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def write_argmax(path: Path, label: NDArray[np.integer], *, rows_digest: str, sha256: str) -> None:
    """Write the arg-max of a predictions file: what is kept of it among the accepted records of a large test split.

    Args:
        path: Where; the caller publishes the folder atomically.
        label: Its labels, uint8 or uint16 [n].
        rows_digest: Digest of the test rows they answer.
        sha256: Of the predictions file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    footer = {"rows_digest": rows_digest.encode(), "format": _ARGMAX_FORMAT, "predictions": sha256.encode()}
    table = pa.table({_LABEL: pa.array(label)}).replace_schema_metadata({_FOOTER[k]: v for k, v in footer.items()})
    pq.write_table(
        table, path, compression="zstd", compression_level=_SMALLEST, use_dictionary=False, write_statistics=False
    )


def read_predictions(path: Path, *, rows: int, rows_digest: str) -> StoredPredictions:
    """Read a predictions file, accepting only the exact flat schema and the expected rows.

    Raises:
        DamagedFile: When it is missing, damaged, of another schema, or answers other rows.
    """
    stored = _opened(path, lambda stream: parse_predictions(stream, str(path), rows))
    check_rows(stored.rows_digest, str(path), rows_digest)
    return stored


def read_argmax(path: Path, *, rows: int, rows_digest: str, sha256: str) -> NDArray[np.integer]:
    """Read what :func:`write_argmax` wrote, accepting only the exact flat schema and the expected rows.

    Args:
        path: The file.
        rows: How many rows it has to hold.
        rows_digest: Digest of the test rows that it has to answer.
        sha256: Of the predictions file of which it has to be the arg-max.

    Returns:
        Labels, uint8 or uint16 [rows].

    Raises:
        DamagedFile: When it is missing, damaged, of another schema, answers other rows, or is another file's arg-max.
    """
    columns, footer = _opened(path, lambda stream: _parse(stream, str(path), rows, _ARGMAX_FORMAT))
    check_rows(_text(footer, "rows_digest"), str(path), rows_digest)
    if _text(footer, "predictions") != sha256:
        raise DamagedFile(f"{path} is the arg-max of other predictions than its record names; fetch both again")
    return columns[_LABEL]


def _opened(path: Path, parse: Callable[[BinaryIO], T]) -> T:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DamagedFile(f"{path} is larger than {_MAX_BYTES // 2**20} MiB; predictions are a few bytes a row")
        with path.open("rb") as stream:
            return parse(stream)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read as Parquet: {error}") from error


def check_rows(found: str, origin: str, rows_digest: str) -> None:
    """Refuse answers to other test rows.

    Raises:
        DamagedFile: When the digests differ.
    """
    if found != rows_digest:
        raise DamagedFile(f"{origin} answers other test rows (digest {found[:12]!r}, expected {rows_digest[:12]!r})")


def parse_predictions(stream: BinaryIO, origin: str, rows: int) -> StoredPredictions:
    """Read predictions from an open file, in batches, never more than the expected rows.

    What a stranger's file takes to decode is bounded only by the limits of the process that does it; see
    :mod:`leaderboard.sealed`.

    Args:
        stream: The file.
        origin: What to call it in errors.
        rows: How many rows it has to hold.

    Raises:
        DamagedFile: When it is damaged, not of the exact flat schema, or holds another number of rows, missing answers
            or probabilities outside of 0 to 1.
    """
    columns, footer = _parse(stream, origin, rows, _FORMAT)
    top = columns[_TOP].astype(np.float16)
    # Written so that NaN fails too.
    if not bool(((top >= 0) & (top <= 1)).all()):
        raise DamagedFile(f"{origin} has top probabilities outside of 0 to 1")
    return StoredPredictions(columns[_LABEL], top, _text(footer, "rows_digest"))


def _parse(stream: BinaryIO, origin: str, rows: int, form: bytes) -> tuple[Columns, dict[bytes, bytes]]:
    """Return the columns and the footer of a file of one of the two formats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(stream) as file:
            _check_layout(file, origin, rows, form)
            return _columns(file, origin, rows, form), file.schema_arrow.metadata or {}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedFile(f"{origin} cannot be read as Parquet: {error}") from error


def _text(footer: dict[bytes, bytes], name: str) -> str:
    return footer.get(_FOOTER[name], b"").decode(errors="replace")


def _names(form: bytes) -> list[str]:
    return [_LABEL, _TOP] if form == _FORMAT else [_LABEL]


def _check_layout(file: pq.ParquetFile, origin: str, rows: int, form: bytes) -> None:
    import pyarrow as pa

    types = {_LABEL: (pa.uint8(), pa.uint16()), _TOP: (pa.float16(),)}
    fields, names = {field.name: field.type for field in file.schema_arrow}, _names(form)
    if (
        len(file.schema_arrow) != len(names)
        or set(fields) != set(names)
        or any(fields[name] not in types[name] for name in names)
    ):
        expected = " and ".join(_EXPECTED[name] for name in names)
        raise DamagedFile(f"{origin} has columns {fields}, expected {expected}")
    if (file.schema_arrow.metadata or {}).get(_FOOTER["format"]) != form:
        raise DamagedFile(f"{origin} does not say format {form.decode()} in its footer")
    # The footer counts rows twice, and a stranger's file may disagree with itself.
    held = sum(file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups))
    if file.metadata.num_rows != rows or held != rows:
        raise DamagedFile(f"{origin} holds {file.metadata.num_rows} rows, the test split has {rows}")


def _columns(file: pq.ParquetFile, origin: str, rows: int, form: bytes) -> Columns:
    """Return all columns; what holds more rows than it says is read no further."""
    names, held = _names(form), 0
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for batch in file.iter_batches(_BATCH, columns=names, use_threads=False):
        held += len(batch)
        if held > rows:
            break
        for name in names:
            if batch.column(name).null_count:
                raise DamagedFile(f"{origin} has missing answers")
            parts[name].append(batch.column(name).to_numpy())
    if held != rows:
        raise DamagedFile(f"{origin} holds other rows than its footer says, the test split has {rows}")
    return {name: np.concatenate(found) for name, found in parts.items()}
