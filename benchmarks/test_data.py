"""Preparing and reading image files against the usual loops, splits of all of CelebA, `data list`; ratios in one run.

Needs the real data under GENBIAS_DATA.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmark.progress import Silent
from benchmark.tasks import home
from benchmark.tasks.card import load_card
from benchmark.tasks.containers import Container
from benchmark.tasks.law import DRAWS, Splitter
from benchmark.tasks.prepare import Files, prepare
from benchmark.tasks.utkface import UTKFace

BATCH, ROUNDS = 64, 3
LOOP_SAMPLE, LOADER_SAMPLE = 3000, 6000


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("GENBIAS_DATA")
    if not folder:
        pytest.skip("GENBIAS_DATA names no folder of real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def faces(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UTKFace as a folder of files, as people have it."""
    folder = tmp_path_factory.mktemp("faces")
    shutil.unpack_archive(real_data / "utkface" / "UTKFace.tar.gz", folder, filter="data")
    return folder


@pytest.fixture
def task(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UTKFace:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(faces))
    card = load_card("utkface")
    home.accept_terms(card)
    return UTKFace(card)


def pil_loop(paths: list[Path], size: int) -> float:
    """Images a second of what most code bases do once, in one process."""
    start = time.perf_counter()
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return len(paths) / (time.perf_counter() - start)


