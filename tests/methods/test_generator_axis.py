"""Base against fine-tuned generator in every generative method, for real on tiny-sd: few adapter steps, small pools."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmark.contract.generation import FineTuning
from benchmark.contract.images import MethodData
from benchmark.contract.method import Stage
from benchmark.contract.registry import load_method, resolve_hparams
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import make_job, method_data, split_parts
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.evaluation.score import score
from benchmark.evaluation.synthesis import Synthesis
from benchmark.evaluation.tools import HarnessTools
from benchmark.generators.pools import open_pool
from benchmark.generators.recipe import PoolRecipe
from benchmark.progress import Silent
from benchmark.records.schema import PoolUse, Record, Tuning
from benchmark.records.store import Store
from methods._generator import GeneratorHparams

IMAGES = 20
"""One image of each group of the first two digits, or two of each class."""

QUICK = {"adapter_steps": 4, "adapter_batch_size": 2}
TUNED = {**QUICK, "generator": "fine-tuned"}
CLASSES = {"prompt": "class", "balance": "add"}
PER_CLASS = FineTuning(steps=2, batch_size=2, learning_rate=1e-3, rank=2, per="class")
DIGITS = [f"{y}-any" for y in range(10)]
AXIS = ("generator", "adapter_steps", "adapter_batch_size", "adapter_learning_rate", "rank")

Run = Callable[..., Evaluation]
Lend = Callable[..., tuple[HarnessTools, MethodData]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module, as users have one."""
    return tmp_path_factory.mktemp("axis") / "store"


@pytest.fixture
def cell(short_cell: Callable[..., ResolvedCell]) -> Callable[..., ResolvedCell]:
    """A short cell with a quickly sampled generator."""

    def quick(method: str, synthetic: int = IMAGES, **overrides: Any) -> ResolvedCell:
        short = short_cell(method, overrides=overrides, synthetic=synthetic)
        return dataclasses.replace(short, sampling=short.sampling.model_copy(update={"steps": 2}))

    return quick


@pytest.fixture
def run(store: Path, cell: Callable[..., ResolvedCell]) -> Run:
    """Run an arm of a method; one that was run before is reused."""

    def short(method: str, **overrides: Any) -> Evaluation:
        return evaluate_cell(
            cell(method, **overrides), results=store.parent / "results", store=store, device="cpu", threads=1,
            force=False, isolated=False, progress=Silent(),
        )  # fmt: skip

    return short


@pytest.fixture
def lend(store: Path, cell: Callable[..., ResolvedCell]) -> Lend:
    """What the harness lends to a method, and the run's data."""

    def lent(method: str, *, never: tuple[str, ...] = (), **overrides: Any) -> tuple[HarnessTools, MethodData]:
        short = cell(method, **overrides)
        block = short.task.card.task.model_copy(update={"never_fine_tune": never})
        task = type(short.task)(short.task.card.model_copy(update={"task": block}))
        short = dataclasses.replace(short, task=task)
        job = make_job(short, store=store, device="cpu", precision="float32", threads=1, remember=True)
        data = method_data(job, split_parts(short))
        return HarnessTools(job, data, Silent()), data

    return lent


def tuning_of(use: PoolUse) -> Tuning:
    assert use.tuning is not None
    return use.tuning


def names_of(use: PoolUse) -> dict[str, list[str]]:
    """Group → the names of its adapters."""
    return {group: [each.name for each in used] for group, used in tuning_of(use).adapters.items()}


def recipe_of(store: Path, use: PoolUse) -> PoolRecipe:
    return open_pool(Store(store), use.pool_id).recipe


def spent(record: Record) -> tuple[Any, list[tuple[str, int]], list[Any]]:
    """What must be equal for both generators: budgets, steps of the stages, training sets."""
    return record.budget, [(s.name, s.steps) for s in record.stages], [s.mixture for s in record.stages]


# --- what can be asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ffr", "sd-augment"])
@pytest.mark.parametrize("tier", ["demo", "core"])
def test_the_axis_has_the_settings_of_lora(method: str, tier: str) -> None:
    lora, card = load_method("lora").card, load_method(method).card
    settings = card.defaults(tier).model_dump(include=set(AXIS))
    assert settings == {**lora.defaults(tier).model_dump(include=set(AXIS)), "generator": "base"}
    for name in AXIS[1:]:
        ours, theirs = (c.hparams.model_fields[name] for c in (card, lora))
        assert (ours.metadata, ours.description, ours.annotation) == (
            theirs.metadata, theirs.description, theirs.annotation,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["ffr", "sd-augment"])
