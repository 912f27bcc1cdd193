"""Runs gathered for comparisons: one configuration at one task, recipe and level, over all its seeds.

The board's rows are the same runs, but there a row ends where its verification level does; a hypothesis names seeds.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import InvalidValue
from benchmark.metrics.compare import Comparison, Performance, compare, performance
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.tasks.card import DataCard
from benchmark.tasks.catalog import superseded_by
from leaderboard.claims import changed_settings, in_tree_card, recipe_of
from leaderboard.findings.hypotheses import RowSpec
from leaderboard.groups import Scored, standard_recipe
from leaderboard.models import Estimate

RULE = SelectionRule.LAST.value
_TUNED = "tuned"


@dataclass(frozen=True, order=True)
class Place:
    """Where rows are compared."""

    task: str
    recipe: str
    level: str


@dataclass(frozen=True, eq=False)
class Arm:
    """The seeds of one configuration, in their order.

    Attributes:
        place: Where.
        row: Method and settings.
        runs: One per seed.
    """

    place: Place
    row: RowSpec
    runs: tuple[Scored, ...]

    @property
    def card(self) -> DataCard:
        """The task's card."""
        return self.runs[0].split.task.card

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(scored.run.record.seed for scored in self.runs)

    @property
    def track(self) -> Track:
        """The most that any run used."""
        found = [Track(scored.run.record.method.track) for scored in self.runs]
        return max(found, key=lambda track: track.rank)

    def of(self, seeds: Iterable[int]) -> Arm:
        """Return the arm with some of its seeds."""
        wanted = set(seeds)
        return Arm(self.place, self.row, tuple(each for each in self.runs if each.run.record.seed in wanted))

    def values(self, metric: str) -> list[float | None]:
        """Return a metric of the last stage, per seed."""
        return [scored.ranked_answers(RULE).values[metric] for scored in self.runs]

    def why_undefined(self, metric: str) -> str:
        """Return why a metric has no value for a seed."""
        reasons = [scored.ranked_answers(RULE).reasons.get(metric) for scored in self.runs]
        return next((reason for reason in reasons if reason), "undefined")

    def performance(self, metric: str) -> Performance:
        """Return what comparisons need of it.

        Raises:
            InvalidValue: When the metric cannot be compared.
        """
        split = self.runs[0].split
        return performance(
            split.labels,
            np.stack([scored.ranked_answers(RULE).correct for scored in self.runs]),
            np.array([scored.run.record.cell.draw for scored in self.runs], dtype=np.int64),
            metric,
            seed=derive_seed(test=split.rows_digest, purpose="bootstrap"),
        )


class Arms:
    """All arms of some runs.

    Only runs by the task's own recipe and budget, of the method version and with the generator that are the default
    now, count: others are other rows.

    Args:
        scored: Finished runs.
    """

    def __init__(self, scored: Iterable[Scored]) -> None:
        found: dict[tuple[Place, str], dict[int, Scored]] = defaultdict(dict)
        rows: dict[str, RowSpec] = {}
        for each in sorted((one for one in scored if _counts(one)), key=lambda one: one.run.attempt):
            record, card = each.run.record, each.split.task.card
            row = RowSpec(method=record.method.name, changed=changed_settings(record, card))
            place = Place(card.task.name, recipe_of(record, card), record.cell.level)
            rows[_key(row)] = row
            found[place, _key(row)].setdefault(record.seed, each)
        self._arms = {
            (place, key): Arm(place, rows[key], tuple(runs[seed] for seed in sorted(runs)))
            for (place, key), runs in sorted(found.items())
        }

    def find(self, place: Place, row: RowSpec) -> Arm | None:
        """Return a row's runs at a place, if there are any."""
        return self._arms.get((place, _key(row)))

    def at(self, place: Place) -> list[Arm]:
        """Return all arms at a place, by method and settings."""
        return [arm for (where, _), arm in self._arms.items() if where == place]

    @functools.cached_property
    def places(self) -> list[Place]:
        """Places with runs: tasks by name, levels as the card has them."""
        cards = {place: self.at(place)[0].card for place, _ in self._arms}
        return sorted(cards, key=lambda each: (each.task, each.recipe, list(cards[each].task.levels).index(each.level)))

    def pair(self, place: Place, first: RowSpec, second: RowSpec) -> tuple[Arm, Arm] | None:
        """Return two rows on the seeds that both have; None where those are fewer than two."""
        found = self.find(place, first), self.find(place, second)
        if found[0] is None or found[1] is None:
            return None
        common = set(found[0].seeds) & set(found[1].seeds)
        return (found[0].of(common), found[1].of(common)) if len(common) > 1 else None


def difference(first: Arm, second: Arm, metric: str) -> Comparison:
    """Compare two arms: first minus second, paired over test units and draws (protocol §7).

    Raises:
        InvalidValue: When they answer different tests, or the metric cannot be compared there.
    """
    digests = {scored.split.rows_digest for arm in (first, second) for scored in arm.runs}
    if len(digests) > 1:
        raise InvalidValue("the runs answer different test splits")
    return compare(first.performance(metric), second.performance(metric))


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[Estimate, float]:
    """Return the difference of two means over seeds with its interval, and its p value, by Welch's test.

    Where no seed differs from another there is nothing to test with: then there is no interval and p is 1.
    """
    from scipy.stats import ttest_ind

    value = float(np.mean(first) - np.mean(second))
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return Estimate(value=value, reason="no seed differs from another"), 1.0
    found = ttest_ind(first, second, equal_var=False)
    ends = found.confidence_interval()
    return Estimate(value=value, low=float(ends.low), high=float(ends.high)), float(found.pvalue)


def _counts(scored: Scored) -> bool:
    record, card = scored.run.record, scored.split.task.card
    method, generator = in_tree_card(record.method.name), record.cell.generator
    return (
        method is not None
        and method.version == record.method.version
        and superseded_by(card) is None
        and record.method.configuration != _TUNED
        and (generator is None or generator.get("name") == card.task.generator.name)
        and scored.checkpoint(RULE) is not None
        and standard_recipe(scored)
    )


def _key(row: RowSpec) -> str:
    return f"{row.method} {len(row.changed)} {sha256_of(row.changed)}"
