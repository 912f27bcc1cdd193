"""Time and memory of `genbias-bench audit`: on the bundled generator, and on pools that grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.evaluation.audited_images import MOST_LOOKED_AT, Stream, look
from benchmark.generators.pools import Counts, Pool
from benchmark.generators.recipe import PoolRecipe
from benchmark.progress import Silent
from benchmark.records.store import Store

BIN = Path(sys.executable).parent / "genbias-bench"
BOUND_S = 60.0
SMALL, LARGE, SIZE = 8_000, 24_000, 64
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes glibc give freed memory back, so that a peak is what is needed."""


def say(benchmark: Any, what: str, **figures: float) -> None:
    """Keep figures with the benchmark's own, and print them."""
    benchmark.extra_info.update(figures)
    sys.stderr.write(f"{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()) + "\n")


def test_an_audit_of_two_thousand_images(benchmark, tmp_path: Path) -> None:
    """Cold: images are generated and auditors trained. Warm: they are in the store."""
    seconds: list[float] = []

    def audit(out: str) -> None:
        start = time.perf_counter()
        subprocess.run(
            [BIN, "audit", "--generator", "tiny-sd", "--device", "cpu", "--out", tmp_path / out, "--store",
             tmp_path / "store"],
            capture_output=True, check=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)

    def measure() -> None:
        audit("cold")
        audit("warm")

    benchmark.pedantic(measure, rounds=1)
    report = json.loads((tmp_path / "warm" / "report.json").read_text())
    assert sum(sample["images"] for sample in report["samples"]) == 2000
    cold, warm = seconds
    say(benchmark, "audit of 2,000 images, seconds", cold=cold, warm=warm)
    assert warm <= BOUND_S


class Noise:
    """Images that take no time."""

    def conditions(self) -> dict[str, Any]:
        return {}

    def sample(self, prompts: Any, negative: Any, seeds: Any, **options: Any) -> Any:
        random = np.random.default_rng(seeds[0])
        return random.integers(0, 256, (len(seeds), options["height"], options["width"], 3), dtype=np.uint8)


def noise(store: Path, images: int) -> tuple[Pool, Counts]:
    recipe = PoolRecipe(
        task="colorized-digits@1", generator={"name": "noise"}, prompts={(y, None): f"a {y}" for y in range(10)},
        negative_prompt="", scheduler="native", steps=1, guidance=1.0, image_size=SIZE, batch_size=256,
    )  # fmt: skip
    return Pool(Store(store), recipe), dict.fromkeys(recipe.prompts, images // 10)


def test_memory_does_not_grow_with_the_pool(benchmark, tmp_path: Path) -> None:
    """More images than are held are looked at in the memory of those that are."""
    pool, counts = noise(tmp_path, LARGE)
    pool.ensure(counts, Noise)
    peaks: list[float] = []

    def measure() -> None:
        for images in (SMALL, LARGE):
            done = subprocess.run(
                [sys.executable, __file__, str(tmp_path), str(images)], capture_output=True, check=True, text=True,
                env={**os.environ, **FREED_AT_ONCE},
            )  # fmt: skip
            peaks.append(json.loads(done.stdout))

    benchmark.pedantic(measure, rounds=1)
    small, large = peaks
    more = (LARGE - SMALL) * SIZE**2 * 3 / 2**20
    say(benchmark, f"looking at {SMALL} and {LARGE} images, MiB", small=small, large=large, pixels_added=more)
    assert large - small < more / 4


def peak(store: Path, images: int) -> float:
    """Return the peak memory in MiB of looking at some images of a pool."""
    from benchmark.records.provenance import peak_memory_bytes

    pool, counts = noise(store, images)
    seen = look([Stream.of_pool(pool, counts)], "class", None, Silent())
    assert seen is not None
    assert (len(seen), len(seen.images)) == (images, MOST_LOOKED_AT)
    return (peak_memory_bytes() or 0) / 2**20


if __name__ == "__main__":
    sys.stdout.write(json.dumps(peak(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
