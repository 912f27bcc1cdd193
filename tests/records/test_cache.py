"""Remembered results: shared, bounded, and never an error."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from benchmark.records import cache as module
from benchmark.records.cache import Cache, fingerprint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store" / "cache.sqlite"


def test_values_come_back_by_key_and_table(file):
    with Cache(file, "first") as first, Cache(file, "second") as second:
        first.put({"a": b"1", "b": b"2"})
        second.put({"a": b"3"})
        first.put({"b": b"4"})
    with Cache(file, "first") as first, Cache(file, "second") as second:
        assert first.get(["b", "a", "c"]) == {"a": b"1", "b": b"4"}
        assert second.get(["a"]) == {"a": b"3"}


def test_more_keys_than_one_query_takes(file):
    values = {f"key {k}": bytes([k % 256]) for k in range(1234)}
    with Cache(file, "values") as cache:
        cache.put(values)
        assert cache.get(values) == values


def test_names_of_files_need_not_be_unicode(file):
    name = os.fsdecode(b"caf\xe9")
    with Cache(file, "values") as cache:
        cache.put({name: b"1"})
        assert cache.get([name]) == {name: b"1"}


def test_without_a_file_nothing_is_remembered():
    with Cache(None, "values") as cache:
        cache.put({"a": b"1"})
        cache.forget(lambda key: True)
        assert cache.get(["a"]) == {}


def test_forgetting(file):
    with Cache(file, "values") as cache:
        cache.put({"a": b"1", "b": b"2"})
        cache.forget(lambda key: key == "a")
        assert cache.get(["a", "b"]) == {"b": b"2"}


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_made_again(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    with Cache(file, "values") as cache:
        assert cache.get(["a"]) == {}
        cache.put({"a": b"1"})
        assert cache.get(["a"]) == {"a": b"1"}


def test_damage_inside_the_file_loses_values_and_nothing_else(file):
    values = {f"key {k}": bytes([k % 256]) * 500 for k in range(300)}
    with Cache(file, "values") as cache:
        cache.put(values)
    content = bytearray(file.read_bytes())
    content[8192:40960] = bytes(32768)
    file.write_bytes(content)
    with Cache(file, "values") as cache:
        found = cache.get(values)
        assert found.items() <= values.items()
        assert len(found) < len(values)
        cache.put(values)
    with Cache(file, "values") as cache:
        cache.put(values)
        assert cache.get(values) == values


def test_a_value_with_another_checksum_counts_as_absent(file):
    with Cache(file, "values") as cache:
        cache.put({"a": b"1", "b": b"2"})
    with sqlite3.connect(file) as connection:
        connection.execute('UPDATE "values" SET value = ? WHERE key = ?', (b"9", b"a"))
    connection.close()
    with Cache(file, "values") as cache:
        assert cache.get(["a", "b"]) == {"b": b"2"}


def test_a_table_of_another_layout_is_left_alone(file):
    file.parent.mkdir()
    with sqlite3.connect(file) as connection:
        connection.execute('CREATE TABLE "values" (other TEXT)')
    connection.close()
    with Cache(file, "values") as cache:
        cache.put({"a": b"1"})
        assert cache.get(["a"]) == {}


def test_a_locked_file_is_done_without(file, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_S", 0.01)
    with Cache(file, "values") as cache:
        cache.put({"a": b"1"})
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with Cache(file, "values") as cache:
        cache.put({"b": b"2"})
        assert cache.get(["a"]) == {}
    other.close()
    with Cache(file, "values") as cache:
        assert cache.get(["a", "b"]) == {"a": b"1"}


def test_a_place_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "store").write_text("a file stands where the folder should be")
    with Cache(tmp_path / "store" / "cache.sqlite", "values") as cache:
        cache.put({"a": b"1"})
        assert cache.get(["a"]) == {}


def test_a_full_disk_is_done_without(small_disk):
    with Cache(small_disk / "cache.sqlite", "values") as cache:
        cache.put({"small": b"1"})
        cache.put({"large": bytes(2**20)})
        assert cache.get(["small", "large"]) == {"small": b"1"}


def test_a_fingerprint_moves_with_content_whatever_its_times_say(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert fingerprint(before) != fingerprint(after)
