"""What verbs print: tables on a terminal, one untruncated row per line elsewhere, JSON when asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_text(text: str = "") -> None:
    """Print a line of the result on standard output."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """Tell the user something that is not the result, on standard error."""
    sys.stderr.write(text + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table: drawn on a terminal, tab-separated with one row per line elsewhere."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print_text("\t".join(str(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    Console().print(table, markup=False)


def percent(value: float | None) -> str:
    """Show a share as a percentage with one decimal; undefined as a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """Show an interval of shares."""
    return "" if low is None or high is None else f"[{percent(low)}, {percent(high)}]"
