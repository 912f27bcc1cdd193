"""Data cards: the single source of a task's metadata, read from the YAML front matter of ``data_cards/<task>.md``."""

from __future__ import annotations

import functools
import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import DataError, InvalidValue
from benchmark.records.canonical import sha256_of
from benchmark.tasks.law import SplitLaw
from benchmark.tasks.levels import NAMED_LEVELS, normalise_level


def _exact(value: Any) -> Fraction:
    try:
        return Fraction(str(value))
    except ZeroDivisionError as error:
        raise ValueError(f"{value!r} divides by zero") from error


Share = Annotated[Fraction, BeforeValidator(_exact), Field(ge=0)]
"""An exact share, written as a decimal string."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Source(_Strict):
    """Where samples come from, in order of preference."""

    kind: Literal["hub", "url", "folder", "package"]
    location: str
    revision: str | None = None
    sha256: str | None = None
    layout: str = ""
    licence: str = ""


class Variable(_Strict):
    """A label or an attribute: its name, what it means, and the names of its values in index order."""

    name: str
    description: str
    values: tuple[str, ...] = Field(min_length=2)


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
    """How pixels are made: decoder, resize, and the normalisation that classifiers see."""

    size: int = Field(ge=8, le=1024)
    decoder: str
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    palette: dict[str, tuple[int, int, int]] | None = None
    ink_jitter: int = Field(default=0, ge=0, le=64)


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


class Prompts(_Strict):
    """Prompt templates with ``{y}`` and ``{a}``; ``overrides`` names single groups as ``"<y> <a>"``."""

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
    """Expected sizes at one level, equal for all draws; a test compares them with what the code computes."""

    level: str
    train: int
    aligned: int
    conflicting: int
    populated_groups: int
    smallest_group: int
    validation: int
    validation_conflicting: int
    test: int
    audit: int


class TaskBlock(_Strict):
    """The ``genbias:`` block of a card."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    split_version: int = Field(ge=1)
    tier: Literal["demo", "core", "extended"]
    source_module: str
    sources: tuple[Source, ...] = Field(min_length=1)
    terms: str
    faces: bool
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
        if self.attribute_kind == "rendered" and set(self.pixels.palette or {}) != attributes:
            raise ValueError("a rendered attribute needs a palette with one colour per value")
        return self


class DataCard(BaseModel):
    """A whole card: the Hub's own front matter, our block, and the prose."""

    model_config = ConfigDict(frozen=True)

    hub: dict[str, Any]
    task: TaskBlock
    prose: str
    digest: str

    @property
    def id(self) -> str:
        """Name and version, such as ``colorized-digits@1``."""
        return f"{self.task.name}@{self.task.version}"

    @property
    def law(self) -> SplitLaw:
        """The split law that this card describes."""
        task = self.task
        index = {value: k for k, value in enumerate(task.attribute.values)}
        caps = task.aligned_cap
        return SplitLaw(
            task=task.name,
            split_version=task.split_version,
            n_classes=len(task.label.values),
            n_attributes=len(task.attribute.values),
            aligned=tuple(index[value] for value in task.aligned),
            attribute=task.attribute_kind,
            audit_share=task.shares.audit,
            test_share=task.shares.test,
            validation_share=task.shares.validation,
            aligned_cap=None if caps is None else tuple(caps.get(value) for value in task.label.values),
        )

    def check_level(self, level: str | None) -> str:
        """Return the normal spelling of an offered level; None gives the default.

        Raises:
            InvalidValue: When the task does not offer it.
        """
        if level is None:
            return self.task.default_level
        normal = normalise_level(level)
        if normal not in self.task.levels:
            raise InvalidValue(
                f"{self.task.name} has no bias level {level!r}; offered: {', '.join(self.task.levels)} "
                f"(a share of bias-aligned samples within each class, or {' / '.join(NAMED_LEVELS)})"
            )
        return normal

    def prompt(self, y: int, a: int | None) -> str:
        """Return the prompt of a group, or of a class alone when ``a`` is None."""
        prompts = self.task.prompts
        label = self.task.label.values[y]
        if a is None:
            return prompts.class_only.format(y=label)
        attribute = self.task.attribute.values[a]
        override = prompts.overrides.get(f"{label} {attribute}")
        return override if override is not None else prompts.class_attribute.format(y=label, a=attribute)


def cards_folder() -> Path:
    """Return the folder of the cards, in a checkout or an installed wheel."""
    spec = importlib.util.find_spec("data_cards")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the folder data_cards is missing from this installation; reinstall genbias-bench")
    return Path(next(iter(spec.submodule_search_locations)))


def card_names() -> list[str]:
    """Return the names of all tasks that have a card."""
    return sorted(p.stem for p in cards_folder().glob("*.md") if p.stem != "README")


def parse_card(text: str, origin: str) -> DataCard:
    """Parse a card.

    Args:
        text: Markdown with YAML front matter.
        origin: What to call it in errors.

    Raises:
        DataError: When the front matter is missing or a field is wrong.
    """
    head, separator, prose = text.removeprefix("---\n").partition("\n---\n")
    try:
        front = yaml.safe_load(head) if separator else None
    except yaml.YAMLError as error:
        raise DataError(f"data card {origin}: the front matter is not YAML: {error}") from error
    if not isinstance(front, dict) or "genbias" not in front:
        raise DataError(f"data card {origin} has no YAML front matter with a `genbias:` block")
    block = front.pop("genbias")
    try:
        task = TaskBlock.model_validate(block)
        # The digest covers what changes results, not the prose.
        digest = sha256_of(block)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'genbias'}: {e['msg']}" for e in error.errors()]
        raise DataError(f"data card {origin}: {'; '.join(wrong)}") from error
    except (ValueError, TypeError, InvalidValue) as error:
        raise DataError(f"data card {origin}: {error}") from error
    return DataCard(hub=front, task=task, prose=prose, digest=digest)


@functools.cache
def load_card(name: str) -> DataCard:
    """Load the card of a task by its bare name.

    Raises:
        DataError: When there is no such card or it is wrong.
    """
    path = cards_folder() / f"{name}.md"
    if not path.is_file():
        raise DataError(f"no data card {path.name}; there are {', '.join(card_names())}")
    card = parse_card(path.read_text(encoding="utf-8"), path.name)
    if card.task.name != name:
        raise DataError(f"data card {path.name} describes {card.task.name!r}; file and task must have one name")
    return card
