"""Running one cell: resolve, fit, predict, compute, record. What `genbias-bench evaluate` and the Python API call."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import GenBiasError, InvalidValue, NotApplicable, StoreError
from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.evaluation.draft import draft_record, run_prefix, utc_now
from benchmark.evaluation.tuned import read_study
from benchmark.progress import Progress, Silent
from benchmark.records.files import make_folder, temporary_folder, write_bytes
from benchmark.records.provenance import failure_of, scrub
from benchmark.records.results import RECORD_FILE, find_success, publish_run, read_record, write_record
from benchmark.records.schema import Failure, Record, Status
from benchmark.records.store import Store, default_store

if TYPE_CHECKING:
    from benchmark.evaluation.execution import Execution

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives.

    Attributes:
        record: The record.
        folder: Where it lies with its predictions and pictures.
        reused: Whether an earlier run had finished this cell.
    """

    record: Record
    folder: Path
    reused: bool


def evaluate(
    method: str,
    *,
    task: str = "colorized-digits",
    level: str | None = None,
    seed: int = 0,
    generator: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    results: Path | str = "results",
    store: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
    isolated: bool = False,
    offline: bool = False,
    recipe: str | None = None,
    backbone_weights: str | None = None,
    clip: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    tuned: Path | str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate one method on one task at one bias level with one seed.

    Args:
        method: Name, as in `genbias-bench list methods`.
        task: ``name`` or ``name@version``.
        level: Bias level; None takes the card's default.
        seed: Training seed; it also chooses draw ``seed % 5``.
        generator: Name, folder or Hub id; None takes the card's default.
        overrides: Hyper-parameters.
        results: Folder of the records.
        store: Folder of pools and trained stages; None takes :func:`default_store`.
        device: ``auto``, ``cpu``, ``cuda`` …
        threads: CPU threads; None takes torch's default.
        force: Run again although the cell is finished; the earlier record stays.
        isolated: Fit in a process that has no test split and, where the system allows it, no network.
        offline: Never ask the Hub.
        recipe: Name of one of the card's training recipes, such as ``small``; None takes the default.
        backbone_weights: ``none``, ``imagenet`` or torchvision's name; None takes the recipe's.
        clip: Folder or Hub id of a CLIP model, for methods whose hyper-parameters ask for one.
        sampling: Changes of how the generator is sampled: ``scheduler``, ``steps``, ``guidance``, ``batch_size``.
        tuned: The tuning.json of a finished study of this method on this task: run what it chose.
        progress: Where to show progress.

    Returns:
        The record and where it lies.

    Raises:
        GenBiasError: With one sentence on what is wrong; an error record is written where that is possible.
    """
    if threads is not None and threads < 1:
        raise InvalidValue(f"{threads} threads make no sense; use 1 or more")
    request = Request(
        method, task, level, seed, generator, overrides or {}, offline, recipe, backbone_weights, clip, sampling or {}
    )
    if tuned is not None:
        request = read_study(Path(tuned)).tuned(request)
    progress = progress or Silent()
    return evaluate_cell(
        resolve_cell(request, progress),
        results=Path(results),
        store=Path(store) if store else default_store(),
        device=device,
        threads=threads,
        force=force,
        isolated=isolated,
        progress=progress,
    )


def evaluate_cell(
    cell: ResolvedCell,
    *,
    results: Path,
    store: Path,
    device: str,
    threads: int | None,
    force: bool,
    isolated: bool,
    progress: Progress,
) -> Evaluation:
    """Run a resolved cell, or return the record of the run that finished it."""
    results = make_folder(results).resolve()
    _probe(results)
    opened = Store(store.resolve())
    opened.collect_garbage()
    with opened.claim(f"cell-{cell.cell_id}"):
        found = None if force else find_success(results, cell.cell_id, run_prefix(cell), isolated=isolated)
        if found is not None:
            return Evaluation(read_record(found), found, reused=True)
        execution = _execution_of(cell)(
            cell, opened.root, device, threads, force=force, isolated=isolated, progress=progress
        )
        return _run(execution, results)


def _execution_of(cell: ResolvedCell) -> type[Execution]:
    if cell.request.is_trial:
        from benchmark.evaluation.trial import TrialExecution

        return TrialExecution
    from benchmark.evaluation.execution import Execution

    return Execution


def _probe(results: Path) -> None:
    """Fail before the work rather than after it when the results folder cannot be written."""
    with temporary_folder(results) as folder:
        write_bytes(folder / "probe", b"")


def _run(execution: Execution, results: Path) -> Evaluation:
    """Execute and publish one record, whatever happens."""
    start = time.perf_counter()
    with temporary_folder(results) as folder:
        draft = draft_record(execution.cell, execution.environment, execution.isolation())
        write_record(folder, draft)
        try:
            record = execution.run(folder, draft)
        except NotApplicable as reason:
            record = _ended(draft, "skipped", skipped_because=str(reason))
            for answers in folder.glob("*.parquet"):
                answers.unlink()  # of stages before the one that does not apply; the record names none
        except KeyboardInterrupt:
            _publish_failure(folder, results, _ended(draft, "cancelled"))
            raise
        except Exception as error:
            _publish_failure(folder, results, _ended(draft, "error", failure=failure_of(error)))
            raise
        if record.cost is not None:
            cost = record.cost.model_copy(update={"wall_seconds": time.perf_counter() - start})
            record = record.model_copy(update={"cost": cost})
        target = publish_run(folder, results, record)
    return Evaluation(read_record(target), target, reused=False)


def record_failure(
    cell: ResolvedCell,
    message: str,
    *,
    results: Path,
    store: Path,
    device: str,
    threads: int | None,
    isolated: bool,
) -> Path | None:
    """Record the failure of a run that could not do so itself, such as one whose process was killed.

    Args:
        cell: What was run.
        message: What went wrong.
        results: Folder of the records.
        store: The store that it was run with.
        device: As it was asked for.
        threads: As they were asked for.
        isolated: As it was asked for.

    Returns:
        Where the record lies; None where the results hold a failure of this cell already.

    Raises:
        GenBiasError: When that is not possible.
    """
    for file in (results / run_prefix(cell)).glob(f"*-{cell.cell_id[:12]}*/{RECORD_FILE}"):
        with contextlib.suppress(GenBiasError):
            if read_record(file).status == "error":
                return None
    from benchmark.evaluation.execution import Execution

    execution = Execution(cell, store, device, threads, force=False, isolated=isolated, progress=Silent())
    draft = draft_record(cell, execution.environment, execution.isolation())
    failure = Failure(kind="RunEnded", message=scrub(message), traceback=[])
    with temporary_folder(results) as folder:
        return publish_run(folder, results, _ended(draft, "error", failure=failure))


def _ended(draft: Record, status: Status, **fields: Any) -> Record:
    return draft.model_copy(update={"status": status, "finished": utc_now(), **fields})


def _publish_failure(folder: Path, results: Path, record: Record) -> None:
    try:
        publish_run(folder, results, record)
    except StoreError as error:
        # The disk may be what failed; the first error is the one to show.
        logger.warning("the %s could not be recorded: %s", record.status, error)
