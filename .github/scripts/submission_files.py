"""Take a submission's files out of a pull request as data; submissions.yml calls it in a checkout of the base.

Reads blobs from the object database and writes them into a new folder in the layout that `genbias-bench verify` reads.
Nothing is checked out: no symbolic link, no submodule, no attribute or filter of the pull request takes effect. What is
not a plain, small file of the expected name is refused with a reason, and then nothing is written.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# The same law as that of `verify --pr`, in leaderboard/pull.py; a test compares them.
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_RESULT = re.compile(rf"results/({_PART}/{_PART}/{_PART}/(?:record\.json|predictions-{_PART}\.parquet))", re.ASCII)
_SUBMISSION = re.compile(rf"submissions/{_PART}\.json", re.ASCII)
_PLAIN_FILE = "100644"
_MOST_FILES = 2_000
_LARGEST = {".json": 1_000_000, ".parquet": 20_000_000}
_LARGEST_TOGETHER = 200_000_000
_MOST_REASONS = 50


class Refused(Exception):
    """The pull request cannot be a submission; carries every reason."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Change:
    """One line of `git diff-tree --raw`: what the pull request does to one path."""

    status: str
    mode: str
    blob: str
    path: str

    @property
    def shown(self) -> str:
        """The path in printable ASCII, cut to a length that fits a report."""
        return ascii(self.path).strip("'\"").replace("`", "'")[:200]

    @property
    def target(self) -> str | None:
        """Where the file lies in a submission folder; None for a path that has no place in one."""
        if _SUBMISSION.fullmatch(self.path):
            return "submission.json"
        match = _RESULT.fullmatch(self.path)
        return match[1] if match else None


def read_changes(base: str, head: str) -> list[Change]:
    """Return what changes between two commits, in git's order."""
    raw = _git("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", base, head).split(b"\0")
    changes = []
    for fields, path in zip(raw[0:-1:2], raw[1::2], strict=True):
        _, mode, _, blob, status = fields.decode("ascii").removeprefix(":").split(" ")
        changes.append(Change(status, mode, blob, path.decode("utf-8", "surrogateescape")))
    return changes


def check_changes(changes: list[Change]) -> None:
    """Refuse what cannot be a submission, before any content is read.

    Raises:
        Refused: With every reason.
    """
    reasons = []
    if len(changes) > _MOST_FILES:
        raise Refused([f"{len(changes)} files in one pull request; at most {_MOST_FILES}"])
    for change in changes:
        if change.target is None:
            reasons.append(
                f"`{change.shown}` has no place in a submission; results and code go in separate pull requests"
            )
        elif change.status != "A":
            reasons.append(f"`{change.shown}` is there already; a submission adds files and changes none")
        elif change.mode != _PLAIN_FILE:
            reasons.append(f"`{change.shown}` is no plain file (mode {change.mode})")
    described = sum(change.target == "submission.json" for change in changes)
    if described != 1:
        reasons.append(f"{described} files `submissions/<name>.json`; a submission has exactly one")
    if reasons:
        raise Refused(reasons)


def check_sizes(changes: list[Change], head: str) -> None:
    """Refuse files that are too large; the content of those over the fetch's limit is not even here.

    Raises:
        Refused: With every reason.
    """
    listed = _git("rev-list", "--objects", "--no-object-names", "--missing=print", "--max-count=1", head).decode(
        "ascii"
    )
    missing = {line[1:] for line in listed.splitlines() if line.startswith("?")}
    here = [change for change in changes if change.blob not in missing]
    asked = "".join(f"{change.blob}\n" for change in here).encode()
    answers = _git("cat-file", "--batch-check=%(objectsize)", stdin=asked).split()
    sizes = {change.path: int(answer) for change, answer in zip(here, answers, strict=True)}
    reasons = []
    for change in changes:
        limit = _LARGEST[PurePosixPath(change.path).suffix]
        if sizes.get(change.path, limit + 1) > limit:
            reasons.append(f"`{change.shown}` is larger than {limit:,} bytes")
    together = sum(sizes.values())
    if together > _LARGEST_TOGETHER:
        reasons.append(f"{together:,} bytes together; at most {_LARGEST_TOGETHER:,}")
    if reasons:
        raise Refused(reasons)


def write_files(changes: list[Change], output: Path) -> None:
    """Write the blobs into the new folder ``output``."""
    output.mkdir(parents=True)
    for change in changes:
        assert change.target is not None  # check_changes has seen to it
        file = output / change.target
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_git("cat-file", "blob", change.blob))


def _git(*arguments: str, stdin: bytes = b"") -> bytes:
    # A blob that the fetch left out must stay out.
    environment = {**os.environ, "GIT_NO_LAZY_FETCH": "1"}
    done = subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=True, env=environment)
    return done.stdout


def _markdown(reasons: list[str]) -> str:
    shown = [f"* {reason}" for reason in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        shown.append(f"* and {len(reasons) - _MOST_REASONS} more")
    return "\n".join(["# Refused before verification", "", *shown, ""])


def main(arguments: list[str] | None = None) -> int:
    """Take the files of the pull request ``BASE..HEAD`` into ``--output``; 1 when it is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="commit that the pull request is merged into")
    parser.add_argument("head", help="the merge")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--report", type=Path, required=True, help="Markdown file for the reasons of a refusal")
    given = parser.parse_args(arguments)
    try:
        changes = read_changes(given.base, given.head)
        check_changes(changes)
        check_sizes(changes, given.head)
    except Refused as refused:
        given.report.write_text(_markdown(refused.reasons), encoding="utf-8")
        sys.stderr.write(f"refused: {len(refused.reasons)} reasons, see {given.report.name}\n")
        return 1
    write_files(changes, given.output)
    sys.stdout.write(f"{len(changes)} files\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
