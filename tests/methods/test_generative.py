"""The generative methods for real on tiny-sd: short trainings, small pools, every arm."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.evaluation.score import score
from benchmark.progress import Silent
from benchmark.records.schema import Record

IMAGES = 110


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One store for the module, so that each image is sampled once, as for users."""
    root = tmp_path_factory.mktemp("generative")
    return root / "results", root / "store"


@pytest.fixture
def evaluate_short(folders: tuple[Path, Path], short_cell: Callable[..., ResolvedCell]) -> Callable[..., Evaluation]:
    """Run a generative method briefly."""

    def run(method: str, *, force: bool = False, isolated: bool = False, **overrides: Any) -> Evaluation:
        cell = short_cell(method, overrides=overrides, synthetic=IMAGES)
        cell = dataclasses.replace(cell, sampling=cell.sampling.model_copy(update={"steps": 3}))
        return evaluate_cell(
            cell, results=folders[0], store=folders[1], device="cpu", threads=1, force=force, isolated=isolated,
            progress=Silent(),
        )  # fmt: skip

    return run


def synthetic(record: Record, stage: int = 0) -> np.ndarray:
    mixture = record.stages[stage].mixture
    assert mixture is not None
    return np.array(mixture.synthetic)


def test_ffr_trains_on_balanced_generated_images_and_then_on_real_ones(
    evaluate_short: Callable[..., Evaluation],
) -> None:
    done = evaluate_short("ffr")
    record = done.record
    assert [stage.name for stage in record.stages] == ["synthetic", "real"]
    assert [[c.rule for c in stage.checkpoints] for stage in record.stages] == [
        ["last"], ["last", "val-average", "val-worst-group"],
    ]  # fmt: skip
    first, second = record.stages[0].mixture, record.stages[1].mixture
    assert first is not None
    assert second is not None
    assert synthetic(record).sum() == IMAGES
    assert set(synthetic(record).ravel().tolist()) == {1, 2}
    assert np.array(first.real).sum() == 0
    assert np.array(second.synthetic).sum() == 0
    assert first.information_y_a.value == pytest.approx(0.0, abs=0.02)
    assert second.information_y_a.value is not None
    assert second.information_y_a.value > 2
    assert record.budget is not None
    assert (record.budget.synthetic_kept, record.budget.steps_used) == (IMAGES, record.budget.steps_allowed)
    assert [s.steps for s in record.stages] == [6, 6]
    assert record.method.track == "none"
    assert record.pools[0].kept == IMAGES
    assert record.pools[0].label_fidelity["a_raw"].value is not None
    assert [r.differing for r in score(done.folder)[1]] == [[], [], [], []]


def test_the_contact_sheet_shows_real_beside_generated(evaluate_short: Callable[..., Evaluation]) -> None:
    done = evaluate_short("ffr")
    with Image.open(done.folder / done.record.artifacts["contact_sheet"]) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    halves = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    # Coloured ink on both sides: saturated pixels, which neither the ground nor the lettering has.
    assert all(((half.max(2) - half.min(2)) > 100).sum() > 500 for half in halves)


@pytest.mark.slow
def test_a_second_method_uses_the_pool_that_the_first_made(evaluate_short: Callable[..., Evaluation]) -> None:
    first = evaluate_short("ffr").record
    second = evaluate_short("sd-augment", balance="add").record
    assert second.pools[0].pool_id == first.pools[0].pool_id
    assert second.pools[0].rows_sha256 == first.pools[0].rows_sha256
    assert second.pools[0].seconds < 5


@pytest.mark.slow
def test_filling_leaves_the_aligned_groups_alone_and_the_placebo_repeats_the_bias(
    evaluate_short: Callable[..., Evaluation],
) -> None:
    fill, placebo = evaluate_short("sd-augment").record, evaluate_short("sd-augment", placebo="true").record
    assert np.diag(synthetic(fill)).sum() == 0
    assert synthetic(fill).sum() == synthetic(placebo).sum() == IMAGES
    assert np.diag(synthetic(placebo)).sum() > 0.85 * IMAGES
    assert fill.method.track == placebo.method.track == "train"


