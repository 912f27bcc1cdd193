"""Rank intervals: which methods of one task, level, track and rule can be told apart? (protocol section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmark.metrics.compare import Comparison, Performance, compare
from benchmark.metrics.data import CONFIDENCE

LEAST_SEEDS = 5


@dataclass(frozen=True)
class Rank:
    """A method's place.

    Attributes:
        name: The method's key.
        value: Its metric, averaged over seeds.
        seeds: How many seeds it has.
        low: Best rank it may have, 1 + the number of significantly better methods; None when it is not ranked.
        high: Worst rank it may have, M - the number of significantly worse methods; None when it is not ranked.
        better: Significantly better methods (Holm over all pairs).
        worse: Significantly worse methods.
        against_best: Its comparison with the best method; None for the best itself and for the unranked.
        p_against_best: That comparison's p value, adjusted by Holm over all methods but the best.
        reason: Why it is not ranked.
    """

    name: str
    value: float
    seeds: int
    low: int | None = None
    high: int | None = None
    better: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    against_best: Comparison | None = None
    p_against_best: float | None = None
    reason: str | None = None


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for a family, in the same order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(order)
    running = 0.0
    for position, index in enumerate(order.tolist()):
        running = max(running, min(1.0, p_values[index] * (len(order) - position)))
        adjusted[index] = running
    return adjusted


def rank(methods: Mapping[str, Performance], *, higher_is_better: bool = True) -> list[Rank]:
    """Rank the methods of one family: one task, level, track and selection rule, on one test split.

    Rank intervals come from Holm over all pairs, so that the intervals hold together; the comparison of every method
    with the best is adjusted over its own family, as the protocol names it. The best is chosen by the same numbers, so
    among many equal methods one or another falls behind it more often than 5 % of the time; ranks do not rest on that
    family. Methods with fewer than five seeds are shown, not ranked.

    Args:
        methods: Performances by method; all of one metric and test split.
        higher_is_better: Direction of the metric.

    Returns:
        Ranked methods from best to worst value, then the others by value.

    Raises:
        InvalidValue: When two performances cannot be compared.
    """
    sign = 1 if higher_is_better else -1
    values = {name: float(found.values.mean()) for name, found in methods.items()}
    order = sorted(methods, key=lambda name: (-sign * values[name], name))
    ranked = [name for name in order if len(methods[name].values) >= LEAST_SEEDS]
    pairs = list(combinations(ranked, 2))
    found = [compare(methods[first], methods[second]) for first, second in pairs]
    adjusted = holm([comparison.p_value for comparison in found])
    better: dict[str, list[str]] = {name: [] for name in ranked}
    worse: dict[str, list[str]] = {name: [] for name in ranked}
    for (first, second), comparison, p_value in zip(pairs, found, adjusted, strict=True):
        if p_value > 1 - CONFIDENCE:
            continue
        winner, loser = (first, second) if sign * comparison.difference > 0 else (second, first)
        better[loser].append(winner)
        worse[winner].append(loser)
    with_best = {
        second: comparison for (first, second), comparison in zip(pairs, found, strict=True) if first == ranked[0]
    }
    against = dict(zip(with_best, holm([comparison.p_value for comparison in with_best.values()]), strict=True))
    places = [
        Rank(
            name,
            values[name],
            len(methods[name].values),
            1 + len(better[name]),
            len(ranked) - len(worse[name]),
            tuple(better[name]),
            tuple(worse[name]),
            with_best.get(name),
            against.get(name),
        )
        for name in ranked
    ]
    shown = [name for name in order if name not in ranked]
    return places + [_unranked(name, values[name], len(methods[name].values)) for name in shown]


def _unranked(name: str, value: float, seeds: int) -> Rank:
    return Rank(name, value, seeds, reason=f"not ranked: {seeds} seed(s), at least {LEAST_SEEDS} are needed")
