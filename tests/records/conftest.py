"""A finished record to change, and a small full disk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.records.files import read_json
from benchmark.records.results import read_record
from benchmark.records.schema import Record

FOLDER = Path(__file__).parent / "fixtures"
FIXTURE = FOLDER / "record-1.0.json"


@pytest.fixture
def fixture_file() -> Path:
    """The committed record of schema 1.0."""
    return FIXTURE


@pytest.fixture
def fixture_1_1() -> Path:
    """The committed record of schema 1.1."""
    return FOLDER / "record-1.1.json"


@pytest.fixture
def content() -> dict[str, Any]:
    """Its JSON, to be changed freely."""
    loaded: dict[str, Any] = read_json(FIXTURE)
    return loaded


@pytest.fixture
def record() -> Record:
    """The same as a model."""
    return read_record(FIXTURE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    if mount is None or umount is None:
        pytest.skip("no mount command, so no small disk can be made")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run([umount, str(disk)], check=True)
