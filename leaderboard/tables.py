"""Tables with what belongs to their rows: built, or recalled while everything that they show is as it was."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.contract.tracks import SelectionRule
from benchmark.records.canonical import sha256_of
from benchmark.tasks.card import DataCard
from leaderboard.generated import generated_rows
from leaderboard.groups import Group
from leaderboard.remembered import FoundTable, Remembered, shown_digest
from leaderboard.rows import build_table


def table_of(
    level: str, recipe: str, rule: str, card: DataCard, groups: Sequence[Group], memory: Remembered
) -> FoundTable:
    """Return the table of one task, level, training recipe and rule, and its rows' generated images under ``last``."""
    place = f"{card.id} {level} {recipe} {rule}"
    basis = sha256_of([shown_digest(), card.digest, [_identity(group) for group in groups]])
    known = memory.table(place, basis)
    if known is not None:
        return known
    table = build_table(level, recipe, card, groups, memory, place)
    generated = generated_rows(table, groups) if rule == SelectionRule.LAST else []
    found = FoundTable(basis=basis, table=table, generated=generated)
    memory.keep_table(place, found)
    return found


def _identity(group: Group) -> list[object]:
    """Return what decides everything that is shown of a row: its runs, their splits, and what maintainers say."""
    runs = [[each.run.digest, each.run.level, each.split.identity, each.split.pinned] for each in group.runs]
    return [group.id, group.repeated, runs]
