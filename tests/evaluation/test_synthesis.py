"""Generated images for a method: fine-tuned, shared, filtered, and written down; budgets kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from benchmark.contract.generation import FineTuning
from benchmark.contract.images import MethodData
from benchmark.errors import BudgetExceeded, InvalidValue, NotApplicable, UndeclaredGroupLabels
from benchmark.evaluation import auxiliary
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.evaluation.job import make_job, method_data, split_parts
from benchmark.evaluation.run import evaluate_cell
from benchmark.evaluation.synthesis import prompts_of
from benchmark.evaluation.tools import HarnessTools
from benchmark.evaluation.used import used_images
from benchmark.generators.clip import Clip
from benchmark.generators.clip_identity import resolve_clip
from benchmark.generators.pools import open_pool
from benchmark.progress import Silent
from benchmark.records.canonical import sha256_of
from benchmark.records.results import read_record
from benchmark.records.schema import PoolUse
from benchmark.records.store import Store
from benchmark.tasks.catalog import load_task

Cell = Callable[..., ResolvedCell]
LORA = FineTuning(steps=2, batch_size=2, learning_rate=1e-3, rank=2)
DREAMBOOTH = dataclasses.replace(LORA, token="sks", prior_weight=1.0, prior_images=3)
CLUSTERED = dataclasses.replace(LORA, per="cluster", clusters=2)
PLAN = {(0, 0): 2, (0, 3): 2, (7, 7): 2, (7, None): 1}
"""An aligned and a conflicting group of one class, an aligned group of another, and that class alone."""


@pytest.fixture(autouse=True)
def accept_short_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that were trained for twelve steps would be refused."""
    monkeypatch.setattr(auxiliary, "FILTER_FLOOR", -1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module."""
    return tmp_path_factory.mktemp("synthesis")


def quick(cell: ResolvedCell) -> ResolvedCell:
    return dataclasses.replace(cell, sampling=cell.sampling.model_copy(update={"steps": 1}))


def tools_of(cell: ResolvedCell, store: Path) -> tuple[HarnessTools, MethodData]:
    job = make_job(cell, store=store, device="cpu", precision="float32", threads=1, remember=True)
    data = method_data(job, split_parts(cell))
    return HarnessTools(job, data, Silent()), data


@pytest.fixture
def lend(short_cell: Cell, store: Path) -> Callable[..., tuple[HarnessTools, MethodData]]:
    """What the harness lends to a method with a budget of twenty images, and the run's data."""

    def lent(method: str = "lora", *, budget: int = 20, **options: Any) -> tuple[HarnessTools, MethodData]:
        return tools_of(quick(short_cell(method, synthetic=budget, **options)), store)

    return lent


Lend = Callable[..., tuple[HarnessTools, MethodData]]


def recipe_of(store: Path, use: PoolUse) -> Any:
    return open_pool(Store(store), use.pool_id).recipe


# --- fine-tuning -----------------------------------------------------------------------------------------------------


def test_a_group_has_its_adapter_or_that_of_its_class(lend: Lend, store: Path) -> None:
    tools, data = lend()
    images = tools.synthesize(data, plan=PLAN, tuning=LORA)
    assert images.y.tolist() == [0, 0, 0, 0, 7, 7, 7]
    assert images.a.tolist() == [0, 0, 3, 3, -1, 7, 7]
    (use,) = tools.pools
    assert use.tuning is not None
    # Two steps of two images look at four of each.
    assert {group: [(a.name, a.images) for a in used] for group, used in use.tuning.adapters.items()} == {
        "0-0": [("group 0-0", 4)],
        "0-3": [("class 0", 4)],
        "7-any": [("class 7", 4)],
        "7-7": [("group 7-7", 4)],
    }
    assert (use.tuning.kind, use.tuning.prior_images, use.tuning.settings["rank"]) == ("lora", 0, 2)
    assert (tools.kept, tools.sampled) == (use.kept, use.sampled) == (7, 7)
    recipe = recipe_of(store, use)
    assert recipe.adapters == {
        (int(key[0]), None if key.endswith("any") else int(key[2])): tuple(a.sha256 for a in used)
        for key, used in use.tuning.adapters.items()
    }
    base = dict(tools_of_base(lend))
    assert {group: recipe.prompts[group] for group in base} == base


def tools_of_base(lend: Lend) -> dict[tuple[int, int | None], str]:
    """The prompts of the card."""
    tools, _ = lend()
    generator = tools._job.generator
    assert generator is not None
    return prompts_of(generator)


def test_fine_tuned_images_are_not_the_base_generator_s(lend: Lend) -> None:
    tools, data = lend()
    tuned = tools.synthesize(data, plan=PLAN, tuning=LORA)
    base = tools.synthesize(data, plan=PLAN)
    assert tools.pools[0].pool_id != tools.pools[1].pool_id
    assert tools.pools[1].tuning is None
    assert (np.asarray(tuned.images) != np.asarray(base.images)).any(axis=(1, 2, 3)).all()


@pytest.mark.slow
def test_adapters_and_pools_are_shared_by_methods_and_seeds_with_the_same_training_images(lend: Lend) -> None:
    uses = []
    for options in ({}, {}, {"method": "dreambooth"}, {"seed": 5}, {"seed": 1}):
        tools, data = lend(**options)
        tools.synthesize(data, plan=PLAN, tuning=LORA)
        uses.append(tools.pools[0])
    first, *same, other = uses
    assert first.tuning is not None
    for use in same:
        # The training time too is that of the one training.
        assert (use.pool_id, use.rows_sha256, use.tuning) == (first.pool_id, first.rows_sha256, first.tuning)
    assert other.tuning is not None
    assert other.tuning.adapters != first.tuning.adapters


@pytest.mark.slow
def test_dreambooth_s_token_and_prior_images_stay_out_of_what_the_method_gets(lend: Lend, store: Path) -> None:
    tools, data = lend()
    tools.synthesize(data, plan=PLAN, tuning=DREAMBOOTH)
    (use,) = tools.pools
    assert use.tuning is not None
    assert use.tuning.kind == "dreambooth"
    # Three for each own group, and one of each group of the two classes that have a class adapter.
    assert use.tuning.prior_images == 2 * 3 + 2 * 9
    assert (tools.kept, tools.sampled, use.sampled) == (7, 7, 7)
    recipe, base = recipe_of(store, use), tools_of_base(lend)
    assert {group: recipe.prompts[group] for group in base} == {
        group: f"{prompt} sks" if group in PLAN else prompt for group, prompt in base.items()
    }


def test_clusters_take_turns_at_their_group_s_images(lend: Lend, store: Path) -> None:
    tools, data = lend()
    begun = time.perf_counter()
    tools.synthesize(data, plan=PLAN, tuning=CLUSTERED)
    elapsed = time.perf_counter() - begun
    (use,) = tools.pools
    assert use.tuning is not None
    assert use.tuning.kind == "clustered-lora"
    adapters = use.tuning.adapters
    for y in (0, 7):
        assert [each.name for each in adapters[f"{y}-{y}"]] == [f"cluster {k} of group {y}-{y}" for k in range(2)]
    assert [each.name for each in adapters["0-3"]] == ["class 0"]
    recipe = recipe_of(store, use)
    assert [recipe.adapter((7, 7), k) for k in range(4)] == [each.sha256 for each in adapters["7-7"]] * 2
    # What was trained for its features has an account of its own.
    assert tools.auxiliary_seconds > 0
    assert tools.generator_seconds + tools.auxiliary_seconds <= elapsed


@pytest.mark.slow
def test_nothing_is_fine_tuned_on_images_of_a_protected_attribute(short_cell: Cell, store: Path) -> None:
    cell = quick(short_cell("lora", synthetic=20))
    block = cell.task.card.task.model_copy(update={"never_fine_tune": ("red", "purple")})
    task = type(cell.task)(cell.task.card.model_copy(update={"task": block}))
    tools, data = tools_of(dataclasses.replace(cell, task=task), store)
    red, purple = 0, 6
    plan = {(0, red): 1, (0, 3): 1, (3, 3): 1, (3, red): 1, (3, purple): 1, (3, 5): 1, (3, None): 1}
    # One step that looks at every image.
    tools.synthesize(data, plan=plan, tuning=dataclasses.replace(DREAMBOOTH, steps=1, batch_size=110))
    (use,) = tools.pools
    assert use.tuning is not None
    counts = data.train.group_counts
    allowed = counts[3].sum() - counts[3, red] - counts[3, purple]
    # Digit 0 is mostly red, and what is left of it is too little: the base generator serves all of it.
    assert counts[0].sum() - counts[0, red] - counts[0, purple] < 8
    assert {group: [(a.name, a.images) for a in used] for group, used in use.tuning.adapters.items()} == {
        "0-0": [],
        "0-3": [],
        "3-0": [],
        "3-6": [],
        "3-3": [("group 3-3", counts[3, 3])],
        "3-5": [("class 3", allowed)],
        "3-any": [("class 3", allowed)],
    }
    recipe = recipe_of(store, use)
    served = {(3, 3), (3, 5), (3, None)}
    assert {group for group, prompt in recipe.prompts.items() if prompt.endswith(" sks")} == served
    # Nor are any prior images of them made: three of the group, one of each of the class's other seven.
    assert use.tuning.prior_images == 3 + 7
    # Where no adapter is allowed at all, the images are the base generator's.
    tools.synthesize(data, plan={(0, red): 2}, tuning=DREAMBOOTH)
    tools.synthesize(data, plan={(0, red): 2})
    tuned, base = tools.pools[1:]
    assert tuned.tuning is not None
    assert (tuned.tuning.adapters, tuned.tuning.prior_images) == ({"0-0": []}, 0)
    assert (tuned.pool_id, tuned.rows_sha256) == (base.pool_id, base.rows_sha256)


@pytest.mark.parametrize(("task", "indices"), [("utkface", (0,)), ("colorized-digits", ())])
def test_the_fitting_job_names_the_values_on_which_nothing_is_fine_tuned(
    short_cell: Cell, tmp_path: Path, task: str, indices: tuple[int, ...]
) -> None:
    cell, other = short_cell("lora"), load_task(task)
    if other.n_attributes != cell.task.n_attributes:
        allowed = tuple(tuple(map(bool, row)) for row in other.card.allowed_groups())
        budget = dataclasses.replace(cell.budget, n_classes=2, n_attributes=2, allowed=allowed)
        cell = dataclasses.replace(cell, task=other, budget=budget)
    job = make_job(cell, store=tmp_path, device="cpu", precision="float32", threads=1, remember=False)
    assert job.generator is not None
    assert job.generator.never_fine_tune == indices
    assert [other.card.task.attribute.values[k] for k in indices] == list(other.card.task.never_fine_tune)


def test_fine_tuning_needs_the_track_that_reads_training_groups(lend: Lend) -> None:
    tools, data = lend("ffr")
    with pytest.raises(UndeclaredGroupLabels, match="card declares track 'none'"):
        tools.synthesize(data, plan=PLAN, tuning=LORA)
    assert (tools.pools, tools.kept, tools.sampled) == ([], 0, 0)


# --- filters ---------------------------------------------------------------------------------------------------------


def test_a_filter_keeps_the_best_half_of_twice_as_many_images(lend: Lend, store: Path) -> None:
    tools, data = lend()
    images = tools.synthesize(data, plan={(1, 4): 5, (2, 2): 3}, keep="own")
    (use,) = tools.pools
    assert use.filter is not None
    assert (use.kept, use.sampled, use.ranges) == (8, 16, {"1-4": (0, 10), "2-2": (0, 6)})
    assert (tools.kept, tools.sampled) == (8, 16)
    drawn = open_pool(Store(store), use.pool_id).read({(1, 4): 10, (2, 2): 6})
    scores = Auxiliary(tools._job, data, Silent()).scores(drawn.images, drawn.y, drawn.a, {}, "own")
    kept: list[int] = []
    for key, y, n in (("1-4", 1, 5), ("2-2", 2, 3)):
        members = np.flatnonzero(drawn.y == y)
        best = sorted(sorted(members, key=lambda k: (-scores[k], k))[:n])
        assert use.filter.kept_indices[key] == drawn.index[best].tolist()
        kept += best
    dropped = sorted(set(range(16)) - set(kept))
    assert use.filter.mean_score_kept == pytest.approx(scores[kept].mean(), abs=1e-12)
    assert use.filter.mean_score_dropped == pytest.approx(scores[dropped].mean(), abs=1e-12)
    assert scores[kept].mean() > scores[dropped].mean()
    assert (use.filter.kind, use.filter.model[:30]) == ("own", "trained on the run's own split")
    # The method sees the kept ones, in the pool's order, and so does whoever reads the record.
    np.testing.assert_array_equal(np.asarray(images.images), drawn.images[kept])
    again = used_images(Store(store), use)
    assert again.rows_sha256 == use.rows_sha256
    np.testing.assert_array_equal(again.images, drawn.images[kept])


def test_a_filter_of_a_method_without_group_labels_looks_at_the_class(lend: Lend) -> None:
    tools, data = lend("ffr")
    tools.synthesize(data, plan={(1, 4): 2, (3, None): 2}, keep="own")
    (use,) = tools.pools
    assert use.filter is not None
    assert set(use.filter.kept_indices) == {"1-4", "3-any"}
    assert "filter of a" not in use.filter.model


def test_filtering_may_spend_twice_the_budget_and_no_more(lend: Lend) -> None:
    tools, data = lend(budget=6)
    tools.synthesize(data, plan={(1, 4): 4}, keep="own")
    tools.synthesize(data, plan={(2, 2): 2}, keep="own")
    assert (tools.kept, tools.sampled, tools.budget.sampled) == (6, 12, 12)
    with pytest.raises(BudgetExceeded, match="6 generated images are in use; 1 more exceed B = 6"):
        tools.synthesize(data, plan={(2, 2): 1})
    assert len(tools.pools) == 2


# --- CLIP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of 20,000 weights for images of 32×32 pixels, whose tokens are bytes."""
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(tokens), "max_position_embeddings": 24},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=12,
        initializer_factor=8.0,  # so that images and texts differ visibly
    )
    folder = tmp_path_factory.mktemp("clips") / "small-clip"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={t: k for k, t in enumerate(tokens)}, merges=[], model_max_length=24).save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def with_clip(short_cell: Cell, folder: Path, method: str, synthetic: int, **overrides: Any) -> ResolvedCell:
    """A short cell of a request that names a CLIP."""
    asked = resolve_cell(Request(method, overrides=overrides, clip=str(folder)))
    short = quick(short_cell("lora", synthetic=synthetic))
    return dataclasses.replace(
        asked, task=short.task, recipe=short.recipe, budget=short.budget, sampling=short.sampling
    )


