"""`leaderboard`: building the board from records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.findings import findings
from benchmark.cli.output import Debug, Json, print_json, print_table, print_text, say
from benchmark.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from leaderboard.models import Trajectory

app = typer.Typer(help="Build the leaderboard, or show parts of it.", no_args_is_help=True)
app.command("findings")(findings)


@app.callback()
def _verbs() -> None:
    """Build the leaderboard, or show parts of it."""


@app.command("build")
def build(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of them; default: leaderboard/results.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Markdown file; default: LEADERBOARD.md at the repository's root."),
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", help="Also write the page, index.html and board.json, into this folder.")
    ] = None,
    submissions: Annotated[
        Path | None,
        typer.Option("--submissions", help="Folder of accepted NAME.json that say whose methods rows are."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Read and check everything again, also what an earlier build found sound.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write LEADERBOARD.md, and a page, from records: intervals, rank intervals, seeds, cost, track, verification.

    For example, a page of your own runs, which opens from the disk:

      genbias-bench leaderboard build results --site my-board
    """
    del debug
    if records and output is None and site is None:
        raise UsageError("give --output FILE too: LEADERBOARD.md itself is built from leaderboard/results only")
    from leaderboard.build import build_board

    board = build_board(records or None, output, site=site, submissions=submissions, cached=not fresh)
    if json:
        print_json(board.model_dump(mode="json"))
    else:
        print_text(board.written_to)


@app.command("trajectories")
def trajectories(
    results_dir: Annotated[
        list[Path] | None,
        typer.Option("--results-dir", help="Folder of records; repeatable. Default: leaderboard/results."),
    ] = None,
    chart: Annotated[
        Path | None, typer.Option("--chart", help="Draw one line per arm, over seeds, into FILE.svg or FILE.png.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Show this task only.")] = None,
    level: Annotated[
        str | None,
        typer.Option("--level", help="Show this bias level only; Holm corrects over all levels that there are."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show whether bias grows over the generations of self-consuming loops: slopes, verdicts, and a chart.

    For example:

      genbias-bench leaderboard trajectories --results-dir results --chart loops.svg
    """
    del debug
    from benchmark.records.files import make_folder, write_bytes
    from leaderboard.build import collect_trajectories
    from leaderboard.charts import check_format, draw_trajectories

    if chart is not None:
        check_format(chart.suffix)
    found, absent = collect_trajectories(results_dir or None)
    for each in absent:
        say(f"left out: {each.method} on {each.task} at {each.level}, seeds {each.seeds}: {each.reason}")
    if not found:
        raise UsageError("there is no finished run of a process; try `evaluate --method self-consuming-loop`")
    chosen = _chosen(found, task, level)
    if chart is not None:
        make_folder(chart.parent)
        write_bytes(chart, draw_trajectories(chosen, chart.suffix))
    if json:
        print_json({name: [arm.model_dump(mode="json") for arm in arms] for name, arms in chosen.items()})
    else:
        print_table(_HEADERS, [line for name, arms in chosen.items() for arm in arms for line in _lines(name, arm)])


_HEADERS = (
    "task", "level", "arm", "seeds", "generations", "quantity", "points per generation", "interval", "p (Holm)",
    "verdict", "why",
)  # fmt: skip


def _chosen(found: dict[str, list[Trajectory]], task: str | None, level: str | None) -> dict[str, list[Trajectory]]:
    """Return the trajectories of one task and level, or of all.

    Raises:
        UnknownName: For a task or level without a trajectory.
    """
    from benchmark.tasks.levels import normalise_level

    if task is not None:
        named = {name: arms for name, arms in found.items() if task in (name, name.partition("@")[0])}
        if not named:
            raise UnknownName("task with trajectories", task, found)
        found = named
    if level is not None:
        spelt = normalise_level(level)
        levels = {arm.level for arms in found.values() for arm in arms}
        if spelt not in levels:
            raise UnknownName("level with trajectories", spelt, levels)
        found = {name: [arm for arm in arms if arm.level == spelt] for name, arms in found.items()}
    return {name: arms for name, arms in found.items() if arms}


def _lines(task: str, arm: Trajectory) -> list[list[object]]:
    """Return a line for each primary quantity of an arm."""
    from leaderboard.charts import arm_label

    lines: list[list[object]] = []
    for quantity, slope in arm.slopes.items():
        ends = "-" if slope.low is None or slope.high is None else f"[{_points(slope.low)}, {_points(slope.high)}]"
        p_value = "-" if slope.adjusted_p_value is None else f"{slope.adjusted_p_value:.2g}"
        why = "; ".join([*([slope.reason] if slope.reason else []), *slope.left_out])
        line = [task, arm.level, arm_label(arm), len(arm.seeds), arm.generations, quantity, _points(slope.value)]
        lines.append([*line, ends, p_value, slope.verdict, why])
    return lines


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"
