"""The results folder: attempts are numbered, a success is never overwritten, damage is skipped or named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from benchmark.errors import DamagedFile, NewerSchema, StoreError
from benchmark.records.canonical import sha256_file
from benchmark.records.files import temporary_folder
from benchmark.records.results import (
    RECORD_FILE,
    find_success,
    iterate_records,
    publish_run,
    read_record,
    record_text,
    run_folder,
    write_record,
)
from benchmark.records.schema import Record

PREFIX = Path("colorized-digits") / "erm"
FIRST = "0.95-seed0-692d6bce2693"


def publish(results: Path, record: Record) -> Path:
    with temporary_folder(results) as folder:
        (folder / "predictions-real-last.parquet").write_bytes(b"x")
        return publish_run(folder, results, record)


def publish_with_predictions(results: Path, record: Record) -> Path:
    """Publish a record whose predictions files are there and are what it says they are."""
    content = record.model_dump(mode="json")
    with temporary_folder(results) as folder:
        for stage in content["stages"]:
            for checkpoint in stage["checkpoints"]:
                name = checkpoint["predictions"]["file"]
                (folder / name).write_bytes(name.encode())
                checkpoint["predictions"]["sha256"] = sha256_file(folder / name)
        return publish_run(folder, results, Record.model_validate(content))


def failed(record: Record) -> Record:
    return record.model_copy(update={"status": "cancelled"})


def test_a_run_lies_under_task_method_level_seed_and_cell(tmp_path: Path, record: Record) -> None:
    folder = publish(tmp_path, record)
    assert folder == tmp_path / PREFIX / FIRST
    assert sorted(p.name for p in folder.iterdir()) == ["predictions-real-last.parquet", RECORD_FILE]
    assert read_record(folder) == record
    assert sorted(p.name for p in tmp_path.iterdir()) == ["colorized-digits"]


def test_a_plug_in_s_slash_makes_no_folder() -> None:
    assert run_folder("colorized-digits", "their-package/method") == Path("colorized-digits/their-package--method")


def test_attempts_are_numbered_and_earlier_ones_stay(tmp_path: Path, record: Record) -> None:
    folders = [publish(tmp_path, r) for r in (failed(record), record, failed(record))]
    assert [f.name for f in folders] == [FIRST, f"{FIRST}-2", f"{FIRST}-3"]
    assert [read_record(f).run_id for f in folders] == ["692d6bce2693", "692d6bce2693-2", "692d6bce2693-3"]
    assert [read_record(f).status for f in folders] == ["cancelled", "success", "cancelled"]
    assert len({read_record(f).cell_id for f in folders}) == 1


def test_a_success_is_never_overwritten(tmp_path: Path, record: Record) -> None:
    before = (publish(tmp_path, record) / RECORD_FILE).read_bytes()
    for _ in range(3):
        publish(tmp_path, record.model_copy(update={"notes": ["again"]}))
    assert (tmp_path / PREFIX / FIRST / RECORD_FILE).read_bytes() == before
    assert len(list((tmp_path / PREFIX).iterdir())) == 4


def test_a_success_is_found_among_failures(tmp_path: Path, record: Record) -> None:
    assert find_success(tmp_path, record.cell_id, PREFIX) is None
    publish(tmp_path, failed(record))
    assert find_success(tmp_path, record.cell_id, PREFIX) is None
    success = publish_with_predictions(tmp_path, record)
    assert find_success(tmp_path, record.cell_id, PREFIX) == success
    assert find_success(tmp_path, record.cell_id, PREFIX.with_name("ffr")) is None


def test_a_success_without_its_predictions_is_skipped_with_a_warning(
    tmp_path: Path, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    success = publish_with_predictions(tmp_path, record)
    (success / "predictions-real-last.parquet").write_bytes(b"other answers")
    with caplog.at_level(logging.WARNING):
        assert find_success(tmp_path, record.cell_id, PREFIX) is None
    assert "predictions-real-last.parquet is missing or changed" in caplog.text


def test_a_cell_whose_id_only_begins_alike_is_another_cell(tmp_path: Path, record: Record) -> None:
    publish(tmp_path, record)
    assert find_success(tmp_path, record.cell_id[:12] + "0" * 52, PREFIX) is None


def test_a_damaged_record_is_skipped_with_a_warning(
    tmp_path: Path, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (publish_with_predictions(tmp_path, record) for _ in range(2))
    (first / RECORD_FILE).write_text('{"schema_version": "1.0"}')
    with caplog.at_level(logging.WARNING):
        assert find_success(tmp_path, record.cell_id, PREFIX) == second
    assert "does not fit the record schema" in caplog.text
    assert "the run is made again" in caplog.text
    (second / RECORD_FILE).write_text("{")
    assert find_success(tmp_path, record.cell_id, PREFIX) is None
    assert publish(tmp_path, record).name == f"{FIRST}-3"


def test_records_are_read_in_path_order_and_unfinished_ones_left_out(tmp_path: Path, record: Record) -> None:
    folders = [publish(tmp_path, record) for _ in range(2)]
    with temporary_folder(tmp_path) as unfinished:
        write_record(unfinished, record.model_copy(update={"status": "started"}))
        found = list(iterate_records([tmp_path]))
    assert [file.parent for file, _ in found] == folders
    assert [r.status for _, r in iterate_records([folders[1] / RECORD_FILE])] == ["success"]


def test_a_results_folder_that_itself_lies_in_a_temporary_folder_is_read(tmp_path: Path, record: Record) -> None:
    with temporary_folder(tmp_path) as outer:
        publish(outer / "results", record)
        assert len(list(iterate_records([outer / "results"]))) == 1


def test_iterating_names_what_is_missing_or_damaged(tmp_path: Path, record: Record) -> None:
    with pytest.raises(DamagedFile, match="none does not exist"):
        list(iterate_records([tmp_path / "none"]))
    folder = publish(tmp_path, record)
    (folder / RECORD_FILE).write_text(
        json.dumps({**json.loads((folder / RECORD_FILE).read_text()), "schema_version": "2.0"})
    )
    with pytest.raises(NewerSchema, match=r"record\.json has schema 2\.0"):
        list(iterate_records([tmp_path]))


def test_a_full_disk_while_publishing_is_one_sentence_and_leaves_no_record(small_disk: Path, record: Record) -> None:
    results = small_disk / "results"
    publish(results, record)
    (small_disk / "fill").write_bytes(b"")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "fill").write_bytes(bytes(10**6))
    with pytest.raises(StoreError, match="no space left"), temporary_folder(results) as folder:
        publish_run(folder, results, record)
    assert [r.run_id for _, r in iterate_records([results])] == ["692d6bce2693"]
    assert sorted(p.name for p in results.iterdir()) == ["colorized-digits"]


# --- the text ------------------------------------------------------------------------------------------------------


def test_rows_of_numbers_stand_on_one_line(record: Record) -> None:
    lines = [line.strip() for line in record_text(record).splitlines()]
    assert "[36, 36, 36]," in lines or "[37, 37, 37]," in lines or "[35, 35, 35]," in lines
    assert record_text(record).endswith("}\n")
    assert json.loads(record_text(record)) == record.model_dump(mode="json")


@pytest.mark.parametrize("note", ["counts [ 1, 2 ]", "[ 1,  2,\n 3 ]", "[\n 5\n]", "[ null ]", "“ρ” \u2028 é"])
def test_text_that_looks_like_numbers_stays_as_it_is(tmp_path: Path, record: Record, note: str) -> None:
    write_record(tmp_path, record.model_copy(update={"notes": [note]}))
    assert read_record(tmp_path).notes == [note]
