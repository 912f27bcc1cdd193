"""What a cell shares with others, as its rehearsal tells it: pools, adapters and auditors; nothing is trained."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from benchmark.contract.generation import FineTuning
from benchmark.contract.images import MethodData
from benchmark.contract.method import Hparams, Method, MethodCard, Stage, Tools
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.sweep.needs import Need, needs_of

HEAVY = ("torch", "diffusers", "transformers", "peft", "datasets", "pandas", "scipy", "sklearn", "fairlearn", "ray")
CLASS_ALONE = {"prompt": "class"}


def resolved(
    method: str, level: str = "0.95", seed: int = 0, overrides: Mapping[str, Any] | None = None, **request: Any
) -> ResolvedCell:
    return resolve_cell(Request(method, level=level, seed=seed, overrides=overrides or {}, **request))


def needs(method: str, **options: Any) -> list[Need]:
    return list(needs_of(resolved(method, **options)))


def kinds(method: str, **options: Any) -> list[str]:
    return [need.kind for need in needs(method, **options)]


@pytest.mark.parametrize(
    "method", ["erm", "resampling", "reweighting", "group-dro", "dfr", "jtt", "copy-augment", "real-oracle"]
)
def test_methods_without_generated_images_share_nothing(method: str) -> None:
    assert needs(method) == []


@pytest.mark.parametrize("method", ["sd-augment", "ffr", "placebo"])
def test_the_generator_as_it_is_gives_a_pool_of_the_whole_budget(method: str) -> None:
    cell = resolved(method)
    pool, auditors = needs_of(cell)
    assert (pool.kind, pool.images, auditors.kind, auditors.images) == ("pool", cell.budget.synthetic, "auditors", 0)
    assert (pool.label, auditors.label) == (
        "images of tiny-sd for colorized-digits@1", "auditors of colorized-digits@1",
    )  # fmt: skip
    assert not pool.seeded


@pytest.mark.parametrize("method", ["lora", "dreambooth", "clustered-dreambooth"])
def test_a_fine_tuned_generator_gives_adapters_and_twice_the_budget_for_the_filter(method: str) -> None:
    cell = resolved(method)
    adapters, auditors = needs_of(cell)
    assert (adapters.kind, adapters.images, auditors.kind) == ("adapters", cell.budget.sampled, "auditors")
    assert adapters.label == f"{method} adapters and images of tiny-sd for colorized-digits@1, 0.95, draw 0"


@pytest.mark.parametrize(
    ("method", "overrides", "found"),
    [
        ("lora", {"filter": "none"}, ["adapters", "auditors"]),
        ("lora", {"generator": "base"}, ["pool", "auditors"]),
        ("ffr", {"generator": "fine-tuned", "real_loss": "group-dro"}, ["adapters", "auditors"]),
        ("ffr", {"order": "reversed"}, ["pool", "auditors"]),
        ("ffr", {"real_loss": "dfr"}, ["pool", "auditors"]),
        ("sd-augment", {"loss": "dfr", "balance": "add"}, ["pool", "auditors"]),
        ("sd-augment", {**CLASS_ALONE, "generator": "fine-tuned"}, ["adapters", "auditors"]),
        ("cinn-transfer", {}, ["auditors"]),
        ("cinn-transfer", {"use": "mix"}, ["auditors"]),
        ("self-consuming-loop", {}, ["auditors"]),
        ("self-consuming-loop", {"generator": "base", "labels": "classifier"}, ["auditors"]),
        ("self-consuming-loop", {"generator": "fine-tuned"}, ["auditors"]),
        ("self-consuming-loop", {"generator": "identity"}, ["auditors"]),
        ("self-consuming-loop", {"generator": "real"}, []),
    ],
)
def test_arms_of_methods_share_what_they_make_before_their_first_training(
    method: str, overrides: dict[str, Any], found: list[str]
) -> None:
    assert kinds(method, overrides=overrides) == found


@pytest.mark.parametrize("method", ["sd-augment", "ffr", "lora", "cinn-transfer", "placebo"])
def test_without_a_budget_there_are_no_images_and_so_no_auditors(method: str) -> None:
    cell = resolved(method)
    assert needs_of(dataclasses.replace(cell, budget=dataclasses.replace(cell.budget, synthetic=0))) == ()


def test_only_the_groups_that_a_plan_asks_for_are_counted() -> None:
    per_class = needs("sd-augment", overrides={**CLASS_ALONE, "balance": "add"})[0]
    assert set(per_class.counts) == {(y, None) for y in range(10)}
    filled = needs("sd-augment")[0]
    assert all((y, y) not in filled.counts for y in range(10))  # aligned groups are the largest
    assert all(n > 0 for n in filled.counts.values())
    placebo = needs("placebo")[0]
    assert max(placebo.counts, key=lambda group: placebo.counts[group]) in {(y, y) for y in range(10)}


def key(method: str, **options: Any) -> str:
    return needs(method, **options)[0].key


def test_what_makes_the_same_image_is_one_pool_for_methods_levels_and_seeds() -> None:
    pool = key("ffr")
    assert {key("sd-augment"), key("placebo"), key("ffr", level="0.9"), key("ffr", seed=3)} == {pool}
    assert {key("lora", overrides={"generator": "base"}), key("ffr", overrides={"synthetic_share": 0.25})} == {pool}
    assert key("ffr", sampling={"steps": 4}) != pool
    assert key("ffr", sampling={"batch_size": 8}) != pool
    assert {need.key for method in ("ffr", "lora", "cinn-transfer") for need in needs(method)[-1:]} == {
        needs("sd-augment", level="0.99")[-1].key
    }


def test_adapters_are_of_a_split_and_of_how_they_are_trained() -> None:
    adapters = key("lora")
    assert key("lora", seed=5) == adapters  # the same draw
    assert key("lora", overrides={"filter": "none"}) == adapters  # fewer of the same images
    others = [
        key("lora", seed=1), key("lora", level="0.9"), key("lora", overrides={"rank": 2}), key("dreambooth"),
        key("dreambooth", overrides={"token": "xyz"}), key("lora", overrides={"generator": "base"}),
    ]  # fmt: skip
    assert len({adapters, *others}) == 7


def test_clusters_by_the_run_s_own_classifier_are_its_seed_s() -> None:
    first, same, other = (needs("clustered-dreambooth", seed=seed)[0] for seed in (0, 0, 5))
    assert first.key == same.key != other.key
    assert first.seeded
    assert not needs("lora")[0].seeded


# --- adapters that cannot be rehearsed to their end -----------------------------------------------------------------


def adapter(fit: Callable[[MethodData, Tools], Iterator[Stage]]) -> ResolvedCell:
    """A cell of `ffr` that runs another ``fit``."""

    class Adapter(Method):
        card = MethodCard(name="ffr", version=1, summary="", source="", track=Track.TRAIN, stages=("only",))

        def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
            yield from fit(data, tools)

    return dataclasses.replace(resolved("ffr"), method=Adapter(), track=Track.TRAIN)


def after(look: Callable[[MethodData, Tools], Any]) -> list[str]:
    """Return what is known of an adapter that asks for images, looks at something, and asks for more."""

    def fit(data: MethodData, tools: Tools) -> Iterator[Stage]:
        tools.synthesize(data, plan={(0, 1): 3})
        look(data, tools)
        tools.synthesize(data, plan={(0, 2): 3})
        yield from ()

    found = needs_of(adapter(fit))
    assert all(need.counts == {(0, 1): 3} for need in found[:1])
    return [need.kind for need in found]


@pytest.mark.parametrize(
    "look",
    [
        lambda data, tools: np.asarray(data.train.images),
        lambda data, tools: data.train.images[0],
        lambda data, tools: data.train.digest,
        lambda data, tools: tools.device,
        lambda data, tools: tools.train(data.train).checkpoints[SelectionRule.LAST],
        lambda data, tools: tools.predict(tools.train(data.train), data.validation),
        lambda data, tools: tools.refit_last_layer(tools.train(data.train), data.validation).weights,
        lambda data, tools: 1 / 0,
        lambda data, tools: tools.no_such_tool(),
    ],
    ids=["pixels", "a pixel", "digest", "device", "weights", "answers", "refit", "a bug", "an unknown tool"],
)
def test_a_rehearsal_ends_without_an_error_where_an_adapter_needs_a_real_run(look: Any) -> None:
    assert after(look) == ["pool", "auditors"]


def test_labels_counts_budget_and_notes_are_there_in_a_rehearsal() -> None:
    seen: dict[str, Any] = {}

    def fit(data: MethodData, tools: Tools) -> Iterator[Stage]:
        tools.note("hello")
        seen.update(groups=data.train.group_counts, n=len(data.validation), budget=tools.budget, seed=tools.seed("x"))
        made = tools.synthesize(data, plan={(3, 4): 2, (1, None): 1}, keep="own")
        seen.update(
            y=made.y.tolist(), a=made.a.tolist(), synthetic=made.synthetic.tolist(), mixed=len(data.train + made)
        )
        yield from ()

    cell = adapter(fit)
    found = needs_of(cell)
    assert (found[0].counts, found[0].seeded) == ({(3, 4): 4, (1, None): 2}, True)
    assert seen["groups"].tolist() == cell.manifest.counts("train").tolist()
    assert (seen["n"], seen["budget"]) == (len(cell.manifest.splits["validation"]), cell.budget)
    assert sorted(zip(seen["y"], seen["a"], strict=True)) == [(1, -1), (3, 4), (3, 4)]
    assert (seen["synthetic"], seen["mixed"]) == ([True] * 3, len(cell.manifest.splits["train"]) + 3)


def test_pools_after_the_first_training_are_nobody_else_s_business() -> None:
    def fit(data: MethodData, tools: Tools) -> Iterator[Stage]:
        yield Stage("only", tools.train(data.train))
        tools.synthesize(data, plan={(0, 1): 3}, tuning=FineTuning(steps=1, batch_size=1, learning_rate=1e-3, rank=1))

    assert [need.kind for need in needs_of(adapter(fit))] == ["auditors"]


def test_group_labels_that_are_not_declared_end_a_rehearsal() -> None:
    def fit(data: MethodData, tools: Tools) -> Iterator[Stage]:
        tools.synthesize(data, plan={(0, data.train.a[0]): 3})
        yield from ()

    cell = adapter(fit)
    assert [need.kind for need in needs_of(cell)] == ["pool", "auditors"]
    assert needs_of(dataclasses.replace(cell, track=Track.NONE)) == ()


def test_every_in_tree_method_is_rehearsed_without_anything_heavy() -> None:
    program = (
        "import sys\n"
        "from benchmark.evaluation.cell import resolve_cell\n"
        "from benchmark.sweep.needs import needs_of\n"
        "from benchmark.sweep.selection import Block, requests_of\n"
        "for request in requests_of([Block(methods=('all',), seeds='0')]):\n"
        "    needs_of(resolve_cell(request, prepare=False))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
