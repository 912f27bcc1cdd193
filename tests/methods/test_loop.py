"""The self-consuming loop: mixtures, arms, stages and what the record holds; from scratch with a tiny generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.registry import load_method, resolve_hparams
from benchmark.contract.tracks import Track
from benchmark.errors import InvalidValue
from benchmark.evaluation.run import Evaluation
from methods.self_consuming_loop import LoopHparams, mixture

Run = Callable[..., Evaluation]
NAMES = GroupNames(("zero", "one"), ("red", "blue"))


def coloured(n: int, value: int, *, synthetic: bool) -> ImageSet:
    return ImageSet(
        images=np.full((n, 8, 8, 3), value, dtype=np.uint8),
        y=np.arange(n, dtype=np.int64) % 2,
        synthetic=np.full(n, synthetic),
        names=NAMES,
        needs=Track.NONE if synthetic else Track.TRAIN,
        granted=Track.NONE,
        _attributes=np.zeros(n, dtype=np.int64),
    )


REAL = coloured(100, 0, synthetic=False)
MADE = [coloured(100, k, synthetic=True) for k in (1, 2, 3)]


def parts(images: ImageSet) -> dict[int, int]:
    values, counts = np.unique(np.asarray(images.images)[:, 0, 0, 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize(
    ("hparams", "made", "expected"),
    [
        ({}, 0, {0: 100}),
        ({}, 1, {0: 50, 1: 50}),
        ({}, 2, {0: 33, 1: 34, 2: 33}),
        ({}, 3, {0: 25, 1: 25, 2: 25, 3: 25}),
        ({"mixture": "replace"}, 2, {2: 100}),
        ({"mixture": "replace", "share": 0.3}, 3, {0: 70, 3: 30}),
    ],
)
def test_every_generation_has_as_many_images_as_there_are_real_ones(
    hparams: dict[str, Any], made: int, expected: dict[int, int]
) -> None:
    mixed = mixture(REAL, MADE[:made], LoopHparams(**hparams), seed=1)
    assert parts(mixed) == expected


def test_the_seed_decides_which_images_are_taken() -> None:
    numbered = REAL.with_images(np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8))
    first, again, other = (mixture(numbered, MADE[:1], LoopHparams(), seed=s) for s in (1, 1, 2))
    assert (np.asarray(first.images) == np.asarray(again.images)).all()
    assert not (np.asarray(first.images) == np.asarray(other.images)).all()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"share": "0", "mixture": "replace"}, "greater than 0"),
        ({"share": "1.5", "mixture": "replace"}, "less than or equal to 1"),
        ({"generations": "0"}, "greater than or equal to 1"),
        ({"share": "0.5"}, "share belongs to mixture=replace"),
        ({"generator": "real", "filter": "own"}, "generates nothing"),
        ({"channels": "64,wide"}, "channels"),
    ],
)
def test_arms_that_cannot_be_are_refused(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        resolve_hparams(load_method("self-consuming-loop"), overrides, "demo")


def test_widths_can_be_written_on_the_command_line() -> None:
    hparams = resolve_hparams(load_method("self-consuming-loop"), {"channels": "32,64"}, "demo")
    assert hparams.channels == (32, 64)  # type: ignore[attr-defined]


def test_only_asking_for_groups_reads_group_labels() -> None:
    card = load_method("self-consuming-loop").card
    for arm in ({}, {"mixture": "replace"}, {"generator": "identity"}, {"generator": "real"}, {"labels": "classifier"}):
        assert card.track_of(LoopHparams(**arm)) is Track.NONE
    assert card.track_of(LoopHparams(condition="group")) is Track.TRAIN


@pytest.mark.parametrize("arm", [pytest.param("identity", marks=pytest.mark.slow), "real"])
def test_null_arms_give_a_stage_per_generation_of_equal_length(run_short: Run, arm: str) -> None:
    done = run_short("self-consuming-loop", level="0.9", overrides={"generator": arm, "generations": 2})
    record = done.record
    assert record.status == "success"
    assert [stage.name for stage in record.stages] == ["generation-0", "generation-1", "generation-2"]
    assert {stage.steps for stage in record.stages} == {12}
    assert [pool.recipe["generation"] for pool in record.pools] == ([1, 2] if arm == "identity" else [])
    assert record.method.kind == "process"
    assert record.cell.generator is None
    n = record.task.n_train
    for stage in record.stages:
        assert stage.mixture is not None
        made = sum(stage.mixture.synthetic_without_attribute)
        assert sum(map(sum, stage.mixture.real)) + made == n


@pytest.mark.slow
def test_a_loop_from_scratch_records_what_every_generation_made_and_resumes(run_short: Run) -> None:
    tiny = {"generator_steps": 3, "generator_batch_size": 8, "channels": "32", "patch": 8, "sampling_steps": 2}
    # Auditors take the steps of the classifier: fewer would leave them without an answer.
    options = {"level": "0.9", "steps": 60, "overrides": {**tiny, "generations": 2, "mixture": "replace"}}
    record = run_short("self-consuming-loop", **options).record
    assert record.status == "success"
    for generation, pool in enumerate(record.pools, start=1):
        assert pool.recipe["generation"] == generation
        assert pool.own is not None
        assert pool.own.kind == "from-scratch"
        assert pool.own.curves
        assert pool.kept == record.task.n_train
        assert pool.groups is not None
        assert pool.groups.conflicting.value is not None
        assert abs(sum(map(sum, pool.groups.corrected)) - 1) < 0.01  # type: ignore[arg-type]
        assert {"fid", "kid", "memorised_share"} <= set(pool.quality)
    # The second generator learned from the first one's images, so it is another one.
    assert record.pools[0].own.weights_sha256 != record.pools[1].own.weights_sha256  # type: ignore[union-attr]
    again = run_short("self-consuming-loop", **options, force=False).record
    assert again.run_id == record.run_id