def test_fine_tuned_is_what_lora_does(method: str) -> None:
    lora = load_method("lora").card.defaults("demo")
    arm = resolve_hparams(load_method(method), {"generator": "fine-tuned"}, "demo")
    assert isinstance(arm, GeneratorHparams)
    assert arm.tuning() == lora.tuning()  # type: ignore[attr-defined]
    assert arm.tuning(per="class") == dataclasses.replace(lora.tuning(), per="class")  # type: ignore[attr-defined]
    assert GeneratorHparams().tuning() is None
    assert GeneratorHparams().tuning(per="class") is None


@pytest.mark.parametrize(
    ("method", "overrides", "base", "tuned"),
    [
        ("ffr", {}, "none", "train"),
        ("ffr", {"real_loss": "dfr"}, "val-train", "train"),
        ("ffr", {"synthetic_only": True}, "none", "train"),
        ("ffr", {"balanced": False}, "train", "train"),
        ("sd-augment", {}, "train", "train"),
        ("sd-augment", {"balance": "add"}, "none", "train"),
        ("sd-augment", {"balance": "add", "loss": "dfr"}, "val-train", "train"),
        ("sd-augment", {"balance": "add", "loss": "group-dro"}, "train", "train"),
        ("sd-augment", {"prompt": "class"}, "none", "none"),
        ("sd-augment", CLASSES, "none", "none"),
        ("sd-augment", {"prompt": "class", "loss": "dfr"}, "val-train", "val-train"),
        ("sd-augment", {"placebo": True}, "train", "train"),
    ],
)
def test_adapters_per_group_read_the_training_groups_and_adapters_per_class_do_not(
    method: str, overrides: dict[str, Any], base: str, tuned: str
) -> None:
    adapter = load_method(method)
    for generator, track in (("base", base), ("fine-tuned", tuned)):
        hparams = resolve_hparams(adapter, {**overrides, "generator": generator})
        assert adapter.card.track_of(hparams) == track


def test_there_is_no_third_generator() -> None:
    with pytest.raises(ValidationError, match="'base' or 'fine-tuned'"):
        GeneratorHparams(generator="tuned")  # type: ignore[arg-type]


# --- the base generator ----------------------------------------------------------------------------------------------


def ffr_before(data: MethodData, tools: HarnessTools) -> Iterator[Stage]:
    """FFR's default as it was without the axis."""
    fake = tools.synthesize(data, plan=tools.budget.balanced())
    model = tools.train(fake, init=None, loss="erm", share=0.5, learning_rate_scale=1.0, freeze_bn=False)
    yield Stage("synthetic", model)
    real = tools.train(data.train, init=model, loss="erm", share=0.5, learning_rate_scale=1.0, freeze_bn=False)
    yield Stage("real", real)


def sd_augment_before(data: MethodData, tools: HarnessTools) -> Iterator[Stage]:
    """The default of `sd-augment` as it was without the axis."""
    fake = tools.synthesize(data, plan=tools.budget.fill(data.train))
    yield Stage("mixed", tools.train(data.train + fake, loss="erm", groups="y,a", share=1.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "before", "track"), [("ffr", ffr_before, "none"), ("sd-augment", sd_augment_before, "train")]
)
def test_without_the_axis_everything_is_as_it_was(
    lend: Lend, store: Path, method: str, before: Callable[[MethodData, HarnessTools], Iterator[Stage]], track: str
) -> None:
    (old, data), (new, same) = lend(method), lend(method)
    adapter = load_method(method)
    assert new._job.track == track
    first = list(before(data, old))
    second = list(adapter.fit(same, new, resolve_hparams(adapter, {}, "demo")))
    assert [(s.name, s.model.digest, s.model.steps) for s in second] == [  # type: ignore[union-attr]
        (s.name, s.model.digest, s.model.steps)
        for s in first  # type: ignore[union-attr]
    ]
    # Each training was asked for in the very same way, so it was not done again.
    assert all(stage.model.remembered for stage in second)  # type: ignore[union-attr]
    ((used,), (again,)) = old.pools, new.pools
    assert (again.pool_id, again.ranges, again.rows_sha256) == (used.pool_id, used.ranges, used.rows_sha256)
    assert again.tuning is None
    recipe = recipe_of(store, again)
    assert (recipe.adapters, recipe.generation) == ({}, 0)