@pytest.mark.parametrize(("size", "bound"), [(100, 3), (64, 0), (224, 0)])
def test_preparing_utkface(benchmark, task: UTKFace, faces: Path, tmp_path: Path, size: int, bound: float) -> None:
    """All 23,707 files at the size of the task; at that of the recipe `small` and at 224 for the record."""
    container = Container(faces / "UTKFace")
    names = container.names()
    files = Files(tuple(names), container.stream, container.signature())
    sample = [faces / "UTKFace" / name for name in names[:: len(names) // LOOP_SAMPLE]]
    ratios: list[float] = []
    rounds = iter(range(ROUNDS + 1))

    def measure() -> None:
        before = pil_loop(sample, size)
        root = tmp_path / str(next(rounds))
        start = time.perf_counter()
        prepare(root / "a" / "b", task.recipe(size), files, task.decoder(size), Silent())
        ours = len(names) / (time.perf_counter() - start)
        # The loop before and after, so that a busy neighbour slows both.
        ratios.append(2 * ours / (before + pil_loop(sample, size)))
        shutil.rmtree(root)

    benchmark.pedantic(measure, rounds=1 if bound == 0 else ROUNDS)
    median = sorted(ratios)[len(ratios) // 2]
    benchmark.extra_info["ratio"] = median
    sys.stderr.write(f"preparing {len(names)} images at {size} px: {median:.2f} times a PIL loop ({ratios})\n")
    assert median >= bound


MEMORY = """
import re, sys
from pathlib import Path
import psutil
from benchmark.progress import Silent
from benchmark.tasks.card import load_card
from benchmark.tasks.utkface import UTKFace

def peak(pid):
    # Not getrusage: a program inherits the peak of the one that started it.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path(f"/proc/{pid}/status").read_text())[1])

task = UTKFace(load_card("utkface"))
task.make_ready(task.card.task.pixels.size, Silent())
me = psutil.Process()
sys.stdout.write(str(sum(peak(p.pid) for p in (me, *me.children(recursive=True)))))
"""


def test_memory_of_preparing_utkface(benchmark, task: UTKFace) -> None:
    peaks: list[int] = []

    def measure() -> None:
        done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["peak_mib"] = peaks[0] / 2**20
    sys.stderr.write(f"peak memory of preparing UTKFace, workers included: {peaks[0] / 2**20:.0f} MiB\n")
    assert peaks[0] < 2**30


class Decoding(Dataset):  # type: ignore[type-arg]
    """What an epoch without a prepared store does."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(io.BytesIO(self.paths[index].read_bytes())) as image:
            pixels = np.array(image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR))
        return torch.from_numpy(pixels)


def test_iterating_prepared_images(benchmark, task: UTKFace, faces: Path) -> None:
    size = task.card.task.pixels.size
    prepared = task.prepared(size)
    images = prepared.images(prepared.ids)
    paths = [faces / "UTKFace" / name for name in prepared.ids[:: len(prepared.ids) // LOADER_SAMPLE]]
    ratios: list[float] = []

    def batches() -> Iterator[np.ndarray]:
        order = np.random.default_rng(0).permutation(len(images))
        for start in range(0, len(order), BATCH):
            yield images[order[start : start + BATCH]]

    def measure() -> None:
        start = time.perf_counter()
        n = sum(len(batch) for batch in batches())
        ours = n / (time.perf_counter() - start)
        # Two workers for two cores, the loader's own way to be quick.
        loader = DataLoader(Decoding(paths, size), batch_size=BATCH, shuffle=True, num_workers=2)
        start = time.perf_counter()
        m = sum(len(batch) for batch in loader)
        ratios.append(ours * (time.perf_counter() - start) / m)

    benchmark.pedantic(measure, rounds=ROUNDS, warmup_rounds=1)
    median = sorted(ratios[1:])[len(ratios[1:]) // 2]
    benchmark.extra_info["ratio"] = median
    sys.stderr.write(f"iterating prepared images: {median:.1f} times a DataLoader that decodes\n")
    assert median >= 20


def test_memory_map_against_arrow(benchmark, tmp_path: Path) -> None:
    """Random batches of 96-pixel images: our memory map against Arrow's through `datasets`: why the store is plain."""
    from datasets import Dataset as ArrowDataset
    from datasets import Features, Value

    n, size = 8192, 96
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    plain = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = {"image": [image.tobytes() for image in pixels]}
    ArrowDataset.from_dict(rows, features=Features({"image": Value("binary")})).save_to_disk(tmp_path / "arrow")
    arrow = ArrowDataset.load_from_disk(str(tmp_path / "arrow"))
    ratios: list[float] = []

    def measure() -> None:
        order = np.random.default_rng(0).permutation(n)
        start = time.perf_counter()
        for k in range(0, n, BATCH):
            plain[order[k : k + BATCH]]
        ours = time.perf_counter() - start
        start = time.perf_counter()
        for k in range(0, n, BATCH):
            cells = arrow[order[k : k + BATCH].tolist()]["image"]
            np.frombuffer(b"".join(cells), dtype=np.uint8).reshape(-1, size, size, 3)
        ratios.append((time.perf_counter() - start) / ours)

    benchmark.pedantic(measure, rounds=ROUNDS, warmup_rounds=1)
    median = sorted(ratios[1:])[len(ratios[1:]) // 2]
    benchmark.extra_info["ratio"] = median
    sys.stderr.write(f"a plain memory map: {median:.1f} times Arrow's random batches\n")
    assert median >= 1


def test_splitting_all_of_celeba(benchmark, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All five levels of one draw over 202,599 rows, digests included; the lists are parsed before."""
    from benchmark.tasks.celeba import CelebA

    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path))
    card = load_card("celeba-blond")
    home.accept_terms(card)
    task = CelebA(card)
    listing = task.listing

    def all_levels() -> None:
        splitter = Splitter(listing, card.law)
        for level in card.task.levels:
            assert len(splitter.split(level, DRAWS[0], whole=True).digest) == 64

    benchmark.pedantic(all_levels, rounds=ROUNDS)
    sys.stderr.write(f"splits of CelebA at all levels: {benchmark.stats.stats.median:.1f} s\n")
    assert benchmark.stats.stats.median <= 10


def test_data_list(benchmark, real_data: Path) -> None:
    command = [sys.executable, "-m", "benchmark.cli.main", "data", "list"]
    benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True), rounds=5, warmup_rounds=1)
    assert benchmark.stats.stats.median <= 1
