"""The sweep: runs what a plan lacks through an engine, producers before consumers, with retries, until told to end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from benchmark.errors import GenBiasError
from benchmark.records.files import temporary_folder
from benchmark.sweep.jobs import Engine, Job, JobKind, Outcome
from benchmark.sweep.planner import Plan, producers

_POLL_S = 0.5


@dataclass(frozen=True)
class Settings:
    """How cells are run.

    Attributes:
        results: Folder of the records.
        store: Folder of pools and trained stages.
        device: For engines that don't choose it themselves.
        threads: CPU threads per cell.
        isolated: Fit in processes without test split and network.
        retries: Further tries of a cell that failed in a way that another try may mend.
        stale: Run stale cells again.
    """

    results: Path
    store: Path
    device: str = "auto"
    threads: int | None = None
    isolated: bool = False
    retries: int = 1
    stale: bool = False


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        what: Given to the engine, failed and to be tried again, or ended.
        kind: Of the job.
        cell: Position in the plan.
        outcome: Of what ended.
    """

    what: Literal["queued", "retry", "ended"]
    kind: JobKind
    cell: int
    outcome: Outcome | None = None


class Watcher(Protocol):
    """Who looks on."""

    def on(self, event: Event) -> None:
        """Learn of an event."""


@dataclass
class Summary:
    """What a sweep did.

    Attributes:
        outcomes: Last outcome of each cell that was tried, by position.
        tries: Tries of each of them.
        not_begun: Cells that it was told not to begin any more.
        seconds: Wall time.
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    tries: Counter[int] = field(default_factory=Counter)
    not_begun: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by how they ended."""
        return dict(Counter(outcome.status for outcome in self.outcomes.values()))

    @property
    def failed(self) -> list[int]:
        """Cells whose last try failed, or was ended by somebody."""
        return sorted(index for index, outcome in self.outcomes.items() if outcome.status in ("error", "cancelled"))


@dataclass
class Stop:
    """How a user ends a sweep.

    Attributes:
        asked: 0: go on; 1: begin nothing more, let what runs end; 2: end now.
    """

    asked: int = 0


class Sweep:
    """One sweep over a plan.

    Args:
        plan: What there is to do.
        engine: Where.
        settings: How.
        watcher: Who looks on.
        stop: Set from outside, such as a signal handler.
    """

    def __init__(self, plan: Plan, engine: Engine, settings: Settings, watcher: Watcher, stop: Stop) -> None:
        self._plan, self._engine, self._settings = plan, engine, settings
        self._watcher, self._stop = watcher, stop
        self._open = plan.to_sweep(stale=settings.stale)
        self._running: dict[Future[Outcome], tuple[JobKind, int]] = {}
        self._waiting: dict[int, set[int]] = {}
        self._alone: list[int] = []
        self._enders: list[threading.Thread] = []
        self.summary = Summary()

    def run(self) -> Summary:
        """Run until nothing is left, or what was begun has ended after a request to stop; ends the engine too.

        Raises:
            StoreError: When the results or the store cannot be written.
        """
        start = time.monotonic()
        for folder in (self._settings.results, self._settings.store):
            with temporary_folder(folder):  # fails here rather than in every cell
                pass
        try:
            self._run()
        except BaseException:
            self._engine.stop(now=True)
            raise
        self._engine.stop(now=False)
        for ender in self._enders:
            ender.join()
        self.summary.not_begun = [cell for cell in self._open if cell not in self.summary.outcomes]
        self.summary.seconds = time.monotonic() - start
        return self.summary

    def _run(self) -> None:
        self._waiting = _blockers(self._plan, self._open)
        self._submit("produce", sorted({maker for makers in self._waiting.values() for maker in makers}))
        self._submit("evaluate", [cell for cell in self._open if cell not in self._waiting])
        while self._running or (self._alone and not self._stop.asked):
            self._heed_stop()
            if not self._running:
                # What ran out of memory beside others runs by itself, when all others are done.
                self._submit("evaluate", [self._alone.pop(0)])
            done, _ = wait(self._running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                kind, cell = self._running.pop(future)
                (self._produced if kind == "produce" else self._evaluated)(cell, future.result())
        for cell in self._alone:
            self._ended(cell)

    def _submit(self, kind: JobKind, cells: Sequence[int]) -> None:
        if self._stop.asked or not cells:
            return
        for cell in cells:
            self._watcher.on(Event("queued", kind, cell))
        jobs = [self._job(kind, cell) for cell in cells]
        for cell, future in zip(cells, self._engine.submit(jobs), strict=True):
            self._running[future] = (kind, cell)

    def _job(self, kind: JobKind, cell: int) -> Job:
        settings, planned = self._settings, self._plan.cells[cell]
        return Job(
            kind=kind, request=planned.request, results=settings.results.resolve(), store=settings.store.resolve(),
            device=settings.device, threads=settings.threads, isolated=settings.isolated,
            force=planned.state == "stale",
        )  # fmt: skip

    def _produced(self, cell: int, outcome: Outcome) -> None:
        """Let the consumers begin; after a failure they make the parts themselves, or fail with a record."""
        self._watcher.on(Event("ended", "produce", cell, outcome))
        for makers in self._waiting.values():
            makers.discard(cell)
        ready = [consumer for consumer, makers in self._waiting.items() if not makers]
        for consumer in ready:
            del self._waiting[consumer]
        self._submit("evaluate", ready)

    def _evaluated(self, cell: int, outcome: Outcome) -> None:
        if outcome.status == "cancelled" and self._stop.asked and not outcome.seconds:
            return
        self.summary.outcomes[cell] = outcome
        self.summary.tries[cell] += 1
        again = outcome.status in ("error", "cancelled") and outcome.retryable and not self._stop.asked
        if not again or self.summary.tries[cell] > self._settings.retries:
            self._ended(cell)
            return
        self._watcher.on(Event("retry", "evaluate", cell, outcome))
        if outcome.exhausted:
            self._alone.append(cell)
        else:
            self._submit("evaluate", [cell])

    def _ended(self, cell: int) -> None:
        outcome = self.summary.outcomes[cell]
        if outcome.status == "error":
            self._keep_failure(cell, outcome)
        self._watcher.on(Event("ended", "evaluate", cell, outcome))

    def _keep_failure(self, cell: int, outcome: Outcome) -> None:
        """Record a failure that its worker could not record, where that is possible."""
        from benchmark.evaluation.cell import resolve_cell
        from benchmark.evaluation.run import record_failure

        settings = self._settings
        with contextlib.suppress(GenBiasError):
            record_failure(
                resolve_cell(self._plan.cells[cell].request, prepare=False), outcome.message, results=settings.results,
                store=settings.store, device=settings.device, threads=settings.threads, isolated=settings.isolated,
            )  # fmt: skip

    def _heed_stop(self) -> None:
        """Tell the engine once for each request to stop; it answers when its jobs have ended, so beside this loop."""
        while len(self._enders) < min(self._stop.asked, 2):
            now = len(self._enders) > 0
            ender = threading.Thread(target=self._engine.stop, kwargs={"now": now}, daemon=True)
            self._enders.append(ender)
            ender.start()


def _blockers(plan: Plan, cells: Sequence[int]) -> dict[int, set[int]]:
    """Return which producers each cell waits for; cells that wait for none are not named."""
    waiting: dict[int, set[int]] = {}
    wanted = set(cells)
    for maker, consumers in producers(plan).items():
        for consumer in wanted & consumers:
            waiting.setdefault(consumer, set()).add(maker)
    return waiting
