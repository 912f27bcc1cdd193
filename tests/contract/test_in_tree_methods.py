"""The in-tree adapters: what they declare per configuration is what they need, no less and no more."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from benchmark.contract.generation import FineTuning
from benchmark.contract.registry import listed_methods, load_method, resolve_hparams
from benchmark.contract.tracks import Track
from benchmark.errors import InvalidValue, UndeclaredGroupLabels, UnknownName

LOSSES = ("erm", "resampling", "reweighting", "group-dro")
TIERS = ("demo", "core", "extended")
FINE_TUNED = ("lora", "dreambooth", "clustered-dreambooth")
TWO_STEPS = ("synthetic", "real")
TUNED = {"generator": "fine-tuned"}
GENERATIONS = tuple(f"generation-{g}" for g in range(6))
BASE = {"generator": "base", "filter": "none"}
"""The arm of a fine-tuned method that looks at no group label."""

CASES: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
    ("erm", {}, "none", ("real",)),
    *[("copy-augment", {"loss": loss}, "train", ("mixed",)) for loss in LOSSES],
    ("copy-augment", {"loss": "group-dro", "groups": "y,a,source"}, "train", ("mixed",)),
    ("ffr", {}, "none", ("synthetic", "real")),
    ("ffr", {"order": "reversed"}, "none", ("real", "synthetic")),
    ("ffr", {"freeze_bn": True, "second_lr_scale": 0.1, "synthetic_share": 0.25}, "none", ("synthetic", "real")),
    *[("ffr", {"real_loss": loss}, "train", ("synthetic", "real")) for loss in LOSSES[1:]],
    *[("ffr", {"real_loss": loss, "order": "reversed"}, "train", ("real", "synthetic")) for loss in LOSSES[1:]],
    ("ffr", {"balanced": False}, "train", ("synthetic", "real")),
    ("ffr", {"balanced": False, "real_loss": "group-dro"}, "train", ("synthetic", "real")),
    ("ffr", {"synthetic_only": True}, "none", ("synthetic",)),
    ("ffr", {"synthetic_only": True, "real_loss": "group-dro"}, "none", ("synthetic",)),
    ("ffr", {"synthetic_only": True, "order": "reversed"}, "none", ("synthetic",)),
    ("ffr", {"synthetic_only": True, "balanced": False}, "train", ("synthetic",)),
    ("sd-augment", {}, "train", ("mixed",)),
    ("sd-augment", {"balance": "add"}, "none", ("mixed",)),
    ("sd-augment", {"balance": "fill", "prompt": "class"}, "none", ("mixed",)),
    ("sd-augment", {"balance": "add", "prompt": "class"}, "none", ("mixed",)),
    ("sd-augment", {"placebo": True}, "train", ("mixed",)),
    ("sd-augment", {"balance": "add", "placebo": True}, "train", ("mixed",)),
    ("sd-augment", {"loss": "dfr"}, "train", ("mixed", "last-layer")),
    ("sd-augment", {"loss": "dfr", "balance": "add"}, "val-train", ("mixed", "last-layer")),
    ("sd-augment", {"loss": "dfr", "prompt": "class"}, "val-train", ("mixed", "last-layer")),
    ("sd-augment", {"loss": "dfr", "balance": "add", "placebo": True}, "train", ("mixed", "last-layer")),
    *[
        ("sd-augment", {"balance": balance, "loss": loss, "groups": groups}, "train", ("mixed",))
        for balance, loss, groups in itertools.product(("fill", "add"), LOSSES[1:], ("y,a", "y,a,source"))
    ],
    ("ffr", {"real_loss": "dfr"}, "val-train", (*TWO_STEPS, "last-layer")),
    ("ffr", {"real_loss": "dfr", "order": "reversed"}, "val-train", ("real", "synthetic", "last-layer")),
    ("ffr", {"real_loss": "dfr", "balanced": False}, "train", (*TWO_STEPS, "last-layer")),
    ("ffr", {"real_loss": "dfr", "synthetic_only": True}, "none", ("synthetic",)),
    *[(loss, {}, "train", ("real",)) for loss in LOSSES[1:]],
    ("dfr", {}, "val-train", ("real", "last-layer")),
    ("jtt", {}, "none", ("identification", "real")),
    ("jtt", {"identification_share": 0.5, "upweight": 2}, "none", ("identification", "real")),
    *[("placebo", {"loss": loss}, "train", ("mixed",)) for loss in LOSSES],
    ("placebo", {"loss": "group-dro", "groups": "y,a,source"}, "train", ("mixed",)),
    *[("real-oracle", {"loss": loss}, "train", ("mixed",)) for loss in LOSSES],
    *[(name, {}, "train", TWO_STEPS) for name in FINE_TUNED],
    *[(name, {"filter": keep}, "train", TWO_STEPS) for name in FINE_TUNED for keep in ("none", "clip")],
    *[(name, {"real_layers": "all", "contrastive": 0}, "train", TWO_STEPS) for name in FINE_TUNED],
    *[(name, {**BASE, "real_loss": loss}, "train", TWO_STEPS) for name in FINE_TUNED for loss in LOSSES[1:]],
    *[(name, BASE, "none", TWO_STEPS) for name in FINE_TUNED],
    *[(name, {**BASE, "filter": "clip"}, "none", TWO_STEPS) for name in FINE_TUNED],
    ("ffr", TUNED, "train", TWO_STEPS),
    ("sd-augment", {**TUNED, "balance": "add"}, "train", ("mixed",)),
    ("sd-augment", {**TUNED, "prompt": "class"}, "none", ("mixed",)),
    *[
        ("cinn-transfer", {"loss": loss, "condition": condition}, "train", TWO_STEPS)
        for loss in LOSSES
        for condition in ("group", "attribute")
    ],
    ("cinn-transfer", {"use": "mix", "loss": "group-dro"}, "train", ("mixed",)),
    *[
        ("self-consuming-loop", {"generator": generator}, "none", GENERATIONS)
        for generator in ("from-scratch", "fine-tuned", "base", "identity", "real")
    ],
    *[
        ("self-consuming-loop", {"generator": generator, "condition": "group"}, "train", GENERATIONS)
        for generator in ("from-scratch", "fine-tuned", "base", "identity")
    ],
    ("self-consuming-loop", {"mixture": "replace", "share": 0.5, "labels": "classifier"}, "none", GENERATIONS),
    ("dreambooth", {"prior_weight": 0}, "train", TWO_STEPS),
    ("clustered-dreambooth", {"clusters": 3, "features": "clip"}, "train", TWO_STEPS),
]

FILTERED = [(name, {"generator": "base"}, "train", TWO_STEPS) for name in FINE_TUNED]
"""Only the own filter looks at group labels here, and it does without where the card does not declare them."""

NEXT_LESS = {"train": Track.VALIDATION_TRAINS, "val-train": Track.VALIDATION_SELECTS}


def run(contract: Any, name: str, overrides: dict[str, Any], granted: Track) -> tuple[Any, list[str]]:
    method, tools = load_method(name), contract.tools(granted)
    stages = [stage.name for stage in method.fit(contract.data_of(granted), tools, resolve_hparams(method, overrides))]
    return tools, stages


@pytest.mark.parametrize(("name", "overrides", "track", "stages"), CASES + FILTERED)
def test_the_declared_track_is_enough_and_the_declared_stages_come(
    contract: Any, name: str, overrides: dict[str, Any], track: str, stages: tuple[str, ...]
) -> None:
    method = load_method(name)
    hparams = resolve_hparams(method, overrides)
    assert method.card.track_of(hparams) == track
    assert method.card.stages_of(hparams) == stages
    _, yielded = run(contract, name, overrides, Track(track))
    assert tuple(yielded) == stages


@pytest.mark.parametrize(("name", "overrides", "track"), [case[:3] for case in CASES if case[2] in NEXT_LESS])
def test_less_than_the_declared_track_is_not_enough(
    contract: Any, name: str, overrides: dict[str, Any], track: str
) -> None:
    with pytest.raises(UndeclaredGroupLabels):
        run(contract, name, overrides, NEXT_LESS[track])


def test_every_in_tree_adapter_is_in_these_tests_and_says_what_it_is() -> None:
    known = {name for name, listed in listed_methods().items() if listed.in_tree}
    assert known == {name for name, *_ in CASES}
    for name in known:
        card = load_method(name).card
        assert card.name == name
        assert card.id == f"{name}@{card.version}"
        assert card.summary.endswith(".")
        assert card.source
        assert all(field.description for field in card.hparams.model_fields.values())


def test_erm_trains_once_on_real_images(contract: Any) -> None:
    tools, _ = run(contract, "erm", {}, Track.NONE)
    assert tools.plans == []
    assert tools.trainings == [{"n": 18, "synthetic": 0}]


def test_ffr_trains_on_balanced_generated_images_then_on_real_ones(contract: Any) -> None:
    tools, _ = run(contract, "ffr", {"synthetic_share": 0.25, "freeze_bn": True, "second_lr_scale": 0.1}, Track.NONE)
    assert tools.plans == [{(y, a): 3 for y in range(3) for a in range(2)}]
    first, second = tools.trainings
    assert (first["n"], first["synthetic"], first["init"], first["share"]) == (18, 18, None, 0.25)
    assert (first["freeze_bn"], first["learning_rate_scale"], first["loss"]) == (False, 1.0, "erm")
    assert (second["n"], second["synthetic"], second["init"], second["share"]) == (18, 0, "model 1", 0.75)
    assert (second["freeze_bn"], second["learning_rate_scale"], second["loss"]) == (True, 0.1, "erm")


def test_reversed_ffr_swaps_the_stages_with_their_shares_and_losses(contract: Any) -> None:
    tools, _ = run(
        contract, "ffr", {"order": "reversed", "synthetic_share": 0.25, "real_loss": "group-dro"}, Track.TRAIN
    )
    first, second = tools.trainings
    assert (first["synthetic"], first["share"], first["loss"], first["init"]) == (0, 0.75, "group-dro", None)
    assert (second["synthetic"], second["share"], second["loss"], second["init"]) == (18, 0.25, "erm", "model 1")


def test_ffr_on_generated_images_alone_spends_every_step_there(contract: Any) -> None:
    tools, _ = run(contract, "ffr", {"synthetic_only": True, "synthetic_share": 0.25}, Track.NONE)
    assert [(t["synthetic"], t["share"]) for t in tools.trainings] == [(18, 1.0)]


def test_unbalanced_ffr_asks_for_the_training_bias(contract: Any) -> None:
    tools, _ = run(contract, "ffr", {"balanced": False}, Track.TRAIN)
    # Six per class over 6:1, 0:5 and 2:4.
    assert tools.plans == [{(0, 0): 5, (0, 1): 1, (1, 1): 6, (2, 0): 2, (2, 1): 4}]


@pytest.mark.parametrize(
    ("overrides", "track", "plan"),
    [
        ({}, "train", {(0, 1): 5, (1, 0): 6, (1, 1): 1, (2, 0): 4, (2, 1): 2}),
        ({"balance": "add"}, "none", {(y, a): 3 for y in range(3) for a in range(2)}),
        ({"prompt": "class"}, "none", {(0, None): 5, (1, None): 7, (2, None): 6}),
        ({"prompt": "class", "balance": "add"}, "none", {(0, None): 6, (1, None): 6, (2, None): 6}),
        ({"placebo": True}, "train", {(0, 0): 4, (0, 1): 1, (1, 1): 7, (2, 0): 2, (2, 1): 4}),
        ({"placebo": True, "balance": "add"}, "train", {(0, 0): 5, (0, 1): 1, (1, 1): 6, (2, 0): 2, (2, 1): 4}),
    ],
)
def test_sd_augment_asks_for_what_its_configuration_says(
    contract: Any, overrides: dict[str, Any], track: str, plan: dict[Any, int]
) -> None:
    tools, _ = run(contract, "sd-augment", overrides, Track(track))
    assert tools.plans == [plan]
    assert tools.wishes == [(None, "none")]
    assert tools.trainings == [{"n": 36, "synthetic": 18, "loss": "erm", "groups": "y,a", "share": 1.0}]


def test_copies_are_made_of_populated_groups_only(contract: Any) -> None:
    tools, _ = run(contract, "copy-augment", {"loss": "resampling", "groups": "y,a,source"}, Track.TRAIN)
    (plan,) = tools.plans
    assert (1, 0) not in plan
    assert sum(plan.values()) == 18
    assert tools.trainings == [{"n": 36, "synthetic": 0, "loss": "resampling", "groups": "y,a,source"}]


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_the_methods_named_after_a_loss_train_once_with_it(contract: Any, loss: str) -> None:
    tools, _ = run(contract, loss, {}, Track.TRAIN)
    assert tools.trainings == [{"n": 18, "synthetic": 0, "loss": loss}]


def test_dfr_spends_every_step_on_erm_and_refits_on_validation_images(contract: Any) -> None:
    tools, _ = run(contract, "dfr", {}, Track.VALIDATION_TRAINS)
    assert tools.trainings == [{"n": 18, "synthetic": 0, "share": 1.0}]
    assert tools.refits == [("model 1", 2)]


@pytest.mark.parametrize(
    ("name", "overrides", "refitted"),
    [("ffr", {}, "model 2"), ("ffr", {"order": "reversed"}, "model 2"), ("sd-augment", {}, "model 1")],
)
def test_dfr_as_a_loss_is_erm_on_real_images_and_then_the_refit(
    contract: Any, name: str, overrides: dict[str, Any], refitted: str
) -> None:
    loss = "loss" if name == "sd-augment" else "real_loss"
    tools, _ = run(contract, name, {loss: "dfr", **overrides}, Track.TRAIN)
    plain, _ = run(contract, name, overrides, Track.TRAIN)
    assert tools.trainings == plain.trainings
    assert (tools.refits, plain.refits) == ([(refitted, 2)], [])


def test_jtt_repeats_its_mistakes_and_starts_afresh(contract: Any) -> None:
    tools = contract.tools(Track.NONE, wrong=(0, 7))
    method = load_method("jtt")
    hparams = resolve_hparams(method, {"identification_share": 0.2, "upweight": 5})
    assert len(list(method.fit(contract.data_of(Track.NONE), tools, hparams))) == 2
    first, second = tools.trainings
    assert first == {"n": 18, "synthetic": 0, "share": 0.2}
    # Two mistakes stand there five times each: once in the set, four times more.
    assert second == {"n": 18 + 2 * 4, "synthetic": 0, "share": 0.8}
    assert tools.notes == ["2 of 18 training images were wrong after the identification stage"]


def test_jtt_without_a_mistake_trains_on_the_same_images_again(contract: Any) -> None:
    tools, _ = run(contract, "jtt", {}, Track.NONE)
    assert [t["n"] for t in tools.trainings] == [18, 18]


def test_the_placebo_is_the_arm_of_sd_augment(contract: Any) -> None:
    method, _ = run(contract, "placebo", {"loss": "group-dro", "groups": "y,a,source"}, Track.TRAIN)
    arm, _ = run(contract, "sd-augment", {"placebo": True, "loss": "group-dro", "groups": "y,a,source"}, Track.TRAIN)
    assert method.plans == arm.plans
    assert [{**t, "share": 1.0} for t in method.trainings] == arm.trainings


def test_the_oracle_fills_groups_with_real_images_and_says_when_there_are_too_few(contract: Any) -> None:
    tools, _ = run(contract, "real-oracle", {"loss": "reweighting"}, Track.TRAIN)
    assert tools.plans == [{(0, 1): 5, (1, 0): 6, (1, 1): 1, (2, 0): 4, (2, 1): 2}]
    assert tools.trainings == [{"n": 18 + 16, "synthetic": 16, "loss": "reweighting"}]
    assert tools.notes == ["only 16 of B = 18 further real images exist"]
    assert load_method("real-oracle").card.oracle


@pytest.mark.parametrize("name", FINE_TUNED)
def test_fine_tuned_methods_pre_train_on_balanced_images_and_then_move_the_last_layer(contract: Any, name: str) -> None:
    tools, _ = run(contract, name, {"synthetic_share": 0.6, "contrastive": 0.25, "filter": "none"}, Track.TRAIN)
    assert tools.plans == [{(y, a): 3 for y in range(3) for a in range(2)}]
    assert [keep for _, keep in tools.wishes] == ["none"]
    assert tools.trainings == [
        {"n": 18, "synthetic": 18, "share": 0.6, "contrastive": 0.25},
        {"n": 18, "synthetic": 0, "init": "model 1", "loss": "erm", "share": 0.4, "trainable": "last-layer"},
    ]


@pytest.mark.parametrize("name", FINE_TUNED)
def test_the_arm_with_the_base_generator_differs_in_the_generator_alone(contract: Any, name: str) -> None:
    tuned, base = (run(contract, name, {"generator": g}, Track.TRAIN)[0] for g in ("fine-tuned", "base"))
    assert base.wishes == [(None, "own")]
    assert (base.plans, base.trainings) == (tuned.plans, tuned.trainings)


TUNED: dict[str, FineTuning] = {
    "lora": FineTuning(steps=7, batch_size=3, learning_rate=0.5, rank=2),
    "dreambooth": FineTuning(
        steps=7, batch_size=3, learning_rate=0.5, rank=2, token="xyz", prior_weight=0.5, prior_images=9
    ),
    "clustered-dreambooth": FineTuning(
        steps=7, batch_size=3, learning_rate=0.5, rank=2, token="xyz", prior_weight=0.5, prior_images=9,
        per="cluster", clusters=3, features="clip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FINE_TUNED)
def test_how_the_generator_is_fine_tuned_follows_from_the_hyper_parameters(contract: Any, name: str) -> None:
    wanted = {
        "adapter_steps": 7, "adapter_batch_size": 3, "adapter_learning_rate": 0.5, "rank": 2, "token": "xyz",
        "prior_weight": 0.5, "prior_images": 9, "clusters": 3, "features": "clip",
    }  # fmt: skip
    known = load_method(name).card.hparams.model_fields
    tools, _ = run(contract, name, {key: value for key, value in wanted.items() if key in known}, Track.TRAIN)
    assert tools.wishes == [(TUNED[name], "own")]
    assert TUNED[name].kind == name


def test_no_prior_and_no_number_of_clusters_are_said_by_zero(contract: Any) -> None:
    tools, _ = run(contract, "clustered-dreambooth", {"prior_weight": 0, "clusters": 0}, Track.TRAIN)
    ((tuning, _),) = tools.wishes
    assert (tuning.prior_weight, tuning.prior_images, tuning.clusters, tuning.per) == (0, 0, None, "cluster")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": -2}, "batch_size must be at least 1, not -2"),
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"learning_rate": 0.0}, r"learning rate 0\.0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning rate nan must be above 0"),
        ({"prior_weight": -1.0}, r"prior weight -1\.0 at least 0"),
        ({"prior_weight": 1.0}, "needs both a weight and a number of images"),
        ({"prior_images": 5}, "needs both a weight and a number of images"),
        ({"clusters": 0}, "0 clusters make no sense"),
    ],
)
def test_fine_tuning_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=f"fine-tuning: .*{message}"):
        FineTuning(**{"steps": 1, "batch_size": 1, "learning_rate": 0.1, "rank": 1, **change})


# --- hyper-parameters ----------------------------------------------------------------------------------------------


def test_defaults_of_a_tier_are_possible_values_of_hyper_parameters_that_exist() -> None:
    for name in {name for name, *_ in CASES}:
        card = load_method(name).card
        assert set(card.tier_defaults) <= set(TIERS)
        for tier in TIERS:
            assert card.defaults(tier) == resolve_hparams(load_method(name), {}, tier)
            assert set(card.tier_defaults.get(tier, {})) <= set(card.hparams.model_fields)


@pytest.mark.parametrize(
    ("name", "field", "demo", "core"),
    [
        ("jtt", "upweight", 10, 50),
        *[(name, "adapter_steps", 100, 500) for name in FINE_TUNED],
        *[(name, "adapter_learning_rate", 2e-3, 1e-4) for name in FINE_TUNED],
        *[(name, "rank", 8, 16) for name in FINE_TUNED],
        *[(name, "adapter_batch_size", 8, 4) for name in FINE_TUNED],
        ("ffr", "synthetic_share", 0.5, 0.5),
    ],
)
def test_small_tasks_have_defaults_of_their_own_that_a_user_overrides(
    name: str, field: str, demo: Any, core: Any
) -> None:
    method = load_method(name)
    values = {tier: getattr(resolve_hparams(method, {}, tier), field) for tier in (*TIERS, "")}
    assert values == {"demo": demo, "core": core, "extended": core, "": core}
    assert getattr(resolve_hparams(method, {field: core}, "demo"), field) == core
    if demo != core:
        # Another value leaves the tier's other defaults as they are.
        others = resolve_hparams(method, {field: core}, "demo").model_dump()
        assert {k for k, v in method.card.defaults("demo").model_dump().items() if others[k] != v} == {field}


def test_values_may_be_given_as_text() -> None:
    ffr = load_method("ffr")
    hparams = resolve_hparams(ffr, {"synthetic_share": "0.25", "balanced": "false", "real_loss": "group-dro"})
    assert hparams.model_dump() == {
        **resolve_hparams(ffr, {}).model_dump(),
        "synthetic_share": 0.25,
        "balanced": False,
        "real_loss": "group-dro",
    }


def test_an_unknown_hyper_parameter_comes_with_the_nearest_ones() -> None:
    with pytest.raises(UnknownName, match=r"unknown hyper-parameter of ffr 'real_los'; did you mean 'real_loss'"):
        resolve_hparams(load_method("ffr"), {"real_los": "erm"})
    with pytest.raises(UnknownName, match=r"unknown hyper-parameter of erm 'lr'\. Known: none\."):
        resolve_hparams(load_method("erm"), {"lr": 1})


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("ffr", {"synthetic_share": "half"}, r"ffr: synthetic_share='half': .*number"),
        ("ffr", {"synthetic_share": 1}, r"ffr: synthetic_share=1: .*less than 1"),
        ("ffr", {"synthetic_share": "nan"}, r"ffr: synthetic_share='nan'"),
        ("ffr", {"second_lr_scale": 0}, r"ffr: second_lr_scale=0: .*greater than 0"),
        ("ffr", {"second_lr_scale": "inf"}, r"ffr: second_lr_scale='inf'"),
        ("ffr", {"balanced": "perhaps"}, r"ffr: balanced='perhaps'"),
        ("ffr", {"real_loss": "dro"}, r"ffr: real_loss='dro': .*'group-dro' or 'dfr'"),
        ("sd-augment", {"prompt": "class", "placebo": True}, r"sd-augment: hyper-parameters=.*no placebo"),
        ("sd-augment", {"prompt": "class", "loss": "group-dro"}, r"sd-augment: hyper-parameters=.*no group loss"),
        ("copy-augment", {"groups": "a"}, r"copy-augment: groups='a'"),
        ("sd-augment", {"loss": "cvar"}, r"sd-augment: loss='cvar': .*'group-dro' or 'dfr'"),
        ("sd-augment", {"prompt": "class", "loss": "resampling"}, r"sd-augment: hyper-parameters=.*no group loss"),
        ("jtt", {"upweight": 0}, r"jtt: upweight=0: .*greater than or equal to 1"),
        ("jtt", {"identification_share": 1}, r"jtt: identification_share=1: .*less than 1"),
        ("lora", {"generator": "own"}, r"lora: generator='own': .*'fine-tuned' or 'base'"),
        ("lora", {"adapter_steps": "1.5"}, r"lora: adapter_steps='1\.5': .*integer"),
        ("lora", {"filter": "auditor"}, r"lora: filter='auditor': .*'none', 'own' or 'clip'"),
        ("dreambooth", {"token": ""}, r"dreambooth: token='': .*at least 1 character"),
        ("clustered-dreambooth", {"clusters": -1}, r"clustered-dreambooth: clusters=-1: .*greater than or equal to 0"),
    ],
)
def test_an_impossible_value_is_refused_with_its_name(method: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message) as caught:
        resolve_hparams(load_method(method), overrides)
    assert caught.value.exit_code == 2
