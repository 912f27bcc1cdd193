"""`leaderboard`: building the board from records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.output import Debug, Json, print_json, print_text
from benchmark.errors import UsageError

app = typer.Typer(help="Build the leaderboard.", no_args_is_help=True)


@app.callback()
def _verbs() -> None:
    """Build the leaderboard."""


@app.command("build")
def build(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of them; default: leaderboard/results.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Markdown file; default: LEADERBOARD.md at the repository's root."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write LEADERBOARD.md from records: intervals, rank intervals, seeds, cost, track, verification level."""
    del debug
    if records and output is None:
        raise UsageError("give --output FILE too: LEADERBOARD.md itself is built from leaderboard/results only")
    from leaderboard.build import build_board

    board = build_board(records or None, output)
    if json:
        print_json(board.model_dump(mode="json"))
    else:
        print_text(board.written_to)
