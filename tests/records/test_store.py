"""The store with real processes: published once, never half, and no claim outlives its holder for long."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmark.errors import DamagedFile, StoreError
from benchmark.records.files import read_json
from benchmark.records.store import DIGESTS, Store, seal, verify_sealed

Start = Callable[[str], subprocess.Popen[str]]


def write(text: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "f").write_text(text)

    return build


def untouched(file: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written, and not when it is read."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", claim_expires_s=1.0)


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Start Python code in a process of its own; ``store`` is its store, ``say`` prints a line."""
    running: list[subprocess.Popen[str]] = []
    head = f"""
        import time
        from pathlib import Path
        from benchmark.records.store import Store
        store = Store(Path({str(store.root)!r}), claim_expires_s=1.0)
        def say(text):
            print(text, flush=True)
    """

    def launch(code: str) -> subprocess.Popen[str]:
        text = textwrap.dedent(head) + textwrap.dedent(code)
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield launch
    for process in running:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- one process ---------------------------------------------------------------------------------------------------


def test_an_entry_is_built_once_and_found_again(store: Store) -> None:
    assert store.load("stages", "abc") is None
    folder, built = store.produce("stages", "abc", write("x"))
    assert (built, folder) == (True, store.root / "stages" / "abc")
    again, rebuilt = store.produce("stages", "abc", write("never"))
    assert (again, rebuilt) == (folder, False)
    assert (again / "deep" / "f").read_text() == "x"
    assert names(store.root / "stages") == ["abc"]
    assert names(store.root / "claims") == []


def test_a_later_publisher_gets_the_entry_that_is_there(store: Store) -> None:
    store.publish("stages", "abc", write("first"))
    assert (store.publish("stages", "abc", write("second")) / "deep" / "f").read_text() == "first"
    assert names(store.root / "stages") == ["abc"]


