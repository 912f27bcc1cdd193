"""Rank intervals: which methods of one task, level, track and rule can be told apart? (protocol section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.metrics.compare import (
    Comparison,
    Performance,
    Standings,
    compare_standings,
    sampling_freedom,
    spread,
    squared_distances,
    standings,
)
from benchmark.metrics.data import CONFIDENCE, BoolArray, FloatArray, IntArray

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


@dataclass(frozen=True, eq=False)
class Contest:
    """Methods on the same draws of one test split, reduced to what ranking them needs.

    Attributes:
        names: The methods' keys.
        means: Their metric, averaged over seeds, [methods].
        standings: Their averages over draws.
        distances: Squared distances of their spreads, [methods, methods].
        freedom: Degrees of freedom of the variance from test sampling.
    """

    names: tuple[str, ...]
    means: FloatArray
    standings: Standings
    distances: FloatArray
    freedom: int

    def among(self, names: Sequence[str]) -> Contest:
        """Return the contest of some of the methods, in the order given."""
        position = {name: k for k, name in enumerate(self.names)}
        chosen = np.array([position[name] for name in names], dtype=np.int64)
        distances = self.distances[np.ix_(chosen, chosen)]
        return Contest(tuple(names), self.means[chosen], self.standings.take(chosen), distances, self.freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for a family, in the same order (Holm 1979)."""
    return [float(each) for each in _holm(np.asarray(p_values, dtype=np.float64))]


def _holm(p_values: FloatArray) -> FloatArray:
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p_values[order] * np.arange(len(p_values), 0, -1)))
    return adjusted


def contest(methods: Mapping[str, Performance]) -> Contest:
    """Reduce methods to what ranking them needs.

    Raises:
        InvalidValue: When there is none, or they are not of one metric, test split and set of draws.
    """
    found = list(methods.values())
    if len({(each.metric, each.influence.shape[1], tuple(np.unique(each.draws).tolist())) for each in found}) != 1:
        raise InvalidValue("only methods of one metric, one test split and the same draws are ranked together")
    draws = np.unique(found[0].draws)
    spreads = np.stack([spread(each, draws) for each in found])
    return Contest(
        names=tuple(methods),
        means=np.array([float(each.values.mean()) for each in found]),
        standings=standings(found, draws),
        distances=np.stack([squared_distances(spreads, each) for each in spreads]),
        freedom=sampling_freedom(found[0].design),
    )


def rank(methods: Mapping[str, Performance], *, higher_is_better: bool = True) -> list[Rank]:
    """Rank the methods of one family: one task, level, track and selection rule, on one test split.

    Methods with fewer than five seeds are shown, not ranked; see :func:`places` for the others.

    Args:
        methods: Performances by method; all of one metric, test split and set of draws.
        higher_is_better: Direction of the metric.

    Returns:
        Ranked methods from best to worst value, then the others by value.

    Raises:
        InvalidValue: When two performances cannot be compared.
    """
    ranked = {name: found for name, found in methods.items() if len(found.values) >= LEAST_SEEDS}
    others = [(name, float(found.values.mean()), len(found.values)) for name, found in methods.items()]
    sign = 1 if higher_is_better else -1
    shown = sorted((each for each in others if each[0] not in ranked), key=lambda each: (-sign * each[1], each[0]))
    placed = places(contest(ranked), higher_is_better=higher_is_better) if ranked else []
    return placed + [_unranked(*each) for each in shown]


def places(methods: Contest, *, higher_is_better: bool = True) -> list[Rank]:
    """Place the methods of one family, which all have seeds enough, from best to worst value.

    Rank intervals come from Holm over all pairs, so that the intervals hold together; the comparison of every method
    with the best is adjusted over its own family, as the protocol names it. The best is chosen by the same numbers, so
    among many equal methods one or another falls behind it more often than 5 % of the time; ranks do not rest on that
    family.
    """
    sign = 1 if higher_is_better else -1
    means = dict(zip(methods.names, methods.means.tolist(), strict=True))
    family = methods.among(sorted(means, key=lambda name: (-sign * means[name], name)))
    names, total = family.names, len(family.names)
    first, second = np.triu_indices(total, 1)
    found = compare_standings(
        family.standings.take(first), family.standings.take(second), family.distances[first, second], family.freedom
    )
    wins = _wins(total, first, second, found.p_value, sign * found.difference)
    # The pairs of the first method, the best, come first.
    against = _holm(found.p_value[: total - 1]).tolist()
    return [
        Rank(
            name,
            means[name],
            int(family.standings.seeds[k]),
            1 + int(wins[:, k].sum()),
            total - int(wins[k].sum()),
            tuple(names[other] for other in np.flatnonzero(wins[:, k])),
            tuple(names[other] for other in np.flatnonzero(wins[k])),
            found.one(k - 1) if k else None,
            against[k - 1] if k else None,
        )
        for k, name in enumerate(names)
    ]


def _wins(total: int, first: IntArray, second: IntArray, p_values: FloatArray, lead: FloatArray) -> BoolArray:
    """Return whether the row's method is significantly better than the column's, bool [methods, methods]."""
    significant = _holm(p_values) <= 1 - CONFIDENCE
    ahead = np.where(lead > 0, first, second)[significant]
    behind = np.where(lead > 0, second, first)[significant]
    wins = np.zeros((total, total), dtype=np.bool_)
    wins[ahead, behind] = True
    return wins


def _unranked(name: str, value: float, seeds: int) -> Rank:
    return Rank(name, value, seeds, reason=f"not ranked: {seeds} seed(s), at least {LEAST_SEEDS} are needed")
