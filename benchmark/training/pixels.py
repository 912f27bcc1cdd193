"""Training images as batches on a device: resident there when they fit, gathered batch by batch when they do not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.tasks.lazy import Images

_SENT_AT_ONCE = 64
_CPU_LIMIT = 2 * 2**30
_DEVICE_SHARE = 0.4
"""Of the free device memory; the rest is for weights, activations and the optimiser."""


class Pixels:
    """Images behind indices.

    Args:
        images: uint8 [n, h, w, 3], in memory or read when asked for.
        device: Where batches are wanted.
        limit: Most bytes that may stay resident on the device; None decides by what is free.
    """

    def __init__(self, images: Images, device: torch.device, limit: int | None = None) -> None:
        self._images, self._device = images, device
        self._resident: torch.Tensor | None = None
        if images.nbytes <= (_limit(device) if limit is None else limit):
            # A copy: torch has no read-only tensors, and these arrays are frozen.
            self._resident = _channels_first(np.array(images)).to(device)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def resident(self) -> bool:
        """Whether all images lie on the device."""
        return self._resident is not None

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """Return some images, uint8 [k, 3, h, w] in channels-last memory on the device."""
        if self._resident is not None:
            return self._resident[index.to(self._device)]
        return self._send(self._gather(index))

    def batches(self, indices: Iterator[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each index on the device with its images; the next batch is gathered while the last one is used."""
        if self._resident is not None:
            for there in sent(indices, self._device):
                yield there, self._resident[there]
            return
        with ThreadPoolExecutor(1) as ahead:
            waiting: tuple[torch.Tensor, Future[torch.Tensor]] | None = None
            for index in indices:
                following = index, ahead.submit(self._gather, index)
                if waiting is not None:
                    yield waiting[0].to(self._device), self._send(waiting[1].result())
                waiting = following
            if waiting is not None:
                yield waiting[0].to(self._device), self._send(waiting[1].result())

    def slices(self, size: int) -> Iterator[torch.Tensor]:
        """Yield all images in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            if self._resident is not None:
                yield self._resident[start : start + size]
            else:
                yield self._send(_channels_first(np.array(self._images[start : start + size])))

    def _gather(self, index: torch.Tensor) -> torch.Tensor:
        gathered = _channels_first(np.array(self._images[index.numpy()]))
        return gathered.pin_memory() if self._device.type == "cuda" else gathered

    def _send(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self._device, non_blocking=True)


def sent(indices: Iterator[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """Yield indices on a device, sent many at a time: each sending waits for all work before it."""
    while some := list(islice(indices, _SENT_AT_ONCE)):
        yield from torch.cat(some).to(device).split([len(index) for index in some])


def _channels_first(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return uint8 [n, 3, h, w] in channels-last memory (NHWC already is that memory)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _limit(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _DEVICE_SHARE)
    return _CPU_LIMIT
