"""The wheel, installed somewhere else, is complete: cards, locks, schema and tiny-sd, but no results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the pinned back-end."""
    pytest.importorskip("hatchling", reason="the build back-end is part of the development environment only")
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_what_runs_need_and_no_results(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "data_cards/colorized-digits.md",
        "benchmark/tasks/splits.lock",
        "benchmark/tasks/pixels.lock",
        "benchmark/tasks/sources.lock",
        "benchmark/tasks/listings_data/colorized-mnist.parquet",
        "benchmark/tasks/listings_data/utkface.parquet",
        "data_cards/hard-imagenet.md",
        "data_cards/utkface.croissant.json",
        "benchmark/records/record.schema.json",
        "benchmark/generators/tiny_sd/unet/diffusion_pytorch_model.safetensors",
        "leaderboard/verification.json",
        "methods/ffr.py",
        "genbias_bench/py.typed",
    } <= names
    assert not [name for name in names if name.startswith(("leaderboard/results", "tests/", "benchmarks/"))]


@pytest.mark.slow
def test_an_installed_wheel_evaluates_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "GENBIAS_STORE": str(tmp_path / "store")}
    command = [sys.executable, "-m", "benchmark.cli.main", "evaluate", "--method", "erm", "--threads", "1", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["status"] == "success"
    assert record["task"]["pinned"] == "pinned"
    # Proof that the wheel ran and not the checkout: only the checkout has a commit.
    assert record["environment"]["git_commit"] is None
