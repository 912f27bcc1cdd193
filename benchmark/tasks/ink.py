"""Rendering an ink colour onto grey scans, in integer arithmetic only, so that pixels are the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ByteArray = NDArray[np.uint8]


def upsample_bilinear(grey: NDArray[np.integer], factor: int, maximum: int) -> ByteArray:
    """Enlarge grey images by an integer factor, bilinear with half-pixel centres and clamped edges.

    Args:
        grey: Integers 0..maximum, [n, h, w].
        factor: Enlargement, even.
        maximum: The value that becomes 255.

    Returns:
        uint8 [n, h·factor, w·factor], rounded half up.
    """
    rows = _axis_weights(grey.shape[1], factor)
    columns = _axis_weights(grey.shape[2], factor)
    # The weights of each axis are integers that sum to 2·factor, so the sum below is exact.
    total = np.einsum("ih,nhw,jw->nij", rows, grey.astype(np.int64), columns)
    scale = (2 * factor) ** 2 * maximum
    enlarged: ByteArray = ((2 * total * 255 + scale) // (2 * scale)).astype(np.uint8)
    return enlarged


def _axis_weights(size: int, factor: int) -> NDArray[np.int64]:
    weights = np.zeros((size * factor, size), dtype=np.int64)
    for i in range(size * factor):
        position = 2 * i + 1 - factor  # source coordinate times 2·factor
        low, fraction = divmod(position, 2 * factor)
        weights[i, min(max(low, 0), size - 1)] += 2 * factor - fraction
        weights[i, min(max(low + 1, 0), size - 1)] += fraction
    return weights


def ink_jitter(task: str, ids: Sequence[str], amplitude: int) -> NDArray[np.int64]:
    """Return a colour offset per sample and channel, derived from the hash of its id.

    Returns:
        int64 [n, 3] in -amplitude..amplitude; the same for every colour that a sample is rendered in.
    """
    digests = [hashlib.sha256(f"{task}/ink/{i}".encode()).digest()[:3] for i in ids]
    values = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 3).astype(np.int64)
    offsets: NDArray[np.int64] = values % (2 * amplitude + 1) - amplitude
    return offsets


def colourise(grey: ByteArray, ink: NDArray[np.int64]) -> ByteArray:
    """Multiply grey value and ink colour on a black ground.

    Args:
        grey: uint8 [n, h, w].
        ink: RGB per image, [n, 3]; clipped to 0..255.

    Returns:
        uint8 [n, h, w, 3], rounded half up.
    """
    colour = np.clip(ink, 0, 255).astype(np.uint32)
    product = grey[..., None].astype(np.uint32) * colour[:, None, None, :]
    return ((2 * product + 255) // 510).astype(np.uint8)
