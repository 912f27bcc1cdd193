"""Stored predictions: exactly two columns, exactly the rows asked for, and nothing a stranger can smuggle in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import DamagedFile
from benchmark.records.predictions import StoredPredictions, read_predictions, write_predictions

DIGEST = "ab" * 32
LABEL = np.array([3, 0, 9, 9, 1], dtype=np.int64)
TOP = np.array([0.5, 1.0, 0.1, 0.3333, 0.75], dtype=np.float16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, StoredPredictions(LABEL, TOP, DIGEST), n_classes=10)
    return path


def write_table(path: Path, columns: dict[str, Any], *, digest: str | None = DIGEST, form: str | None = "1") -> Path:
    metadata = {"genbias.rows_digest": digest, "genbias.format": form}
    table = pa.table(columns).replace_schema_metadata({k: v for k, v in metadata.items() if v is not None})
    pq.write_table(table, path)
    return path


def columns(**changes: Any) -> dict[str, Any]:
    return {"label": pa.array(LABEL.astype(np.uint8)), "top_probability": pa.array(TOP), **changes}


def read(path: Path, rows: int = 5) -> StoredPredictions:
    return read_predictions(path, rows=rows, rows_digest=DIGEST)


def test_what_is_written_reads_back(file: Path) -> None:
    found = read(file)
    np.testing.assert_array_equal(found.label, LABEL)
    np.testing.assert_array_equal(found.top_probability, TOP)
    assert (found.label.dtype, found.top_probability.dtype, found.rows_digest) == (np.uint8, np.float16, DIGEST)


@pytest.mark.parametrize(("n_classes", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_labels_are_as_small_as_the_classes_allow(tmp_path: Path, n_classes: int, dtype: Any) -> None:
    label = np.array([0, n_classes - 1])
    write_predictions(tmp_path / "p", StoredPredictions(label, TOP[:2], DIGEST), n_classes)
    found = read(tmp_path / "p", rows=2)
    assert found.label.dtype == dtype
    assert found.label.tolist() == [0, n_classes - 1]


def test_equal_answers_are_equal_files(file: Path, tmp_path: Path) -> None:
    write_predictions(tmp_path / "again", StoredPredictions(LABEL, TOP, DIGEST), 10)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_a_hundred_thousand_answers_take_a_few_hundred_kilobytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    top = rng.uniform(0.1, 1, 100_000).astype(np.float16)
    write_predictions(tmp_path / "p", StoredPredictions(rng.integers(0, 10, 100_000), top, DIGEST), 10)
    assert (tmp_path / "p").stat().st_size < 320_000
    assert len(read(tmp_path / "p", rows=100_000).label) == 100_000


@pytest.mark.parametrize("rows", [0, 4, 6])
def test_another_number_of_rows_is_refused(file: Path, rows: int) -> None:
    with pytest.raises(DamagedFile, match=f"holds 5 rows, the test split has {rows}"):
        read(file, rows)


def test_answers_to_other_rows_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="answers other test rows"):
        read_predictions(file, rows=5, rows_digest="cd" * 32)
    with pytest.raises(DamagedFile, match="answers other test rows"):
        read(write_table(tmp_path / "p", columns(), digest=None))


@pytest.mark.parametrize("form", [None, "2", ""])
def test_another_format_is_refused(tmp_path: Path, form: str | None) -> None:
    with pytest.raises(DamagedFile, match="does not say format 1"):
        read(write_table(tmp_path / "p", columns(), form=form))


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": pa.array([0] * 5)},
        {"label": pa.array(LABEL)},
        {"label": pa.array(["3", "0", "9", "9", "1"])},
        {"label": pa.array(["3", "0", "9", "9", "1"]).dictionary_encode()},
        {"label": pa.array([[1]] * 5, pa.list_(pa.uint8()))},
        {"top_probability": pa.array(TOP.astype(np.float32))},
        {"top_probability": pa.array(TOP.astype(np.float64))},
    ],
)
def test_an_extra_column_or_another_type_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile, match=r"expected label \(uint8 or uint16\) and top_probability \(float16\)"):
        read(write_table(tmp_path / "p", columns(**changes)))


def test_a_missing_or_doubled_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="expected label"):
        read(write_table(tmp_path / "p", {"label": columns()["label"]}))
    metadata = {"genbias.rows_digest": DIGEST, "genbias.format": "1"}
    label, top = columns().values()
    names = ["label", "label", "top_probability"]
    pq.write_table(pa.table([label, label, top], names=names).replace_schema_metadata(metadata), tmp_path / "q")
    with pytest.raises(DamagedFile, match="expected label"):
        read(tmp_path / "q")


@pytest.mark.parametrize("name", ["label", "top_probability"])
def test_missing_answers_are_refused(tmp_path: Path, name: str) -> None:
    kind = {"label": pa.uint8(), "top_probability": pa.float16()}[name]
    with pytest.raises(DamagedFile, match="has missing answers"):
        read(write_table(tmp_path / "p", columns(**{name: pa.array([None] * 5, kind)})))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1", b"<html>404</html>", bytes(1000), b"PAR1" + bytes(100) + b"PAR1"]
)
def test_garbage_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"p\.parquet cannot be read as Parquet"):
        read(tmp_path / "p.parquet")


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DamagedFile, match="cannot be read as Parquet"):
            read(path)


def test_a_file_cut_anywhere_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            read(tmp_path / "cut")


def test_a_file_with_any_byte_changed_is_read_or_refused_and_never_anything_else(file: Path, tmp_path: Path) -> None:
    whole = bytearray(file.read_bytes())
    refused = 0
    positions = range(0, len(whole), 5)
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 0x55
        (tmp_path / "changed").write_bytes(changed)
        try:
            found = read(tmp_path / "changed")
        except DamagedFile:
            refused += 1
        else:
            assert len(found.label) == len(found.top_probability) == 5
    assert refused > len(positions) / 4
