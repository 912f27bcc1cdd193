"""How many generated images are near copies of a training image (protocol section 8).

The yardstick is the distance of each real training image to its *nearest* other one. The distances of all pairs would
not do: among n images the nearest neighbour of any image, real or new, is about the 1/n quantile of its distances, so
beyond a hundred images the 1st percentile of all pairs lies above nearly every nearest-neighbour distance, and
everything would count as memorised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmark.audits.intervals import exact_share
from benchmark.errors import InvalidValue
from benchmark.metrics.data import Metric
from benchmark.tasks.lazy import Images, blocks

LARGEST = 20_000
FEWEST = 100
"""Fewer distances have no 1st percentile."""
PERCENTILE = 1.0
_QUERIES = 512
_CANDIDATES = 4


def memorised_share(generated: Images, train: Images, *, size: int = 32, device: torch.device | None = None) -> Metric:
    """Return the share of generated images that lie closer to a training image than real images lie to each other.

    Closer than the 1st percentile of the real images' own nearest-neighbour distances: L2 on pixels, both sides
    averaged by area to at most ``size`` x ``size``. So about 1 % is what unseen real images would show. Where more than
    1 % of the training images have an exact duplicate the percentile is 0, and exact copies alone count.

    Of more than 20,000 training images every k-th stands for all (rows are in hash order); copies of the others are
    then missed, the share is a lower bound, and the interval's text says how many were looked at.

    Args:
        generated: uint8 [n, h, w, 3].
        train: The real training images, uint8 [m, h, w, 3].
        size: Height and width of the averaged images, in pixels.
        device: Where to compute; None is the CPU.

    Raises:
        InvalidValue: When averaged images of the two sides differ in shape.
    """
    if not len(generated):
        return Metric.undefined("there are no generated images")
    if len(train) < FEWEST:
        return Metric.undefined(f"{len(train)} training images; a 1st percentile needs {FEWEST}")
    sides = [tuple(min(size, side) for side in images.shape[1:3]) for images in (generated, train)]
    if sides[0] != sides[1]:
        raise InvalidValue(
            f"generated images of {generated.shape[1:3]} pixels average to {sides[0]}, training images of "
            f"{train.shape[1:3]} to {sides[1]}; both sides need one size"
        )
    where = device or torch.device("cpu")
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), LARGEST)).round().astype(np.int64))
    real = torch.cat(list(_averaged(train[chosen] if isinstance(train, np.ndarray) else train.take(chosen), size)))
    references = _References(real.to(where))
    own = references.nearest([references.images], themselves=True)
    distance = references.nearest(_averaged(generated, size), themselves=False)
    threshold = float(np.percentile(own, PERCENTILE))
    close = distance < threshold if threshold > 0 else distance == 0
    how = f"exact; L2 on {sides[0][0]}x{sides[0][1]} pixels to {len(real):,} of {len(train):,} training images"
    return exact_share(int(close.sum()), len(generated), how)


def _averaged(images: Images, size: int) -> Iterator[torch.Tensor]:
    """Yield all images in blocks, averaged by area to at most ``size`` and flattened, float32 [k, d]."""
    shape = tuple(min(size, side) for side in images.shape[1:3])
    for _, block in blocks(images):
        pixels = torch.from_numpy(np.array(block)).permute(0, 3, 1, 2).float()
        yield functional.adaptive_avg_pool2d(pixels, shape).flatten(1)


class _References:
    """Training images to which distances are measured.

    A matrix product finds candidates; their distances are taken again from differences, because the product loses the
    digits that tell a copy from a near copy.

    Args:
        images: float32 [n, d].
    """

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images
        # Centred, the products are smaller and lose fewer digits.
        self._centre = images.mean(dim=0)
        self._centred = images - self._centre
        self._squares = self._centred.square().sum(dim=1)

    def nearest(self, queries: Iterable[torch.Tensor], *, themselves: bool) -> NDArray[np.float32]:
        """Return the L2 distance of each query to its nearest reference; of each to another one if ``themselves``."""
        found, start = [], 0
        for block in (part for whole in queries for part in whole.split(_QUERIES)):
            there = block.to(self.images.device)
            score = self._squares - 2 * ((there - self._centre) @ self._centred.T)
            if themselves:
                rows = torch.arange(len(there), device=score.device)
                score[rows, start + rows] = torch.inf
            candidates = score.topk(_CANDIDATES, dim=1, largest=False).indices
            differences = self.images[candidates] - there[:, None]
            found.append(differences.square().sum(dim=2).amin(dim=1).sqrt())
            start += len(there)
        return torch.cat(found).cpu().numpy()
