"""The methods that fine-tune their generator, for real on tiny-sd: few adapter steps, small pools, every arm."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from benchmark.evaluation import auxiliary
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.evaluation.score import score
from benchmark.evaluation.used import used_images
from benchmark.generators.pools import open_pool
from benchmark.progress import Silent
from benchmark.records.files import read_json
from benchmark.records.results import record_text
from benchmark.records.schema import SCHEMA_FILE, Record, Tuning
from benchmark.records.store import Store

IMAGES = 100
"""One kept image of each group."""

QUICK = {"adapter_steps": 4, "adapter_batch_size": 2}
PRIOR = {**QUICK, "prior_images": 2}
ARMS: dict[str, dict[str, Any]] = {
    "lora": QUICK,
    "dreambooth": PRIOR,
    "clustered-dreambooth": {**PRIOR, "clusters": 2},
}
METHODS = ["lora", *[pytest.param(name, marks=pytest.mark.slow) for name in ("dreambooth", "clustered-dreambooth")]]

Run = Callable[..., Evaluation]


@pytest.fixture(autouse=True)
def accept_short_filters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that were trained for twelve steps would be refused; a process of its own sees no patch of this one."""
    if "isolated" not in request.node.name:
        monkeypatch.setattr(auxiliary, "FILTER_FLOOR", -1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module, as users have one."""
    return tmp_path_factory.mktemp("fine-tuned") / "store"


@pytest.fixture
def run(store: Path, short_cell: Callable[..., ResolvedCell]) -> Run:
    """Run an arm of a method briefly, with a quickly sampled generator; results of one name are reused."""

    def short(
        method: str, *, results: str = "results", force: bool = False, isolated: bool = False, **overrides: Any
    ) -> Evaluation:
        cell = short_cell(method, overrides={**ARMS[method], **overrides}, synthetic=IMAGES)
        cell = dataclasses.replace(cell, sampling=cell.sampling.model_copy(update={"steps": 2}))
        return evaluate_cell(
            cell, results=store.parent / results, store=store, device="cpu", threads=1, force=force, isolated=isolated,
            progress=Silent(),
        )  # fmt: skip

    return short


def tuning_of(record: Record) -> Tuning:
    tuning = record.pools[0].tuning
    assert tuning is not None
    return tuning


def names_of(record: Record) -> dict[str, list[str]]:
    """Group → the names of its adapters."""
    return {group: [each.name for each in used] for group, used in tuning_of(record).adapters.items()}


# --- the record of a run ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_trains_on_balanced_fine_tuned_images_and_spends_its_budgets(run: Run, method: str) -> None:
    record = run(method).record
    assert record.status == "success"
    assert [(stage.name, stage.steps) for stage in record.stages] == [("synthetic", 9), ("real", 3)]
    budget = record.budget
    assert budget is not None
    assert (budget.synthetic_kept, budget.sampled) == (budget.synthetic_allowed, budget.sampled_allowed) == (100, 200)
    assert budget.steps_used == budget.steps_allowed == 12
    first, second = (stage.mixture for stage in record.stages)
    assert first is not None
    assert second is not None
    assert first.synthetic == [[1] * 10] * 10
    assert np.array(first.real).sum() == np.array(second.synthetic).sum() == 0
    assert second.real == record.task.train_counts
    assert (record.method.track, record.method.uses_generator) == ("train", True)
    assert record.cost is not None
    assert record.cost.auxiliary_seconds > 0
    assert record.cost.generator_seconds > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_record_fits_the_schema_and_is_recomputed_bit_for_bit(run: Run, method: str) -> None:
    done = run(method)
    text = (done.folder / "record.json").read_text(encoding="utf-8")
    assert record_text(done.record) == text
    jsonschema.validate(json.loads(text), read_json(SCHEMA_FILE))
    assert (done.folder / done.record.artifacts["contact_sheet"]).stat().st_size > 5_000
    assert [each.differing for each in score(done.folder)[1]] == [[]] * 4


@pytest.mark.parametrize("method", METHODS)
def test_the_kept_images_are_those_of_the_mixture(run: Run, store: Path, method: str) -> None:
    record = run(method).record
    (use,) = record.pools
    assert use.filter is not None
    assert (use.kept, use.sampled) == (100, 200)
    assert use.ranges == {f"{y}-{a}": (0, 2) for y in range(10) for a in range(10)}
    assert {len(kept) for kept in use.filter.kept_indices.values()} == {1}
    assert {index for kept in use.filter.kept_indices.values() for index in kept} == {0, 1}
    assert (use.filter.mean_score_kept or 0) > (use.filter.mean_score_dropped or 0)
    images = used_images(Store(store), use)
    assert images.rows_sha256 == use.rows_sha256
    counts = np.bincount(images.y * 10 + images.a, minlength=100).reshape(10, 10)
    assert record.stages[0].mixture is not None
    assert counts.tolist() == record.stages[0].mixture.synthetic


@pytest.mark.parametrize("method", METHODS)
def test_everything_about_the_images_is_measured(run: Run, method: str) -> None:
    record = run(method).record
    (use,) = record.pools
    assert set(use.label_fidelity) == {"y", "y_raw", "a", "a_raw"}
    assert set(use.quality) == {"memorised_share", "fid", "kid"}
    assert use.label_fidelity["a_raw"].value is not None
    assert use.quality["memorised_share"].value is not None
    assert set(record.auditors) == {"y", "a"}
    for stage in record.stages:
        assert stage.probes["g"].value is not None


# --- who makes which group's images ----------------------------------------------------------------------------------


def test_large_groups_have_adapters_of_their_own_and_small_ones_that_of_their_class(run: Run) -> None:
    record = run("lora").record
    counts = np.array(record.task.train_counts)
    # At .95 the aligned groups hold nearly all images; no conflicting one has eight.
    assert counts[~np.eye(10, dtype=bool)].max() < 8 <= np.diag(counts).min()
    assert names_of(record) == {
        f"{y}-{a}": [f"group {y}-{a}" if y == a else f"class {y}"] for y in range(10) for a in range(10)
    }
    used = {each.name: each.images for adapters in tuning_of(record).adapters.values() for each in adapters}
    # Four steps of two images look at eight of each.
    assert used == {name: 8 for y in range(10) for name in (f"group {y}-{y}", f"class {y}")}
    tuning = tuning_of(record)
    assert (tuning.kind, tuning.settings["steps"], tuning.prior_images) == ("lora", 4, 0)
    assert len({tuning.adapters[f"{y}-{y}"][0].sha256 for y in range(10)}) == 10


@pytest.mark.slow
def test_dreambooth_holds_on_to_images_that_no_classifier_sees(run: Run, store: Path) -> None:
    record = run("dreambooth").record
    tuning = tuning_of(record)
    assert names_of(record) == names_of(run("lora").record)
    # Two of each group with an adapter of its own; two of a class, spread over its ten groups, is one of each.
    assert (tuning.kind, tuning.prior_images) == ("dreambooth", 10 * 2 + 90)
    assert (tuning.settings["token"], tuning.settings["prior_weight"]) == ("sks", 1.0)
    check_prior(record, store)


@pytest.mark.slow
def test_clusters_share_a_group_s_images(run: Run, store: Path) -> None:
    record = run("clustered-dreambooth").record
    tuning, names = tuning_of(record), names_of(record)
    assert (tuning.kind, tuning.prior_images, tuning.settings["clusters"]) == ("clustered-dreambooth", 110, 2)
    divided = 0
    for y in range(10):
        own = tuning.adapters[f"{y}-{y}"]
        assert names[f"{y}-{y}"] == [f"cluster {k} of group {y}-{y}" for k in range(len(own))]
        # Each looks at eight, so none is smaller.
        assert [each.images for each in own] == [8] * len(own)
        divided += len(own) == 2
        assert all(names[f"{y}-{a}"] == [f"class {y}"] for a in range(10) if a != y)
    assert divided >= 5
    check_prior(record, store)


def check_prior(record: Record, store: Path) -> None:
    """The base pool holds the prior images, and neither the mixture nor the budget does."""
    (use,) = record.pools
    (base,) = (
        pool
        for pool in (open_pool(Store(store), folder.name) for folder in (store / "pools").iterdir())
        if not pool.recipe.adapters
    )
    assert base.recipe.pool_id != use.pool_id
    held = base.read({(y, a): 2 if y == a else 1 for y in range(10) for a in range(10)})
    assert len(held) == tuning_of(record).prior_images
    used = used_images(Store(store), use)
    assert {image.tobytes() for image in used.images}.isdisjoint(image.tobytes() for image in held.images)
    assert record.budget is not None
    assert record.budget.sampled == use.sampled == 200


# --- what is done once -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_second_run_with_the_same_store_trains_and_samples_nothing(run: Run, store: Path, method: str) -> None:
    first = run(method).record
    before = set(store.rglob("*.safetensors")) | set(store.rglob("*.parquet"))
    again = run(method, results="again")
    assert not again.reused
    assert all(stage.remembered for stage in again.record.stages)
    assert tuning_of(again.record) == tuning_of(first)
    assert tuning_of(again.record).seconds == tuning_of(first).seconds > 0
    assert again.record.pools[0].rows_sha256 == first.pools[0].rows_sha256
    assert set(store.rglob("*.safetensors")) | set(store.rglob("*.parquet")) == before
    assert [s.checkpoints for s in again.record.stages] == [s.checkpoints for s in first.stages]


@pytest.mark.slow
def test_another_arm_with_the_same_fine_tuning_shares_adapters_and_images(run: Run) -> None:
    first = run("lora").record
    other = run("lora", filter="none", real_layers="all", contrastive="0", real_loss="resampling").record
    assert other.method.configuration == "changed"
    assert tuning_of(other) == tuning_of(first)
    assert other.pools[0].pool_id == first.pools[0].pool_id
    # Without a filter each group's first image is taken, and only those are sampled.
    (use,) = other.pools
    assert (use.filter, use.kept, use.sampled) == (None, 100, 100)
    assert set(use.ranges.values()) == {(0, 1)}
    assert other.cost is not None
    assert other.cost.auxiliary_seconds == 0


@pytest.mark.slow
def test_the_arm_with_the_base_generator_differs_in_its_pool(run: Run) -> None:
    base, tuned = run("lora", generator="base").record, run("lora").record
    assert base.pools[0].tuning is None
    assert base.pools[0].pool_id != tuned.pools[0].pool_id
    assert base.budget == tuned.budget
    assert base.method.track == "train"
    free = run("lora", generator="base", filter="none").record
    assert free.method.track == "none"
    assert free.pools[0].pool_id == base.pools[0].pool_id


def test_defaults_of_the_demo_tier_are_no_change(short_cell: Callable[..., ResolvedCell]) -> None:
    from benchmark.evaluation.draft import _method_info

    for method in ARMS:
        info = _method_info(short_cell(method))
        assert (info.configuration, info.hparams_changed) == ("default", {})
        assert (info.hparams["adapter_steps"], info.hparams["rank"]) == (100, 8)
        changed = _method_info(short_cell(method, overrides={"adapter_steps": "500", "rank": 8}))
        assert (changed.configuration, changed.hparams_changed) == ("changed", {"adapter_steps": 500})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "clustered-dreambooth"])
def test_an_isolated_run_gives_the_same_answers(run: Run, method: str) -> None:
    plain = run(method, results="plain").record
    isolated = run(method, results="isolated", isolated=True, force=True).record
    assert [stage.checkpoints for stage in isolated.stages] == [stage.checkpoints for stage in plain.stages]
    assert isolated.isolation.separate_process
    assert isolated.pools[0].model_copy(update={"seconds": 0}) == plain.pools[0].model_copy(update={"seconds": 0})
