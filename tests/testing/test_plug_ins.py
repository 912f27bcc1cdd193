"""A package that brings a method, a task and a generator, installed as users do; broken parts do no harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import ContractViolation
from benchmark.tasks.plugins import Listed, add, imported

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "plug_in"

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, installed: Callable[[Path], Path]) -> Path:
    """Install the package; what cannot be committed is added first: a file that is no Python, and weights."""
    project = tmp_path_factory.mktemp("their") / "project"
    shutil.copytree(PROJECT, project)
    package = project / "src" / "their_bench"
    (package / "unfinished.py").write_text('"""Is no Python."""\n\nclass Unfinished(:\n    pass\n')
    shutil.copytree(ROOT / "benchmark" / "generators" / "tiny_sd", package / "mini")
    (package / "mini" / "__init__.py").write_text('"""A pipeline."""\n')
    return installed(project)


@pytest.fixture
def cli(site: Path, tmp_path: Path) -> Cli:
    """Run the command line where the package is installed."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(site), "GENBIAS_STORE": str(tmp_path / "store")}
        command = [sys.executable, "-m", "benchmark.cli.main", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("warning: ")]


def test_two_of_one_name_are_both_refused_with_where_they_are() -> None:
    found: dict[str, Listed] = {}
    for module in ("their.first", "their.second"):
        add(found, Listed("their-bench/plain", module, None, "their-bench", "1.2.3"), "method")
    with pytest.raises(
        ContractViolation, match=r"two methods are named 'their-bench/plain', in their\.first and their\.sec"
    ):
        imported(found["their-bench/plain"], ContractViolation, "method")


def test_methods_are_listed_and_one_with_a_bad_name_is_a_warning(cli: Cli) -> None:
    done = cli("list", "methods", "--json")
    rows = {row["name"]: row["summary"] for row in answer(done)}
    assert rows["their-bench/plain"] == "plug-in of their-bench 1.2.3"
    assert {"erm", "ffr", "their-bench/gone"} <= rows.keys()
    assert warnings(done) == [
        "warning: method name 'plain/again' of their-bench 1.2.3, in their_bench.plain, must be lower-case letters, "
        "digits and hyphens"
    ]


def test_broken_plug_ins_are_one_warning_each_with_file_and_line(cli: Cli, site: Path) -> None:
    done = cli("list", "methods", "--load", "--json")
    rows = {row["name"]: row for row in answer(done)}
    assert (rows["their-bench/plain"]["version"], rows["their-bench/plain"]["summary"]) == (4, "Train.")
    assert "erm" in rows
    folder = site / "their_bench"
    expected = {
        "gone": "ModuleNotFoundError: No module named 'their_bench.gone'",
        "needs-more": f"{folder}/needs_more.py, line 3: ModuleNotFoundError: No module named 'a_package",
        "no-method": f"{folder}/spots.py: their_bench.spots must hold exactly one Method class, found 0",
        "again": "'plain/again'",
        "unfinished": f"{folder}/unfinished.py, line 3: SyntaxError",
    }
    found = warnings(done)
    assert len(found) == len(expected)
    assert [name for name, text in expected.items() if not any(text in line for line in found)] == []


@pytest.mark.parametrize("verb", [("describe",), ("evaluate", "--method")])
def test_a_broken_method_is_one_sentence_and_the_others_work(cli: Cli, site: Path, verb: tuple[str, ...]) -> None:
    done = cli(*verb, "their-bench/unfinished")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{site}/their_bench/unfinished.py, line 3: SyntaxError" in line


def test_a_method_of_a_package_is_described(cli: Cli) -> None:
    found = answer(cli("describe", "their-bench/plain", "--json"))
    assert (found["method"], found["origin"]) == ("plain@4", "plug-in, their-bench 1.2.3")


@pytest.mark.slow
def test_a_task_of_a_package_is_listed_under_its_full_name_and_one_without_a_card_is_a_warning(
    cli: Cli, site: Path
) -> None:
    done = cli("list", "tasks", "--json")
    assert {"their-bench/spots", "colorized-digits"} <= {row["name"] for row in answer(done)}
    (warning,) = warnings(done)
    assert f"'their-bench/no-card': their-bench 1.2.3 has no data card {site}/their_bench/no-card.md" in warning
    assert answer(cli("describe", "their-bench/spots", "--json"))["id"] == "their-bench/spots@1"
    assert "their-bench/no-card" in cli("evaluate", "--method", "erm", "--task", "their-bench/no-card").stderr


@pytest.mark.slow
def test_a_generator_of_a_package_is_its_folder_under_the_package_s_version(cli: Cli) -> None:
    found = answer(cli("describe", "their-bench/mini", "--json"))
    bundled = answer(cli("describe", "tiny-sd", "--json"))
    assert (found["kind"], found["name"], found["revision"]) == ("local", "their-bench/mini", "1.2.3")
    assert found["content_sha256"] == bundled["content_sha256"]
    assert found["description"] == "plug-in of their-bench 1.2.3"
    done = cli("describe", "their-bench/no-pipeline")
    assert done.returncode == 1
    assert "must be a package folder with model_index.json" in done.stderr


@pytest.mark.slow
def test_a_run_with_all_three_names_them_in_its_record(cli: Cli) -> None:
    record = answer(cli("evaluate", "--method", "their-bench/plain", "--task", "their-bench/spots", "--json"))
    method = record["method"]
    assert (method["origin"], method["package"], method["package_version"]) == ("plug-in", "their-bench", "1.2.3")
    assert (record["cell"]["method"], record["cell"]["task"]) == ("their-bench/plain@4", "their-bench/spots@1")
    task = record["task"]
    assert (task["pinned"], task["package"], task["package_version"]) == ("unpinned", "their-bench", "1.2.3")
    options = ("--method", "sd-augment", "--task", "their-bench/spots", "--generator", "their-bench/mini", "--json")
    generator = answer(cli("evaluate", *options))["cell"]["generator"]
    assert (generator["name"], generator["revision"]) == ("their-bench/mini", "1.2.3")
    done = cli("leaderboard", "build", "results", "-o", "board.md")
    assert done.returncode == 0, done.stderr
