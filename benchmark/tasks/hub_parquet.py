"""Data sets as the Hub serves them: Parquet files with a column of encoded images and columns of labels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DataError

_BATCH = 256
_MOST_ROWS = 1_000_000
"""In one file, far above any data set here: a megabyte of Parquet can say that it holds a hundred million."""


def hub_files_present(folder: Path, names: Iterable[str]) -> bool:
    """Return whether every Parquet file lies below a folder under its name in the repository."""
    return all((folder / name).is_file() for name in names)


@dataclass(frozen=True)
class HubSplit:
    """One split: its label columns in memory, its images behind an iterator.

    Attributes:
        files: The Parquet files in order.
        image: Name of the column of images.
        rows: Number of rows.
        values: Label columns.
    """

    files: tuple[Path, ...]
    image: str
    rows: int
    values: dict[str, list[Any]]

    def images(self) -> Iterator[bytes]:
        """Yield the encoded images in order, a bounded number in memory."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self.files:
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(_BATCH, columns=[self.image]):
                        for cell in batch.column(0).to_pylist():
                            yield _bytes(cell, path)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise DataError(f"{path.name} cannot be read as Parquet ({error}); get it again") from error

    @staticmethod
    def pixels(content: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Decode a grey image of a known shape without loss.

        Raises:
            DataError: When it is another image.
        """
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                found = image.height, image.width
                if found == shape:
                    return np.asarray(image.convert("L"))
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise DataError(f"an image of the Parquet file cannot be decoded ({error}); get it again") from error
        raise DataError(f"an image of the Parquet file has shape {found}, expected {shape}")


def _bytes(cell: Any, path: Path) -> bytes:
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise DataError(f"{path.name} holds a row without an image")
    return content


def hub_split(files: Sequence[Path], *, image: str, columns: Sequence[str]) -> HubSplit:
    """Open one split.

    Args:
        files: Its Parquet files in order.
        image: Column of images, each a struct with ``bytes``.
        columns: Label columns to read.

    Raises:
        DataError: When a file is damaged or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    values: dict[str, list[Any]] = {name: [] for name in columns}
    rows = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                names = set(file.schema_arrow.names)
                if absent := sorted({image, *columns} - names):
                    raise DataError(f"{path.name} has no column {absent[0]!r}; it has {', '.join(sorted(names))}")
                if (count := file.metadata.num_rows) > _MOST_ROWS:
                    raise DataError(
                        f"{path.name} says that it holds {count:,} rows; it is not the original, get it again"
                    )
                table = file.read(columns=list(columns))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{path.name} cannot be read as Parquet ({error}); get it again") from error
        rows += table.num_rows
        for name in columns:
            column = table.column(name)
            if column.null_count:
                raise DataError(f"{path.name} holds {column.null_count:,} row(s) without {name}; get it again")
            values[name] += column.to_pylist()
    return HubSplit(tuple(files), image, rows, values)
