"""What is kept of accepted runs: compressed records, and the arg-max in place of predictions; nothing else passes."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import DamagedFile
from benchmark.records import results as results_module
from benchmark.records.canonical import sha256_file
from benchmark.records.files import temporary_folder
from benchmark.records.index import summaries
from benchmark.records.kept import FULL_ROWS, answers_file, argmax_file, is_reduced, kept_checkpoints
from benchmark.records.predictions import StoredPredictions, read_argmax, write_argmax, write_predictions
from benchmark.records.results import (
    ACCEPTED_FILE,
    RECORD_FILE,
    accepted_text,
    compressed,
    damaged_predictions,
    find_success,
    publish_run,
    read_record,
    record_bytes,
    record_file,
    record_files,
    records_of,
)
from benchmark.records.schema import Record

PREFIX = Path("colorized-digits") / "erm"
ROWS = 5
LABEL = np.array([3, 0, 9, 9, 1], dtype=np.uint8)
DIGEST, SOURCE = "ab" * 32, "cd" * 32


# --- records -------------------------------------------------------------------------------------------------------


@pytest.fixture
def accepted(tmp_path: Path, record: Record) -> Path:
    """The file of a record as accepted ones lie."""
    file = tmp_path / "run" / ACCEPTED_FILE
    file.parent.mkdir()
    file.write_bytes(compressed(accepted_text(record)))
    return file


def test_a_compressed_record_reads_as_it_was(accepted: Path, record: Record) -> None:
    assert read_record(accepted) == read_record(accepted.parent) == record
    assert record_bytes(accepted).decode() == accepted_text(record)
    assert gzip.decompress(accepted.read_bytes()).decode() == accepted_text(record)


def test_equal_texts_are_equal_bytes_without_a_time_or_a_name(record: Record) -> None:
    data = compressed(accepted_text(record))
    assert data == compressed(accepted_text(record))
    # Method 8, no flags, time 0, best compression, unknown system.
    assert data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    assert len(data) < len(accepted_text(record)) / 2


def test_a_plain_record_beside_a_compressed_one_counts(accepted: Path, record: Record) -> None:
    assert record_file(accepted.parent) == accepted
    assert list(record_files(accepted.parent.parent)) == [accepted]
    plain = accepted.with_name(RECORD_FILE)
    other = record.model_copy(update={"notes": ["the plain one"]})
    plain.write_text(accepted_text(other))
    assert record_file(accepted.parent) == plain
    assert read_record(accepted.parent).notes == ["the plain one"]
    assert list(record_files(accepted.parent.parent)) == records_of(accepted.parent.parent, "r*") == [plain]
    plain.unlink()
    assert records_of(accepted.parent.parent, "r*") == [accepted]
    accepted.unlink()
    assert (record_file(accepted.parent), records_of(accepted.parent.parent, "r*")) == (plain, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-9], "it is cut off"),
        (lambda data: data[: len(data) // 2], "it is cut off"),
        (lambda data: b"", "it is cut off"),
        (lambda data: data + b"x", "something follows its end"),
        (lambda data: data + data, "something follows its end"),
        (lambda data: data[:-5] + b"\0" + data[-4:], "incorrect data check"),
        (gzip.decompress, "incorrect header check"),
        (lambda data: compressed("{"), "cannot be read as JSON"),
        (lambda data: compressed('{"a": 1, "a": 2}'), "a key stands twice"),
        (lambda data: compressed("[]"), "holds no JSON object"),
    ],
)
def test_a_damaged_file_is_one_sentence(accepted: Path, change: Callable[[bytes], bytes], message: str) -> None:
    accepted.write_bytes(change(accepted.read_bytes()))
    with pytest.raises(DamagedFile, match=message) as caught:
        read_record(accepted)
    assert str(accepted) in str(caught.value)


def test_a_bomb_is_read_no_further_than_the_bound(accepted: Path) -> None:
    accepted.write_bytes(compressed("[" + " " * 200_000_000))
    assert accepted.stat().st_size < 300_000
    with pytest.raises(DamagedFile, match=r"record\.json\.gz holds more than 33,554,432 bytes, so it is no record"):
        read_record(accepted)


def test_the_bound_holds_for_plain_and_compressed_bytes_too(accepted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(record_bytes(accepted))
    monkeypatch.setattr(results_module, "MAX_RECORD_BYTES", size)
    assert len(record_bytes(accepted)) == size
    for most in (size - 1, 100):
        monkeypatch.setattr(results_module, "MAX_RECORD_BYTES", most)
        with pytest.raises(DamagedFile, match=f"holds more than {most:,} bytes"):
            record_bytes(accepted)
    accepted.write_bytes(b"{" * 200)
    with pytest.raises(DamagedFile, match="holds more than 100 bytes"):
        record_bytes(accepted)


def test_the_index_reads_compressed_records(tmp_path: Path, record: Record) -> None:
    folder = tmp_path / "results" / PREFIX / "0.95-seed0-692d6bce2693"
    folder.mkdir(parents=True)
    (folder / ACCEPTED_FILE).write_bytes(compressed(accepted_text(record)))
    ((file, summary),), problems = summaries(tmp_path / "results", tmp_path / "index.sqlite")
    assert (file, summary.cell_id, summary.status, problems) == (
        folder / ACCEPTED_FILE, record.cell_id, "success", [],
    )  # fmt: skip
    (folder / ACCEPTED_FILE).write_bytes(b"\x1f\x8b")
    assert [str(each) for each in summaries(tmp_path / "results", None)[1]] == [
        f"{folder / ACCEPTED_FILE} cannot be read as gzip: it is cut off; fetch it again"
    ]


# --- the arg-max ---------------------------------------------------------------------------------------------------


@pytest.fixture
def argmax(tmp_path: Path) -> Path:
    write_argmax(tmp_path / "argmax.parquet", LABEL, rows_digest=DIGEST, sha256=SOURCE)
    return tmp_path / "argmax.parquet"


def read(path: Path, rows: int = ROWS, digest: str = DIGEST, source: str = SOURCE) -> Any:
    return read_argmax(path, rows=rows, rows_digest=digest, sha256=source)


def test_labels_read_back_with_the_same_bytes_each_time(argmax: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(argmax), LABEL)
    assert read(argmax).dtype == np.uint8
    write_argmax(tmp_path / "again", LABEL, rows_digest=DIGEST, sha256=SOURCE)
    assert (tmp_path / "again").read_bytes() == argmax.read_bytes()
    write_argmax(tmp_path / "wide", LABEL.astype(np.uint16) + 300, rows_digest=DIGEST, sha256=SOURCE)
    assert read(tmp_path / "wide").tolist() == [303, 300, 309, 309, 301]


def test_a_hundred_thousand_labels_take_a_fourth_of_their_predictions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(10, 100_000, p=[0.91, *[0.01] * 9]).astype(np.uint8)
    write_argmax(tmp_path / "a", label, rows_digest=DIGEST, sha256=SOURCE)
    top = rng.uniform(0.1, 1, 100_000).astype(np.float16)
    write_predictions(tmp_path / "p", StoredPredictions(label, top, DIGEST), 10)
    assert (tmp_path / "a").stat().st_size < (tmp_path / "p").stat().st_size / 4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rows": 4}, "holds 5 rows, the test split has 4"),
        ({"digest": "ef" * 32}, "answers other test rows"),
        ({"source": "ef" * 32}, "is the arg-max of other predictions than its record names"),
    ],
)
def test_the_arg_max_of_something_else_is_refused(argmax: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedFile, match=message):
        read(argmax, **asked)


def test_predictions_are_no_arg_max_and_the_other_way_round(argmax: Path, tmp_path: Path) -> None:
    write_predictions(tmp_path / "p", StoredPredictions(LABEL, np.full(ROWS, 0.5, np.float16), DIGEST), 10)
    with pytest.raises(DamagedFile, match=r"expected label \(uint8 or uint16\)$"):
        read(tmp_path / "p")
    plain = pa.table({"label": pa.array(LABEL)}).replace_schema_metadata({"genbias.format": "1"})
    pq.write_table(plain, tmp_path / "q")
    with pytest.raises(DamagedFile, match="does not say format argmax-1"):
        read(tmp_path / "q")


def test_a_cut_or_missing_file_is_refused(argmax: Path, tmp_path: Path) -> None:
    whole = argmax.read_bytes()
    for length in range(0, len(whole), 97):
        argmax.write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            read(argmax)
    with pytest.raises(DamagedFile, match="cannot be read as Parquet"):
        read(tmp_path / "none")


# --- runs that keep it ---------------------------------------------------------------------------------------------


def large(record: Record, kind: str = "mitigation", rows: int = FULL_ROWS + 1) -> Record:
    """Return a record of two stages on a large test split, each checkpoint with predictions of its own."""
    content = record.model_dump(mode="json")
    content["task"]["test_rows"], content["method"]["kind"] = rows, kind
    (stage,), content["stages"] = content["stages"], []
    for number in range(2):
        checkpoints = []
        for rule in ("last", "val-average"):
            named = {"file": f"predictions-{number}-{rule}.parquet", "sha256": SOURCE, "rows": ROWS}
            named["rows_digest"] = DIGEST
            checkpoints.append({**stage["checkpoints"][0], "rule": rule, "predictions": named})
        content["stages"].append({**stage, "name": str(number), "checkpoints": checkpoints})
    for part in content["stages"][1:]:
        part["steps"] = 0
    return Record.model_validate(content)


def kept(results: Path, record: Record) -> Path:
    """Publish a run as it lies among the accepted ones."""
    with temporary_folder(results) as folder:
        for checkpoint in kept_checkpoints(record):
            write_argmax(
                folder / argmax_file(checkpoint.predictions), LABEL, rows_digest=DIGEST,
                sha256=checkpoint.predictions.sha256,
            )  # fmt: skip
        target = publish_run(folder, results, record)
    (target / ACCEPTED_FILE).write_bytes(compressed(accepted_text(record)))
    (target / RECORD_FILE).unlink()
    return target


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("mitigation", ["argmax-1-last.parquet", "argmax-1-val-average.parquet"]),
        ("process", ["argmax-0-last.parquet", "argmax-1-last.parquet", "argmax-1-val-average.parquet"]),
    ],
)
def test_the_ranked_stage_is_kept_and_of_a_process_each_generation(
    tmp_path: Path, record: Record, kind: str, files: list[str]
) -> None:
    run = large(record, kind)
    folder = kept(tmp_path, run)
    assert sorted(argmax_file(each.predictions) for each in kept_checkpoints(run)) == files
    assert is_reduced(folder, run)
    assert damaged_predictions(folder, run) == []
    assert find_success(tmp_path, run.cell_id, PREFIX) == folder


def test_a_small_test_split_keeps_its_predictions(tmp_path: Path, record: Record) -> None:
    run = large(record, rows=FULL_ROWS)
    folder = kept(tmp_path, run)
    assert not is_reduced(folder, run)
    assert len(damaged_predictions(folder, run)) == 4
    assert find_success(tmp_path, run.cell_id, PREFIX) is None


@pytest.mark.parametrize("source", ["ef" * 32, ""])
def test_the_arg_max_of_other_predictions_is_no_success(
    tmp_path: Path, record: Record, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    run = large(record)
    folder = kept(tmp_path, run)
    file = folder / "argmax-1-last.parquet"
    write_argmax(file, LABEL, rows_digest=DIGEST, sha256=source)
    assert damaged_predictions(folder, run) == [file.name]
    assert find_success(tmp_path, run.cell_id, PREFIX) is None
    assert "argmax-1-last.parquet is missing or changed; the run is made again" in caplog.text


def test_without_one_of_its_files_it_is_a_run_that_lost_its_predictions(tmp_path: Path, record: Record) -> None:
    run = large(record)
    folder = kept(tmp_path, run)
    (folder / "argmax-1-val-average.parquet").unlink()
    assert not is_reduced(folder, run)
    assert find_success(tmp_path, run.cell_id, PREFIX) is None


def test_predictions_beside_the_arg_max_are_read_in_its_place(tmp_path: Path, record: Record) -> None:
    content = large(record).model_dump(mode="json")
    whole = tmp_path / "whole.parquet"
    write_predictions(whole, StoredPredictions(LABEL, np.full(ROWS, 0.5, np.float16), DIGEST), 10)
    named = content["stages"][1]["checkpoints"][0]["predictions"]
    named["sha256"] = sha256_file(whole)
    run = Record.model_validate(content)
    folder = kept(tmp_path / "results", run)
    first, second = (each.predictions for each in run.stages[1].checkpoints)
    assert answers_file(folder, run, first) == folder / "argmax-1-last.parquet"
    assert answers_file(folder, run, run.stages[0].checkpoints[0].predictions) is None
    whole.rename(folder / named["file"])
    assert answers_file(folder, run, first) == folder / named["file"]
    assert answers_file(folder, run, second) == folder / "argmax-1-val-average.parquet"
    assert damaged_predictions(folder, run) == []
    (folder / named["file"]).write_bytes(b"other answers")
    assert damaged_predictions(folder, run) == [named["file"]]
