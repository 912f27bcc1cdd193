"""Predictions as Parquet: arg-max and top probability in the order of the test rows, whose digest is in the footer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedFile

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_FOOTER = {"rows_digest": b"genbias.rows_digest", "format": b"genbias.format"}
_FORMAT = b"1"
_MAX_BYTES = 256 * 2**20
_BATCH = 65536


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
            "label": pa.array(predictions.label.astype(label_type)),
            "top_probability": pa.array(predictions.top_probability.astype(np.float16)),
        }
    ).replace_schema_metadata({_FOOTER["rows_digest"]: predictions.rows_digest.encode(), _FOOTER["format"]: _FORMAT})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def read_predictions(path: Path, *, rows: int, rows_digest: str) -> StoredPredictions:
    """Read a predictions file, accepting only the exact flat schema and the expected rows.

    Raises:
        DamagedFile: When it is missing, damaged, of another schema, or answers other rows.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DamagedFile(f"{path} is larger than {_MAX_BYTES // 2**20} MiB; predictions are a few bytes a row")
        with path.open("rb") as stream:
            stored = parse_predictions(stream, str(path), rows)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read as Parquet: {error}") from error
    check_rows(stored, str(path), rows_digest)
    return stored


def check_rows(stored: StoredPredictions, origin: str, rows_digest: str) -> None:
    """Refuse answers to other test rows.

    Raises:
        DamagedFile: When the digests differ.
    """
    if stored.rows_digest != rows_digest:
        raise DamagedFile(
            f"{origin} answers other test rows (digest {stored.rows_digest[:12]!r}, expected {rows_digest[:12]!r})"
        )


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(stream) as file:
            _check_layout(file, origin, rows)
            digest = (file.schema_arrow.metadata or {}).get(_FOOTER["rows_digest"], b"").decode(errors="replace")
            label, top = _columns(file, origin, rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedFile(f"{origin} cannot be read as Parquet: {error}") from error
    # Written so that NaN fails too.
    if not bool(((top >= 0) & (top <= 1)).all()):
        raise DamagedFile(f"{origin} has top probabilities outside of 0 to 1")
    return StoredPredictions(label, top, digest)


def _check_layout(file: pq.ParquetFile, origin: str, rows: int) -> None:
    import pyarrow as pa

    fields = {field.name: field.type for field in file.schema_arrow}
    labels_fit = fields.get("label") in (pa.uint8(), pa.uint16())
    if (
        len(file.schema_arrow) != 2
        or set(fields) != {"label", "top_probability"}
        or not labels_fit
        or fields["top_probability"] != pa.float16()
    ):
        raise DamagedFile(
            f"{origin} has columns {fields}, expected label (uint8 or uint16) and top_probability (float16)"
        )
    if (file.schema_arrow.metadata or {}).get(_FOOTER["format"]) != _FORMAT:
        raise DamagedFile(f"{origin} does not say format {_FORMAT.decode()} in its footer")
    # The footer counts rows twice, and a stranger's file may disagree with itself.
    held = sum(file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups))
    if file.metadata.num_rows != rows or held != rows:
        raise DamagedFile(f"{origin} holds {file.metadata.num_rows} rows, the test split has {rows}")


def _columns(file: pq.ParquetFile, origin: str, rows: int) -> tuple[NDArray[np.integer], NDArray[np.float16]]:
    """Return both columns; what holds more rows than it says is read no further."""
    labels, tops, held = [], [], 0
    for batch in file.iter_batches(_BATCH, columns=["label", "top_probability"], use_threads=False):
        held += len(batch)
        if held > rows:
            break
        if batch.column("label").null_count or batch.column("top_probability").null_count:
            raise DamagedFile(f"{origin} has missing answers")
        labels.append(batch.column("label").to_numpy())
        tops.append(batch.column("top_probability").to_numpy().astype(np.float16))
    if held != rows:
        raise DamagedFile(f"{origin} holds other rows than its footer says, the test split has {rows}")
    return np.concatenate(labels), np.concatenate(tops)
