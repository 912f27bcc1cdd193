"""What the tests of the engines for clusters need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.evaluation.cell import Request
from benchmark.sweep.jobs import Job

# Workers that are spawned find the modules beside these tests there too.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def slurm() -> None:
    """A SLURM to submit to, such as the one that tests/slurm/start.sh starts."""
    if importlib.util.find_spec("submitit") is None:
        _skip_or_fail("slurm", "submitit is not installed")
    if shutil.which("sbatch") is None:
        _skip_or_fail("slurm", "there is no sbatch; tests/slurm/start.sh starts a SLURM")
    if subprocess.run(["sinfo"], check=False, capture_output=True).returncode:
        _skip_or_fail("slurm", "no SLURM answers sinfo; tests/slurm/start.sh starts one")


@pytest.fixture(scope="session")
def ray_library() -> None:
    """Ray, installed."""
    if importlib.util.find_spec("ray") is None:
        _skip_or_fail("ray", "ray is not installed")


def _skip_or_fail(part: str, reason: str) -> None:
    """Skip where a part is absent; fail where it is required."""
    if part in os.environ.get("GENBIAS_REQUIRE", "").split(","):
        pytest.fail(f"GENBIAS_REQUIRE asks for {part}, but {reason}")
    pytest.skip(reason)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Make a job on one thread of the CPU."""

    def make(method: str = "erm", seed: int = 0, **fields: Any) -> Job:
        settings = {"device": "cpu", "threads": 1} | fields
        return Job("evaluate", Request(method, seed=seed), tmp_path / "results", tmp_path / "store", **settings)

    return make
