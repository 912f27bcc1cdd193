"""The plan of a grid: its cells and their states, what they share, and what the rest will cost (torch-free)."""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmark.contract.registry import source_digest
from benchmark.errors import GenBiasError, InvalidValue, UsageError
from benchmark.evaluation.cell import Lookups, Request, ResolvedCell, resolve_cell
from benchmark.records.files import storage_error
from benchmark.records.index import INDEX_FILE, Summary, summaries, unversioned
from benchmark.records.store import Store
from benchmark.sweep.needs import Need, PieceKind, needs_of
from benchmark.tasks.card import DEFAULT_RECIPE

State = Literal["done", "skipped", "missing", "error", "running", "stale", "blocked"]
STATES: tuple[State, ...] = ("done", "skipped", "running", "stale", "missing", "error", "blocked")
"""In the order in which they are shown."""

_ORDER: tuple[PieceKind, ...] = ("pool", "adapters", "auditors")

FINISHED = ("success", "skipped")
"""Statuses of records after which there is nothing to run."""

OPEN: frozenset[State] = frozenset({"missing", "error"})
"""States of cells that a sweep runs; stale ones only when asked for."""


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a grid.

    Attributes:
        request: What is asked for.
        cell_id: Its identity; empty where it could not be resolved.
        state: ``done`` or ``skipped`` by a record of this code; ``stale``: a success whose method's source or task's
            card, or whose version of either, is not today's; ``error``: tried and failed, never finished; ``running``:
            a process holds its claim; ``blocked``: it cannot run here.
        why: What the state says, in one sentence; empty where nothing needs saying.
        needs: What it shares with other cells; looked for only where it may run.
    """

    request: Request
    cell_id: str
    state: State
    why: str = ""
    needs: tuple[Need, ...] = ()

    @property
    def changed(self) -> str:
        """What sets it apart from the method's default, as options."""
        request = self.request
        words = [f"tuned {request.configuration.study[:12]}"] if request.configuration else []
        words += [f"{name}={value}" for name, value in request.overrides.items()]
        words += [f"generator {request.generator}"] if request.generator else []
        words += [f"recipe {request.recipe}"] if request.recipe else []
        words += [f"weights {request.backbone_weights}"] if request.backbone_weights else []
        words += [f"sampling {name}={value}" for name, value in request.sampling.items()]
        return ", ".join(words)


