"""The board as Markdown, the same bytes for the same records; every string of a record is escaped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from tabulate import tabulate

from benchmark.metrics.registry import METRICS
from benchmark.tasks.card import DEFAULT_RECIPE
from leaderboard.models import (
    LEAST_DATA_SETS,
    Absent,
    Board,
    Estimate,
    Extent,
    GeneratedRow,
    Measurement,
    Row,
    Span,
    StageRow,
    StageSummary,
    Table,
    TaskSection,
    Trajectory,
    TrajectorySlope,
)
from leaderboard.ranks import significant
from leaderboard.stages import INFORMATION as BITS
from leaderboard.stages import NO_MIXTURE, NOT_PROBED
from leaderboard.stages import PROBES as PROBED
from leaderboard.text import safe
from leaderboard.trajectories import NOTHING_GENERATED, PRIMARY, QUANTITIES, SHARE
from leaderboard.wording import (
    DEMO_NOTE,
    EMPTY,
    GENERATED,
    HOW_TO_READ,
    HOW_TO_REPRODUCE,
    INFORMATION,
    POINTS,
    PROBES,
    RULES,
    STAGES,
    TRAJECTORIES,
)

NONE = "–"
_SHOWN = ("acc_group_mean", "worst_group_of_mean", "gap", "bias_retained", "flip_rate", "recovered_gap")
_LAST_HEADERS = ("Training s", "Generator s", "Device", "External data", "Verification", "Notes")
_WITHOUT_INTERVAL = ("worst_group_of_mean",)
_PERCENT = ("share", "difference of shares")
_DEMO = "demo"
_LONGEST_SETTINGS = 300
_LONGEST_NOTE = 300
_MOST_TEXTS = 3
_BITS_HEADERS = ("I(Y;A) bits", "I(Y;(A,G)) bits")
_PROBE_HEADERS = ("Probe A %", "Probe G %", "Probe (A,G) %")
_GENERATED_HEADERS = (
    "Bias level", "Method", "Generator", "Verification", "Seeds", "Fine-tuning", "Filter", "Kept of sampled",
    "y shown %", "a shown %", "Memorised %", "FID", "KID", "Generated only: acc_group_mean %",
    "Fine-tuning / sampling / auxiliary s",
)  # fmt: skip
_OWN_INTERVAL = "†"
_LEAST_P_VALUE = 0.001
_SUPERSEDED = (
    "**Superseded by {task}.** These runs were made on an earlier version of the task; they are compared with each "
    "other only and count in no overall score."
)
_QUANTITIES = {
    SHARE: "conflicting images %",
    "information_y_a": "I(Y;A) bits",
    "label_fidelity_y": "y shown %",
    "fid": "FID",
}


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
    methods |= {row.method for task in board.tasks for row in task.trajectories}
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
        tasks = [f"[{safe(task.task)}](#{_anchor(task.task)}){_mark(task)}" for task in board.tasks]
        parts.append("Tasks: " + ", ".join(tasks))
    return parts


def _mark(task: TaskSection) -> str:
    return "" if task.superseded_by is None else " (superseded)"


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
    if task.superseded_by is not None:
        parts.insert(1, _SUPERSEDED.format(task=safe(task.superseded_by)))
    for section in task.rules:
        parts += [f"#### {safe(task.task)}, selection rule `{section.rule}`", RULES[section.rule]]
        for table in section.tables:
            parts += _table(table, task.ranking_metric)
    if task.stages:
        parts += _stages(task)
    if task.generated:
        parts += _generated(task)
    if task.trajectories:
        parts += _trajectories(task)
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
    return [title, _grid(headers, lines), *_notes(notes)]


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


def _method(row: Row | StageRow | GeneratedRow | Trajectory) -> str:
    name = safe(row.method)
    if row.configuration == "default" and not row.changed:
        return name
    changed = ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
        for key, value in sorted(row.changed.items())
    )
    words = [row.configuration] if row.configuration == "tuned" else []
    return " ".join([name, f"({safe(': '.join([*words, changed] if changed else words), _LONGEST_SETTINGS)})"])


def _generator(row: Row | StageRow | GeneratedRow | Trajectory) -> str:
    return NONE if row.generator is None else safe(row.generator)


def _stages(task: TaskSection) -> list[str]:
    headers = ["Method", "Generator", "Verification", "Seeds", "Stage", "Steps", "Real images", "Generated images"]
    headers += [_header(name) for name in task.stages[0].stages[0].metrics] + list(_BITS_HEADERS)
    probed = any(stage.probes for row in task.stages for stage in row.stages)
    headers += list(_PROBE_HEADERS) * probed
    notes: dict[str, str] = {}
    lines = []
    for row in task.stages:
        for stage in row.stages:
            cells = [_method(row), _generator(row), row.verification, str(row.seeds)]
            cells += [safe(stage.name), _span(stage.steps)]
            cells += [NONE if images is None else _span(images) for images in (stage.real, stage.generated)]
            cells += [_estimate(name, found) for name, found in stage.metrics.items()]
            cells += [_bits(stage.information[name], notes) for name in BITS]
            lines.append(cells + [_probe(stage, name, notes) for name in PROBED] * probed)
    return [
        f"#### {safe(task.task)}, stages at bias level {task.default_level}",
        " ".join([STAGES, INFORMATION, *[PROBES.format(chance=_chance(task))] * probed]),
        _grid(headers, lines),
        *_notes(notes),
    ]


def _bits(found: Estimate, notes: dict[str, str]) -> str:
    if found.value is None:
        return _null(found, notes, NO_MIXTURE)
    return _index(found.value)


def _probe(stage: StageSummary, name: str, notes: dict[str, str]) -> str:
    found = stage.probes.get(name)
    if found is None or found.value is None:
        return _null(found, notes, NOT_PROBED)
    return _with_interval(found, _points)


def _chance(task: TaskSection) -> str:
    """Return the chance levels of the three probes, as ranges where stages or runs differ."""
    levels = []
    for name in PROBED:
        found = [stage.chance[name] for row in task.stages for stage in row.stages if name in stage.chance]
        if not found:
            levels.append(NONE)
            continue
        extent = Extent(low=min(each.low for each in found), high=max(each.high for each in found))
        ends = list(dict.fromkeys((_points(extent.low), _points(extent.high))))
        levels.append(NONE.join(ends))
    return f" (chance {' / '.join(levels)} %)"


def _generated(task: TaskSection) -> list[str]:
    notes: dict[str, str] = {}
    lines = [_generated_line(row, notes) for row in task.generated]
    measured = [_measured("FID and KID", task, ("fid", "kid")), _measured("Memorised", task, ("memorised_share",))]
    return [
        f"#### {safe(task.task)}, generated images",
        " ".join([GENERATED, *filter(None, measured)]),
        _grid(list(_GENERATED_HEADERS), lines),
        *_notes(notes),
    ]


def _generated_line(row: GeneratedRow, notes: dict[str, str]) -> list[str]:
    cells = [_level(row), _method(row), _generator(row), row.verification, str(row.seeds)]
    cells += [_tuning(row), _filter(row, notes), f"{_span(row.kept)} of {_span(row.sampled)}"]
    cells += [_fidelity(row, name, notes) for name in ("y", "a")]
    cells.append(_measurement(row.measures["memorised_share"], _points, notes))
    cells += [_measurement(row.measures[name], _figures, notes) for name in ("fid", "kid")]
    alone = row.generated_only
    cells.append(_null(alone, notes) if alone.value is None else _with_interval(alone, _points))
    times = (row.tuning_seconds, row.sampling_seconds, row.auxiliary_seconds)
    return [*cells, " / ".join(f"{seconds:,.0f}" for seconds in times)]


def _level(row: GeneratedRow | Trajectory) -> str:
    return row.level if row.recipe == DEFAULT_RECIPE else f"{row.level}, recipe {safe(row.recipe)}"


def _tuning(row: GeneratedRow) -> str:
    if row.tuning == [None]:
        return "as it is"
    text = " + ".join("as it is" if kind is None else safe(kind) for kind in row.tuning)
    text += f", {_counted(row.adapters, 'adapter')}"
    return text if not row.base_groups.high else f"{text}, {_counted(row.base_groups, 'group')} without"


def _counted(span: Span, noun: str) -> str:
    return f"{_span(span)} {noun}{'' if span.low == span.high == 1 else 's'}"


def _filter(row: GeneratedRow, notes: dict[str, str]) -> str:
    text = " + ".join("none" if kind is None else kind for kind in row.filters)
    if not row.filter_models:
        return text
    return f"{text} ({_letter('filter: ' + '; '.join(row.filter_models), notes)})"


def _fidelity(row: GeneratedRow, name: str, notes: dict[str, str]) -> str:
    text, raw = _measurement(row.measures[name], _points, notes), row.measures[f"{name}_raw"].value
    return text if raw is None else f"{text} (raw {_points(raw)})"


def _measurement(found: Measurement, show: Callable[[float], str], notes: dict[str, str]) -> str:
    if found.value is None:
        return _null(found, notes)
    return _with_interval(found, show) + _OWN_INTERVAL * found.own_interval


def _measured(what: str, task: TaskSection, names: Sequence[str]) -> str:
    """Return on what something was measured: the records say it at the end of the interval's text."""
    recorded = {text for row in task.generated for name in names for text in row.measured_on[name]}
    texts = sorted({text.rpartition(", on ")[2] for text in recorded})
    more = [f"and {len(texts) - _MOST_TEXTS} more"] * (len(texts) > _MOST_TEXTS)
    return f"{what}: {'; '.join([*map(safe, texts[:_MOST_TEXTS]), *more])}." if texts else ""


