"""Which rows are ranked, and where each may stand among the rows that it may be compared with (protocol §3, §7)."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import InvalidValue
from benchmark.metrics.data import CONFIDENCE
from benchmark.metrics.ranking import LEAST_SEEDS, Contest, Rank, places
from benchmark.tasks.law import DRAWS
from leaderboard.groups import Group, standard_recipe
from leaderboard.models import RANKING_LEVELS, Behind, RankInterval
from leaderboard.pairs import enter
from leaderboard.remembered import Remembered


def rank_groups(
    groups: Sequence[Group], metric: str, memory: Remembered, place: str
) -> tuple[dict[str, RankInterval], dict[str, list[str]]]:
    """Rank the rows of one task, level and rule.

    Args:
        groups: The rows.
        metric: The task's ranking metric.
        memory: What earlier builds found out.
        place: Which table it is.

    Returns:
        The rank interval of each ranked row by its id, and the reasons why the others are not ranked.
    """
    reasons = {group.id: _not_ranked(group, metric) for group in groups}
    entered, refused = enter([group for group in groups if not reasons[group.id]], metric, memory, place)
    reasons |= {name: [f"not ranked: {error}"] for name, error in refused.items()}
    return {} if entered is None else _ranks(groups, entered), reasons


def _not_ranked(group: Group, metric: str) -> list[str]:
    record = group.first.run.record
    reasons = []
    if group.first.run.level not in RANKING_LEVELS:
        reasons.append(f"not ranked: {group.first.run.level}")
    if record.method.oracle:
        reasons.append("not ranked: oracle, it uses what no method has")
    draws = {scored.run.record.cell.draw for scored in group.runs}
    if len(group.runs) < LEAST_SEEDS:
        reasons.append(f"not ranked: fewer than {LEAST_SEEDS} seeds")
    elif draws != set(DRAWS):
        reasons.append(f"not ranked: the seeds do not cover the {len(DRAWS)} draws")
    states = sorted({scored.split.pinned for scored in group.runs} - {"pinned"})
    reasons += [f"not ranked: {state} split" for state in states]
    if not standard_recipe(group.first):
        reasons.append("not ranked: another training recipe or budget than the task's")
    if any(value is None for value in group.values(metric)):
        reasons.append(f"not ranked: {metric} is undefined here")
    return reasons


def _ranks(groups: Sequence[Group], entered: Contest) -> dict[str, RankInterval]:
    """Rank each row in the family of its own track: the ranked rows whose track is the same or a lower one."""
    among = set(entered.names)
    tracks = {group.id: group.track for group in groups if group.id in among}
    found = {}
    for track in sorted(set(tracks.values()), key=lambda each: each.rank):
        family = places(entered.among([name for name in tracks if track.covers(tracks[name])]))
        for place in family:
            if tracks[place.name] is track:
                found[place.name] = _interval(place, family[0].name, len(family))
    return found


def _interval(place: Rank, best: str, among: int) -> RankInterval:
    behind = None
    if place.against_best is not None and place.p_against_best is not None:
        against = place.against_best  # the best minus this one
        behind = Behind(
            best=best,
            difference=-against.difference,
            low=-against.high,
            high=-against.low,
            p_value=place.p_against_best,
        )
    if place.low is None or place.high is None:
        raise InvalidValue(f"row {place.name} came back unranked: {place.reason}")
    return RankInterval(low=place.low, high=place.high, among=among, behind=behind)


def significant(behind: Behind) -> bool:
    """Return whether a row differs from the best after Holm."""
    return behind.p_value <= 1 - CONFIDENCE
