"""The path of a stranger: a new project, its own contract test, a record; and our own adapters on the same suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.testing.checks import check_names
from benchmark.testing.report import Report
from benchmark.testing.scaffold import new_method
from benchmark.testing.suite import check_methods

OURS = ("erm", "dfr", "real-oracle", "ffr")


@pytest.mark.slow
def test_from_nothing_to_a_checked_method_and_its_record(tmp_path: Path, installed: Callable[[Path], Path]) -> None:
    made = new_method("half-half", tmp_path / "ours")
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed(tmp_path / "ours")),
        "GENBIAS_STORE": str(tmp_path / "store"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path / "ours", env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    # Its own test and the plug-in's option look at one report.
    options = ("-q", "-p", "no:cacheprovider", "-p", "genbias_bench.pytest_plugin", "--genbias-method", made.method)
    done = run("pytest", *options)
    assert done.returncode == 0, done.stdout
    assert f"{2 * len(check_names())} passed" in done.stdout
    done = run("benchmark.cli.main", "evaluate", "--method", made.method, "--seed", "0", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["status"], record["method"]["package"]) == ("success", "genbias-half-half")
    assert [stage["name"] for stage in record["stages"]] == ["first", "second"]


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """Check some of our adapters, of each kind one."""
    return dict(zip(OURS, check_methods(OURS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_our_own_adapters_keep_the_contract(reports: dict[str, Report], name: str) -> None:
    assert reports[name].passed, reports[name].markdown()
    assert {check.status for check in reports[name].checks} == {"passed"}