def test_images_may_be_filtered_by_how_well_clip_finds_them_to_fit_their_prompts(
    short_cell: Cell, clip_folder: Path, store: Path
) -> None:
    tools, data = tools_of(with_clip(short_cell, clip_folder, "lora", 20, filter="clip"), store)
    tools.synthesize(data, plan={(1, 4): 5, (2, 2): 3}, keep="clip")
    (use,) = tools.pools
    drawn = open_pool(Store(store), use.pool_id).read({(1, 4): 10, (2, 2): 6})
    clip = Clip.load(resolve_clip(str(clip_folder), offline=True), device="cpu", offline=True)
    scores = clip.scores(drawn.images, ["a cyan one"] * 10 + ["a yellow two"] * 6)
    best = [sorted(part[np.argsort(-scores[part], kind="stable")[:n]].tolist()) for part, n in (
        (np.arange(10), 5), (np.arange(10, 16), 3),
    )]  # fmt: skip
    assert use.filter is not None
    assert use.filter.kept_indices == {"1-4": best[0], "2-2": [k - 10 for k in best[1]]}
    assert (use.filter.kind, use.filter.model.partition("@")[0]) == ("clip", "CLIP small-clip")
    assert tools.auxiliary_seconds == 0


@pytest.mark.slow
def test_a_run_may_filter_by_an_external_clip_and_names_it(short_cell: Cell, clip_folder: Path, store: Path) -> None:
    cell = with_clip(short_cell, clip_folder, "lora", 100, filter="clip", generator="base")
    done = evaluate_cell(
        cell, results=store / "results", store=store, device="cpu", threads=1, force=False, isolated=False,
        progress=Silent(),
    )  # fmt: skip
    record = read_record(done.folder)
    assert record.cell.clip is not None
    assert record.cell.clip["name"] == "small-clip"
    assert str(clip_folder) not in (done.folder / "record.json").read_text()
    found = {part.component: part for part in record.method.external_data}
    assert set(found) == {"CLIP small-clip", "tiny-sd"}
    assert found["CLIP small-clip"].may_contain_task_images is None
    assert record.method.track == "none"
    (use,) = record.pools
    assert use.filter is not None
    assert use.filter.kind == "clip"
    assert use.filter.model == f"CLIP small-clip@{record.cell.clip['content_sha256']}"
    assert (use.kept, use.sampled) == (100, 200)
    assert record.cost is not None
    assert record.cost.auxiliary_seconds == 0


