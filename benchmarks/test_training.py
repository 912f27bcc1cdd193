"""Training throughput against a conventional loop on the same model, data, batch and steps, in the same run."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import Track
from benchmark.tasks.catalog import load_task
from benchmark.training.backbones import fresh_state, load_backbone
from benchmark.training.device import default_precision
from benchmark.training.loop import TrainingConfig, train_classifier
from benchmark.training.specs import backbone_spec

STEPS, BATCH, ROUNDS = 60, 64, 5
SPEC = backbone_spec("small-cnn", 10)


class PerImage(Dataset):  # type: ignore[type-arg]
    """What most code bases do: decode and transform one image at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def conventional(images: np.ndarray, labels: np.ndarray) -> float:
    model = load_backbone(SPEC, fresh_state(SPEC, 0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(PerImage(images, labels), batch_size=BATCH, shuffle=True, drop_last=True)
    start, done = time.perf_counter(), 0
    while done < STEPS:
        for x, y in loader:
            model.train()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()
            done += 1
            if done == STEPS:
                break
    return STEPS * BATCH / (time.perf_counter() - start)


def ours(images: np.ndarray, labels: np.ndarray, attributes: np.ndarray) -> float:
    block = load_task("colorized-digits").card.task
    names = GroupNames(block.label.values, block.attribute.values)
    data = ImageSet(
        images, labels.copy(), np.zeros(len(labels), bool), names, Track.TRAIN, Track.TRAIN, attributes.copy()
    )
    device = torch.device("cpu")
    config = TrainingConfig(
        spec=SPEC, steps=STEPS, batch_size=BATCH, optimiser="adamw", learning_rate=2e-3, weight_decay=0.01,
        warmup_share=0.1, evaluations=1, loss="erm", groups="y,a", freeze_bn=False, seed=0, mean=(0.5,) * 3,
        std=(0.5,) * 3, precision=default_precision(device),
    )  # fmt: skip
    initial = fresh_state(SPEC, 0)
    start = time.perf_counter()
    train_classifier(config, data, data.take(np.arange(0)), initial, device, lambda n: None)
    return STEPS * BATCH / (time.perf_counter() - start)


def test_training_throughput(benchmark) -> None:
    rows = load_task("colorized-digits").manifest("0.95", 0).splits["train"]
    images = load_task("colorized-digits").render(rows)
    pairs: list[tuple[float, float]] = []

    def measure() -> None:
        # Alternating, so that a busy neighbour slows both.
        pairs.append((ours(images.copy(), rows.y, rows.a), conventional(images.copy(), rows.y)))

    benchmark.pedantic(measure, rounds=ROUNDS, warmup_rounds=1)
    ratios = sorted(a / b for a, b in pairs[1:])
    median = ratios[len(ratios) // 2]
    benchmark.extra_info["ratio"] = median
    sys.stderr.write(
        f"ours {pairs[-1][0]:.0f} images/s, conventional {pairs[-1][1]:.0f} images/s, median ratio {median:.2f}\n"
    )
    assert median >= 2
