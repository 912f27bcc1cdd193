"""Making what a run shares with others, alone and before it: as its rehearsal foretold, and found by the run itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.evaluation import auxiliary
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.execution import Execution
from benchmark.evaluation.run import Evaluation
from benchmark.generators.pools import list_pools, open_pool
from benchmark.progress import Silent
from benchmark.records.schema import Record
from benchmark.records.store import Store
from benchmark.sweep.needs import needs_of

Cell = Callable[..., ResolvedCell]
Run = Callable[..., Evaluation]
SHORT = {"adapter_steps": 2, "adapter_batch_size": 2, "rank": 2}


@pytest.fixture(autouse=True)
def accept_short_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that were trained for twelve steps would be refused."""
    monkeypatch.setattr(auxiliary, "FILTER_FLOOR", -1.0)


@pytest.fixture
def quick(short_cell: Cell) -> Callable[..., ResolvedCell]:
    """A short cell with a budget of ten images, sampled in one step."""

    def build(method: str, **overrides: Any) -> ResolvedCell:
        cell = short_cell(method, overrides=overrides, synthetic=10)
        return dataclasses.replace(cell, sampling=cell.sampling.model_copy(update={"steps": 1}))

    return build


def share(cell: ResolvedCell, store: Path, *, isolated: bool = False) -> None:
    Execution(cell, store, "cpu", 1, force=False, isolated=isolated, progress=Silent()).share()


def entries(store: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (store / kind).glob("*") if not path.name.startswith("."))


def files(store: Path, *kinds: str) -> dict[Path, int]:
    found = [path for kind in kinds for path in (store / kind).rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in found}


def answers(record: Record) -> list[str]:
    return [c.predictions.sha256 for stage in record.stages for c in stage.checkpoints]


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("ffr", {}),
        pytest.param("sd-augment", {"prompt": "class", "balance": "add"}, marks=pytest.mark.slow),
        pytest.param("lora", SHORT, marks=pytest.mark.slow),
    ],
)
def test_what_was_foretold_is_made_and_the_run_finds_it(
    quick: Callable[..., ResolvedCell], run_short: Run, tmp_path: Path, method: str, overrides: dict[str, Any]
) -> None:
    cell, store = quick(method, **overrides), tmp_path / "store"
    images, auditors = needs_of(cell)
    share(cell, store)
    (pool,) = list_pools(Store(store))
    assert {tuple(group)[:2]: n for group, n in pool.images.items()} == dict(images.counts)
    assert sum(pool.images.values()) == images.images == (20 if method == "lora" else 10)
    assert len(entries(store, "auditors")) == 1
    assert auditors.kind == "auditors"
    assert bool(entries(store, "adapters")) == (images.kind == "adapters")
    before = files(store, "pools", "adapters", "auditors")
    assert not list(tmp_path.glob("results*"))

    record = run_short(cell).record
    assert files(store, "pools", "adapters", "auditors") == before
    assert open_pool(Store(store), record.pools[0].pool_id).missing(images.counts) == 0
    assert record.budget is not None
    assert record.budget.sampled == images.images
    assert not any(stage.remembered for stage in record.stages)

    alone = run_short(cell, name="-alone").record
    assert answers(record) == answers(alone)
    assert [pool.rows_sha256 for pool in record.pools] == [pool.rows_sha256 for pool in alone.pools]
    assert record.auditors == alone.auditors
    # A second time there is nothing to make.
    share(cell, store)
    assert files(store, "pools", "adapters", "auditors") == before


@pytest.mark.parametrize(
    ("method", "overrides"), [("cinn-transfer", {}), ("self-consuming-loop", {"generator": "base"})]
)
def test_what_is_a_run_s_own_is_not_made_before_it(
    quick: Callable[..., ResolvedCell], tmp_path: Path, method: str, overrides: dict[str, Any]
) -> None:
    cell = quick(method, **overrides)
    assert [need.kind for need in needs_of(cell)] == ["auditors"]
    share(cell, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and any(path.iterdir())) == ["auditors"]


@pytest.mark.slow
def test_an_isolated_run_s_shared_parts_are_made_in_isolation(
    quick: Callable[..., ResolvedCell], run_short: Run, tmp_path: Path
) -> None:
    cell, store = quick("ffr"), tmp_path / "store"
    share(cell, store, isolated=True)
    before = files(store, "pools", "auditors")
    assert sum(list_pools(Store(store))[0].images.values()) == 10
    record = run_short(cell, isolated=True).record
    assert files(store, "pools", "auditors") == before
    assert answers(record) == answers(run_short(cell, name="-alone").record)
