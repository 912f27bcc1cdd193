"""Bias levels as exact decimal strings, and the one way counts are rounded."""

from __future__ import annotations

import re
from fractions import Fraction

from benchmark.errors import InvalidValue

BALANCED = "balanced"
NATIVE = "native"
NAMED_LEVELS = (BALANCED, NATIVE)
_DECIMAL = re.compile(r"0?\.[0-9]{1,6}")


def normalise_level(text: str) -> str:
    """Return the one spelling of a bias level: ``.95``, ``0.95`` and ``0.950`` are ``"0.95"``.

    Raises:
        InvalidValue: When it is neither a named level nor a decimal strictly between 0 and 1.
    """
    text = text.strip().lower()
    if text in NAMED_LEVELS:
        return text
    digits = text.split(".")[-1].rstrip("0")
    if not _DECIMAL.fullmatch(text) or not digits:
        raise InvalidValue(
            f"bias level {text!r} is not a share between 0 and 1 such as 0.95, nor one of {', '.join(NAMED_LEVELS)}"
        )
    return f"0.{digits}"


def rho_of(level: str) -> Fraction:
    """Return a decimal level as an exact fraction (in floating point 50·(1−.99) is not .5)."""
    return Fraction(level)


def round_half_up(value: Fraction) -> int:
    """Round an exact non-negative number, halves upwards."""
    return int((2 * value + 1) // 2)
