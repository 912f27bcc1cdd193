"""Speed and memory that the project promises, measured; not part of the test run (`make bench`).

Times depend on the machine and on who else uses it: the bounds are for two free cores without a GPU.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent / "genbias-bench"


def run(*arguments: str, store: Path, results: Path) -> tuple[float, float, str]:
    """Run the command line in a process of its own; returns seconds, peak MiB, and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    start = time.perf_counter()
    done = subprocess.run(
        [BIN, *arguments, "--results-dir", str(results), "--store", str(store)],
        capture_output=True, text=True, check=True, env={**os.environ},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return seconds, max(peak, before) / 1024, done.stdout


@pytest.mark.parametrize(
    ("arguments", "bound"),
    [(["--help"], 0.5), (["list", "methods"], 1.0), (["list", "tasks"], 1.0), (["describe", "ffr"], 1.0)],
)
def test_light_verbs(benchmark, arguments: list[str], bound: float) -> None:
    benchmark.extra_info["bound_s"] = bound
    benchmark.pedantic(
        lambda: subprocess.run([BIN, *arguments], check=True, capture_output=True), rounds=5, warmup_rounds=1
    )
    assert benchmark.stats.stats.min <= bound


def test_evaluate(benchmark, tmp_path: Path) -> None:
    """Cold pool, warm pool (another seed), and ERM; peak memory of the cold run."""
    found: dict[str, float] = {}

    def measure() -> None:
        store, results = tmp_path / "store", tmp_path / "results"
        found["erm_s"], *_ = run("evaluate", "--method", "erm", store=store, results=results)
        found["ffr_cold_s"], found["ffr_cold_mib"], _ = run("evaluate", "--method", "ffr", store=store, results=results)
        found["ffr_warm_s"], *_ = run("evaluate", "--method", "ffr", "--seed", "5", store=store, results=results)

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info.update(found)
    sys.stderr.write(json.dumps(found) + "\n")
    assert found["erm_s"] <= 25
    assert found["ffr_cold_s"] <= 150
    assert found["ffr_warm_s"] <= 45
    assert found["ffr_cold_mib"] <= 4096
