"""What a planner or a listing needs of many records, read fast: unchanged records are not parsed again.

A summary is checked as strictly as the record's own parts, but not against the stages and pools, which are not read;
whoever shows results reads the record itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from benchmark.errors import DamagedFile, GenBiasError
from benchmark.records.cache import Cache, fingerprint
from benchmark.records.canonical import sha256_of
from benchmark.records.results import MAX_RECORD_BYTES, read_record, record_bytes, record_files, upgrade
from benchmark.records.schema import (
    BudgetUse,
    Cell,
    Cost,
    Environment,
    Failure,
    Isolation,
    MethodInfo,
    Sha256,
    Status,
    TaskInfo,
)

INDEX_FILE = "index.sqlite"
"""The cache's usual name in the store folder."""
_TABLE = "summaries_1"
_OF_VERSIONS = {"split_digest", "budget", "training", "schema_major"}


@dataclass(frozen=True)
class Summary:
    """One record in short.

    Attributes:
        cell_id: The cell.
        unversioned: The cell without what moves with versions, see :func:`unversioned`.
        run_id: Start of the cell_id, and the attempt.
        kind: ``run`` or ``trial``.
        status: As in the record.
        started: UTC, ISO 8601.
        task: ``name@version``.
        level: Bias level.
        recipe: Which of the card's training recipes was asked for.
        seed: The seed.
        method: ``name@version``.
        method_digest: Digest of the method's source.
        card_digest: Digest of the task's card.
        generator: Name of the generator; None without one.
        isolated: Whether `fit` ran in a process of its own.
        device: Name of the device.
        device_kind: ``cpu``, ``cuda`` or ``mps``.
        threads: CPU threads.
        precision: ``float32`` or ``bfloat16``.
        wall_seconds: Of the whole run; None, like the costs below, where the record holds no cost.
        training_seconds: Training of stages.
        generator_seconds: Fine-tuning and sampling.
        auxiliary_seconds: Classifiers that only cluster or filter images.
        peak_memory_bytes: Of the process; None where unknown.
        peak_device_memory_bytes: Of the accelerator; None where unknown.
        sampled: Images sampled; None where the record holds no budget.
        failure_kind: Of an error.
        failure_message: Of an error, or why the run was skipped.
    """

    cell_id: str
    unversioned: str
    run_id: str
    kind: str
    status: Status
    started: str
    task: str
    level: str
    recipe: str
    seed: int
    method: str
    method_digest: str
    card_digest: str
    generator: str | None
    isolated: bool
    device: str
    device_kind: str
    threads: int
    precision: str
    wall_seconds: float | None
    training_seconds: float | None
    generator_seconds: float | None
    auxiliary_seconds: float | None
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    sampled: int | None
    failure_kind: str | None
    failure_message: str | None


class _Head(BaseModel):
    """A record without its long parts."""

    model_config = ConfigDict(extra="ignore")

    schema_version: str
    run_id: str
    cell_id: Sha256
    cell: Cell
    kind: str = "run"
    status: Status
    started: str
    seed: int
    task: TaskInfo
    method: MethodInfo
    budget: BudgetUse | None
    environment: Environment
    isolation: Isolation
    cost: Cost | None
    skipped_because: str | None = None
    failure: Failure | None = None


def unversioned(cell: Cell) -> str:
    """Return the SHA-256 of a cell without what moves with versions, so that runs of earlier versions are found.

    That is the versions of task and method, the split's digest, the budget, the recipe and the schema.
    """
    content = cell.model_dump(mode="json", exclude=_OF_VERSIONS)
    return sha256_of(content | {name: content[name].partition("@")[0] for name in ("task", "method")})


def summaries(results: Path, cache: Path | None) -> tuple[list[tuple[Path, Summary]], list[GenBiasError]]:
    """Summarise every record below a results folder.

    Args:
        results: The folder; one that does not exist holds no records.
        cache: File that remembers the summaries of records that have not changed since, usually :data:`INDEX_FILE` in
            the store; None reads every record.

    Returns:
        Record files with their summaries in path order, and what is wrong with files that cannot be used
        (:class:`DamagedFile`, :class:`NewerSchema`).
    """
    found: list[tuple[Path, Summary]] = []
    problems: list[GenBiasError] = []
    files = list(_with_status(record_files(results.absolute())))
    fresh: dict[str, bytes] = {}
    with Cache(cache, _TABLE) as remembered:
        known = remembered.get(str(file) for file, _ in files)
        for file, status in files:
            mark = fingerprint(status)
            summary = _unpack(known.get(str(file)), mark)
            if summary is None:
                try:
                    summary = summarise(file, status)
                except GenBiasError as error:
                    problems.append(error)
                    continue
                fresh[str(file)] = json.dumps([mark, asdict(summary)]).encode()
            found.append((file, summary))
        if fresh:
            remembered.put(fresh)
            remembered.forget(lambda file: file not in known and file not in fresh and not Path(file).exists())
    return found, problems


def summarise(file: Path, status: os.stat_result) -> Summary:
    """Read one record's summary.

    Raises:
        DamagedFile: When it is no plain file of bounded size, or no record.
        NewerSchema: When a newer version wrote it.
    """
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_RECORD_BYTES:
        raise DamagedFile(f"{file} is no plain file of at most {MAX_RECORD_BYTES:,} bytes, so it is no record")
    try:
        head = _Head.model_validate_json(record_bytes(file), strict=True)
    except ValidationError:
        read_record(file)  # says what is wrong in a record's own words
        raise DamagedFile(f"{file} does not fit the record schema") from None
    upgrade({"schema_version": head.schema_version}, str(file))
    return _summary(head)


def _summary(head: _Head) -> Summary:
    cell, cost, failure, environment = head.cell, head.cost, head.failure, head.environment
    return Summary(
        cell_id=head.cell_id,
        unversioned=unversioned(cell),
        run_id=head.run_id,
        kind=head.kind,
        status=head.status,
        started=head.started,
        task=f"{head.task.name}@{head.task.version}",
        level=head.task.level,
        recipe=head.task.recipe,
        seed=head.seed,
        method=f"{head.method.name}@{head.method.version}",
        method_digest=head.method.source_digest,
        card_digest=head.task.card_digest,
        generator=None if cell.generator is None else str(cell.generator.get("name")),
        isolated=head.isolation.separate_process,
        device=environment.device,
        device_kind=environment.device_kind,
        threads=environment.threads,
        precision=environment.precision,
        wall_seconds=None if cost is None else cost.wall_seconds,
        training_seconds=None if cost is None else cost.training_seconds,
        generator_seconds=None if cost is None else cost.generator_seconds,
        auxiliary_seconds=None if cost is None else cost.auxiliary_seconds,
        peak_memory_bytes=None if cost is None else cost.peak_memory_bytes,
        peak_device_memory_bytes=None if cost is None else cost.peak_device_memory_bytes,
        sampled=None if head.budget is None else head.budget.sampled,
        failure_kind=None if failure is None else failure.kind,
        failure_message=head.skipped_because if failure is None else failure.message,
    )


def _with_status(files: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # removed in this moment
            yield file, file.lstat()


def _unpack(value: bytes | None, mark: tuple[int, ...]) -> Summary | None:
    """Return a remembered summary if it is of the file as it is now."""
    if value is None:
        return None
    try:
        then, content = from_json(value)
        return Summary(**content) if tuple(then) == mark else None
    except (TypeError, ValueError):
        return None
