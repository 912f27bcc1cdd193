"""The result of checking an adapter or a task: one line per check, each failure with what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "not checked"]
_MARKS: dict[Status, str] = {"passed": "✓", "failed": "✗", "not checked": "–"}


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Short name, for the command line and for tests.
        promise: What holds where it passes.
        status: How it went.
        findings: What was found, each with file and line where that is known; for one that was not checked, why.
        advice: What to do about it.
    """

    name: str
    promise: str
    status: Status
    findings: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one adapter or task.

    Attributes:
        subject: What was checked: name, version, where it comes from.
        checks: Every check, in a fixed order.
        seconds: Wall time.
        notes: How it was checked.
    """

    subject: str
    checks: tuple[Check, ...]
    seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and something passed."""
        return not self.failed and any(check.status == "passed" for check in self.checks)

    def by_name(self, name: str) -> Check:
        """Return one check."""
        return next(check for check in self.checks if check.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"passed": self.passed, **asdict(self)}

    def summary(self) -> str:
        """Say in one line how it went."""
        counts = [sum(check.status == status for check in self.checks) for status in _MARKS]
        words = [f"{n} {status}" for n, status in zip(counts, _MARKS, strict=True) if n]
        return f"{self.subject}: {', '.join(words)} in {self.seconds:.0f} s"

    def markdown(self) -> str:
        """Return the report as Markdown."""
        lines = [f"# {'Passed' if self.passed else 'Failed'}: {self.subject}", "", self.summary() + ".", ""]
        lines += ["| check | | what it promises |", "|---|---|---|"]
        lines += [f"| {c.name} | {_MARKS[c.status]} {c.status} | {_cell(c.promise)} |" for c in self.checks]
        for check in self.checks:
            if check.findings:
                lines += ["", f"## {check.name}: {check.status}", ""]
                lines += [f"* {_cell(finding)}" for finding in check.findings]
                lines += ["", f"What to do: {check.advice}"] if check.status == "failed" else []
        if self.notes:
            lines += ["", "## How it was checked", "", *(f"* {_cell(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Keep a text in its cell or line: whatever an adapter says ends up here."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
