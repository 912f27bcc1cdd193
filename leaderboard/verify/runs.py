"""One record of a submission: read safely, held against everything that can be computed here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from benchmark.contract.registry import listed_methods
from benchmark.errors import DamagedFile
from benchmark.evaluation.scoring import (
    CALIBRATION,
    alike,
    groups_differ,
    metrics_differ,
    rounding_against,
    score_test,
    view_metrics,
)
from benchmark.metrics.data import Predictions
from benchmark.metrics.versions import is_older, rescored
from benchmark.records.canonical import sha256_hex, sha256_of
from benchmark.records.kept import named_files
from benchmark.records.predictions import StoredPredictions
from benchmark.records.results import RECORD_FILE, parse_record, run_folder_name
from benchmark.records.schema import CheckpointResult, MetricValue, PredictionsFile, Record
from leaderboard.answers import Split, Splits, by_checkpoint, read_answers
from leaderboard.claims import check_claims, recipe_changes, stale_reasons
from leaderboard.generated import check_measurements
from leaderboard.groups import Scored
from leaderboard.kept import check_digest, most_bytes
from leaderboard.load import Run, check_identity
from leaderboard.sealed import SealedReader
from leaderboard.submission import METHOD_NAME, hidden_characters, problems_of
from leaderboard.trajectories import why_no_trajectory
from leaderboard.untrusted import JSON_BYTES, SUBMISSION_FILE, UntrustedFolder, parse_json
from leaderboard.verification import record_digest
from leaderboard.verify.plausible import impossible, unlikely
from leaderboard.verify.report import Findings

BANDED_ROWS = 20_000
"""Test rows up to which the bands of calibration errors are resampled too, unless the caller asks for all or none."""
_MOST_INCOMPLETE = 20
_OWN_PACKAGE = "genbias-bench"


@dataclass
class Inspection:
    """What the records of one folder are read with, and what was found in them.

    Attributes:
        folder: The folder.
        reader: Decodes predictions.
        splits: Splits at hand.
        findings: Gets what is wrong.
        intervals: Whether bands of calibration errors are resampled; None decides by the number of test rows.
        runs: Every record that could be read, by its place.
        scored: Finished runs whose predictions could be read.
        recomputed: Places of runs of which every number follows from the predictions.
        checkpoints: Checkpoints that were recomputed.
        incomplete: Digests of the lists of missing samples that were met.
    """

    folder: UntrustedFolder
    reader: SealedReader
    splits: Splits
    findings: Findings
    intervals: bool | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=dict)
    recomputed: set[str] = field(default_factory=set)
    checkpoints: int = 0
    incomplete: set[str] = field(default_factory=set)

    def inspect(self, file: str) -> None:
        """Check one record and its predictions, as far as they can be read."""
        before = self.findings.errors
        try:
            with self.findings.collect("record", file):
                self._inspect(file)
        except Exception as error:  # whatever a stranger's record makes of a check becomes one sentence
            self.findings.add("error", "record", file, f"cannot be checked: {type(error).__name__}: {error}")
        if file in self.scored and self.findings.errors == before:
            self.recomputed.add(file)

    def read(self, file: str, named: PredictionsFile, rows: int, rows_digest: str) -> StoredPredictions:
        """Read a predictions file that a record names.

        Raises:
            DamagedFile: When it is not what the record says, or does not answer these rows.
        """
        data = self.folder.read(file, most_bytes(rows))
        check_digest(Path(file), sha256_hex(data), named)
        if named.rows != rows:
            raise DamagedFile(f"{file} has {named.rows} rows by its record, the test split has {rows}")
        if named.rows_digest != rows_digest:
            raise DamagedFile(f"{file} answers other test rows by its record than this split has")
        return self.reader.read(data, file, rows=rows, rows_digest=rows_digest)

    def _inspect(self, file: str) -> None:
        content = parse_json(self.folder.read(file, JSON_BYTES), file)
        record = self._record(content, file)
        run = Run(Path(file), record, record_digest(content, file), "self-reported")
        self.runs[file] = run
        self._names(run, file)
        self._unnamed(record, file)
        with self.findings.collect("identity", file):
            check_identity(record, run.file)
            self._claims(run, file)
        if record.kind != "run":
            self.findings.add("error", "kind", file, f"it is a {record.kind}; only runs are accepted")
        elif record.status == "success":
            self._finished(run, file)
        elif record.status in ("skipped", "error"):
            self.findings.add("warning", "status", file, f"it is listed without numbers: its status is {record.status}")
        else:
            self.findings.add("error", "status", file, f"it was never finished: its status is {record.status}")

    def _record(self, content: Any, file: str) -> Record:
        for place, text in _texts(content):
            if hidden := hidden_characters(text):
                shown = ", ".join(hidden[:3])
                self.findings.add("error", "text", file, f"{place} holds the hidden characters {shown}")
                break
        try:
            return parse_record(content, file)
        except DamagedFile as error:
            if isinstance(error.__cause__, ValidationError):
                raise DamagedFile(f"{file} does not fit the record schema: {problems_of(error.__cause__)}") from error
            raise

    def _names(self, run: Run, file: str) -> None:
        record = run.record
        if problem := _name_problem(record):
            self.findings.add("error", "names", file, problem)
        expected = run_folder_name(record) / RECORD_FILE
        found = PurePosixPath(file)
        if not self.folder.single_run and PurePosixPath(expected.as_posix()) != found:
            self.findings.add("error", "layout", file, f"by its content it belongs into {expected.as_posix()}")

    def _claims(self, run: Run, file: str) -> None:
        """Check what the record says about its method and its images."""
        for check in (check_claims, check_measurements):
            with self.findings.collect("claims", file):
                check(run)
        if run.record.method.oracle:
            self.findings.add("note", "claims", file, "an oracle: it uses what no method has and is never ranked")

    def _finished(self, run: Run, file: str) -> None:
        self.reader.start()
        importlib.import_module("scipy.stats")  # as slow to load as what the child loads meanwhile
        for problem in impossible(run.record):
            self.findings.add("error", "plausible", file, problem)
        for problem in unlikely(run.record):
            self.findings.add("warning", "plausible", file, problem)
        if reason := why_no_trajectory(run):
            self.findings.add("error", "trajectory", file, reason)
        with self.findings.collect("split", file):
            self._answers(run, file, self._split(run, file))

    def _split(self, run: Run, file: str) -> Split:
        """Return a run's split; those of incomplete data are each computed and kept, so their number is bounded."""
        if missing := run.record.task.missing_samples:
            self.incomplete.add(sha256_of(missing))
            if len(self.incomplete) > _MOST_INCOMPLETE:
                raise DamagedFile(f"{file} is made on yet another part of its data set; {_MOST_INCOMPLETE} are checked")
        split = self.splits.of(run)
        if isinstance(split, str):
            raise DamagedFile(f"{file}: {split}")
        return split

    def _unnamed(self, record: Record, file: str) -> None:
        named = {each.file for each in named_files(record)} | {RECORD_FILE, SUBMISSION_FILE}
        for other in self.folder.beside(file):
            if other.rpartition("/")[2] not in named:
                self.findings.add("error", "layout", other, "the record beside it names no such file")

    def _answers(self, run: Run, file: str, split: Split) -> None:
        if split.pinned != "pinned":
            self.findings.add("warning", "split", file, f"its split is {split.pinned}, so it is never ranked")
        stored = self._stored(run, file, split)
        if stored is None:
            return
        with self.findings.collect("metrics", file):
            answers = read_answers(run, split, stored)
            self.scored[file] = scored = Scored(run, split, by_checkpoint(run.record, answers))
            self._protocol(scored, file)
        with self.findings.collect("metrics", file):
            self._recompute(run, file, split, stored)

    def _stored(self, run: Run, file: str, split: Split) -> dict[str, StoredPredictions] | None:
        """Read all predictions files of a run; None when one cannot be read."""
        stored: dict[str, StoredPredictions] = {}
        views = {"": (len(split.labels), split.rows_digest), **self._views(run.record, split)}
        for checkpoint in _checkpoints(run.record):
            asked = {"": checkpoint.predictions, **checkpoint.views}
            for view, named in asked.items():
                place = (PurePosixPath(file).parent / named.file).as_posix().removeprefix("./")
                if named.file in stored:
                    continue
                with self.findings.collect("predictions", place):
                    if view not in views:
                        raise DamagedFile(f"{place} answers {view!r:.60}, which is no view of this task's test images")
                    stored[named.file] = self.read(place, named, *views[view])
        return stored if set(stored) == {named.file for named in named_files(run.record)} else None

    def _views(self, record: Record, split: Split) -> Mapping[str, tuple[int, str]]:
        if not any(checkpoint.views for checkpoint in _checkpoints(record)):
            return {}
        found = split.task.views(record.task.image_size or split.task.card.task.pixels.size)
        return {name: (len(view.rows), view.rows.digest) for name, view in found.items()}

    def _protocol(self, scored: Scored, file: str) -> None:
        """Say what keeps a sound run out of the ranking."""
        record, card = scored.run.record, scored.split.task.card
        if changes := recipe_changes(record, card):
            names = ", ".join(sorted(changes))
            self.findings.add(
                "warning", "budget", file, f"another training recipe than the task's ({names}): not ranked"
            )
        if not scored.standard_budget:
            self.findings.add("warning", "budget", file, "its budget is not the protocol's: another row, not ranked")
        for reason in stale_reasons(record, card):
            self.findings.add("warning", "versions", file, reason)

    def _recompute(self, run: Run, file: str, split: Split, stored: Mapping[str, StoredPredictions]) -> None:
        """Compute every metric again and compare, bit for bit where numerical libraries are the same.

        The order of the rows is the test split's, so that their number and digest say that each test image is answered
        once.
        """
        record = run.record
        if is_older(record.metrics_version, file):
            self.findings.add("note", "metrics", file, rescored(record.metrics_version))
            return
        resampled, rounding = self._resampled(run, file, split), rounding_against(record)
        known: dict[str, Any] = {}
        for stage in record.stages:
            for checkpoint in stage.checkpoints:
                name = checkpoint.predictions.file
                if name not in known:
                    known[name] = _scored_again(split, checkpoint, stored, record, bands=resampled is None)
                metrics, groups = known[name]
                unlike = _unlike(checkpoint.metrics, metrics, resampled, rounding)
                if groups_differ(checkpoint.groups, groups, rounding):
                    unlike.append("groups")
                self.checkpoints += 1
                if unlike:
                    where = f"{stage.name}/{checkpoint.rule}"
                    self.findings.add("error", "metrics", file, f"{where}: {_listed(unlike, checkpoint, metrics)}")

    def _resampled(self, run: Run, file: str, split: Split) -> tuple[str, ...] | None:
        """Return the metrics of which values alone can be compared here; None when all are compared whole."""
        if split.task.resampling_unit != run.record.task.resampling_unit:
            unit = run.record.task.resampling_unit
            self.findings.add(
                "note", "metrics", file, f"its intervals resample by {unit}, which the data here do not tell"
            )
            return ()
        if self.intervals if self.intervals is not None else len(split.labels) <= BANDED_ROWS:
            return None
        self.findings.add(
            "note", "metrics", file, "the bands of its calibration errors were not resampled (--intervals)"
        )
        return CALIBRATION


