"""The tables of the page: one for each task, bias level, training recipe and selection rule, with columns to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmark.metrics.registry import METRICS
from leaderboard.models import Row, RuleSection, Span, Table, TaskSection
from leaderboard.site import text
from leaderboard.site.drawing import Scale, bar, rank_bar
from leaderboard.site.text import plain
from leaderboard.wording import RULES

BASELINE = "erm@1"
_RETAINED = Scale(-0.25, 1.25)
_STEP = 0.05


@dataclass(frozen=True)
class Column:
    """One column of every table.

    Attributes:
        key: Its name in links; ``metric`` is the task's ranking metric.
        label: Its head.
        about: What it is, in a sentence.
        shown: Whether it is shown unless the reader chooses.
        fixed: Whether it is always shown.
        more: Below the head.
    """

    key: str
    label: str
    about: str
    shown: bool = True
    fixed: bool = False
    more: str = ""


def _metric(name: str, *, shown: bool = True, more: str = "") -> Column:
    return Column(name, text.metric_head(name), METRICS[name].definition, shown, more=more)


COLUMNS = (
    Column("rank", "Rank", "Where the row may stand among rows of its own or a lower track.", fixed=True),
    Column("method", "Method", "Name and version, and what is not the default.", fixed=True),
    Column("track", "Track", "The most that the row used of the group labels."),
    Column("metric", "", "The task's ranking metric.", fixed=True),
    Column("behind", "Δ to best", "Paired difference to the best of those rows, in points; * is significant by Holm."),
    _metric("bias_retained", more="0 removed, 1 replicated"),
    _metric("gap"),
    _metric("acc_group_mean", shown=False),
    _metric("worst_group_of_mean", shown=False),
    _metric("flip_rate", shown=False),
    _metric("recovered_gap"),
    Column("verification", "Verification", "Who has run it: maintained and replayed rows are ranked."),
    Column("seeds", "Seeds", "Runs with different seeds and draws.", shown=False),
    Column("generator", "Generator", "Text-to-image generator and its revision."),
    Column("pretrained", "Pre-trained parts", "Whether a pre-trained component was used.", shown=False),
    Column("seconds", "Seconds", "Mean seconds per run: training + generator."),
    Column("device", "Device", "Kind of device.", shown=False),
    Column("notes", "Notes", "What else has to be known about the row.", shown=False),
)


@dataclass(frozen=True)
class Cell:
    """A cell: a text, a smaller one, and a drawing."""

    text: str
    small: str = ""
    mark: Markup | str = ""


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    id: str
    details: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class View:
    """A table as the page shows it.

    Attributes:
        key: Its name within the page.
        level: The level's key in links: the level, and the recipe where that is not the default.
        level_shown: The level in words.
        rule: Selection rule.
        rule_about: What that is.
        metric: Head of the ranking metric's column.
        axis: Where that column's drawings start and end.
        caption: On what all rows were trained.
        ranked: Ranked rows.
        others: Rows that are listed only.
    """

    key: str
    level: str
    level_shown: str
    rule: str
    rule_about: str
    metric: str
    axis: str
    caption: str
    ranked: list[Line]
    others: list[Line]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ranked) + len(self.others)


def views(task: TaskSection, details: dict[str, int]) -> list[View]:
    """Return the tables of a task, those of one level together.

    Args:
        task: The task.
        details: Number of the details of each row, by the row's id.
    """
    found = [_view(task, section, table, details) for section in task.rules for table in section.tables]
    order = list(dict.fromkeys(view.level for view in found))
    return sorted(found, key=lambda view: order.index(view.level))


def level_key(level: str, recipe: str) -> str:
    """Return a level and its recipe in one word."""
    shown = text.level(level, recipe)
    return level if shown == text.level(level) else f"{level} {recipe}"


def _view(task: TaskSection, section: RuleSection, table: Table, details: dict[str, int]) -> View:
    metric = task.ranking_metric
    scale = scale_of(table, metric)
    reference = next((_value(row, metric) for row in table.rows if row.method == BASELINE and not row.changed), None)
    lines = [(row, Line(row.id, details[row.id], tuple(_cells(row, metric, scale, reference)))) for row in table.rows]
    show = text.show_metric(metric)
    return View(
        key=f"{plain(task.task)} {level_key(table.level, table.recipe)} {section.rule}",
        level=level_key(table.level, table.recipe),
        level_shown=text.level(table.level, table.recipe),
        rule=section.rule,
        rule_about=RULES[section.rule],
        metric=text.metric_head(metric),
        axis=f"drawn {show(scale.low)} to {show(scale.high)}{'; line: erm' * (reference is not None)}",
        caption=f"{table.recipe_summary}. {_caption(table)}",
        ranked=[line for row, line in lines if row.rank is not None],
        others=[line for row, line in lines if row.rank is None],
    )


def scale_of(table: Table, metric: str) -> Scale:
    """Return the scale on which a table's values of a metric are drawn."""
    found = [row.metrics[metric] for row in table.rows]
    values = [end for each in found for end in (each.value, each.low, each.high)]
    if not text.in_percent(metric):
        return Scale.around(values, step=0.5)
    return Scale.around([None if each is None else min(max(each, 0.0), 1.0) for each in values], step=_STEP)


