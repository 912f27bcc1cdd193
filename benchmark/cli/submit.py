"""`submit`: a method's finished runs as a submission folder, and as a pull request on the data set of records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import complete
from benchmark.cli.output import Debug, Json, print_json, print_text, say
from benchmark.errors import InvalidValue, UsageError


def submit(
    method: Annotated[
        str,
        typer.Option("--method", "-m", help="The method, as NAME or NAME@VERSION.", autocompletion=complete.methods),
    ],
    author: Annotated[list[str], typer.Option("--author", help="An author's name; repeatable.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the submission to; must not exist.")],
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Only runs of this task.", autocompletion=complete.tasks)
    ] = None,
    results_dir: Annotated[Path, typer.Option("--results-dir", help="Folder of records.")] = Path("results"),
    title: Annotated[str, typer.Option("--title", help="What this is; default: method and tasks.")] = "",
    link: Annotated[list[str] | None, typer.Option("--link", help="https:// address of paper or code.")] = None,
    citation_file: Annotated[
        Path | None, typer.Option("--citation-file", help="File with a BibTeX entry to show beside the row.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="What readers should know, in at most 2,000 characters.")] = "",
    board: Annotated[
        list[Path] | None,
        typer.Option("--board", help="Folder of the standing board's records; repeatable. Default: the accepted ones."),
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Open a pull request on the data set too.")] = False,
    dataset: Annotated[str | None, typer.Option("--dataset", help="ORG/NAME of the data set of records.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Gather a method's finished runs, check them as the board will, and write the submission folder.

    It holds records and predictions only. With --push a pull request on the data set is opened too, with the token of
    HF_TOKEN or `hf auth login`; a method's code goes to the code repository by a pull request of its own. For example:

      genbias-bench submit --method acme/my-method --author "A. Author" --out submission --push --dataset ORG/NAME
    """
    del debug

    from leaderboard.hub import Hub, Repository, find_token
    from leaderboard.submit import describe, gather, open_pull_request, write_submission

    if push != (dataset is not None):
        raise UsageError("--push and --dataset ORG/NAME go together: the pull request is opened there")
    repository = Repository("dataset", dataset) if dataset is not None else None
    hub = Hub(find_token()) if repository is not None else None
    runs = gather(method, results_dir, task)
    about = describe(runs, title=title, authors=author, links=link or [], citation=_citation(citation_file), note=note)
    report = write_submission(runs, about, out, board=board or None)
    say(f"{len(runs)} runs of {about.method} were checked")
    address = None
    if repository is not None and hub is not None:
        address = open_pull_request(out, about, report, repository, hub)
    if json:
        print_json({"folder": str(out), "method": about.method, "runs": len(runs), "pull_request": address})
        return
    say(report)
    print_text(address or str(out))


def _citation(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"--citation-file {file} cannot be read as text: {error}") from error
