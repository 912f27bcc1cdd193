"""`sweep` as a user meets it: what it prints, how it ends, and that killing or interrupting it loses nothing."""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark.cli.main import main
from benchmark.cli.sweep_view import Lines, Table
from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.records.results import iterate_records
from benchmark.sweep.driver import Event
from benchmark.sweep.jobs import Outcome
from benchmark.sweep.planner import Plan, PlannedCell

RECORDS = runpy.run_path(str(Path(__file__).parents[1] / "sweep" / "records_for_tests.py"))
COMMAND = [sys.executable, "-m", "benchmark.cli.main"]
PATIENCE_S = 300.0

Result = tuple[int, str, str]
Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a verb in this process; returns exit code, standard output and error."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["genbias-bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def finish(results: Path, request: Request, status: str = "success", **options: Any) -> None:
    RECORDS["publish"](results, RECORDS["record_of"](resolve_cell(request), status, **options))


# --- without running anything ----------------------------------------------------------------------------------------


def test_a_dry_run_is_the_plan_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    finish(tmp_path / "results", Request("erm"), wall=20.0)
    grid = ["-m", "erm", "-m", "ffr", "--seeds", "0-1", "--workers", "2"]
    for further in ([], ["--json"], ["--stale"], ["--isolated"]):
        assert cli("sweep", "--dry-run", *grid, *further) == cli("plan", *grid, *further)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert len(list(tmp_path.glob("results/*/*/*"))) == 1


def test_where_nothing_is_left_it_says_so_and_succeeds(cli: Cli, tmp_path: Path) -> None:
    finish(tmp_path / "results", Request("erm", seed=0))
    finish(tmp_path / "results", Request("dfr", seed=0), "skipped", message="does not apply")
    assert cli("sweep", "-m", "erm", "-m", "dfr", "--seeds", "0") == (0, "nothing to run: 1 done, 1 skipped\n", "")
    code, out, err = cli("sweep", "-m", "erm", "-m", "dfr", "--seeds", "0", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"done_before": 1, "counts": {}, "seconds": 0.0, "not_begun": [], "cells": []}


