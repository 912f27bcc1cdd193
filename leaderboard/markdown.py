"""The board as Markdown, the same bytes for the same records; every string of a record is escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tabulate import tabulate

from benchmark.metrics.registry import METRICS
from benchmark.tasks.card import DEFAULT_RECIPE
from leaderboard.models import LEAST_DATA_SETS, Absent, Board, Estimate, Row, Span, StageRow, Table, TaskSection
from leaderboard.ranks import significant
from leaderboard.text import safe
from leaderboard.wording import DEMO_NOTE, EMPTY, HOW_TO_READ, HOW_TO_REPRODUCE, RULES

NONE = "–"
_SHOWN = ("acc_group_mean", "worst_group_of_mean", "gap", "bias_retained", "flip_rate", "recovered_gap")
_LAST_HEADERS = ("Training s", "Sampling s", "Device", "External data", "Verification", "Notes")
_WITHOUT_INTERVAL = ("worst_group_of_mean",)
_PERCENT = ("share", "difference of shares")
_DEMO = "demo"
_LONGEST_SETTINGS = 300


def render_markdown(board: Board) -> str:
    """Return LEADERBOARD.md."""
    parts = [*_head(board), f"{HOW_TO_READ}\n{_columns(board)}"]
    photographs = [task for task in board.tasks if task.tier != _DEMO]
    demo = [task for task in board.tasks if task.tier == _DEMO]
    if not board.tasks:
        parts.append(EMPTY)
    if photographs:
        parts.append("## Tasks")
        parts += [part for task in photographs for part in _task(task)]
    if demo:
        parts += ["## Demo tier: not evidence about photographs", DEMO_NOTE]
        parts += [part for task in demo for part in _task(task)]
    parts += _absent(board.absent)
    parts.append(HOW_TO_REPRODUCE)
    return "\n\n".join(parts) + "\n"


def _head(board: Board) -> list[str]:
    methods = {row.method for task in board.tasks for rule in task.rules for table in rule.tables for row in table.rows}
    counts = f"{_number(board.runs, 'run')} of {_number(len(methods), 'method')}"
    parts = [
        "# Leaderboard",
        "<!-- written by `genbias-bench leaderboard build`; changes by hand are lost -->",
        f"**Board release {board.release}** · {counts} · record schema {board.schema_version} · "
        f"metrics version {board.metrics_version}",
        f"No overall score is shown until {LEAST_DATA_SETS} data sets outside the demo tier are pinned and covered "
        f"({board.data_sets_covered} so far).",
    ]
    if board.unmatched_verifications:
        entries = _number(board.unmatched_verifications, "record")
        parts.append(f"verification.json names {entries} that this board was not given, or that changed since.")
    if board.tasks:
        tasks = [f"[{safe(task.task)}](#{_anchor(task.task)})" for task in board.tasks]
        parts.append("Tasks: " + ", ".join(tasks))
    return parts


def _columns(board: Board) -> str:
    ranking = sorted({task.ranking_metric for task in board.tasks})
    names = list(dict.fromkeys((*ranking, *_SHOWN)))
    return "\n".join(["- **Metrics.**", *(f"  - `{name}`: {METRICS[name].definition}" for name in names)])


def _task(task: TaskSection) -> list[str]:
    metric = METRICS[task.ranking_metric]
    parts = [
        f"### {safe(task.task)}",
        f"{safe(task.title)}. Ranking metric: `{metric.name}`: {metric.definition} {task.test_rows:,} test images, the "
        f"same for every level and draw. Default bias level: {task.default_level}.",
    ]
    for section in task.rules:
        parts += [f"#### {safe(task.task)}, selection rule `{section.rule}`", RULES[section.rule]]
        for table in section.tables:
            parts += _table(table, task.ranking_metric)
    if task.stages:
        parts += _stages(task)
    return parts


def _table(table: Table, ranking_metric: str) -> list[str]:
    level = f"{'ρ = ' if table.level[:1].isdigit() else ''}{table.level}"
    recipe = "" if table.recipe == DEFAULT_RECIPE else f", recipe {safe(table.recipe)}"
    title = f"**Bias level {level}{recipe}.** {safe(table.recipe_summary)}. {_caption(table)}"
    columns = list(dict.fromkeys((ranking_metric, *_SHOWN)))
    shown = [name for name in columns if name == ranking_metric or any(_defined(row, name) for row in table.rows)]
    apart = _data_differs(table)
    headers = ["Rank", "Method", "Generator", "Track", "Seeds", _header(ranking_metric), "Δ to best"]
    headers += [_header(name) for name in shown if name != ranking_metric]
    headers += ["N / smallest / groups"] * apart + list(_LAST_HEADERS)
    notes: dict[str, str] = {}
    lines = []
    for row in table.rows:
        letters = [_letter(note, notes) for note in (*row.not_ranked, *row.stale, *row.remarks)]
        external = [_letter(f"external data: {text}", notes) for text in row.external_data]
        cells = [_rank(row), _method(row), _generator(row), row.track, str(len(row.seeds))]
        cells += [_estimate(ranking_metric, row.metrics[ranking_metric]), _behind(row)]
        cells += [_estimate(name, row.metrics[name]) for name in shown if name != ranking_metric]
        cells += [_data_cell(row)] * apart
        cells += [f"{row.cost.training_seconds:,.0f}", f"{row.cost.generator_seconds:,.0f}"]
        cells += ["+".join(row.cost.devices), f"yes ({', '.join(external)})" if external else "no"]
        cells += [row.verification, ", ".join(sorted(letters)) or NONE]
        lines.append(cells)
    parts = [title, _grid(headers, lines)]
    if notes:
        parts.append("\n".join(f"- {letter}: {safe(note, 300)}" for note, letter in notes.items()))
    return parts


def _caption(table: Table) -> str:
    first, text = table.rows[0].data, ""
    if not _data_differs(table):
        text = (
            f"N = {_span(first.n_train)} training images, smallest populated group {_span(first.smallest_group)}, "
            f"{_span(first.populated_groups)} populated groups, in each draw. "
        )
    budget = _joined([row.data.synthetic_budget for row in table.rows])
    steps = _joined([Span(low=row.data.steps, high=row.data.steps) for row in table.rows])
    text += f"Budget: B = {_span(budget)} kept synthetic images, {_span(steps)} optimiser steps."
    used = [row.cost.devices for row in table.rows]
    devices = sorted({f"{kind} = {name}" for kinds in used for kind, names in kinds.items() for name in names})
    text += f" Ran on: {'; '.join(safe(device) for device in devices)}."
    if table.repeated:
        text += f" {_number(table.repeated, 'repeated run')} of a seed left out: the first attempt counts."
    return text


def _data_differs(table: Table) -> bool:
    """Return whether N or the groups differ between rows or draws, so that each row has to say its own."""
    sizes = [(row.data.n_train, row.data.smallest_group, row.data.populated_groups) for row in table.rows]
    return any(span.low != span.high for size in sizes for span in size) or any(size != sizes[0] for size in sizes)


def _joined(spans: Sequence[Span]) -> Span:
    return Span(low=min(span.low for span in spans), high=max(span.high for span in spans))


def _data_cell(row: Row) -> str:
    data = row.data
    return " / ".join(_span(span) for span in (data.n_train, data.smallest_group, data.populated_groups))


def _rank(row: Row) -> str:
    if row.rank is None:
        return "-"
    low, high = row.rank.low, row.rank.high
    return f"{low if low == high else f'{low}{NONE}{high}'} of {row.rank.among}"


def _behind(row: Row) -> str:
    if row.rank is None:
        return NONE
    if row.rank.behind is None:
        return "best"
    behind = row.rank.behind
    mark = r" \*" if significant(behind) else ""
    return f"{_points(behind.difference)} [{_points(behind.low)}, {_points(behind.high)}]{mark}"


def _method(row: Row | StageRow) -> str:
    name = safe(row.method)
    if row.configuration == "default" and not row.changed:
        return name
    changed = ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
        for key, value in sorted(row.changed.items())
    )
    words = [row.configuration] if row.configuration == "tuned" else []
    return " ".join([name, f"({safe(': '.join([*words, changed] if changed else words), _LONGEST_SETTINGS)})"])


def _generator(row: Row | StageRow) -> str:
    return NONE if row.generator is None else safe(row.generator)


def _stages(task: TaskSection) -> list[str]:
    headers = ["Method", "Generator", "Verification", "Seeds", "Stage", "Steps", "Real images", "Generated images"]
    headers += [_header(name) for name in task.stages[0].stages[0].metrics]
    lines = []
    for row in task.stages:
        for stage in row.stages:
            cells = [_method(row), _generator(row), row.verification, str(row.seeds)]
            cells += [safe(stage.name), _span(stage.steps)]
            cells += [NONE if images is None else _span(images) for images in (stage.real, stage.generated)]
            lines.append(cells + [_estimate(name, found) for name, found in stage.metrics.items()])
    return [
        f"#### {safe(task.task)}, stages at bias level {task.default_level}",
        "Every stage at its last step; the last stage of a method is the ranked one. Copies of real images count as "
        "generated.",
        _grid(headers, lines),
    ]


def _absent(absent: Sequence[Absent]) -> list[str]:
    if not absent:
        return []
    lines = []
    for each in absent:
        seeds = ", ".join(map(str, each.seeds))
        named = [safe(each.task), safe(each.level), safe(each.method)]
        lines.append([*named, seeds, each.status, safe(each.reason)])
    return [
        "## Runs that are in no table",
        "Skipped runs say why the method does not apply. Errors and interruptions stay until their cell succeeds.",
        _grid(["Task", "Level", "Method", "Seeds", "Status", "Reason"], lines),
    ]


def _grid(headers: list[str], lines: list[list[str]]) -> str:
    return str(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))


def _defined(row: Row, name: str) -> bool:
    return row.metrics[name].value is not None


def _header(name: str) -> str:
    return f"{name} %" if METRICS[name].unit in _PERCENT else name


def _estimate(name: str, found: Estimate) -> str:
    if found.value is None:
        return NONE
    show = _points if METRICS[name].unit in _PERCENT else _index
    if found.low is None or found.high is None or name in _WITHOUT_INTERVAL:
        return show(found.value)
    return f"{show(found.value)} [{show(found.low)}, {show(found.high)}]"


def _points(value: float) -> str:
    return _no_negative_zero(f"{100 * value:.1f}")


def _index(value: float) -> str:
    return _no_negative_zero(f"{value:.2f}")


def _no_negative_zero(text: str) -> str:
    return text.removeprefix("-") if not text.strip("-0.") else text


def _span(span: Span) -> str:
    return f"{span.low:,}" if span.low == span.high else f"{span.low:,}{NONE}{span.high:,}"


def _letter(note: str, notes: dict[str, str]) -> str:
    """Return a note's letter in this table: a to z, then aa, ab and so on."""
    if note not in notes:
        place, letter = len(notes), ""
        while place >= 0:
            letter = chr(ord("a") + place % 26) + letter
            place = place // 26 - 1
        notes[note] = letter
    return notes[note]


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _anchor(task: str) -> str:
    return "".join(character for character in task.lower() if character.isalnum() or character in "-_")