@pytest.mark.slow
def test_the_placebo_is_the_arm_of_sd_augment_as_a_method_of_its_own(evaluate_short: Callable[..., Evaluation]) -> None:
    arm, method = evaluate_short("sd-augment", placebo="true").record, evaluate_short("placebo").record
    assert method.pools[0].pool_id == arm.pools[0].pool_id
    assert method.pools[0].rows_sha256 == arm.pools[0].rows_sha256
    assert method.stages[0].mixture == arm.stages[0].mixture
    assert (method.method.kind, method.method.track, method.method.configuration) == ("control", "train", "default")


@pytest.mark.slow
def test_class_prompts_leave_the_attribute_open(evaluate_short: Callable[..., Evaluation]) -> None:
    record = evaluate_short("sd-augment", prompt="class", balance="add").record
    mixture = record.stages[0].mixture
    assert mixture is not None
    assert mixture.synthetic_without_attribute == [11] * 10
    assert mixture.information_y_a.value is None
    assert "class alone" in str(mixture.information_y_a.reason)
    assert record.method.track == "none"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "stages", "track"),
    [
        ({"order": "reversed"}, ["real", "synthetic"], "none"),
        ({"synthetic_only": "true"}, ["synthetic"], "none"),
        ({"balanced": "false"}, ["synthetic", "real"], "train"),
        ({"real_loss": "group-dro", "freeze_bn": "true"}, ["synthetic", "real"], "train"),
        ({"real_loss": "resampling"}, ["synthetic", "real"], "train"),
        ({"real_loss": "dfr"}, ["synthetic", "real", "last-layer"], "val-train"),
    ],
)
def test_every_arm_of_ffr_runs_and_spends_all_steps(
    evaluate_short: Callable[..., Evaluation], overrides: dict[str, str], stages: list[str], track: str
) -> None:
    record = evaluate_short("ffr", **overrides).record
    assert [s.name for s in record.stages] == stages
    assert record.method.track == track
    assert record.method.configuration == "changed"
    assert record.budget is not None
    assert record.budget.steps_used == record.budget.steps_allowed


@pytest.mark.slow
def test_dfr_on_the_mixture_leaves_the_mixed_stage_as_it_was(evaluate_short: Callable[..., Evaluation]) -> None:
    plain, refitted = (evaluate_short("sd-augment", balance="add", loss=loss).record for loss in ("erm", "dfr"))
    assert [(stage.name, stage.steps) for stage in refitted.stages] == [("mixed", 12), ("last-layer", 0)]
    assert (plain.method.track, refitted.method.track) == ("none", "val-train")
    assert refitted.stages[0].remembered
    assert refitted.stages[0].checkpoints[0].weights_sha256 == plain.stages[0].checkpoints[0].weights_sha256
    # The refit looks at validation images, and generated ones play no part in it.
    assert refitted.stages[1].mixture is not None
    assert refitted.stages[1].mixture.real == refitted.task.validation_counts
    assert synthetic(refitted, 1).sum() == 0


@pytest.mark.slow
def test_group_losses_on_the_mixture_may_separate_real_from_generated(
    evaluate_short: Callable[..., Evaluation],
) -> None:
    record = evaluate_short("sd-augment", loss="group-dro", groups="y,a,source").record
    assert record.status == "success"
    assert record.method.hparams["groups"] == "y,a,source"


@pytest.mark.slow
def test_a_damaged_pool_is_made_again_with_the_same_images(
    evaluate_short: Callable[..., Evaluation], folders: tuple[Path, Path]
) -> None:
    before = evaluate_short("ffr").record.pools[0].rows_sha256
    for shard in (folders[1] / "pools").rglob("rows.parquet"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 0xFF
        shard.write_bytes(content)
    again = evaluate_short("ffr", force=True).record
    assert again.pools[0].rows_sha256 == before
    assert again.pools[0].seconds > 0


@pytest.mark.slow
def test_an_isolated_generative_run_gives_the_same_answers(evaluate_short: Callable[..., Evaluation]) -> None:
    plain = evaluate_short("ffr", real_loss="reweighting")
    isolated = evaluate_short("ffr", real_loss="reweighting", isolated=True, force=True)
    metrics = [
        json.dumps([c.model_dump(mode="json") for c in e.record.ranked_stage.checkpoints]) for e in (plain, isolated)
    ]
    assert metrics[0] == metrics[1]
    assert isolated.record.isolation.separate_process
