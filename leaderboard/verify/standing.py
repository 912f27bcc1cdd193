"""A submission beside the standing board: whose names, records and answers it repeats, and what it would change."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.contract.registry import listed_methods
from benchmark.contract.tracks import SelectionRule
from benchmark.errors import DamagedFile, GenBiasError
from benchmark.metrics.ranking import LEAST_SEEDS
from benchmark.records.canonical import sha256_of
from benchmark.records.kept import answers_file
from benchmark.records.predictions import read_argmax
from benchmark.records.schema import PredictionsFile
from leaderboard.groups import Group, Scored, group_runs
from leaderboard.kept import most_bytes
from leaderboard.load import Problems, Run, find_records
from leaderboard.reading import Read, read_runs
from leaderboard.remembered import Remembered
from leaderboard.rows import estimate
from leaderboard.sealed import SealedReader
from leaderboard.verification import read_verifications
from leaderboard.verify.report import Difference, Findings, Severity
from leaderboard.verify.runs import Inspection

ACCEPTED = Path(__file__).parents[1] / "results"
"""The accepted results of this checkout."""
_LIKE = 0.99
"""Share of test rows on which two runs have to be right and wrong together before their answers are compared."""
_SAME_ROWS, _SAME_ERRORS, _LEAST_ERRORS = 0.999, 0.1, 20
"""Answers are near copies when they differ in at most a thousandth of the rows and a tenth of the errors: independent
classifiers differ mostly where one of them errs."""
_SAME_PROBABILITIES, _SATURATED, _LEAST_ROWS = 0.9, 0.999, 100
"""So are those with equal probabilities in most rows where neither is all but certain: sixteen bits hardly ever agree
by chance."""
_MOST_COMPARED, _MOST_TOLD = 50, 5
_SHOWN = ("acc_group_mean", "acc_worst_group", "acc_conflicting", "gap", "bias_retained")


@dataclass(frozen=True)
class Standing:
    """The board as it stands, as far as a submission's tasks go.

    Attributes:
        read: Its runs.
        methods: Names of all methods on it, of whatever task.
    """

    read: Read
    methods: frozenset[str]

    @property
    def runs(self) -> Iterator[Run]:
        """Every run, shown in a table or not."""
        yield from (scored.run for scored in self.read.scored)
        yield from (other.run for other in self.read.others)


def standing_board(
    board: Sequence[Path], tasks: Iterable[str], without: Path, memory: Remembered, findings: Findings
) -> Standing:
    """Read the runs of some tasks on the standing board.

    Args:
        board: Folders of accepted records.
        tasks: Names of tasks.
        without: The submission's own folder: what lies in it is no part of the board.
        memory: What earlier builds found out.
        findings: Told when the board itself has problems.
    """
    chosen, problems = set(tasks), Problems()
    files = [file for file in find_records(board) if not file.is_relative_to(without)]
    # task/method/run/record.json
    methods = frozenset(file.parents[1].name.replace("--", "/", 1) for file in files)
    files = [file for file in files if file.parents[2].name in chosen]
    read = read_runs(files, read_verifications().by_digest(), memory, problems)
    if problems.found:
        findings.add("note", "board", "", f"{len(problems.found)} records of the standing board could not be read")
    return Standing(read, methods)


def compare(inspection: Inspection, standing: Standing) -> list[Difference]:
    """Report what a submission repeats; return what it would change."""
    _names(inspection, standing)
    _duplicates(inspection, standing)
    _Copies(inspection, standing).report()
    return _differences(inspection, standing)


def _names(inspection: Inspection, standing: Standing) -> None:
    """Refuse names that only look like another's, and other code under the same version."""
    known = {_folded(name): name for name in (*standing.methods, *listed_methods())}
    sources = {
        (run.record.cell.method, run.record.method.source_digest): run.record.method.package for run in standing.runs
    }
    versions = {method for method, _ in sources}
    for file, run in inspection.runs.items():
        method = run.record.method
        other = known.get(_folded(method.name), method.name)
        if other != method.name:
            inspection.findings.add("error", "names", file, f"{method.name} is too like {other}, another's method")
        packages = {package for (name, _), package in sources.items() if name.partition("@")[0] == method.name}
        if packages - {method.package}:
            text = f"{method.name} is on the board from {sorted(packages)[0]}, not from {method.package!r:.60}"
            inspection.findings.add("error", "names", file, text)
        if run.record.cell.method in versions and (run.record.cell.method, method.source_digest) not in sources:
            text = f"{run.record.cell.method} has other code on the board; changed code needs another version"
            inspection.findings.add("warning", "versions", file, text)
        if "/" in method.name and method.name in standing.methods:
            text = f"{method.name} is on the board already; whether it is submitted by its authors is for people to see"
            inspection.findings.add("note", "names", file, text)


def _folded(name: str) -> str:
    """Return a name as people and package indexes read it: without case, dots, underscores and hyphens."""
    return re.sub(r"[-_.]+", "-", name).casefold()


