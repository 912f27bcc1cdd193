"""Finding tasks by name: every card is a task; its ``source_module`` says which class reads the data."""

from __future__ import annotations

import functools
import importlib
import re

from benchmark.errors import DataError, UnknownName, UsageError
from benchmark.tasks.card import DataCard, card_names, load_card
from benchmark.tasks.task import Task

DEFAULT_TASK = "colorized-digits"
_REFERENCE = re.compile(r"([a-z0-9-]+)(?:@(\d+))?")


def find_card(reference: str) -> DataCard:
    """Return the card of ``name`` or ``name@version``.

    Raises:
        UnknownName: With the nearest names.
        UsageError: When the version asked for is not the one at hand.
    """
    match = _REFERENCE.fullmatch(reference)
    name = match.group(1) if match else reference
    if match is None or name not in card_names():
        raise UnknownName("task", reference, card_names(), "See `genbias-bench list tasks`.")
    card = load_card(name)
    if match.group(2) and int(match.group(2)) != card.task.version:
        raise UsageError(
            f"task {name!r} is at version {card.task.version}; version {match.group(2)} is not in this release"
        )
    return card


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
        source = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"data card {card.id}: source_module {card.task.source_module!r}: {error}") from error
    task = source(card)
    if not isinstance(task, Task):
        raise DataError(f"data card {card.id}: {card.task.source_module} is no Task")
    return task
