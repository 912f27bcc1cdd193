"""Text from records, made safe for a Markdown table or a terminal: submissions are untrusted."""

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
    return _MARKUP.sub(lambda match: f"&#{ord(match.group())};", plain(text, longest))


def plain(text: str, longest: int = _LONGEST) -> str:
    """Return a text on one line, without controls and hidden characters: for terminals and JSON, where markup is none.

    Args:
        text: Anything.
        longest: Characters that are kept; the rest becomes an ellipsis.
    """
    line = " ".join("".join(_visible(character) for character in text[: 8 * longest]).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    # Controls, directional overrides, zero-width characters, surrogates and unassigned code points.
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character).startswith("C") else character
