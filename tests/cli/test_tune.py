"""`tune` on the command line: what it prints, how it goes on, and what runs what it chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from benchmark.cli import evaluate, plan, sweep, tune
from benchmark.errors import InvalidValue
from benchmark.tasks.task import Task
from benchmark.tuning import study as running

app = typer.Typer()
for verb in (tune.tune, plan.plan, sweep.sweep, evaluate.evaluate):
    app.command(verb.__name__)(verb)


@pytest.fixture(autouse=True)
def quick(short_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short recipe, and a study that goes on however slow this machine is."""
    monkeypatch.setattr(running, "_device_seconds", lambda record: 1.0)


def run(folder: Path, *words: str) -> Result:
    where = ["--results-dir", str(folder / "results"), "--store", str(folder / "store")]
    return CliRunner().invoke(app, [*words, *where], catch_exceptions=False)


def tuned(folder: Path, *words: str) -> Any:
    return json.loads(run(folder, "tune", *words, "--device", "cpu", "--threads", "1", "--json").stdout)


def test_a_study_is_shown_with_every_trial_and_what_comes_next(tmp_path: Path) -> None:
    done = run(tmp_path, "tune", "-m", "erm", "--trials", "2", "--no-rerun", "--device", "cpu", "--threads", "1")
    assert done.exit_code == 0
    head, first, second, ended, file = done.stdout.splitlines()
    assert head == "trial\ttraining.learning_rate\ttraining.weight_decay\tcross-entropy\tdevice s\texpected best"
    assert first.removeprefix("0 *").removeprefix("0").startswith("\t0.002\t0.01\t")
    assert len(second.split("\t")) == 6
    assert ("*" in first) != ("*" in second)
    assert ended == "ended by trials: 2 of 2 trials, 2.0 of 20.0 device seconds (20 runs of ERM)"
    path = Path(file.partition("\t")[2])
    assert path.is_file()
    assert "trial 1: cross-entropy" in done.stderr
    assert f"next: genbias-bench sweep --tuned {path} --bias-level all" in done.stderr


@pytest.mark.slow
def test_what_was_chosen_is_run_and_planned_at_other_levels(tmp_path: Path) -> None:
    found = tuned(tmp_path, "-m", "erm", "--trials", "1", "--seeds", "0-1")
    assert (found["study"]["ended"], len(found["runs"])) == ("trials", 2)
    shown = run(tmp_path, "tune", "-m", "erm", "--trials", "1", "--seeds", "0", "--device", "cpu", "--threads", "1")
    assert "seed\trule\tmetric\t%\t95 % interval" in shown.stdout
    planned = run(tmp_path, "plan", "--tuned", found["file"], "-b", "0.95", "-b", "0.9", "--seeds", "0-2", "--json")
    cells = json.loads(planned.stdout)["cells"]
    assert [(cell["level"], cell["seed"], cell["state"]) for cell in cells] == [
        ("0.95", 0, "done"), ("0.95", 1, "done"), ("0.95", 2, "missing"), *(("0.9", n, "missing") for n in range(3)),
    ]  # fmt: skip
    assert {len(cell["tuned"]) for cell in cells} == {64}
    again = run(tmp_path, "evaluate", "--tuned", found["file"], "--seed", "1")
    assert "this cell was done before" in again.stderr
    shown = run(tmp_path, "sweep", "--tuned", found["file"], "--seeds", "0", "--dry-run")
    assert f"tuned {cells[0]['tuned'][:12]}" in shown.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "--tuned", "x", "--method", "erm"], "--tuned contradicts --method, --task and --grid"),
        (["plan", "--tuned", "x", "--set", "a=1"], "--set contradicts --tuned"),
        (["sweep", "--tuned", "x", "--recipe", "small"], "--recipe contradicts --tuned"),
        (["evaluate"], "name a --method .* or a study with --tuned"),
        (["tune", "-m", "erm", "--trials", "21"], "21 trials: a study has 1 to 20"),
        (["tune", "-m", "erm", "--seeds", "x"], "seeds 'x' cannot be read"),
        (["tune", "-m", "erm", "--threads", "0"], "0 threads"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        run(tmp_path, *words)
    assert not (tmp_path / "results").exists()
