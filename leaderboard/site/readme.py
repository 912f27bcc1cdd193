"""The excerpt of the board in README.md: the top rows of the tables shown first, between two comments."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from benchmark.records.files import write_text
from leaderboard.blocks import comments, framed, replace_block
from leaderboard.models import Board, Row, Table, TaskSection
from leaderboard.site import text
from leaderboard.text import safe

README_FILE = "README.md"
_BLOCK = "board"
START, END = comments(_BLOCK)
MOST_LINES = 25
_MOST_ROWS = 8
_ABOUT = 4
"""Lines of the two comments and of the sentence with the empty line below it."""
_FRAME = 5
"""Lines of a table besides its rows: its title, its head, and empty lines."""
_MOST_TABLES = 3


def update_readme(board: Board, file: Path) -> bool:
    """Put the excerpt between the two comments of a Markdown file.

    Returns:
        Whether the file has the two comments; without them it is left alone.

    Raises:
        DamagedFile: When the comments are not there once each, the first before the second.
        StoreError: When the file cannot be written.
    """
    if not file.is_file():
        return False
    content = file.read_text(encoding="utf-8")
    if START not in content and END not in content:
        return False
    updated = replace_block(content, _BLOCK, excerpt(board), str(file))
    if updated != content:
        write_text(file, updated)
    return True


def excerpt(board: Board) -> str:
    """Return the excerpt with its two comments: at most 25 lines, photographs first, ranked rows only."""
    shown = [(task, table, rows) for task in board.tasks for table, rows in [_ranked(task)] if table and rows]
    shown = shown[:_MOST_TABLES]
    parts = [_about(board)]
    left = MOST_LINES - _ABOUT
    for place, (task, table, rows) in enumerate(shown):
        take = min(left // (len(shown) - place) - _FRAME, len(rows), _MOST_ROWS)
        left -= _FRAME + take
        parts.append(_table(task, table, rows[:take], len(rows)))
    return framed(_BLOCK, "\n\n".join(parts))


def _about(board: Board) -> str:
    if not board.runs:
        return f"Board release {board.release}: no run has been accepted yet."
    return (
        f"Board release {board.release}, {board.runs:,} runs; checkpoint `last`, 95 % intervals over seeds. A rank is "
        "an interval among rows that used no more group labels. All of it: [LEADERBOARD.md](LEADERBOARD.md)."
    )


def _ranked(task: TaskSection) -> tuple[Table | None, list[Row]]:
    """Return the table of a task that is shown, and its ranked rows."""
    if task.superseded_by is not None:
        return None, []
    tables = [table for section in task.rules if section.rule == "last" for table in section.tables]
    table = next((each for each in tables if each.level == task.default_level), next(iter(tables), None))
    return table, [] if table is None else [row for row in table.rows if row.rank is not None]


def _table(task: TaskSection, table: Table, rows: list[Row], ranked: int) -> str:
    metric, show = task.ranking_metric, text.show_metric(task.ranking_metric)
    demo = ", demo tier: no evidence about photographs" if task.tier == "demo" else ""
    title = (
        f"**{safe(task.task)}**, {safe(text.level(table.level, table.recipe))}: {len(rows)} of {ranked} ranked{demo}"
    )
    lines = [
        [
            "" if row.rank is None else f"{text.rank(row.rank)} of {row.rank.among}",
            safe(" ".join(filter(None, [row.method, text.settings(row)]))),
            row.track,
            text.with_ends(row.metrics[metric], show),
            text.with_ends(row.metrics["bias_retained"], text.show_metric("bias_retained")),
        ]
        for row in rows
    ]
    heads = ["Rank", "Method", "Track", text.metric_head(metric), "bias_retained"]
    return f"{title}\n\n{tabulate(lines, headers=heads, tablefmt='github', disable_numparse=True)}"