# --- fine-tuned ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ffr_spends_the_same_on_a_fine_tuned_generator_s_images(run: Run) -> None:
    done = run("ffr", **TUNED)
    tuned, base = done.record, run("ffr", **QUICK).record
    assert spent(tuned) == spent(base)
    assert tuned.budget is not None
    assert (tuned.budget.synthetic_kept, tuned.budget.sampled) == (IMAGES, IMAGES)
    assert (tuned.method.track, base.method.track) == ("train", "none")
    (use,), (other,) = tuned.pools, base.pools
    assert other.tuning is None
    assert use.pool_id != other.pool_id
    assert use.ranges == other.ranges
    tuning = tuning_of(use)
    assert (tuning.kind, tuning.settings["per"], tuning.settings["steps"], tuning.prior_images) == (
        "lora",
        "group",
        4,
        0,
    )
    # At .95 no conflicting group has eight images.
    assert names_of(use) == {
        f"{y}-{a}": [f"group {y}-{a}" if y == a else f"class {y}"] for y in range(2) for a in range(10)
    }
    assert use.quality["memorised_share"].value is not None
    assert all(use.label_fidelity[side].value is not None for side in ("y_raw", "a_raw"))
    assert [each.differing for each in score(done.folder)[1]] == [[]] * 4


@pytest.mark.slow
def test_adapters_and_images_are_shared_with_lora(run: Run) -> None:
    (ours,) = run("ffr", **TUNED).record.pools
    (theirs,) = run("lora", **QUICK, filter="none").record.pools
    assert (theirs.pool_id, theirs.rows_sha256, theirs.tuning) == (ours.pool_id, ours.rows_sha256, ours.tuning)


@pytest.mark.slow
def test_sd_augment_fills_groups_with_a_fine_tuned_generator_s_images(run: Run) -> None:
    tuned, base = run("sd-augment", **TUNED).record, run("sd-augment", **QUICK).record
    assert spent(tuned) == spent(base)
    assert (tuned.method.track, base.method.track) == ("train", "train")
    (use,), (other,) = tuned.pools, base.pools
    assert (other.tuning, use.pool_id != other.pool_id, use.ranges) == (None, True, other.ranges)
    # Nothing is trained for the aligned groups, which are full.
    assert names_of(use) == {group: [f"class {group[0]}"] for group in use.ranges}
    assert not any(group[0] == group[2] for group in use.ranges)
    # The classes' adapters that serve small groups learnt prompts with attributes: not those of class prompts.
    (by_class,) = run("sd-augment", **CLASSES, **TUNED).record.pools
    ours, others = ({each.sha256 for used in tuning_of(p).adapters.values() for each in used} for p in (use, by_class))
    assert ours.isdisjoint(others)


@pytest.mark.slow
def test_class_prompts_have_adapters_per_class_without_group_labels(lend: Lend) -> None:
    adapter = load_method("sd-augment")
    tools, data = lend("sd-augment", **CLASSES, **TUNED)
    assert tools._job.track == "none"
    (stage,) = adapter.fit(data, tools, resolve_hparams(adapter, {**CLASSES, **TUNED}, "demo"))
    assert stage.name == "mixed"
    (use,) = tools.pools
    assert names_of(use) == {group: [f"class {group[0]}"] for group in DIGITS}
    assert tuning_of(use).settings["per"] == "class"
    assert len({used[0].sha256 for used in tuning_of(use).adapters.values()}) == 10


@pytest.mark.slow
def test_a_run_with_class_prompts_spends_the_same_on_either_generator(run: Run) -> None:
    tuned, base = (run("sd-augment", **CLASSES, **arm).record for arm in (TUNED, QUICK))
    assert spent(tuned) == spent(base)
    assert (tuned.method.track, base.method.track) == ("none", "none")
    (use,), (other,) = tuned.pools, base.pools
    assert (other.tuning, use.pool_id != other.pool_id, use.ranges) == (None, True, other.ranges)
    assert {each.images for used in tuning_of(use).adapters.values() for each in used} == {8}
    mixture = tuned.stages[0].mixture
    assert mixture is not None
    assert mixture.synthetic_without_attribute == [2] * 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "overrides", "stages"),
    [
        ("ffr", {"real_loss": "dfr"}, ["synthetic", "real", "last-layer"]),
        ("ffr", {"order": "reversed", "balanced": "false"}, ["real", "synthetic"]),
        ("sd-augment", {"placebo": "true", "loss": "group-dro", "groups": "y,a,source"}, ["mixed"]),
        ("sd-augment", {"prompt": "class", "loss": "dfr"}, ["mixed", "last-layer"]),
    ],
)
def test_the_axis_crosses_the_other_arms(run: Run, method: str, overrides: dict[str, str], stages: list[str]) -> None:
    tuned, base = (run(method, **overrides, **arm).record for arm in (TUNED, QUICK))
    assert tuned.status == base.status == "success"
    assert [stage.name for stage in tuned.stages] == stages
    assert spent(tuned) == spent(base)
    assert tuned.pools[0].pool_id != base.pools[0].pool_id


