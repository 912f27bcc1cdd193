"""Data cards: the single source of a task's metadata, read from the YAML front matter of ``data_cards/<task>.md``."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.errors import DataError, InvalidValue, UnknownName
from benchmark.records.canonical import sha256_of
from benchmark.tasks.block import RecipeVariant, TaskBlock, TrainingRecipe
from benchmark.tasks.law import SplitLaw
from benchmark.tasks.levels import NAMED_LEVELS, normalise_level

DEFAULT_RECIPE = "default"
SUPERSEDED = "superseded"
"""Folder of the cards of earlier versions, inside the folder of the cards."""


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

    def recipe(self, name: str | None = None) -> TrainingRecipe:
        """Return a training recipe by name; None and ``default`` give the one under ``training``.

        Raises:
            UnknownName: For a recipe that the card does not have.
        """
        if name is None or name == DEFAULT_RECIPE:
            return self.task.training
        if name not in self.task.recipes:
            raise UnknownName(f"recipe of {self.task.name}", name, [DEFAULT_RECIPE, *self.task.recipes])
        return self.task.recipes[name]

    def image_size(self, recipe: TrainingRecipe) -> int:
        """Return height and width of the images that a recipe trains on, in pixels."""
        return recipe.image_size if isinstance(recipe, RecipeVariant) else self.task.pixels.size

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

    def allowed_groups(self) -> NDArray[np.bool_]:
        """Return which pairs (y, a) are comparable groups, bool [classes, attributes]: a's family must be y's."""
        task = self.task
        allowed = np.zeros((len(task.label.values), len(task.attribute.values)), dtype=np.bool_)
        for y, label in enumerate(task.label.values):
            for value in task.attribute_family[(task.class_family or {}).get(label, 0)]:
                allowed[y, task.attribute.values.index(value)] = True
        return allowed

    def prompt(self, y: int, a: int | None) -> str:
        """Return the prompt of a group, or of a class alone when ``a`` is None."""
        prompts = self.task.prompts
        label = self.task.label.values[y]
        if a is None:
            return prompts.overrides.get(label, prompts.class_only.format(y=label))
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


@functools.cache
def load_superseded(name: str, version: int) -> DataCard | None:
    """Load the card of a task's earlier version, as ``data_cards/superseded/<task>@<version>.md`` keeps it.

    Returns:
        The card; None where none is kept.

    Raises:
        DataError: When it is wrong.
    """
    path = cards_folder() / SUPERSEDED / f"{name}@{version}.md"
    if not path.is_file():
        return None
    card = parse_card(path.read_text(encoding="utf-8"), path.name)
    if card.id != path.stem:
        raise DataError(f"data card {path.name} describes {card.id}; file and task must have one name and version")
    return card
