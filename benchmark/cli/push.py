"""`leaderboard push`: accepted records and the page, to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table, say

if TYPE_CHECKING:
    from leaderboard.push import Pushed


def push(
    dataset: Annotated[str, typer.Option("--dataset", help="ORG/NAME of the data set of records.")],
    space: Annotated[str, typer.Option("--space", help="ORG/NAME of the static Space.")],
    site: Annotated[
        Path | None,
        typer.Option("--site", help="Folder written by `leaderboard build --site`; default: the page is built anew."),
    ] = None,
    records: Annotated[
        Path | None, typer.Option("--records", help="Folder of accepted records; default: leaderboard/results.")
    ] = None,
    submissions: Annotated[
        Path | None,
        typer.Option("--submissions", help="Folder of accepted NAME.json; default: leaderboard/submissions."),
    ] = None,
    only: Annotated[
        Literal["dataset", "space"] | None,
        typer.Option("--only", help="Push to this one; a Trusted Publisher's token is for one repository."),
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open pull requests on both instead of writing to main.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing, only show what would change; needs no token.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Push accepted records with a Parquet table of them to a data set, and the page to a static Space, on the Hub.

    One commit each, the data set first; only what differs is sent, and only files that an earlier push wrote are
    deleted. The token is that of HF_TOKEN or `hf auth login`. For example:

      genbias-bench leaderboard push --dataset ORG/genbias-records --space ORG/genbias-bench --dry-run
    """
    del debug
    from leaderboard.hub import Hub, find_token, reading_token
    from leaderboard.push import board_targets
    from leaderboard.push import push as push_target

    token = reading_token() if dry_run else find_token()
    targets = board_targets(dataset, space, site, records=records, submissions=submissions)
    hub, done = Hub(token), []
    for target in targets:
        if only not in (None, target.repository.kind):
            continue
        pushed = push_target(target, hub, create_pr=create_pr, dry_run=dry_run)
        done.append(pushed)
        _say(pushed, dry_run=dry_run)
    if json:
        print_json([_content(pushed) for pushed in done])
    else:
        rows = [(p.repository, c.action, c.path, f"{c.size:,}") for p in done for c in p.changes]
        print_table(("repository", "action", "file", "bytes"), rows)


def _content(pushed: Pushed) -> dict[str, object]:
    return {
        "repository": {"kind": pushed.repository.kind, "name": pushed.repository.name},
        "changes": [{"action": each.action, "path": each.path, "size": each.size} for each in pushed.changes],
        "unchanged": pushed.unchanged,
        "not_ours": pushed.foreign,
        "address": pushed.address,
    }


def _say(pushed: Pushed, *, dry_run: bool) -> None:
    counts = {action: sum(each.action == action for each in pushed.changes) for action in ("add", "change", "delete")}
    sent = sum(each.size for each in pushed.changes if each.action != "delete")
    would = "would be " if dry_run else ""
    say(
        f"{pushed.repository}: {counts['add']} files {would}added, {counts['change']} changed, {counts['delete']} "
        f"deleted, {pushed.unchanged} unchanged; {sent:,} bytes" + (f": {pushed.address}" if pushed.address else "")
    )
    if pushed.foreign:
        say(
            f"{len(pushed.foreign)} files below results/ there, such as {pushed.foreign[0]}, are of runs that are not "
            "accepted here and that no push wrote (a merged pull request?); they were left as they are"
        )