def _value(row: Row, metric: str) -> float | None:
    return row.metrics[metric].value


def _cells(row: Row, metric: str, scale: Scale, reference: float | None) -> list[Cell]:
    return [
        _rank(row),
        _method(row),
        Cell(row.track),
        _estimate(row, metric, bar(row.metrics[metric], scale, reference)),
        Cell(text.NONE) if row.rank is None else Cell(*text.behind(row.rank)),
        _estimate(row, "bias_retained", bar(row.metrics["bias_retained"], _RETAINED)),
        *(_estimate(row, name) for name in ("gap", "acc_group_mean", "worst_group_of_mean", "flip_rate")),
        _estimate(row, "recovered_gap"),
        Cell(row.verification),
        Cell(str(len(row.seeds))),
        _generator(row),
        Cell("yes" if row.external_data else "no"),
        _seconds(row),
        Cell("+".join(row.cost.devices)),
        Cell("; ".join(notes(row)) or text.NONE),
    ]


def _method(row: Row) -> Cell:
    """Return the method with its settings, and why it is not ranked: whoever sees the row sees that too."""
    reasons = [plain(each, 160) for each in row.not_ranked]
    return Cell(plain(row.method), "; ".join(filter(None, [text.settings(row), *reasons])))


def _rank(row: Row) -> Cell:
    if row.rank is None:
        return Cell(text.NONE)
    place = row.rank
    return Cell(text.rank(place), f"of {place.among}", rank_bar(place.low, place.high, place.among))


def _estimate(row: Row, name: str, mark: Markup | str = "") -> Cell:
    found, show = row.metrics[name], text.show_metric(name)
    if found.value is None:
        return Cell(text.NONE)
    return Cell(show(found.value), text.ends(found, show), mark)


def _generator(row: Row) -> Cell:
    if row.generator is None:
        return Cell(text.NONE)
    name, _, revision = plain(row.generator).rpartition("@")
    return Cell(name, f"@{revision}")


def _seconds(row: Row) -> Cell:
    cost = row.cost
    total = cost.training_seconds + cost.generator_seconds
    parts = f"= {text.seconds(cost.training_seconds)} + {text.seconds(cost.generator_seconds)}"
    return Cell(text.seconds(total), parts if cost.generator_seconds else "")


def notes(row: Row) -> list[str]:
    """Return what has to be known about a row: why it is not ranked, what has changed since, remarks."""
    return [plain(note, 300) for note in (*row.not_ranked, *row.stale, *row.remarks)]


def _caption(table: Table) -> str:
    rows = table.rows
    parts = [
        f"N = {_joined([row.data.n_train for row in rows])} training images",
        f"smallest populated group {_joined([row.data.smallest_group for row in rows])}",
        f"{_joined([row.data.populated_groups for row in rows])} populated groups",
        f"B = {_joined([row.data.synthetic_budget for row in rows])} kept synthetic images",
        f"{_joined([Span(low=row.data.steps, high=row.data.steps) for row in rows])} optimiser steps",
    ]
    devices = sorted({plain(name) for row in rows for names in row.cost.devices.values() for name in names})
    caption = f"{', '.join(parts)}. Ran on {'; '.join(devices)}."
    if table.repeated:
        caption += (
            f" {table.repeated:,} repeated run{'s' * (table.repeated != 1)} of a seed left out: the first counts."
        )
    return caption


def _joined(spans: Sequence[Span]) -> str:
    return text.span(Span(low=min(each.low for each in spans), high=max(each.high for each in spans)))
