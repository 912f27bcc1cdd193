"""The submission in a pull request on the data set of records, downloaded as data for `verify --pr N`.

Everything about it is a stranger's choice: names, number and sizes are checked from the listing before a byte is
fetched, and it must only add files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.files import make_folder, publish_folder, temporary_folder
from leaderboard.hub import Hub, RemoteFile, Repository
from leaderboard.text import plain
from leaderboard.untrusted import JSON_BYTES, MOST_BYTES, MOST_FILES, SUBMISSION_FILE

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_RUN_FILE = re.compile(rf"results/((?:{_PART}/){{3}}(?:record\.json|predictions-{_PART}\.parquet))", re.ASCII)
_ABOUT = re.compile(rf"submissions/{_PART}\.json", re.ASCII)
_SHOWN = 5


def download_pull_request(dataset: Repository, number: int, folder: Path, hub: Hub) -> Path:
    """Download what a pull request adds, laid out as a submission folder.

    Args:
        dataset: The data set.
        number: The pull request's number.
        folder: Where to; must not exist. It appears whole or not at all, and holds plain files only.
        hub: The Hub; what is public needs no token.

    Returns:
        The folder.

    Raises:
        UsageError: When the folder exists.
        NotAvailable: When there is no such pull request, or the Hub does not answer.
        DamagedFile: When it is no submission: it changes or deletes something, adds other files than records and
            predictions, or too much.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists; name a folder that does not")
    revision = f"refs/pr/{number}"
    head = hub.head(dataset, revision)
    # The pull request may be older than main's last commits: those are not its changes.
    base = hub.head(dataset, hub.common_commit(dataset, revision, "main"))
    added = _added(head.files, base.files, f"pull request {number} of {dataset}")
    with temporary_folder(folder.parent) as beside:
        made = make_folder(beside / folder.name)
        for path, target in added.items():
            file = hub.fetch(dataset, path, str(head.commit), head.files[path], beside / ".fetched")
            make_folder((made / target).parent)
            file.rename(made / target)
        if not publish_folder(made, folder):
            raise UsageError(f"{folder} was made meanwhile; name another folder")
    return folder


def _added(files: Mapping[str, RemoteFile], base: Mapping[str, RemoteFile], what: str) -> dict[str, str]:
    """Return the files that a pull request adds: path in the repository → path in the submission folder.

    Raises:
        DamagedFile: When that is no submission.
    """
    if touched := sorted(path for path, each in base.items() if files.get(path) != each):
        raise DamagedFile(f"{what} changes or deletes {_listed(touched)}; a submission only adds files")
    new = sorted(files.keys() - base.keys())
    runs = {path: match.group(1) for path in new if (match := _RUN_FILE.fullmatch(path))}
    about = [path for path in new if _ABOUT.fullmatch(path)]
    if other := [path for path in new if path not in runs and path not in about]:
        raise DamagedFile(
            f"{what} adds {_listed(other)}; a submission adds results/TASK/METHOD/RUN/record.json, predictions "
            "beside it, and one file submissions/NAME.json"
        )
    if len(about) != 1 or not runs:
        raise DamagedFile(f"{what} adds {len(runs)} files of runs and {len(about)} files below submissions/, not one")
    _check_sizes({path: files[path].size for path in new}, what)
    if len({path.lower() for path in runs.values()}) < len(runs):
        raise DamagedFile(f"{what} adds files whose names differ in case only")
    return {**runs, about[0]: SUBMISSION_FILE}


def _check_sizes(sizes: Mapping[str, int], what: str) -> None:
    if len(sizes) > MOST_FILES or sum(sizes.values()) > MOST_BYTES:
        raise DamagedFile(
            f"{what} adds {len(sizes):,} files with {sum(sizes.values()):,} bytes; at most {MOST_FILES:,} files and "
            f"{MOST_BYTES:,} bytes are downloaded: submit one task after another"
        )
    for path, size in sizes.items():
        if path.endswith(".json") and size > JSON_BYTES:
            raise DamagedFile(f"{what} adds {path} with {size:,} bytes; at most {JSON_BYTES:,} are downloaded")


def _listed(paths: list[str]) -> str:
    """Return the first of some strangers' paths so that a terminal shows them as they are."""
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(plain(path) for path in paths[:_SHOWN]) + more
