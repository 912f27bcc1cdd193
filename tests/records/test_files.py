"""Files that survive interruption, full disks and strangers' JSON."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmark.errors import DamagedFile, StoreError
from benchmark.records.files import (
    TEMPORARY_PREFIX,
    make_folder,
    publish_folder,
    read_json,
    storage_error,
    temporary_folder,
    write_bytes,
    write_json,
    write_text,
)


def entries(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- reading JSON --------------------------------------------------------------------------------------------------


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    value = {"ρ": [0.1, None, True, -3], "a": {"b": "…"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_text(encoding="utf-8").startswith('{\n "a": {\n  "b": "…"\n }')


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e999]", "1e999 is out of range"),
        (b"[-1e999]", "-1e999 is out of range"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "a key stands twice"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b'{"a": 1} x', "Extra data"),
        (b'["\xff\xfe\xfd"]', "codec can't decode"),
        (b"9" * 5000, "digits"),
    ],
)
def test_json_that_is_none_is_refused_with_its_file_and_the_reason(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(DamagedFile, match=reason) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DamagedFile, match="cannot be read as JSON"):
            read_json(path)


def test_nan_is_never_written(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": 1}


# --- writing -------------------------------------------------------------------------------------------------------


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "a long first text")
    write_text(tmp_path / "x", "short ρ")
    assert (tmp_path / "x").read_bytes() == "short ρ".encode()
    assert entries(tmp_path) == ["x"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(small_disk: Path) -> None:
    write_bytes(small_disk / "x", b"old")
    with pytest.raises(StoreError, match=r"no space left while writing .*/x; free some space"):
        write_bytes(small_disk / "x", bytes(10**6))
    assert (small_disk / "x").read_bytes() == b"old"
    assert entries(small_disk) == ["x"]


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        make_folder(tmp_path / "file")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        write_bytes(tmp_path / "file" / "x", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="vice versa"):
        write_bytes(tmp_path / "folder", b"")
    assert entries(tmp_path) == ["file", "folder"]


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        write_bytes(tmp_path / "none" / "x", b"")


def test_a_name_that_the_system_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        write_bytes(tmp_path / ("x" * 300), b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_output_stream_is_the_same_error(tmp_path: Path) -> None:
    """Writing a folder's file that is /dev/full fails when it is flushed, not when it is opened."""
    with pytest.raises(OSError, match="No space left") as caught, Path("/dev/full").open("wb") as stream:
        stream.write(b"x")
    assert "no space left while writing" in str(storage_error(tmp_path, caught.value))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space"),
            "no space left while writing a/b; free some space and run the same",
        ),
        (OSError(errno.EDQUOT, "Quota"), "disk quota used up while writing a/b; free some space and run the same"),
        (OSError(errno.EROFS, "?"), "cannot write to a/b: Read-only file system; choose another folder"),
        (OSError(errno.ESTALE, "?"), "cannot write a/b: Stale file handle"),
        (OSError("no number"), "cannot write a/b: no number"),
        (ValueError("I/O error: No space left on device (os error 28)"), "no space left while writing a/b; free some"),
        (ValueError("Invalid header"), "cannot write a/b: Invalid header"),
    ],
)
def test_each_reason_why_nothing_can_be_written_is_one_sentence(error: Exception, sentence: str) -> None:
    assert str(storage_error(Path("a/b"), error)).startswith(sentence)


def test_a_reader_beside_a_killed_writer_sees_the_old_or_the_new_file(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"n": 0, "fill": "0" * 4096})
    code = f"""
        from pathlib import Path
        from benchmark.records.files import write_json
        n = 0
        while True:
            n += 1
            write_json(Path({str(target)!r}), {{"n": n, "fill": str(n % 10) * 200_000}})
            print(n, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
        process.wait()
    found = read_json(target)
    assert found["n"] >= 5
    assert set(found["fill"]) == {str(found["n"] % 10)}


# --- publishing ----------------------------------------------------------------------------------------------------


def filled(parent: Path, name: str, text: str) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "f").write_text(text)
    return folder


def test_the_first_publisher_wins_and_the_loser_keeps_its_folder(tmp_path: Path) -> None:
    first, second = filled(tmp_path, "a", "first"), filled(tmp_path, "b", "second")
    target = tmp_path / "out" / "deep" / "entry"
    assert publish_folder(first, target) is True
    assert publish_folder(second, target) is False
    assert (target / "f").read_text() == "first"
    assert (second / "f").read_text() == "second"
    assert not first.exists()


def test_publishing_onto_a_file_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    folder = filled(tmp_path, "a", "x")
    (tmp_path / "target").write_text("a file")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        publish_folder(folder, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "a file"
    assert (folder / "f").read_text() == "x"


def test_a_temporary_folder_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "new") as folder:
        assert folder.name.startswith(TEMPORARY_PREFIX)
        assert str(os.getpid()) in folder.name
        (folder / "f").write_text("x")
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path / "new"):
        json.dumps(1 / 0)
    assert entries(tmp_path / "new") == []


def test_a_temporary_folder_that_was_published_stays_where_it_is(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "f").write_text("x")
        assert publish_folder(folder, tmp_path / "entry")
    assert entries(tmp_path) == ["entry"]
    assert (tmp_path / "entry" / "f").read_text() == "x"
