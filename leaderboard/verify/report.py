"""What `verify` found, as data and as Markdown: texts of strangers are shortened here and escaped where rendered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from benchmark.errors import GenBiasError
from leaderboard.text import plain, safe

Severity = Literal["error", "warning", "note"]
MOST_FINDINGS = 100
_LONGEST_MESSAGE, _LONGEST_PLACE = 500, 250
_LONGEST_TABLE = 40
_LONGEST_REPORT = 50_000
"""Characters of findings in Markdown; a comment on a pull request may have 65,536 in all."""
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")

HONESTY = (
    "Test labels are public: that every number follows from the predictions shows that the arithmetic is right, not "
    "that the predictions were come by honestly. Such rows are listed as `recomputed` and not ranked; a row is ranked "
    "only after a maintainer's `replay`, which trains again from merged code."
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Part):
    """One thing that a reader should know."""

    severity: Severity
    check: str
    where: str = Field(description="path inside the submission; empty for the whole")
    message: str = Field(description="on one line, without hidden characters; not escaped for any markup")


class Difference(_Part):
    """A metric of one row beside the standing board's."""

    task: str
    level: str
    method: str
    rule: str
    metric: str
    board: float | None = Field(description="mean over the board's seeds; null where it has no such row")
    board_seeds: list[int]
    submission: float | None = Field(description="mean over the submission's seeds; null where undefined")
    submission_seeds: list[int]


class Report(_Part):
    """What `verify` found out about a submission."""

    format_version: Literal[1] = 1
    submission: str | None = Field(description="the method that submission.json names; null without such a file")
    runs: int = Field(description="records that were found")
    recomputed_runs: int = Field(description="finished runs of which every number follows from the predictions")
    checkpoints: int = Field(description="checkpoints that were recomputed")
    findings: list[Finding]
    further_findings: int = Field(description="findings beyond those listed")
    errors: int = Field(description="number of errors, listed or not")
    differences: list[Difference]
    level: Literal["self-reported", "recomputed"] = Field(description="the verification level that it would get")
    honesty: str = HONESTY

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether nothing stands against accepting it."""
        return self.errors == 0

    def markdown(self) -> str:
        """Return the report for a pull request; nothing in it is markup of a stranger's."""
        verdict = (
            "**Nothing stands against this submission.**"
            if self.ok
            else f"**{self.errors} error{'s' * (self.errors != 1)}.**"
        )
        counts = (
            f"{self.runs} records; {self.recomputed_runs} finished runs with {self.checkpoints} checkpoints recomputed "
            f"from their predictions. Verification level: `{self.level}`."
        )
        named = [] if self.submission is None else [f"Method: {safe(self.submission)}"]
        parts = ["## Verification", *named, f"{verdict} {counts}", HONESTY, *self._listed(), *self._table()]
        return "\n\n".join(parts) + "\n"

    def _listed(self) -> list[str]:
        lines, length, shown = [], 0, 0
        for each in self.findings:
            where = f"{safe(each.where, _LONGEST_PLACE)}: " if each.where else ""
            line = f"- **{each.severity}** ({each.check}) {where}{safe(each.message, _LONGEST_MESSAGE)}"
            length += len(line)
            if length > _LONGEST_REPORT:
                break
            lines.append(line)
            shown += 1
        if hidden := len(self.findings) - shown + self.further_findings:
            lines.append(f"- and {hidden} more")
        return ["### Findings", "\n".join(lines)] if lines else []

    def _table(self) -> list[str]:
        if not self.differences:
            return []
        head = ["| task | level | method | rule | metric | board | this | difference |", "|" + "---|" * 8]
        rows = [
            f"| {safe(each.task)} | {safe(each.level)} | {safe(each.method)} | {each.rule} | `{each.metric}` "
            f"| {_points(each.board, each.board_seeds)} | {_points(each.submission, each.submission_seeds)} "
            f"| {_change(each)} |"
            for each in self.differences[:_LONGEST_TABLE]
        ]
        hidden = len(self.differences) - len(rows)
        more = [f"and {hidden} more, in the JSON report"] if hidden else []
        return ["### Against the standing board", "\n".join([*head, *rows]), *more]


def _points(value: float | None, seeds: Sequence[int]) -> str:
    if not seeds:
        return "no such row"
    shown = "undefined" if value is None else f"{100 * value:.2f}"
    return f"{shown} ({len(seeds)} seed{'s' * (len(seeds) != 1)})"


def _change(each: Difference) -> str:
    return "" if each.board is None or each.submission is None else f"{100 * (each.submission - each.board):+.2f}"


@dataclass
class Findings:
    """Collects what is found, so that a submitter sees all of it at once."""

    found: list[Finding] = field(default_factory=list)
    errors: int = 0
    further: int = 0
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, severity: Severity, check: str, where: str, message: str) -> None:
        """Keep a finding; of those beyond the bound only errors are counted apart."""
        self.errors += severity == "error"
        if severity == "note" and self._repeated(check, message):
            return
        if sum(each.severity == severity for each in self.found) >= MOST_FINDINGS:
            self.further += 1
            return
        place, text = plain(where, _LONGEST_PLACE), plain(message, _LONGEST_MESSAGE)
        self.found.append(Finding(severity=severity, check=check, where=place, message=text))

    def _repeated(self, check: str, message: str) -> bool:
        """Count a note; the same one about many records is listed once, where it was met first."""
        self.notes[check, message] += 1
        return self.notes[check, message] > 1

    @contextmanager
    def collect(self, check: str, where: str) -> Iterator[None]:
        """Turn an error of ours into a finding."""
        try:
            yield
        except GenBiasError as error:
            self.add("error", check, where, _without(str(error), where))

    @property
    def listed(self) -> list[Finding]:
        """The first findings, errors first."""
        found = sorted(self.found, key=lambda each: _ORDER.index(each.severity))[:MOST_FINDINGS]
        return [self._with_number(each) for each in found]

    def _with_number(self, finding: Finding) -> Finding:
        times = self.notes[finding.check, finding.message]
        return finding if times < 2 else finding.model_copy(update={"message": f"{finding.message} ({times} times)"})

    @property
    def hidden(self) -> int:
        """How many findings are not listed."""
        return self.further + len(self.found) - len(self.listed)


def _without(message: str, where: str) -> str:
    """Return a message without the place that it begins with."""
    return message.removeprefix(where).lstrip(":, ") if where and message.startswith(where) else message
