"""The local engine with real processes: one per slot, a death takes one job, and nobody outlives the sweep."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_for_tests import PATIENCE_S, act, job, mark, wait_for

from benchmark.errors import InvalidValue
from benchmark.sweep import local
from benchmark.sweep.jobs import Outcome
from benchmark.sweep.local import LocalEngine, Slot, local_slots

ONE = (Slot("cpu", 1),)
Start = Callable[..., LocalEngine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start engines that end with the test."""
    engines: list[LocalEngine] = []

    def begin(*slots: Slot) -> LocalEngine:
        engines.append(LocalEngine(slots or ONE, act))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.stop(now=True)


def outcomes(engine: LocalEngine, place: Path, *whats: str) -> list[Outcome]:
    return [future.result(PATIENCE_S) for future in engine.submit([job(place, what) for what in whats])]


def told(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(outcome.message)
    return found


def test_a_slot_is_a_process_with_its_device_and_threads(start: Start, tmp_path: Path) -> None:
    before = dict(os.environ)
    engine = start(Slot("cuda:7", 3))
    first, second = (told(outcome) for outcome in outcomes(engine, tmp_path, "tell", "tell"))
    assert engine.slots == 1
    assert first == second
    assert (first["threads"], first["device"], first["omp"]) == (3, "cuda:7", "3")
    assert first["pid"] != os.getpid()
    assert first["group"] == first["pid"]
    assert dict(os.environ) == before


def test_slots_work_at_once_and_a_killed_worker_takes_only_its_own_job(start: Start, tmp_path: Path) -> None:
    engine = start(*ONE, *ONE)
    long, killed = engine.submit([job(tmp_path, "wait long"), job(tmp_path, "wait killed")])
    pids = [int(wait_for(tmp_path / f"{name}.begun")) for name in ("long", "killed")]
    os.kill(pids[1], signal.SIGKILL)
    died = killed.result(PATIENCE_S)
    assert (died.status, died.retryable, died.exhausted) == ("error", True, True)
    assert "killed; where the system ran out of memory, use fewer --workers" in died.message
    assert not long.done()
    (after,) = outcomes(engine, tmp_path, "tell")
    assert told(after)["pid"] not in pids
    mark(tmp_path / "long.go")
    assert long.result(PATIENCE_S).status == "success"


def test_an_error_of_any_kind_is_an_outcome_and_the_worker_goes_on(start: Start, tmp_path: Path) -> None:
    engine = start()
    first, raised, unsendable, last = outcomes(engine, tmp_path, "tell", "raise no luck", "unsendable", "tell")
    assert (raised.status, raised.message, raised.retryable) == ("error", "ValueError: no luck", True)
    assert unsendable.status == "error"
    assert told(first)["pid"] == told(last)["pid"]


def test_workers_are_replaced_after_a_while(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_CELLS_PER_PROCESS", 2)
    pids = [told(outcome)["pid"] for outcome in outcomes(start(), tmp_path, "tell", "tell", "tell")]
    assert pids[0] == pids[1] != pids[2]


def test_of_several_idle_workers_the_warm_one_is_taken(start: Start, tmp_path: Path) -> None:
    engine = start(*ONE, *ONE, *ONE)
    assert len({told(outcomes(engine, tmp_path, "tell")[0])["pid"] for _ in range(3)}) == 1


# --- stopping --------------------------------------------------------------------------------------------------------


def test_stopping_lets_what_runs_end_and_cancels_the_rest(start: Start, tmp_path: Path) -> None:
    engine = start()
    futures = engine.submit([job(tmp_path, what) for what in ("wait a", "tell", "tell")])
    pid = int(wait_for(tmp_path / "a.begun"))
    stopping = threading.Thread(target=engine.stop, kwargs={"now": False})
    stopping.start()
    time.sleep(0.2)
    assert not futures[0].done()
    mark(tmp_path / "a.go")
    stopping.join(PATIENCE_S)
    assert [future.result(0).status for future in futures] == ["success", "cancelled", "cancelled"]
    assert [future.result(0).seconds for future in futures[1:]] == [0.0, 0.0]
    assert not alive(pid)


@pytest.mark.slow
def test_stopping_now_interrupts_what_runs_and_keeps_what_it_wrote(start: Start, tmp_path: Path) -> None:
    engine = start()
    futures = engine.submit([job(tmp_path, what) for what in ("interruptible a", "tell")])
    pid = int(wait_for(tmp_path / "a.begun"))
    threading.Timer(0.3, engine.stop, kwargs={"now": True}).start()
    engine.stop(now=False)
    interrupted, waiting = (future.result(0) for future in futures)
    assert (interrupted.status, interrupted.message, waiting.status) == ("cancelled", "interrupted", "cancelled")
    assert interrupted.seconds > 0.0
    assert (tmp_path / "a.kept").exists()
    assert not alive(pid)


def test_stopping_now_also_ends_a_job_whose_worker_is_only_starting(start: Start, tmp_path: Path) -> None:
    engine = start()
    (future,) = engine.submit([job(tmp_path, "wait never")])
    engine.stop(now=True)
    assert future.result(0).status == "cancelled"
    assert not (tmp_path / "never.begun").exists()


def test_a_stopped_engine_takes_no_offence_at_being_stopped_again(start: Start) -> None:
    engine = start()
    for now in (False, True, False):
        engine.stop(now=now)


# --- the process that sweeps -----------------------------------------------------------------------------------------

PROGRAM = """
import signal, sys
from pathlib import Path
from jobs_for_tests import act, job
from benchmark.sweep.local import LocalEngine, Slot

signal.signal(signal.SIGINT, lambda number, frame: None)
place, whats = Path(sys.argv[1]), sys.argv[2:]
engine = LocalEngine([Slot("cpu", 1)] * len(whats), act)
print("ready", flush=True)
for future in engine.submit([job(place, what) for what in whats]):
    print(future.result().status, flush=True)
engine.stop(now=False)
"""


@contextlib.contextmanager
def sweeping(place: Path, *whats: str) -> Iterator[subprocess.Popen[str]]:
    """Run jobs from another process, in a process group of its own."""
    paths = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(place), *whats], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie, which waits for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    with sweeping(tmp_path, "interruptible a", "wait b", "tell") as process:
        pids = [int(wait_for(tmp_path / f"{name}.begun")) for name in ("a", "b")]
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20.0
        while any(map(alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not any(map(alive, pids))
    assert (tmp_path / "a.kept").exists()


def test_ctrl_c_in_the_terminal_reaches_no_worker_from_its_very_start(tmp_path: Path) -> None:
    with sweeping(tmp_path, "wait a") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while not (tmp_path / "a.begun").exists():
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.02)
        pid = int(wait_for(tmp_path / "a.begun"))
        assert os.getpgid(pid) == pid
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        mark(tmp_path / "a.go")
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, "success\n", "")


# --- slots -----------------------------------------------------------------------------------------------------------


def cores() -> int:
    return len(os.sched_getaffinity(0))


def test_on_the_cpu_memory_and_cores_decide_and_threads_are_divided() -> None:
    assert local_slots("cpu", memory=1) == [Slot("cpu", 1)] * cores()
    assert local_slots("cpu", memory=1 << 60) == [Slot("cpu", cores())]
    assert local_slots("cpu", workers=3) == [Slot("cpu", max(1, cores() // 3))] * 3
    assert local_slots("cpu", workers=2, threads=5) == [Slot("cpu", 5)] * 2


def test_each_gpu_has_a_slot_and_more_workers_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_devices", lambda name: ["cuda:0", "cuda:1"])
    assert [slot.device for slot in local_slots()] == ["cuda:0", "cuda:1"]
    assert [slot.device for slot in local_slots(workers=3)] == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.parametrize("options", [{"workers": 0}, {"threads": 0}, {"workers": -1}])
def test_numbers_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidValue, match="make no sense; use 1 or more"):
        local_slots("cpu", **options)


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(InvalidValue, match="'gpu' is no device"):
        local_slots("gpu")
