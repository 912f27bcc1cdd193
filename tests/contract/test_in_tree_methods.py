"""The in-tree adapters: what they declare per configuration is what they need, no less and no more."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from benchmark.contract.registry import listed_methods, load_method, resolve_hparams
from benchmark.contract.tracks import Track
from benchmark.errors import InvalidValue, UndeclaredGroupLabels, UnknownName

LOSSES = ("erm", "resampling", "reweighting", "group-dro")

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
    *[
        ("sd-augment", {"balance": balance, "loss": loss, "groups": groups}, "train", ("mixed",))
        for balance, loss, groups in itertools.product(("fill", "add"), LOSSES[1:], ("y,a", "y,a,source"))
    ],
]


def run(contract: Any, name: str, overrides: dict[str, Any], granted: Track) -> tuple[Any, list[str]]:
    method, tools = load_method(name), contract.tools(granted)
    stages = [stage.name for stage in method.fit(contract.data_of(granted), tools, resolve_hparams(method, overrides))]
    return tools, stages


@pytest.mark.parametrize(("name", "overrides", "track", "stages"), CASES)
def test_the_declared_track_is_enough_and_the_declared_stages_come(
    contract: Any, name: str, overrides: dict[str, Any], track: str, stages: tuple[str, ...]
) -> None:
    method = load_method(name)
    hparams = resolve_hparams(method, overrides)
    assert method.card.track_of(hparams) == track
    assert method.card.stages_of(hparams) == stages
    _, yielded = run(contract, name, overrides, Track(track))
    assert tuple(yielded) == stages


@pytest.mark.parametrize(("name", "overrides"), [(n, o) for n, o, track, _ in CASES if track == "train"])
def test_less_than_the_declared_track_is_not_enough(contract: Any, name: str, overrides: dict[str, Any]) -> None:
    with pytest.raises(UndeclaredGroupLabels):
        run(contract, name, overrides, Track.VALIDATION_TRAINS)


def test_every_in_tree_adapter_is_in_these_tests_and_says_what_it_is() -> None:
    known = {name for name, listed in listed_methods().items() if listed.in_tree}
    assert {"copy-augment", "erm", "ffr", "sd-augment"} <= known
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
    assert tools.trainings == [{"n": 36, "synthetic": 18, "loss": "erm", "groups": "y,a"}]


def test_copies_are_made_of_populated_groups_only(contract: Any) -> None:
    tools, _ = run(contract, "copy-augment", {"loss": "resampling", "groups": "y,a,source"}, Track.TRAIN)
    (plan,) = tools.plans
    assert (1, 0) not in plan
    assert sum(plan.values()) == 18
    assert tools.trainings == [{"n": 36, "synthetic": 0, "loss": "resampling", "groups": "y,a,source"}]


# --- hyper-parameters ----------------------------------------------------------------------------------------------


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
        ("ffr", {"real_loss": "dro"}, r"ffr: real_loss='dro': .*group-dro"),
        ("sd-augment", {"prompt": "class", "placebo": True}, r"sd-augment: hyper-parameters=.*no placebo"),
        ("sd-augment", {"prompt": "class", "loss": "group-dro"}, r"sd-augment: hyper-parameters=.*no group loss"),
        ("copy-augment", {"groups": "a"}, r"copy-augment: groups='a'"),
    ],
)
def test_an_impossible_value_is_refused_with_its_name(method: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message) as caught:
        resolve_hparams(load_method(method), overrides)
    assert caught.value.exit_code == 2
