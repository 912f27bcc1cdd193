"""Listings that ship with the package: names, checksums and free labels of data sets, never their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.errors import DataError


def listing_path(name: str) -> Path:
    """Return the path of a shipped listing."""
    return Path(__file__).with_name("listings_data") / f"{name}.parquet"


def read_listing(name: str, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return the columns of a shipped listing.

    Raises:
        DataError: When the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = listing_path(name)
    try:
        table = pq.read_table(path, columns=list(columns))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"the listing {path.name} of this installation cannot be read: {error}; reinstall it"
        ) from error
    return {column: table.column(column).to_pylist() for column in columns}


def write_listing(name: str, columns: dict[str, Any]) -> Path:
    """Write a listing as compact Parquet; the same columns give the same bytes under one version of Arrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = listing_path(name)
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19, use_dictionary=False)
    return path