def _trajectories(task: TaskSection) -> list[str]:
    headers = ["Bias level", "Method", "Generator", "Verification", "Seeds", "Generations"]
    for name in PRIMARY:
        title = _quantity(name).removesuffix(" %")
        headers += [f"{title}: points per generation", f"{title}: verdict (p)"]
    notes: dict[str, str] = {}
    lines = []
    for row in task.trajectories:
        cells = [
            _level(row),
            _method(row),
            _generator(row),
            row.verification,
            str(len(row.seeds)),
            str(row.generations),
        ]
        for name in PRIMARY:
            cells += _slope(row.slopes[name], notes)
        letters = [_letter(note, notes) for note in (*row.stale, *row.remarks)]
        lines.append([*cells, ", ".join(sorted(letters)) or NONE])
    return [
        f"#### {safe(task.task)}, bias over generations",
        TRAJECTORIES,
        _grid([*headers, "Notes"], lines),
        *_notes(notes),
        *_generations(task.trajectories),
    ]


def _quantity(name: str) -> str:
    return _QUANTITIES.get(name) or _header(name)


def _slope(slope: TrajectorySlope, notes: dict[str, str]) -> list[str]:
    """Return the slope with its interval, and its verdict with what there is to say about it."""
    letters = [_letter(note, notes) for note in (slope.reason, *slope.left_out) if note]
    said = letters if slope.adjusted_p_value is None else [_p_value(slope.adjusted_p_value), *letters]
    verdict = f"{slope.verdict} ({', '.join(said)})" if said else slope.verdict
    found = Estimate(value=slope.value, low=slope.low, high=slope.high)
    return [NONE if slope.value is None else _with_interval(found, _slope_points), verdict]


