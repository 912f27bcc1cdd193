"""`reproduce` as a user meets it: on the accepted records of this checkout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.cli.main import main

ERM = ["--method", "erm", "--bias-level", "0.95"]
COMMAND = [sys.executable, "-m", "benchmark.cli.main", "reproduce", *ERM]
SEED = "65296"
"""A fresh seed that is known to lie inside: a random one need not, in 5 % of cases."""
PATIENCE_S = 600.0

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the verb in this process; returns exit code, standard output and error."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["genbias-bench", "reproduce", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_a_dry_run_shows_rows_and_time_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(*ERM, "--dry-run")
    header, row = out.splitlines()
    assert code == 0
    assert header.split("\t")[0] == "row"
    assert row.startswith("erm at 0.95\t5\t")
    assert "1 of 1 accepted rows of colorized-digits, two runs each: about " in err
    assert not (tmp_path / "reproduction").exists()


def test_a_dry_run_as_json_is_the_plan(cli: Cli) -> None:
    code, out, _ = cli(*ERM, "--dry-run", "--json", "--all", "--seed", "77")
    plan = json.loads(out)
    assert code == 0
    assert (plan["minutes"], plan["fresh_seed"], plan["methods"]) == (None, 77, ["erm"])
    assert len(plan["rows"][0]["runs"]) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--budget-minutes", "0"], 2, "--budget-minutes 0.0 makes no sense; use more than 0, or --all"),
        (["--budget-minutes", "0.01", *ERM], 2, "no row fits into 0.01 min; the shortest takes about"),
        (["--workers", "0"], 2, "0 workers make no sense"),
        (["--seed", "3", *ERM], 2, "seed 3 is a committed one (0, 1, 2, 3, 4)"),
        (["--task", "no-task"], 2, "there are no accepted records in "),
    ],
)
def test_wrong_usage_is_one_sentence(cli: Cli, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    found, out, err = cli(*arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "reproduction").exists()


@pytest.mark.slow
def test_a_real_row_is_interrupted_gone_on_with_and_comes_out_as_committed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [*COMMAND, "--output", str(output), "--workers", "1", "--seed", SEED]
    environment = os.environ | {"GENBIAS_STORE": str(tmp_path / "store")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stderr is not None
        assert any(line.startswith("[1/2]") for line in first.stderr)
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE_S) == 130
    assert not (output / "report.md").exists()
    begun = json.loads((output / "plan.json").read_text())
    done = {file: file.stat().st_mtime_ns for file in output.rglob("replay.json")}
    assert len(done) == 1

    def again(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], check=False, capture_output=True, text=True, env=environment, timeout=PATIENCE_S
        )

    second = again()
    report = json.loads((output / "report.json").read_text())
    assert second.returncode == 0, second.stdout + second.stderr
    assert "; 1 runs are finished" in second.stderr
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert report["holds"]
    assert report["plan"] == begun
    assert report["measured"]["runs_before"] == 1
    fresh, repeated = report["rows"][0]["fresh"], report["rows"][0]["repeated"]
    assert fresh["seed"] == begun["fresh_seed"] == int(SEED)
    assert all(rule["low"] <= rule["value"] <= rule["high"] for rule in fresh["rules"])
    # Equal to 1e-6, or judged by the interval on a machine of another kind: the report says which.
    assert all(rule["holds"] for rule in repeated["rules"])
    assert (output / "report.md").read_text() in second.stdout + "\n"

    refused = again("--seed", "999")
    assert refused.returncode == 2
    assert "holds a reproduction with another seed; go on with the same, or give a new folder" in refused.stderr
