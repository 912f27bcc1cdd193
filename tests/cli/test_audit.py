"""`audit` as a user meets it: real processes, exit codes, what is printed and what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "datasets", "pandas", "scipy", "sklearn", "fairlearn")
COMMAND = [sys.executable, "-m", "benchmark.cli.main", "audit"]
RESULTS = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the verb in a folder of the test's own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GENBIAS_STORE": str(tmp_path / "store")}
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    return run


def erm() -> str:
    """The folder of an accepted run that generated nothing."""
    return str(sorted((RESULTS / "erm").glob("0.95-seed0-*"))[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [],
        ["--pool", "abc"],
        ["--generator", "tiny-sd", "--images", "1"],
        ["--generator", "tinysd"],
        ["--generator", "tiny-sd", "--bias-level", "2"],
        ["--generator", "from-scratch", "--set", "nope=1"],
        ["--record", "missing"],
    ],
)
def test_help_and_the_checking_of_arguments_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: sys.stderr.write('HEAVY ' + ' '.join(m for m in {HEAVY!r} if m in sys.modules)))\n"
        f"sys.argv = ['genbias-bench', 'audit', *{arguments!r}]\n"
        "from benchmark.cli.main import main\n"
        "main()\n"
    )
    environment = {**os.environ, "GENBIAS_STORE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr.endswith("HEAVY "), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "exactly one of --generator, --pool and --record"),
        (["--generator", "tiny-sd", "--pool", "abc"], 2, "not generator and pool"),
        (["--pool", "abc"], 2, "holds no such pool. There: none"),
        (["--generator", "tiny-sd", "--images", "0"], 2, "--images 0 is too few"),
        (["--generator", "tiny-sd", "--task", "digits"], 2, "unknown task 'digits'"),
        (["--generator", "tiny-sd", "--set", "rank=4"], 2, "add --fine-tune"),
        (["--generator", "tiny-sd", "--fine-tune", "--set", "rank"], 2, "not NAME=VALUE"),
        (["--generator", "tiny-sd", "--sampling", "step=4"], 2, "did you mean 'steps'"),
        (["--generator", "tiny-sd", "--threads", "0"], 2, "0 threads"),
        (["--generator", "tiny-sd", "--device", "gpu"], 2, "'gpu' is no device"),
        (["--generator", "tiny-sd", "--out", "."], 2, "is not empty; choose another folder with --out"),
        (["--record", erm()], 2, "used no generated images"),
        (["--record", "missing.json"], 1, "missing.json"),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(
    cli: Cli, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    done = cli(*arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "audit-tiny-sd").exists()


def test_the_help_names_every_subject_and_shows_examples(cli: Cli) -> None:
    told = cli("--help").stdout
    for word in ("--generator", "--pool", "--record", "--fine-tune", "from-scratch", "invertible", "For example"):
        assert word in told


@pytest.mark.slow
def test_an_audit_from_the_command_line_and_of_the_pool_that_it_left(cli: Cli, tmp_path: Path) -> None:
    done = cli("--generator", "tiny-sd", "--images", "100", "--sampling", "steps=2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert "5.1 % of them are bias-conflicting" in lines[0][0]
    assert lines[1][:3] == ["asked for by", "images", "digit shown %"]
    assert [line[:2] for line in lines[2:4]] == [["class", "50"], ["group", "50"]]
    files = dict(lines[4:])
    assert files == {"report": "audit-tiny-sd/report.json", "page": "audit-tiny-sd/report.html"}
    report = json.loads((tmp_path / files["report"]).read_text())
    again = cli("--generator", "tiny-sd", "--images", "100", "--sampling", "steps=2", "--threads", "1")
    assert again.returncode == 2
    assert "audit-tiny-sd is not empty" in again.stderr
    (pool_id,) = report["subject"]["pool_ids"]
    pool = cli("--pool", pool_id[:8], "--json", "--threads", "1", "-o", "of-pool")
    assert pool.returncode == 0, pool.stderr
    assert json.loads(pool.stdout) == json.loads((tmp_path / "of-pool" / "report.json").read_text())
    assert json.loads(pool.stdout)["samples"][0]["groups"] == report["samples"][0]["groups"]
