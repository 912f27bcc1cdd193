"""Images with the object removed, or with noise on object or background (Moayeri et al. 2022, Hard ImageNet).

Theirs: object set to grey, its bounding box set to grey, its box tiled with neighbouring background; Gaussian noise of
σ = .25 on [0, 1] pixels over the object or over the background. Ours: pixels stay uint8, the noise is fixed by the
image's id, and the tile is the neighbour that shows least of the object.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.tasks.decode import UnreadableImage, decode_whole, resize
from benchmark.tasks.prepare import Content

CLEAN, OBJECT_GREY, BOX_GREY, TILED = "clean", "object-grey", "box-grey", "tiled"
NOISE_DRAWS = 3
FOREGROUND, BACKGROUND = "noise-foreground", "noise-background"
NOISE_VIEWS = tuple(f"{kind}-{draw}" for kind in (FOREGROUND, BACKGROUND) for draw in range(NOISE_DRAWS))
VIEWS = (CLEAN, OBJECT_GREY, BOX_GREY, TILED, *NOISE_VIEWS)
SIGMA = 0.25
_GREY = 128

ByteArray = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def decode_mask(content: Content, size: int, crop: str) -> tuple[ByteArray, None]:
    """Decode a mask [size, size, 1] with the geometry of its image; 255 where the object is.

    Raises:
        UnreadableImage: When it cannot be decoded.
        DataError: When it is no image file.
    """
    if not isinstance(content, bytes) or not content:
        raise UnreadableImage("the mask's file is empty")
    pixels, _ = decode_whole(content)
    covered: ByteArray = np.where(pixels.max(axis=2) > 0, 255, 0).astype(np.uint8)
    return resize(covered, size, crop, nearest=True)[:, :, None], None


def ablate(view: str, image: ByteArray, mask: Mask, name: str) -> ByteArray:
    """Return one view of an image.

    Args:
        view: One of :data:`VIEWS`.
        image: uint8 [h, w, 3].
        mask: Where the object is, bool [h, w].
        name: The image's id, which fixes the noise.

    Raises:
        DataError: When image and mask are of different sizes, or the view does not exist.
    """
    if mask.shape != image.shape[:2]:
        raise DataError(f"the mask of {name} is {mask.shape}, its image {image.shape[:2]}")
    if view == CLEAN:
        return image
    if view == OBJECT_GREY:
        return np.where(mask[:, :, None], np.uint8(_GREY), image)
    if view == BOX_GREY:
        return _grey_box(image, mask)
    if view == TILED:
        return _tiled(image, mask)
    kind, _, draw = view.rpartition("-")
    if view not in NOISE_VIEWS:
        raise DataError(f"there is no view {view!r}; there are {', '.join(VIEWS)}")
    return _noisy(image, mask if kind == FOREGROUND else ~mask, f"{name}/{draw}")


def bounding_box(mask: Mask) -> tuple[int, int, int, int] | None:
    """Return top, bottom, left, right (ends exclusive) of what a mask covers, or None when it covers nothing."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _grey_box(image: ByteArray, mask: Mask) -> ByteArray:
    result, box = image.copy(), bounding_box(mask)
    if box is not None:
        top, bottom, left, right = box
        result[top:bottom, left:right] = _GREY
    return result


def _tiled(image: ByteArray, mask: Mask) -> ByteArray:
    """Fill the object's box by repeating the neighbouring strip (above, below, left, right) with most background."""
    box = bounding_box(mask)
    if box is None:
        return image.copy()
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    strips = (
        (slice(max(0, top - height), top), slice(left, right)),
        (slice(bottom, min(image.shape[0], bottom + height)), slice(left, right)),
        (slice(top, bottom), slice(max(0, left - width), left)),
        (slice(top, bottom), slice(right, min(image.shape[1], right + width))),
    )
    background = [int((~mask[strip]).sum()) for strip in strips]
    result = image.copy()
    if not any(background):
        # The object fills the image: there is nothing to tile with.
        result[top:bottom, left:right] = _GREY
        return result
    tile = image[strips[int(np.argmax(background))]]
    repeats = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
    result[top:bottom, left:right] = np.tile(tile, repeats)[:height, :width]
    return result


def _noisy(image: ByteArray, where: Mask, seed: str) -> ByteArray:
    """Add Gaussian noise where asked; foreground and background of one draw get the same noise, as in the source."""
    digest = hashlib.sha256(f"hard-imagenet/noise/{seed}".encode()).digest()
    noise = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big"))).standard_normal(
        image.shape, dtype=np.float32
    )
    changed = image / np.float32(255) + SIGMA * noise * where[:, :, None]
    return np.floor(np.clip(changed, 0, 1) * 255 + 0.5).astype(np.uint8)
