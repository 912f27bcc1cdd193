"""What earlier builds found out saves work and changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import DamagedFile
from benchmark.records.cache import Cache
from leaderboard import answers, pairs, reading, remembered, tables
from leaderboard.build import build_board, collect_board
from leaderboard.load import Problems, brief, find_records
from leaderboard.models import Board
from leaderboard.reading import read_runs
from leaderboard.remembered import BOARD_CACHE, Remembered, pack, unpack


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / BOARD_CACHE


@pytest.fixture
def full(maker, made):
    """A board with ranked rows, earlier stages, a plug-in, a strange run, an unfinished run and a trial."""
    maker.row("erm", 0.4)
    maker.row("group-dro", 0.6, stages={"first": 0.3})
    maker.row("acme/better", 0.62, hparams={"p": 0.1})
    maker.row("acme/other", 0.5, seeds=3, verified=None)
    maker.run("acme/other", 7, status="cancelled")
    maker.run("erm", 6, change=made.as_trial)
    return maker


def board_of(maker, cache: Path | None) -> Board:
    return collect_board([maker.results], verification=maker.verification, cache=cache)


def forbid_reading(monkeypatch):
    for module, name in ((reading, "load_run"), (reading, "read_answers"), (answers, "recorded_manifest")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("something was read"))


def test_a_board_is_the_same_with_and_without_memory_to_the_last_bit(full, file):
    plain, cold, warm = (board_of(full, cache).model_dump_json() for cache in (None, file, file))
    assert cold == plain
    assert warm == plain


def test_what_is_unchanged_is_neither_read_nor_compared(full, file, monkeypatch):
    expected = board_of(full, file)
    forbid_reading(monkeypatch)
    monkeypatch.setattr(tables, "build_table", lambda *_: pytest.fail("a table was built"))
    assert board_of(full, file) == expected


def test_other_code_of_methods_builds_the_tables_again_from_what_is_known(full, file, monkeypatch):
    expected = board_of(full, file)
    forbid_reading(monkeypatch)
    monkeypatch.setattr(pairs, "performance", lambda *_, **__: pytest.fail("something was compared"))
    monkeypatch.setattr(tables, "shown_digest", lambda: "0" * 64)
    built = []
    real = tables.build_table
    monkeypatch.setattr(tables, "build_table", lambda *arguments: built.append(1) or real(*arguments))
    assert board_of(full, file) == expected
    assert len(built) == 3


def test_a_grown_board_is_that_of_all_records(full, file):
    board_of(full, file)
    full.row("acme/new", 0.7)
    full.run("acme/other", 3)
    assert board_of(full, file).model_dump_json() == board_of(full, None).model_dump_json()
    assert board_of(full, file).model_dump_json() == board_of(full, None).model_dump_json()


def test_of_a_new_row_only_its_own_distances_are_computed(full, file, monkeypatch):
    board_of(full, file)
    full.row("acme/new", 0.7)
    asked = []
    real = pairs.squared_distances
    monkeypatch.setattr(pairs, "squared_distances", lambda spreads, other: asked.append(1) or real(spreads, other))
    board_of(full, file)
    assert len(asked) == 3  # once under each rule


def test_a_removed_record_leaves_board_and_memory(full, file):
    board_of(full, file)
    gone = next(path for path in find_records([full.results]) if "other" in str(path))
    gone.unlink()
    full.run("acme/other", 4)
    assert board_of(full, file).model_dump_json() == board_of(full, None).model_dump_json()
    with Cache(file, "runs") as runs:
        assert runs.get([str(gone)]) == {}


@pytest.mark.parametrize("damage", ["no database", "no entry", "cut", "other arrays"])
def test_a_damaged_memory_changes_nothing(full, file, damage):
    expected = board_of(full, file)
    if damage == "no database":
        file.write_bytes(b"\xff" * 10_000)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:50_000])
    else:
        places = [f"colorized-digits@1 0.95 default {rule}" for rule in ("last", "val-average")]
        with Cache(file, "runs") as runs, Cache(file, "arrays") as arrays, Cache(file, "tables") as shown:
            if damage == "no entry":
                runs.put({str(path): b'{"code": 1}' for path in find_records([full.results])})
            arrays.put(dict.fromkeys(places, b"PK"))
            shown.put(dict.fromkeys(places, b'{"basis": 1}'))
    assert board_of(full, file) == expected
    assert board_of(full, file) == expected


def test_predictions_that_change_are_read_and_refused(full, file):
    board_of(full, file)
    victim = next(full.results.rglob("*.parquet"))
    times, content = victim.stat(), bytearray(victim.read_bytes())
    content[200] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DamagedFile, match="is not the file that its record names"):
        board_of(full, file)
    victim.unlink()
    with pytest.raises(DamagedFile, match="is missing"):
        board_of(full, file)


def test_a_record_that_changes_is_read_and_refused(full, file):
    board_of(full, file)
    victim = next(full.results.rglob("record.json"))
    content = json.loads(victim.read_text())
    victim.write_text(json.dumps(content | {"run_id": "0" * 12}))
    with pytest.raises(DamagedFile, match="run_id 000000000000 does not belong"):
        board_of(full, file)


def test_what_is_refused_is_not_remembered(maker, file):
    folder = maker.run("erm", 0)
    content = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(content | {"run_id": "0" * 12}))
    for _ in range(2):
        with pytest.raises(DamagedFile, match="does not belong"):
            board_of(maker, file)


def test_verification_is_asked_in_every_build(maker, file, monkeypatch):
    folders = maker.row("erm", 0.4, verified=None)
    assert board_of(maker, file).tasks[0].rules[0].tables[0].rows[0].verification == "self-reported"
    maker.verify(folders, "maintained")
    forbid_reading(monkeypatch)
    row = board_of(maker, file).tasks[0].rules[0].tables[0].rows[0]
    assert (row.verification, row.rank is not None) == ("maintained", True)


def test_other_code_reads_everything_again(full, file, monkeypatch):
    expected = board_of(full, file)
    read = []
    real = reading.load_run
    monkeypatch.setattr(reading, "load_run", lambda *arguments: read.append(1) or real(*arguments))
    for module in (remembered, reading):
        monkeypatch.setattr(module, "code_digest", lambda: "0" * 64)
    assert board_of(full, file) == expected
    assert len(read) == len(find_records([full.results]))
    assert len(remembered.code_digest()) == 64


def test_answers_to_another_split_are_checked_again(full, file, monkeypatch):
    expected = board_of(full, file)
    read = []
    real = reading.read_answers
    monkeypatch.setattr(reading, "read_answers", lambda *arguments: read.append(1) or real(*arguments))
    monkeypatch.setattr(answers.Split, "identity", "another card")
    assert board_of(full, file) == expected
    assert len(read) == 18


def test_builds_remember_in_the_store_unless_told_not_to(full, own_store, tmp_path):
    targets = [tmp_path / "a.md", tmp_path / "b.md", tmp_path / "c.md"]
    build_board([full.results], targets[0], verification=full.verification, cached=False)
    assert not own_store.exists()
    for target in targets[1:]:
        build_board([full.results], target, verification=full.verification)
    assert (own_store / BOARD_CACHE).is_file()
    assert len({target.read_text() for target in targets}) == 1


def test_a_store_that_cannot_be_written_is_done_without(full, own_store, tmp_path):
    own_store.write_text("a file stands where the folder should be")
    board = build_board([full.results], tmp_path / "a.md", verification=full.verification)
    assert board.model_dump_json() == board_of(full, None).model_dump_json()


def test_records_are_held_in_brief_and_share_what_is_equal(full):
    with Remembered(None) as memory:
        read = read_runs(find_records([full.results]), {}, memory, Problems())
    records = [scored.run.record for scored in read.scored]
    assert all(not each.stages[-1].checkpoints[0].metrics and not each.environment.packages for each in records)
    assert len({id(each.environment) for each in records}) == 1
    assert len({id(each.task) for each in records}) == 5  # one for each draw
    assert all(brief(each) == each for each in records)


def test_booleans_survive_packing():
    for rows in (1, 7, 8, 4242):
        correct = np.random.default_rng(rows).random(rows) < 0.5
        assert (unpack(pack(correct), rows) == correct).all()
