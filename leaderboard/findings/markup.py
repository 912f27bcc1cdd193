"""Tables and numbers of the findings, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leaderboard.models import Estimate

NONE = "–"
_LEAST_P_VALUE = 0.001

Show = Callable[[float], str]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are not padded, so that one longer cell does not change every line."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def points(value: float) -> str:
    """Return a difference of shares in points, with its sign."""
    return _signed(100 * value, 1)


def slope_points(value: float) -> str:
    """Return a change of a share per generation in points, with its sign."""
    return _signed(100 * value, 2)


def percent(value: float) -> str:
    """Return a share in percent."""
    return _without_zero_sign(f"{100 * value:.1f}")


def index(value: float) -> str:
    """Return a number with two decimals."""
    return _without_zero_sign(f"{value:.2f}")


def signed_index(value: float) -> str:
    """Return a difference of such numbers, with its sign."""
    return _signed(value, 2)


def seconds(value: float) -> str:
    """Return seconds: whole ones from ten on."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def p_value(value: float | None) -> str:
    """Return a p value with two significant digits."""
    if value is None:
        return NONE
    return f"{value:.2g}" if value >= _LEAST_P_VALUE else f"<{_LEAST_P_VALUE}"


def with_ends(found: Estimate | None, show: Show) -> str:
    """Return a value with its interval; a dash where there is none."""
    if found is None or found.value is None:
        return NONE
    if found.low is None or found.high is None:
        return show(found.value)
    return f"{show(found.value)} [{show(found.low)}, {show(found.high)}]"


def _signed(value: float, decimals: int) -> str:
    shown = f"{value:+.{decimals}f}"
    return shown if shown.strip("+-0.") else shown[1:]


def _without_zero_sign(shown: str) -> str:
    return shown if shown.strip("-0.") else shown.removeprefix("-")
