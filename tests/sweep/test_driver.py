"""The sweep itself: what waits for what, what is tried again, how it is stopped, and what it leaves."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jobs_for_tests import PATIENCE_S, act, die, mark, wait_for
from records_for_tests import publish, record_of

from benchmark.errors import StoreError
from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.records.results import iterate_records
from benchmark.sweep.driver import Event, Settings, Stop, Summary, Sweep
from benchmark.sweep.jobs import Engine, Job, Outcome
from benchmark.sweep.local import LocalEngine, Slot
from benchmark.sweep.needs import Need
from benchmark.sweep.planner import Piece, Plan, PlannedCell, State, make_plan

SUCCESS = Outcome("success", 1.0)
LUCKLESS = Outcome("error", 1.0, message="out of luck", retryable=True)
WRONG = Outcome("error", 1.0, message="wrong usage")
EXHAUSTED = Outcome("error", 1.0, message="out of memory", retryable=True, exhausted=True)
CANCELLED = Outcome("cancelled", 1.0, message="interrupted", retryable=True)
SKIPPED = Outcome("skipped", 1.0, message="does not apply")


class Threads:
    """An engine of threads in which every job ends as its script says; it remembers what began and ended, in order."""

    def __init__(self, slots: int = 2, script: dict[str, list[Outcome]] | None = None) -> None:
        self.slots = slots
        self.jobs: list[Job] = []
        self.log: list[str] = []
        self.holds: dict[str, threading.Event] = defaultdict(threading.Event)
        self.held: set[str] = set()
        self.stops: list[bool] = []
        self._script = script or {}
        self._pool = ThreadPoolExecutor(slots)

    def submit(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        self.jobs += jobs
        return [self._pool.submit(self._do, job) for job in jobs]

    def stop(self, *, now: bool) -> None:
        self.stops.append(now)
        self._pool.shutdown(wait=True)

    def _do(self, job: Job) -> Outcome:
        name = f"{job.kind} {job.request.method}"
        self.log.append(f"+{name}")
        if name in self.held:
            assert self.holds[name].wait(PATIENCE_S)
        outcomes = self._script.get(name, [SUCCESS])
        self.log.append(f"-{name}")
        return outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]


class Events:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def on(self, event: Event) -> None:
        self.seen.append(event)

    def of(self, cell: int, kind: str = "evaluate") -> list[str]:
        return [event.what for event in self.seen if (event.cell, event.kind) == (cell, kind)]


def plan_of(*names: str, pools: dict[str, str] | None = None, states: dict[str, State] | None = None) -> Plan:
    """A plan of cells whose methods are names; ``pools`` says which needs an image of which pool."""
    pools, states = pools or {}, states or {}
    cells = []
    for name in names:
        needs = (Need("pool", pools[name], "", {(0, 0): 1}),) if name in pools else ()
        cells.append(PlannedCell(Request(name), name, states.get(name, "missing"), needs=needs))
    users = {key: tuple(i for i, name in enumerate(names) if pools.get(name) == key) for key in pools.values()}
    return Plan(cells, [Piece("pool", key, "", 1, positions) for key, positions in users.items() if len(positions) > 1])


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Summary]:
    """Run a sweep in a folder of the test's own."""

    def run(
        plan: Plan, engine: Engine, *, events: Events | None = None, stop: Stop | None = None, **settings: Any
    ) -> Summary:
        where = Settings(**{"results": tmp_path / "results", "store": tmp_path / "store"} | settings)
        return Sweep(plan, engine, where, events or Events(), stop or Stop()).run()

    return run


Run = Callable[..., Summary]


def before(log: list[str], first: str, second: str) -> bool:
    return log.index(first) < log.index(second)


# --- what waits for what ---------------------------------------------------------------------------------------------


