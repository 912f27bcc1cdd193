"""Forward passes over many images, without gradients: logits, and the features that the last layer sees.

The loop validates and predicts with it; probes, clustering and the refit of a last layer read the features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.errors import NotAvailable
from benchmark.tasks.lazy import Images
from benchmark.training.device import Precision
from benchmark.training.pixels import Pixels, sent

LAST_LAYER = "fc"
"""The name of the last layer in every backbone of the harness."""

Prepare = Callable[[torch.Tensor], torch.Tensor]
_BATCH = 1024


class Normaliser:
    """Turns uint8 batches into normalised float images on the device, in one fused multiply and add."""

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device) -> None:
        scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
        self._scale, self._shift = scale, shift

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [n, 3, h, w] to float32 of the same shape and memory format."""
        return torch.addcmul(self._shift, images.to(torch.float32), self._scale)


class Features:
    """Features behind indices: for the training of a last layer what ``Pixels`` is for that of a whole model.

    Args:
        values: float32 [n, d] on the device where batches are wanted.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def batches(self, indices: Iterator[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each index on the device with its features."""
        for there in sent(indices, self._values.device):
            yield there, self._values[there]

    def slices(self, size: int) -> Iterator[torch.Tensor]:
        """Yield all features in order, at most ``size`` at a time."""
        yield from self._values.split(size)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return bf16 autocast, or nothing in float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def last_layer(model: nn.Module) -> nn.Linear:
    """Return a model's last linear layer.

    Raises:
        NotAvailable: When it has none under the name that backbones give it, as an adapter's own module may.
    """
    layer = getattr(model, LAST_LAYER, None)
    if not isinstance(layer, nn.Linear):
        raise NotAvailable(
            f"{type(model).__name__} has no linear layer `{LAST_LAYER}`, so its penultimate features are not defined; "
            f"name the last layer of an own module `{LAST_LAYER}`"
        )
    return layer


def with_penultimate(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [n, classes] and the last layer's inputs [n, d] from one forward pass, with their gradients.

    Args:
        model: With a last linear layer.
        images: Normalised images [n, 3, h, w].

    Raises:
        NotAvailable: When the last layer is missing, or does not see one vector per image.
    """
    seen: list[torch.Tensor] = []
    hook = last_layer(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = model(images)
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].ndim != 2:
        raise NotAvailable(
            f"`{LAST_LAYER}` of {type(model).__name__} is not applied once to one vector per image, so its penultimate "
            "features are not defined"
        )
    return logits, seen[0]


def logits_of(
    model: nn.Module, images: Pixels | Features, prepare: Prepare, device: torch.device, precision: Precision
) -> torch.Tensor:
    """Return float32 logits [n, classes] of uint8 images, in evaluation mode and in batches.

    A last layer alone is a model too: it maps features to logits.
    """
    return _in_batches(model, model, images, prepare, device, precision)


def features_of(
    model: nn.Module, images: Pixels, normalise: Normaliser, device: torch.device, precision: Precision
) -> torch.Tensor:
    """Return float32 penultimate features [n, d] of uint8 images, in evaluation mode and in batches.

    Raises:
        NotAvailable: When the model has no last linear layer.
    """
    width = last_layer(model).in_features
    if not len(images):
        return torch.empty((0, width), device=device)

    def features(batch: torch.Tensor) -> torch.Tensor:
        return with_penultimate(model, batch)[1]

    return _in_batches(model, features, images, normalise, device, precision)


def penultimate(
    model: nn.Module,
    images: Images,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device,
    precision: Precision,
) -> NDArray[np.float32]:
    """Return what a model's last linear layer sees of every image, float32 [n, d].

    Args:
        model: Maps normalised images to logits through a last layer ``fc``; left in evaluation mode on the device.
        images: uint8 [n, h, w, 3], in memory or read when asked for.
        mean: Normalisation per channel.
        std: Normalisation per channel.
        device: Where to compute.
        precision: With or without bf16 autocast; the result is float32 either way.

    Raises:
        NotAvailable: When the model has no ``fc`` that is a linear layer.
    """
    model.to(device)
    # Nothing stays resident: every image is looked at once.
    pixels = Pixels(images, device, limit=0)
    return features_of(model, pixels, Normaliser(mean, std, device), device, precision).cpu().numpy()


def _in_batches(
    model: nn.Module,
    forward: Callable[[torch.Tensor], torch.Tensor],
    images: Pixels | Features,
    prepare: Prepare,
    device: torch.device,
    precision: Precision,
) -> torch.Tensor:
    model.eval()
    parts = []
    with torch.inference_mode(), autocast(device, precision):
        for part in images.slices(_BATCH):
            parts.append(forward(prepare(part)).float())
    # Outside of inference mode: a tensor made inside could not be trained on.
    return torch.cat(parts)
