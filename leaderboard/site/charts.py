"""The charts of a task, each with its table: accuracy against bias level and cost, bias over generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmark.audits.markup import hundredths, tenths_of_percent
from leaderboard.models import RANKING_LEVELS, Estimate, Row, RuleSection, Table, TaskSection, Trajectory
from leaderboard.site import text
from leaderboard.site.drawing import Dot, Line, Scale, frame, panel, scatter
from leaderboard.site.tables import BASELINE, level_key
from leaderboard.site.text import plain
from leaderboard.trajectories import ACCURACY, PRIMARY, QUANTITIES, SHARE

_MOST_PANELS = 30
_MOST_DOTS = 300
_WHOLE = Scale(0.0, 1.0)
_HALVES = (0.0, 0.5, 1.0)
_BOOTSTRAP = "identity"
_QUANTITY = {
    SHARE: "conflicting images %",
    ACCURACY: "acc_conflicting %",
    "acc_group_mean": "acc_group_mean %",
    "information_y_a": "I(Y;A) bits",
    "label_fidelity_y": "label shown %",
    "fid": "FID",
}


@dataclass(frozen=True)
class Numbers:
    """The table beside a chart, for who does not see it and who wants the numbers."""

    title: str
    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Panel:
    """One small chart with what stands above it."""

    title: str
    small: str
    drawing: Markup


@dataclass(frozen=True)
class Chart:
    """One chart, or several small ones.

    Attributes:
        title: Its heading.
        about: How to read it.
        panels: Small charts, or one wide one.
        wide: Whether there is one wide chart.
        numbers: Its table.
    """

    title: str
    about: str
    panels: list[Panel]
    numbers: Numbers
    wide: bool = False


class _Frame:
    """What the panels of a chart have in common: the first holds it, the others use it."""

    def __init__(self, name: str, ticks: Sequence[str], scale: Scale, marks: Sequence[float]) -> None:
        self._name = name.replace(" ", "-")
        self._drawn: Markup | None = frame(self._name, ticks, scale, marks)

    def next(self) -> Markup:
        drawn, self._drawn = self._drawn, None
        return drawn or Markup('<use href="#{}"/>').format(self._name)


def charts(task: TaskSection) -> list[Chart]:
    """Return what there is to draw of a task; nothing where a chart would hold a single point."""
    last = next((section for section in task.rules if section.rule == "last"), None)
    found = [] if last is None else [_against_level(task, last), _against_cost(task, last)]
    return [chart for chart in (*found, *_over_generations(task)) if chart is not None]


# --- accuracy against bias level --------------------------------------------------------------------------------------


def _against_level(task: TaskSection, section: RuleSection) -> Chart | None:
    tables = {level_key(table.level, table.recipe): table for table in section.tables}
    curves = _curves(tables)
    metric = task.ranking_metric
    several = {name: rows for name, rows in curves.items() if len(rows) > 1}
    if not several or not text.in_percent(metric):
        return None
    erm = several.get((BASELINE, "", "", ""), {})
    ticks, names = list(tables), list(several)
    panels: list[Panel] = []
    framed = _Frame(f"levels {plain(task.task)}", _ticks(ticks), _WHOLE, _HALVES)
    for name in names[:_MOST_PANELS]:
        rows = several[name]
        lines = [
            Line("aligned", [_of(rows.get(tick), "acc_aligned") for tick in ticks]),
            *[Line("erm", [_of(erm.get(tick), metric) for tick in ticks])] * (name[0] != BASELINE),
            Line("own", [_of(rows.get(tick), metric) for tick in ticks], band=True),
        ]
        title = f"{' '.join(filter(None, name))}: {metric} against bias level"
        panels.append(Panel(name[0], _small(name), panel(title, framed.next(), lines, _WHOLE)))
    rows_shown = [
        [" ".join(filter(None, name)), *(_number(curves[name].get(tick), metric) for tick in ticks)] for name in curves
    ]
    about = (
        f"One panel per method with results at several bias levels, rule last. Line with band: {metric} in percent, "
        "mean and 95 % interval over seeds. Thin line: acc_aligned; the space between is the gap. Dashed: erm."
    )
    if len(names) > _MOST_PANELS:
        about += f" {len(names) - _MOST_PANELS} more are in the table."
    numbers = Numbers(f"{metric} by bias level", ["Method", *map(plain, ticks)], rows_shown)
    return Chart("Accuracy against bias level", about, panels, numbers)


_Name = tuple[str, str, str, str]


def _curves(tables: dict[str, Table]) -> dict[_Name, dict[str, Row]]:
    """Return the rows of each configuration by level, in the order of the largest table."""
    curves: dict[_Name, dict[str, Row]] = {}
    for _, table in sorted(tables.items(), key=lambda pair: -len(pair[1].rows)):
        for row in table.rows:
            curves.setdefault(_name(row), {})
    for level, table in tables.items():
        for row in table.rows:
            # Several rows of one name differ in what a line cannot say; the first of a table stands highest.
            curves[_name(row)].setdefault(level, row)
    return curves


def _name(row: Row) -> _Name:
    """Return what is one line: method, settings, who verified it where that does not rank, generator beside others."""
    verified = "" if row.verification in RANKING_LEVELS else row.verification
    return plain(row.method), text.settings(row), verified, "" if row.generator is None else _generator(row)


def _generator(row: Row) -> str:
    return plain(row.generator or "")


def _small(name: _Name) -> str:
    return "; ".join(filter(None, (name[1], name[2])))


def _ticks(levels: Sequence[str]) -> list[str]:
    short = [level.partition(" ")[0] for level in levels]
    names = short if len(set(short)) == len(short) else levels
    return [plain("bal." if name == "balanced" else name, 8) for name in names]


def _of(row: Row | None, metric: str) -> Estimate | None:
    return None if row is None else row.metrics.get(metric)


def _number(row: Row | None, metric: str) -> str:
    return text.NONE if row is None else text.with_ends(row.metrics[metric], text.show_metric(metric))


# --- accuracy against cost --------------------------------------------------------------------------------------------


def _against_cost(task: TaskSection, section: RuleSection) -> Chart | None:
    levels = [table for table in section.tables if table.level == task.default_level] or section.tables
    table, metric = max(levels, key=lambda each: len(each.rows)), task.ranking_metric
    rows = [row for row in table.rows if row.metrics[metric].value is not None and _cost(row) > 0]
    if len(rows) < 2 or not text.in_percent(metric):
        return None
    dots = [
        Dot(_dot_name(row), _cost(row), row.metrics[metric], _kind(row), _unbeaten(row, rows, metric))
        for row in rows[:_MOST_DOTS]
    ]
    values = [
        min(max(end, 0.0), 1.0) for dot in dots for end in (dot.found.value, dot.found.low, dot.found.high) if end
    ]
    unit = "seconds per run, training + generator (logarithmic)"
    title = f"{metric} against {unit}"
    drawing = scatter(title, dots, Scale.around(values, step=0.05), unit, f"{metric}, %")
    devices = sorted({plain(name) for row in rows for names in row.cost.devices.values() for name in names})
    about = (
        f"{text.level(table.level, table.recipe)}, rule last. Line: ranked rows that no ranked row beats at the same "
        "or less cost. Dots: ranked, without group labels; squares: ranked, with group labels of some split; grey: not "
        "ranked. What is shared, such as fine-tuned weights, counts in the run that made it, so costs depend on what "
        f"ran first. Seconds on {'; '.join(devices)}{', not comparable between devices' * (len(devices) > 1)}."
    )
    lines = [
        [
            dot.name,
            row.track,
            text.seconds(row.cost.training_seconds),
            text.seconds(row.cost.generator_seconds),
            _number(row, metric),
            "yes" if dot.front else "no",
        ]
        for dot, row in zip(dots, rows, strict=False)
    ]
    heads = ["Method", "Track", "Training s", "Generator s", f"{metric} %", "Unbeaten"]
    return Chart("Accuracy against cost", about, [Panel("", "", drawing)], Numbers(title, heads, lines), wide=True)


def _cost(row: Row) -> float:
    return row.cost.training_seconds + row.cost.generator_seconds


def _kind(row: Row) -> str:
    if row.rank is None:
        return "apart"
    return "own" if row.track == "none" else "labelled"


def _dot_name(row: Row) -> str:
    words = text.settings(row)
    return plain(f"{row.method.partition('@')[0]}{f' ({words})' if words else ''}", 44)


def _unbeaten(row: Row, rows: Sequence[Row], metric: str) -> bool:
    """Return whether a ranked row is on the front: none is better at the same or less cost, or as good for less."""
    if row.rank is None:
        return False
    own, cost = row.metrics[metric].value or 0.0, _cost(row)
    found = [(each.metrics[metric].value or 0.0, _cost(each)) for each in rows if each.rank is not None]
    return not any((value > own and price <= cost) or (value == own and price < cost) for value, price in found)


# --- bias over generations --------------------------------------------------------------------------------------------


def _over_generations(task: TaskSection) -> list[Chart]:
    return [
        _of_quantity(task.task, [arm for arm in task.trajectories if (arm.level, arm.recipe) == place], quantity)
        for place in dict.fromkeys((arm.level, arm.recipe) for arm in task.trajectories)
        for quantity in PRIMARY
    ]


def _of_quantity(task: str, arms: Sequence[Trajectory], quantity: str) -> Chart:
    """Draw one quantity of the arms of one level; the first chart's table holds the arms' other quantities too."""
    most = max(arm.generations for arm in arms)
    ticks = [str(number) for number in range(most + 1)]
    chance = next((arm for arm in arms if arm.changed.get("generator") == _BOOTSTRAP and len(arm.changed) == 1), None)
    ends = [end for arm in arms for point in arm.points for end in _ends(point.values[quantity])]
    scale = Scale.around([0.0, *(min(max(end, 0.0), 1.0) for end in ends)], step=0.1)
    framed = _Frame(
        f"{quantity} {plain(task)} {arms[0].level} {plain(arms[0].recipe)}",
        ticks,
        scale,
        _ends_and_middle(scale),
    )
    panels = []
    for arm in arms[:_MOST_PANELS]:
        lines = [Line("own", _points(arm, quantity, most), band=True)]
        if chance is not None and arm is not chance:
            lines.insert(0, Line("erm", _points(chance, quantity, most)))
        title = f"{_arm(arm)}: {_QUANTITY[quantity]} by generation"
        panels.append(Panel(_arm(arm), _verdict(arm, quantity), panel(title, framed.next(), lines, scale)))
    shown = QUANTITIES if quantity == PRIMARY[0] else (quantity,)
    rows = [[_arm(arm), _QUANTITY[name], *_line(arm, name, most)] for arm in arms for name in shown]
    about = (
        f"{text.level(arms[0].level, arms[0].recipe)}. Mean over seeds with its 95 % interval, in percent; generation "
        "0 is real data. Slopes are points per generation, judged after Holm: bias is amplified where the line falls. "
    )
    about += "Dashed: bootstrap of the real data, what chance alone does." * (chance is not None)
    title = "Share of conflicting images" if quantity == SHARE else "Accuracy on conflicting images"
    heads = ["Arm", "Quantity", *(f"generation {tick}" for tick in ticks)]
    return Chart(f"{title} over generations", about, panels, Numbers(f"{title} by generation", heads, rows))


def _ends(found: Estimate) -> list[float]:
    return [end for end in (found.value, found.low, found.high) if end is not None]


def _points(arm: Trajectory, quantity: str, most: int) -> list[Estimate | None]:
    points: list[Estimate | None] = [point.values[quantity] for point in arm.points]
    return points + [None] * (most + 1 - len(points))


def _ends_and_middle(scale: Scale) -> list[float]:
    return [scale.low, (scale.low + scale.high) / 2, scale.high]


def _arm(arm: Trajectory) -> str:
    words = ", ".join(filter(None, (text.settings(arm), plain(arm.generator) if arm.generator else "")))
    return f"{plain(arm.method)}{f' ({words})' if words else ''}"


def _verdict(arm: Trajectory, quantity: str) -> str:
    slope = arm.slopes[quantity]
    verified = "" if arm.verification in RANKING_LEVELS else f"; {arm.verification}"
    if slope.value is None:
        return f"{slope.verdict}: {plain(slope.reason or '', 120)}{verified}"
    found = Estimate(value=slope.value, low=slope.low, high=slope.high)
    return f"{slope.verdict}: {text.with_ends(found, lambda value: hundredths(100 * value))} a generation{verified}"


def _line(arm: Trajectory, quantity: str, most: int) -> list[str]:
    show = {"fid": text.figures, "information_y_a": hundredths}.get(quantity, tenths_of_percent)
    return [text.NONE if each is None else text.with_ends(each, show) for each in _points(arm, quantity, most)]
