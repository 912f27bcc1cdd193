"""SVG by hand: intervals beside their numbers, small panels of lines, and a scatter; small, and the same every time.

Colours and strokes are the style sheet's; text from records is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmark.audits.markup import decimal
from leaderboard.models import Estimate

BAR_WIDTH = 96
"""CSS pixels of a bar beside a number."""
_MARGIN, _RANKS = 4, 48
"""Free pixels at either end, and the width of the strip of ranks."""
_PANEL = (210, 132)
_PLOT = (34, 202, 8, 108)
"""Left, right, top and bottom of a panel's plot."""
_SCATTER = (760, 400)
_INSIDE = (56, 740, 16, 346)
_LETTER, _BOLD, _LINE = 6.3, 7.2, 13.0
"""Width of a letter, of a bold one, and their height in the scatter."""


@dataclass(frozen=True)
class Scale:
    """A linear scale from ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float | None], *, step: float, least: float | None = None) -> Scale:
        """Return the scale from one multiple of ``step`` to another that holds all values."""
        known = [value for value in values if value is not None] or [0.0, 1.0]
        low, high = math.floor(min(known) / step + 1e-9) * step, math.ceil(max(known) / step - 1e-9) * step
        low = low if least is None else max(low, least)
        return cls(low, high if high > low else low + step)

    def at(self, value: float, start: float, stop: float) -> float:
        """Return where a value lies between two positions; beyond the ends it lies at the end."""
        share = (value - self.low) / (self.high - self.low)
        return start + (stop - start) * min(max(share, 0.0), 1.0)


def number(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def bar(found: Estimate, scale: Scale, reference: float | None = None) -> Markup:
    """Draw an interval with a tick at its value, and a line at a reference."""
    if found.value is None:
        return Markup("")
    line = f'<path class="e" d="M{_on_bar(reference, scale)} 0v14"/>' if reference is not None else ""
    path = f"M{_on_bar(found.value, scale)} 3v8"
    if found.low is not None and found.high is not None:
        low, high = (scale.at(end, _MARGIN, BAR_WIDTH - _MARGIN) for end in (found.low, found.high))
        path += f"M{number(low)} 7h{number(high - low)}"
    return Markup(f'<svg>{line}<path d="{path}"/></svg>')


def _on_bar(value: float, scale: Scale) -> str:
    return number(scale.at(value, _MARGIN, BAR_WIDTH - _MARGIN))


def rank_bar(low: int, high: int, among: int) -> Markup:
    """Draw a rank interval among so many rows."""
    each = _RANKS / among
    start, width = number(_MARGIN + each * (low - 1)), number(each * (high - low + 1))
    return Markup(f'<svg class="r"><path d="M{start} 7h{width}"/></svg>')


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        kind: Class of its colour.
        points: Its values by position; None where it has none.
        band: Whether its intervals are drawn.
    """

    kind: str
    points: Sequence[Estimate | None]
    band: bool = False


def frame(name: str, ticks: Sequence[str], scale: Scale, marks: Sequence[float]) -> Markup:
    """Return what the panels of one chart have in common, to be drawn once and used by the others.

    Args:
        name: Of the element, within the page.
        ticks: Names of the positions.
        scale: Of the values.
        marks: Values at which there is a line across, written as percent.
    """
    left, right, top, bottom = _PLOT
    parts = []
    for value in marks:
        y = round(scale.at(value, bottom, top))
        parts.append(f'<path class="grid" d="M{left} {y}H{right}"/>')
        parts.append(f'<text class="end" x="{left - 4}" y="{y + 4}">{decimal(100 * value, 0)}</text>')
    for place, tick in zip(_places(len(ticks)), ticks, strict=True):
        parts.append(Markup('<text class="mid" x="{}" y="{}">{}</text>').format(place, bottom + 16, tick))
    return Markup('<g id="{}">{}</g>').format(name, Markup("".join(parts)))


def panel(title: str, framed: Markup, lines: Sequence[Line], scale: Scale) -> Markup:
    """Draw lines over a few positions.

    Args:
        title: What it shows, for who does not see it.
        framed: From :func:`frame`, or a use of it.
        lines: Drawn in this order.
        scale: Of the values.
    """
    drawn = [Markup(_line(line, _places(len(line.points)), scale)) for line in lines]
    return _svg("panel", title, _PANEL, [framed, *drawn])


def _places(number_of: int) -> list[int]:
    left, right, _, _ = _PLOT
    return [round(left + 8 + (right - left - 16) * k / max(number_of - 1, 1)) for k in range(number_of)]


def _line(line: Line, places: Sequence[int], scale: Scale) -> str:
    _, _, top, bottom = _PLOT
    known = [(x, each) for x, each in zip(places, line.points, strict=True) if each is not None]
    points = [f"{x} {round(scale.at(each.value, bottom, top))}" for x, each in known if each.value is not None]
    ends = [(x, each.low, each.high) for x, each in known if each.low is not None and each.high is not None]
    text = ""
    if line.band and len(ends) > 1:
        above = [f"{x} {number(scale.at(high, bottom, top))}" for x, _, high in ends]
        below = [f"{x} {number(scale.at(low, bottom, top))}" for x, low, _ in reversed(ends)]
        text += f'<path class="{line.kind} band" d="M{"L".join([*above, *below])}z"/>'
    if points:
        text += f'<path class="{line.kind}" d="M{"L".join(points)}"/>'
    if line.band:
        text += f'<path class="{line.kind} dot" d="{"".join(f"M{point}h0" for point in points)}"/>'
    return text


