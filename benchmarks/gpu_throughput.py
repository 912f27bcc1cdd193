"""Images per second of the training loop on a GPU: small CNN at 32, ResNet-18 at 64, ResNet-50 at 224; prints JSON."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import Track
from benchmark.training.backbones import fresh_state
from benchmark.training.device import default_precision, peak_device_memory, resolve_device
from benchmark.training.loop import TrainingConfig, train_classifier
from benchmark.training.specs import backbone_spec

CASES = (("small-cnn", 32, 256, 400), ("resnet18", 64, 256, 200), ("resnet50", 224, 128, 60))


def throughput(
    backbone: str, size: int, batch: int, steps: int, device: torch.device
) -> dict[str, float | str | int | None]:
    rng = np.random.default_rng(0)
    n = 4 * batch
    names = GroupNames(tuple("0123456789"), ("a", "b"))
    data = ImageSet(
        rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8), rng.integers(0, 10, n), np.zeros(n, bool), names,
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
        "backbone": backbone, "size": size, "batch": batch, "images_per_second": rate,
        "precision": default_precision(device), "peak_memory_bytes": peak_device_memory(device),
    }  # fmt: skip


def main() -> None:
    device = resolve_device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    sys.stdout.write(json.dumps([throughput(*case, device) for case in CASES], indent=1) + "\n")


if __name__ == "__main__":
    main()