def test_clusters_may_be_those_of_clip_s_features(short_cell: Cell, clip_folder: Path, store: Path) -> None:
    cell = with_clip(short_cell, clip_folder, "clustered-dreambooth", 20, features="clip")
    tools, data = tools_of(cell, store)
    tools.synthesize(data, plan={(7, 7): 2}, tuning=dataclasses.replace(CLUSTERED, features="clip"))
    tuning = tools.pools[0].tuning
    assert tuning is not None
    assert len(tuning.adapters["7-7"]) == 2
    assert tools.auxiliary_seconds == 0


@pytest.mark.parametrize(
    ("method", "overrides", "clip", "message"),
    [
        ("lora", {"filter": "clip"}, None, r"lora: filter=clip needs a CLIP model; add --clip MODEL \(a folder or Hub"),
        ("clustered-dreambooth", {"features": "clip"}, None, "clustered-dreambooth: features=clip needs a CLIP model"),
        ("lora", {}, "org/clip", r"no hyper-parameter of lora asks for CLIP.*add --set filter=clip$"),
        (
            "clustered-dreambooth",
            {},
            "org/clip",
            r"has no use; add --set filter=clip or --set features=clip$",
        ),
        ("erm", {}, "org/clip", r"no hyper-parameter of erm asks for CLIP, so --clip org/clip has no use$"),
    ],
)
def test_clip_without_a_use_and_a_use_without_clip_are_refused_before_anything_is_done(
    method: str, overrides: dict[str, Any], clip: str | None, message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        resolve_cell(Request(method, overrides=overrides, clip=clip))


def test_clip_is_part_of_a_cell_s_identity_and_its_absence_is_not(clip_folder: Path) -> None:
    asked = resolve_cell(Request("lora", overrides={"filter": "clip"}, clip=str(clip_folder)))
    plain = resolve_cell(Request("lora"))
    assert asked.cell.model_dump(mode="json")["clip"]["kind"] == "local"
    assert str(clip_folder) not in str(asked.cell)
    assert "clip" not in plain.cell.model_dump(mode="json")
    assert sha256_of(asked.cell.model_dump(mode="json")) == asked.cell_id
    assert sha256_of({**plain.cell.model_dump(mode="json"), "clip": None}) != plain.cell_id


@pytest.mark.parametrize("method", ["erm", "ffr", "sd-augment", "copy-augment"])
def test_cells_that_were_run_before_there_was_any_clip_keep_their_names(method: str) -> None:
    accepted = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits" / method
    names = {folder.name.rpartition("-")[2] for folder in accepted.glob("0.95-seed0-*")}
    assert resolve_cell(Request(method, level="0.95")).cell_id[:12] in names


# --- no budget -------------------------------------------------------------------------------------------------------


def test_where_nothing_is_missing_nothing_is_generated(lend: Lend) -> None:
    tools, data = lend("sd-augment", budget=0)
    images = tools.synthesize(data, plan=tools.budget.fill(data.train))
    assert (len(images), tools.pools, tools.kept, tools.sampled) == (0, [], 0, 0)
    with pytest.raises(NotApplicable, match="no images to generate"):
        tools.train(images)
    assert tools.train(data.train + images).steps == 12


@pytest.mark.slow
@pytest.mark.parametrize(("method", "status"), [("ffr", "skipped"), ("lora", "skipped"), ("sd-augment", "success")])
def test_a_cell_without_a_budget_is_skipped_by_methods_that_need_one(
    short_cell: Cell, store: Path, tmp_path: Path, method: str, status: str
) -> None:
    record = evaluate_cell(
        short_cell(method, synthetic=0), results=tmp_path, store=store, device="cpu", threads=1, force=False,
        isolated=False, progress=Silent(),
    ).record  # fmt: skip
    assert record.status == status
    assert record.pools == []
    if status == "skipped":
        assert "no images to generate" in str(record.skipped_because)
    else:
        assert record.ranked_stage.mixture is not None
        assert record.ranked_stage.mixture.real == record.task.train_counts
        assert record.auditors == {}
        assert sum(map(sum, record.ranked_stage.mixture.synthetic)) == 0
