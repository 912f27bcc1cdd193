"""From record files to runs with their answers: read and checked, or recalled where nothing has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark.records.schema import Record
from leaderboard.answers import Answers, Split, Splits, by_checkpoint, read_answers
from leaderboard.claims import check_claims
from leaderboard.generated import check_measurements
from leaderboard.groups import Scored
from leaderboard.kept import read_files
from leaderboard.load import Problems, Run, brief, level_of, load_run
from leaderboard.models import AbsentStatus
from leaderboard.remembered import FoundAnswers, FoundRun, Mark, Remembered, code_digest, mark_of
from leaderboard.sharing import Common
from leaderboard.trajectories import why_no_trajectory
from leaderboard.verification import Entry

_NONE: Mapping[tuple[str, str], Answers] = {}


@dataclass(frozen=True)
class Other:
    """A run that is in no table, and why."""

    run: Run
    status: AbsentStatus
    reason: str


@dataclass
class Read:
    """All runs at hand, without the trials.

    Attributes:
        scored: Finished runs that can be shown.
        others: Runs that are in no table.
        digests: Digests of all of them.
    """

    scored: list[Scored] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)


def read_runs(
    files: Sequence[Path],
    verified: Mapping[str, Entry],
    memory: Remembered,
    problems: Problems,
    *,
    kind: str | None = None,
) -> Read:
    """Read records with their answers; what is wrong goes to ``problems``.

    Args:
        files: Record files.
        verified: Entries of verification.json by digest.
        memory: What earlier builds found out.
        problems: Gets what is wrong.
        kind: Only the answers of methods of this kind are read.
    """
    read, splits, common, finished = Read(), Splits(memory), Common(), set()
    for file, known in memory.runs(files):
        with problems.collect():
            source = _Source(file, known, verified, memory, common, mark_of(file.parent, file.name))
            run = source.run()
            if run.record.kind != "run":
                source.keep(run)
                continue
            read.digests.add(run.digest)
            if run.record.status == "success":
                finished.add(run.record.cell_id)
            if kind is not None and run.record.method.kind != kind:
                continue
            found = _scored(source, run, splits)
            if isinstance(found, Scored):
                read.scored.append(found)
            else:
                read.others.append(found)
    # A cell that was finished later needs no excuse.
    read.others = [each for each in read.others if each.status == "left out" or each.run.record.cell_id not in finished]
    return read


@dataclass(frozen=True)
class _Source:
    """One record file: what is known of it, and fingerprints of it and its answers from before they are read."""

    file: Path
    known: FoundRun | None
    verified: Mapping[str, Entry]
    memory: Remembered
    common: Common
    mark: Mark | None
    marks: Mapping[str, Mark | None] = field(default_factory=dict)

    def run(self) -> Run:
        """Read the record, or recall what the board shows of it."""
        if self.known is None:
            return load_run(self.file, self.verified)
        record, digest = self.common.record(self.known.record), self.known.digest
        return Run(self.file, record, digest, level_of(record, digest, self.verified, self.file))

    def shown(self, run: Run) -> Run:
        """Return a run that was read here with what the board shows of it."""
        return replace(run, record=self.common.record(brief(run.record)))

    def keep(self, run: Run, split: Split | None = None, answers: Mapping[tuple[str, str], Answers] = _NONE) -> Run:
        """Remember a run that was read here; returns what the board shows of it."""
        if self.known is not None:
            return run
        shown = self.shown(run)
        found = FoundRun.model_construct(
            code=code_digest(),
            mark=self.mark,
            marks=dict(self.marks),
            checked_against=None if split is None else split.identity,
            digest=run.digest,
            record=shown.record,
            answers=[
                FoundAnswers(
                    file=file,
                    sha256=sha256,
                    correct=each.packed,
                    values=each.values,
                    reasons=each.reasons,
                    counted=each.counted,
                )
                for (file, sha256), each in answers.items()
            ],
        )
        self.memory.keep_run(self.file, found)
        return shown


def _scored(source: _Source, run: Run, splits: Splits) -> Scored | Other:
    """Return a run with its answers; or why it is in no table.

    Raises:
        GenBiasError: When it is not what it says.
    """
    if run.record.status != "success":
        return Other(source.keep(run), run.record.status, _why(run.record))
    if source.known is not None:
        split = splits.at_hand(run)
        if isinstance(split, Split) and source.known.checked_against == split.identity:
            check_claims(run)
            answers = {(each.file, each.sha256): _recalled(split, each) for each in source.known.answers}
            return Scored(run, split, by_checkpoint(run.record, answers))
        source = replace(source, known=None)
        run = source.run()
    return _checked(source, run, splits)


def _checked(source: _Source, run: Run, splits: Splits) -> Scored | Other:
    """Check a finished run that was just read, and its answers; remember it if it can be shown."""
    split = splits.of(run)
    if not isinstance(split, Split):
        return Other(source.shown(run), "left out", split)
    check_claims(run)
    check_measurements(run)
    if reason := why_no_trajectory(run):
        return Other(source.shown(run), "left out", reason)
    files = read_files(run.file.parent, run.record)
    source = replace(source, marks={name: mark_of(run.file.parent, name) for name in files})
    answers = read_answers(run, split)
    run = source.keep(run, split, answers)
    return Scored(run, split, by_checkpoint(run.record, answers))


def _recalled(split: Split, found: FoundAnswers) -> Answers:
    return Answers(split, found.correct, found.values, found.reasons, found.counted)


def _why(record: Record) -> str:
    if record.skipped_because:
        return record.skipped_because
    if record.failure is not None:
        return f"{record.failure.kind}: {record.failure.message}"
    return "interrupted" if record.status == "cancelled" else "never finished"
