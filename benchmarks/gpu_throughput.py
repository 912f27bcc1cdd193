"""Training throughput: small CNN at 32 px, ResNet-18 at 64, ResNet-50 at 224, and ERM on colorized-mnist; prints JSON.

Each backbone with its kernels recorded and replayed (what the loop does) and launched one by one, with images resident
on the device, and streamed batch by batch from a memory-mapped file, as data sets that do not fit are. ERM on
colorized-mnist is held against the conventional loop on the same network, data, batch and steps; it wants
``GENBIAS_DATA``. ``--compiled`` measures compiled backbones instead, to decide about them: their warm-up is the
compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import Track
from benchmark.tasks.catalog import load_task
from benchmark.tasks.lazy import Images, LazyImages
from benchmark.tasks.task import Task
from benchmark.training import loop
from benchmark.training import pixels as training_pixels
from benchmark.training.backbones import build_backbone, fresh_state, load_backbone, state_digest
from benchmark.training.device import default_precision, describe_device, peak_device_memory, resolve_device
from benchmark.training.specs import backbone_spec
from benchmarks.conventional import PerImage, images_per_second
from benchmarks.gpu_generators import PEAKS

WARM_UP = 20
CASES = (("small-cnn", 32, 256, 400), ("resnet18", 64, 256, 200), ("resnet50", 224, 128, 60))
TINY = (("small-cnn", 32, 16, 5),)
NAMES = GroupNames(tuple("0123456789"), ("a", "b"))

Passes = Callable[[nn.Module, torch.Tensor, str], nn.Module]
PASSES: dict[str, Passes] = {
    "replayed": loop.replayed,
    "one by one": lambda model, batch, precision: model,
    "compiled": lambda model, batch, precision: torch.compile(model),  # type: ignore[return-value]
}


def training_flops(backbone: str, size: int) -> float:
    """Return the floating-point operations of one image's forward and backward pass, counted on shapes alone."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build_backbone(backbone_spec(backbone, 10), pretrained=False)
        model(torch.empty(2, 3, size, size)).sum().backward()
    return counter.get_total_flops() / 2


def names_of(task: Task) -> GroupNames:
    return GroupNames(task.card.task.label.values, task.card.task.attribute.values)


def image_set(images: Images, y: np.ndarray, a: np.ndarray, names: GroupNames) -> ImageSet:
    return ImageSet(images, y, np.zeros(len(y), bool), names, Track.TRAIN, Track.TRAIN, a)


def config(backbone: str, steps: int, batch: int, device: torch.device) -> loop.TrainingConfig:
    return loop.TrainingConfig(
        spec=backbone_spec(backbone, 10), steps=steps, batch_size=batch, optimiser="adamw", learning_rate=1e-4,
        weight_decay=0.01, warmup_share=0.1, evaluations=1, loss="erm", groups="y,a", freeze_bn=False, seed=0,
        mean=(0.5,) * 3, std=(0.5,) * 3, precision=default_precision(device),
    )  # fmt: skip


def rate(settings: loop.TrainingConfig, data: ImageSet, device: torch.device) -> tuple[float, float, str]:
    """Train; returns images a second after the warm-up, the seconds of the warm-up, and a digest of the weights."""
    marks: list[float] = []
    done = 0

    def progress(n: int) -> None:
        nonlocal done
        done += n
        if done in (WARM_UP, settings.steps):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            marks.append(time.perf_counter())

    initial = fresh_state(settings.spec, 0)
    start = time.perf_counter()
    outcome = loop.train_classifier(settings, data, data.take(np.arange(0)), initial, device, progress)
    first, last = marks
    seconds = last - first
    digest = state_digest(next(iter(outcome.checkpoints.values())))
    return (settings.steps - WARM_UP) * settings.batch_size / seconds, first - start, digest


