"""Ablated views on images small enough to say every pixel by hand."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DataError
from benchmark.tasks.ablations import (
    BACKGROUND,
    BOX_GREY,
    CLEAN,
    FOREGROUND,
    NOISE_VIEWS,
    OBJECT_GREY,
    SIGMA,
    TILED,
    VIEWS,
    ablate,
    bounding_box,
    decode_mask,
)
from benchmark.tasks.decode import UnreadableImage

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def numbered(height: int = 10, width: int = 10) -> Pixels:
    """Every pixel says where it stands: red is its row, green its column, blue 77."""
    image = np.full((height, width, 3), 77, dtype=np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(height)[:, None], np.arange(width)[None, :]
    return image


def covering(rows: slice, columns: slice, height: int = 10, width: int = 10) -> Mask:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[rows, columns] = True
    return mask


def elbow() -> Mask:
    """An L, so that the object and its box differ: rows 2..4 of column 3, and row 4 up to column 6."""
    return covering(slice(2, 5), slice(3, 4)) | covering(slice(4, 5), slice(3, 7))


# --- views and masks -----------------------------------------------------------------------------------------------


def test_there_are_ten_views_clean_first() -> None:
    assert VIEWS == (
        "clean", "object-grey", "box-grey", "tiled", "noise-foreground-0", "noise-foreground-1", "noise-foreground-2",
        "noise-background-0", "noise-background-1", "noise-background-2",
    )  # fmt: skip


def test_a_bounding_box_ends_behind_the_last_covered_row_and_column() -> None:
    assert bounding_box(elbow()) == (2, 5, 3, 7)
    assert bounding_box(covering(slice(9, 10), slice(0, 1))) == (9, 10, 0, 1)
    assert bounding_box(np.ones((4, 6), dtype=np.bool_)) == (0, 4, 0, 6)
    assert bounding_box(np.zeros((4, 6), dtype=np.bool_)) is None


@pytest.mark.parametrize("view", VIEWS)
def test_no_view_touches_the_image_that_it_is_made_from(view: str) -> None:
    image, mask = numbered(), elbow()
    found = ablate(view, image, mask, "val/n/1.JPEG")
    np.testing.assert_array_equal(image, numbered())
    np.testing.assert_array_equal(mask, elbow())
    assert (found.shape, found.dtype) == (image.shape, np.uint8)


@pytest.mark.parametrize("view", VIEWS)
def test_a_mask_of_another_size_is_refused_with_both_sizes(view: str) -> None:
    with pytest.raises(DataError, match=r"the mask of val/n/1\.JPEG is \(10, 9\), its image \(10, 10\)"):
        ablate(view, numbered(), elbow()[:, :9], "val/n/1.JPEG")


@pytest.mark.parametrize("view", ["blur", "noise-foreground-3", "noise-foreground", "noise--0", "Clean", ""])
def test_a_view_that_does_not_exist_is_refused_with_those_that_do(view: str) -> None:
    with pytest.raises(DataError, match=r"no view .*there are clean, object-grey.*noise-background-2"):
        ablate(view, numbered(), elbow(), "i")


# --- grey ----------------------------------------------------------------------------------------------------------


def test_clean_is_the_image() -> None:
    np.testing.assert_array_equal(ablate(CLEAN, numbered(), elbow(), "i"), numbered())


def test_a_grey_object_is_exactly_128_and_nothing_else_is() -> None:
    found = ablate(OBJECT_GREY, numbered(), elbow(), "i")
    assert (found[elbow()] == 128).all()
    np.testing.assert_array_equal(found[~elbow()], numbered()[~elbow()])


def test_a_grey_box_covers_what_lies_between_the_object_s_ends() -> None:
    box = covering(slice(2, 5), slice(3, 7))
    found = ablate(BOX_GREY, numbered(), elbow(), "i")
    assert (found[box] == 128).all()
    np.testing.assert_array_equal(found[~box], numbered()[~box])


# --- tiles ---------------------------------------------------------------------------------------------------------


def tiled_from(mask: Mask, rows: list[int], columns: list[int]) -> None:
    """Compare with the image in which the box's rows and columns are taken from the named ones."""
    box = bounding_box(mask)
    assert box is not None
    top, bottom, left, right = box
    expected = numbered()
    expected[top:bottom, left:right] = numbered()[np.ix_(rows, columns)]
    np.testing.assert_array_equal(ablate(TILED, numbered(), mask, "i"), expected)


def test_a_box_with_room_on_all_sides_is_tiled_from_above() -> None:
    tiled_from(elbow() & covering(slice(4, 5), slice(0, 10)), [3], [3, 4, 5, 6])
    tiled_from(covering(slice(4, 7), slice(4, 6)), [1, 2, 3], [4, 5])


def test_a_box_at_the_top_is_tiled_from_below() -> None:
    tiled_from(covering(slice(0, 2), slice(3, 6)), [2, 3], [3, 4, 5])


