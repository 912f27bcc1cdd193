"""`submit`: a method's finished runs as a submission folder, checked as the board will, and as a pull request.

The pull request goes to the data set of records; code goes to the code repository, by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from benchmark.errors import InvalidValue, UsageError
from benchmark.records.canonical import sha256_folder
from benchmark.records.files import make_folder, publish_folder, temporary_folder, write_bytes, write_json
from benchmark.records.results import RECORD_FILE, read_record, record_files, run_folder, run_folder_name
from benchmark.records.schema import Record
from benchmark.tasks.catalog import find_card
from leaderboard.hub import Content, Hub, Repository
from leaderboard.hub_errors import Unreachable
from leaderboard.people import run_files
from leaderboard.untrusted import SUBMISSION_FILE

if TYPE_CHECKING:
    from leaderboard.submission import Submission

_LONGEST_DESCRIPTION, _NAMED_TASKS = 20_000, 2


@dataclass(frozen=True)
class Finished:
    """One finished run at hand.

    Attributes:
        folder: Where it lies.
        record: Its record.
    """

    folder: Path
    record: Record


def gather(method: str, results: Path, task: str | None = None) -> list[Finished]:
    """Return a method's finished runs: no trials, no errors, the last success of each cell.

    Args:
        method: ``name`` or ``name@version``.
        results: The results folder.
        task: Only runs of this task, ``name`` or ``name@version``.

    Raises:
        UsageError: When there are none, or of several versions.
        DamagedFile: When a record cannot be read.
    """
    name, _, version = method.partition("@")
    tasks = [find_card(task).task.name] if task else sorted(path.name for path in results.glob("*") if path.is_dir())
    cells: dict[str, Finished] = {}
    for folder in (results / run_folder(each, name) for each in tasks):
        for file in record_files(folder):
            record = read_record(file)
            wanted = record.method.name == name and version in ("", str(record.method.version))
            if not wanted or record.kind != "run" or record.status != "success":
                continue
            known = cells.get(record.cell_id)
            if known is None or _attempt(known.record) < _attempt(record):
                cells[record.cell_id] = Finished(file.parent, record)
    found = sorted(cells.values(), key=lambda each: run_folder_name(each.record))
    if not found:
        of_task = f" on {task}" if task else ""
        raise UsageError(f"{results} holds no finished run of {method}{of_task}; run `genbias-bench evaluate` first")
    if len(versions := sorted({each.record.method.version for each in found})) > 1:
        raise UsageError(
            f"{results} holds runs of versions {versions} of {name}; name one: --method {name}@{versions[-1]}"
        )
    return found


def _attempt(record: Record) -> int:
    return int(record.run_id.partition("-")[2] or 1)


def describe(
    runs: Sequence[Finished],
    *,
    authors: Sequence[str],
    title: str = "",
    links: Sequence[str] = (),
    citation: str = "",
    note: str = "",
) -> Submission:
    """Return what a submission of some runs says about itself.

    Args:
        runs: As :func:`gather` gives them.
        authors: Names.
        title: One line; the default names method and tasks.
        links: Addresses of paper and code.
        citation: BibTeX.
        note: What readers should know.

    Raises:
        InvalidValue: When something is too long, hidden or no address.
    """
    from leaderboard.submission import Submission, problems_of

    method = runs[0].record.cell.method
    tasks = sorted({run.record.task.name for run in runs})
    try:
        return Submission(
            format_version=1,
            method=method,
            title=title or f"{method} on {', '.join(tasks) if len(tasks) <= _NAMED_TASKS else f'{len(tasks)} tasks'}",
            authors=list(authors),
            links=list(links),
            citation=citation,
            note=note,
        )
    except ValidationError as error:
        raise InvalidValue(f"the submission cannot say this about itself: {problems_of(error)}") from error


def write_submission(
    runs: Sequence[Finished], about: Submission, out: Path, *, board: Sequence[Path] | None = None
) -> str:
    """Check runs as the board will and write their submission folder, whole or not at all.

    Args:
        runs: As :func:`gather` gives them.
        about: Who submits, and what.
        out: The folder; it must not exist, unless it holds this very submission.
        board: Folders of the standing board's records; None takes the accepted ones of this checkout.

    Returns:
        The report of the checks, as Markdown.

    Raises:
        UsageError: When the board would refuse it, when a file may not leave this machine (protocol §10), or when
            ``out`` is taken.
        DamagedFile: When predictions are missing or not those that a record names.
        StoreError: When it cannot be written.
    """
    from leaderboard.verify import verify

    with temporary_folder(out.parent) as beside:
        made = make_folder(beside / out.name)
        for run in runs:
            target = make_folder(made / run_folder_name(run.record))
            for file in run_files(run.folder, run.record):
                write_bytes(target / file.name, file.read_bytes())
        write_json(made / SUBMISSION_FILE, about.model_dump(mode="json"))
        if out.exists() and not (out.is_dir() and sha256_folder(made) == sha256_folder(out)):
            raise UsageError(f"{out} holds something else; give --out another folder, or remove it")
        report = verify(made, board=board, submission_required=True)
        text = report.markdown()
        if not report.ok:
            raise UsageError(f"{out} was not written, because the board would refuse it:\n{text}")
        if not out.exists() and not publish_folder(made, out):
            raise UsageError(f"{out} was made meanwhile; give --out another folder")
    return text


def open_pull_request(folder: Path, about: Submission, report: str, dataset: Repository, hub: Hub) -> str:
    """Open a pull request that adds a submission to the data set of records; main is never written.

    Args:
        folder: As :func:`write_submission` wrote it.
        about: Who submits, and what.
        report: The report of the checks, which becomes the description.
        dataset: Where.
        hub: The Hub, with a token.

    Returns:
        The pull request's address.

    Raises:
        UsageError: When main has these runs already, or others in their place.
        NotAvailable: When the Hub refuses or cannot be reached.
    """
    files = {path.relative_to(folder).as_posix(): Content(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    name = f"{about.method.replace('/', '--').replace('@', '-')}-{sha256_folder(folder)[:12]}"
    added = {f"results/{path}": content for path, content in files.items() if path != SUBMISSION_FILE}
    head = hub.head(dataset)
    taken = {path: each for path, each in added.items() if path in head.files}
    if other := sorted(path for path, each in taken.items() if not head.files[path].holds(each)):
        raise UsageError(f"{dataset} holds another {other[0]}; results that lie there are never overwritten")
    if len(taken) == len(added):
        raise UsageError(f"{dataset} holds all of these runs already; there is nothing to submit")
    new = {path: content for path, content in added.items() if path not in taken}
    runs = sum(path.endswith(f"/{RECORD_FILE}") for path in new)
    try:
        return hub.commit(
            dataset,
            {**new, f"submissions/{name}.json": files[SUBMISSION_FILE]},
            parent=str(head.commit),
            title=f"Submission: {about.method}, {runs} runs",
            description=report[:_LONGEST_DESCRIPTION],
            pull_request=True,
        )
    except Unreachable as error:
        pages = f"{hub.address(dataset)}/discussions"
        raise Unreachable(f"{error}; first look at {pages}: the pull request may be there all the same") from error
