"""Stages and pools of a process belong together by their generation."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.errors import InvalidValue
from benchmark.records.generations import generations_of
from benchmark.records.schema import GroupAudit, MetricValue, Mixture, PoolUse, StageResult

BITS = MetricValue(value=0.4, interval="none")


def stage(name: str, mixture: Mixture | None, rule: str = "last") -> StageResult:
    checkpoint: dict[str, Any] = {
        "rule": rule, "track": "none", "step": 1, "weights_sha256": "0" * 64, "metrics": {},
        "predictions": {"file": "p.parquet", "sha256": "0" * 64, "rows": 1, "rows_digest": "0" * 64},
        "groups": {"n": [], "correct": [], "low": [], "high": []},
    }  # fmt: skip
    return StageResult.model_validate(
        {
            "name": name, "steps": 1, "seconds": 1.0, "remembered": False, "curves": [], "checkpoints": [checkpoint],
            "mixture": mixture,
        }
    )  # fmt: skip


def mixture(real: list[list[int]], free: int = 0) -> Mixture:
    return Mixture(
        real=real, synthetic=[[0, 0], [0, 0]], synthetic_without_attribute=[free, 0], information_y_a=BITS,
        information_y_ag=BITS,
    )  # fmt: skip


def pool(generation: Any, share: float | None = None) -> PoolUse:
    none: list[list[None]] = [[None, None], [None, None]]
    groups = None
    if share is not None:
        groups = GroupAudit(
            asked=none, raw=none, corrected=none, low=none, high=none, information_y_a=BITS, absent=[], extractor="x",
            conflicting=MetricValue(value=share, low=0.0, high=0.3, interval="bootstrap"), conflicting_raw=BITS,
            neighbours=5, precision=none, recall=none, density=none, coverage=none,
        )  # fmt: skip
    return PoolUse(
        pool_id="0" * 64, recipe={"generation": generation}, ranges={}, rows_sha256="0" * 64, kept=4, sampled=4,
        seconds=1.0, label_fidelity={}, groups=groups,
    )  # fmt: skip


COUNTS = [[90, 10], [6, 94]]
REAL = mixture(COUNTS)
MIXED = mixture([[45, 5], [3, 47]], free=50)


def test_each_generation_has_its_pool() -> None:
    stages = [stage(f"generation-{g}", REAL if g == 0 else MIXED) for g in range(3)]
    found = generations_of(stages, [pool(2, 0.05), pool(1, 0.07)], COUNTS)
    assert [each.number for each in found] == [0, 1, 2]
    assert [each.pool and each.pool.recipe["generation"] for each in found] == [None, 1, 2]
    shares = [each.conflicting_share([0, 1]) for each in found]
    assert [share.value for share in shares] == [16 / 200, 0.07, 0.05]
    assert [share.high for share in shares] == [None, 0.3, 0.3]
    assert [each.information_y_a.value for each in found] == [0.4, 0.4, 0.4]


def test_training_again_on_real_data_has_exact_shares_without_a_pool() -> None:
    found = generations_of([stage(f"generation-{g}", REAL) for g in range(2)], [], COUNTS)
    assert [each.conflicting_share([0, 1]).value for each in found] == [0.08, 0.08]
    assert [each.conflicting_share([1, 1]).value for each in found] == [0.48, 0.48]


@pytest.mark.parametrize("known", [None, MIXED, mixture([[0, 0], [0, 0]]), mixture([[4]]), mixture([[1, -1], [0, 0]])])
def test_what_no_pool_and_no_real_mixture_tells_is_null_with_a_reason(known: Mixture | None) -> None:
    start, found = generations_of([stage("generation-0", known), stage("generation-1", known)], [], COUNTS)
    assert start.conflicting_share([0, 1]).value == 0.08  # of the real training data, whatever the stage says
    for missing in (found.conflicting_share([0, 1]), found.information_y_a):
        assert missing.value is None
        assert missing.reason == "there is no pool, and the stage does not say that it was trained on real images alone"


def test_a_pool_that_no_auditor_saw_is_null_with_a_reason() -> None:
    found = generations_of([stage("generation-0", REAL), stage("generation-1", MIXED)], [pool(1)], COUNTS)[1]
    for missing in (found.conflicting_share([0, 1]), found.information_y_a):
        assert (missing.value, missing.reason) == (None, "no auditor looked at the groups of the pool")


def test_the_checkpoint_is_that_of_the_last_step() -> None:
    found = generations_of([stage("generation-0", REAL), stage("generation-1", REAL, rule="val-average")], [], COUNTS)
    assert found[0].checkpoint is found[0].stage.checkpoints[0]
    assert found[1].checkpoint is None


@pytest.mark.parametrize("names", [["real"], ["generation-1"], ["generation-0", "generation-2"], ["generation-00"]])
def test_stages_that_are_no_generations_are_refused(names: list[str]) -> None:
    with pytest.raises(InvalidValue, match="generation-0, generation-1 and so on, not"):
        generations_of([stage(name, REAL) for name in names], [], COUNTS)


@pytest.mark.parametrize("numbers", [[0], [3], [1, 1], ["1"], [True], [None], [{}]])
def test_pools_of_no_generation_or_two_of_one_are_refused(numbers: list[Any]) -> None:
    stages = [stage(f"generation-{g}", REAL) for g in range(3)]
    with pytest.raises(InvalidValue, match="belongs to one generation of 1 to 2; one says"):
        generations_of(stages, [pool(number) for number in numbers], COUNTS)