def test_a_strip_that_is_too_short_is_repeated_from_its_own_beginning() -> None:
    # Six rows and columns in the corner: four rows below and four columns on the right are left, below comes first.
    tiled_from(covering(slice(0, 6), slice(0, 6)), [6, 7, 8, 9, 6, 7], [0, 1, 2, 3, 4, 5])
    # Columns 6..8 and all rows: three columns on the left beat the one on the right.
    tiled_from(covering(slice(0, 10), slice(6, 9)), list(range(10)), [3, 4, 5])
    # Columns 2..5: two columns on the left, four on the right.
    tiled_from(covering(slice(0, 10), slice(2, 6)), list(range(10)), [6, 7, 8, 9])
    # Rows 1..8 over the whole width: one row above, one below; above comes first.
    tiled_from(covering(slice(1, 9), slice(0, 10)), [0] * 8, list(range(10)))
    # Columns 0..8: one column on the right, and nothing else.
    tiled_from(covering(slice(0, 10), slice(0, 9)), list(range(10)), [9] * 9)


def test_the_tile_is_the_larger_neighbour() -> None:
    # Rows 6..8 over the whole width: three rows above, one below.
    tiled_from(covering(slice(6, 9), slice(0, 10)), [3, 4, 5], list(range(10)))
    # Rows 1..3: one row above, three below.
    tiled_from(covering(slice(1, 4), slice(0, 10)), [4, 5, 6], list(range(10)))


def test_the_tile_covers_the_box_and_not_the_object_alone() -> None:
    # The L reaches over rows 2..4: two rows above, three below.
    tiled_from(elbow(), [5, 6, 7], [3, 4, 5, 6])


def test_a_tile_never_shows_the_object() -> None:
    image = np.full((12, 12, 3), 10, dtype=np.uint8)
    for top in range(0, 12, 3):
        for left in range(0, 12, 3):
            mask = covering(slice(top, min(12, top + 5)), slice(left, min(12, left + 4)), 12, 12)
            painted = image.copy()
            painted[mask] = 200
            assert (ablate(TILED, painted, mask, "i") == 10).all()


def test_an_object_that_fills_the_image_leaves_grey_and_nothing_to_tile_with() -> None:
    full = np.ones((10, 10), dtype=np.bool_)
    for view in (OBJECT_GREY, BOX_GREY, TILED):
        assert (ablate(view, numbered(), full, "i") == 128).all()
    # A frame around background is a box that fills the image too.
    frame = ~covering(slice(1, 9), slice(1, 9))
    assert (ablate(TILED, numbered(), frame, "i") == 128).all()


def test_an_empty_mask_changes_nothing_but_the_background_s_noise() -> None:
    empty = np.zeros((10, 10), dtype=np.bool_)
    for view in VIEWS:
        found = ablate(view, numbered(), empty, "i")
        assert np.array_equal(found, numbered()) == (not view.startswith(BACKGROUND)), view


# --- noise ---------------------------------------------------------------------------------------------------------

GREY = np.full((224, 224, 3), 128, dtype=np.uint8)
HALF = covering(slice(0, 224), slice(0, 112), 224, 224)


def test_noise_lies_where_it_should_and_leaves_every_grey_value_elsewhere_as_it_is() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    mask = covering(slice(0, 16), slice(0, 8), 16, 16)
    for view in NOISE_VIEWS:
        where = mask if view.startswith(FOREGROUND) else ~mask
        found = ablate(view, image, mask, "i")
        np.testing.assert_array_equal(found[~where], image[~where])
        assert (found[where] != image[where]).mean() > 0.9


def test_foreground_and_background_of_one_draw_have_the_same_noise() -> None:
    everywhere = np.ones((224, 224), dtype=np.bool_)
    for draw in range(3):
        whole = ablate(f"{FOREGROUND}-{draw}", GREY, everywhere, "val/n/1.JPEG")
        front = ablate(f"{FOREGROUND}-{draw}", GREY, HALF, "val/n/1.JPEG")
        back = ablate(f"{BACKGROUND}-{draw}", GREY, HALF, "val/n/1.JPEG")
        np.testing.assert_array_equal(np.where(HALF[:, :, None], front, back), whole)


def test_noise_is_fixed_by_the_image_s_id_and_the_draw() -> None:
    def noise(name: str, draw: int) -> Pixels:
        return ablate(f"{FOREGROUND}-{draw}", GREY, HALF, name)

    np.testing.assert_array_equal(noise("a", 0), noise("a", 0))
    made = [noise(name, draw) for name in ("a", "b") for draw in range(3)]
    assert len({image.tobytes() for image in made}) == 6


def test_the_noise_is_that_of_its_sentence() -> None:
    """PCG64 seeded by the first 16 bytes of SHA-256 of ``hard-imagenet/noise/<id>/<draw>``, σ = .25 on [0, 1]."""
    digest = hashlib.sha256(b"hard-imagenet/noise/val/n1/x.JPEG/2").digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    noise = generator.standard_normal((6, 5, 3), dtype=np.float32).astype(np.float64)
    image = numbered(6, 5) * np.uint8(20)
    exact = np.clip(image / 255 + 0.25 * noise, 0, 1) * 255
    found = ablate("noise-background-2", image, np.zeros((6, 5), dtype=np.bool_), "val/n1/x.JPEG")
    assert np.abs(found - exact).max() <= 0.5 + 1e-3


