"""An isolated `fit` sees the task's data folders empty, and nobody else does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

PROGRAM = """
import json, sys
from pathlib import Path
from benchmark.evaluation.isolated import hide_folders
folders = [Path(name) for name in sys.argv[1:]]
hidden = hide_folders(folders)
left = [p.name for folder in folders if folder.is_dir() for p in folder.iterdir()]
child = __import__("subprocess").run(["ls", *sys.argv[1:2]], capture_output=True, text=True).stdout
sys.stdout.write(json.dumps([hidden, left, child]))
"""


def look(*folders: Path) -> tuple[bool, list[str], str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, folders)]
    hidden, left, child = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return hidden, left, child


@pytest.mark.slow
def test_covered_folders_are_empty_for_the_process_and_its_children_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test-images.zip").write_bytes(b"the test split")
    hidden, left, child = look(tmp_path / "a", tmp_path / "b")
    if not hidden:
        pytest.skip("this system lets no process cover a folder")
    assert (left, child) == ([], "")
    assert (tmp_path / "a" / "test-images.zip").read_bytes() == b"the test split"


@pytest.mark.slow
def test_a_folder_that_does_not_exist_needs_no_cover(tmp_path: Path) -> None:
    assert look(tmp_path / "nothing") == (True, [], "")


_CHILD = """
import os, pathlib, sys, time
from benchmark.evaluation.isolated import _end_with_parent
_end_with_parent()
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.slow
def test_an_isolated_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD!r}, {str(said)!r}])"
    with subprocess.Popen([sys.executable, "-c", middle]) as parent:
        _wait_until(lambda: said.is_file() and bool(said.read_text()))
        child = psutil.Process(int(said.read_text()))
        parent.kill()
    # In a container nobody may reap it.
    _wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, timeout=10)


def _wait_until(holds: Callable[[], bool], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