def _duplicates(inspection: Inspection, standing: Standing) -> None:
    times = Counter(run.record.cell_id for run in inspection.runs.values())
    digests, cells = standing.read.digests, {run.record.cell_id for run in standing.runs}
    for file, run in inspection.runs.items():
        cell_id = run.record.cell_id
        if times[cell_id] > 1:
            text = f"cell {cell_id[:12]} stands {times[cell_id]} times in the submission; one attempt of each counts"
            inspection.findings.add("error", "duplicates", file, text)
        if run.digest in digests:
            inspection.findings.add("error", "duplicates", file, "this very record is on the board already")
        elif cell_id in cells:
            text = (
                f"cell {cell_id[:12]} is on the board already; this attempt stands beside it and raises no number there"
            )
            inspection.findings.add("warning", "duplicates", file, text)


@dataclass(frozen=True)
class _Answer:
    """The ranked answers of a run under one rule."""

    where: str
    run: Run
    named: PredictionsFile
    bits: NDArray[np.uint8]
    rows: int
    rows_digest: str
    ours: bool


@dataclass(frozen=True)
class _Compared:
    """Answers as they are compared in the end: labels [rows], and their probabilities where these are kept."""

    label: NDArray[np.integer]
    top: NDArray[np.floating] | None


class _Copies:
    """Answers of a submission that are another run's."""

    def __init__(self, inspection: Inspection, standing: Standing) -> None:
        self._inspection, self._standing = inspection, standing
        self._ours = [each for file, scored in inspection.scored.items() for each in _ranked(scored, file, ours=True)]
        self._board = [
            each
            for scored in standing.read.scored
            for each in _ranked(scored, scored.run.file.parent.as_posix(), ours=False)
        ]
        self._told: set[tuple[str, str]] = set()
        self._compared = 0

    def report(self) -> None:
        """Report equal files, and answers that are nearly equal."""
        named: dict[str, list[tuple[str, Run]]] = defaultdict(list)
        known = [(each.file.parent.as_posix(), each) for each in self._standing.runs]
        for where, run in (*known, *self._inspection.runs.items()):
            for sha256 in _digests(run):
                named[sha256].append((where, run))
        for file, run in self._inspection.runs.items():
            for where, other in (pair for sha256 in _digests(run) for pair in named[sha256][:_MOST_TOLD]):
                self._equal(file, run, where, other)
        others: dict[str, list[_Answer]] = defaultdict(list)
        for each in (*self._board, *self._ours):
            others[each.rows_digest].append(each)
        bits = {digest: np.stack([each.bits for each in answers]) for digest, answers in others.items()}
        for each in self._ours:
            self._alike(each, others[each.rows_digest], bits[each.rows_digest])

    def _tell(self, severity: Severity, file: str, where: str, text: str) -> None:
        if (file, where) not in self._told:
            self._told |= {(file, where), (where, file)}
            self._inspection.findings.add(severity, "copies", file, text)

    def _equal(self, file: str, run: Run, where: str, other: Run) -> None:
        cells = run.record.cell, other.record.cell
        if cells[0] == cells[1]:
            return  # the same cell again
        same_work = (
            _author(run) == _author(other) and cells[0].seed == cells[1].seed and cells[0].level == cells[1].level
        )
        # A hyper-parameter may change nothing; another seed or another method always does.
        severity: Severity = "warning" if same_work else "error"
        self._tell(severity, file, where, f"its predictions file is that of {_title(other)}, byte for byte")

    def _alike(self, ours: _Answer, others: Sequence[_Answer], bits: NDArray[np.uint8]) -> None:
        apart = np.bitwise_count(bits ^ ours.bits).sum(axis=1)
        for index in np.flatnonzero(apart <= (1 - _LIKE) * ours.rows).tolist():
            other = others[index]
            same = other.run.record.cell_id == ours.run.record.cell_id or (ours.where, other.where) in self._told
            if same or self._compared >= _MOST_COMPARED or other.named.sha256 == ours.named.sha256:
                continue
            if not self._plain_errors(ours, int(apart[index])):
                continue
            self._compared += 1
            if text := self._near(ours, other):
                self._tell("warning", ours.where, other.where, text)

    @staticmethod
    def _plain_errors(ours: _Answer, apart: int) -> bool:
        """Return whether there are errors enough that being wrong together says something."""
        errors = ours.rows - int(np.bitwise_count(ours.bits).sum())
        return errors >= _LEAST_ERRORS and apart <= errors / 2

    def _near(self, ours: _Answer, other: _Answer) -> str:
        try:
            mine, theirs = self._read(ours), self._read(other)
        except GenBiasError:
            return ""  # a file of the board went away meanwhile
        differing = int((mine.label != theirs.label).sum())
        errors = ours.rows - int(np.bitwise_count(ours.bits).sum())
        if differing <= (1 - _SAME_ROWS) * ours.rows and differing <= _SAME_ERRORS * errors:
            return (
                f"all but {differing} of {ours.rows} answers are those of {_title(other.run)}, "
                f"{errors} wrong ones among them"
            )
        if mine.top is None or theirs.top is None:
            return ""  # the board kept the arg-max alone
        unsure = (mine.top < _SATURATED) & (theirs.top < _SATURATED)
        equal = int((mine.top == theirs.top)[unsure].sum())
        if unsure.sum() >= _LEAST_ROWS and equal >= _SAME_PROBABILITIES * unsure.sum():
            return f"{equal} of {int(unsure.sum())} probabilities are those of {_title(other.run)} to the last bit"
        return ""

    def _read(self, answer: _Answer) -> _Compared:
        if answer.ours:
            name = (answer.run.file.parent / answer.named.file).as_posix()
            stored = self._inspection.read(name, answer.named, answer.rows, answer.rows_digest)
            return _Compared(stored.label, stored.top_probability)
        return _accepted(answer, self._inspection.reader)


