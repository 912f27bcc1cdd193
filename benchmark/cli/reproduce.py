"""`reproduce`: a sample of the accepted rows made again here, and whether they come out as committed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.evaluate import interrupt
from benchmark.cli.grid import check_numbers
from benchmark.cli.output import Debug, Json, print_json, print_table, print_text, say
from benchmark.cli.plan import duration
from benchmark.errors import InvalidValue

if TYPE_CHECKING:
    from leaderboard.reproduce.plan import Plan

DIFFERS = 1


def reproduce(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the plan, the runs and the report; gone on with.")
    ] = Path("reproduction"),
    budget_minutes: Annotated[
        float, typer.Option("--budget-minutes", help="Wall time on two cores into which the rows fit by estimate.")
    ] = 60.0,
    all_: Annotated[bool, typer.Option("--all", help="Every accepted row, however long it takes.")] = False,
    task: Annotated[str, typer.Option("--task", "-t", help="Task whose accepted rows are made again.")] = (
        "colorized-digits"
    ),
    bias_level: Annotated[
        list[str] | None, typer.Option("--bias-level", "-b", help="Only rows of this level; may be repeated.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="Only rows of this method; may be repeated.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", "-s", help="The fresh seed; default: a random one, kept in the plan.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Runs at a time; default: one per core as memory allows.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps; only CPUs repeat to the last digit.")
    ] = "cpu",
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of pools and adapters; default: a new one in --output."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be made again.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make accepted rows again, in isolation, and say whether the committed numbers can be had here.

    Rows are taken in the order of a hash as long as they fit into the time. Each is run twice. A fresh seed must lie in
    the prediction interval of the committed ones, at 95 % for all comparisons together. A committed seed must give
    every metric again to 1e-6, if threads, precision and CPU capability are the same.

    Run it again to go on where it was. Exit code 0 when everything came out as committed, else 1. For example:

      genbias-bench reproduce --dry-run

      genbias-bench reproduce --budget-minutes 5 --method erm --method resampling
    """
    del debug  # main() reads it
    from benchmark.cli.progress import progress
    from benchmark.sweep import reproduce as api
    from leaderboard.reproduce.markdown import render_report
    from leaderboard.reproduce.sample import Wanted

    check_numbers(workers=workers)
    if not 0 < budget_minutes < float("inf"):
        raise InvalidValue(f"--budget-minutes {budget_minutes} makes no sense; use more than 0, or --all")
    settings = api.Settings(
        output=output, wanted=Wanted(task, tuple(bias_level or ()), tuple(method or ())),
        minutes=None if all_ else budget_minutes, seed=seed, store=store, device=device, workers=workers,
    )  # fmt: skip
    if dry_run:
        _show(api.plan_reproduction(settings).plan, json=json)
        return
    signal.signal(signal.SIGTERM, interrupt)
    with progress("reproduce") as bars:
        report = api.reproduce(settings, bars)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        print_text(render_report(report))
    say(f"report\t{output / api.REPORT_FILE}")
    if not report.holds:
        raise typer.Exit(DIFFERS)


def _show(plan: Plan, *, json: bool) -> None:
    """Print what would be made again."""
    if json:
        print_json(plan.model_dump(mode="json"))
        return
    from leaderboard.reproduce.markdown import name_of, render_estimate

    columns = ["row", "committed seeds", "seed again", "both runs", "other here"]
    rows = [
        [
            name_of(row), len(row.runs), row.seed, duration(row.seconds),
            row.not_here or "; ".join(row.conditions) or "-",
        ]
        for row in plan.rows
    ]  # fmt: skip
    print_table(columns, rows)
    say(render_estimate(plan))
