"""Many records in short: what is unchanged is not read again, and nothing damaged stops the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import DamagedFile, NewerSchema
from benchmark.records import index
from benchmark.records.files import write_json
from benchmark.records.index import INDEX_FILE, summaries, unversioned


@pytest.fixture
def results(tmp_path: Path, content: dict[str, Any]) -> Path:
    """Three records: a success, an error and a trial."""
    write(tmp_path / "results" / "a" / "success", content)
    failure = {"kind": "TrainingDiverged", "message": "the loss is NaN", "traceback": []}
    write(tmp_path / "results" / "b" / "error", content | {"status": "error", "failure": failure, "cost": None})
    write(tmp_path / "results" / "b" / "trial", content | {"kind": "trial", "status": "cancelled", "stages": []})
    return tmp_path / "results"


def write(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "record.json", content)


def names(found):
    return [file.parent.name for file, _ in found]


def test_a_summary_says_what_the_record_says(results, content, record):
    found, problems = summaries(results, None)
    assert (names(found), problems) == (["success", "error", "trial"], [])
    success, error, trial = (summary for _, summary in found)
    assert (success.cell_id, success.run_id, success.status) == (record.cell_id, record.run_id, "success")
    assert (success.task, success.method) == (record.cell.task, record.cell.method)
    assert (success.level, success.recipe, success.seed) == (record.task.level, "default", record.seed)
    assert (success.method_digest, success.card_digest) == (record.method.source_digest, record.task.card_digest)
    assert (success.isolated, success.device_kind) == (
        record.isolation.separate_process, record.environment.device_kind,
    )  # fmt: skip
    assert (success.wall_seconds, success.sampled) == (record.cost.wall_seconds, record.budget.sampled)
    assert (success.failure_kind, success.failure_message) == (None, None)
    assert (error.status, error.failure_kind, error.failure_message) == ("error", "TrainingDiverged", "the loss is NaN")
    assert (error.wall_seconds, error.peak_memory_bytes) == (None, None)
    assert (success.kind, trial.kind) == ("run", "trial")


def test_a_skipped_run_says_why(tmp_path, content):
    write(tmp_path / "run", content | {"status": "skipped", "skipped_because": "no generator is allowed"})
    (found,), _ = summaries(tmp_path, None)
    assert (found[1].status, found[1].failure_message) == ("skipped", "no generator is allowed")


def test_a_folder_that_does_not_exist_holds_no_records(tmp_path):
    assert summaries(tmp_path / "nowhere", tmp_path / INDEX_FILE) == ([], [])


def test_what_is_being_written_is_not_there_yet(results, content):
    write(results / "a" / ".tmp-123-abc", content)
    assert names(summaries(results, None)[0]) == ["success", "error", "trial"]


def test_an_unchanged_record_is_not_read_again(results, tmp_path, monkeypatch):
    first = summaries(results, tmp_path / INDEX_FILE)
    monkeypatch.setattr(index, "summarise", lambda *_: pytest.fail("it was read"))
    assert summaries(results, tmp_path / INDEX_FILE) == first


def test_a_changed_a_new_and_a_removed_record_are_seen(results, tmp_path, content):
    summaries(results, tmp_path / INDEX_FILE)
    write_json(results / "a" / "success" / "record.json", content | {"started": "2020-01-01T00:00:00+00:00"})
    write(results / "c" / "new", content)
    (results / "b" / "trial" / "record.json").unlink()
    found, problems = summaries(results, tmp_path / INDEX_FILE)
    assert (names(found), problems) == (["success", "error", "new"], [])
    assert found[0][1].started == "2020-01-01T00:00:00+00:00"
    assert summaries(results, tmp_path / INDEX_FILE) == summaries(results, None)


def test_two_results_folders_share_one_index(results, tmp_path, content, monkeypatch):
    write(tmp_path / "other" / "run", content)
    both = [summaries(folder, tmp_path / INDEX_FILE) for folder in (results, tmp_path / "other")]
    monkeypatch.setattr(index, "summarise", lambda *_: pytest.fail("it was read"))
    assert [summaries(folder, tmp_path / INDEX_FILE) for folder in (results, tmp_path / "other")] == both


@pytest.mark.parametrize("damage", ["no database", "[1, 2]", "[[0, 0, 0, 0], {}]", "nothing"])
def test_a_damaged_index_changes_nothing(results, tmp_path, damage):
    expected = summaries(results, tmp_path / INDEX_FILE)
    if damage == "no database":
        (tmp_path / INDEX_FILE).write_bytes(b"\xff" * 5000)
    else:
        with index.Cache(tmp_path / INDEX_FILE, index._TABLE) as cache:
            cache.put({str(file): damage.encode() for file, _ in expected[0]})
    assert summaries(results, tmp_path / INDEX_FILE) == expected
    assert summaries(results, tmp_path / INDEX_FILE) == expected


def test_damaged_and_newer_records_are_named_and_the_others_found(results, content):
    write(results / "c" / "newer", content | {"schema_version": "99.0"})
    write(results / "d" / "odd", content | {"seed": "zero"})
    write(results / "e" / "cut", content)
    cut = results / "e" / "cut" / "record.json"
    cut.write_text(cut.read_text()[:100])
    (results / "f").mkdir()
    (results / "f" / "record.json").symlink_to(results / "a" / "success" / "record.json")
    (results / "g" / "record.json").mkdir(parents=True)
    found, problems = summaries(results, None)
    assert names(found) == ["success", "error", "trial"]
    assert [type(problem) for problem in problems] == [NewerSchema, *[DamagedFile] * 4]
    said = [str(problem) for problem in problems]
    assert "has schema 99.0" in said[0]
    assert "does not fit the record schema: seed" in said[1]
    assert "cannot be read as JSON" in said[2]
    assert all("is no plain file" in text for text in said[3:])


def test_the_unversioned_cell_stays_when_versions_move(record):
    cell = record.cell
    moved = cell.model_copy(
        update={"task": cell.task.partition("@")[0] + "@9", "method": cell.method.partition("@")[0] + "@9"}
        | {"split_digest": "0" * 64, "budget": {}, "training": {}, "schema_major": 9}
    )
    assert unversioned(moved) == unversioned(cell)
    for change in ({"seed": 77}, {"level": "0.5"}, {"hparams": {"p": 1}}, {"method": "other@1"}, {"generator": {}}):
        assert unversioned(cell.model_copy(update=change)) != unversioned(cell)


def test_neither_torch_nor_numpy_is_imported(results, tmp_path):
    code = (
        "import json, sys; from pathlib import Path; from benchmark.records.index import summaries; "
        f"found, _ = summaries(Path({str(results)!r}), Path({str(tmp_path / INDEX_FILE)!r})); "
        "print(json.dumps([len(found), sorted({'torch', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [3, []]