# --- adapters per class, as the harness trains them ------------------------------------------------------------------


def test_a_group_may_be_asked_of_its_class_s_adapter_without_group_labels(lend: Lend) -> None:
    tools, data = lend("ffr")
    images = tools.synthesize(data, plan={(0, 3): 1, (7, 7): 1, (7, None): 1}, tuning=PER_CLASS)
    assert images.a.tolist() == [3, -1, 7]
    assert names_of(tools.pools[0]) == {"0-3": ["class 0"], "7-any": ["class 7"], "7-7": ["class 7"]}


@pytest.mark.slow
def test_class_adapters_hold_on_to_images_that_class_prompts_gave(lend: Lend, store: Path) -> None:
    tools, data = lend("ffr")
    how = dataclasses.replace(PER_CLASS, token="sks", prior_weight=1.0, prior_images=3)
    tools.synthesize(data, plan={(4, None): 1, (6, 2): 1}, tuning=how)
    (use,) = tools.pools
    tuning, recipe = tuning_of(use), recipe_of(store, use)
    assert (tuning.kind, tuning.prior_images) == ("dreambooth", 6)
    assert {group for group, prompt in recipe.prompts.items() if prompt.endswith(" sks")} == {(4, None), (6, 2)}
    base = dataclasses.replace(
        recipe, adapters={}, prompts={g: p.removesuffix(" sks") for g, p in recipe.prompts.items()}
    )
    assert len(open_pool(Store(store), base.pool_id).read({(4, None): 3, (6, None): 3})) == 6


@pytest.mark.slow
def test_what_is_forbidden_is_kept_from_class_adapters_too(lend: Lend) -> None:
    tools, data = lend("ffr", never=("red", "purple"))
    red, purple = 0, 6
    _, known = lend("lora")
    counts = known.train.group_counts
    how = dataclasses.replace(PER_CLASS, steps=1, batch_size=110, token="sks", prior_weight=1.0, prior_images=16)
    tools.synthesize(data, plan={(0, None): 1, (3, None): 1, (3, red): 1}, tuning=how)
    tuning = tuning_of(tools.pools[0])
    # Digit 0 is mostly red, and what is left of it is too little.
    assert {group: [(each.name, each.images) for each in used] for group, used in tuning.adapters.items()} == {
        "0-any": [],
        "3-any": [("class 3", counts[3].sum() - counts[3, red] - counts[3, purple])],
        "3-0": [],
    }
    # Prior images name one of the eight colours that are left: by class alone they might be red.
    assert tuning.prior_images == 16


# --- generations -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [None, PER_CLASS])
def test_each_generation_has_images_of_its_own(lend: Lend, store: Path, tuning: FineTuning | None) -> None:
    tools, data = lend("ffr")
    job, plan = tools._job, {(2, None): 2}
    synthesis = Synthesis(job, Auxiliary(job, data, Silent()), Silent())
    plain, zero, one, again = (
        synthesis.images(data, plan, tuning, "none", *generation) for generation in ((), (0,), (1,), (1,))
    )
    assert plain.use.pool_id == zero.use.pool_id != one.use.pool_id == again.use.pool_id
    assert (plain.images == zero.images).all()
    assert (one.images != zero.images).any(axis=(1, 2, 3)).all()
    assert (one.images == again.images).all()
    recipe = recipe_of(store, one.use)
    assert dataclasses.replace(recipe, generation=0).pool_id == zero.use.pool_id


@pytest.mark.slow
def test_generated_images_train_the_next_generation_s_adapters(lend: Lend) -> None:
    tools, data = lend("sd-augment", synthetic=24)
    fake = tools.synthesize(data, plan=dict.fromkeys([(0, None), (1, None)], 8))
    alone = MethodData(fake, data.validation)
    mixed = MethodData(data.train + fake, data.validation)
    plan = {(0, 5): 1, (1, 1): 1}
    by_group = dataclasses.replace(PER_CLASS, per="group")
    for use_of, how in ((alone, PER_CLASS), (alone, by_group), (mixed, by_group), (mixed, PER_CLASS)):
        tools.synthesize(use_of, plan=plan, tuning=how)
    uses = tools.pools[1:]
    served = [{group: [name[:5] for name in names] for group, names in names_of(use).items()} for use in uses]
    free = {"0-5": ["class"], "1-1": ["class"]}
    assert served == [free, free, {**free, "1-1": ["group"]}, free]
    # Those that saw generated images alone have no attribute to name, whatever they are divided by.
    assert [len({use.pool_id for use in pair}) for pair in (uses[:2], uses[2:])] == [1, 2]
