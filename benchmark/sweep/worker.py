"""What a worker does with a job: any engine calls :func:`run_job`, which never raises."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from benchmark.errors import (
    ContractViolation,
    DataError,
    GenBiasError,
    GeneratorError,
    NotApplicable,
    NotAvailable,
    TrainingDiverged,
    UsageError,
)
from benchmark.progress import Silent
from benchmark.records.provenance import scrub
from benchmark.sweep.jobs import Job, Outcome, OutcomeStatus

_IN_VAIN = (ContractViolation, DataError, GeneratorError, NotApplicable, NotAvailable, TrainingDiverged, UsageError)
"""Errors that another try would only repeat."""


def run_job(job: Job) -> Outcome:
    """Do a job here; SIGTERM and SIGINT interrupt it, and what was finished is kept."""
    start = time.perf_counter()
    try:
        with interruptible():
            return _evaluate(job, start) if job.kind == "evaluate" else _produce(job, start)
    except KeyboardInterrupt:
        return Outcome("cancelled", time.perf_counter() - start, message="interrupted", retryable=True)
    except Exception as error:  # an engine must learn of everything that can go wrong
        return failed(error, time.perf_counter() - start)


def _evaluate(job: Job, start: float) -> Outcome:
    from benchmark.evaluation.cell import resolve_cell
    from benchmark.evaluation.run import evaluate_cell

    done = evaluate_cell(
        resolve_cell(job.request), results=job.results, store=job.store, device=job.device, threads=job.threads,
        force=job.force, isolated=job.isolated, progress=Silent(),
    )  # fmt: skip
    status: OutcomeStatus = "skipped" if done.record.status == "skipped" else "success"
    message = done.record.skipped_because or ""
    return Outcome(status, time.perf_counter() - start, folder=done.folder, reused=done.reused, message=message)


def _produce(job: Job, start: float) -> Outcome:
    from benchmark.evaluation.cell import resolve_cell
    from benchmark.evaluation.execution import Execution

    execution = Execution(
        resolve_cell(job.request), job.store, job.device, job.threads, force=False, isolated=job.isolated,
        progress=Silent(),
    )  # fmt: skip
    execution.share()
    return Outcome("success", time.perf_counter() - start)


def failed(error: Exception, seconds: float) -> Outcome:
    """Return the outcome of a job that raised an error."""
    exhausted = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    message = str(error) if isinstance(error, GenBiasError) else f"{type(error).__name__}: {error}"
    return Outcome(
        "error", seconds, message=scrub(message), retryable=not isinstance(error, _IN_VAIN), exhausted=exhausted
    )


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt what is done inside; afterwards it ends the process as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    # Once: what an interrupted job writes in answer is not interrupted.
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt
