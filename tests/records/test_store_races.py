"""Steps of several processes in the worst order, taken one by one on real files."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import DamagedFile, StoreError
from benchmark.records import store as steps
from benchmark.records.files import ORPHAN_AGE_S, temporary_folder
from benchmark.records.results import iterate_records, publish_run
from benchmark.records.schema import Record
from benchmark.records.store import Store, verify_sealed


def write(text: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "f").write_text(text)

    return build


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", claim_expires_s=0.3)


@pytest.fixture
def claim(store: Store) -> Path:
    """Where a claim is or would be."""
    (store.root / "claims").mkdir()
    return store.root / "claims" / "work.claim"


# --- claims --------------------------------------------------------------------------------------------------------


def test_of_two_waiters_at_one_dead_claim_the_slower_does_not_remove_the_faster_one_s(claim: Path) -> None:
    claim.write_text("a dead process 3\n")
    judged = claim.read_bytes()  # by both
    steps._remove_claim(claim, judged)
    faster = steps._create_claim(claim, "faster")
    assert faster is not None
    with faster:
        steps._remove_claim(claim, judged)
        assert claim.read_text() == "faster 0\n"
        steps._write_claim(faster, "faster", 1)
        assert claim.read_text() == "faster 1\n"
    assert names(claim.parent) == ["work.claim"]


def test_a_claim_that_was_refreshed_since_it_was_judged_stays(claim: Path) -> None:
    stream = steps._create_claim(claim, "slow")
    assert stream is not None
    with stream:
        judged = claim.read_bytes()
        steps._write_claim(stream, "slow", 1)
        steps._remove_claim(claim, judged)
        assert claim.read_text() == "slow 1\n"


def test_a_claim_that_is_gone_is_as_good_as_removed(claim: Path) -> None:
    steps._remove_claim(claim, b"released\n")
    assert names(claim.parent) == []


def test_a_holder_that_lost_its_claim_neither_writes_into_its_successor_s_nor_removes_it(
    store: Store, claim: Path
) -> None:
    with store.claim("work"):
        steps._remove_claim(claim, claim.read_bytes())
        claim.write_text("successor 0\n")
        time.sleep(0.2)  # some heartbeats
        assert claim.read_text() == "successor 0\n"
    assert names(claim.parent) == ["work.claim"]
    assert claim.read_text() == "successor 0\n"


def test_a_reader_never_sees_an_empty_claim_while_it_is_refreshed(claim: Path) -> None:
    stream, done, seen = steps._create_claim(claim, "holder"), threading.Event(), set()
    assert stream is not None

    def read() -> None:
        while not done.is_set():
            seen.add(claim.read_bytes())

    reader = threading.Thread(target=read)
    with stream:
        reader.start()
        for count in range(300):
            steps._write_claim(stream, "holder", count)
        done.set()
        reader.join()
    assert all(content.startswith(b"holder ") and content.endswith(b"\n") for content in seen)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"])
def test_a_claim_that_says_nothing_expires(store: Store, claim: Path, content: bytes) -> None:
    claim.write_bytes(content)
    with store.claim("work"):
        assert claim.read_bytes() != content


def test_a_folder_where_a_claim_should_be_expires(store: Store, claim: Path) -> None:
    claim.mkdir()
    with store.claim("work"):
        assert claim.is_file()


# --- entries -------------------------------------------------------------------------------------------------------


def test_a_sound_entry_that_took_a_damaged_one_s_place_stays(store: Store) -> None:
    folder = store.publish("stages", "abc", write("x"))
    (folder / "f").write_text("y")
    with store.examining(folder):  # while this process looks at the damaged one, another makes it again
        assert Store(store.root).produce("stages", "abc", write("x")) == (folder, True)
        raise DamagedFile("f does not match its digest")
    verify_sealed(folder)
    assert len(names(store.root / "stages")) == 2  # it and the damaged one


def test_an_entry_that_vanishes_while_it_is_examined_is_no_error(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store.publish("stages", "abc", write("x"))
    with store.examining(folder):
        folder.rename(store.root / "elsewhere")
        verify_sealed(folder)
    assert caplog.text == ""
    assert store.load("stages", "abc") is None


@pytest.mark.parametrize("looks", [3, 10_000])
def test_a_loser_waits_until_a_network_folder_shows_the_winner_s_entry(
    store: Store, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    folder = store.publish("stages", "abc", write("x"))
    remaining, load = iter(range(looks)), store.load
    # What no folder here does: the name is taken, and yet the entry is not to be seen for some looks.
    monkeypatch.setattr(store, "load", lambda kind, key: None if next(remaining, None) is not None else load(kind, key))
    monkeypatch.setattr(steps, "_VISIBLE_AFTER_S", 1.0)
    if looks == 3:
        assert store.publish("stages", "abc", write("x")) == folder
    else:
        with pytest.raises(StoreError, match="stages/abc is taken, but cannot be read; run the same command again"):
            store.publish("stages", "abc", write("x"))
    assert names(store.root / "stages") == ["abc"]


def test_files_that_a_network_folder_keeps_for_their_readers_are_no_part_of_an_entry(store: Store) -> None:
    def build(folder: Path) -> None:
        (folder / "f").write_text("x")
        (folder / ".nfs0001").write_text("removed, but open")

    folder = store.publish("stages", "abc", build)
    (folder / ".nfs0001").unlink()
    (folder / ".nfs0002").write_text("another")
    assert store.load("stages", "abc") == folder


def test_a_slow_producer_whose_folder_was_collected_fails_and_publishes_no_half(store: Store) -> None:
    def build(folder: Path) -> None:
        (folder / "f").write_text("x")
        assert Store(store.root).collect_garbage(age_s=0) == 1
        (folder / "g").write_text("y")

    with pytest.raises(StoreError, match="No such file or directory"):
        store.publish("stages", "abc", build)
    assert names(store.root / "stages") == []


def test_garbage_is_collected_while_others_publish(store: Store) -> None:
    done = threading.Event()
    errors: list[Exception] = []

    def publish() -> None:
        k = 0
        while not done.is_set():
            try:
                store.publish("stages", f"{k}", write("x"))
            except Exception as error:
                errors.append(error)
            k += 1

    producer = threading.Thread(target=publish)
    producer.start()
    until = time.monotonic() + 0.7
    try:
        while time.monotonic() < until:
            assert store.collect_garbage() == 0
    finally:
        done.set()
        producer.join()
    assert errors == []
    assert not [name for name in names(store.root / "stages") if name.startswith(".")]


# --- records -------------------------------------------------------------------------------------------------------


def test_processes_that_finish_one_cell_at_once_get_an_attempt_each(tmp_path: Path, record: Record) -> None:
    together = threading.Barrier(4)

    def publish() -> None:
        with temporary_folder(tmp_path) as folder:
            together.wait()
            publish_run(folder, tmp_path, record)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start = record.cell_id[:12]
    found = {file.parent.name: found.run_id for file, found in iterate_records([tmp_path])}
    assert sorted(found.values()) == [start, f"{start}-2", f"{start}-3", f"{start}-4"]
    assert all(folder.endswith(f"seed0-{run_id}") for folder, run_id in found.items())
    assert names(tmp_path) == ["colorized-digits"]


def test_what_killed_runs_left_in_the_results_is_no_record_and_goes_after_a_week(
    tmp_path: Path, record: Record
) -> None:
    long_ago = time.time() - ORPHAN_AGE_S - 60
    for name in (".tmp-1-dead", ".tmp-1-alive", "notes"):
        with temporary_folder(tmp_path) as folder:
            target = publish_run(folder, tmp_path, record)
            shutil.copytree(target, tmp_path / name)
            shutil.rmtree(target)
        if not name.endswith("alive"):
            for path in (*(tmp_path / name).iterdir(), tmp_path / name):
                os.utime(path, (long_ago, long_ago))
    with temporary_folder(tmp_path) as folder:
        publish_run(folder, tmp_path, record)
    assert names(tmp_path) == [".tmp-1-alive", "colorized-digits", "notes"]
    assert len(list(iterate_records([tmp_path]))) == 2