def test_every_open_cell_runs_once_and_no_other_but_what_runs_elsewhere_last(sweep: Run) -> None:
    engine, events = Threads(slots=1), Events()
    states: dict[str, State] = {"a": "running", "b": "done", "c": "error", "d": "stale", "f": "blocked", "g": "skipped"}
    summary = sweep(plan_of(*"abcdefg", states=states), engine, events=events)
    assert [job.request.method for job in engine.jobs] == ["c", "e", "a"]
    assert (summary.counts, summary.failed, summary.not_begun) == ({"success": 3}, [], [])
    assert summary.tries == {0: 1, 2: 1, 4: 1}
    assert events.of(0) == events.of(2) == ["queued", "ended"]
    assert engine.stops == [False]
    assert summary.seconds > 0


def test_jobs_say_how_to_run_and_stale_cells_are_forced_when_they_are_asked_for(sweep: Run, tmp_path: Path) -> None:
    engine = Threads()
    plan = plan_of("a", "b", states={"b": "stale"})
    sweep(plan, engine, stale=True, device="cuda", threads=3, isolated=True)
    jobs = {job.request.method: job for job in engine.jobs}
    assert jobs["a"] == Job(
        "evaluate", Request("a"), tmp_path / "results", tmp_path / "store", "cuda", 3, isolated=True, force=False
    )
    assert jobs["b"].force


def test_shared_parts_are_made_once_before_their_users_while_others_run(sweep: Run) -> None:
    engine, events = Threads(slots=4), Events()
    engine.held = {"produce x"}
    plan = plan_of("x", "y", "z", "alone", pools=dict.fromkeys("xyz", "pool"))
    threading.Timer(0.5, engine.holds["produce x"].set).start()
    summary = sweep(plan, engine, events=events)
    assert [job.request.method for job in engine.jobs if job.kind == "produce"] == ["x"]
    assert before(engine.log, "-evaluate alone", "-produce x")
    assert all(before(engine.log, "-produce x", f"+evaluate {name}") for name in "xyz")
    assert summary.counts == {"success": 4}
    assert events.of(0, "produce") == ["queued", "ended"]
    assert set(summary.outcomes) == {0, 1, 2, 3}


def test_users_begin_as_soon_as_their_own_part_is_there(sweep: Run) -> None:
    engine = Threads(slots=4)
    engine.held = {"produce c"}
    plan = plan_of(*"abcd", pools={"a": "first", "b": "first", "c": "second", "d": "second"})
    waiting = threading.Thread(target=sweep, args=(plan, engine))
    waiting.start()
    while {"-evaluate a", "-evaluate b"} - set(engine.log):
        time.sleep(0.01)
    assert "-produce c" not in engine.log
    engine.holds["produce c"].set()
    waiting.join(PATIENCE_S)
    assert all(before(engine.log, "-produce c", f"+evaluate {name}") for name in "cd")


@pytest.mark.parametrize("outcome", [LUCKLESS, WRONG, EXHAUSTED, CANCELLED])
def test_a_producer_that_fails_does_not_stop_its_users(sweep: Run, outcome: Outcome) -> None:
    engine = Threads(script={"produce a": [outcome]})
    summary = sweep(plan_of("a", "b", pools={"a": "pool", "b": "pool"}), engine)
    assert (summary.counts, summary.failed) == ({"success": 2}, [])
    assert [job.kind for job in engine.jobs] == ["produce", "evaluate", "evaluate"]


def test_nothing_to_do_is_done_at_once(sweep: Run) -> None:
    engine = Threads()
    summary = sweep(plan_of("a", states={"a": "done"}), engine)
    assert (engine.jobs, summary.outcomes, engine.stops) == ([], {}, [False])


