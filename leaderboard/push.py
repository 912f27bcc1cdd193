"""`leaderboard push`: accepted records to a data set on the Hub, the page to a static Space; atomic, and repeatable.

The data set goes first. A failure leaves each of the two either untouched or complete, and a second push does what is
missing. Only files that an earlier push wrote are ever deleted: each writes a list of its files.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.files import TEMPORARY_PREFIX, pretty_json, read_json
from benchmark.records.results import RECORD_FILE, record_bytes, run_folder_name
from leaderboard.build import build_board, checkout
from leaderboard.hub import Content, Head, Hub, Repository
from leaderboard.hub_cards import ROLLUP_FILE, dataset_readme, space_readme
from leaderboard.hub_errors import NoRepository, StaleHead, Unreachable
from leaderboard.load import Problems, Run, check_plain, find_records, load_run
from leaderboard.people import accepted_answers, refuse_private
from leaderboard.rollup import rollup_parquet
from leaderboard.site.submissions import read_submissions
from leaderboard.verification import VERIFICATION_FILE, Entry, read_verifications

README, INDEX = "README.md", "index.html"
_MAX_LIST_BYTES, _MAX_PAGE_BYTES = 16 * 2**20, 10 * 2**20


class _Pushed(BaseModel):
    """The files that a push wrote, in the repository itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: Literal[1]
    files: list[str]


@dataclass(frozen=True)
class Target:
    """What one repository shall hold.

    Attributes:
        repository: Where.
        files: Content by path, without the list of them.
        listed: Path of the list of files that a push writes.
        below: Folders below which files that are wanted no more are deleted; empty means everywhere.
    """

    repository: Repository
    files: Mapping[str, Content]
    listed: str
    below: tuple[str, ...]

    @functools.cached_property
    def wanted(self) -> dict[str, Content]:
        """All files, the list of them included."""
        listing = pretty_json({"format_version": 1, "files": sorted([*self.files, self.listed])})
        return {**self.files, self.listed: Content(listing.encode())}


@dataclass(frozen=True)
class Change:
    """One file that differs.

    Attributes:
        action: What happens to it on the Hub.
        path: In the repository.
        size: Bytes that it has afterwards; of a deleted one, before.
    """

    action: Literal["add", "change", "delete"]
    path: str
    size: int


@dataclass(frozen=True)
class Pushed:
    """What a push did to one repository, or would do.

    Attributes:
        repository: Which.
        changes: By path; empty where the Hub held everything.
        unchanged: Number of files that were there already.
        foreign: Files below ``results/`` that no push wrote and that are not accepted; they were left alone.
        address: Of the commit or the pull request; None without one.
    """

    repository: Repository
    changes: list[Change]
    unchanged: int
    foreign: list[str]
    address: str | None


def board_targets(
    dataset: str,
    space: str,
    site: Path | None = None,
    *,
    records: Path | None = None,
    submissions: Path | None = None,
    verification: Path = VERIFICATION_FILE,
) -> list[Target]:
    """Return what both repositories shall hold, in the order in which they are pushed.

    Args:
        dataset: ``ORG/NAME`` of the data set.
        space: ``ORG/NAME`` of the Space.
        site: Folder that `leaderboard build --site` wrote; None builds the page from the same records.
        records: Folder of accepted records; None takes ``leaderboard/results`` of the checkout.
        submissions: Folder of the accepted ``NAME.json``; None takes ``leaderboard/submissions``, if it is there.
        verification: The file in which maintainers write verification levels.

    Raises:
        GenBiasError: As :func:`dataset_target` and :func:`space_target`, and as building the page does.
    """
    accepted = records or checkout("a folder of records") / "leaderboard" / "results"
    about = submissions or Path(__file__).with_name("submissions")
    verified = read_verifications(verification).by_digest()
    target = dataset_target(dataset, accepted, verified, about)
    if site is not None:
        return [target, space_target(space, site, dataset)]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "site"
        build_board([accepted], site=page, submissions=about, verification=verification)
        return [target, space_target(space, page, dataset)]


# --- what is pushed ------------------------------------------------------------------------------------------------


