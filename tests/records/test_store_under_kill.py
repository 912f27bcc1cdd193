"""Many processes at one store and one results folder, killed at random: nothing lost, nothing half-published."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.generators.pools import Pool, list_pools
from benchmark.records.results import damaged_predictions, iterate_records
from benchmark.records.schema import Record
from benchmark.records.store import Store, verify_sealed

SCRIPT = Path(__file__).parent / "killed_workers.py"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check_entries(store: Store, kind: str, keys: list[str], contents: Any) -> None:
    assert [name for name in names(store.root / kind) if not name.startswith(".")] == keys
    for key in keys:
        folder = store.path(kind, key)
        verify_sealed(folder)
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("f")}
        assert {name: path.read_bytes() for name, path in found.items()} == contents(key)


def check_pools(store: Store, rounds: int, workers: dict[str, Any]) -> None:
    last, _ = workers["pool_of"](rounds - 1)
    assert len(list_pools(store)) == last + 1
    for number in range(last + 1):
        # A number's last round has the most images.
        turn = min((number + 1) * workers["POOL_ROUNDS"], rounds) - 1
        pool, (_, counts) = Pool(store, workers["recipe_of"](number)), workers["pool_of"](turn)
        assert (pool.held(), pool.missing(counts), pool.damaged) == (counts, 0, 0)
        images = pool.read(counts)
        groups = [group for group in pool.recipe.groups for _ in range(counts[group])]
        seeds = [pool.recipe.seed(group, k) for group, k in zip(groups, images.index.tolist(), strict=True)]
        np.testing.assert_array_equal(images.images, np.stack([workers["pixels"](seed, 8) for seed in seeds]))


def check_results(results: Path, rounds: int, workers: dict[str, Any]) -> None:
    records = list(iterate_records([results]))
    assert {record.cell_id for _, record in records} == {workers["cell_of"](turn) for turn in range(rounds)}
    # An attempt is a name, so two processes at one cell, where a claim expired under load, kept both of theirs.
    assert len({record.run_id for _, record in records}) == len(records) <= rounds + 5
    assert not any(damaged_predictions(file.parent, record) for file, record in records)


# Ten kills sometimes all hit between two writes, and then show nothing.
@pytest.mark.parametrize("kills", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_workers_lose_nothing_and_show_nothing_half_made(
    tmp_path: Path, fixture_file: Path, record: Record, kills: int
) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(fixture_file), "1", str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"killed": kills, "codes": [0] * 5, "errors": ""}

    workers = runpy.run_path(str(SCRIPT))
    store, results = Store(tmp_path / "store"), tmp_path / "results"
    rounds = workers["Work"](tmp_path, record).newest() + 1
    assert rounds >= 2
    keys = [f"{turn:04d}-{k}" for turn in range(rounds) for k in range(workers["ENTRIES"])]
    for kind in ("claimed", "free"):
        check_entries(store, kind, keys, workers["contents"])
    check_pools(store, rounds, workers)
    check_results(results, rounds, workers)

    left = [path for path in tmp_path.rglob(".*") if path.is_dir()]
    assert left
    assert not any(path.name.startswith(".damaged-") for path in left)
    assert store.collect_garbage(age_s=0) >= len([path for path in left if path.is_relative_to(store.root)])
    assert not list(store.root.rglob(".*"))
    assert names(store.root / "claims") == []