# --- trying again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "retries", "tries", "last"),
    [
        ([LUCKLESS, SUCCESS], 1, 2, "success"),
        ([LUCKLESS], 1, 2, "error"),
        ([LUCKLESS], 3, 4, "error"),
        ([LUCKLESS, SUCCESS], 0, 1, "error"),
        ([WRONG, SUCCESS], 5, 1, "error"),
        ([SKIPPED, SUCCESS], 5, 1, "skipped"),
        ([CANCELLED, SUCCESS], 1, 2, "success"),
        ([CANCELLED], 1, 2, "cancelled"),
        ([EXHAUSTED, SUCCESS], 1, 2, "success"),
        ([EXHAUSTED], 2, 3, "error"),
    ],
)
def test_only_what_may_end_otherwise_is_tried_again_and_not_too_often(
    sweep: Run, script: list[Outcome], retries: int, tries: int, last: str
) -> None:
    engine, events = Threads(script={"evaluate a": script}), Events()
    summary = sweep(plan_of("a", "b"), engine, events=events, retries=retries)
    assert (summary.outcomes[0].status, summary.tries[0]) == (last, tries)
    assert summary.failed == ([0] if last in ("error", "cancelled") else [])
    assert events.of(0) == [*["queued", "retry"] * (tries - 1), "queued", "ended"]
    assert summary.tries[1] == 1


def test_what_ran_out_of_memory_runs_again_alone_when_all_others_are_done(sweep: Run) -> None:
    script = {"evaluate a": [EXHAUSTED, SUCCESS], "evaluate b": [EXHAUSTED, SUCCESS]}
    engine = Threads(slots=3, script=script)
    summary = sweep(plan_of("a", "b", "c", "d", "e", pools={"d": "pool", "e": "pool"}), engine)
    assert summary.counts == {"success": 5}
    assert engine.log[-4:] in (
        ["+evaluate a", "-evaluate a", "+evaluate b", "-evaluate b"],
        ["+evaluate b", "-evaluate b", "+evaluate a", "-evaluate a"],
    )


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_killed_worker_leaves_a_failure_that_a_plan_finds(sweep: Run, tmp_path: Path) -> None:
    request = Request("erm", level="0.9")
    places = {"results": tmp_path / "results", "store": tmp_path / "store"}
    for _ in range(2):  # the second sweep finds the first one's
        engine = LocalEngine([Slot("cpu", 1)], die)
        summary = sweep(make_plan([request], **places), engine, device="cpu", threads=1, retries=0)
        assert (summary.failed, summary.tries[0]) == ([0], 1)
        ((_, record),) = iterate_records([places["results"]])
        assert (record.status, record.cell_id) == ("error", resolve_cell(request).cell_id)
        assert record.failure is not None
        assert record.failure.kind == "RunEnded"
        assert "worker process was killed" in record.failure.message
        assert record.environment.threads == 1
        (cell,) = make_plan([request], **places).cells
        assert (cell.state, cell.why) == ("error", f"RunEnded: {record.failure.message}")


def test_a_failure_that_its_worker_recorded_is_not_recorded_twice(sweep: Run, tmp_path: Path) -> None:
    cell = resolve_cell(Request("erm"))

    class Recording(Threads):
        def _do(self, job: Job) -> Outcome:
            publish(tmp_path / "results", record_of(cell, "error", message="the loss is NaN"))
            return WRONG

    plan = make_plan([cell.request], results=tmp_path / "results", store=tmp_path / "store")
    sweep(plan, Recording())
    ((_, record),) = iterate_records([tmp_path / "results"])
    assert record.failure is not None
    assert record.failure.message == "the loss is NaN"


def test_a_failure_of_what_cannot_be_resolved_is_only_reported(sweep: Run, tmp_path: Path) -> None:
    summary = sweep(plan_of("no such method"), Threads(script={"evaluate no such method": [WRONG]}))
    assert summary.failed == [0]
    assert list(iterate_records([tmp_path / "results"])) == []


