"""A grid swept against its cells run one by one, and two local workers against one; ratios in one run.

One by one with cold pools, every seed of a method and level costs about the same, so one is run and counts for all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent / "genbias-bench"
LEVELS = ("balanced", "0.9", "0.95", "0.99")
METHODS = ("erm", "sd-augment", "ffr")
SEEDS = 5
AT_MOST_OF_COLD = 1 / 4
AT_LEAST_FASTER = 1.6


def run(*arguments: str | Path, store: Path) -> float:
    """Run a verb and return its wall time in seconds."""
    start = time.perf_counter()
    environment = {**os.environ, "GENBIAS_STORE": str(store)}
    subprocess.run([BIN, *arguments], check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


@pytest.mark.slow
def test_a_sweep_of_the_default_grid_against_its_cells_one_by_one(benchmark: Any, tmp_path: Path) -> None:
    cold = {
        (level, method): run(
            "evaluate", "-m", method, "-b", level, "--results-dir", tmp_path / "cold", store=tmp_path / level / method
        )
        for level in LEVELS
        for method in METHODS
    }
    one_by_one = SEEDS * sum(cold.values())
    methods = [word for method in METHODS for word in ("-m", method)]
    swept = benchmark.pedantic(
        lambda: run("sweep", *methods, "-b", "all", "--results-dir", tmp_path / "grid", store=tmp_path / "store"),
        rounds=1,
    )
    ratio = swept / one_by_one
    benchmark.extra_info.update(swept_s=swept, one_by_one_s=one_by_one, ratio=ratio)
    sys.stderr.write(f"swept {swept:.0f} s, one by one {one_by_one:.0f} s, ratio {ratio:.3f}\n")
    for (level, method), seconds in cold.items():
        sys.stderr.write(f"  cold {method} at {level}: {seconds:.1f} s\n")
    assert ratio <= AT_MOST_OF_COLD


@pytest.mark.slow
def test_two_workers_against_one(benchmark: Any, tmp_path: Path) -> None:
    cells = ("-m", "ffr", "-m", "erm", "--threads", "1", "--seeds", "0-5")
    shared = tmp_path / "store"
    run("sweep", "-m", "ffr", "--seeds", "9", "--results-dir", tmp_path / "warm", store=shared)
    # The pool and the auditors are there now. What the first remembers would make the second quicker: other levels.
    one = run("sweep", *cells, "-b", "0.9", "-w", "1", "--results-dir", tmp_path / "one", store=shared)
    two = benchmark.pedantic(
        lambda: run("sweep", *cells, "-b", "0.99", "-w", "2", "--results-dir", tmp_path / "two", store=shared), rounds=1
    )
    benchmark.extra_info.update(one_s=one, two_s=two, ratio=one / two)
    sys.stderr.write(f"one worker {one:.1f} s, two {two:.1f} s, ratio {one / two:.2f}\n")
    assert one / two >= AT_LEAST_FASTER