def _scored_again(
    split: Split, checkpoint: CheckpointResult, stored: Mapping[str, StoredPredictions], record: Record, *, bands: bool
) -> Any:
    answers = stored[checkpoint.predictions.file]
    predictions = Predictions(answers.label, answers.top_probability)
    metrics, groups = score_test(split.labels, split.rows_digest, split.train_counts, predictions, bands=bands)
    if checkpoint.views:
        views = split.task.views(record.task.image_size or split.task.card.task.pixels.size)
        metrics |= view_metrics(views, {name: stored[named.file].label for name, named in checkpoint.views.items()})
    return metrics, groups


def _unlike(
    recorded: dict[str, MetricValue],
    computed: dict[str, MetricValue],
    values_only: tuple[str, ...] | None,
    rounding: float,
) -> list[str]:
    """Return the names of metrics that are not equal; ``()`` compares no intervals at all."""
    unlike = metrics_differ(recorded, computed, rounding)
    if values_only is None:
        return unlike
    return [
        name
        for name in unlike
        if (values_only and name not in values_only)
        or name not in recorded
        or name not in computed
        or not alike(recorded[name].value, computed[name].value, rounding)
    ]


def _listed(unlike: list[str], checkpoint: CheckpointResult, metrics: Mapping[str, MetricValue]) -> str:
    shown = []
    for name in unlike[:5]:
        said, found = checkpoint.metrics.get(name), metrics.get(name)
        if said is not None and found is not None and said.value != found.value:
            shown.append(f"{name} is {said.value}, its predictions give {found.value}")
        else:
            shown.append(f"{name} differs from what its predictions give")
    return "; ".join(shown) + (f"; and {len(unlike) - 5} more" if len(unlike) > 5 else "")


def _name_problem(record: Record) -> str:
    """Return why a method may not have its name; empty when it may."""
    method = record.method
    if not METHOD_NAME.fullmatch(method.name):
        return f"method {method.name!r:.60} is neither a name of ours nor package/name in plain letters"
    package = method.name.rpartition("/")[0]
    if package:
        if method.origin != "plug-in" or method.package != package:
            said = f"{method.origin} of {method.package!r:.60}"
            return f"{method.name} is a plug-in of {package}, but the record says {said}"
        return ""
    if method.name not in listed_methods():
        return f"{method.name} is no method of this release; a plug-in's method is named package/name"
    if method.origin != "in-tree" or method.package != _OWN_PACKAGE:
        return f"{method.name} is this benchmark's own method; a plug-in's method is named package/name"
    return ""


def _checkpoints(record: Record) -> Iterator[CheckpointResult]:
    return (checkpoint for stage in record.stages for checkpoint in stage.checkpoints)


def _texts(value: Any, place: str = "the record") -> Iterator[tuple[str, str]]:
    """Yield every text of a JSON value, keys too, with the field at the top in which it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield place, key
            yield from _texts(part, key if place == "the record" else place)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, place)
