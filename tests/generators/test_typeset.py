"""The renderer of typeset glyphs: deterministic, legible, of the named colours, and only from complete fonts."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from benchmark.errors import InvalidValue
from benchmark.generators import typeset


def test_every_digit_and_letter_is_in_every_font() -> None:
    fonts = typeset.typeset_fonts()

    assert len(fonts) >= 15
    for font in fonts:
        assert {ord(c) for c in "0123456789" + typeset.LETTERS} <= FT2Font(str(font)).get_charmap().keys()
    assert not any(font.name.startswith(("cmsy", "cmmi", "cmex", "STIXSiz", "LastResort")) for font in fonts)


def test_letters_that_look_like_digits_are_left_out() -> None:
    assert not set("oOlI") & set(typeset.LETTERS)


def test_the_same_seed_gives_the_same_pixels() -> None:
    first, again, other = (typeset.render_random(20, seed=seed) for seed in (3, 3, 4))

    assert first.pixels.shape == (20, 32, 32, 3)
    assert first.pixels.dtype == np.uint8
    assert np.array_equal(first.pixels, again.pixels)
    assert first.characters == again.characters
    assert not np.array_equal(first.pixels, other.pixels)


def test_ink_lies_inside_a_black_border_and_fills_a_glyph() -> None:
    pixels = typeset.render_random(300, seed=0).pixels
    brightest = pixels.max(axis=3)

    assert brightest.max(axis=(1, 2)).min() > 150
    assert np.median(brightest) == 0
    height = (brightest > 100).any(axis=2).sum(axis=1)
    assert np.percentile(height, 5) >= 15
    assert np.percentile(height, 95) <= 31


@pytest.mark.parametrize("colour", typeset.COLOURS)
def test_full_ink_is_near_its_reference_colour_and_no_other(colour: str) -> None:
    index = typeset.COLOURS.index(colour)
    pixels = typeset.render_glyphs(["8"] * 40, [index] * 40, seed=1).pixels.reshape(40, -1, 3).astype(float)
    fullest = pixels[np.arange(40), pixels.sum(axis=2).argmax(axis=1)]
    references = np.array(list(typeset.PALETTE.values()), dtype=float)

    nearest = np.linalg.norm(fullest[:, None] - references[None], axis=2).argmin(axis=1)

    assert (nearest == index).all()


def test_digits_are_drawn_more_often_than_letters() -> None:
    digits = typeset.render_random(1000, seed=5).digits

    assert 0.65 < np.mean(digits >= 0) < 0.75
    assert set(digits) == {-1, *range(10)}


@pytest.mark.parametrize(
    ("character", "colour", "expected"),
    [
        ("7", "red", "a red seven"),
        ("0", None, "a zero"),
        ("K", "cyan", "a cyan letter k"),
        ("k", "cyan", "a cyan letter k"),
        ("b", None, "a letter b"),
    ],
)
def test_captions(character: str, colour: str | None, expected: str) -> None:
    assert typeset.caption(character, colour) == expected


@pytest.mark.parametrize(
    ("character", "colour"), [("7", "teal"), ("O", "red"), ("?", "red"), ("12", "red"), ("", None)]
)
def test_a_caption_of_something_never_drawn_is_refused(character: str, colour: str | None) -> None:
    with pytest.raises(InvalidValue):
        typeset.caption(character, colour)


def test_colours_and_characters_must_match_in_number() -> None:
    with pytest.raises(InvalidValue, match="2 characters but 1 colours"):
        typeset.render_glyphs(["1", "2"], [0], seed=0)


def test_importing_the_renderer_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, benchmark.generators.typeset; "
        "print([m for m in ('torch', 'matplotlib', 'PIL') if m in sys.modules])"
    )

    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert finished.stdout.strip() == "[]"
