"""Finding tasks by name: every card is a task; its ``source_module`` says which class reads the data."""

from __future__ import annotations

import functools
import importlib
import re

from benchmark.errors import DataError, GenBiasError, UnknownName, UsageError
from benchmark.tasks.card import DataCard, card_names, load_card, load_superseded
from benchmark.tasks.plugins import plug_in_card, plug_in_tasks, said_by
from benchmark.tasks.task import Task

DEFAULT_TASK = "colorized-digits"
_REFERENCE = re.compile(r"((?:[A-Za-z0-9][\w.-]*/)?[a-z0-9-]+)(?:@(\d+))?", re.ASCII)


def find_card(reference: str) -> DataCard:
    """Return the card of ``name`` or ``name@version``; an earlier version's is among the superseded ones.

    Raises:
        UnknownName: With the nearest names.
        UsageError: When the version asked for is not at hand.
    """
    match = _REFERENCE.fullmatch(reference)
    name = match.group(1) if match else reference
    known = [*card_names(), *plug_in_tasks()]
    if match is None or name not in known:
        raise UnknownName("task", reference, known, "See `genbias-bench list tasks`.")
    card = _card(name)
    version = int(match.group(2) or card.task.version)
    if version == card.task.version:
        return card
    earlier = load_superseded(name, version) if version < card.task.version else None
    if earlier is None:
        raise UsageError(f"task {name!r} is at version {card.task.version}; version {version} is not in this release")
    return earlier


def superseded_by(card: DataCard) -> str | None:
    """Return the task that took a card's place: its current version, or the one that the card names; else None."""
    current = _card(card.task.name)
    return current.id if current.task.version > card.task.version else card.task.superseded_by


def _card(name: str) -> DataCard:
    return plug_in_card(name) if name in plug_in_tasks() else load_card(name)


@functools.cache
def load_task(reference: str) -> Task:
    """Return the task of ``name`` or ``name@version``.

    Raises:
        UnknownName: For a name without a card.
        DataError: When the card names no usable source.
    """
    card = find_card(reference)
    module_name, _, class_name = card.task.source_module.partition(":")
    try:
        task = getattr(importlib.import_module(module_name), class_name)(card)
    except GenBiasError:
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises becomes one sentence
        said = said_by(error, module_name)
        raise DataError(f"data card {card.id}: source_module {card.task.source_module!r}: {said}") from error
    if not isinstance(task, Task):
        raise DataError(f"data card {card.id}: {card.task.source_module} is no Task")
    return task
