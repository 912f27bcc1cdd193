"""Renders typeset coloured digits and letters from Matplotlib's fonts, with captions, deterministically from a seed.

Called by `make_tiny_sd` (the training images of tiny-sd) and by `tiny_sd_quality` (fresh images for its classifier).
"""

from __future__ import annotations

import colorsys
import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InvalidValue

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SIZE = 32
"""Height and width of a rendered image, in pixels."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (230, 25, 25),
    "orange": (245, 130, 20),
    "yellow": (240, 230, 30),
    "green": (30, 180, 50),
    "cyan": (40, 220, 220),
    "blue": (40, 70, 240),
    "purple": (130, 40, 220),
    "magenta": (230, 40, 230),
    "pink": (255, 150, 180),
    "white": (235, 235, 235),
}
"""Reference RGB of each colour word; every image jitters hue, saturation and brightness around it."""

COLOURS: tuple[str, ...] = tuple(PALETTE)
DIGIT_WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

LETTERS: str = "".join(sorted(set(string.ascii_letters) - set("oOlIQ")))
"""Letters drawn; those that some font draws like a digit (o, O, l, I) or like another letter (Q) are left out."""

DIGIT_SHARE = 0.7
"""Share of digits among rendered images; the rest are letters."""

_SYMBOL_FAMILIES = ("LastResort", "STIXNonUni", "STIXSiz", "cmsy", "cmex", "cmmi")
_MASTER_SIZE = 64
_CANVAS = 2 * IMAGE_SIZE


@dataclass(frozen=True)
class TypesetImages:
    """Rendered images with what they show.

    Attributes:
        pixels: uint8 array (n, 32, 32, 3), coloured ink on black.
        characters: the character drawn in each image, `n` of them.
        colours: int64 array (n,), index into `COLOURS`.
    """

    pixels: NDArray[np.uint8]
    characters: tuple[str, ...]
    colours: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def digits(self) -> NDArray[np.int64]:
        """The digit of each image, (n,); -1 for a letter."""
        return np.array([int(c) if c.isdigit() else -1 for c in self.characters], dtype=np.int64)


def caption(character: str, colour: str | None = None) -> str:
    """Caption of one glyph: "a red seven", "a seven", "a red letter k".

    Args:
        character: an ASCII digit or letter; both cases of a letter share one caption.
        colour: a word of `COLOURS`, or None to leave the colour out.

    Raises:
        InvalidValue: if the character or the colour is not one this module draws.
    """
    if colour is not None and colour not in PALETTE:
        raise InvalidValue(f"unknown colour {colour!r}; use one of {', '.join(COLOURS)}")
    if character in string.digits and len(character) == 1:
        noun = DIGIT_WORDS[int(character)]
    elif len(character) == 1 and character in LETTERS:
        noun = f"letter {character.lower()}"
    else:
        raise InvalidValue(f"cannot caption {character!r}; use one ASCII digit or one letter of {LETTERS}")
    return f"a {noun}" if colour is None else f"a {colour} {noun}"


@functools.cache
def typeset_fonts() -> tuple[Path, ...]:
    """Text fonts shipped with Matplotlib that have a glyph for every digit and letter drawn here, sorted by name.

    A font without a glyph would draw a box, so the fonts' own character maps decide; symbol fonts are left out by name
    because they map letters to something else.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    needed = {ord(c) for c in string.digits + LETTERS}
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    candidates = sorted(p for p in folder.glob("*.ttf") if not p.name.startswith(_SYMBOL_FAMILIES))
    return tuple(p for p in candidates if needed <= FT2Font(str(p)).get_charmap().keys())


@functools.cache
def _master_glyph(font: Path, character: str) -> Image:
    """The glyph as a grey-scale image, cropped to its ink and about 64 pixels high."""
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), size=2 * _MASTER_SIZE)
    left, top, right, bottom = (round(edge) for edge in face.getbbox(character))
    large = Image.new("L", (right - left + 8, bottom - top + 8))
    ImageDraw.Draw(large).text((4 - left, 4 - top), character, fill=255, font=face)
    ink = large.crop(large.getbbox())
    width = max(1, round(ink.width * _MASTER_SIZE / ink.height))
    return ink.resize((width, _MASTER_SIZE), Image.Resampling.LANCZOS)