@pytest.mark.parametrize("name", ["results", "store"])
def test_a_folder_that_cannot_be_written_ends_a_sweep_before_it_begins(sweep: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    engine = Threads()
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        sweep(plan_of("a"), engine, **{name: tmp_path / "file"})
    assert engine.jobs == []


def test_an_error_of_the_sweep_itself_ends_the_engine(sweep: Run) -> None:
    class Broken(Events):
        def on(self, event: Event) -> None:
            if event.what == "ended":
                raise BrokenPipeError

    engine = Threads()
    with pytest.raises(BrokenPipeError):
        sweep(plan_of("a", "b", "c"), engine, events=Broken())
    assert engine.stops == [True]


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(sweep: Run, tmp_path: Path) -> Iterator[Callable[..., tuple[Stop, Callable[[], Summary]]]]:
    """Begin a sweep in a thread, on real workers whose marks lie in the store."""
    threads: list[threading.Thread] = []
    (tmp_path / "store").mkdir()

    def begin(*names: str, slots: int = 1) -> tuple[Stop, Callable[[], Summary]]:
        stop, found = Stop(), []
        engine = LocalEngine([Slot("cpu", 1)] * slots, act)
        threads.append(threading.Thread(target=lambda: found.append(sweep(plan_of(*names), engine, stop=stop))))
        threads[-1].start()

        def end() -> Summary:
            threads[-1].join(PATIENCE_S)
            return found[0]

        return stop, end

    yield begin
    for thread in threads:
        thread.join(PATIENCE_S)


def test_asked_once_it_begins_nothing_more_and_lets_running_cells_end(begun: Any, tmp_path: Path) -> None:
    stop, end = begun("wait a", "raise b", "tell", "die")
    wait_for(tmp_path / "store" / "a.begun")
    stop.asked = 1
    time.sleep(0.7)
    mark(tmp_path / "store" / "a.go")
    summary = end()
    assert summary.counts == {"success": 1}
    assert (summary.not_begun, summary.failed) == ([1, 2, 3], [])


def test_a_failure_after_the_request_is_not_tried_again(sweep: Run) -> None:
    engine, stop = Threads(slots=1, script={"evaluate a": [LUCKLESS]}), Stop()
    engine.held = {"evaluate a"}
    events = Events()

    def ask() -> None:
        stop.asked = 1
        engine.holds["evaluate a"].set()

    threading.Timer(0.3, ask).start()
    summary = sweep(plan_of("a"), engine, stop=stop, events=events, retries=5)
    assert (summary.failed, summary.tries[0], events.of(0)) == ([0], 1, ["queued", "ended"])


def test_what_was_to_run_alone_at_the_end_is_left_when_it_is_asked_to_stop(sweep: Run) -> None:
    engine, stop, events = Threads(script={"evaluate a": [EXHAUSTED]}), Stop(), Events()
    engine.held = {"evaluate b"}

    def ask() -> None:
        stop.asked = 1
        engine.holds["evaluate b"].set()

    threading.Timer(0.3, ask).start()
    summary = sweep(plan_of("a", "b"), engine, stop=stop, events=events)
    assert (summary.failed, summary.counts) == ([0], {"error": 1, "success": 1})
    assert events.of(0) == ["queued", "retry", "ended"]


@pytest.mark.slow
def test_asked_twice_it_interrupts_what_runs(begun: Any, tmp_path: Path) -> None:
    stop, end = begun("interruptible a", "wait b", "tell", slots=2)
    for name in "ab":
        wait_for(tmp_path / "store" / f"{name}.begun")
    stop.asked = 1
    time.sleep(0.7)
    stop.asked = 2
    summary = end()
    assert summary.counts == {"cancelled": 2}
    assert (summary.not_begun, summary.failed) == ([2], [0, 1])
    assert (tmp_path / "store" / "a.kept").exists()


def test_asked_before_it_begins_it_begins_nothing(sweep: Run) -> None:
    engine = Threads()
    summary = sweep(plan_of("a", "b", pools={"a": "pool", "b": "pool"}), engine, stop=Stop(asked=1))
    assert (engine.jobs, summary.not_begun) == ([], [0, 1])
