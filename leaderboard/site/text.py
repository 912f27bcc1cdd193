"""Words and numbers of the page, as plain text: the templates escape them, nothing here is markup."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from benchmark.audits.markup import decimal, hundredths, tenths_of_percent
from benchmark.metrics.registry import METRICS
from benchmark.tasks.card import DEFAULT_RECIPE
from leaderboard.models import Estimate, RankInterval, Row, Span, Trajectory
from leaderboard.ranks import significant
from leaderboard.text import plain as plain_text

NONE = "–"
_PERCENT = ("share", "difference of shares")
_LONGEST_SETTINGS, _LONGEST_LINE = 200, 1_000

Show = Callable[[float], str]


@functools.lru_cache(maxsize=2**14)
def plain(value: str, longest: int = 160) -> str:
    """Return a text on one line of bounded length without hidden characters; thousands of rows repeat a few texts."""
    return plain_text(value, longest)


def several_lines(value: str, longest: int, most_lines: int = 100) -> str:
    """Return a text of several lines, such as BibTeX, each as :func:`plain` but indented as it was."""
    lines = []
    for line in value[:longest].splitlines()[:most_lines]:
        indent = len(line) - len(line.lstrip(" "))
        lines.append(" " * min(indent, 8) + plain(line, _LONGEST_LINE))
    return "\n".join(lines).strip()


def in_percent(name: str) -> bool:
    """Return whether a metric is shown in percent or points."""
    return METRICS[name].unit in _PERCENT


def metric_head(name: str) -> str:
    """Return what stands above values of a metric."""
    return f"{name} %" if in_percent(name) else name


def show_metric(name: str) -> Show:
    """Return how values of a metric are written, without unit."""
    return tenths_of_percent if in_percent(name) else hundredths


def figures(value: float) -> str:
    """Return a number of unknown scale with three significant digits, or as a whole number above them."""
    shown = f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
    return shown.replace("-", "−")


def signed(value: float) -> str:
    """Return a difference of shares in points with its sign, without colouring either direction."""
    shown = tenths_of_percent(value)
    return f"+{shown}" if value > 0 and shown != "0.0" else shown


def ends(found: Estimate, show: Show) -> str:
    """Return the ends of an interval in brackets; empty where there is none."""
    if found.value is None or found.low is None or found.high is None:
        return ""
    return f"[{show(found.low)}, {show(found.high)}]"


def with_ends(found: Estimate, show: Show) -> str:
    """Return a value with its interval, or a dash."""
    return NONE if found.value is None else f"{show(found.value)} {ends(found, show)}".strip()


def rank(place: RankInterval) -> str:
    """Return a rank interval without what it is among."""
    return str(place.low) if place.low == place.high else f"{place.low}{NONE}{place.high}"


def behind(place: RankInterval) -> tuple[str, str]:
    """Return the difference to the best row, starred where it is significant, and its interval."""
    if place.behind is None:
        return "best", ""
    found = place.behind
    return f"{signed(found.difference)}{' *' * significant(found)}", f"[{signed(found.low)}, {signed(found.high)}]"


def settings(row: Row | Trajectory) -> str:
    """Return what differs from the default configuration; empty for the default."""
    changed = [f"{key}={_value(value)}" for key, value in sorted(row.changed.items())]
    return plain(", ".join(["tuned"] * (row.configuration == "tuned") + changed), _LONGEST_SETTINGS)


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values, such as hyper-parameters."""
    return [(plain(key), plain(_value(value))) for key, value in sorted(values.items())]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def span(found: Span) -> str:
    """Return a whole number, or its range."""
    return f"{found.low:,}" if found.low == found.high else f"{found.low:,}{NONE}{found.high:,}"


def level(name: str, recipe: str = DEFAULT_RECIPE) -> str:
    """Return a bias level as it is written, with the recipe where that is not the default."""
    shown = f"ρ = {name}" if name[:1].isdigit() else plain(name)
    return shown if recipe == DEFAULT_RECIPE else f"{shown}, recipe {plain(recipe)}"


def seconds(value: float) -> str:
    """Return a duration in whole seconds."""
    return decimal(value, 0) if value < 1e3 else f"{value:,.0f}"
