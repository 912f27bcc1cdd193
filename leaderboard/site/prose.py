"""The board's own Markdown texts as HTML: emphasis, code and nested lists, which is all that :mod:`wording` uses."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_MARKS = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<!\\)\*(\w+)\*"), r"<em>\1</em>"),
    (re.compile(r"`(.+?)`"), r"<code>\1</code>"),
    (re.compile(r"\\([*_])"), r"\1"),
)


def inline(markdown: str) -> Markup:
    """Return a text with its emphasis and code."""
    shown = str(escape(markdown))
    for mark, element in _MARKS:
        shown = mark.sub(element, shown)
    return Markup(shown)


def listed(markdown: str) -> Markup:
    """Return the items of a list; headings are left out, lines that go on are joined."""
    items: list[str] = []
    for line in markdown.splitlines():
        if line.startswith("- "):
            items.append(line.removeprefix("- "))
        elif items and line.strip():
            items[-1] += f" {line.strip()}"
    return (
        Markup("<ul>") + Markup("").join(Markup("<li>{}</li>").format(inline(item)) for item in items) + Markup("</ul>")
    )
