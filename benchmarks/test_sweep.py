"""Time and memory of planning a grid of thousands of cells, with records of most of them at hand.

Cold, every record is read; warm, the store's index knows them. The records here are short, a few kB each, as the index
reads only the first parts of long ones.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmark.evaluation.cell import Lookups, resolve_cell
from benchmark.records.results import RECORD_FILE, record_text, run_folder_name
from benchmark.records.store import Store
from benchmark.sweep.grid_file import read_grid

BIN = Path(sys.executable).parent / "genbias-bench"
RECORDS = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "sweep" / "records_for_tests.py"))
SIZES = (1_000, 3_000, 10_000)
BOUND_S = 5.0
PER_SETTING = 20
"""Four bias levels, five seeds."""
UNFINISHED = 3
"""Every third cell has no record."""


@dataclass(frozen=True)
class Planned:
    """One run of `plan` in a process of its own."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def write_grid(file: Path, cells: int) -> None:
    """Write a grid of so many cells: settings of three methods at every level of the default task."""
    blocks = (
        f'[[cells]]\nmethods = "{method}"\nlevels = "all"\nseeds = "0-4"\nset = {{ {name} = {scale * k} }}\n'
        for k in range(1, cells)
        for method, name, scale in (("ffr", "synthetic_share", 0.001), ("lora", "rank", 1), ("jtt", "upweight", 1))
    )
    file.write_text('title = "many"\n' + "\n".join(islice(blocks, cells // PER_SETTING)))


def write_records(results: Path, grid: Path) -> None:
    """Write a record of a success for two of three cells; unlike a run's, they are not flushed to the disk."""
    known = Lookups()
    for number, request in enumerate(read_grid(grid).requests):
        if number % UNFINISHED:
            record = RECORDS["record_of"](resolve_cell(request, known=known))
            folder = results / run_folder_name(record)
            folder.mkdir(parents=True)
            (folder / RECORD_FILE).write_text(record_text(record))


def plan(grid: Path, results: Path, store: Path) -> tuple[Planned, str]:
    """Run `plan`; returns what it took and what it said."""
    out = store.with_name("plan.txt")
    command = [BIN, "plan", "--grid", grid, "--results-dir", results, "--store", store]
    start = time.perf_counter()
    with out.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, use = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Planned(seconds, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024), out.read_text()


def test_plan_of_ten_thousand_cells(benchmark: Any, tmp_path: Path) -> None:
    found: dict[str, Planned] = {}
    places = {size: tmp_path / str(size) for size in SIZES}
    for size, place in places.items():
        place.mkdir()
        write_grid(place / "grid.toml", size)
        write_records(place / "results", place / "grid.toml")

    def measure() -> None:
        for size, place in places.items():
            store = Store(place / "store").root
            for state in ("cold", "warm"):
                found[f"{state} {size}"], said = plan(place / "grid.toml", place / "results", store)
                done = size - len(range(0, size, UNFINISHED))
                assert f"\n{size} cells: {done} done, {size - done} missing\n" in said

    benchmark.pedantic(measure, rounds=1)
    for name, each in found.items():
        benchmark.extra_info[name] = asdict(each)
        sys.stderr.write(f"{name} cells: " + ", ".join(f"{k} {v:.3g}" for k, v in asdict(each).items()) + "\n")
    benchmark.extra_info["bound_s"] = BOUND_S
    assert found[f"warm {max(SIZES)}"].seconds <= BOUND_S


@pytest.mark.parametrize("size", SIZES)
def test_the_grid_is_as_large_as_it_says(tmp_path: Path, size: int) -> None:
    write_grid(tmp_path / "grid.toml", size)
    assert len(set(map(repr, read_grid(tmp_path / "grid.toml").requests))) == size
