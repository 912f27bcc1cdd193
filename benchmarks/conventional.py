"""The training loop that most code bases have, to measure against: PNG files decoded and transformed one by one.

A DataLoader with workers, float32, torch's default layout, the loss read in every step. The files lie in memory, which
spares it the disk.
"""

from __future__ import annotations

import io
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2


class PerImage(Dataset):  # type: ignore[type-arg]
    """Images as PNG, decoded and transformed one at a time.

    Args:
        images: uint8 [n, h, w, 3].
        labels: [n].
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.files = [_png(image) for image in images]
        self.labels = labels
        self.transform = v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(io.BytesIO(self.files[index])) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def images_per_second(
    model: torch.nn.Module, data: PerImage, *, batch: int, steps: int, warm_up: int, workers: int, device: torch.device
) -> float:
    """Train for some steps after a warm-up and return images a second.

    Args:
        model: What to train; it is moved to the device.
        data: The images.
        batch: Images per step.
        steps: Steps that are timed.
        warm_up: Steps before, in which workers and kernels start.
        workers: Processes that decode; 0 decodes in this one.
        device: Where to train.
    """
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(
        data, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=device.type == "cuda", multiprocessing_context="forkserver" if workers else None,
    )  # fmt: skip
    done, start = 0, time.perf_counter()
    while True:
        for x, y in loader:
            if done == warm_up:
                start = time.perf_counter()
            if done == warm_up + steps:
                return steps * batch / (time.perf_counter() - start)
            model.train()
            loss = torch.nn.functional.cross_entropy(model(x.to(device)), y.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()
            done += 1
