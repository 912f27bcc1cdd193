"""Replays through the local engine: one failure stops no other, and every one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs_for_tests import act, job

from benchmark.evaluation.cell import Request
from benchmark.sweep.jobs import Outcome
from benchmark.sweep.local import LocalEngine, Slot
from benchmark.sweep.reproduce import ReplayJob, Settings, run_jobs, run_replay
from leaderboard.reproduce.plan import Code, Plan, PlannedRow


class Told:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.done = 0
        self.finished = False

    def start(self, name: str, total: int) -> int:
        self.messages.append(f"{name}: {total}")
        return 0

    def advance(self, handle: int, n: int) -> None:
        self.done += n

    def finish(self, handle: int) -> None:
        self.finished = True

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def plan() -> Plan:
    row = PlannedRow(
        id="1" * 64, method="erm@1", level="0.95", recipe="default", changed={"beta": 2}, rules=["last"],
        runs={"0.95-seed0-aaaa": "0" * 64}, seed=0, threads=1, conditions=[], not_here=None, seconds=30.0,
    )  # fmt: skip
    return Plan(
        task="colorized-digits", levels=[], methods=[], minutes=60, records="2" * 64,
        code=Code(version="0.1.0", git_commit=None, git_dirty=None), rows_to_choose_from=1, work_seconds=60,
        wall_seconds=30, fresh_seed=77, rows=[row],
    )  # fmt: skip


@pytest.mark.parametrize("what", ["raise it broke", "die"])
def test_a_run_that_fails_or_is_killed_stops_no_other(tmp_path: Path, plan: Plan, what: str) -> None:
    told, engine = Told(), LocalEngine([Slot("cpu", 1)], act)
    jobs = {("1" * 64, True): job(tmp_path, what), ("1" * 64, False): job(tmp_path, "tell")}
    failures = run_jobs(jobs, engine, plan, told)
    assert list(failures) == [("1" * 64, True)]
    assert ("it broke" in failures["1" * 64, True]) == (what != "die")
    assert (told.done, told.finished) == (2, True)
    assert told.messages[0] == "reproduction: 2"
    assert "[1/2] erm beta=2 at 0.95, seed 0, committed: error (" in told.messages[1]
    assert told.messages[2].startswith("[2/2] erm beta=2 at 0.95, seed 0, fresh: ")


def test_whatever_interrupts_it_ends_what_runs(tmp_path: Path, plan: Plan) -> None:
    class Interrupted(Told):
        def message(self, text: str) -> None:
            raise KeyboardInterrupt

    engine = LocalEngine([Slot("cpu", 1)], act)
    jobs = {("1" * 64, True): job(tmp_path, "tell"), ("1" * 64, False): job(tmp_path, "interruptible a")}
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, engine, plan, Interrupted())
    # What was begun has written down what it had.
    assert (tmp_path / "a.kept").exists() or not (tmp_path / "a.begun").exists()


def test_a_replay_that_cannot_be_made_is_an_outcome(tmp_path: Path) -> None:
    missing = ReplayJob("evaluate", Request("erm"), tmp_path, tmp_path, records=(tmp_path / "record.json",))
    outcome = run_replay(missing)
    assert isinstance(outcome, Outcome)
    assert outcome.status == "error"
    assert "record.json does not exist" in outcome.message


def test_nothing_made_before_is_used_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert Settings(tmp_path / "out").where.store == tmp_path / "out" / "store"
    assert Settings(tmp_path / "out", store=tmp_path / "mine").where.store == tmp_path / "mine"
