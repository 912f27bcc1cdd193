"""Standard augmentation of real images, for copies that stand in for generated ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmark.tasks.lazy import Images

ROTATION_DEGREES, SHIFT_SHARE, SCALE_SHARE = 10.0, 0.1, 0.1
_BLOCK = 512


def augmented_copies(images: Images, seed: int) -> NDArray[np.uint8]:
    """Rotate, shift and scale every image a little: ±10°, ±10 % of the side, ±10 %; bilinear, black outside.

    Keeps the label and the attribute in every task (no flips, no colour changes).

    Args:
        images: uint8 [n, h, w, 3].
        seed: Seed of the transformations.

    Returns:
        uint8 of the same shape.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand((len(images), 4), generator=generator) * 2 - 1
    result = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), _BLOCK):
        block = torch.from_numpy(np.array(images[start : start + _BLOCK])).permute(0, 3, 1, 2).float()
        theta = _affine(draws[start : start + len(block)])
        grid = functional.affine_grid(theta, list(block.shape), align_corners=False)
        warped = functional.grid_sample(block, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result[start : start + len(block)] = warped.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return result


def _affine(draws: torch.Tensor) -> torch.Tensor:
    angle = draws[:, 0] * math.radians(ROTATION_DEGREES)
    scale = 1 + draws[:, 1] * SCALE_SHARE
    shift = draws[:, 2:] * 2 * SHIFT_SHARE  # affine_grid's coordinates span -1..1
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    return torch.stack(rows, 1)
