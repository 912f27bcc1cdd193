"""`methods`: start a new adapter, and check one against the contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import complete
from benchmark.cli.output import Debug, Json, print_json, print_table, print_text, say

if TYPE_CHECKING:
    from benchmark.testing.report import Report

app = typer.Typer(help="Start a new method, and check one against the contract.", no_args_is_help=True)

ReportFile = Annotated[Path | None, typer.Option("--report", metavar="FILE.md", help="Write the report as Markdown.")]


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens, such as half-half.")],
    package: Annotated[
        Path | None,
        typer.Option("--package", metavar="DIR", help="Write an installable project there instead of an in-tree file."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a commented adapter that runs as it is; nothing is overwritten.

    For example:

      genbias-bench methods new half-half

      genbias-bench methods new half-half --package ~/genbias-half-half
    """
    del debug
    from benchmark.testing.scaffold import new_method

    made = new_method(name, package)
    for file in made.files:
        print_text(str(file))
    if made.install:
        say(f"next: {made.install}")
    say(f"next: genbias-bench methods check {made.method}")
    say(f"      genbias-bench evaluate --method {made.method} --seed 0")


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="Which method; see `list methods`.", autocompletion=complete.methods)],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Hyper-parameter of the method; repeatable.")
    ] = None,
    limit: Annotated[
        float, typer.Option("--limit", min=1, metavar="SECONDS", help="Processor time, or waiting, of one run.")
    ] = 45.0,
    report: ReportFile = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a method against the contract on a small task on the CPU; every check is made and explained.

    Exits with 0 when nothing failed, with 1 otherwise. For example:

      genbias-bench methods check half-half

      genbias-bench methods check genbias-half-half/half-half --report contract.md
    """
    del debug
    from benchmark.cli.evaluate import parse_assignments
    from benchmark.testing.suite import check_method

    overrides = parse_assignments(set_ or [])
    say(f"checking {name} on a small task; this takes up to a minute")
    show(check_method(name, overrides=overrides, limit=limit), report, json)


def show(found: Report, report: Path | None, json: bool) -> None:
    """Print a report, write it where that was asked for, and exit with 1 where something failed."""
    from benchmark.records.files import make_folder, write_text

    if report is not None:
        make_folder(report.absolute().parent)
        write_text(report, found.markdown())
        say(f"report: {report}")
    if json:
        print_json(found.as_dict())
    else:
        print_table(("check", "result", "what it promises"), [(c.name, c.status, c.promise) for c in found.checks])
        for failed in found.failed:
            print_text(f"\n{failed.name} failed: {failed.promise}")
            for finding in failed.findings:
                print_text(f"  {finding}")
            print_text(f"  what to do: {failed.advice}")
        say(found.summary())
    if not found.passed:
        raise typer.Exit(1)
