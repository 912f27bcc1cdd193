"""Declared spaces: what a card may say is tuned, and what every method may tune of a recipe."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from benchmark.contract.method import Hparams, MethodCard
from benchmark.contract.registry import listed_methods, load_method
from benchmark.contract.space import SEED, Choice, Range, dimensions_of, recipe_space
from benchmark.contract.tracks import Track
from benchmark.errors import ContractViolation
from benchmark.tasks.catalog import find_card
from benchmark.tasks.law import DRAWS


class Settings(Hparams):
    """Hyper-parameters of every kind."""

    share: float = Field(0.5, gt=0, lt=1)
    times: int = Field(10, ge=1, le=100)
    loss: Literal["erm", "resampling", "dfr"] = "erm"
    generated: bool = False
    frozen: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        if self.frozen and self.loss == "resampling":
            raise ValueError("nothing moves")
        return self

    def track(self) -> Track:
        return Track.TRAIN if self.loss == "resampling" else Track.NONE

    def stages(self) -> tuple[str, ...]:
        return ("real", "last-layer") if self.loss == "dfr" else ("real",)


def card(space: dict[str, Any], **changes: Any) -> MethodCard:
    fields: dict[str, Any] = {
        "name": "x", "version": 1, "summary": "s", "source": "test", "track": Track.NONE, "stages": ("real",),
        "hparams": Settings, "space": space,
    }  # fmt: skip
    return MethodCard(**(fields | changes))


def test_literals_are_ranges_and_lists_and_a_whole_number_stays_one() -> None:
    found = dimensions_of(card({"share": (0.1, 0.9), "times": (5, 100, "log"), "loss": ["erm", "resampling"]}))
    assert found == {
        "share": Range(low=0.1, high=0.9), "times": Range(low=5, high=100, log=True, whole=True),
        "loss": Choice(values=("erm", "resampling")),
    }  # fmt: skip
    assert (found["share"].holds(0.1), found["share"].holds(0.91), found["share"].holds("0.5")) == (True, False, False)
    assert (found["times"].holds(7), found["times"].holds(7.5), found["times"].holds(True)) == (True, False, False)
    assert (found["loss"].holds("erm"), found["loss"].holds("dfr"), Choice(values=(1, 2)).holds(True)) == (
        True, False, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"shares": (0.1, 0.9)}, "names 'shares'; its hyper-parameters are share, times"),
        ({"share": (0.9, 0.1)}, r"space of share, \(0.9, 0.1\): .*0.9 must lie below 0.1"),
        ({"share": (0.5, 0.5)}, "must lie below"),
        ({"share": (0.0, 0.5, "log")}, "0 has no logarithm"),
        ({"share": (0.1, 0.9, "linear")}, "neither"),
        ({"share": 0.5}, "neither"),
        ({"share": ("low", "high")}, "valid number"),
        ({"loss": ["erm"]}, "at least 2"),
        ({"share": (0.1, 1.0)}, "its space holds share=1.0, which it refuses: Input should be less than 1"),
        ({"times": (0, 50)}, "its space holds times=0, which it refuses"),
        ({"loss": ["erm", "group-dro"]}, "loss='group-dro', which it refuses"),
        ({"share": (0.6, 0.9)}, "the default share=0.5 is not in its space"),
        ({"frozen": [True, "false"]}, "the default frozen=False is not in its space"),
        ({"frozen": [False, "true"]}, "frozen='true', which it takes for another"),
        ({"loss": ["erm", "resampling"], "frozen": [False, True]}, "loss='resampling', frozen=True, which it refuses"),
    ],
)
def test_a_space_that_the_hyper_parameters_do_not_have_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        card(space)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        ({"loss": ["erm", "resampling"]}, {"track": Settings.track}, "another arm, no setting: track none"),
        ({"loss": ["erm", "dfr"]}, {"stages": Settings.stages}, "another arm, no setting: stages"),
        (
            {"generated": [False, True]}, {"uses_generator": lambda hparams: hparams.generated},
            "another arm, no setting: uses_generator False becomes True",
        ),
    ],
)  # fmt: skip
def test_an_arm_is_no_setting(space: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    assert card(space).space == space
    with pytest.raises(ContractViolation, match=message):
        card(space, **changes)


def test_the_defaults_of_every_tier_lie_in_the_space() -> None:
    tiers = {"tier_defaults": {"demo": {"times": 2}}}
    assert card({"times": (1, 20)}, **tiers).space
    with pytest.raises(ContractViolation, match="the default times=2 is not in its space"):
        card({"times": (5, 20)}, **tiers)


def test_a_process_has_no_space() -> None:
    with pytest.raises(ContractViolation, match="a process is observed"):
        card({"times": (1, 20)}, kind="process", rounds=lambda _: 1)


def test_every_method_with_settings_says_what_is_tuned_and_has_it_in_literals() -> None:
    cards = {name: load_method(name).card for name, listed in listed_methods().items() if listed.in_tree}
    without = {name for name, each in cards.items() if not each.space}
    assert without == {"erm", "resampling", "reweighting", "group-dro", "dfr", "self-consuming-loop"}
    # The three of one paper are searched alike; a control as the method that it is the control of.
    shared = dict(cards["lora"].space)
    assert all(shared.items() <= dict(cards[name].space).items() for name in ("dreambooth", "clustered-dreambooth"))
    assert cards["placebo"].space == cards["copy-augment"].space == cards["sd-augment"].space


def test_every_method_may_tune_two_settings_of_the_recipe_around_the_task_s() -> None:
    recipe = find_card("colorized-digits").recipe(None)
    found = recipe_space(recipe)
    assert {name: (each.low, each.high, each.log) for name, each in found.items()} == {
        "learning_rate": pytest.approx((0.0002, 0.02, True)), "weight_decay": pytest.approx((0.0001, 1.0, True)),
    }  # fmt: skip
    assert all(each.holds(getattr(recipe, name)) for name, each in found.items())
    assert set(recipe_space(recipe.model_copy(update={"weight_decay": 0.0}))) == {"learning_rate"}


def test_the_seed_of_trials_is_of_draw_0_and_of_no_reported_row() -> None:
    assert (SEED % len(DRAWS), SEED > 999) == (0, True)
