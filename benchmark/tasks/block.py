"""The ``genbias:`` block of a data card as models: what a card must say, and what it may not."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from benchmark.tasks.levels import normalise_level


def _exact(value: Any) -> Fraction:
    try:
        return Fraction(str(value))
    except ZeroDivisionError as error:
        raise ValueError(f"{value!r} divides by zero") from error


Share = Annotated[Fraction, BeforeValidator(_exact), Field(ge=0)]
"""An exact share, written as a decimal string."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class SourceFile(_Strict):
    """One file of a source: its path below the source's location, and what pins its content.

    Attributes:
        name: Relative path, with forward slashes.
        sha256: Of the file as it is served, where known.
        md5: The same, where only that was published.
        content_md5: MD5 after decompression, for files that are served in several compressions.
        remote: What stands in the address instead of the name, where a host calls the file otherwise.
        optional: The task works without it; the record says so.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/-]*$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    content_md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    remote: str | None = None
    optional: bool = False


class Source(_Strict):
    """Where samples come from, in order of preference.

    ``hub`` and ``url`` can be fetched; ``folder`` says how a copy that the user has must look; ``package`` is data
    inside an installed package.
    """

    kind: Literal["hub", "url", "folder", "package"]
    location: str
    revision: str | None = None
    sha256: str | None = None
    files: tuple[SourceFile, ...] = ()
    layout: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _pinned(self) -> Source:
        if self.kind == "hub" and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(f"Hub source {self.location!r} needs a full commit as its revision")
        if self.kind in ("hub", "url") and not self.files:
            raise ValueError(f"source {self.location!r} must name its files")
        if any(".." in file.name.split("/") for file in self.files):
            raise ValueError(f"a file of source {self.location!r} climbs out of its folder")
        return self


class Variable(_Strict):
    """A label or an attribute: its name, what it means, and the names of its values in index order."""

    name: str
    description: str
    values: tuple[str, ...] = Field(min_length=2)
    codes: tuple[str, ...] | None = Field(default=None, description="what the source calls the values, in their order")


class Shares(_Strict):
    """Which share of each group each split gets; null where an official partition exists."""

    audit: Share
    test: Share | None = None
    validation: Share | None = None

    @model_validator(mode="after")
    def _leave_something(self) -> Shares:
        if sum((self.audit, self.test or Fraction(0), self.validation or Fraction(0)), Fraction(0)) >= 1:
            raise ValueError("the shares leave nothing for training")
        return self


class Pixels(_Strict):
    """How pixels are made: decoder, resize, and the normalisation that classifiers see.

    ``crop`` and ``scaled_decoding`` are read by the code where images are decoded from files; ``decoder`` and
    ``resize`` are for people.
    """

    size: int = Field(ge=8, le=1024)
    decoder: str
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    palette: dict[str, tuple[int, int, int]] | None = None
    ink_jitter: int = Field(default=0, ge=0, le=64)
    crop: Literal["none", "center-square"] = "none"
    scaled_decoding: bool = Field(default=True, description="JPEGs are decoded at the nearest larger eighth")


class TrainingRecipe(_Strict):
    """The default classifier training, the same for every method; length in optimiser steps over all stages."""

    backbone: str
    backbone_weights: str | None = None
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimiser: Literal["adamw", "sgd"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_share: float = Field(ge=0, lt=1)
    evaluations: int = Field(ge=1, description="validation passes over all stages, from which rules choose")


class RecipeVariant(TrainingRecipe):
    """A further named recipe, at an image size of its own: its rows are compared with each other only."""

    image_size: int = Field(ge=8, le=1024)


class Prompts(_Strict):
    """Prompt templates with ``{y}`` and ``{a}``; ``overrides`` names groups as ``"<y> <a>"``, classes as ``"<y>"``."""

    class_attribute: str
    class_only: str
    negative: str = ""
    overrides: dict[str, str] = {}


class GeneratorDefault(_Strict):
    """The generator that a method uses unless told otherwise, and how it is sampled."""

    name: str
    scheduler: str
    steps: int = Field(ge=1)
    guidance: float = Field(ge=0)
    batch_size: int = Field(ge=1)


class Synthetic(_Strict):
    """Budget of protocol §4: B = min(USB total, per_real · N) kept images."""

    per_real: Share


class LevelCounts(_Strict):
    """Expected sizes at one level; a test compares them with what the code computes. Null where draws differ."""

    level: str
    train: int
    aligned: int
    conflicting: int
    populated_groups: int | None
    smallest_group: int | None
    validation: int
    validation_conflicting: int
    test: int
    audit: int
    groups: tuple[tuple[int, ...], ...] | None = Field(
        default=None, description="training images [classes][attributes]; stated for tasks with few groups"
    )


class TaskBlock(_Strict):
    """The ``genbias:`` block of a card."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    split_version: int = Field(ge=1)
    tier: Literal["demo", "core", "extended"]
    source_module: str
    data_set: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]*$")
    sources: tuple[Source, ...] = Field(min_length=1)
    terms: str
    terms_accept: bool = Field(default=False, description="the terms must be accepted before data are used")
    faces: bool
    never_fine_tune: tuple[str, ...] = Field(
        default=(), description="attribute values on whose images no generator is fine-tuned (protocol §10)"
    )
    bias_kind: Literal["spurious", "subpopulation"]
    label: Variable
    attribute: Variable
    attribute_kind: Literal["observed", "rendered"]
    aligned: tuple[str, ...]
    attribute_family: tuple[tuple[str, ...], ...]
    class_family: dict[str, int] | None = None
    positive_class: str | None = None
    ranking_metric: Literal["acc_worst_group", "acc_conflicting"]
    test: Literal["crossed", "official", "natural"]
    levels: tuple[str, ...]
    default_level: str
    shares: Shares
    aligned_cap: dict[str, int] | None = None
    pixels: Pixels
    training: TrainingRecipe
    recipes: dict[str, RecipeVariant] = {}
    prompts: Prompts
    generator: GeneratorDefault
    synthetic: Synthetic
    metrics: tuple[str, ...]
    expected: tuple[LevelCounts, ...]
    superseded_by: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TaskBlock:
        attributes = set(self.attribute.values)
        for variable in (self.label, self.attribute):
            if len(set(variable.values)) != len(variable.values):
                raise ValueError(f"a value of {variable.name!r} stands twice")
        if not set(self.never_fine_tune) <= attributes:
            raise ValueError("`never_fine_tune` must name attribute values")
        if not set(self.aligned_cap or ()) <= set(self.label.values):
            raise ValueError("`aligned_cap` must name label values")
        if len(self.aligned) != len(self.label.values) or not set(self.aligned) <= attributes:
            raise ValueError("`aligned` must name one attribute value per class")
        if {v for family in self.attribute_family for v in family} != attributes:
            raise ValueError("`attribute_family` must cover every attribute value")
        for level in self.levels:
            if normalise_level(level) != level:
                raise ValueError(f"level {level!r} is not in its normal spelling {normalise_level(level)!r}")
        if self.default_level not in self.levels:
            raise ValueError(f"default_level {self.default_level!r} is not among the levels")
        if len(set(self.levels)) != len(self.levels):
            raise ValueError("a level stands twice")
        if "default" in self.recipes:
            raise ValueError("`default` is the name of the recipe under `training`; call another recipe otherwise")
        self._check_families()
        if self.attribute_kind == "rendered" and set(self.pixels.palette or {}) != attributes:
            raise ValueError("a rendered attribute needs a palette with one colour per value")
        return self

    def _check_families(self) -> None:
        families = self.class_family or {}
        if families and set(families) != set(self.label.values):
            raise ValueError("`class_family` must name every label value")
        for label, aligned in zip(self.label.values, self.aligned, strict=True):
            index = families.get(label, 0)
            if not 0 <= index < len(self.attribute_family):
                raise ValueError(f"`class_family` gives {label!r} family {index}, which does not exist")
            if aligned not in self.attribute_family[index]:
                raise ValueError(f"the aligned value {aligned!r} of {label!r} is not of its family")
