"""`tasks`: check one."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli import complete
from benchmark.cli.methods import ReportFile, show
from benchmark.cli.output import Debug, Json

app = typer.Typer(help="Check a task.", no_args_is_help=True)


@app.callback()
def tasks() -> None:
    """Check a task."""


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="Which task; see `list tasks`.", autocompletion=complete.tasks)],
    report: ReportFile = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a task: card, licence, loader, splits, digests, and a few images; nothing is downloaded or prepared.

    Exits with 0 when nothing failed, with 1 otherwise. For example:

      genbias-bench tasks check colorized-digits

      genbias-bench tasks check their-tasks/rooms --report rooms.md
    """
    del debug
    from benchmark.testing.tasks import check_task

    show(check_task(name), report, json)