def test_an_entry_lists_the_sha256_of_its_files(store: Store) -> None:
    folder = store.publish("stages", "abc", write("x"))
    sealed = read_json(folder / DIGESTS)
    assert sealed == {
        "format_version": 1,
        "files": {"deep/f": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
    }


def damage(folder: Path, how: str) -> None:
    file = folder / "deep" / "f"
    if how == "changed":
        file.write_text("y")
    elif how == "truncated":
        file.write_text("")
    elif how == "missing":
        file.unlink()
    elif how == "extra":
        (folder / "g").write_text("z")
    elif how == "seal missing":
        (folder / DIGESTS).unlink()
    elif how == "seal damaged":
        (folder / DIGESTS).write_text('{"files": 3}')
    else:
        (folder / DIGESTS).write_text("{")


HOWS = ("changed", "truncated", "missing", "extra", "seal missing", "seal damaged", "seal truncated")


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_entry_is_set_aside_with_a_warning_and_built_again(
    store: Store, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    folder = store.publish("stages", "abc", write("x"))
    damage(folder, how)
    with pytest.raises(DamagedFile):
        verify_sealed(folder)
    with caplog.at_level(logging.WARNING):
        assert store.load("stages", "abc") is None
    assert "is set aside as .damaged-abc-" in caplog.text
    again, built = store.produce("stages", "abc", write("x"))
    assert built
    assert (again / "deep" / "f").read_text() == "x"
    kept = names(store.root / "stages")
    assert kept[1:] == ["abc"]
    assert kept[0].startswith(".damaged-abc-")


def test_a_damaged_winner_s_entry_is_set_aside_for_the_loser_s(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    damage(store.publish("stages", "abc", write("x")), "changed")
    with caplog.at_level(logging.WARNING):
        again = store.publish("stages", "abc", write("x"))
    assert "does not match its digest; it is set aside as .damaged-abc-" in caplog.text
    verify_sealed(again)
    assert (again / "deep" / "f").read_text() == "x"


def test_an_error_while_building_leaves_nothing_and_is_not_remembered(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("the loss is NaN")

    with pytest.raises(ValueError, match="the loss is NaN"):
        store.produce("stages", "abc", fail)
    assert names(store.root / "stages") == []
    assert names(store.root / "claims") == []
    assert store.produce("stages", "abc", write("x"))[1]


def test_a_store_of_another_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Store(tmp_path)
    assert (tmp_path / "format_version").read_text() == "1\n"
    for text in ("2\n", "", "\x00\x01"):
        (tmp_path / "format_version").write_text(text)
        with pytest.raises(StoreError, match="this version reads 1; choose another folder with --store"):
            Store(tmp_path)
    (tmp_path / "format_version").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="this version reads 1"):
        Store(tmp_path)


def test_a_store_where_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        Store(tmp_path / "store")


def test_a_full_disk_while_building_leaves_nothing_half_made(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    store.publish("stages", "small", write("x"))

    def large(folder: Path) -> None:
        (folder / "f").write_bytes(bytes(10**6))

    with pytest.raises(StoreError, match="no space left"):
        store.produce("stages", "large", large)
    assert names(store.root / "stages") == ["small"]
    assert names(store.root / "claims") == []
    verify_sealed(store.path("stages", "small"))
    assert store.produce("stages", "second", write("y"))[1]


def test_a_disk_too_full_for_a_claim_is_one_sentence_too(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    (store.root / "claims").mkdir()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "fill").write_bytes(bytes(10**6))
    with pytest.raises(StoreError, match="no space left"), store.claim("x"):
        pytest.fail("the claim cannot be held")
    assert names(store.root / "claims") == []


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_training_that_no_longer_fits_on_the_disk_is_one_sentence_too(small_disk: Path) -> None:
    """`safetensors` raises an error of its own, which is no OSError."""
    import numpy as np
    from safetensors.numpy import save_file

    store = Store(small_disk / "store")
    with pytest.raises(StoreError, match=r"no space left while writing .*/trained/abc; free some space"):
        store.publish("trained", "abc", lambda folder: save_file({"w": np.zeros(100_000)}, folder / "w.safetensors"))
    assert names(store.root / "trained") == []
    remount(small_disk, "size=4m")
    store.publish("trained", "abc", lambda folder: save_file({"w": np.zeros(100_000)}, folder / "w.safetensors"))


def test_a_read_only_store_gives_what_it_has_and_says_in_a_sentence_that_it_takes_nothing(small_disk: Path) -> None:
    store = Store(small_disk / "store", claim_expires_s=0.3)
    for key in ("whole", "damaged"):
        store.publish("stages", key, write("x"))
    damage(store.path("stages", "damaged"), "changed")
    (store.root / "stages" / ".tmp-1-dead").mkdir()
    (store.root / "claims").mkdir()
    (store.root / "claims" / "stages-claimed.claim").write_text("a dead process 1\n")
    remount(small_disk, "ro")
    try:
        again = Store(small_disk / "store", claim_expires_s=0.3)
        assert again.produce("stages", "whole", write("x")) == (store.path("stages", "whole"), False)
        for key in ("new", "damaged", "claimed"):
            with pytest.raises(StoreError, match=r"cannot write to .*: Read-only file system; choose another"):
                again.produce("stages", key, write("x"))
        assert again.collect_garbage(age_s=0) == 0
        with pytest.raises(StoreError, match="Read-only file system"):
            Store(small_disk / "another")
    finally:
        remount(small_disk, "rw")
    assert names(store.root / "stages") == [".tmp-1-dead", "damaged", "whole"]


def test_a_folder_of_the_store_that_is_a_file_is_one_sentence(store: Store) -> None:
    (store.root / "stages").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        store.publish("stages", "abc", write("x"))
    (store.root / "claims").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"), store.claim("x"):
        pytest.fail("the claim cannot be held")
    (store.root / "format_version").unlink()
    (store.root / "format_version").mkdir()
    with pytest.raises(StoreError, match="format_version: Is a directory"):
        Store(store.root)


LONG_AGO = time.time() - 8 * 86_400


def leave(path: Path, *, folder_at: float, file_at: float | None = None) -> None:
    """Leave a folder with a file, last changed at some time."""
    path.mkdir(parents=True)
    (path / "f").write_text("x")
    if file_at is not None:
        os.utime(path / "f", (file_at, file_at))
    os.utime(path, (folder_at, folder_at))


def test_garbage_is_what_nobody_touched_for_a_week(store: Store) -> None:
    store.publish("stages", "abc", write("x"))
    for name in ("stages/.tmp-1-dead", "stages/.damaged-abc-1", "pools/p/.tmp-1-dead", "stages/.x"):
        leave(store.root / name, folder_at=LONG_AGO, file_at=LONG_AGO)
    leave(store.root / "stages" / ".tmp-1-alive", folder_at=LONG_AGO)
    (store.root / "claims").mkdir()
    for name in (".tmp-format_version-1", "claims/dead.claim", "claims/.tmp-1", "index"):
        (store.root / name).write_text("x")
        os.utime(store.root / name, (LONG_AGO, LONG_AGO))
    with store.claim("alive"):
        assert store.collect_garbage() == 6
        assert names(store.root / "claims") == ["alive.claim"]
    assert names(store.root / "stages") == [".tmp-1-alive", ".x", "abc"]
    assert names(store.root / "pools" / "p") == []
    assert names(store.root) == ["claims", "format_version", "index", "pools", "stages"]


def test_a_machine_whose_clock_is_wrong_removes_nothing_that_is_alive(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: Path) -> None:
        (folder / "f").write_text("x")
        assert Store(store.root).collect_garbage() == 1
        (folder / "g").write_text("y")

    leave(store.root / "stages" / ".tmp-1-dead", folder_at=LONG_AGO, file_at=LONG_AGO)
    leave(store.root / "stages" / ".tmp-1-future", folder_at=time.time() + 10**8)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 365 * 86_400)
    folder = store.publish("stages", "abc", build)
    assert names(folder) == ["digests.json", "f", "g"]
    assert names(store.root / "stages") == [".tmp-1-future", "abc"]


def test_a_seal_covers_hidden_and_nested_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / ".c").write_text("x")
    (tmp_path / "d").write_text("y")
    assert sorted(seal(tmp_path)) == ["a/b/.c", "d"]
    verify_sealed(tmp_path)


# --- several processes ---------------------------------------------------------------------------------------------


def test_two_processes_that_want_the_same_build_it_once(store: Store, start: Start) -> None:
    code = """
        def build(folder):
            (store.root / f"built-by-{__import__('os').getpid()}").write_text("")
            time.sleep(0.8)
            (folder / "f").write_text("x")
        say("ready")
        while not (store.root / "go").exists():
            time.sleep(0.01)
        say(store.produce("stages", "abc", build)[1])
    """
    processes = [start(code) for _ in range(2)]
    assert [line_of(p) for p in processes] == ["ready", "ready"]
    (store.root / "go").write_text("")
    assert sorted(line_of(p) for p in processes) == ["False", "True"]
    assert len(list(store.root.glob("built-by-*"))) == 1
    assert store.load("stages", "abc") is not None
    assert names(store.root / "claims") == []


def test_without_claims_work_is_done_twice_but_published_once(store: Store, start: Start) -> None:
    code = """
        def build(folder):
            (folder / "f").write_text("x")
            say("built")
            while not (store.root / "go").exists():
                time.sleep(0.01)
        store.publish("stages", "abc", build)
        say("published")
    """
    processes = [start(code) for _ in range(2)]
    assert [line_of(p) for p in processes] == ["built", "built"]
    (store.root / "go").write_text("")
    assert [line_of(p) for p in processes] == ["published", "published"]
    assert names(store.root / "stages") == ["abc"]
    assert store.load("stages", "abc") is not None


@pytest.mark.slow
def test_a_living_holder_s_claim_does_not_expire(store: Store, start: Start) -> None:
    code = """
        with store.claim("work"):
            say("held")
            time.sleep(2.5)
            say("done")
    """
    process = start(code)
    assert line_of(process) == "held"
    began = time.monotonic()
    with store.claim("work"):
        waited = time.monotonic() - began
    assert line_of(process) == "done"
    assert waited > 2.0  # twice the expiry: it was refreshed


def test_the_claim_of_a_killed_process_expires(store: Store, start: Start) -> None:
    process = start("""
        with store.claim("stages-abc"):
            say("held")
            time.sleep(600)
    """)
    assert line_of(process) == "held"
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert names(store.root / "claims") == ["stages-abc.claim"]
    began = time.monotonic()
    _, built = store.produce("stages", "abc", write("x"))
    waited = time.monotonic() - began
    assert built
    assert waited >= 1.0
    assert names(store.root / "claims") == []


def test_an_empty_claim_of_a_process_killed_while_claiming_expires_too(store: Store) -> None:
    (store.root / "claims").mkdir()
    (store.root / "claims" / "stages-abc.claim").write_text("")
    assert store.produce("stages", "abc", write("x"))[1]


@pytest.mark.slow
def test_the_file_times_of_a_claim_do_not_matter(store: Store, start: Start) -> None:
    process = start("""
        with store.claim("work"):
            say("held")
            time.sleep(1.5)
            say("done")
    """)
    assert line_of(process) == "held"
    os.utime(store.root / "claims" / "work.claim", (0, 0))
    began = time.monotonic()
    with store.claim("work"):
        assert time.monotonic() - began > 0.9


@pytest.mark.slow
def test_a_stopped_holder_that_goes_on_beside_its_successor_changes_nothing(store: Store, start: Start) -> None:
    process = start("""
        def build(folder):
            (folder / "f").write_text("x")
            say("half")
            while not (store.root / "go").exists():
                time.sleep(0.01)
            (folder / "g").write_text("x")
        say(store.produce("stages", "abc", build))
    """)
    assert line_of(process) == "half"
    os.kill(process.pid, signal.SIGSTOP)

    def build(folder: Path) -> None:
        for name in "fg":
            (folder / name).write_text("x")
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.5)  # both hold the work now; the other's claim would be refreshed in this time

    folder, built = store.produce("stages", "abc", build)
    assert built
    sealed = untouched(folder / DIGESTS)
    with store.claim("stages-abc"):
        claim = (store.root / "claims" / "stages-abc.claim").read_text()
        (store.root / "go").write_text("")
        assert str(folder) in line_of(process)
        assert process.wait() == 0
        assert (store.root / "claims" / "stages-abc.claim").read_text().split()[0] == claim.split()[0]
    assert store.load("stages", "abc") == folder
    assert names(folder) == ["digests.json", "f", "g"]
    assert untouched(folder / DIGESTS) == sealed
    assert names(store.root / "stages") == ["abc"]
    assert names(store.root / "claims") == []


def test_an_interrupted_producer_leaves_neither_its_folder_nor_its_claim(store: Store, start: Start) -> None:
    process = start("""
        def build(folder):
            (folder / "f").write_text("x")
            say("half")
            time.sleep(600)
        try:
            store.produce("stages", "abc", build)
        except KeyboardInterrupt:
            say("interrupted")
    """)
    assert line_of(process) == "half"
    os.kill(process.pid, signal.SIGINT)
    assert line_of(process) == "interrupted"
    assert process.wait() == 0
    assert names(store.root / "stages") == []
    assert names(store.root / "claims") == []


@pytest.mark.parametrize("moment", ["while writing", "before sealing", "after sealing"])
def test_killed_in_the_middle_of_publishing_nothing_looks_finished(store: Store, start: Start, moment: str) -> None:
    process = start(f"""
        from benchmark.records.store import seal
        def build(folder):
            (folder / "f").write_text("x" * 1000)
            if {moment!r} == "while writing":
                (folder / "g").open("w").write("half")
            if {moment!r} == "after sealing":
                seal(folder)
            say("now")
            time.sleep(600)
        store.publish("stages", "abc", build)
    """)
    assert line_of(process) == "now"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = names(store.root / "stages")
    assert left.startswith(".tmp-")
    assert store.load("stages", "abc") is None
    folder, built = store.produce("stages", "abc", write("x"))
    assert built
    verify_sealed(folder)


def test_killed_at_any_moment_what_loads_is_whole(store: Store, start: Start) -> None:
    process = start("""
        def build(folder):
            for k in range(20):
                (folder / str(k)).write_bytes(bytes(20_000))
        say("go")
        k = 0
        while True:
            store.publish("stages", f"{k:04d}", build)
            k += 1
    """)
    assert line_of(process) == "go"
    time.sleep(0.7)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    entries = [p for p in (store.root / "stages").iterdir() if not p.name.startswith(".")]
    assert entries
    for entry in entries:
        folder = store.load("stages", entry.name)
        assert folder is not None
        assert len(names(folder)) == 21


def test_claims_that_are_held_are_told_and_dead_ones_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path, claim_expires_s=20)
    assert store.claimed() == frozenset()
    with store.claim("cell-1"):
        assert store.claimed() == {"cell-1"}
        claim = tmp_path / "claims" / "cell-1.claim"
        past = claim.stat().st_mtime - 60
        os.utime(claim, (past, past))
        assert store.claimed() == frozenset()
    assert store.claimed() == frozenset()
