"""`plan` as a user meets it: rows, JSON, states, what is shared, what it may cost, and what goes wrong."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main
from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.records.provenance import cpu_name
from benchmark.records.store import Store

RECORDS = runpy.run_path(str(Path(__file__).parents[1] / "sweep" / "records_for_tests.py"))
HEAVY = ("torch", "diffusers", "transformers", "peft", "datasets", "pandas", "scipy", "sklearn", "fairlearn", "ray")

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


@pytest.fixture
def finish(tmp_path: Path) -> Callable[..., None]:
    """Put the record of a run into the results folder."""

    def add(request: Request, status: str = "success", **options: Any) -> None:
        RECORDS["publish"](tmp_path / "results", RECORDS["record_of"](resolve_cell(request), status, **options))

    return add


def test_a_plan_is_rows_off_a_terminal_with_states_counts_and_cost(cli: Cli, finish: Callable[..., None]) -> None:
    finish(Request("erm"), wall=30.0)
    finish(Request("erm", seed=1), "error", message="the loss is NaN")
    code, out, err = cli(
        "plan", "-m", "erm", "-m", "ffr", "--seeds", "0-2", "--set", "freeze_bn=true", "--workers", "2"
    )
    assert code == 0
    assert out.splitlines() == [
        "task\tbias level\tmethod\tchanged\tseeds\tstates",
        "colorized-digits\t0.95\term\t-\t3\tdone (seed 0), error (seed 1), missing (seed 2)",
        "colorized-digits\t0.95\tffr\tfreeze_bn=true\t3\tmissing",
        "6 cells: 1 done, 4 missing, 1 error",
        "",
        "shared\timages\tcells",
        "images of tiny-sd for colorized-digits@1\t1980\t3",
        "auditors of colorized-digits@1\t-\t3",
        "",
        f"5 cells to run: about 30 s with 2 workers, 0.017 device-hours, from past records on {cpu_name()}",
        "no estimate for 3 of them: ffr on colorized-digits",
    ]
    assert err == "error: erm on colorized-digits: TrainingDiverged: the loss is NaN\n"


def test_json_holds_every_cell_whole(cli: Cli, finish: Callable[..., None]) -> None:
    finish(Request("erm", level="0.9"), wall=30.0)
    finish(Request("dfr", level="0.99"), "skipped", message="no class has two groups")
    code, out, err = cli(
        "plan", "-m", "erm", "-m", "dfr", "-m", "lora", "-b", "0.9", "-b", "0.99", "--seeds", "0,5", "--set", "rank=2",
        "--generator", "tiny-sd", "--sampling", "steps=4", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["counts"] == {"done": 1, "skipped": 1, "missing": 10}
    assert len(plan["cells"]) == 12
    assert plan["cells"][0] == {
        "task": "colorized-digits", "level": "0.9", "method": "erm", "seed": 0, "generator": None, "set": {},
        "sampling": {}, "recipe": None, "backbone_weights": None, "clip": None, "tuned": None,
        "cell_id": resolve_cell(Request("erm", level="0.9")).cell_id, "state": "done", "why": None,
        "estimated_seconds": None,
    }  # fmt: skip
    lora = plan["cells"][4]
    assert (lora["generator"], lora["set"], lora["sampling"]) == ("tiny-sd", {"rank": "2"}, {"steps": "4"})
    skipped = next(cell for cell in plan["cells"] if cell["state"] == "skipped")
    assert (skipped["method"], skipped["why"]) == ("dfr", "no class has two groups")
    assert plan["to_run"] == [i for i, cell in enumerate(plan["cells"]) if cell["state"] == "missing"]
    assert [(piece["kind"], piece["cells"]) for piece in plan["shared"]] == [
        ("adapters", [4, 5]), ("adapters", [10, 11]), ("auditors", [4, 5, 10, 11]),
    ]  # fmt: skip
    assert plan["estimate"] == {
        "device_seconds": 90.0, "cells": 3, "unknown": ["dfr on colorized-digits", "lora on colorized-digits"],
        "hardware": cpu_name(),
    }  # fmt: skip
    assert plan["problems"] == []


def test_nothing_known_means_no_estimate_and_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("plan", "--method", "erm", "--seeds", "3")
    assert (code, err) == (0, "")
    assert out.endswith(f"\n1 cell to run; no estimate: no record of such cells on {cpu_name()}\n")
    assert json.loads(cli("plan", "--method", "erm", "--json")[1])["estimate"]["device_seconds"] is None
    assert list(tmp_path.iterdir()) == []


def test_all_done_says_so(cli: Cli, finish: Callable[..., None]) -> None:
    finish(Request("erm", seed=2))
    assert cli("plan", "-m", "erm", "--seeds", "2")[1].endswith("1 cell: 1 done\n\nnothing is left to run\n")
    assert cli("plan", "-m", "erm", "--seeds", "2", "--isolated")[1].startswith("task\t")
    assert "1 cell: 1 missing" in cli("plan", "-m", "erm", "--seeds", "2", "--isolated")[1]


def test_damaged_records_and_blocked_cells_are_told(
    cli: Cli, finish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "nowhere"))
    finish(Request("erm"))
    next(tmp_path.glob("results/*/erm/*/record.json")).write_text("{}")
    code, out, err = cli("plan", "-m", "erm", "-t", "colorized-digits", "-t", "celeba-blond", "--recipe", "small")
    assert (code, out) == (2, "")  # colorized-digits has no such recipe
    code, out, err = cli("plan", "-m", "erm", "-t", "celeba-blond", "--recipe", "small", "--seeds", "0-1")
    assert code == 0
    assert out.endswith("nothing is left to run\n2 cells cannot run here\n")
    assert "warning: " in err
    assert "record.json" in err
    assert "blocked: erm on celeba-blond: " in err
    assert "(2 cells)" in err


def test_a_grid_file_is_narrowed_by_selectors(cli: Cli, tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text('title = "x"\n[[cells]]\nmethods = ["erm", "ffr"]\nlevels = "all"\n[[cells]]\nmethods = "jtt"\n')
    everything = json.loads(cli("plan", "--grid", "grid.toml", "--json")[1])
    assert len(everything["cells"]) == 2 * 4 * 5 + 5
    some = json.loads(cli("plan", "--grid", "grid.toml", "-m", "ffr", "-b", ".99", "--seeds", "1-2", "--json")[1])
    assert [(cell["method"], cell["level"], cell["seed"]) for cell in some["cells"]] == [
        ("ffr", "0.99", 1), ("ffr", "0.99", 2),
    ]  # fmt: skip


GRID = 'title = "x"\n[[cells]]\nmethods = ["erm"]\n'


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name at least one --method"),
        (["--seeds", "0"], 2, "name at least one --method"),
        (["-m", "ffrr"], 2, "did you mean 'ffr'"),
        (["-m", "erm", "-t", "digits"], 2, "unknown task 'digits'"),
        (["-m", "erm", "-b", ".97"], 2, "no bias level '.97'"),
        (["-m", "erm", "--seeds", "4-0"], 2, "seeds '4-0' cannot be read"),
        (["-m", "erm", "--seeds", ""], 2, "seeds '' cannot be read"),
        (["-m", "erm", "-g", "tiny-sd"], 2, "--generator has no use"),
        (["-m", "ffr", "--set", "real_los=erm"], 2, "did you mean 'real_loss'"),
        (["-m", "ffr", "--set", "freeze_bn"], 2, "not NAME=VALUE"),
        (["-m", "ffr", "--sampling", "steps=0"], 2, "--sampling steps='0'"),
        (["-m", "erm", "--recipe", "x"], 2, "unknown recipe of colorized-digits 'x'"),
        (["-m", "erm", "--workers", "0"], 2, "0 workers make no sense"),
        (["--grid", "missing.toml"], 1, "the grid missing.toml cannot be read"),
        (["--grid", "grid.toml", "--set", "rank=2"], 2, "--set contradicts --grid"),
        (["--grid", "grid.toml", "--recipe", "small"], 2, "--recipe contradicts --grid"),
        (["--grid", "grid.toml", "-m", "jtt"], 2, "leave no cell of the grid"),
        (["--grid", "grid.toml", "--seeds", "9"], 2, "leave no cell of the grid"),
        (["--grid", "bad.toml"], 2, "bad.toml, line 4: unknown method 'emr'"),
        (["--grid", "empty.toml"], 2, "empty.toml needs a title in quotes and at least one [[cells]] table"),
        (["-m", "erm", "--store", "other"], 1, "format version 99"),
        (["-m", "erm", "--frob"], 2, "No such option"),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(
    cli: Cli, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "bad.toml").write_text('title = "x"\n# emr\n[[cells]]\nmethods = ["emr"]\n')
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "format_version").write_text("99\n")
    for verb in (["plan"], ["sweep", "--dry-run"]):
        found, out, err = cli(*verb, *arguments)
        assert (found, out) == (code, "")
        assert message in err
        assert "Traceback" not in err


def test_a_plan_of_every_method_in_every_state_imports_nothing_heavy(
    tmp_path: Path, finish: Callable[..., None]
) -> None:
    Store(tmp_path / "store")
    for seed, status in enumerate(["success", "error", "skipped"]):
        finish(Request("erm", seed=seed), status)
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: sys.stderr.write('HEAVY ' + ' '.join(m for m in {HEAVY!r} if m in sys.modules)))\n"
        "sys.argv = ['genbias-bench', 'plan', '--method', 'all', '--bias-level', 'all']\n"
        "from benchmark.cli.main import main\n"
        "main()\n"
    )
    environment = {**os.environ, "GENBIAS_STORE": str(tmp_path / "store")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("HEAVY "), done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len({row[2] for row in rows if len(row) == 6}) >= 17
