"""`leaderboard accept`: finished runs become accepted records, with what maintainers say about them.

Everything is made aside and checked first. Then the levels are written, the runs are renamed into place, and what they
supersede is removed; after an interruption the same call, made again, ends in the same state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from benchmark.errors import DamagedFile, StoreError, UsageError
from benchmark.records.canonical import sha256_of
from benchmark.records.files import (
    TEMPORARY_PREFIX,
    pretty_json,
    publish_folder,
    remove_orphans,
    storage_error,
    temporary_folder,
    write_text,
)
from benchmark.records.results import read_content, read_record, record_file, record_files, run_folder_name
from benchmark.records.schema import Record
from leaderboard.build import checkout
from leaderboard.kept import check_whole, keep_run
from leaderboard.load import Problems, find_records
from leaderboard.reading import read_runs
from leaderboard.remembered import Remembered
from leaderboard.replayed import read_replays
from leaderboard.verification import (
    VERIFICATION_FILE,
    Entry,
    Verifications,
    check_entry,
    read_verifications,
    record_digest,
)

MOST_BYTES = 25_000_000
"""Of everything below leaderboard/: whoever clones the repository gets all of it."""
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?", re.ASCII)

Given = Literal["recomputed", "replayed", "maintained"]


@dataclass(frozen=True)
class Accepted:
    """What changed among the accepted records.

    Attributes:
        runs: The accepted run folders, below ``leaderboard/results``.
        removed: Folders of other names that they took the place of.
        level: What was said about them.
        release: The board's release now.
        bytes: What everything below ``leaderboard`` takes now.
    """

    runs: list[str]
    removed: list[str]
    level: Given
    release: int
    bytes: int


@dataclass(frozen=True)
class _Incoming:
    """One run that is to be accepted: where it lies, its record, and its digest as it was handed in."""

    file: Path
    record: Record
    digest: str


def accept(
    paths: Sequence[Path],
    level: Given,
    *,
    commit: str | None = None,
    note: str = "",
    replays: Sequence[Path] = (),
    raise_release: bool = False,
    verification: Path | None = None,
) -> Accepted:
    """Take finished runs among the accepted records, in place of earlier runs of the same row and seed.

    Records are compressed there, and of large test splits only the arg-max of what the board compares is kept.

    Args:
        paths: Records, or folders of them.
        level: What is said about all of them.
        commit: The merged commit that was run, 40 digits; for ``replayed`` the replays name it.
        note: Anything to remember about the decision.
        replays: What ``replay`` wrote; for ``replayed`` only, of exactly these records.
        raise_release: Raise the number of the board's release.
        verification: The verification file, beside whose ``results`` folder they go; None takes the checkout's.

    Raises:
        UsageError: For what is no finished run, for one without its whole predictions that was not accepted before,
            or a decision that lacks its replay or commit.
        DamagedFile: For a record or file that is not what it says, or does not deserve the level.
        StoreError: When ``leaderboard`` would outgrow its bound, or cannot be written.
    """
    if verification is None:
        checkout("a verification file")
        verification = VERIFICATION_FILE
    results, known = verification.with_name("results"), read_verifications(verification)
    incoming = _incoming(paths)
    for each in incoming:
        check_whole(each.file, each.record, accepted=each.digest in known.by_digest())
    if level == "replayed":
        commit = _replayed_commit(replays, {each.digest for each in incoming}, commit)
    elif replays:
        raise UsageError(f"a replay says nothing for level {level!r}; leave --replay out, or use --level replayed")
    with temporary_folder(results) as staging:
        staged = {run_folder_name(each.record): _stage(each, staging / f"new-{k}") for k, each in enumerate(incoming)}
        superseded = _superseded(results, incoming)
        digests = {target: _digest(folder) for target, folder in staged.items()}
        entries = _entries(incoming, digests, level, commit, note)
        updated = _updated(known, {_digest(folder) for folder in superseded} | set(digests.values()), entries)
        size = _size_afterwards(verification, updated, staged.values(), superseded)
        same = {target for target, folder in staged.items() if _equal(folder, results / target)}
        write_text(verification, _text(updated))
        _publish(results, staging, {k: v for k, v in staged.items() if k not in same}, superseded, same)
    if raise_release:
        updated = updated.model_copy(update={"release": updated.release + 1})
        write_text(verification, _text(updated))
    remove_orphans(results, results.glob(f"{TEMPORARY_PREFIX}*"))
    return Accepted(
        runs=sorted(map(str, staged)),
        removed=sorted({str(folder.relative_to(results)) for folder in superseded} - set(map(str, staged))),
        level=level,
        release=updated.release,
        bytes=size,
    )


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, but for caches and what is being written."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not _passing(path))


def _passing(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(TEMPORARY_PREFIX) for part in path.parts)


def row_and_seed(record: Record) -> str:
    """Return what two runs have in common when the later one takes the earlier one's place."""
    cell, method = record.cell.model_dump(mode="json"), record.method
    # Not what was asked for: it follows from the data at hand, and from the release that ran.
    asked = {name: value for name, value in cell.items() if name not in ("split_digest", "schema_major")}
    return sha256_of([asked, method.origin, method.package, method.configuration, method.oracle])