def _digests(run: Run) -> set[str]:
    """Return the digests of a finished run's ranked predictions."""
    stages = run.record.stages[-1:] if run.record.status == "success" else []
    return {checkpoint.predictions.sha256 for stage in stages for checkpoint in stage.checkpoints}


def _author(run: Run) -> tuple[str, str]:
    """Return whose a run is: the method, whatever its version, and the package."""
    return run.record.method.name, run.record.method.package


def _title(run: Run) -> str:
    cell = run.record.cell
    return f"{cell.method} at {cell.level}, seed {cell.seed}"


def _accepted(answer: _Answer, reader: SealedReader) -> _Compared:
    folder, record, named = answer.run.file.parent, answer.run.record, answer.named
    file = answers_file(folder, record, named) or folder / named.file
    if file.name != named.file:
        # Maintainers' own code wrote it.
        label = read_argmax(file, rows=answer.rows, rows_digest=answer.rows_digest, sha256=named.sha256)
        return _Compared(label, None)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DamagedFile(f"{file} cannot be read: {error}") from error
    if len(data) > most_bytes(answer.rows):
        raise DamagedFile(f"{file} is too large")
    stored = reader.read(data, str(file), rows=answer.rows, rows_digest=answer.rows_digest)
    return _Compared(stored.label, stored.top_probability)


def _ranked(scored: Scored, where: str, *, ours: bool) -> Iterator[_Answer]:
    """Yield the answers of the last stage, each file once."""
    files: set[str] = set()
    for checkpoint in scored.run.record.ranked_stage.checkpoints:
        if checkpoint.predictions.sha256 not in files:
            files.add(checkpoint.predictions.sha256)
            bits = np.packbits(scored.ranked_answers(checkpoint.rule).correct)
            rows, digest = len(scored.split.labels), scored.split.rows_digest
            yield _Answer(where, scored.run, checkpoint.predictions, bits, rows, digest, ours)


def _differences(inspection: Inspection, standing: Standing) -> list[Difference]:
    found: list[Difference] = []
    for rule in SelectionRule:
        board = _by_row(standing.read.scored, rule.value)
        for key, group in _by_row(inspection.scored.values(), rule.value).items():
            if rule is SelectionRule.LAST and len(group.runs) < LEAST_SEEDS:
                text = f"seeds of one configuration: {len(group.runs)}; fewer than {LEAST_SEEDS} are shown, not ranked"
                inspection.findings.add("note", "seeds", group.first.run.file.as_posix(), text)
            found += _of_row(group, board.get(key))
    return found


def _by_row(scored: Iterable[Scored], rule: str) -> Mapping[str, Group]:
    """Gather runs into rows; the key is what makes a row, whatever its verification level and version."""
    cells: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for each in scored:
        cells[each.run.record.cell.task, each.run.record.cell.level].append(each)
    found: dict[str, Group] = {}
    for members in cells.values():
        for group in group_runs(members, rule):
            basis: dict[str, Any] = {**group.first.configuration, "track": group.track, "verification": None}
            basis["method"] = group.first.run.record.method.name
            key = sha256_of(basis)
            if key not in found or len(found[key].runs) < len(group.runs):
                found[key] = group
    return found


def _of_row(group: Group, old: Group | None) -> Iterator[Difference]:
    cell, ranking = group.first.run.record.cell, group.first.split.labels.ranking_metric
    for metric in dict.fromkeys((ranking, *_SHOWN)):
        yield Difference(
            task=cell.task,
            level=cell.level,
            method=cell.method,
            rule=group.rule,
            metric=metric,
            board=None if old is None else estimate(old.values(metric)).value,
            board_seeds=[] if old is None else [scored.run.record.seed for scored in old.runs],
            submission=estimate(group.values(metric)).value,
            submission_seeds=[scored.run.record.seed for scored in group.runs],
        )
