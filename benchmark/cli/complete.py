"""Values that a shell completes: names of methods and tasks, and bias levels; no plug-in's code is run for it."""

from __future__ import annotations

from benchmark.errors import GenBiasError


def methods(incomplete: str) -> list[str]:
    """Return the methods that begin so."""
    from benchmark.contract.registry import listed_methods

    return [name for name in sorted(listed_methods()) if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Return the tasks that begin so."""
    from benchmark.tasks.card import card_names
    from benchmark.tasks.plugins import plug_in_tasks

    return [name for name in [*card_names(), *sorted(plug_in_tasks())] if name.startswith(incomplete)]


def levels(incomplete: str) -> list[str]:
    """Return the bias levels, of any task, that begin so."""
    from benchmark.tasks.catalog import find_card

    found: set[str] = set()
    for name in tasks(""):
        try:
            found.update(find_card(name).task.levels)
        except GenBiasError:
            continue  # a broken plug-in is what `list tasks` tells of
    spellings = found | {level.removeprefix("0") for level in found}
    return [level for level in sorted(spellings) if level.startswith(incomplete)]