def _incoming(paths: Sequence[Path]) -> list[_Incoming]:
    """Read and check what is to be accepted, answers included."""
    files, problems = find_records(paths), Problems()
    with Remembered(None) as memory:
        read = read_runs(files, {}, memory, problems)
    problems.raise_any()
    for other in read.others:
        raise UsageError(f"{other.run.file} is no finished run ({other.status}: {other.reason}); leave it out")
    runs = {scored.run.file: scored.run for scored in read.scored}
    for file in files:
        if file not in runs:
            raise UsageError(f"{file} is a trial of a search, or a run that failed; only finished runs are accepted")
    if not runs:
        raise UsageError(f"there is no finished run in {', '.join(map(str, paths))}")
    found: dict[str, _Incoming] = {}
    for file, run in sorted(runs.items()):
        each = _Incoming(file, read_record(file), run.digest)
        if not _METHOD.fullmatch(each.record.method.name):
            raise DamagedFile(f"{file}: {each.record.method.name!r} is no name of a method")
        if earlier := found.get(key := row_and_seed(each.record)):
            raise UsageError(f"{earlier.file} and {file} are one seed of one row; give one of them")
        found[key] = each
    return list(found.values())


def _replayed_commit(files: Sequence[Path], digests: set[str], commit: str | None) -> str:
    """Return the commit of the replays of some records, by the digests with which these were handed in.

    Raises:
        UsageError: When there is none, or one that confirms nothing.
    """
    replays = [(file, each) for file in files for each in read_replays(file)]
    if not replays:
        raise UsageError("level 'replayed' needs --replay FILE: the replay.json that `genbias-bench replay` wrote")
    for file, each in replays:
        where = each.environment
        wrong = {
            "lies outside the prediction interval of the submitted seeds": not each.inside,
            "repeats a submitted seed; the level asks for a fresh one": each.same_seed,
            "was not made in isolation": not each.isolation.test_split_absent,
            "was not made from a clean commit": where.git_commit is None or where.git_dirty is not False,
            f"was not made at commit {commit}": commit is not None and where.git_commit != commit,
        }
        for reason, holds in wrong.items():
            if holds:
                raise UsageError(f"{file}: the replay of {each.method} on {each.task} at {each.level} {reason}")
    named = {digest for _, each in replays for digest in each.records.values()}
    if named != digests:
        raise UsageError(
            f"the replays are not of exactly these records: {len(digests - named)} of {len(digests)} were not "
            f"replayed, {len(named - digests)} replayed ones are missing here"
        )
    commits = sorted({str(each.environment.git_commit) for _, each in replays})
    if len(commits) > 1:
        raise UsageError(f"the replays were made at {len(commits)} commits; accept those of each commit by themselves")
    return commits[0]


def _stage(each: _Incoming, folder: Path) -> Path:
    """Write a run as accepted ones lie, into a folder of its own."""
    folder.mkdir()
    keep_run(each.file.parent, each.record, folder)
    return folder


def _digest(folder: Path) -> str:
    file = record_file(folder)
    return record_digest(read_content(file), str(file))