def _inverse_affine(rng: np.random.Generator, width: int, spread: float) -> tuple[float, ...]:
    """Random output-to-master map (PIL order) for a master glyph of the given width."""
    height = 2 * (28.0 - rng.uniform(0.0, 10.0 * spread))
    scale_y = height / _MASTER_SIZE
    scale_x = scale_y * rng.uniform(0.85, 1.15)
    scale_x *= min(1.0, 56.0 / (width * scale_x))
    angle = np.deg2rad(rng.uniform(-12.0, 12.0) * spread)
    shear = rng.uniform(-0.15, 0.15) * spread
    room = max(1.0, 0.5 * (_CANVAS - height))
    shift = rng.uniform(-1.0, 1.0, size=2) * min(6.0 * spread, room)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([scale_x, scale_y])
    inverse = np.linalg.inv(forward)
    offset = np.array([width / 2, _MASTER_SIZE / 2]) - inverse @ (np.array([_CANVAS / 2, _CANVAS / 2]) + shift)
    return (*inverse[0].tolist(), float(offset[0]), *inverse[1].tolist(), float(offset[1]))


def _ink(rng: np.random.Generator, font: Path, character: str, spread: float) -> NDArray[np.float32]:
    """Ink coverage (32, 32) in [0, 1] of one randomly placed glyph with a random stroke thickness."""
    from PIL import Image, ImageFilter

    master = _master_glyph(font, character)
    affine = _inverse_affine(rng, master.width, spread)
    placed = master.transform((_CANVAS, _CANVAS), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    blurred = placed.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 1.8)))
    threshold, slope = rng.uniform(0.2, 0.5), rng.uniform(2.0, 4.0)
    coverage = np.asarray(blurred, dtype=np.float32) / 255.0
    inked = np.clip((coverage - threshold) * slope + 0.5, 0.0, 1.0) * np.clip(coverage * 8.0, 0.0, 1.0)
    return inked.reshape(IMAGE_SIZE, 2, IMAGE_SIZE, 2).mean(axis=(1, 3), dtype=np.float32)


def jittered_colour(rng: np.random.Generator, colour: str) -> NDArray[np.float32]:
    """RGB (3,) in [0, 255] near the reference of `colour`: hue within 4 degrees, saturation and value within 6 %."""
    red, green, blue = (channel / 255.0 for channel in PALETTE[colour])
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    hue = (hue + rng.uniform(-4.0, 4.0) / 360.0) % 1.0
    saturation = float(np.clip(saturation + rng.uniform(-0.06, 0.06), 0.0, 1.0))
    value = float(np.clip(value + rng.uniform(-0.06, 0.06), 0.0, 1.0))
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def render_glyphs(
    characters: Sequence[str], colours: Sequence[int] | NDArray[np.int64], seed: int, spread: float = 1.0
) -> TypesetImages:
    """Draw each character in its colour with a random font, size, rotation, shear, shift, thickness and blur.

    Args:
        characters: ASCII digits or letters.
        colours: index into `COLOURS` for each character.
        seed: the same seed and arguments give the same pixels.
        spread: factor on the geometric variation; 1 is 18 to 28 pixels high and 12 degrees of rotation either way.

    Raises:
        InvalidValue: if there are not as many colours as characters.
    """
    if len(characters) != len(colours):
        raise InvalidValue(f"{len(characters)} characters but {len(colours)} colours; give one colour per character")
    rng = np.random.default_rng(seed)
    fonts = typeset_fonts()
    pixels = np.empty((len(characters), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for row, (character, colour) in enumerate(zip(characters, colours, strict=True)):
        ink = _ink(rng, fonts[rng.integers(len(fonts))], character, spread)
        pixels[row] = np.rint(ink[..., None] * jittered_colour(rng, COLOURS[colour])).astype(np.uint8)
    return TypesetImages(pixels, tuple(characters), np.asarray(colours, dtype=np.int64))


def render_random(count: int, seed: int, digit_share: float = DIGIT_SHARE, spread: float = 1.0) -> TypesetImages:
    """Draw `count` random glyphs: a digit with probability `digit_share`, else a letter; colours are uniform."""
    rng = np.random.default_rng([seed, 1])
    is_digit = rng.random(count) < digit_share
    digits, letters = rng.integers(len(DIGIT_WORDS), size=count), rng.integers(len(LETTERS), size=count)
    characters = [str(d) if use else LETTERS[k] for use, d, k in zip(is_digit, digits, letters, strict=True)]
    return render_glyphs(characters, rng.integers(len(COLOURS), size=count), seed, spread)
