"""ERM's training throughput on colorized-mnist against a conventional loop, and its share of the machine's arithmetic.

Same network, data, batch and number of steps, in the same run. Needs MNIST under ``GENBIAS_DATA``.
"""

from __future__ import annotations

import os
import statistics
import sys

import numpy as np
import pytest
import torch

from benchmark.contract.images import ImageSet
from benchmark.tasks.catalog import load_task
from benchmark.training.backbones import fresh_state, load_backbone
from benchmark.training.device import default_precision
from benchmarks.conventional import PerImage, images_per_second
from benchmarks.gpu_throughput import WARM_UP, bf16_rate, config, image_set, names_of, rate, training_flops

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS, ROUNDS = 100, 5
BOUND = 3.0
"""On an idle machine. A CPU without bf16 instructions cannot have it: both loops are mostly convolutions there."""


@pytest.fixture(scope="module")
def training() -> ImageSet:
    if "GENBIAS_DATA" not in os.environ:
        pytest.skip("GENBIAS_DATA names no folder with MNIST")
    task = load_task("colorized-mnist")
    rows = task.manifest("0.95", 0).splits["train"]
    return image_set(np.asarray(task.images(rows, 32)), rows.y, rows.a, names_of(task))


def test_erm_on_colorized_mnist(benchmark, training: ImageSet) -> None:
    batch = load_task("colorized-mnist").card.task.training.batch_size
    settings = config("small-cnn", STEPS + WARM_UP, batch, DEVICE)
    files = PerImage(np.asarray(training.images), training.y)
    workers = min(os.cpu_count() or 1, 8)
    ours, theirs, products = [], [], []

    def measure() -> None:
        # Alternating, so that a busy neighbour slows both.
        ours.append(rate(settings, training, DEVICE)[0])
        model = load_backbone(settings.spec, fresh_state(settings.spec, 0))
        conventional = images_per_second(
            model, files, batch=batch, steps=STEPS, warm_up=WARM_UP, workers=workers, device=DEVICE
        )
        theirs.append(conventional)
        products.append(bf16_rate(DEVICE))

    benchmark.pedantic(measure, rounds=ROUNDS)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    flops = training_flops("small-cnn", 32)
    share = statistics.median(flops * each / product for each, product in zip(ours, products, strict=True))
    benchmark.extra_info |= {"ratio": ratio, "share_of_bf16_rate": share}
    sys.stderr.write(
        f"ours {statistics.median(ours):.0f} images/s in {default_precision(DEVICE)}, conventional "
        f"{statistics.median(theirs):.0f} with {workers} workers, median ratio {ratio:.2f}; {share:.0%} of the bf16 "
        "matrix product's rate\n"
    )
    assert ratio >= BOUND