def test_the_noise_has_a_standard_deviation_of_a_quarter_and_no_offset() -> None:
    assert SIGMA == 0.25
    deviations = [(ablate(f"{BACKGROUND}-{draw}", GREY, ~HALF, f"{draw}")[HALF] - 128.0) / 255 for draw in range(3)]
    # Two σ reach the ends of the range, so quantiles, which clipping leaves alone: Φ(−1), ½ and Φ(1).
    low, middle, high = np.quantile(np.concatenate(deviations), [0.158655, 0.5, 0.841345])
    assert abs(low + 0.25) < 0.005
    assert abs(middle) < 0.005
    assert abs(high - 0.25) < 0.005


def test_noise_is_clipped_and_never_wraps_around() -> None:
    for value in (0, 255):
        flat = np.full((224, 224, 3), value, dtype=np.uint8)
        found = ablate("noise-foreground-0", flat, HALF, "i")[HALF].astype(int)
        # Half of the noise points out of the range and stays at its end; the rest reaches a few σ inwards.
        assert abs((found == value).mean() - 0.5) < 0.02
        inwards = np.abs(found - value)
        assert 200 < inwards.max() <= 255
        assert (inwards <= 0.75 * 255).mean() > 0.99


# --- masks ---------------------------------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def square(value: int = 255, side: int = 40) -> Pixels:
    pixels = np.zeros((side, side), dtype=np.uint8)
    pixels[10:20, 5:30] = value
    return pixels


def masks() -> dict[str, bytes]:
    grey = Image.fromarray(square())
    palette = Image.fromarray((square() > 0).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 20, 21, 110])
    return {
        "grey": saved(grey),
        "faint grey": saved(Image.fromarray(square(1))),
        "one bit": saved(grey.convert("1")),
        "colour": saved(grey.convert("RGB")),
        "one channel of three": saved(Image.merge("RGB", [Image.new("L", grey.size), Image.new("L", grey.size), grey])),
        "opaque": saved(grey.convert("RGBA")),
        "grey with alpha": saved(grey.convert("LA")),
        "palette": saved(palette),
        "sixteen bits": saved(Image.fromarray(square().astype(np.uint16) * 257)),
    }


@pytest.mark.parametrize("kind", masks())
def test_a_mask_of_any_mode_covers_what_is_not_black(kind: str) -> None:
    found = decode_mask(masks()[kind], 40, "none")[0]
    assert (found.shape, found.dtype) == ((40, 40, 1), np.uint8)
    np.testing.assert_array_equal(found[:, :, 0], np.where(square() > 0, 255, 0))


def test_a_mask_saved_as_jpeg_covers_the_object_and_hardly_more() -> None:
    found = decode_mask(saved(Image.fromarray(square()), "JPEG", quality=95), 40, "none")[0][:, :, 0] > 0
    assert found[square() > 0].all()
    # The blocks of eight pixels that the object's edge runs through may ring; nothing beyond them does.
    assert not found[24:].any()
    assert not found[:, 32:].any()


@pytest.mark.parametrize("shape", [(40, 40), (80, 60), (33, 90), (500, 375)])
@pytest.mark.parametrize("crop", ["none", "center-square"])
def test_a_mask_of_any_size_is_cut_like_its_image_and_gets_no_new_values(shape: tuple[int, int], crop: str) -> None:
    height, width = shape
    covered = np.zeros(shape, dtype=np.uint8)
    covered[height // 4 : height // 2, width // 2 :] = 255
    found = decode_mask(saved(Image.fromarray(covered)), 32, crop)[0]
    assert found.shape == (32, 32, 1)
    assert set(np.unique(found)) == {0, 255}
    side = min(height, width) if crop == "center-square" else 0
    top, left = ((height - side) / 2, (width - side) / 2) if side else (0.0, 0.0)
    high, wide = (side, side) if side else (height, width)
    rows = (top + (np.arange(32) + 0.5) * high / 32).astype(int)
    columns = (left + (np.arange(32) + 0.5) * wide / 32).astype(int)
    differing = found[:, :, 0] != covered[np.ix_(rows, columns)]
    assert differing.mean() < 0.05  # a row or a column where a centre falls between two pixels


def test_a_mask_that_covers_nothing_is_black() -> None:
    assert not decode_mask(saved(Image.new("L", (50, 40))), 16, "center-square")[0].any()


@pytest.mark.parametrize("content", [b"", b"<html>", saved(Image.new("L", (50, 40), 255))[:60], np.zeros(4, np.uint8)])
def test_a_mask_that_is_no_image_is_refused(content: bytes | Pixels) -> None:
    with pytest.raises(UnreadableImage):
        decode_mask(content, 16, "none")
