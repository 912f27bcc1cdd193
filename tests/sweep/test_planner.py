"""Plans: each cell's state by the records at hand, what the open ones share, and who makes that first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from records_for_tests import publish, record_of

from benchmark.errors import InvalidValue, NotAvailable, UnknownName
from benchmark.evaluation.cell import Lookups, Request, ResolvedCell, resolve_cell
from benchmark.records.canonical import sha256_of
from benchmark.records.index import INDEX_FILE
from benchmark.records.schema import Record
from benchmark.records.store import Store
from benchmark.sweep.needs import Need
from benchmark.sweep.planner import Piece, Plan, PlannedCell, make_plan, most_images, producers
from benchmark.sweep.selection import Block, requests_of

OTHER = "0" * 64
"""A digest that nothing has."""


class Place:
    """A results folder and a store that need not exist."""

    def __init__(self, folder: Path) -> None:
        self.results, self.store = folder / "results", folder / "store"

    def plan(self, *requests: Request, **options: Any) -> Plan:
        return make_plan(requests, results=self.results, store=self.store, **options)

    def state(self, request: Request, **options: Any) -> tuple[str, str]:
        (cell,) = self.plan(request, **options).cells
        return cell.state, cell.why

    def add(self, cell: ResolvedCell, status: str = "success", *, change: Any = None, **options: Any) -> Record:
        record = record_of(cell, status, **options)
        record = record if change is None else change(record)
        publish(self.results, record)
        return record


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


ERM = Request("erm", level="0.9")


@pytest.fixture
def erm() -> ResolvedCell:
    return resolve_cell(ERM)


def method_moved(record: Record) -> Record:
    return record.model_copy(update={"method": record.method.model_copy(update={"source_digest": OTHER})})


def card_moved(record: Record) -> Record:
    return record.model_copy(update={"task": record.task.model_copy(update={"card_digest": OTHER})})


def earlier(method: str = "", task: str = "", **cell: Any) -> Any:
    """Turn a record into that of an earlier version: another cell of the same configuration."""

    def change(record: Record) -> Record:
        update = cell | ({"method": method} if method else {}) | ({"task": task} if task else {})
        moved = record.cell.model_copy(update=update)
        version = moved.method.rpartition("@")[2]
        info = record.method.model_copy(update={"version": int(version)})
        where = record.task.model_copy(update={"version": int(moved.task.rpartition("@")[2])})
        cell_id = sha256_of(moved.model_dump(mode="json"))
        return record.model_copy(update={"cell": moved, "cell_id": cell_id, "method": info, "task": where})

    return change


# --- states ----------------------------------------------------------------------------------------------------------


def test_without_records_every_cell_is_missing_and_nothing_is_written(place: Place) -> None:
    plan = place.plan(*requests_of([Block(methods=("erm", "ffr"), seeds="0-1")]))
    assert plan.counts == {"missing": 4}
    assert plan.open() == [0, 1, 2, 3]
    assert all(len(cell.cell_id) == 64 and not cell.why for cell in plan.cells)
    assert not place.results.exists()
    assert not place.store.exists()


def test_a_success_is_done_and_a_skipped_run_says_why(place: Place, erm: ResolvedCell) -> None:
    place.add(erm, "error")
    place.add(erm)
    assert place.state(ERM) == ("done", "")
    dfr = Request("dfr", level="0.99")
    place.add(resolve_cell(dfr), "skipped", message="no class has two groups")
    assert place.state(dfr) == ("skipped", "no class has two groups")
    plan = place.plan(ERM, dfr)
    assert (plan.counts, plan.open(), plan.open(stale=True)) == ({"done": 1, "skipped": 1}, [], [])


def test_an_error_tells_the_last_failure_and_is_open(place: Place, erm: ResolvedCell) -> None:
    later = {"started": "2030-01-01T00:00:00+00:00"}
    place.add(erm, "error", message="late", change=lambda record: record.model_copy(update=later))
    place.add(erm, "error", message="early")
    assert place.state(ERM) == ("error", "TrainingDiverged: late")
    assert place.plan(ERM).open() == [0]


@pytest.mark.parametrize("status", ["started", "cancelled"])
def test_a_run_that_did_not_end_leaves_its_cell_missing(place: Place, erm: ResolvedCell, status: str) -> None:
    place.add(erm, status)
    assert place.state(ERM) == ("missing", "")


def test_trials_of_a_search_are_no_runs(place: Place, erm: ResolvedCell) -> None:
    place.add(erm, change=lambda record: record.model_copy(update={"kind": "trial"}))
    assert place.state(ERM) == ("missing", "")


@pytest.mark.parametrize(("change", "what"), [(method_moved, "the method's source"), (card_moved, "the task's card")])
def test_a_success_of_other_code_is_stale_until_one_of_this_code(
    place: Place, erm: ResolvedCell, change: Any, what: str
) -> None:
    place.add(erm, change=change)
    assert place.state(ERM) == ("stale", f"{what} has changed since it was run")
    plan = place.plan(ERM)
    assert (plan.open(), plan.open(stale=True)) == ([], [0])
    place.add(erm)
    assert place.state(ERM) == ("done", "")


def test_a_success_of_an_earlier_version_is_stale(place: Place, erm: ResolvedCell) -> None:
    place.add(erm, change=earlier(method="erm@99", budget={"synthetic": 1, "sampled": 2, "steps": 3}))
    place.add(erm, "error", change=earlier(method="erm@98"))
    place.add(erm, "error")
    assert place.state(ERM) == (
        "stale", "it was run as erm@99 on colorized-digits@1, whose versions or budgets have moved",
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        earlier(method="erm@99", seed=1),
        earlier(method="erm@99", level="0.95"),
        earlier(method="jtt@1"),
        earlier(task="colorized-mnist@1"),
        earlier(method="erm@99", backbone="resnet18"),
        lambda record: earlier(method="erm@99")(
            record.model_copy(update={"task": record.task.model_copy(update={"recipe": "small"})})
        ),
    ],
    ids=["seed", "level", "method", "task", "backbone", "recipe"],
)
def test_a_success_of_something_else_is_none_of_this_cell(place: Place, erm: ResolvedCell, change: Any) -> None:
    place.add(erm, change=change)
    assert place.state(ERM) == ("missing", "")


def test_only_isolated_runs_count_where_isolation_is_asked_for(place: Place, erm: ResolvedCell) -> None:
    place.add(erm)
    assert place.state(ERM) == ("done", "")
    assert place.state(ERM, isolated=True) == ("missing", "")
    place.add(erm, "error")
    assert place.state(ERM, isolated=True)[0] == "error"
    place.add(erm, isolated=True)
    assert place.state(ERM, isolated=True) == place.state(ERM) == ("done", "")


def test_a_cell_whose_claim_is_held_is_running(place: Place, erm: ResolvedCell) -> None:
    with Store(place.store).claim(f"cell-{erm.cell_id}"):
        assert place.state(ERM) == ("running", "a process holds its claim")
        plan = place.plan(ERM, Request("jtt"))
        assert (plan.open(), plan.to_sweep()) == ([1], [1, 0])
        assert place.state(Request("erm", level="0.95")) == ("missing", "")
    assert place.state(ERM) == ("missing", "")


def test_data_that_are_not_here_block_a_cell(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    request = Request("erm", task="celeba-blond", recipe="small")
    state, why = place.state(request)
    assert state == "blocked"
    assert "celeba" in why
    plan = place.plan(request, ERM)
    assert (plan.counts, plan.open()) == ({"missing": 1, "blocked": 1}, [1])
    assert plan.cells[0].cell_id == ""


def test_a_generator_that_is_not_here_blocks_only_its_cells(place: Place) -> None:
    away = Request("ffr", generator="nobody/never-downloaded", offline=True)
    assert [cell.state for cell in place.plan(away, Request("ffr")).cells] == ["blocked", "missing"]


def test_damaged_records_are_named_and_the_rest_is_planned(place: Place, erm: ResolvedCell) -> None:
    place.add(erm)
    damaged = publish(place.results, record_of(resolve_cell(Request("jtt")))) / "record.json"
    damaged.write_text("{")
    plan = place.plan(ERM, Request("jtt"))
    assert [cell.state for cell in plan.cells] == ["done", "missing"]
    assert [str(damaged) in str(problem) for problem in plan.problems] == [True]


def test_what_resolves_to_one_cell_counts_once_in_its_first_place(place: Place) -> None:
    same = [ERM, Request("erm", task="colorized-digits@1", level=".90"), dataclasses.replace(ERM, recipe="default")]
    plan = place.plan(Request("jtt"), *same, Request("ffr", generator="tiny-sd"), Request("ffr"))
    assert [cell.request.method for cell in plan.cells] == ["jtt", "erm", "ffr"]


def test_an_empty_selection_and_nonsense_are_refused(place: Place) -> None:
    with pytest.raises(InvalidValue, match="holds no cell"):
        place.plan()
    with pytest.raises(UnknownName, match="unknown method"):
        place.plan(Request("emr"))
    with pytest.raises(InvalidValue, match="seed -1"):
        place.plan(Request("erm", seed=-1))


def test_an_index_is_kept_in_a_store_that_exists_and_gives_the_same_plan(place: Place, erm: ResolvedCell) -> None:
    place.add(erm)
    without = place.plan(ERM)
    Store(place.store)
    first, second = place.plan(ERM), place.plan(ERM)
    assert (place.store / INDEX_FILE).is_file()
    assert without == first == second


def test_what_sets_a_cell_apart_is_told_as_options() -> None:
    request = Request(
        "ffr", overrides={"rank": 2}, generator="org/x", recipe="small", backbone_weights="none", sampling={"steps": 4}
    )
    assert PlannedCell(request, "", "missing").changed == (
        "rank=2, generator org/x, recipe small, weights none, sampling steps=4"
    )
    assert PlannedCell(Request("erm"), "", "missing").changed == ""


# --- what cells share ------------------------------------------------------------------------------------------------


def shared(plan: Plan) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(piece.kind, piece.images, piece.cells) for piece in plan.pieces]


def test_pieces_are_what_two_open_cells_share_pools_first(place: Place) -> None:
    plan = place.plan(Request("erm"), Request("lora"), Request("ffr"), Request("lora", seed=5), Request("ffr", seed=1))
    images = resolve_cell(Request("ffr")).budget
    assert shared(plan) == [
        ("pool", images.synthetic, (2, 4)), ("adapters", images.sampled, (1, 3)), ("auditors", 0, (1, 2, 3, 4)),
    ]  # fmt: skip
    assert shared(place.plan(Request("ffr"), Request("erm"))) == []
    # The lighter one makes the auditors on the way.
    assert producers(plan) == {2: frozenset({1, 2, 3, 4}), 1: frozenset({1, 3})}


def test_what_is_done_shares_nothing_any_more(place: Place) -> None:
    requests = [Request("ffr", seed=seed) for seed in range(3)]
    place.add(resolve_cell(requests[0]), change=method_moved)
    place.add(resolve_cell(requests[1]))
    assert shared(place.plan(*requests)) == []
    assert [piece[2] for piece in shared(place.plan(*requests, stale=True))] == [(0, 2), (0, 2)]


def test_seeds_that_cluster_by_their_own_classifier_share_no_adapters(place: Place) -> None:
    requests = [Request("clustered-dreambooth", seed=seed) for seed in (0, 5)]
    assert [piece[0] for piece in shared(place.plan(*requests))] == ["auditors"]


def plan_of(*counts: Mapping[str, Mapping[Any, int]]) -> Plan:
    """A plan whose cells need these images of these pools, and auditors where they need a pool."""
    cells = []
    for position, pools in enumerate(counts):
        needs = [Need("pool", key, key, groups) for key, groups in pools.items()]
        needs += [Need("auditors", "audit", "auditors")] if needs else []
        cells.append(PlannedCell(Request("ffr", seed=position), str(position), "missing", needs=tuple(needs)))
    pieces = []
    for key in dict.fromkeys(key for pools in counts for key in pools):
        users = tuple(position for position, pools in enumerate(counts) if key in pools)
        groups = [need for position in users for need in cells[position].needs if need.key == key]
        pieces.append(Piece("pool", key, key, most_images(groups), users))
    pieces.append(Piece("auditors", "audit", "auditors", 0, tuple(p for p, pools in enumerate(counts) if pools)))
    return Plan(cells, [piece for piece in pieces if len(piece.cells) > 1])


def test_the_most_of_each_group_is_made_once() -> None:
    needs = [Need("pool", "k", "", {(0, 0): 3, (0, 1): 1}), Need("pool", "k", "", {(0, 0): 1, (1, 1): 5})]
    assert most_images(needs) == 3 + 1 + 5
    assert most_images([]) == 0


def test_one_producer_makes_what_covers_all_and_its_auditors() -> None:
    plan = plan_of({"pool": {0: 2}}, {"pool": {0: 9, 1: 1}}, {}, {"pool": {0: 9}})
    assert producers(plan) == {1: frozenset({0, 1, 3})}


def test_producers_together_cover_what_no_single_one_does() -> None:
    plan = plan_of({"pool": {0: 2, 1: 1}}, {"pool": {0: 9}}, {"pool": {1: 7}}, {"pool": {1: 3, 2: 1}})
    made = producers(plan)
    assert set(made) == {1, 2, 3}  # the first asks for nothing that these do not make
    assert all(waiting == frozenset(range(4)) for waiting in made.values())


def test_pools_have_producers_of_their_own_and_their_users_wait_for_them_alone() -> None:
    plan = plan_of({"a": {0: 1}}, {"a": {0: 1}}, {"b": {0: 1}}, {"b": {0: 1}})
    assert producers(plan) == {0: frozenset({0, 1, 2, 3}), 2: frozenset({2, 3})}


def test_where_nothing_is_shared_nobody_produces() -> None:
    assert producers(plan_of({"a": {0: 1}}, {})) == {}


def test_the_producers_of_a_real_grid_cover_every_group_of_every_piece(place: Place) -> None:
    block = Block(methods=("sd-augment", "ffr", "placebo", "lora"), levels=("all",), seeds="0-1")
    plan = place.plan(*requests_of([block]))
    made = producers(plan)
    assert len(made) < len(plan.cells) / 2
    for piece in plan.pieces:
        needs = {p: [n for n in plan.cells[p].needs if n.key == piece.key] for p in piece.cells}
        of_makers = [need for maker in made if maker in needs for need in needs[maker]]
        assert most_images(of_makers) == piece.images
        assert all(any(position in made[maker] for maker in made if maker in needs) for position in piece.cells)


# --- looking things up once -----------------------------------------------------------------------------------------


def test_what_was_looked_up_for_other_cells_changes_no_identity() -> None:
    block = Block(methods=("all",), tasks=("colorized-digits",), levels=("all",), seeds="0,3,7")
    requests = [*requests_of([block]), Request("ffr", sampling={"steps": 4}), Request("erm", recipe="default")]
    known = Lookups()
    together = [resolve_cell(request, prepare=False, known=known) for request in requests]
    alone = [resolve_cell(request) for request in requests]
    assert [cell.cell_id for cell in together] == [cell.cell_id for cell in alone]
    assert [cell.budget for cell in together] == [cell.budget for cell in alone]


def test_what_is_not_to_be_found_is_looked_for_once() -> None:
    known, looked = Lookups(), []

    def look() -> str:
        looked.append(1)
        raise NotAvailable("it is not here")

    for _ in range(3):
        with pytest.raises(NotAvailable, match="it is not here"):
            known.once(("generator", "x"), look)
    assert looked == [1]
    assert known.once(("generator", "y"), lambda: "found") == known.once(("generator", "y"), look) == "found"
