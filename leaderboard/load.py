"""Reading records that strangers may have written: found, bounded, parsed, identified; every problem is collected."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.contract.tracks import SelectionRule, Track, row_track
from benchmark.errors import DamagedFile, GenBiasError
from benchmark.records.canonical import sha256_of
from benchmark.records.files import TEMPORARY_PREFIX
from benchmark.records.generations import PROCESS
from benchmark.records.results import MAX_RECORD_BYTES, parse_record, read_content, record_files
from benchmark.records.schema import GroupAudit, GroupTable, Mixture, PoolUse, Record, StageResult
from benchmark.tasks.law import DRAWS
from leaderboard.models import Level
from leaderboard.verification import Entry, check_entry, record_digest

_LONGEST_NAME = 200
_SHOWN_PROBLEMS = 20
_SHARES = (
    "asked", "raw", "corrected", "low", "high", "precision", "recall", "density", "coverage",
)  # fmt: skip
_NO_GROUPS: dict[str, Any] = {"labels": [], "attributes": [], "train_counts": []}


@dataclass(frozen=True, eq=False)
class Run:
    """One record at hand.

    Attributes:
        file: Where it lies.
        record: Its content, or what the board shows of it; see :func:`brief`.
        digest: SHA-256 of its JSON content.
        level: What maintainers say about it.
    """

    file: Path
    record: Record
    digest: str
    level: Level

    @property
    def attempt(self) -> tuple[int, str]:
        """Order of several runs of one cell: the first attempt first, whatever the order of the folders."""
        number = self.record.run_id.partition("-")[2]
        return int(number or 1), self.digest


@dataclass
class Problems:
    """Errors met on the way, so that a maintainer sees all of them at once."""

    found: list[GenBiasError] = field(default_factory=list)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an error of ours instead of stopping."""
        try:
            yield
        except GenBiasError as error:
            self.found.append(error)

    def raise_any(self) -> None:
        """Raise what was met.

        Raises:
            GenBiasError: The error itself when there is one; otherwise one of their common kind, or
                :class:`DamagedFile`, that lists them.
        """
        if not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        messages = sorted({str(error) for error in self.found})
        listed = [f"- {message}" for message in messages[:_SHOWN_PROBLEMS]]
        if len(messages) > _SHOWN_PROBLEMS:
            listed.append(f"- and {len(messages) - _SHOWN_PROBLEMS} more")
        kinds = {type(error) for error in self.found}
        text = "\n".join([f"the board was not built; {len(messages)} problems:", *listed])
        # Only kinds that take a bare message can carry the list.
        raise (kinds.pop() if len(kinds) == 1 and kinds <= _LISTABLE else DamagedFile)(text)


def find_records(inputs: Sequence[Path]) -> list[Path]:
    """Return every record file below some folders or files, each once, in path order.

    Raises:
        DamagedFile: For a folder or file that does not exist.
    """
    found: dict[Path, None] = {}
    for path in inputs:
        if not path.exists():
            raise DamagedFile(f"{path} does not exist; give folders of records or record files")
        files = [path.resolve()] if path.is_file() else record_files(path.absolute())
        found |= dict.fromkeys(file for file in files if not _temporary(path))
    return sorted(found)


def load_run(file: Path, verified: Mapping[str, Entry]) -> Run:
    """Read one record and check that it is what it says.

    Raises:
        DamagedFile: When it is no record, or contradicts itself or the entry that names it.
        NewerSchema: When a newer version wrote it.
    """
    check_plain(file, MAX_RECORD_BYTES)
    content = read_content(file)
    record = parse_record(content, str(file))
    digest = record_digest(content, str(file))
    check_identity(record, file)
    return Run(file, record, digest, level_of(record, digest, verified, file))


def level_of(record: Record, digest: str, verified: Mapping[str, Entry], file: Path) -> Level:
    """Return what maintainers say about a record.

    Raises:
        DamagedFile: When it contradicts the entry that names it.
    """
    entry = verified.get(digest)
    return "self-reported" if entry is None else check_entry(entry, record, str(file))


def brief(record: Record) -> Record:
    """Return what the board shows of a checked record: without curves, intervals, lists of images and the like.

    Thousands of records fit into memory only so. Tables of groups stay for processes alone, whose points need them.
    """
    process = record.method.kind == PROCESS
    task: dict[str, Any] = {"validation_counts": [], "realised_rho": [], "prepared_sha256": {}}
    return record.model_copy(
        update={
            "stages": [_brief_stage(stage, process=process) for stage in record.stages],
            "pools": [_brief_pool(pool) for pool in record.pools],
            "task": record.task.model_copy(update=task if process else {**task, **_NO_GROUPS}),
            "environment": record.environment.model_copy(update={"packages": {}}),
            "failure": record.failure and record.failure.model_copy(update={"traceback": []}),
            "notes": [],
            "artifacts": {},
            "auditors": {},
        }
    )


