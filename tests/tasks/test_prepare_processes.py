"""Many images are prepared by worker processes: the same store as by threads, resumed and interrupted like it."""

from __future__ import annotations

import functools
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import DataError
from benchmark.progress import Silent
from benchmark.tasks.decode import decode
from benchmark.tasks.prepare import PROCESSES_FROM, Files, Given, Prepared, Recipe, prepare

SIZE, N = 16, PROCESSES_FROM + 104
RECIPE = Recipe("toy", SIZE, 3, "none, whole", 1)
DECODE = functools.partial(decode, size=SIZE, crop="none", scaled=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of forty kinds."""
    folder = tmp_path_factory.mktemp("files")
    kinds = []
    for k in range(40):
        stream = io.BytesIO()
        pixels = np.random.default_rng(k).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG")
        kinds.append(stream.getvalue())
    for k in range(N):
        (folder / f"{k:05d}.jpg").write_bytes(kinds[k % 40])
    return folder


def files(folder: Path, *, read_by_worker: bool, broken: str | None = None) -> Files:
    names = tuple(sorted(path.name for path in folder.iterdir()))

    def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Given]]:
        for name in sorted(wanted):
            path = folder / name
            if name == broken:
                yield name, b"no image"
            else:
                yield name, path if read_by_worker else path.read_bytes()

    return Files(names, stream, "s")


def built(root: Path, source: Files, workers: int = 2) -> Prepared:
    return prepare(root / "data" / "prepared" / "toy", RECIPE, source, DECODE, Silent(), workers)


@pytest.mark.slow
@pytest.mark.parametrize("read_by_worker", [True, False])
def test_worker_processes_prepare_what_the_caller_alone_would(
    folder: Path, tmp_path: Path, read_by_worker: bool
) -> None:
    source = files(folder, read_by_worker=read_by_worker)
    alone, many = built(tmp_path / "a", source, workers=1), built(tmp_path / "b", source)
    assert (many.ids, many.sha256, many.pixels_sha256) == (alone.ids, alone.sha256, alone.pixels_sha256)
    assert np.array_equal(many.open(), alone.open())
    many.verify()


def test_an_unreadable_image_is_named_by_worker_processes_too_and_the_others_are_kept(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"1 image\(s\) of toy cannot be read: 00017\.jpg: it cannot be decoded"):
        built(tmp_path, files(folder, read_by_worker=True, broken="00017.jpg"))
    (journal,) = tmp_path.glob("data/prepared/toy/.work-*/journal")
    assert len(journal.read_text().splitlines()) == N - 1
    built(tmp_path, files(folder, read_by_worker=True)).verify()


PROGRAM = """
import sys, time, functools
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from benchmark.progress import Silent
from benchmark.tasks.decode import decode
from benchmark.tasks.prepare import Files, Recipe, prepare

def slowly(content):
    time.sleep(0.002)
    return decode(content, 16, crop="none", scaled=False)

folder = Path(sys.argv[1])
names = tuple(sorted(p.name for p in folder.iterdir()))
source = Files(names, lambda wanted: ((name, folder / name) for name in sorted(wanted)), "s")
if __name__ == "__main__":
    print("begun", flush=True)
    recipe = Recipe("toy", 16, 3, "none, whole", 1)
    prepare(Path(sys.argv[2]) / "data/prepared/toy", recipe, source, slowly, Silent(), 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_in_the_middle_it_goes_on_where_it_was_and_leaves_no_process(
    folder: Path, tmp_path: Path, number: int
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(folder), str(tmp_path), str(Path(__file__).parents[2])]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size for p in tmp_path.glob("data/prepared/toy/.work-*/journal")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # As from a terminal: everybody in the group gets it.
        os.killpg(process.pid, number)
        assert process.wait(60) != 0
    deadline = time.monotonic() + 30
    while _group_lives(process.pid):
        assert time.monotonic() < deadline, "a worker process is left"
        time.sleep(0.1)
    (journal,) = tmp_path.glob("data/prepared/toy/.work-*/journal")
    kept = len(journal.read_text().splitlines())
    assert 0 < kept < N
    for claim in tmp_path.rglob("*.claim"):
        claim.unlink()  # a dead holder's claim would be waited for
    built(tmp_path, files(folder, read_by_worker=True)).verify()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