def test_cells_that_cannot_run_here_are_a_failure(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "nowhere"))
    code, out, err = cli("sweep", "-m", "erm", "-t", "celeba-blond", "--recipe", "small", "--seeds", "0")
    assert (code, out) == (1, "nothing to run: 1 blocked\n")
    assert "blocked: erm on celeba-blond: " in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--retries", "-1"], 2, "-1 retries make no sense"),
        (["--workers", "0"], 2, "0 workers make no sense"),
        (["--threads", "0"], 2, "0 threads make no sense"),
        (["--device", "gpu"], 2, "'gpu' is no device"),
        (["--device", "cuda:99"], 1, "device 'cuda:99' is not here"),
        (["--engine", "laptop"], 2, "'laptop' is not one of"),
        (["--engine-set", "partition=gpu"], 2, "--engine-set partition has no use with --engine local"),
        (["--engine-set", "partition"], 2, "not NAME=VALUE"),
        (["--set", "rank=2"], 2, "'rank'"),
        (["--results-dir", "/dev/null/results"], 1, "cannot use"),
        (["--store", "/dev/null/store"], 1, "cannot use"),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(cli: Cli, arguments: list[str], code: int, message: str) -> None:
    found, out, err = cli("sweep", "-m", "erm", "--seeds", "0", "--workers", "1", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


# --- what is shown meanwhile -----------------------------------------------------------------------------------------

PLAN = Plan(
    [
        PlannedCell(Request("erm", level="0.9"), "a", "missing"),
        PlannedCell(Request("ffr", level="0.9", seed=1, overrides={"rank": 2}), "b", "missing"),
        PlannedCell(Request("ffr", level="0.9", seed=2), "c", "done"),
        PlannedCell(Request("ffr", level="0.9", seed=3), "d", "error"),
    ],
    [],
)
EVENTS = [
    Event("queued", "produce", 1),
    Event("queued", "evaluate", 0),
    Event("ended", "produce", 1, Outcome("success", 61.0)),
    Event("queued", "evaluate", 1),
    Event("queued", "evaluate", 3),
    Event("retry", "evaluate", 0, Outcome("error", 2.0, message="out of luck", retryable=True)),
    Event("ended", "evaluate", 1, Outcome("success", 5.0, reused=True)),
    Event("ended", "evaluate", 3, Outcome("skipped", 1.0, message="does not apply")),
]


def test_off_a_terminal_every_job_that_ends_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    view = Lines(PLAN, 3)
    for event in EVENTS:
        view.on(event)
    assert capsys.readouterr().err.splitlines() == [
        "shared parts for ffr (rank=2) on colorized-digits, 0.9, seed 1: success in 1 min 1 s",
        "[0/3] erm on colorized-digits, 0.9, seed 0: failed, tried again: out of luck",
        "[1/3] ffr (rank=2) on colorized-digits, 0.9, seed 1: was done before",
        "[2/3] ffr on colorized-digits, 0.9, seed 3: skipped in 1 s: does not apply",
    ]


def test_on_a_terminal_a_table_counts_cells_by_state() -> None:
    table, screen = Table(PLAN, [0, 1, 3]), io.StringIO()

    def shown() -> list[list[str]]:
        screen.seek(0)
        screen.truncate()
        Console(file=screen, width=130).print(table._render())
        return [
            [cell.strip() for cell in line.split("│")[1:-1]] for line in screen.getvalue().splitlines() if "│" in line
        ]

    assert [row[-1] for row in shown()] == ["1 waiting", "1 waiting", "1 waiting"]
    for event in EVENTS:
        table.on(event)
    assert shown() == [
        ["colorized-digits", "0.9", "erm", "", "1 retry"],
        ["colorized-digits", "0.9", "ffr", "rank=2", "1 success"],
        ["colorized-digits", "0.9", "ffr", "", "1 skipped"],
    ]
    text = screen.getvalue()
    assert "2 of 3 cells in 0 s" in text
    assert "seed 1: was done before" in text


# --- real runs -------------------------------------------------------------------------------------------------------


class Sweeps:
    """Sweeps over `erm`, with one worker, in processes of their own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.running: list[subprocess.Popen[str]] = []

    def begin(self, *arguments: str, verb: str = "sweep") -> subprocess.Popen[str]:
        environment = {**os.environ, "GENBIAS_STORE": str(self.place / "store"), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*COMMAND, verb, "-m", "erm", *arguments], cwd=self.place, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.running.append(process)
        return process

    def run(self, *arguments: str, verb: str = "sweep") -> Result:
        process = self.begin(*arguments, verb=verb)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def wait_for_cell(self, seed: int) -> None:
        """Wait until a cell is being run."""
        claim = self.place / "store" / "claims" / f"cell-{resolve_cell(Request('erm', seed=seed)).cell_id}.claim"
        deadline = time.monotonic() + PATIENCE_S
        while not claim.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_for_run(self) -> None:
        """Wait until a cell has a record in the making."""
        deadline = time.monotonic() + PATIENCE_S
        while not list(self.place.glob("results/.tmp-*/record.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def statuses(self) -> list[tuple[int, str]]:
        return sorted((record.seed, record.status) for _, record in iterate_records([self.place / "results"]))

    def states(self, seeds: str) -> dict[str, int]:
        code, out, err = self.run("--seeds", seeds, "--json", verb="plan")
        assert code == 0, err
        counts: dict[str, int] = json.loads(out)["counts"]
        return counts


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[Sweeps]:
    place = Sweeps(tmp_path)
    yield place
    for process in place.running:
        if process.poll() is None:
            process.kill()
            process.communicate()


HOW = ("--workers", "1", "--threads", "1")


@pytest.mark.slow
def test_a_sweep_runs_what_is_missing_and_the_same_command_goes_on(sweeps: Sweeps) -> None:
    assert sweeps.states("0-1") == {"missing": 2}
    code, out, err = sweeps.run("--seeds", "0", *HOW)
    assert (code, out.startswith("1 success in ")) == (0, True)
    assert out.endswith("; done before: 0\n")
    assert "\n[1/1] erm on colorized-digits, 0.95, seed 0: success in " in err
    code, out, err = sweeps.run("--seeds", "0-1", *HOW, "--json")
    assert code == 0
    done = json.loads(out)
    assert (done["done_before"], done["counts"], done["not_begun"]) == (1, {"success": 1}, [])
    (cell,) = done["cells"]
    assert (cell["status"], cell["tries"], cell["reused"], cell["message"]) == ("success", 1, False, None)
    assert (Path(cell["folder"]) / "record.json").is_file()
    assert cell["cell_id"] == resolve_cell(Request("erm", seed=1)).cell_id
    assert "about " in err  # the first sweep's record tells how long this one may take
    assert sweeps.states("0-1") == {"done": 2}
    assert sweeps.run("--seeds", "0-1", *HOW) == (0, "nothing to run: 2 done\n", "")


@pytest.mark.slow
def test_ctrl_c_once_lets_a_cell_end_and_twice_does_not(sweeps: Sweeps) -> None:
    process = sweeps.begin("--seeds", "0-2", *HOW)
    sweeps.wait_for_cell(0)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert out.startswith("1 success, 2 not begun in ")
    assert "no further cell begins; those that run end first" in err
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert sweeps.statuses() == [(0, "success")]

    process = sweeps.begin("--seeds", "0-2", *HOW)
    sweeps.wait_for_run()
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out.startswith("1 cancelled, 1 not begun in ")
    assert "ending now; what was finished is kept" in err
    assert "Traceback" not in err
    assert sweeps.statuses() == [(0, "success"), (1, "cancelled")]
    assert sweeps.states("0-2") == {"done": 1, "missing": 2}


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_where_it_was(sweeps: Sweeps) -> None:
    process = sweeps.begin("--seeds", "0-2", *HOW)
    sweeps.wait_for_cell(1)
    process.kill()
    process.communicate()
    # At once: its worker may not have noticed yet, and still hold its claim.
    code, out, err = sweeps.run("--seeds", "0-2", *HOW)
    assert (code, out.startswith("2 success in ")) == (0, True), err
    assert out.endswith("; done before: 1\n")
    assert sweeps.states("0-2") == {"done": 3}
    assert [seed for seed, status in sweeps.statuses() if status == "success"] == [0, 1, 2]
