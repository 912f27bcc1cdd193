"""What a sweep shows while it runs: a live table on a terminal, a line per event elsewhere; on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmark.cli.output import say
from benchmark.cli.plan import duration, estimate_lines

if TYPE_CHECKING:
    from benchmark.sweep.driver import Event, Watcher
    from benchmark.sweep.planner import Plan, PlannedCell

_RECENT = 8


@contextlib.contextmanager
def watcher(plan: Plan, *, stale: bool) -> Iterator[Watcher]:
    """Yield the view that fits where standard error goes."""
    from benchmark.sweep.estimates import estimate

    if ahead := plan.open(stale=stale):
        for line in estimate_lines(estimate(plan, ahead), len(ahead), 1):
            say(line)
    positions = plan.to_sweep(stale=stale)
    if not sys.stderr.isatty():
        yield Lines(plan, len(positions))
        return
    with Table(plan, positions) as table:
        yield table


def name_of(cell: PlannedCell) -> str:
    """Return what to call a cell."""
    request = cell.request
    changed = f" ({cell.changed})" if cell.changed else ""
    return f"{request.method}{changed} on {request.task}, {request.level}, seed {request.seed}"


def _said(event: Event) -> str:
    outcome = event.outcome
    if outcome is None:
        return event.what
    if event.what == "retry":
        return f"failed, tried again: {outcome.message}"
    text = "was done before" if outcome.reused else f"{outcome.status} in {duration(outcome.seconds)}"
    return f"{text}: {outcome.message}" if outcome.message else text


class Lines:
    """One line for each job that ends."""

    def __init__(self, plan: Plan, total: int) -> None:
        self._plan, self._total, self._ended = plan, total, 0

    def on(self, event: Event) -> None:
        """Print what ended."""
        if event.what == "queued":
            return
        if event.kind == "produce":
            say(f"shared parts for {name_of(self._plan.cells[event.cell])}: {_said(event)}")
            return
        self._ended += event.what == "ended"
        say(f"[{self._ended}/{self._total}] {name_of(self._plan.cells[event.cell])}: {_said(event)}")


class Table:
    """A live table: a row per task, level and method, and the last events below it."""

    def __init__(self, plan: Plan, positions: list[int]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._plan, self._total = plan, len(positions)
        self._rows: dict[tuple[str, str, str, str], Counter[str]] = {}
        self._state: dict[int, str] = {}
        for index in positions:
            self._set(index, "waiting")
        self._recent: list[str] = []
        self._start = time.monotonic()
        self._live = Live(console=Console(stderr=True), get_renderable=self._render, refresh_per_second=2)

    def __enter__(self) -> Table:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def on(self, event: Event) -> None:
        """Move a cell to its new state."""
        if event.kind == "evaluate":
            status = event.what if event.outcome is None or event.what == "retry" else event.outcome.status
            self._set(event.cell, status)
        if event.what != "queued":
            shared = "shared parts for " if event.kind == "produce" else ""
            self._recent = [
                *self._recent[1 - _RECENT :],
                f"{shared}{name_of(self._plan.cells[event.cell])}: {_said(event)}",
            ]

    def _set(self, index: int, state: str) -> None:
        cell = self._plan.cells[index]
        request = cell.request
        row = self._rows.setdefault((request.task, request.level or "", request.method, cell.changed), Counter())
        if index in self._state:
            row[self._state[index]] -= 1
        self._state[index] = state
        row[state] += 1

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        ended = sum(state in ("success", "skipped", "error", "cancelled") for state in self._state.values())
        title = f"{ended} of {self._total} cells in {duration(time.monotonic() - self._start)}"
        table = RichTable("task", "bias level", "method", "changed", "cells", title=title, title_justify="left")
        for key, states in self._rows.items():
            table.add_row(*map(Text, key), Text(", ".join(f"{n} {state}" for state, n in states.items() if n)))
        return Group(table, *(Text(line) for line in self._recent))
