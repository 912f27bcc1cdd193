"""Text from records, made safe for a Markdown table: submissions are untrusted."""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 160
# A URL or e-mail address would be linked by itself; an underscore inside a word is no emphasis and stays readable.
_MARKUP = re.compile(r"[|<>&`*\[\]\\#!~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=[wW]{3})\.|@(?=\S*\.)")


def safe(text: str, longest: int = _LONGEST) -> str:
    """Return a text that a Markdown renderer shows as it is: no markup, HTML, links, line breaks or hidden characters.

    Args:
        text: Anything.
        longest: Characters that are kept; the rest becomes an ellipsis.
    """
    plain = " ".join("".join(_visible(character) for character in text[: 8 * longest]).split())
    if len(plain) > longest:
        plain = plain[: longest - 1] + "…"
    return _MARKUP.sub(lambda match: f"&#{ord(match.group())};", plain)


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    # Controls, directional overrides, zero-width characters, surrogates and unassigned code points.
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character).startswith("C") else character
