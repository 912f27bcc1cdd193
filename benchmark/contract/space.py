"""What is tuned: the space that a method's card declares, and the two recipe settings that all methods share.

A card writes its space in plain literals: ``(low, high)``, ``(low, high, "log")``, or a list of values. What is
searched does not change what a run computes, so a wider space makes no record stale; one that is narrowed leaves
accepted ``tuned`` rows outside, which the board then refuses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import ContractViolation
from benchmark.tasks.block import TrainingRecipe

if TYPE_CHECKING:
    from benchmark.contract.method import Hparams, MethodCard

MOST_TRIALS: Final = 20
MOST_ERM_RUNS: Final = 20
"""Configurations of a study, and its device time as a multiple of one ERM run's (protocol §3)."""
LEVEL: Final = "0.95"
SEED: Final = 1000
"""Where trials run (protocol §3): at one bias level, on draw 0 (the seed is a multiple of five), with a seed that no
reported row has."""

TRAINING: Final = "training."
"""Prefix of the settings of the training recipe among what is tuned."""
RECIPE_FACTORS: Mapping[str, tuple[float, float]] = {"learning_rate": (0.1, 10.0), "weight_decay": (0.01, 100.0)}
"""What every method may tune of the task's recipe, as factors on it. From a weight decay of .01 they reach the strong
regularisation that Group-DRO needs (Sagawa 2020) and the values that Idrissi 2022 compares, 1e-4 to 1."""

Space = Mapping[str, tuple[float, float] | tuple[float, float, Literal["log"]] | list[Any]]
"""Hyper-parameter → range or list of values."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Strict):
    """Numbers from ``low`` to ``high``, drawn evenly, or evenly in the logarithm."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"{self.low:g} must lie below {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"{self.low:g} has no logarithm")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        number = isinstance(value, int if self.whole else (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


class Choice(_Strict):
    """One of some values."""

    values: tuple[str | bool | int | float, ...] = Field(min_length=2)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them; True is not 1."""
        return any(value == each and type(value) is type(each) for each in self.values)


Dimension = Range | Choice


def dimensions_of(card: MethodCard) -> dict[str, Dimension]:
    """Return the space of a card as ranges and choices; a range of whole numbers where the hyper-parameter is one.

    Raises:
        ContractViolation: For an unknown hyper-parameter, or what is neither a range nor a list of values.
    """
    found: dict[str, Dimension] = {}
    for name, literal in card.space.items():
        field = card.hparams.model_fields.get(name)
        if field is None:
            known = ", ".join(card.hparams.model_fields) or "none"
            raise ContractViolation(f"method {card.name!r}: its space names {name!r}; its hyper-parameters are {known}")
        try:
            found[name] = _dimension(literal, whole=field.annotation is int)
        except (ValidationError, TypeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise ContractViolation(f"method {card.name!r}: space of {name}, {literal!r}: {reason}") from error
    return found


def _dimension(literal: Any, *, whole: bool) -> Dimension:
    if isinstance(literal, list):
        return Choice(values=tuple(literal))
    match literal:
        case (low, high):
            return Range(low=low, high=high, whole=whole)
        case (low, high, "log"):
            return Range(low=low, high=high, log=True, whole=whole)
    raise TypeError("neither (low, high), (low, high, 'log') nor a list of values")


def recipe_space(recipe: TrainingRecipe) -> dict[str, Range]:
    """Return what every method may tune of a task's recipe; a setting that is zero has no range."""
    return {
        name: Range(low=low * getattr(recipe, name), high=high * getattr(recipe, name), log=True)
        for name, (low, high) in RECIPE_FACTORS.items()
        if getattr(recipe, name) > 0
    }


def check_space(card: MethodCard) -> None:
    """Refuse a space that a card cannot mean.

    Every end of a range and every combination of listed values must be hyper-parameters that the model takes, must hold
    the defaults of every tier, and must leave track, stages and use of a generator as they are: an arm is no setting.

    Raises:
        ContractViolation: With the hyper-parameter.
    """
    if not card.space:
        return
    if card.kind == "process":
        raise ContractViolation(f"method {card.name!r}: a process is observed, so it has no space to tune")
    dimensions = dimensions_of(card)
    for tier in ("", *card.tier_defaults):
        defaults = card.defaults(tier)
        for name, dimension in dimensions.items():
            if not dimension.holds(getattr(defaults, name)):
                raise ContractViolation(
                    f"method {card.name!r}: the default {name}={getattr(defaults, name)!r} is not in its space"
                )
        for values in _corners(dimensions):
            _check_values(card, defaults, values)


def _corners(dimensions: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Yield the ends of each range, one at a time, and every combination of listed values."""
    choices = {name: each.values for name, each in dimensions.items() if isinstance(each, Choice)}
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))
    for name, each in dimensions.items():
        if isinstance(each, Range):
            for end in (each.low, each.high):
                yield {name: int(end) if each.whole else end}


def _check_values(card: MethodCard, defaults: Hparams, values: Mapping[str, Any]) -> None:
    said = ", ".join(f"{name}={value!r}" for name, value in values.items())
    try:
        changed = card.hparams.model_validate({**dict(defaults), **values})
    except ValidationError as error:
        raise ContractViolation(
            f"method {card.name!r}: its space holds {said}, which it refuses: {error.errors()[0]['msg']}"
        ) from error
    for name, value in values.items():
        if getattr(changed, name) != value:
            raise ContractViolation(
                f"method {card.name!r}: its space holds {name}={value!r}, which it takes for another"
            )
    for what, of in (("track", card.track_of), ("stages", card.stages_of), ("uses_generator", card.generator_for)):
        if of(defaults) != of(changed):
            raise ContractViolation(
                f"method {card.name!r}: {said} is another arm, no setting: {what} {of(defaults)} becomes {of(changed)}"
            )
