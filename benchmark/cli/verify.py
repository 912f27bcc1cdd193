"""`verify`: check a submission as the board will."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table, say
from benchmark.errors import DamagedFile, UsageError

if TYPE_CHECKING:
    from leaderboard.verify import Report


def verify(
    path: Annotated[
        Path | None, typer.Argument(help="A submission folder, a folder of results, or the folder of one run.")
    ] = None,
    board: Annotated[
        list[Path] | None,
        typer.Option("--board", help="Folder of the standing board's records; repeatable. Default: the accepted ones."),
    ] = None,
    intervals: Annotated[
        bool | None,
        typer.Option(
            "--intervals/--no-intervals",
            help="Resample the bands of calibration errors too; default: where the test split is of bounded size.",
        ),
    ] = None,
    as_submission: Annotated[
        bool, typer.Option("--as-submission", help="Require submission.json, as for a pull request.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the report as Markdown into this file.")
    ] = None,
    pr: Annotated[
        int | None, typer.Option("--pr", min=1, help="Download and check this pull request of --dataset instead.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="ORG/NAME of the data set of records.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a submission: files, schema, names, splits, budgets, labels, every metric, duplicates and copies.

    Exit code 1 when anything stands against it. Test labels are public, so a sound report shows that the arithmetic is
    right, not that the answers were come by honestly. For example:

      genbias-bench verify my-submission --report report.md

      genbias-bench verify --pr 7 --dataset ORG/NAME
    """
    del debug
    from benchmark.records.files import make_folder, write_text
    from leaderboard.verify import verify as check

    with _folder(path, pr, dataset) as folder:
        required = as_submission or pr is not None
        found = check(folder, board=board or None, submission_required=required, intervals=intervals)
    if report is not None:
        make_folder(report.parent)
        write_text(report, found.markdown())
    show(found, json=json)
    if not found.ok:
        what = path if pr is None else f"pull request {pr} of {dataset}"
        raise DamagedFile(f"{what} is not accepted: {found.errors} errors")


@contextmanager
def _folder(path: Path | None, pr: int | None, dataset: str | None) -> Iterator[Path]:
    """Yield the folder to check: the one named, or what a pull request adds, which is removed afterwards."""
    if path is not None and pr is None and dataset is None:
        yield path
    elif path is None and pr is not None and dataset is not None:
        from leaderboard.hub import Hub, Repository, reading_token
        from leaderboard.pull import download_pull_request

        repository = Repository("dataset", dataset)
        with tempfile.TemporaryDirectory() as parent:
            yield download_pull_request(repository, pr, Path(parent) / "submission", Hub(reading_token()))
    else:
        raise UsageError("name a folder, or a pull request with --pr N --dataset ORG/NAME")


def show(found: Report, *, json: bool) -> None:
    """Print a report, and say what it means."""
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        lines = [(each.severity, each.check, each.where, each.message) for each in found.findings]
        print_table(("severity", "check", "where", "what"), lines)
    if found.further_findings:
        say(f"and {found.further_findings} more findings")
    say(
        f"{found.runs} records, {found.recomputed_runs} finished runs with {found.checkpoints} checkpoints recomputed; "
        f"level {found.level}"
    )
    say(found.honesty)
