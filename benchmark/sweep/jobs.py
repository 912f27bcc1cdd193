"""What engines run: a cell's evaluation, or making what several cells share; plain data that travels to a worker."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from benchmark.evaluation.cell import Request

JobKind = Literal["evaluate", "produce"]
OutcomeStatus = Literal["success", "skipped", "error", "cancelled"]


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: ``evaluate`` runs the cell to a record; ``produce`` makes what its `fit` shares with other cells and what
            auditors it needs, and stops before the first training of its own.
        request: The cell.
        results: Folder of the records, absolute.
        store: Folder of pools and trained stages, absolute.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        threads: CPU threads; None takes torch's default.
        isolated: Fit in a process without test split and network.
        force: Evaluate again although there is a success.
    """

    kind: JobKind
    request: Request
    results: Path
    store: Path
    device: str = "auto"
    threads: int | None = None
    isolated: bool = False
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: The record's status; of a produce job, ``success`` or ``error``.
        seconds: Wall time in the worker.
        folder: Where the record lies; None without one.
        reused: Whether an earlier run had finished the cell.
        message: What went wrong, in one sentence; empty where nothing did.
        retryable: Whether another try may end otherwise: not for wrong usage or a cell that can never run.
        exhausted: Whether memory ran out, or the worker was killed, so that fewer at once may help.
    """

    status: OutcomeStatus
    seconds: float
    folder: Path | None = None
    reused: bool = False
    message: str = ""
    retryable: bool = False
    exhausted: bool = False


class Engine(Protocol):
    """Where jobs run."""

    slots: int
    """Jobs that run at once, as far as the engine knows."""

    def submit(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        """Start jobs, or queue them; a future never raises, also where its worker died.

        Jobs that are given together may become one array of a cluster's scheduler.
        """
        ...

    def stop(self, *, now: bool) -> None:
        """End: what has not started is cancelled; what runs is finished, or with ``now`` interrupted.

        Returns when no job runs any more. Interrupted jobs have published what they finished.
        """
        ...
