"""The chart of trajectories over seeds, as SVG or PNG; the same bytes for the same trajectories."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.errors import InvalidValue
from benchmark.tasks.card import DEFAULT_RECIPE
from leaderboard.models import RANKING_LEVELS, Trajectory
from leaderboard.trajectories import ACCURACY, PRIMARY, SHARE

FORMATS = (".svg", ".png")
_WIDTH, _PANEL, _HEAD, _LEGEND_LINE, _DPI = 9.0, 2.9, 0.7, 0.19, 100
"""Inches, and pixels per inch: 900 pixels wide."""
_LONGEST_LABEL = 120
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")
"""Okabe & Ito 2008: told apart with every kind of colour vision."""
MARKERS, _DASHES = "osD^vPX", ("-", "--", ":", "-.")
_AXES = {SHARE: "conflicting images, %", ACCURACY: "acc_conflicting, %"}
SETTINGS: Any = {"font.size": 9, "svg.hashsalt": "genbias-bench", "svg.fonttype": "none", "text.parse_math": False}


def draw_trajectories(found: Mapping[str, Sequence[Trajectory]], suffix: str) -> bytes:
    """Draw one line per arm: the mean over seeds by generation, with its 95 % t band over seeds.

    Args:
        found: Trajectories by task; each task and level is a row of panels.
        suffix: ``.svg`` or ``.png``.

    Raises:
        InvalidValue: For another suffix, or without a trajectory.
    """
    check_format(suffix)
    rows = [
        (f"{task}, level {level}", [arm for arm in arms if arm.level == level])
        for task, arms in found.items()
        for level in dict.fromkeys(arm.level for arm in arms)
    ]
    if not rows:
        raise InvalidValue("there is no trajectory to draw")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(arm_label(arm) for _, arms in rows for arm in arms))
    height = _HEAD + _PANEL * len(rows) + _LEGEND_LINE * len(labels)
    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(rows), len(PRIMARY), squeeze=False)
        lines: dict[str, Any] = {}
        for (title, arms), pair in zip(rows, panels, strict=True):
            for axes, quantity in zip(pair, PRIMARY, strict=True):
                lines |= _panel(axes, arms, quantity, labels)
                axes.set_title(_plain(title), fontsize=9, loc="left")
        figure.suptitle("Bias over generations: means over seeds, 95 % t bands", fontsize=11)
        figure.legend([lines[each] for each in labels], labels, loc="outside lower left", fontsize=8, frameon=False)
        vector = suffix.lower() == ".svg"
        metadata = {"Date": None, "Creator": None} if vector else {"Software": None}
        figure.savefig(buffer, format="svg" if vector else "png", metadata=metadata)
    return buffer.getvalue()


def check_format(suffix: str) -> None:
    """Refuse the suffix of a file that no chart can be written to.

    Raises:
        InvalidValue: For anything but ``.svg`` and ``.png``.
    """
    if suffix.lower() not in FORMATS:
        raise InvalidValue(f"a chart has the suffix {' or '.join(FORMATS)}, not {suffix!r}")


def arm_label(arm: Trajectory) -> str:
    """Return an arm in one line: what it is, and its verification unless maintainers ran it."""
    changed = ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
        for name, value in sorted(arm.changed.items())
    )
    words = [arm.method if not changed else f"{arm.method}: {changed}"]
    words += [f"with {arm.generator}"] if arm.generator else []
    words += [f"recipe {arm.recipe}"] if arm.recipe != DEFAULT_RECIPE else []
    words += [f"({arm.verification})"] if arm.verification not in RANKING_LEVELS else []
    return _plain(" ".join(words))


def _plain(text: str) -> str:
    """Return a text of a record as a line that can be drawn: no line breaks, no controls, of bounded length."""
    visible = "".join(character if character.isprintable() else " " for character in text)
    return visible if len(visible) <= _LONGEST_LABEL else visible[: _LONGEST_LABEL - 1] + "…"


def _panel(axes: Any, arms: Sequence[Trajectory], quantity: str, labels: Sequence[str]) -> dict[str, Any]:
    """Draw one quantity of the arms of one level; returns the line of each label."""
    lines = {}
    for arm in arms:
        label = arm_label(arm)
        place = labels.index(label)
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": _DASHES[place // len(COLOURS) % len(_DASHES)]}
        at = [point.generation for point in arm.points]
        mean, low, high = (
            [_percent(getattr(point.values[quantity], end)) for point in arm.points] for end in ("value", "low", "high")
        )
        axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
        (line,) = axes.plot(at, mean, marker=MARKERS[place % len(MARKERS)], markersize=4, linewidth=1.4, **style)
        lines[label] = line
    axes.set_xticks(range(1 + max(arm.generations for arm in arms)))
    axes.set_xlabel("generation (0: real data)")
    axes.set_ylabel(_AXES[quantity])
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return lines


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value