def _p_value(value: float) -> str:
    return f"{value:.2g}" if value >= _LEAST_P_VALUE else f"<{_LEAST_P_VALUE}"


def _slope_points(value: float) -> str:
    return _index(100 * value)


def _generations(rows: Sequence[Trajectory]) -> list[str]:
    """Return the points of all arms: a line for each quantity that an arm has, a column for each generation."""
    most = max(row.generations for row in rows)
    notes: dict[str, str] = {}
    lines = []
    for row in rows:
        for name in QUANTITIES:
            points = [_of_generation(name, point.values[name], notes) for point in row.points]
            if set(points) != {NONE}:
                points += [NONE] * (most + 1 - len(points))
                lines.append([_level(row), _method(row), row.verification, _quantity(name), *points])
    headers = ["Bias level", "Method", "Verification", "Quantity", *map(str, range(most + 1))]
    return [POINTS, _grid(headers, lines), *_notes(notes)]


def _of_generation(name: str, found: Estimate, notes: dict[str, str]) -> str:
    if found.value is None:
        return _null(found, notes, NOTHING_GENERATED)
    show = _figures if name == "fid" else _index if name == "information_y_a" else _points
    return _with_interval(found, show)


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
    return show(found.value) if name in _WITHOUT_INTERVAL else _with_interval(found, show)


def _points(value: float) -> str:
    return _no_negative_zero(f"{100 * value:.1f}")


def _index(value: float) -> str:
    return _no_negative_zero(f"{value:.2f}")


def _figures(value: float) -> str:
    """Show a number of unknown scale with three significant digits, or as a whole number above them."""
    return _no_negative_zero(f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}")


def _no_negative_zero(text: str) -> str:
    return text.removeprefix("-") if not text.strip("-0.") else text


def _span(span: Span) -> str:
    return f"{span.low:,}" if span.low == span.high else f"{span.low:,}{NONE}{span.high:,}"


def _with_interval(found: Estimate, show: Callable[[float], str]) -> str:
    assert found.value is not None
    if found.low is None or found.high is None:
        return show(found.value)
    return f"{show(found.value)} [{show(found.low)}, {show(found.high)}]"


def _null(found: Estimate | None, notes: dict[str, str], expected: str = "") -> str:
    """Return a dash, with the letter of its reason unless that goes without saying."""
    if found is None or not found.reason or found.reason == expected:
        return NONE
    return f"{NONE} ({_letter(found.reason, notes)})"


def _notes(notes: dict[str, str]) -> list[str]:
    lines = [f"- {letter}: {safe(note, _LONGEST_NOTE)}" for note, letter in notes.items()]
    return ["\n".join(lines)] if lines else []


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
