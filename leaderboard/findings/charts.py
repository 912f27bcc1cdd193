"""The figures of the findings as SVG: the same bytes for the same records under the same versions of Matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from benchmark.tasks.card import DEFAULT_RECIPE
from leaderboard.charts import COLOURS, MARKERS, SETTINGS
from leaderboard.findings.arms import Arms, Place
from leaderboard.findings.hypotheses import Kind, RowSpec
from leaderboard.findings.questions import Probed
from leaderboard.findings.verdicts import Outcome, Verdict
from leaderboard.models import Estimate
from leaderboard.rows import estimate

MAIN_ROWS = (
    "erm", "group-dro", "reweighting", "copy-augment", "sd-augment", "ffr", "lora", "dreambooth",
    "clustered-dreambooth", "cinn-transfer", "real-oracle",
)  # fmt: skip
"""Methods of the figure of levels, each with its defaults."""
_DASHES = ("-", "--")
_VERDICT_COLOURS: dict[Verdict, str] = {
    "supported here": "#0072b2", "contradicted here": "#d55e00", "not distinguishable": "#555555",
}  # fmt: skip
_WIDTH, _DPI = 9.0, 100
_PROBES = (("a", "(A)"), ("g", "(G)"), ("ag", "(A, G)"))
_PANELS: tuple[tuple[str, tuple[Kind, ...]], ...] = (
    ("Differences of two rows on the ranking metric, points", ("difference",)),
    ("Slopes of loops and their differences, points per generation", ("slope", "slope-difference")),
    ("Aligned share beyond what was asked, points", ("aligned-share",)),
    ("Rank correlations", ("rank-correlation",)),
)
_LONGEST_LABEL = 62
_LEGEND_COLUMNS, _LEGEND_LINE = 3, 0.19
_SPREAD = 0.5
"""Of the rows of one level, side by side; levels are 1 apart."""


def draw_levels(task: str, recipe: str, arms: Arms) -> bytes | None:
    """Draw ``acc_conflicting`` against the bias level for the main rows of a task; None without a row.

    Args:
        task: Name of the task.
        recipe: Of the task.
        arms: All arms.
    """
    places = [place for place in arms.places if (place.task, place.recipe) == (task, recipe)]
    lines = {method: [_conflicting(place, RowSpec(method=method), arms) for place in places] for method in MAIN_ROWS}
    shown = {method: points for method, points in lines.items() if any(point is not None for point in points)}
    if not shown:
        return None
    figure, (axes,) = _figure(4.6)
    for k, (method, found) in enumerate(shown.items()):
        offset = _SPREAD * ((k + 0.5) / len(shown) - 0.5)
        known = [(at + offset, point) for at, point in enumerate(found) if point is not None]
        values, errors = _bars([point for _, point in known])
        at = [each for each, _ in known]
        axes.errorbar(at, values, yerr=errors, label=method, capsize=2, linewidth=1, markersize=4, **_style(k))
    axes.set_xticks(range(len(places)), [place.level for place in places])
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("bias level ρ")
    axes.set_ylabel("acc_conflicting, %")
    title = task if recipe == DEFAULT_RECIPE else f"{task}, recipe {recipe}"
    axes.set_title(f"{title}: means with 95 % intervals over seeds", fontsize=10, loc="left")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return _written(figure)


def draw_hypotheses(outcomes: Sequence[Outcome]) -> bytes | None:
    """Draw the estimates of all tested hypotheses with their intervals, one panel for each kind of unit."""
    panels = [
        (title, [each for each in outcomes if each.estimate is not None and each.hypothesis.kind in kinds])
        for title, kinds in _PANELS
    ]
    panels = [(title, members) for title, members in panels if members]
    if not panels:
        return None
    sizes = [len(members) for _, members in panels]
    figure, grid = _figure(0.6 + sum(0.8 + 0.28 * size for size in sizes), heights=[0.8 + size for size in sizes])
    for (title, members), axes in zip(panels, grid, strict=True):
        _forest(axes, title, members)
    handles = [_handle(colour) for colour in _VERDICT_COLOURS.values()]
    figure.legend(handles, list(_VERDICT_COLOURS), loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    return _written(figure)


def draw_probes(rows: Sequence[Probed]) -> bytes | None:
    """Draw the ranking metric against the accuracy of each probe, a line of panels for each task; None without rows."""
    if not rows:
        return None
    labels = list(dict.fromkeys(_plain(each.arm.row) for each in rows))
    tasks = list(dict.fromkeys(each.arm.place.task for each in rows))
    height = 0.5 + 3.2 * len(tasks) + _LEGEND_LINE * -(-len(labels) // _LEGEND_COLUMNS)
    figure, grid = _figure(height, columns=len(_PROBES), heights=[1.0] * len(tasks))
    lines: dict[str, Any] = {}
    for position, axes in enumerate(grid):
        task, (name, title) = tasks[position // len(_PROBES)], _PROBES[position % len(_PROBES)]
        lines |= _probe_panel(axes, [each for each in rows if each.arm.place.task == task], name, labels)
        axes.set_xlabel(f"{title} probe, balanced accuracy %")
        if name == _PROBES[0][0]:
            axes.set_ylabel("ranking metric, %")
            axes.set_title(task, fontsize=9, loc="left")
    handles = [lines[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize=8, frameon=False)
    figure.suptitle("What linear probes read off the last stage, beside the ranking metric", fontsize=10)
    return _written(figure)


def _probe_panel(axes: Any, rows: Sequence[Probed], probe: str, labels: Sequence[str]) -> dict[str, Any]:
    """Draw a point for each row; returns the mark of each label."""
    marks = {}
    for each in rows:
        label = _plain(each.arm.row)
        across, up = _bars([each.probes[probe]]), _bars([each.metric])
        style = _style(labels.index(label)) | {"linestyle": "none"}
        marks[label] = axes.errorbar(
            across[0], up[0], xerr=across[1], yerr=up[1], markersize=5, elinewidth=0.8, **style
        )  # fmt: skip
    return marks


def _figure(height: float, *, columns: int = 1, heights: Sequence[float] = (1.0,)) -> tuple[Any, list[Any]]:
    """Return a figure on white and its axes, row by row."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", wspace=0.04)
        grid = figure.subplots(
            len(heights), columns, squeeze=False, sharey="row" if columns > 1 else False, height_ratios=list(heights)
        )
    axes = list(grid.flat)
    for each in axes:
        each.grid(alpha=0.3, linewidth=0.5)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _written(figure: Any) -> bytes:
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _style(k: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the k-th line: with the colours used up, markers and dashes differ."""
    return {
        "color": COLOURS[k % len(COLOURS)],
        "marker": MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
        "linestyle": _DASHES[k // len(COLOURS) % len(_DASHES)],
    }


def _conflicting(place: Place, row: RowSpec, arms: Arms) -> Estimate | None:
    arm = arms.find(place, row)
    found = None if arm is None else estimate(arm.values("acc_conflicting"))
    return None if found is None or found.value is None else found


def _bars(found: Sequence[Estimate]) -> tuple[list[float], list[list[float]]]:
    """Return values in percent and how far their intervals reach below and above them."""
    values = [100 * (each.value or 0.0) for each in found]
    ends = [
        (value, value) if each.low is None or each.high is None else (100 * each.low, 100 * each.high)
        for value, each in zip(values, found, strict=True)
    ]
    below = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    above = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    return values, [below, above]


def _forest(axes: Any, title: str, outcomes: Sequence[Outcome]) -> None:
    """Draw estimates below each other; hollow marks are of runs that had been seen."""
    scale = 0.01 if outcomes[0].hypothesis.kind == "rank-correlation" else 1.0
    for at, outcome in enumerate(outcomes):
        assert outcome.estimate is not None  # only what was tested is drawn
        values, errors = _bars([outcome.estimate])
        colour = _VERDICT_COLOURS[outcome.verdict]
        axes.errorbar(
            [scale * value for value in values], [at], xerr=[[scale * end for end in side] for side in errors],
            color=colour, marker="o", markersize=5, capsize=2, linewidth=1.2,
            markerfacecolor=colour if outcome.hypothesis.new else "white",
        )  # fmt: skip
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_yticks(range(len(outcomes)), [_forest_label(each) for each in outcomes], fontsize=7.5)
    axes.set_ylim(len(outcomes) - 0.4, -0.6)
    axes.set_title(title, fontsize=9, loc="left")


def _forest_label(outcome: Outcome) -> str:
    hypothesis = outcome.hypothesis
    text = f"{hypothesis.id} {hypothesis.task} {hypothesis.level}: {hypothesis.quantity}".replace("`", "")
    return "\n".join(textwrap.wrap(text, _LONGEST_LABEL, break_on_hyphens=False))


def _handle(colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker="o", markersize=5, linewidth=1.2)


def _plain(row: RowSpec) -> str:
    return row.text.replace("`", "")