def dataset_target(name: str, records: Path, verified: Mapping[str, Entry], submissions: Path | None = None) -> Target:
    """Return what the data set shall hold.

    Args:
        name: ``ORG/NAME``.
        records: Folder of accepted records.
        verified: Entries of verification.json by digest.
        submissions: Folder of the accepted ``NAME.json``, if there is one.

    Raises:
        DamagedFile: When a record, a predictions file or a submission is not what it says.
        UsageError: When a file may not leave this machine (protocol §10).
    """
    runs, problems = [], Problems()
    files: dict[str, Content] = {}
    for file in find_records([records]):
        with problems.collect():
            run = load_run(file, verified)
            files |= _of_run(run)
            runs.append(run)
    problems.raise_any()
    if not runs:
        raise UsageError(f"there is no record below {records}; name a folder of records that were accepted")
    if submissions is not None:
        read_submissions(submissions)
        files |= {f"submissions/{file.name}": Content(file) for file in sorted(submissions.glob("*.json"))}
    table = rollup_parquet(runs)
    files[ROLLUP_FILE] = Content(table)
    files[README] = Content(dataset_readme(name, runs, _rows(table)).encode())
    return Target(Repository("dataset", name), files, "data/pushed.json", ("results/", "data/"))


def _rows(table: bytes) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return int(pq.read_metadata(pa.BufferReader(table)).num_rows)


def _of_run(run: Run) -> dict[str, Content]:
    """Return what is published of a run; other files beside it, such as pictures, are left out or refused."""
    record, folder = run.record, run.file.parent
    published = accepted_answers(folder, record)
    refuse_private(sorted(folder.iterdir()), record.task.name)
    target = Path("results") / run_folder_name(record)
    if folder.parts[-3:] != target.parts[-3:]:
        raise DamagedFile(f"{folder} holds the run {Path(*target.parts[1:])}; move it there")
    # Plain there, whatever it is here: users of the data set read JSON.
    text = Content(run.file if run.file.name == RECORD_FILE else record_bytes(run.file))
    return {f"{target.as_posix()}/{RECORD_FILE}": text} | {
        (target / file.name).as_posix(): Content(file) for file in published
    }


def space_target(name: str, site: Path, dataset: str) -> Target:
    """Return what the Space shall hold: the page's files, which are text.

    Args:
        name: ``ORG/NAME`` of the Space.
        site: Folder that `leaderboard build --site` wrote.
        dataset: ``ORG/NAME`` of the data set.

    Raises:
        UsageError: When it is no such folder, or holds something other than text.
    """
    if not (site / INDEX).is_file():
        raise UsageError(f"{site} holds no {INDEX}; make the page with `genbias-bench leaderboard build --site {site}`")
    files = {}
    for file in sorted(path for path in site.rglob("*") if not path.is_dir() or path.is_symlink()):
        path = file.relative_to(site)
        if any(part.startswith((TEMPORARY_PREFIX, ".")) for part in path.parts):
            raise UsageError(f"{file} is a hidden file, which the page does not need; remove it")
        check_plain(file, _MAX_PAGE_BYTES)
        content = file.read_bytes()
        if not _is_text(content):
            raise UsageError(f"{file} is not text; pictures and other binary files are not pushed to the Space")
        files[path.as_posix()] = Content(content)
    files[README] = Content(space_readme(dataset).encode())
    return Target(Repository("space", name), files, "pushed.json", ("",))


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


# --- pushing -------------------------------------------------------------------------------------------------------


def push(target: Target, hub: Hub, *, create_pr: bool = False, dry_run: bool = False) -> Pushed:
    """Bring one repository on the Hub to what it shall hold, in one commit.

    Args:
        target: What it shall hold.
        hub: The Hub.
        create_pr: Open a pull request instead of writing to main; the repository must exist.
        dry_run: Only find out what would change; works without a token on what is public.

    Returns:
        What was, or would be, done.

    Raises:
        NotAvailable: When the Hub refuses or cannot be reached; the repository is then as it was, or complete.
        StaleHead: When somebody else changed files that would be overwritten.
        DamagedFile: When the list of files on the Hub is not what a push writes.
    """
    try:
        head = hub.head(target.repository)
    except NoRepository:
        if dry_run:
            return _compare(target, Head(None, {}), hub)
        if create_pr:
            raise
        hub.create(target.repository)
        head = hub.head(target.repository)
    return _commit(target, head, hub, create_pr) if not dry_run else _compare(target, head, hub)