def throughput(
    case: tuple[str, int, int, int], passes: str, device: torch.device, folder: Path | None
) -> dict[str, Any]:
    backbone, size, batch, steps = case
    rng = np.random.default_rng(0)
    n = 4 * batch
    images: Images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    if folder is not None:
        np.save(folder / "images.npy", images)
        mapped = np.load(folder / "images.npy", mmap_mode="r")
        images = LazyImages(n, size, lambda index: mapped[index])
    # No share of the device's memory: every batch is gathered and sent, as for a set that does not fit.
    training_pixels._DEVICE_SHARE = 0.4 if folder is None else 0.0
    training_pixels._CPU_LIMIT = 2**31 if folder is None else 0
    loop.replayed = PASSES[passes]  # type: ignore[assignment]
    data = image_set(images, rng.integers(0, 10, n), rng.integers(0, 2, n), NAMES)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    settings = config(backbone, steps + WARM_UP, batch, device)
    found, warm_up, digest = rate(settings, data, device)
    flops = training_flops(backbone, size)
    peak = next((peak for name, peak in PEAKS.items() if name in describe_device(device)[0]), None)
    return {
        "backbone": backbone, "size": size, "batch": batch, "passes": passes, "streamed": folder is not None,
        "images_per_second": found, "warm_up_seconds": warm_up, "flops_per_image": flops,
        "share_of_peak": found * flops / peak if peak else None, "precision": settings.precision,
        "peak_memory_bytes": peak_device_memory(device), "weights": digest[:12],
    }  # fmt: skip


def against_conventional(device: torch.device, steps: int, workers: int) -> dict[str, Any]:
    """ERM on colorized-mnist at .95, by the loop and by the conventional one."""
    task = load_task("colorized-mnist")
    rows = task.manifest("0.95", 0).splits["train"]
    images = np.asarray(task.images(rows, 32)[:])
    loop.replayed = PASSES["replayed"]  # type: ignore[assignment]
    settings = config("small-cnn", steps + WARM_UP, task.card.task.training.batch_size, device)
    ours, _, _ = rate(settings, image_set(images, rows.y, rows.a, names_of(task)), device)
    model = load_backbone(settings.spec, fresh_state(settings.spec, 0))
    theirs = images_per_second(
        model, PerImage(images, rows.y), batch=settings.batch_size, steps=min(steps, 150), warm_up=WARM_UP,
        workers=workers, device=device,
    )  # fmt: skip
    return {
        "case": "colorized-mnist", "images_per_second": ours, "conventional": theirs, "ratio": ours / theirs,
        "workers": workers, "batch": settings.batch_size, "precision": settings.precision,
    }  # fmt: skip


def bf16_rate(device: torch.device) -> float:
    """Return FLOP/s of a large bf16 matrix product of random numbers on this device."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))

    def seconds(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds(3)
    return 2 * n**3 * 10 / seconds(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="one case in miniature, for a CPU")
    parser.add_argument("--device", default=None, help="default: cuda, or cpu with --tiny")
    parser.add_argument("--compiled", action="store_true", help="the two ResNets compiled, and nothing else")
    options = parser.parse_args()
    device = resolve_device(options.device or ("cpu" if options.tiny else "cuda"))

    def show(line: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"card": describe_device(device)[0], "torch": torch.__version__, **line}) + "\n")
        sys.stdout.flush()

    if options.compiled:
        for case in CASES[1:]:
            show(throughput(case, "compiled", device, None))
        return
    show({"case": "bf16 matrix product", "flops_per_second": bf16_rate(device)})
    for case in TINY if options.tiny else CASES:
        for passes in ("replayed", "one by one"):
            show(throughput(case, passes, device, None))
        with tempfile.TemporaryDirectory() as folder:
            show(throughput(case, "replayed", device, Path(folder)))
    if "GENBIAS_DATA" in os.environ:
        # Last: workers that cannot be started here cost no other case.
        show(against_conventional(device, 20 if options.tiny else 980, 2 if options.tiny else 8))


if __name__ == "__main__":
    main()