@dataclass(frozen=True)
class Dot:
    """One point of a scatter.

    Attributes:
        name: Written beside it where there is room.
        x: Above 0.
        found: Value and interval.
        kind: Class of its colour and shape.
        front: Nothing is better at the same or less cost.
    """

    name: str
    x: float
    found: Estimate
    kind: str
    front: bool


def scatter(title: str, dots: Sequence[Dot], scale: Scale, across: str, down: str) -> Markup:
    """Draw values over a logarithmic scale, with their intervals and the line of what nothing beats."""
    left, right, top, bottom = _INSIDE
    logs = [math.log10(dot.x) for dot in dots]
    wide = Scale.around([min(logs) - 0.05, max(logs) + 0.05], step=0.5)
    parts: list[str] = []
    for value in _round_steps(scale):
        y = scale.at(value, bottom, top)
        parts.append(f'<path class="grid" d="M{left} {number(y)}H{right}"/>')
        parts.append(f'<text class="end" x="{left - 6}" y="{number(y + 4)}">{decimal(100 * value, 0)}</text>')
    for power in _powers(wide):
        x = wide.at(math.log10(power), left, right)
        parts.append(f'<path class="grid" d="M{number(x)} {top}V{bottom}"/>')
        parts.append(f'<text class="mid" x="{number(x)}" y="{bottom + 18}">{power:,g}</text>')
    parts.append(Markup('<text class="mid" x="{}" y="{}">{}</text>').format((left + right) // 2, bottom + 42, across))
    middle = (top + bottom) // 2
    turned = Markup('<text class="mid" x="14" y="{0}" transform="rotate(-90 14 {0})">{1}</text>')
    parts.append(turned.format(middle, down))
    places = [(wide.at(math.log10(dot.x), left, right), scale.at(dot.found.value or 0.0, bottom, top)) for dot in dots]
    parts.append(_front([place for place, dot in zip(places, dots, strict=True) if dot.front], right))
    for (x, y), dot in zip(places, dots, strict=True):
        if dot.found.low is not None and dot.found.high is not None:
            low, high = (scale.at(end, bottom, top) for end in (dot.found.low, dot.found.high))
            parts.append(f'<path class="{dot.kind} whisker" d="M{number(x)} {number(low)}V{number(high)}"/>')
        parts.append(f'<path class="{dot.kind} dot" d="M{number(x)} {number(y)}h0"/>')
    parts += _names(dots, places, right)
    return _svg("scatter", title, _SCATTER, parts)


def _round_steps(scale: Scale) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (scale.high - scale.low) / step <= 8.01)
    first = math.ceil(scale.low / step - 1e-9)
    return [step * k for k in range(first, math.floor(scale.high / step + 1e-9) + 1)]


def _powers(wide: Scale) -> list[float]:
    found = [
        factor * 10.0**power for power in range(math.floor(wide.low), math.ceil(wide.high) + 1) for factor in (1, 3)
    ]
    return [value for value in found if wide.low <= math.log10(value) <= wide.high]


def _front(places: Sequence[tuple[float, float]], right: float) -> str:
    """Return the steps through the best points, left to right."""
    ordered = sorted(places)
    if not ordered:
        return ""
    text = f"M{number(ordered[0][0])} {number(ordered[0][1])}"
    text += "".join(f"H{number(x)}V{number(y)}" for x, y in ordered[1:])
    return f'<path class="front" d="{text}H{number(right)}"/>'


def _names(dots: Sequence[Dot], places: Sequence[tuple[float, float]], right: float) -> list[str]:
    """Return the names of the dots, those of the front first, where they hide neither a dot nor a name."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    texts: list[str] = []
    for k in sorted(range(len(dots)), key=lambda k: (not dots[k].front, places[k])):
        (x, y), width = places[k], (_BOLD if dots[k].front else _LETTER) * len(dots[k].name)
        for start, middle in (
            (x + 9, y),
            (x - 9 - width, y),
            (x + 7, y - 11),
            (x + 7, y + 11),
            (x - 7 - width, y - 11),
        ):
            box = (start, middle - _LINE / 2, start + width, middle + _LINE / 2)
            inside = _INSIDE[0] < box[0] and box[2] < right + 16
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                template = Markup('<text class="{}" x="{}" y="{}">{}</text>')
                kind = "strong" if dots[k].front else "name"
                texts.append(template.format(kind, number(start), number(middle + 4), dots[k].name))
                break
    return texts


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _svg(kind: str, title: str, size: tuple[int, int], parts: Sequence[str]) -> Markup:
    head = Markup('<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}">').format(kind, title, *size)
    return head + Markup("".join(parts)) + Markup("</svg>")
