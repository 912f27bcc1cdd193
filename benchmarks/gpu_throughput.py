"""Images per second of the training loop on a GPU: small CNN at 32, ResNet-18 at 64, ResNet-50 at 224; prints JSON.

Each with images resident on the device, and streamed batch by batch from a memory-mapped file, as data sets that do not
fit on the device are.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import Track
from benchmark.tasks.lazy import Images, LazyImages
from benchmark.training import pixels as training_pixels
from benchmark.training.backbones import fresh_state
from benchmark.training.device import default_precision, peak_device_memory, resolve_device
from benchmark.training.loop import TrainingConfig, train_classifier
from benchmark.training.specs import backbone_spec

CASES = (("small-cnn", 32, 256, 400), ("resnet18", 64, 256, 200), ("resnet50", 224, 128, 60))


def throughput(
    backbone: str, size: int, batch: int, steps: int, device: torch.device, folder: Path | None
) -> dict[str, float | str | int | None]:
    rng = np.random.default_rng(0)
    n = 4 * batch
    names = GroupNames(tuple("0123456789"), ("a", "b"))
    pixels: Images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    if folder is not None:
        np.save(folder / "images.npy", pixels)
        mapped = np.load(folder / "images.npy", mmap_mode="r")
        pixels = LazyImages(n, size, lambda index: mapped[index])
    # No share of the device's memory: every batch is gathered and sent, as for a set that does not fit.
    training_pixels._DEVICE_SHARE = 0.4 if folder is None else 0.0
    training_pixels._CPU_LIMIT = 2**31 if folder is None else 0
    data = ImageSet(
        pixels, rng.integers(0, 10, n), np.zeros(n, bool), names,
        Track.TRAIN, Track.TRAIN, rng.integers(0, 2, n),
    )  # fmt: skip
    spec = backbone_spec(backbone, 10)
    initial = fresh_state(spec, 0)

    def seconds(count: int) -> float:
        config = TrainingConfig(
            spec=spec, steps=count, batch_size=batch, optimiser="adamw", learning_rate=1e-4, weight_decay=0.01,
            warmup_share=0.1, evaluations=1, loss="erm", groups="y,a", freeze_bn=False, seed=0, mean=(0.5,) * 3,
            std=(0.5,) * 3, precision=default_precision(device),
        )  # fmt: skip
        start = time.perf_counter()
        train_classifier(config, data, data.take(np.arange(0)), initial, device, lambda k: None)
        return time.perf_counter() - start

    seconds(20)
    # The difference of two lengths leaves start-up out.
    rate = steps * batch / (seconds(steps + 20) - seconds(20))
    return {
        "backbone": backbone, "size": size, "batch": batch, "streamed": folder is not None, "images_per_second": rate,
        "precision": default_precision(device), "peak_memory_bytes": peak_device_memory(device),
    }  # fmt: skip


def main() -> None:
    device = resolve_device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    found = []
    for case in CASES:
        found.append(throughput(*case, device, None))
        with tempfile.TemporaryDirectory() as folder:
            found.append(throughput(*case, device, Path(folder)))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