def _superseded(results: Path, incoming: Sequence[_Incoming]) -> list[Path]:
    """Return the accepted runs of the same rows and seeds.

    Raises:
        DamagedFile: When another run lies under the name of one that is to be accepted.
    """
    keys = {row_and_seed(each.record) for each in incoming}
    targets = {results / run_folder_name(each.record) for each in incoming}
    found = []
    for parent in sorted({target.parent for target in targets}):
        for file in record_files(parent):
            if row_and_seed(read_record(file)) in keys:
                found.append(file.parent)
            elif file.parent in targets:
                raise DamagedFile(f"{file.parent} holds a run of another row under the same name; remove one of them")
    return found


def _entries(
    incoming: Sequence[_Incoming], digests: Mapping[Path, str], level: Given, commit: str | None, note: str
) -> list[Entry]:
    """Return what is said about the runs, one entry for each method and task.

    Raises:
        UsageError: Without the commit that a level needs.
        DamagedFile: When a record does not deserve its level.
    """
    records: dict[tuple[str, str], dict[str, str]] = {}
    for each in incoming:
        target = run_folder_name(each.record)
        records.setdefault((each.record.cell.task, each.record.cell.method), {})[target.name] = digests[target]
    entries = {}
    for (task, method), named in records.items():
        said = {"task": task, "method": method, "level": level, "commit": commit, "note": note, "records": named}
        try:
            entries[task, method] = Entry.model_validate(said)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"--commit {commit}: {reason}" if commit else f"{reason}; give --commit SHA") from error
    for each in incoming:
        check_entry(entries[each.record.cell.task, each.record.cell.method], each.record, str(each.file))
    return list(entries.values())


def _updated(known: Verifications, dropped: set[str], added: Sequence[Entry]) -> Verifications:
    """Return the decisions without some records and with new ones; equal decisions are one entry."""
    decisions: dict[tuple[str, str, str, str, str], dict[str, str]] = {}
    for entry in known.entries:
        kept = {name: digest for name, digest in entry.records.items() if digest not in dropped}
        decisions.setdefault(_decision(entry), {}).update(kept)
    for entry in added:
        decisions.setdefault(_decision(entry), {}).update(entry.records)
    entries = [
        Entry.model_validate(
            {"task": task, "method": method, "level": level, "commit": commit or None, "note": note, "records": records}
        )
        for (task, method, level, commit, note), records in sorted(decisions.items())
        if records
    ]
    return Verifications(format_version=known.format_version, release=known.release, entries=entries)


def _decision(entry: Entry) -> tuple[str, str, str, str, str]:
    return entry.task, entry.method, entry.level, entry.commit or "", entry.note


def _text(verifications: Verifications) -> str:
    return pretty_json(verifications.model_dump(mode="json"))


def _size_afterwards(
    verification: Path, updated: Verifications, staged: Iterable[Path], superseded: Sequence[Path]
) -> int:
    """Return what ``leaderboard`` will take.

    Raises:
        StoreError: When it is too much.
    """
    before = size_of(verification.parent) - verification.stat().st_size
    after = before + len(_text(updated).encode()) - sum(map(size_of, superseded))
    after += sum(path.stat().st_size for folder in staged for path in folder.iterdir())
    if after > MOST_BYTES:
        raise StoreError(
            f"{verification.parent} would hold {after:,} bytes, at most {MOST_BYTES:,} are kept in the repository; "
            "nothing was accepted: remove rows that nobody needs, or accept fewer"
        )
    return after


def _equal(folder: Path, other: Path) -> bool:
    """Return whether two run folders hold the same files."""
    names = [sorted(path.name for path in each.iterdir()) if each.is_dir() else [] for each in (folder, other)]
    return names[0] == names[1] and all((folder / n).read_bytes() == (other / n).read_bytes() for n in names[0])


def _publish(
    results: Path, staging: Path, staged: Mapping[Path, Path], superseded: Sequence[Path], same: set[Path]
) -> None:
    """Rename new runs into place, each after what lies under its name, and what else is superseded out of the way."""
    gone = {folder.relative_to(results): staging / f"old-{k}" for k, folder in enumerate(superseded)}
    for target, folder in staged.items():
        if target in gone:
            _rename(results / target, gone.pop(target))
        if not publish_folder(folder, results / target):
            raise StoreError(f"{results / target} appeared meanwhile; look what it is and accept again")
    for target, aside in gone.items():
        if target not in same:
            _rename(results / target, aside)


def _rename(folder: Path, aside: Path) -> None:
    try:
        folder.rename(aside)
    except OSError as error:
        raise storage_error(folder, error) from error
