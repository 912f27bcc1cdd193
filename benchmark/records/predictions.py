"""Predictions as Parquet: arg-max and top probability in the order of the test rows, whose digest is in the footer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedFile

_FOOTER = {"rows_digest": b"genbias.rows_digest", "format": b"genbias.format"}
_FORMAT = b"1"
_MAX_BYTES = 256 * 2**20


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DamagedFile(f"{path} is larger than {_MAX_BYTES // 2**20} MiB; predictions are a few bytes a row")
        with pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
            fields = {field.name: field.type for field in file.schema_arrow}
            n_columns = len(file.schema_arrow)
            labels_fit = fields.get("label") in (pa.uint8(), pa.uint16())
            if (
                n_columns != 2
                or set(fields) != {"label", "top_probability"}
                or not labels_fit
                or fields["top_probability"] != pa.float16()
            ):
                raise DamagedFile(
                    f"{path} has columns {fields}, expected label (uint8 or uint16) and top_probability (float16)"
                )
            if metadata.get(_FOOTER["format"]) != _FORMAT:
                raise DamagedFile(f"{path} does not say format {_FORMAT.decode()} in its footer")
            # The footer counts rows twice, and a stranger's file may disagree with itself.
            held = sum(file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups))
            if file.metadata.num_rows != rows or held != rows:
                raise DamagedFile(f"{path} holds {file.metadata.num_rows} rows, the test split has {rows}")
            table = file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedFile(f"{path} cannot be read as Parquet: {error}") from error
    found = metadata.get(_FOOTER["rows_digest"], b"").decode(errors="replace")
    if found != rows_digest:
        raise DamagedFile(f"{path} answers other test rows (digest {found[:12]!r}, expected {rows_digest[:12]!r})")
    if table.column("label").null_count or table.column("top_probability").null_count:
        raise DamagedFile(f"{path} has missing answers")
    return StoredPredictions(
        table.column("label").to_numpy(), table.column("top_probability").to_numpy().astype(np.float16), found
    )