def _commit(target: Target, head: Head, hub: Hub, create_pr: bool) -> Pushed:
    """Commit what differs; again from the new head where somebody else committed, or no answer came."""
    delays, stale, unanswered = list(hub.patience.delays_s), False, None
    while True:
        pushed = _compare(target, head, hub)
        if not pushed.changes:
            return unanswered or pushed
        try:
            return _send(target, pushed, head, hub, create_pr)
        except StaleHead:
            if stale:
                raise
            stale = True
        except Unreachable:
            # The commit may have been made: then the new head has what is wanted. A pull request cannot be told so.
            if create_pr or not delays:
                raise
            time.sleep(delays.pop(0))
            unanswered = pushed
        earlier, head = head, hub.head(target.repository)
        _refuse_conflict(target, pushed, earlier, head)


def _send(target: Target, pushed: Pushed, head: Head, hub: Hub, create_pr: bool) -> Pushed:
    wanted = target.wanted
    sent = {each.path: wanted[each.path] for each in pushed.changes if each.action != "delete"}
    deleted = [each.path for each in pushed.changes if each.action == "delete"]
    address = hub.commit(
        target.repository, sent, deleted, parent=str(head.commit), title="Update the leaderboard",
        description=f"{len(sent)} files added or changed, {len(deleted)} deleted.", pull_request=create_pr,
    )  # fmt: skip
    return Pushed(pushed.repository, pushed.changes, pushed.unchanged, pushed.foreign, address)


def _compare(target: Target, head: Head, hub: Hub) -> Pushed:
    wanted, written = target.wanted, _written(target, head, hub)
    held = {path for path, each in wanted.items() if path in head.files and head.files[path].holds(each)}
    differing = {path: each for path, each in wanted.items() if path not in held}
    changes = [Change("change" if path in head.files else "add", path, each.size) for path, each in differing.items()]
    gone = [path for path in head.files if path not in wanted]
    changes += [
        Change("delete", path, head.files[path].size)
        for path in gone
        if path in written and path.startswith(target.below)
    ]
    foreign = [path for path in gone if path not in written and path.startswith("results/")]
    changes.sort(key=lambda change: change.path)
    return Pushed(target.repository, changes, len(held), foreign, None)


def _written(target: Target, head: Head, hub: Hub) -> frozenset[str]:
    """Return the files that the last push wrote, as it listed them."""
    if head.commit is None or (known := head.files.get(target.listed)) is None:
        return frozenset()
    where = f"{target.listed} of {target.repository}"
    if known.size > _MAX_LIST_BYTES:
        raise DamagedFile(f"{where} holds {known.size:,} bytes, so no push wrote it; restore it on the Hub")
    with tempfile.TemporaryDirectory() as folder:
        content = read_json(hub.fetch(target.repository, target.listed, head.commit, known, Path(folder)))
    try:
        return frozenset(_Pushed.model_validate(content).files)
    except ValidationError as error:
        raise DamagedFile(
            f"{where} is not what a push writes; restore it on the Hub: {error.errors()[0]['msg']}"
        ) from error


def _refuse_conflict(target: Target, pushed: Pushed, earlier: Head, head: Head) -> None:
    """Refuse to overwrite what somebody else committed since the head was read.

    Raises:
        StaleHead: Naming the first such file.
    """
    wanted = target.wanted
    for path in (change.path for change in pushed.changes):
        found = head.files.get(path)
        ours = found is None if path not in wanted else found is not None and found.holds(wanted[path])
        if found != earlier.files.get(path) and not ours:
            raise StaleHead(
                f"somebody else changed {path} of {target.repository} meanwhile, which was not overwritten; see what "
                "it is, bring it into the accepted records or remove it, and run the same command again"
            )
