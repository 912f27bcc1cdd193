"""Verification levels come from one file and are bound to a record's content."""

from __future__ import annotations

import json

import pytest

from benchmark.errors import DamagedFile
from leaderboard.verification import VERIFICATION_FILE, read_verifications, record_digest


def test_the_committed_file_is_valid():
    assert read_verifications(VERIFICATION_FILE).format_version == 1


def test_a_changed_record_loses_its_level(maker):
    folders = maker.row("erm", 0.5)
    file = folders[2] / "record.json"
    content = json.loads(file.read_text())
    content["notes"] = ["a word more"]
    file.write_text(json.dumps(content))
    board = maker.board()
    rows = board.tasks[0].rules[0].tables[0].rows
    assert [(row.verification, row.seeds) for row in rows] == [("maintained", [0, 1, 3, 4]), ("self-reported", [2])]
    assert board.unmatched_verifications == 1


def test_white_space_and_line_ends_do_not_matter(maker):
    folders = maker.row("erm", 0.5)
    for folder in folders:
        file = folder / "record.json"
        file.write_bytes(json.dumps(json.loads(file.read_text()), indent=4).encode().replace(b"\n", b"\r\n"))
    assert maker.rows()["erm"].verification == "maintained"


def test_a_level_in_the_record_itself_means_nothing(maker):
    def boast(content):
        content["verification"] = content["method"]["verification"] = "maintained"

    maker.row("erm", 0.5, verified=None, change=boast)
    assert maker.rows()["erm"].verification == "self-reported"


def test_maintained_needs_the_named_commit_without_changes_and_isolation(maker):
    folder = maker.run("erm", 0, change=lambda content: content["environment"].update(git_dirty=True))
    maker.verify([folder], "maintained")
    with pytest.raises(DamagedFile, match="was run at cccccccccccc with changes; run it again from the clean commit"):
        maker.board()
    maker.entries.clear()
    maker.verify([folder], "maintained", commit="d" * 40)
    with pytest.raises(DamagedFile, match="listed as maintained at commit dddddddddddd but was run at cccccccccccc"):
        maker.board()
    maker.entries.clear()
    open_run = maker.run("erm", 1, change=lambda content: content["isolation"].update(test_split_absent=False))
    maker.verify([open_run], "maintained")
    with pytest.raises(DamagedFile, match="was not run with --isolated"):
        maker.board()


def test_an_entry_of_another_task_or_method_is_refused(maker):
    folders = maker.row("erm", 0.5, verified=None)
    maker.verify(folders, "replayed", method="ffr@1")
    with pytest.raises(DamagedFile, match=r"is erm@1 on \S+, but verification\.json lists it under ffr@1"):
        maker.board()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format_version": 2, "release": 1, "entries": []}, "format_version"),
        ({"format_version": 1, "release": 1, "entries": [], "extra": 1}, "extra"),
        ({"format_version": 1, "release": -1, "entries": []}, "release"),
        ("[]", "file: Input should be"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, content, message):
    path = tmp_path / "verification.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DamagedFile, match=message):
        read_verifications(path)


def test_entries_need_a_commit_and_name_each_record_once(tmp_path):
    entry = {"task": "t@1", "method": "m@1", "level": "maintained", "records": {"0.95-seed0-x": "a" * 64}}
    path = tmp_path / "verification.json"
    path.write_text(json.dumps({"format_version": 1, "release": 1, "entries": [entry]}))
    with pytest.raises(DamagedFile, match="level 'maintained' needs the full commit"):
        read_verifications(path)
    entry |= {"commit": "c" * 40}
    path.write_text(json.dumps({"format_version": 1, "release": 1, "entries": [entry, entry]}))
    with pytest.raises(DamagedFile, match=r"record aaaaaaaaaaaa… stands in the entries twice"):
        read_verifications(path)


def test_text_that_is_not_unicode_has_no_digest():
    with pytest.raises(DamagedFile, match="x holds text that is not Unicode"):
        record_digest({"notes": "\ud800"}, "x")