@dataclass(frozen=True)
class Piece:
    """Something that several cells of a plan share.

    Attributes:
        kind: What it is.
        key: Of the needs that it serves.
        label: What to call it.
        images: Images that the most demanding cell asks for.
        cells: Positions of the cells that need it.
    """

    kind: PieceKind
    key: str
    label: str
    images: int
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A planned grid.

    Attributes:
        cells: In the grid's order, each once.
        pieces: What at least two of the cells that are to run share.
        past: Records of the results folder, for estimates.
        problems: Records that could not be read.
    """

    cells: list[PlannedCell]
    pieces: list[Piece]
    past: list[Summary] = field(default_factory=list)
    problems: list[GenBiasError] = field(default_factory=list)

    @property
    def counts(self) -> dict[State, int]:
        """Number of cells per state."""
        found = Counter(cell.state for cell in self.cells)
        return {state: found[state] for state in STATES if found[state]}

    def open(self, *, stale: bool = False) -> list[int]:
        """Return the positions of the cells that are to run."""
        states = OPEN | ({"stale"} if stale else set())
        return [index for index, cell in enumerate(self.cells) if cell.state in states]

    def to_sweep(self, *, stale: bool = False) -> list[int]:
        """Return what a sweep sees to: the open cells, and last those that run elsewhere.

        It waits for those, and runs them where their process has died: a claim outlives it for a while.
        """
        return self.open(stale=stale) + [index for index, cell in enumerate(self.cells) if cell.state == "running"]


def make_plan(
    requests: Sequence[Request], *, results: Path, store: Path, isolated: bool = False, stale: bool = False
) -> Plan:
    """Plan a grid.

    Args:
        requests: Its cells; what resolves to the same cell counts once.
        results: Folder of the records.
        store: Folder of pools and claims.
        isolated: Only records of isolated runs count as done.
        stale: Stale cells are to run too.

    Raises:
        InvalidValue: For an empty selection.
        StoreError: When the results folder is none, or the store is of another version.
        UsageError: For a request that makes no sense in any circumstances.
    """
    if not requests:
        raise InvalidValue("the selection holds no cell; name at least one method, task, bias level and seed")
    try:
        found, problems = summaries(results, store / INDEX_FILE if store.is_dir() else None)
    except OSError as error:
        raise storage_error(results, error) from error
    past = _Past([summary for _, summary in found if summary.kind == "run"], isolated)
    planner = _Planner(past, _claimed(store))
    cells: dict[str, PlannedCell] = {}
    for request in requests:
        cell = planner.cell(request)
        cells.setdefault(cell.cell_id or repr(request), cell)
    plan = Plan(list(cells.values()), [], past.records, problems)
    return Plan(plan.cells, _pieces(plan.cells, plan.open(stale=stale)), plan.past, plan.problems)


class _Past:
    """The records at hand, by cell."""

    def __init__(self, records: list[Summary], isolated: bool) -> None:
        self.records = records
        self.by_cell: dict[str, list[Summary]] = defaultdict(list)
        self._by_configuration: dict[tuple[str, str], list[Summary]] = defaultdict(list)
        for record in records:
            if record.isolated or not isolated or record.status not in FINISHED:
                self.by_cell[record.cell_id].append(record)
                self._by_configuration[record.unversioned, record.recipe].append(record)

    def earlier(self, cell: ResolvedCell) -> Summary | None:
        """Return the last success of an earlier version of a cell."""
        recipe = cell.request.recipe or DEFAULT_RECIPE
        found = self._by_configuration.get((unversioned(cell.cell), recipe), [])
        successes = [record for record in found if record.status == "success" and record.cell_id != cell.cell_id]
        return max(successes, key=lambda record: record.started, default=None)


class _Planner:
    """Resolves cells, and rehearses each configuration once per split where its seed makes no difference."""

    def __init__(self, past: _Past, alive: frozenset[str]) -> None:
        self._past, self._alive, self._known = past, alive, Lookups()
        self._needs: dict[tuple[object, ...], tuple[Need, ...]] = {}

    def cell(self, request: Request) -> PlannedCell:
        """Plan one cell."""
        try:
            resolved = resolve_cell(request, prepare=False, known=self._known)
        except UsageError:
            raise
        except GenBiasError as error:
            return PlannedCell(request, "", "blocked", str(error))
        state, why = self._state(resolved)
        needs = self._needs_of(resolved) if state in OPEN | {"stale"} else ()
        return PlannedCell(request, resolved.cell_id, state, why, needs)

    def _state(self, cell: ResolvedCell) -> tuple[State, str]:
        if f"cell-{cell.cell_id}" in self._alive:
            return "running", "a process holds its claim"
        records = self._past.by_cell.get(cell.cell_id, [])
        method, card = _source(cell.request.method), cell.card.digest
        moved = ""
        for record in records:
            if record.status in FINISHED:
                if (record.method_digest, record.card_digest) == (method, card):
                    return ("done", "") if record.status == "success" else ("skipped", record.failure_message or "")
                moved = "the method's source" if record.method_digest != method else "the task's card"
        if moved:
            return "stale", f"{moved} has changed since it was run"
        earlier = self._past.earlier(cell)
        if earlier is not None:
            return "stale", f"it was run as {earlier.method} on {earlier.task}, whose versions or budgets have moved"
        failed = [record for record in records if record.status == "error"]
        if failed:
            last = max(failed, key=lambda record: record.started)
            return "error", f"{last.failure_kind}: {last.failure_message}"
        return "missing", ""

    def _needs_of(self, cell: ResolvedCell) -> tuple[Need, ...]:
        request = cell.request
        key = (
            cell.manifest.digest, request.method, request.recipe, request.backbone_weights,
            repr((cell.cell.hparams, cell.cell.generator, cell.cell.clip, cell.sampling.batch_size)),
        )  # fmt: skip
        found = self._needs.get(key)
        if found is None:
            found = needs_of(cell)
            if not any(need.seeded for need in found):
                self._needs[key] = found
        return found


@functools.cache
def _source(method: str) -> str:
    return source_digest(method)


def _claimed(store: Path) -> frozenset[str]:
    """Return the names of claims that a live process holds; none where there is no store yet."""
    return Store(store).claimed() if store.is_dir() and os.access(store, os.W_OK) else frozenset()


def _pieces(cells: Sequence[PlannedCell], positions: Iterable[int]) -> list[Piece]:
    """Return what at least two of some cells share, pools before adapters before auditors."""
    users: dict[tuple[PieceKind, str], list[tuple[int, Need]]] = defaultdict(list)
    for position in positions:
        for need in cells[position].needs:
            users[need.kind, need.key].append((position, need))
    return [
        Piece(kind, key, members[0][1].label, most_images([need for _, need in members]), tuple(p for p, _ in members))
        for (kind, key), members in sorted(users.items(), key=lambda item: _ORDER.index(item[0][0]))
        if len(members) > 1
    ]


def most_images(needs: Sequence[Need]) -> int:
    """Return how many images satisfy every need: of each group the most that one asks for."""
    counts: dict[object, int] = {}
    for need in needs:
        for group, n in need.counts.items():
            counts[group] = max(n, counts.get(group, 0))
    return sum(counts.values())


def producers(plan: Plan) -> dict[int, frozenset[int]]:
    """Return cells whose shared parts are made first: position of the cell → positions of the cells that wait for it.

    A cell is chosen where it asks for images that no cell chosen before asks for; so few make everything.
    """
    chosen: dict[int, set[int]] = {}
    for piece in plan.pieces:
        held: dict[object, int] = {}
        makers: list[int] = []
        for position in sorted(piece.cells, key=lambda index: -_images(plan.cells[index], piece)):
            counts = _counts(plan.cells[position], piece)
            new = any(n > held.get(group, 0) for group, n in counts.items())
            if new or not (makers or piece.images):
                makers.append(position)
                for group, n in counts.items():
                    held[group] = max(n, held.get(group, 0))
        if not piece.images:
            # Whoever makes a pool of the task makes its auditors too; those that train adapters were chosen later.
            users = set(piece.cells)
            makers = [position for position in chosen if position in users][:1] or makers
        for maker in makers:
            chosen.setdefault(maker, set()).update(piece.cells)
    return {maker: frozenset(waiting) for maker, waiting in chosen.items()}


def _counts(cell: PlannedCell, piece: Piece) -> dict[object, int]:
    return {g: n for need in cell.needs if need.key == piece.key for g, n in need.counts.items()}


def _images(cell: PlannedCell, piece: Piece) -> int:
    return sum(_counts(cell, piece).values())
