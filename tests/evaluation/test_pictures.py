"""What pictures show: nested families make compact grids, and a process is drawn over its generations."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.evaluation.pictures import attribute_columns, draw_trajectory, trajectory
from benchmark.evaluation.scoring import mixture_of
from benchmark.records.generations import generations_of
from benchmark.records.schema import (
    CheckpointResult,
    GroupAudit,
    GroupTable,
    MetricValue,
    PoolUse,
    PredictionsFile,
    StageResult,
)
from benchmark.tasks.card import load_card


def test_nested_fine_classes_make_as_many_columns_as_a_superclass_has() -> None:
    card = load_card("cifar20-100")
    columns = attribute_columns(card)
    assert [len(values) for values in columns] == [5] * 20
    fish = columns[card.task.label.values.index("fish")]
    assert [card.task.attribute.values[a] for a in fish] == ["aquarium fish", "flatfish", "ray", "shark", "trout"]


def test_attributes_that_classes_share_make_one_column_each() -> None:
    assert attribute_columns(load_card("colorized-digits")) == [list(range(10))] * 10
    # Two families of two, each shared by two classes, are not nested.
    assert attribute_columns(load_card("spuco-animals")) == [list(range(4))] * 4


def metric(value: float, half: float | None = None) -> MetricValue:
    if half is None:
        return MetricValue(value=value, interval="none", reason="no interval")
    return MetricValue(value=value, low=value - half, high=value + half, interval="cluster-bootstrap")


def stage(generation: int, name: str = "generation") -> StageResult:
    checkpoint = CheckpointResult(
        rule="last", track="none", step=1, weights_sha256="0" * 64,
        predictions=PredictionsFile(file="p.parquet", sha256="0" * 64, rows=1, rows_digest="0" * 64),
        metrics={
            "acc_conflicting": metric(0.8 - 0.05 * generation, 0.02), "acc_group_mean": metric(0.85 - 0.04 * generation)
        },
        groups=GroupTable(n=[], correct=[], low=[], high=[]),
    )  # fmt: skip
    return StageResult(
        name=f"{name}-{generation}", steps=1, seconds=1.0, remembered=False, curves=[], checkpoints=[checkpoint],
        mixture=mixture_of([[[90, 0], [10, 0]], [[12, 0], [88, 0]]], [0, 0]),
    )  # fmt: skip


def pool(generation: int, *, audited: bool = True) -> PoolUse:
    none: list[list[None]] = [[None, None], [None, None]]
    groups = GroupAudit(
        asked=none, raw=none, corrected=none, low=none, high=none, conflicting=metric(0.11 - 0.01 * generation, 0.015),
        conflicting_raw=metric(0.14 - 0.01 * generation), information_y_a=metric(0.5), absent=[], extractor="x",
        neighbours=5, precision=none, recall=none, density=none, coverage=none,
    )  # fmt: skip
    return PoolUse(
        pool_id="0" * 64, recipe={"generation": generation}, ranges={}, rows_sha256="0" * 64, kept=200, sampled=200,
        seconds=1.0, label_fidelity={}, groups=groups if audited else None,
    )  # fmt: skip


COUNTS = [[90, 10], [12, 88]]
STAGES = [stage(g) for g in range(6)]
POOLS = [pool(g) for g in range(1, 6)]


def test_a_process_is_drawn_over_its_generations(tmp_path: Path) -> None:
    cell = resolve_cell(Request("self-consuming-loop"))
    assert draw_trajectory(cell, STAGES, POOLS, tmp_path) == {"trajectory": "trajectory.png"}
    first = (tmp_path / "trajectory.png").read_bytes()
    with Image.open(tmp_path / "trajectory.png") as picture:
        assert picture.size == (900, 400)
        assert picture.info.get("Software") is None
    draw_trajectory(cell, STAGES, POOLS, tmp_path)
    assert (tmp_path / "trajectory.png").read_bytes() == first


def test_other_methods_and_stages_of_another_kind_are_not_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert draw_trajectory(resolve_cell(Request("erm")), STAGES, POOLS, tmp_path) == {}
    loop = resolve_cell(Request("self-consuming-loop"))
    assert draw_trajectory(loop, [stage(0, "epoch")], [], tmp_path) == {}
    assert "no trajectory is drawn: the stages of a process are generation-0" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pools", [[], [pool(g, audited=g != 2) for g in range(1, 6)]])
def test_generations_without_pools_or_auditors_leave_gaps_only(tmp_path: Path, pools: list[PoolUse]) -> None:
    trajectory(generations_of(STAGES, pools, COUNTS), [0, 1], "a title", tmp_path / "t.png")
    with Image.open(tmp_path / "t.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 50
