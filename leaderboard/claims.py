"""What a record says about its method, held against the method's own card and code where this release has them."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import ValidationError

from benchmark.contract.method import MethodCard
from benchmark.contract.registry import listed_methods, load_method, source_digest
from benchmark.contract.space import TRAINING, dimensions_of, recipe_space
from benchmark.errors import DamagedFile
from benchmark.generators.sampling import sampling_of
from benchmark.records.schema import Record
from benchmark.tasks.card import DEFAULT_RECIPE, DataCard
from leaderboard.load import Run

_GENERATOR_SAMPLING = ("scheduler", "steps", "guidance")


def in_tree_card(name: str) -> MethodCard | None:
    """Return the card of an in-tree method; None for others.

    A plug-in is not looked up: which version of it happens to be installed here says nothing about the board.
    """
    listed = listed_methods().get(name)
    return load_method(name).card if listed is not None and listed.in_tree else None


_code_digest = functools.cache(source_digest)
"""The code that this process runs does not change; thousands of records ask for it."""


def stale_reasons(record: Record, card: DataCard) -> list[str]:
    """Return what has changed since a run was made: the data card, the method's code or version."""
    reasons = []
    if record.task.card_digest != card.digest:
        reasons.append("stale: the task's data card has changed since")
    method = in_tree_card(record.method.name)
    if method is None:
        return reasons
    if method.version != record.method.version:
        reasons.append(f"stale: the method is at version {method.version} now")
    elif _code_digest(record.method.name) != record.method.source_digest:
        reasons.append("stale: the method's code has changed since")
    return reasons


def check_claims(run: Run) -> None:
    """Hold the record's track, oracle mark and configuration against the card of an unchanged in-tree method.

    Raises:
        DamagedFile: When the record says something else than the card.
    """
    record = run.record
    card = in_tree_card(record.method.name)
    if (
        card is None
        or card.version != record.method.version
        or _code_digest(record.method.name) != record.method.source_digest
    ):
        return  # marked as stale, or not ours
    try:
        hparams = card.hparams.model_validate(record.method.hparams)
    except ValidationError as error:
        raise DamagedFile(f"{run.file}: {card.id} has no such hyper-parameters: {error.errors()[0]['msg']}") from error
    expected: dict[str, Any] = {
        "track": card.track_of(hparams).value,
        "oracle": card.oracle,
        "kind": card.kind,
        "uses_generator": card.generator_for(hparams),
    }
    for name, value in expected.items():
        if getattr(record.method, name) != value:
            raise DamagedFile(f"{run.file}: {name} is {getattr(record.method, name)!r}, but {card.id} has {value!r}")
    said, defaults = record.method.configuration, card.defaults(record.task.tier)
    if said != "tuned" and (said == "default") != (hparams == defaults):
        raise DamagedFile(f"{run.file}: configuration {said!r} does not fit its hyper-parameters")
    if said == "tuned":
        space = dimensions_of(card)
        for name, value in hparams:
            if value != getattr(defaults, name) and not (name in space and space[name].holds(value)):
                raise DamagedFile(f"{run.file} is tuned with {name}={value!r}, which is not in the space of {card.id}")
    if (record.cell.generator is not None) != expected["uses_generator"]:
        raise DamagedFile(f"{run.file}: {card.id} {'uses a' if expected['uses_generator'] else 'uses no'} generator")
    missing = {part.component for part in card.external_data} - {part.component for part in record.method.external_data}
    if missing:
        raise DamagedFile(f"{run.file} does not name the external data {sorted(missing)[0]!r} of {card.id}")


def changed_settings(record: Record, card: DataCard) -> dict[str, Any]:
    """Return hyper-parameters that are not the default, and what differs from the task's recipe and sampling.

    The defaults of a method that is not in this release are unknown; then the record's own word is shown.
    """
    known = in_tree_card(record.method.name)
    defaults = known.defaults(card.task.tier).model_dump(mode="json") if known is not None else None
    if defaults is None:
        changed = dict(record.method.hparams_changed)
    else:
        changed = {k: v for k, v in record.method.hparams.items() if k not in defaults or defaults[k] != v}
    return changed | recipe_changes(record, card) | _sampling_changes(record, card)


def recipe_of(record: Record, card: DataCard) -> str:
    """Return which of the card's recipes a run is compared under: the one it names, if the card has it."""
    return record.task.recipe if record.task.recipe in card.task.recipes else DEFAULT_RECIPE


def foreign_changes(record: Record, card: DataCard) -> dict[str, Any]:
    """Return what of the training recipe is not the card's, and was not tuned either: such a run is not ranked."""
    changes = recipe_changes(record, card)
    if record.method.configuration != "tuned":
        return changes
    space = recipe_space(card.recipe(recipe_of(record, card)))
    tuned = {f"{TRAINING}{name}" for name, each in space.items() if each.holds(record.cell.training.get(name))}
    return {name: value for name, value in changes.items() if name not in tuned}


def recipe_changes(record: Record, card: DataCard) -> dict[str, Any]:
    """Return what of the training recipe is not the card's: such a run is another row."""
    recipe, used = card.recipe(recipe_of(record, card)).model_dump(mode="json"), record.cell.training
    return {f"{TRAINING}{k}": used.get(k) for k in sorted(recipe | used) if used.get(k) != recipe.get(k)}


def _sampling_changes(record: Record, card: DataCard) -> dict[str, Any]:
    generator = record.cell.generator
    if generator is None:
        return {}
    default = sampling_of(str(generator.get("name")), card.task.generator).model_dump(mode="json")
    return {f"generator.{k}": generator.get(k) for k in _GENERATOR_SAMPLING if generator.get(k) != default[k]}
