"""`verify` on the command line: what it prints, writes and exits with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmark.cli.verify import verify
from benchmark.errors import DamagedFile, UsageError

sys.path.append(str(Path(__file__).parents[1] / "leaderboard"))
from whole_runs import whole_run

ERM = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits" / "erm"


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    (tmp_path / "board").mkdir()
    app = typer.Typer()
    app.command()(verify)

    def run(path, *options):
        return CliRunner().invoke(app, [str(path), "--board", str(tmp_path / "board"), "--no-intervals", *options])

    return run


@pytest.fixture
def folder(tmp_path):
    return whole_run(next(ERM.glob("0.95-seed0-*")), tmp_path / "run")


def test_a_sound_run_exits_with_zero_and_its_report_says_what_that_means(invoke, folder, tmp_path):
    done = invoke(folder, "--json", "--report", str(tmp_path / "reports" / "report.md"))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["ok"], found["level"], found["recomputed_runs"]) == (True, "recomputed", 1)
    assert "Test labels are public" in done.stderr
    text = (tmp_path / "reports" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("## Verification\n\n**Nothing stands against this submission.**")


def test_a_run_that_does_not_follow_from_its_predictions_exits_with_one_and_reasons(invoke, folder):
    content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    content["stages"][0]["checkpoints"][0]["metrics"]["acc_mean"]["value"] = 0.99
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")
    done = invoke(folder)
    assert isinstance(done.exception, DamagedFile)
    assert done.exception.exit_code == 1
    assert "acc_mean is 0.99, its predictions give 0.4" in done.stdout
    assert str(done.exception) == f"{folder} is not accepted: 3 errors"


def test_what_is_no_folder_is_wrong_usage(invoke, tmp_path):
    (tmp_path / "submission.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    done = invoke(tmp_path / "submission.zip")
    assert isinstance(done.exception, UsageError)
    assert "unpack an archive into an empty one first" in str(done.exception)