def _brief_stage(stage: StageResult, *, process: bool) -> StageResult:
    without = {"metrics": {}, "groups": GroupTable(n=[], correct=[], low=[], high=[]), "views": {}}
    checkpoints = [each.model_copy(update=without) for each in stage.checkpoints]
    update: dict[str, Any] = {"curves": [], "checkpoints": checkpoints}
    if stage.mixture is not None and not process:
        update["mixture"] = _totals(stage.mixture)
    return stage.model_copy(update=update)


def _totals(mixture: Mixture) -> Mixture:
    """Return a mixture as if all images were of one group."""
    return mixture.model_copy(
        update={
            "real": [[sum(map(sum, mixture.real))]],
            "synthetic": [[sum(map(sum, mixture.synthetic))]],
            "synthetic_without_attribute": [sum(mixture.synthetic_without_attribute)],
        }
    )


def _brief_pool(pool: PoolUse) -> PoolUse:
    audit: GroupAudit | None = pool.groups
    without: dict[str, Any] = {name: [] for name in (*_SHARES, "absent")}
    return pool.model_copy(
        update={
            "recipe": {name: value for name, value in pool.recipe.items() if name == "generation"},
            "ranges": {},
            "tuning": pool.tuning and pool.tuning.model_copy(update={"settings": {}}),
            "filter": pool.filter and pool.filter.model_copy(update={"kept_indices": {}}),
            "own": None,
            "labels": None,
            "groups": audit and audit.model_copy(update=without),
            "transfer": {},
        }
    )


def check_plain(file: Path, most: int) -> None:
    """Refuse what is no plain file of bounded size.

    Raises:
        DamagedFile: When it is missing, a link, a device, or too large.
    """
    try:
        found = os.lstat(file)
    except OSError as error:
        raise DamagedFile(f"{file} is missing; a record and the files that it names belong together") from error
    if not stat.S_ISREG(found.st_mode):
        raise DamagedFile(f"{file} is no plain file; links and devices are not read")
    if found.st_size > most:
        raise DamagedFile(f"{file} holds {found.st_size:,} bytes; at most {most:,} are read")


def _temporary(file: Path) -> bool:
    return any(part.startswith(TEMPORARY_PREFIX) for part in file.parts)


def check_identity(record: Record, file: Path) -> None:
    """Refuse a record that contradicts itself.

    Raises:
        DamagedFile: When its parts, its identities or its budget do not fit each other.
    """
    cell, task, method = record.cell, record.task, record.method
    if sha256_of(cell.model_dump(mode="json")) != record.cell_id:
        raise DamagedFile(f"{file}: cell_id is not the SHA-256 of its cell")
    if not record.run_id.startswith(record.cell_id[:12]):
        raise DamagedFile(f"{file}: run_id {record.run_id} does not belong to cell {record.cell_id[:12]}")
    if max(map(len, (cell.task, cell.level, cell.method))) > _LONGEST_NAME:
        raise DamagedFile(f"{file}: a name is longer than {_LONGEST_NAME} characters")
    said = {
        "task": f"{task.name}@{task.version}",
        "method": f"{method.name}@{method.version}",
        "level": task.level,
        "draw": task.draw,
        "seed": record.seed,
        "hparams": method.hparams,
        "split_digest": task.split_digest,
    }
    for name, value in said.items():
        if getattr(cell, name) != value:
            raise DamagedFile(f"{file} contradicts itself: {name} is {value!r}, in its cell {getattr(cell, name)!r}")
    if cell.draw != cell.seed % len(DRAWS):
        raise DamagedFile(f"{file}: seed {cell.seed} goes with draw {cell.seed % len(DRAWS)}, not {cell.draw}")
    _check_budget(record, file)
    for stage in record.stages:
        rules = [checkpoint.rule for checkpoint in stage.checkpoints]
        if len(set(rules)) != len(rules):
            raise DamagedFile(f"{file}: stage {stage.name!r} has two checkpoints of one selection rule")
        for checkpoint in stage.checkpoints:
            track = row_track(Track(method.track), SelectionRule(checkpoint.rule)).value
            if checkpoint.track != track:
                raise DamagedFile(
                    f"{file}: rule {checkpoint.rule} on track {method.track} is track {track}, not {checkpoint.track}"
                )


def _check_budget(record: Record, file: Path) -> None:
    if record.budget is None:
        return
    budget = record.budget
    allowed = {"synthetic": budget.synthetic_allowed, "sampled": budget.sampled_allowed, "steps": budget.steps_allowed}
    if record.cell.budget != allowed:
        raise DamagedFile(f"{file} contradicts itself: budget {allowed}, in its cell {record.cell.budget}")


_LISTABLE: set[type[GenBiasError]] = {
    kind for kind in GenBiasError.__subclasses__() if kind.__init__ is GenBiasError.__init__
}
