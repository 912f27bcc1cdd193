"""Verification levels: read from the one file that maintainers write, bound to a record's content.

An entry names each record by its run and by the SHA-256 of its content, which covers the digests of its predictions.
So a level cannot be inherited by a changed record, by another seed, or by another configuration of the same method.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import DamagedFile
from benchmark.records.canonical import sha256_of
from benchmark.records.files import read_json
from benchmark.records.schema import Record, Sha256
from leaderboard.models import Level

VERIFICATION_FILE = Path(__file__).with_name("verification.json")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Strict):
    """One decision of a maintainer about some runs of one method on one task."""

    task: str = Field(description="name@version")
    method: str = Field(description="name@version")
    level: Literal["recomputed", "replayed", "maintained"]
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$", description="merged commit that was run")
    note: str = ""
    records: dict[str, Sha256] = Field(min_length=1, description="run folder's name → SHA-256 of the record's content")

    @model_validator(mode="after")
    def _commit_given(self) -> Entry:
        if self.level != "recomputed" and self.commit is None:
            raise ValueError(f"level {self.level!r} needs the full commit that was run")
        return self


class Verifications(_Strict):
    """The content of verification.json."""

    format_version: Literal[1]
    release: int = Field(ge=0, description="number of the board's release; raised by hand with each release")
    entries: list[Entry]

    @model_validator(mode="after")
    def _one_decision_each(self) -> Verifications:
        times = Counter(digest for entry in self.entries for digest in entry.records.values())
        twice = sorted(digest for digest, number in times.items() if number > 1)
        if twice:
            raise ValueError(f"record {twice[0][:12]}… stands in the entries twice")
        return self

    def by_digest(self) -> dict[str, Entry]:
        """Return the entry of each record, by the digest of the record's content."""
        return {digest: entry for entry in self.entries for digest in entry.records.values()}


def record_digest(content: dict[str, Any], origin: str) -> str:
    """Return the SHA-256 of a record's JSON content, whatever its white space and line ends.

    Raises:
        DamagedFile: For text that is not Unicode.
    """
    try:
        return sha256_of(content)
    except UnicodeEncodeError as error:
        raise DamagedFile(f"{origin} holds text that is not Unicode: {error.reason}") from error


def read_verifications(path: Path = VERIFICATION_FILE) -> Verifications:
    """Read the verification file.

    Raises:
        DamagedFile: When it is missing or wrong.
    """
    try:
        return Verifications.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise DamagedFile(f"{path}: {where}: {first['msg']}") from error


def check_entry(entry: Entry, record: Record, origin: str) -> Level:
    """Return the level that an entry gives to the record it names by content.

    Raises:
        DamagedFile: When the record is of another task or method, or `maintained` although it was not made from the
            entry's commit, without changes, with the test split kept away.
    """
    task, method = record.cell.task, record.cell.method
    if (entry.task, entry.method) != (task, method):
        raise DamagedFile(
            f"{origin} is {method} on {task}, but verification.json lists it under {entry.method} on {entry.task}"
        )
    where = record.environment
    if entry.level == "maintained" and not (where.git_commit == entry.commit and where.git_dirty is False):
        dirty = " with changes" if where.git_dirty else ""
        raise DamagedFile(
            f"{origin} is listed as maintained at commit {str(entry.commit)[:12]} but was run at "
            f"{str(where.git_commit)[:12]}{dirty}; run it again from the clean commit"
        )
    if entry.level == "maintained" and not record.isolation.test_split_absent:
        raise DamagedFile(f"{origin} is listed as maintained but was not run with --isolated; run it again with it")
    return entry.level
