"""Pieces of HTML for the page of an audit: safe text, numbers with intervals, tables, and why a value is missing."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from benchmark.records.schema import MetricValue

Number = Callable[[float], str]
"""How a value is written."""

PERCENT = "\N{NARROW NO-BREAK SPACE}%"

Colour = Literal["good", "mixed", "bad", "none"]


def text(value: object) -> str:
    """Return a value as text that HTML shows as it is: no markup, and no controls that reorder or hide characters."""
    plain = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character).startswith("C") else character
        for character in " ".join(str(value).split())
    )
    return html.escape(plain)


def decimal(value: float, digits: int) -> str:
    """Return a number with a fixed number of digits and a real minus sign."""
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """Return a share in percent, with its unit."""
    return f"{decimal(100 * value, 1)}{PERCENT}"


def points(value: float) -> str:
    """Return a difference of shares in points, with its sign."""
    shown = decimal(100 * value, 1)
    return f"+{shown}" if value > 0 else shown


def tenths_of_percent(value: float) -> str:
    """Return a share in percent, without its unit."""
    return decimal(100 * value, 1)


def whole_percent(value: float) -> str:
    """Return a share in whole percent, without its unit."""
    return decimal(100 * value, 0)


def hundredths(value: float) -> str:
    """Return a number with two digits."""
    return decimal(value, 2)


def thousandths(value: float) -> str:
    """Return a number with three digits."""
    return decimal(value, 3)


def times_thousand(value: float) -> str:
    """Return a thousand times a number."""
    return decimal(1000 * value, 1)


def counted(number: int, one: str) -> str:
    """Return a number of things."""
    return f"{number:,} {one if number == 1 else f'{one}s'}"


def capital(name: str) -> str:
    """Return a text with a large first letter; the rest stays as it is."""
    return name[:1].upper() + name[1:]


class Numbers:
    """Writes numbers; where one is missing it writes "—", and lists the reasons in the order of the page."""

    def __init__(self) -> None:
        self._reasons: dict[str, int] = {}

    def value(self, metric: MetricValue, number: Number = percent) -> str:
        """Return a metric with its interval."""
        if metric.value is None:
            return self.null(metric.reason or "")
        shown = f"<strong>{number(metric.value)}</strong>"
        if metric.low is None or metric.high is None:
            return f'<span title="{text(metric.reason or metric.interval)}">{shown}</span>'
        ends = ", ".join(number(end).removesuffix(PERCENT) for end in (metric.low, metric.high))
        return f'{shown} <span class="interval" title="{text(metric.interval)}">[{ends}]</span>'

    def plain(self, value: float | None, number: Number, why_null: str) -> str:
        """Return a value that has no interval."""
        return self.null(why_null) if value is None else number(value)

    def null(self, reason: str) -> str:
        """Return "—" with its reason."""
        return f'<span class="null" title="{text(reason)}">—</span>{self.mark(reason)}'

    def mark(self, reason: str) -> str:
        """Return a raised number that leads to a reason."""
        number = self._reasons.setdefault(reason, len(self._reasons) + 1)
        return f'<sup><a href="#reason-{number}" aria-label="reason {number}">{number}</a></sup>'

    def listed(self) -> str:
        """Return the reasons of everything that was missing so far."""
        items = "".join(f'<li id="reason-{number}">{text(reason)}</li>' for reason, number in self._reasons.items())
        return f"<p>Behind each “—”:</p><ol>{items}</ol>" if items else ""


def chip(verdict: str, colour: Colour, why: str = "") -> str:
    """Return a verdict in a few words; the colour only repeats it."""
    title = f' title="{text(why)}"' if why else ""
    return f'<span class="chip {colour}"{title}>{text(verdict)}</span>'


def table(caption: str, heads: Iterable[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table whose first column heads its rows.

    Args:
        caption: HTML, like everything else here.
        heads: Of the columns, the first included.
        rows: Head and further cells of each row; a cell that is an SVG becomes as wide as tracks are.
    """
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td{' class=line' if cell.startswith('<svg') else ''}>{cell}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows
    )
    return (
        f'<div class="scroll"><table class="breaks"><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def section(title: str, *parts: str) -> str:
    """Return a section of HTML parts, or nothing where all are empty."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{text(title)}</h2>\n{content}</section>" if content else ""


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """Return names, which are text, with values, which are HTML."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in entries) + "</dl>"
