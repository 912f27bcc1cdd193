"""Image files of every kind that data sets hold: which pixels they give, and which of them are refused."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from benchmark.tasks.decode import UnreadableImage, decode, decode_whole, resize

Pixels = NDArray[np.uint8]


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth colours with some detail, so that JPEG has something to lose."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Pixels | Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def jpeg(height: int, width: int, **options: Any) -> bytes:
    return encoded(photo(height, width), "JPEG", **{"quality": 90, **options})


def whole(content: bytes, size: int = 32, crop: str = "none") -> Pixels:
    return decode(content, size, crop=crop, scaled=False)[0]


def bilinear(image: Image.Image, size: int) -> Pixels:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


# --- JPEG ----------------------------------------------------------------------------------------------------------

SHAPES = [(64, 64), (97, 64), (218, 178), (33, 450), (500, 375), (31, 17)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_decoded_whole_has_libjpeg_s_pixels_resized_by_pillow(height: int, width: int, subsampling: int) -> None:
    content = jpeg(height, width, subsampling=subsampling)
    for size in (32, 64, 96):
        pixels, converted = decode(content, size, crop="none", scaled=False)
        reference = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False)
        assert np.array_equal(pixels, bilinear(Image.fromarray(reference), size))
        by_pillow = bilinear(Image.open(io.BytesIO(content)).convert("RGB"), size)
        assert np.abs(pixels.astype(int) - by_pillow).max() <= 2
        assert (pixels.shape, pixels.dtype, converted) == ((size, size, 3), np.uint8, None)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_scaled_decoding_starts_from_no_fewer_pixels_than_asked_for(height: int, width: int) -> None:
    content = jpeg(height, width)
    for size in (16, 32, 64, 96, 224):
        eighths = [
            eighth
            for eighth in range(1, 9)
            if min(-(-height * eighth // 8), -(-width * eighth // 8)) >= size or eighth == 8
        ]
        draft = simplejpeg.decode_jpeg(
            content, "RGB", fastdct=False, fastupsample=False, min_height=size, min_width=size
        )
        assert min(draft.shape[:2]) >= min(size, height, width)
        assert draft.shape[:2] == (-(-height * eighths[0] // 8), -(-width * eighths[0] // 8))
        pixels, _ = decode(content, size, crop="none", scaled=True)
        assert np.array_equal(pixels, bilinear(Image.fromarray(draft), size))


def test_scaled_and_whole_decoding_agree_where_nothing_is_scaled_and_nearly_elsewhere() -> None:
    content = jpeg(60, 60)
    assert np.array_equal(whole(content, 64), decode(content, 64, crop="none", scaled=True)[0])
    large = jpeg(480, 480)
    difference = whole(large, 64).astype(int) - decode(large, 64, crop="none", scaled=True)[0]
    assert 0 < np.abs(difference).mean() < 6


def test_a_progressive_jpeg_gives_the_pixels_of_the_sequential_one() -> None:
    assert np.array_equal(whole(jpeg(97, 64, progressive=True), 48), whole(jpeg(97, 64), 48))
    assert decode(jpeg(97, 64, progressive=True), 48, crop="none", scaled=True)[1] is None


def test_a_grey_jpeg_has_three_equal_channels_and_says_so() -> None:
    content = encoded(Image.fromarray(photo(80, 60)).convert("L"), "JPEG", quality=90)
    for scaled in (False, True):
        pixels, converted = decode(content, 32, crop="none", scaled=scaled)
        assert converted == "grey"
        assert (pixels == pixels[:, :, :1]).all()
    reference = bilinear(Image.open(io.BytesIO(content)), 32)
    assert np.abs(whole(content)[:, :, 0].astype(int) - reference).max() <= 1


def test_a_cmyk_jpeg_is_converted_by_pillow_and_says_so() -> None:
    content = encoded(Image.fromarray(photo(80, 60)).convert("CMYK"), "JPEG", quality=95)
    pixels, converted = decode(content, 32, crop="none", scaled=True)
    assert converted == "CMYK"
    assert np.array_equal(pixels, bilinear(Image.open(io.BytesIO(content)).convert("RGB"), 32))
    assert np.abs(pixels.astype(int) - bilinear(Image.fromarray(photo(80, 60)), 32)).mean() < 8


def test_the_orientation_in_exif_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    assert np.array_equal(whole(jpeg(80, 60, exif=exif)), whole(jpeg(80, 60)))
    assert np.array_equal(whole(encoded(photo(80, 60), "PNG", exif=exif)), whole(encoded(photo(80, 60), "PNG")))


def test_stray_bytes_in_a_jpeg_are_passed_over_and_the_image_counts_as_recovered() -> None:
    content = jpeg(80, 60)
    scan = content.index(b"\xff\xda")
    pixels, converted = decode(content[:scan] + b"stray bytes" + content[scan:], 32, crop="none", scaled=True)
    assert converted == "recovered"
    assert np.array_equal(pixels, bilinear(Image.open(io.BytesIO(content)).convert("RGB"), 32))


def test_bytes_after_the_end_of_a_jpeg_change_nothing() -> None:
    assert np.array_equal(whole(jpeg(80, 60) + b"\0" * 100), whole(jpeg(80, 60)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
def test_a_truncated_jpeg_is_refused_wherever_it_is_cut(options: dict[str, Any]) -> None:
    content = jpeg(120, 90, **options)
    for cut in range(2, len(content) - 40, 61):
        for scaled in (False, True):
            with pytest.raises(UnreadableImage):
                decode(content[:cut], 32, crop="none", scaled=scaled)


# --- other formats -------------------------------------------------------------------------------------------------


def test_a_png_has_its_own_pixels_resized() -> None:
    image = photo(50, 70)
    pixels, converted = decode(encoded(image, "PNG"), 32, crop="none", scaled=True)
    assert converted is None
    assert np.array_equal(pixels, bilinear(Image.fromarray(image), 32))
    assert np.array_equal(whole(encoded(photo(32, 32), "PNG")), photo(32, 32))


def test_transparency_is_dropped_and_not_blended() -> None:
    image = photo(32, 32)
    alpha = np.arange(32 * 32, dtype=np.uint32).reshape(32, 32).astype(np.uint8)
    content = encoded(np.dstack([image, alpha]), "PNG")
    assert decode_whole(content)[1] == "RGBA"
    assert np.array_equal(whole(content), image)


def test_a_palette_gives_its_colours_also_when_some_are_transparent() -> None:
    image = Image.fromarray(photo(32, 32)).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for options in ({}, {"transparency": 3}, {"transparency": bytes(range(0, 160, 10))}):
        pixels, converted = decode_whole(encoded(image, "PNG", **options))
        assert converted == "P"
        assert np.array_equal(pixels, expected)
    assert np.array_equal(whole(encoded(image, "GIF")), expected)


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    grey = (np.arange(32 * 32, dtype=np.uint32).reshape(32, 32) * 64).astype(np.uint16)
    pixels, converted = decode_whole(encoded(Image.fromarray(grey), "PNG"))
    assert converted == "16-bit"
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_one_bit_is_black_and_white() -> None:
    pattern = np.indices((32, 32)).sum(axis=0) % 2 == 0
    pixels, converted = decode_whole(encoded(Image.fromarray(pattern), "PNG"))
    assert converted == "1"
    assert np.array_equal(pixels[:, :, 0], np.where(pattern, 255, 0))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "WEBP"])
def test_other_formats_of_data_sets_are_read(kind: str) -> None:
    pixels = whole(encoded(np.full((40, 40, 3), (250, 10, 10), np.uint8), kind))
    assert np.abs(pixels.astype(int) - (250, 10, 10)).max() <= 6


def test_postscript_is_not_given_to_ghostscript(tmp_path: Path) -> None:
    """Pillow would run whatever `gs` is on the path over a stranger's program."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    program = textwrap.dedent("""
        from benchmark.tasks.decode import UnreadableImage, decode
        try:
            decode(b"%!PS-Adobe-3.0 EPSF-3.0\\n%%BoundingBox: 0 0 9 9\\n%%EndComments\\nshowpage\\n%%EOF\\n", 32,
                   crop="none", scaled=False)
        except UnreadableImage:
            print("refused")
    """)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "refused\n"
    assert not (tmp_path / "ran").exists()


# --- sizes and crops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(120, 80), (80, 120), (81, 120), (400, 40)])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_square_crop_is_the_middle_of_the_image(height: int, width: int, scaled: bool) -> None:
    side = min(height, width)
    image = np.zeros((height, width, 3), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = (0, 255, 0)
    middle = (
        slice(height // 2 - side // 8, height // 2 + side // 8),
        slice(width // 2 - side // 8, width // 2 + side // 8),
    )
    image[middle] = (255, 0, 0)
    for content in (encoded(image, "PNG"), encoded(image, "JPEG", quality=100, subsampling=0)):
        pixels = decode(content, 24, crop="center-square", scaled=scaled)[0].astype(int)
        assert (pixels[1:-1, 1:-1].sum(axis=2) > 200).all()  # nothing of the black margins
        red = np.argwhere(pixels[:, :, 0] > 127)
        assert red.min(axis=0).tolist() == [9, 9]
        assert red.max(axis=0).tolist() == [14, 14]


def test_without_a_crop_the_whole_image_is_stretched() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    pixels = whole(encoded(image, "PNG"), 20)
    assert (pixels[:, :9] == 0).all()
    assert (pixels[:, 11:] == 255).all()


def test_the_crop_of_a_square_is_the_square() -> None:
    content = encoded(photo(50, 50), "PNG")
    assert np.array_equal(whole(content, 32, "center-square"), whole(content, 32, "none"))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (8, 5000)])
@pytest.mark.parametrize("crop", ["none", "center-square"])
def test_tiny_and_very_long_images_have_the_size_asked_for(height: int, width: int, crop: str) -> None:
    image = np.full((height, width, 3), (10, 120, 240), np.uint8)
    for content in (encoded(image, "PNG"), encoded(image, "JPEG", quality=95)):
        for scaled in (False, True):
            pixels, _ = decode(content, 32, crop=crop, scaled=scaled)
            assert pixels.shape == (32, 32, 3)
            assert np.abs(pixels.astype(int) - (10, 120, 240)).max() <= 4


def test_masks_are_resized_without_new_values() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 20:40] = 255
    small = resize(mask, 24, "none", nearest=True)
    assert set(np.unique(small)) == {0, 255}
    assert small.shape == (24, 24)
    assert (small[8:16, 8:16] == 255).all()
    assert int((small == 255).sum()) == 64


# --- what is refused -----------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg_of_declared_size(width: int, height: int) -> bytes:
    content = bytearray(jpeg(16, 16))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"this is a text\n" * 50, "cannot be decoded"),
        (b"<html><body>not found</body></html>", "cannot be decoded"),
        (b"\xff\xd8", "cannot be decoded"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, "cannot be decoded"),
        (encoded(photo(50, 50), "PNG")[:300], "cannot be decoded"),
        (png_header(60_000, 60_000), "60000|exceeds limit"),
        (png_header(9_500, 9_500), "9500 x 9500 pixels|exceeds limit"),
        (png_header(0, 10), "cannot be decoded"),
        (jpeg_of_declared_size(60_000, 60_000), "60000 x 60000 pixels"),
    ],
    ids=["empty", "text", "web page", "two bytes", "zeros", "cut png", "huge", "large", "zero width", "huge jpeg"],
)
def test_what_is_no_usable_image_is_refused_with_the_reason(content: bytes, said: str) -> None:
    for scaled, what in ((False, "ignore"), (True, "ignore"), (True, "error")):
        with warnings.catch_warnings():
            warnings.simplefilter(what)  # type: ignore[arg-type]
            with pytest.raises(UnreadableImage, match=said):
                decode(content, 32, crop="none", scaled=scaled)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_images_damaged_at_random_are_decoded_or_refused_and_nothing_else(kind: str) -> None:
    noise = random.Random(3)
    content = encoded(photo(40, 30), kind)
    for k in range(300):
        damaged = bytearray(content[: noise.randrange(1, len(content))] if k % 5 == 0 else content)
        for _ in range(noise.choice((1, 2, 5))):
            damaged[noise.randrange(min(len(damaged), noise.choice((60, 300, 10**6))))] = noise.randrange(256)
        try:
            pixels, _ = decode(bytes(damaged), 32, crop="center-square", scaled=bool(k % 2))
        except UnreadableImage:
            continue
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)


def test_the_same_file_gives_the_same_pixels_in_any_thread_and_warnings_stay_as_they_are() -> None:
    contents = [
        jpeg(90, 70),
        encoded(photo(50, 60), "PNG"),
        encoded(Image.fromarray(photo(40, 40)).convert("L"), "PNG"),
    ]
    before = list(warnings.filters)
    expected = [whole(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        for k, pixels in enumerate(pool.map(whole, contents * 200)):
            assert np.array_equal(pixels, expected[k % 3])
    assert warnings.filters == before
