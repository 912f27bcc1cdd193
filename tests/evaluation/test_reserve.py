"""Real images that a level and draw left out: what they are, who gets them, and what they spend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.contract.images import ImageSet
from benchmark.contract.tracks import Track
from benchmark.errors import BudgetExceeded, DamagedFile, InvalidValue, OracleUse
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import (
    RESERVE,
    FitJob,
    Part,
    make_job,
    method_data,
    read_job,
    real_images,
    split_parts,
    write_job,
)
from benchmark.evaluation.tools import HarnessTools
from benchmark.progress import Silent
from benchmark.tasks.manifest import TRAIN

Cell = Callable[..., ResolvedCell]


def job_of(cell: ResolvedCell, store: Path) -> FitJob:
    return make_job(cell, store=store, device="cpu", precision="float32", threads=1, remember=False)


@pytest.fixture(scope="module")
def oracle(short_cell: Cell) -> ResolvedCell:
    """The oracle's cell with a budget of 110 images."""
    return short_cell("real-oracle", synthetic=110)


@pytest.fixture(scope="module")
def parts(oracle: ResolvedCell) -> dict[str, Part]:
    """Its splits."""
    return split_parts(oracle)


@pytest.fixture
def tools(oracle: ResolvedCell, parts: dict[str, Part], tmp_path: Path) -> HarnessTools:
    """What the harness lends to it."""
    job = job_of(oracle, tmp_path)
    return HarnessTools(job, method_data(job, parts), Silent(), real_images(job, parts[RESERVE], Track.TRAIN))


def test_the_reserve_shows_training_digits_in_other_inks(oracle: ResolvedCell, parts: dict[str, Part]) -> None:
    task, train = oracle.task, oracle.manifest.splits[TRAIN]
    rows, reserve = task.reserve(oracle.manifest, most=110), parts[RESERVE]
    assert set(rows.sources) <= set(train.sources)
    assert set(zip(train.sources, train.a.tolist(), strict=True)).isdisjoint(
        zip(rows.sources, rows.a.tolist(), strict=True)
    )
    others = {s for name, split in oracle.manifest.splits.items() if name != TRAIN for s in split.sources}
    assert others.isdisjoint(rows.sources)
    # The same strokes as the training image of the digit, in another colour, under the same label.
    position = {source: k for k, source in enumerate(train.sources)}
    own = [position[source] for source in rows.sources]
    assert (train.y[own] == reserve.y).all()
    for k in range(0, len(rows), 397):
        seen, here = np.asarray(parts[TRAIN].images[own[k]], dtype=int), np.asarray(reserve.images[k], dtype=int)
        assert ((seen.max(-1) > 32) == (here.max(-1) > 32)).mean() > 0.95
        assert np.abs(seen - here).max() > 50


def test_no_group_of_the_reserve_is_larger_than_the_budget(oracle: ResolvedCell) -> None:
    small = dataclasses.replace(oracle, budget=dataclasses.replace(oracle.budget, synthetic=3))
    reserve = split_parts(small)[RESERVE]
    assert np.bincount(reserve.y * 10 + reserve.a, minlength=100).tolist() == [3] * 100


def test_only_an_oracle_s_splits_hold_a_reserve(short_cell: Cell, parts: dict[str, Part]) -> None:
    assert set(split_parts(short_cell("erm"))) == {"train", "validation"}
    assert set(parts) == {"train", "validation", "reserve"}


def test_a_method_that_is_no_oracle_asks_in_vain(short_cell: Cell, tmp_path: Path) -> None:
    cell = short_cell("resampling")
    job = job_of(cell, tmp_path)
    tools = HarnessTools(job, method_data(job, split_parts(cell)), Silent())
    with pytest.raises(OracleUse, match="resampling asks for real images that no method has; declare oracle=True"):
        tools.reserve(plan={(0, 1): 1})
    assert (tools.kept, tools.sampled) == (0, 0)


def test_the_plan_is_served_in_the_reserve_s_order_and_counted_as_generated(
    tools: HarnessTools, parts: dict[str, Part]
) -> None:
    images = tools.reserve(plan={(7, 2): 3, (0, 5): 2})
    assert (images.y.tolist(), images.a.tolist()) == ([0, 0, 7, 7, 7], [5, 5, 2, 2, 2])
    assert images.synthetic.all()
    reserve = parts[RESERVE]
    first = np.flatnonzero((reserve.y == 7) & (reserve.a == 2))[:3]
    np.testing.assert_array_equal(images.images[2:], reserve.images[first])
    assert (tools.kept, tools.sampled) == (5, 5)


def test_images_by_class_alone_come_in_any_ink(tools: HarnessTools) -> None:
    images = tools.reserve(plan={(4, None): 20})
    assert set(images.y.tolist()) == {4}
    assert len(set(images.a.tolist())) > 1


def test_a_group_that_runs_out_gives_what_there_is_and_spends_no_more(
    tools: HarnessTools, oracle: ResolvedCell
) -> None:
    # Aligned already: only the few conflicting digits of the class are not yet in this ink.
    few = int(oracle.manifest.counts(TRAIN)[3].sum() - oracle.manifest.counts(TRAIN)[3, 3])
    assert len(tools.reserve(plan={(3, 3): 100})) == few
    assert tools.kept == few
    assert len(tools.reserve(plan={})) == 0


def test_the_reserve_s_group_labels_are_guarded_like_the_training_split_s(
    oracle: ResolvedCell, parts: dict[str, Part], tmp_path: Path
) -> None:
    job = job_of(oracle, tmp_path)
    images: ImageSet = real_images(job, parts[RESERVE], Track.TRAIN)
    assert (images.needs, images.granted) == (Track.TRAIN, Track.TRAIN)


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({(0, 1): 111}, BudgetExceeded, "asks for 111 generated images, the budget is 110"),
        ({(0, 10): 1}, InvalidValue, r"group \(0, 10\), which cannot be"),
        ({(0, 1): -1}, InvalidValue, "-1 images"),
    ],
)
def test_a_plan_of_the_oracle_obeys_the_budget(tools: HarnessTools, plan: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        tools.reserve(plan=plan)
    tools.reserve(plan={(0, 1): 90})
    with pytest.raises(BudgetExceeded, match="90 generated images are in use; 21 more exceed B = 110"):
        tools.reserve(plan={(0, 2): 21})


def test_an_isolated_process_is_given_the_reserve_of_an_oracle_alone(
    oracle: ResolvedCell, parts: dict[str, Part], short_cell: Cell, tmp_path: Path
) -> None:
    for name in ("oracle", "plain"):
        (tmp_path / name).mkdir()
    write_job(tmp_path / "oracle", job_of(oracle, tmp_path), parts)
    job, read = read_job(tmp_path / "oracle")
    assert job.oracle
    assert set(read) == set(parts)
    for name, part in parts.items():
        np.testing.assert_array_equal(np.asarray(read[name].images), np.asarray(part.images))
        assert (read[name].y.tolist(), read[name].a.tolist()) == (part.y.tolist(), part.a.tolist())
    plain = short_cell("erm")
    write_job(tmp_path / "plain", job_of(plain, tmp_path), split_parts(plain))
    assert set(read_job(tmp_path / "plain")[1]) == {"train", "validation"}
    assert not list((tmp_path / "plain").glob("reserve*"))
    (tmp_path / "oracle" / "reserve.npz").unlink()
    with pytest.raises(DamagedFile, match="reserve cannot be read"):
        read_job(tmp_path / "oracle")
