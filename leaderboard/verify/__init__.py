"""`verify`: everything that can be computed about a submission, which is an attacker's file until it is merged.

Nothing in a submission is executed, unpickled, followed or rendered as markup. What a report calls sound is sound
arithmetic; see :data:`leaderboard.verify.report.HONESTY`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmark.records.results import RECORD_FILE
from benchmark.records.store import default_store
from leaderboard.answers import Splits
from leaderboard.remembered import BOARD_CACHE, Remembered
from leaderboard.sealed import SealedReader
from leaderboard.submission import Submission, read_submission
from leaderboard.untrusted import SUBMISSION_FILE, UntrustedFolder
from leaderboard.verify.report import Difference, Finding, Findings, Report, Severity
from leaderboard.verify.runs import Inspection
from leaderboard.verify.standing import ACCEPTED, compare, standing_board

__all__ = ["Difference", "Finding", "Report", "verify"]


def verify(
    path: Path,
    *,
    board: Sequence[Path] | None = None,
    submission_required: bool = False,
    intervals: bool | None = None,
    cached: bool = True,
) -> Report:
    """Check a submission as the board will, and more: everything that is wrong is collected.

    Args:
        path: A submission folder; a folder of results without ``submission.json``; or the folder of one run.
        board: Folders of the standing board's records; None takes the accepted ones of this checkout.
        submission_required: Whether ``submission.json`` has to be there, as in a pull request.
        intervals: Resample the bands of calibration errors too; None does so for test splits of bounded size.
        cached: Use what builds of the board remember in the store about the standing board and pinned splits; nothing
            of a submission is ever remembered.

    Returns:
        The report; its ``ok`` says whether anything stands against the submission.

    Raises:
        UsageError: When ``path`` is no folder.
        DamagedFile: When ``board`` names what does not exist.
    """
    path, findings = Path(path).resolve(), Findings()
    with ExitStack() as stack:
        folder = stack.enter_context(UntrustedFolder(path, lambda at, what: findings.add("error", "files", at, what)))
        reader = stack.enter_context(SealedReader())
        memory = stack.enter_context(Remembered(default_store() / BOARD_CACHE if cached else None))
        submission = _submission(folder, findings, required=submission_required)
        inspection = Inspection(folder, reader, Splits(memory), findings, intervals)
        records = [file for file in folder.files if file.rpartition("/")[2] == RECORD_FILE]
        for file in records:
            inspection.inspect(file)
        _without_record(folder, findings)
        if not records:
            findings.add("error", "files", "", f"holds no {RECORD_FILE} where one belongs: <task>/<method>/<run>")
        _one_method(submission, inspection)
        tasks = {run.record.task.name for run in inspection.runs.values()}
        standing = standing_board(_board(board, findings), tasks, path, memory, findings)
        differences = compare(inspection, standing)
    return _report(submission, inspection, len(records), differences)


def _submission(folder: UntrustedFolder, findings: Findings, *, required: bool) -> Submission | None:
    """Read submission.json, and judge what else lies in the folder by whether it is there."""
    severity: Severity = "error" if required or SUBMISSION_FILE in folder.files else "warning"
    for other in folder.others:
        findings.add(severity, "files", other, "has no place in a submission; it is not opened")
    if folder.single_run and severity == "error":
        findings.add("error", "files", RECORD_FILE, "lies beside submission.json; runs lie in <task>/<method>/<run>")
    if SUBMISSION_FILE in folder.files:
        with findings.collect("submission", SUBMISSION_FILE):
            return read_submission(folder)
    elif required:
        findings.add("error", "submission", SUBMISSION_FILE, "is missing")
    else:
        findings.add("note", "submission", "", f"there is no {SUBMISSION_FILE}: checked as a folder of results")
    return None


def _without_record(folder: UntrustedFolder, findings: Findings) -> None:
    places = {file.rpartition("/")[0] for file in folder.files if file != SUBMISSION_FILE}
    for place in sorted(places):
        if f"{place}/{RECORD_FILE}".lstrip("/") not in folder.files:
            findings.add("error", "files", place, f"holds predictions, but no {RECORD_FILE}")


def _one_method(submission: Submission | None, inspection: Inspection) -> None:
    if submission is None:
        return
    for file, run in inspection.runs.items():
        if run.record.cell.method != submission.method:
            text = f"is a run of {run.record.cell.method}, but {SUBMISSION_FILE} submits {submission.method}"
            inspection.findings.add("error", "submission", file, text)


def _board(board: Sequence[Path] | None, findings: Findings) -> list[Path]:
    if board is not None:
        return list(board)
    if ACCEPTED.is_dir():
        return [ACCEPTED]
    findings.add("note", "board", "", "the accepted records are not at hand, so nothing was compared with the board")
    return []


def _report(
    submission: Submission | None, inspection: Inspection, records: int, differences: list[Difference]
) -> Report:
    findings = inspection.findings
    sound = not findings.errors and bool(inspection.recomputed)
    return Report(
        submission=None if submission is None else submission.method,
        runs=records,
        recomputed_runs=len(inspection.recomputed),
        checkpoints=inspection.checkpoints,
        findings=findings.listed,
        further_findings=findings.hidden,
        errors=findings.errors,
        differences=differences,
        level="recomputed" if sound else "self-reported",
    )
