"""Writes the page: ``index.html``, which holds everything, and ``board.json``, the same numbers for programs.

`genbias-bench leaderboard build --site` calls :func:`write_site`, and `leaderboard push` sends what it wrote. The same
records give the same bytes. Whatever comes from a record is text: the templates escape it, the content security policy
lets no script run but the page's own, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from markupsafe import Markup

from benchmark.metrics.registry import METRICS
from benchmark.records.files import make_folder, write_text
from genbias_bench import __version__
from leaderboard.groups import Scored
from leaderboard.models import LEAST_DATA_SETS, Absent, Board, Level, Row, TaskSection
from leaderboard.site.charts import charts
from leaderboard.site.details import details_of
from leaderboard.site.pictures import pictures
from leaderboard.site.prose import inline, listed
from leaderboard.site.tables import COLUMNS, View, views
from leaderboard.site.text import plain
from leaderboard.submission import Submission
from leaderboard.wording import (
    DEMO_NOTE,
    GENERATED,
    HOW_TO_READ,
    INFORMATION,
    POINTS,
    PROBES,
    RULES,
    STAGES,
    TRAJECTORIES,
)

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE, JSON_FILE = "index.html", "board.json"
TRACKS = ("none", "val-select", "val-train", "train")
_MOST_ABSENT = 200
_SHOWN = ("acc_worst_group", "acc_aligned", "acc_conflicting")


def write_site(
    board: Board, runs: Sequence[Scored], folder: Path, *, submissions: Mapping[str, Submission] | None = None
) -> tuple[Path, Path]:
    """Write the page of a board and its JSON, each atomically.

    Args:
        board: The board.
        runs: The runs that it was built from, for the details of its rows.
        folder: Made if it does not exist.
        submissions: What submitters say about their methods, by ``name@version``.

    Returns:
        The HTML file and the JSON file.

    Raises:
        StoreError: When the folder cannot be written.
    """
    page = render_page(board, runs, submissions=submissions)
    make_folder(folder)
    write_text(folder / JSON_FILE, board.model_dump_json() + "\n")
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE, folder / JSON_FILE


def render_page(board: Board, runs: Sequence[Scored], *, submissions: Mapping[str, Submission] | None = None) -> str:
    """Return the page.

    Args:
        board: The board.
        runs: The runs that it was built from.
        submissions: What submitters say about their methods, by ``name@version``.
    """
    details = details_of(board, runs, pictures(runs), submissions or {})
    sections = [_section(task, views(task, details.of_row)) for task in board.tasks]
    first = _first(sections)
    template = _environment().get_template("page.html.jinja")
    scripts = {"early": _early(), "late": _source("script.js")}
    style = _source("style.css") + _hidden_columns()
    return template.render(
        board=board,
        version=__version__,
        sections=sections,
        first=first,
        first_view=_first_view(first),
        columns=COLUMNS,
        tracks=TRACKS,
        rules=RULES,
        generators=_generators(board),
        levels=get_args(Level),
        metrics=_metrics(board),
        least_data_sets=LEAST_DATA_SETS,
        methods=len({row.method for row in _rows(board)} | {arm.method for t in board.tasks for arm in t.trajectories}),
        absent=[_absent(each) for each in board.absent[:_MOST_ABSENT]],
        absent_more=max(len(board.absent) - _MOST_ABSENT, 0),
        data=_packed(details.content()),
        style=Markup(style),
        policy=_policy(scripts.values(), style),
        **{name: Markup(source) for name, source in scripts.items()},
        **_words(),
    )


def _section(task: TaskSection, tables: list[View]) -> dict[str, Any]:
    """Return what the template shows of a task."""
    return {
        "task": task,
        "name": plain(task.task),
        "demo": task.tier == "demo",
        "metric": METRICS[task.ranking_metric],
        "views": tables,
        "levels": {view.level: view.level_shown for view in tables},
        "default": _default_level(task, tables),
        "most": max(map(len, tables), default=0),
        "charts": charts(task),
    }


def _default_level(task: TaskSection, tables: Sequence[View]) -> str:
    """Return the level that is shown first: the default one, if it has a table."""
    levels = [view.level for view in tables]
    return next((level for level in levels if level.partition(" ")[0] == task.default_level), [*levels, ""][0])


def _first(sections: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the task that is shown first: of those outside the demo tier that with most rows, else any."""
    shown = [section for section in sections if section["views"]]
    apart = [section for section in shown if not section["demo"] and section["task"].superseded_by is None]
    return max(apart or shown or sections, key=lambda each: each["most"], default=None)


def _first_view(first: dict[str, Any] | None) -> str:
    """Return the key of the table that is shown first."""
    if first is None:
        return ""
    return next((view.key for view in first["views"] if view.level == first["default"] and view.rule == "last"), "")


def _absent(each: Absent) -> list[str]:
    seeds = ", ".join(map(str, each.seeds))
    named = [plain(name) for name in (each.method, each.task, each.level)]
    return [*named, seeds, each.status, plain(each.reason, 300)]


def _rows(board: Board) -> list[Row]:
    return [row for task in board.tasks for rule in task.rules for table in rule.tables for row in table.rows]


def _generators(board: Board) -> list[str]:
    names = {plain(row.generator).rpartition("@")[0] for row in _rows(board) if row.generator is not None}
    return sorted(names)


def _metrics(board: Board) -> list[Any]:
    names = dict.fromkeys(
        [*(task.ranking_metric for task in board.tasks), *(column.key for column in COLUMNS), *_SHOWN]
    )
    return [METRICS[name] for name in names if name in METRICS]


def _words() -> dict[str, Markup]:
    chance = PROBES.format(chance="")
    return {
        "how_to_read": listed(HOW_TO_READ),
        "demo_note": inline(DEMO_NOTE),
        "about_stages": inline(f"{STAGES} {INFORMATION} {chance}"),
        "about_generated": inline(GENERATED),
        "about_trajectories": inline(f"{TRAJECTORIES} {POINTS}"),
    }


# --- the frame --------------------------------------------------------------------------------------------------------


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("leaderboard.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "inline": inline}
    return environment


@functools.cache
def _source(name: str) -> str:
    return Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")


def _early() -> str:
    """Return the script that runs before anything is painted: controls appear, columns that are not shown do not."""
    hidden = " ".join(f"h{number}" for number, column in enumerate(COLUMNS, start=1) if not _always(column))
    return f'document.documentElement.className = "js {hidden}";'


def _always(column: Any) -> bool:
    return bool(column.fixed or column.shown)


def _hidden_columns() -> str:
    """Return the style of columns that the reader hides."""
    return "".join(
        f".h{number} .board :is(th, td):nth-child({number}) {{ display: none; }}\n"
        for number, column in enumerate(COLUMNS, start=1)
        if not column.fixed
    )


def _policy(scripts: Any, style: str) -> str:
    """Return the content security policy: the page's own scripts and style by their digests, and inlined pictures."""
    hashes = " ".join(_digest(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src {_digest(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode('ascii')}'"


def _packed(content: Any) -> str:
    """Return JSON, deflated, in base 64: the details are most of the page's numbers, and few readers open many."""
    shown = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(shown.encode(), level=9)).decode("ascii")
