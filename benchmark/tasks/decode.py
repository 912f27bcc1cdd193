"""From the bytes of an image file to uint8 pixels at a task's size; the same pixels for everybody."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from benchmark.errors import DataError

DECODER_VERSION = 1
"""Moves with anything that changes a pixel; prepared images of another version are made again."""
_MOST_PIXELS = 89_000_000  # Pillow warns above 89,478,485
_JPEG = b"\xff\xd8"
_LEAST_FACTOR = 1
_DAMAGE = (
    OSError, ValueError, SyntaxError, RuntimeError, UnidentifiedImageError, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
"""What data sets hold; Pillow's other readers would run Ghostscript, or C code that nobody needs here."""


class UnreadableImage(DataError):
    """An image file that cannot be decoded."""


def decode(
    content: bytes | NDArray[np.uint8], size: int, *, crop: str, scaled: bool
) -> tuple[NDArray[np.uint8], str | None]:
    """Decode and resize one image.

    JPEGs are decoded by libjpeg-turbo, other formats by Pillow; both are resized by Pillow's antialiased bilinear
    filter.

    Args:
        content: The file; bare pixels are taken as they are.
        scaled: Decode JPEGs at the smallest of libjpeg's scales (eighths) that is not below ``size``, which is several
            times as fast; False decodes them whole, so that a lossless copy gives the same pixels.
        size: Height and width of the result in pixels.
        crop: ``none`` stretches, ``center-square`` takes the largest square in the middle first.

    Returns:
        uint8 [size, size, 3], and a word on what had to be converted (``grey``, ``CMYK``, …) or None for RGB.

    Raises:
        UnreadableImage: When the file is empty, truncated, no image, or larger than 89 megapixels.
    """
    if isinstance(content, np.ndarray):
        return content, None
    if not content:
        raise UnreadableImage("the file is empty")
    if content.startswith(_JPEG):
        pixels, converted = _decode_jpeg(content, size if scaled else None)
    else:
        pixels, converted = decode_whole(content)
    return resize(pixels, size, crop), converted


def resize(pixels: NDArray[np.uint8], size: int, crop: str, *, nearest: bool = False) -> NDArray[np.uint8]:
    """Crop and resize pixels [h, w, 3] or a mask [h, w] to ``size``; masks by nearest neighbour."""
    height, width = pixels.shape[:2]
    box = (0.0, 0.0, float(width), float(height))
    if crop == "center-square":
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if (height, width) == (size, size):
        return pixels
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((size, size), method, box=box))


def _decode_jpeg(content: bytes, size: int | None) -> tuple[NDArray[np.uint8], str | None]:
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(height, width)
        if space not in ("YCbCr", "Gray", "RGB"):
            return decode_whole(content)
        least = {} if size is None else {"min_height": size, "min_width": size, "min_factor": _LEAST_FACTOR}
        pixels = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, **least)
    except ValueError:
        # libjpeg also complains of stray bytes, from which Pillow recovers; it refuses what is cut off.
        return decode_whole(content)[0], "recovered"
    return pixels, "grey" if space == "Gray" else None


def decode_whole(content: bytes) -> tuple[NDArray[np.uint8], str | None]:
    """Decode any image with Pillow at its own size; see :func:`decode`."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_size(image.height, image.width)
            mode = image.mode
            if mode.startswith("I"):
                # Sixteen bits: the high byte, where Pillow's own conversion would clip to white.
                deep = np.asarray(image).astype(np.int64)
                grey = np.clip(deep >> 8, 0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2), "16-bit"
            # By way of RGBA, since Pillow warns of a transparent palette: the filters of warnings belong to the whole
            # process, so no thread may change them.
            clear = image.convert("RGBA") if "transparency" in image.info else image
            pixels = np.asarray(clear.convert("RGB"))
    except _DAMAGE as error:
        raise UnreadableImage(f"it cannot be decoded ({error})") from error
    return pixels, None if mode == "RGB" else {"L": "grey"}.get(mode, mode)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > _MOST_PIXELS:
        raise UnreadableImage(f"it declares {height} x {width} pixels")
