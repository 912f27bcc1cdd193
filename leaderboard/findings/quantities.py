"""The five kinds of quantity that hypotheses are about: estimated from runs, with an interval and a p value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmark.contract.tracks import SelectionRule
from benchmark.errors import InvalidValue
from benchmark.metrics.data import CONFIDENCE, FloatArray
from benchmark.metrics.trajectories import LEAST_GENERATIONS, slope_weights
from benchmark.records.generations import generations_of
from benchmark.records.results import read_record
from benchmark.records.schema import Record
from leaderboard.findings.arms import RULE, Arm, Arms, Place, difference, welch
from leaderboard.findings.hypotheses import Hypothesis, Kind, RowSpec, span_of
from leaderboard.groups import Scored, group_runs
from leaderboard.models import Estimate
from leaderboard.ranks import rank_groups
from leaderboard.remembered import Remembered
from leaderboard.trajectories import SHARE, trajectories

CONFLICTING = "conflicting_shown"
"""Key of a pool's ``transfer``: the share of its images whose shown class and attribute conflict, corrected."""
_RESAMPLES = 9_999
_LEAST_ROWS = 4


@dataclass(frozen=True)
class Tested:
    """An estimate that was tested against zero.

    Attributes:
        estimate: With its 95 % interval.
        p_value: Two-sided.
        n: Seeds, or rows of a rank correlation.
        note: What there is to say about it.
    """

    estimate: Estimate
    p_value: float
    n: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class Runs:
    """All runs at hand.

    Attributes:
        scored: As they were read.
        arms: The same, gathered.
        memory: What earlier builds found out.
    """

    scored: list[Scored]
    arms: Arms
    memory: Remembered


class _Test(Protocol):
    def __call__(self, hypothesis: Hypothesis, runs: Runs) -> Tested | str: ...


def measure(hypothesis: Hypothesis, runs: Runs) -> Tested | str:
    """Return what the runs say about a hypothesis; or why it is not tested.

    Args:
        hypothesis: Any.
        runs: All runs at hand.
    """
    if missing := _missing(hypothesis, runs.arms):
        return missing
    try:
        return _TESTS[hypothesis.kind](hypothesis, runs)
    except InvalidValue as error:
        return str(error)


def aligned_share(record: Record, aligned: Iterable[int]) -> tuple[float | None, float | None]:
    """Return the share of a run's moved images whose shown class and attribute belong together, and the share asked.

    The table of a pool's groups cannot give the first: it counts images under the label that they carry, shown or not.

    Args:
        record: The whole record, its pools included.
        aligned: Aligned attribute of each class.
    """
    if len(record.pools) != 1 or record.pools[0].groups is None:
        return None, None
    pool, table = record.pools[0], record.pools[0].groups.asked
    cells = [row[a] for row, a in zip(table, aligned, strict=True)]
    asked = [cell for cell in cells if cell is not None]
    conflicting = pool.transfer.get(CONFLICTING)
    shown = None if conflicting is None or conflicting.value is None else 1 - conflicting.value
    return shown, sum(asked) if len(asked) == len(cells) else None


def _place(hypothesis: Hypothesis) -> Place:
    return Place(hypothesis.task, hypothesis.recipe, hypothesis.level)


def _arm(hypothesis: Hypothesis, row: RowSpec | None, arms: Arms) -> Arm:
    """Return a row of a hypothesis of which no seed is missing."""
    found = None if row is None else arms.find(_place(hypothesis), row)
    if found is None:
        raise InvalidValue(f"hypothesis {hypothesis.id} lacks a row")
    return found.of(hypothesis.seeds)


def _missing(hypothesis: Hypothesis, arms: Arms) -> str:
    """Name the runs that a hypothesis needs and that are not at hand; empty when there are all."""
    lacking = []
    for row in hypothesis.rows:
        arm = arms.find(_place(hypothesis), row)
        seeds = tuple(seed for seed in hypothesis.seeds if arm is None or seed not in arm.seeds)
        if seeds:
            lacking.append(f"{row.text} seed{'s' * (len(seeds) > 1)} {span_of(seeds)}")
    return f"missing: {'; '.join(lacking)}" if lacking else ""


def _difference(hypothesis: Hypothesis, runs: Runs) -> Tested | str:
    first, second = (_arm(hypothesis, row, runs.arms) for row in (hypothesis.first, hypothesis.second))
    found = difference(first, second, hypothesis.metric or first.card.task.ranking_metric)
    estimate = Estimate(value=found.difference, low=found.low, high=found.high)
    return Tested(estimate, found.p_value, len(first.seeds), _unranked(first))


def _unranked(arm: Arm) -> str:
    """Say when the rows of a place are not ranked, since its split is not the pinned one."""
    states = sorted({scored.split.pinned for scored in arm.runs} - {"pinned"})
    return f"{' and '.join(states)} split: compared, not ranked" if states else ""


def _slope(hypothesis: Hypothesis, runs: Runs) -> Tested | str:
    arm = _arm(hypothesis, hypothesis.first, runs.arms)
    found = trajectories(list(arm.runs), arm.card)
    if len(found) != 1:
        return "its runs are several rows of the board"
    slope = found[0].slopes[str(hypothesis.metric)]
    if found[0].generations < LEAST_GENERATIONS:
        return f"{found[0].generations} generations, {LEAST_GENERATIONS} are needed"
    if slope.value is None or slope.p_value is None or slope.left_out:
        return "; ".join(slope.left_out) or slope.reason or "no slope"
    return Tested(Estimate(value=slope.value, low=slope.low, high=slope.high), slope.p_value, len(slope.seeds))


def _slope_difference(hypothesis: Hypothesis, runs: Runs) -> Tested | str:
    metric = str(hypothesis.metric)
    first, second = (_slopes(_arm(hypothesis, row, runs.arms), metric) for row in (hypothesis.first, hypothesis.second))
    return Tested(*welch(first.tolist(), second.tolist()), len(first))


def _slopes(arm: Arm, metric: str) -> FloatArray:
    """Return the change per generation of each seed, [seeds].

    Raises:
        InvalidValue: When a seed has no value in some generation.
    """
    values = [_over_generations(scored, metric, arm) for scored in arm.runs]
    if len({len(each) for each in values}) > 1 or any(None in each for each in values):
        raise InvalidValue(f"{arm.row.text}: a seed has no {metric} in some generation")
    table = np.array(values, dtype=np.float64)
    return np.asarray(table @ slope_weights(table.shape[1] - 1))


def _over_generations(scored: Scored, metric: str, arm: Arm) -> list[float | None]:
    record = scored.run.record
    if metric == SHARE:
        found = generations_of(record.stages, record.pools, record.task.train_counts)
        return [each.conflicting_share(arm.card.law.aligned).value for each in found]
    answers = [scored.answers.get((number, RULE)) for number in range(len(record.stages))]
    return [None if each is None else each.values[metric] for each in answers]


def _aligned_share(hypothesis: Hypothesis, runs: Runs) -> Tested | str:
    from scipy.stats import ttest_1samp

    arm = _arm(hypothesis, hypothesis.first, runs.arms)
    shares = [aligned_share(read_record(scored.run.file), arm.card.law.aligned) for scored in arm.runs]
    beyond = [shown - asked for shown, asked in shares if shown is not None and asked is not None]
    if len(beyond) < len(shares):
        return "its records do not say which class the images of each attribute show"
    value = float(np.mean(beyond))
    if np.ptp(beyond) == 0:
        return Tested(Estimate(value=value, reason="no seed differs from another"), 1.0, len(beyond))
    found = ttest_1samp(beyond, 0.0)
    ends = found.confidence_interval(CONFIDENCE)
    return Tested(Estimate(value=value, low=float(ends.low), high=float(ends.high)), float(found.pvalue), len(beyond))


def _rank_correlation(hypothesis: Hypothesis, runs: Runs) -> Tested | str:
    """Correlate over ranked rows; the interval takes rows as independent, which those of one method are not."""
    from scipy.stats import pearsonr, permutation_test, rankdata, spearmanr

    pairs = _probed_rows(hypothesis, runs)
    if len(pairs) < _LEAST_ROWS:
        return f"{len(pairs)} ranked rows have the probe, {_LEAST_ROWS} are needed"
    probed, ranked = np.array(list(pairs.values()), dtype=np.float64).T
    found = permutation_test(
        (probed,),
        lambda shuffled: spearmanr(shuffled, ranked).statistic,
        permutation_type="pairings",
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    ends = pearsonr(rankdata(probed), rankdata(ranked)).confidence_interval(CONFIDENCE)
    estimate = Estimate(value=float(found.statistic), low=float(ends.low), high=float(ends.high))
    return Tested(estimate, float(found.pvalue), len(pairs), f"{len(pairs)} rows")


def _probed_rows(hypothesis: Hypothesis, runs: Runs) -> Mapping[str, tuple[float, float]]:
    """Return the probe's accuracy and the ranking metric of each ranked row that has both, averaged over seeds."""
    place = _place(hypothesis)
    chosen = [scored for arm in runs.arms.at(place) for scored in arm.of(hypothesis.seeds).runs]
    groups = group_runs(chosen, SelectionRule.LAST.value)
    if not groups:
        return {}
    metric = groups[0].first.split.labels.ranking_metric
    ranked, _ = rank_groups(groups, metric, runs.memory, f"findings {place} {span_of(hypothesis.seeds)}")
    pairs = {}
    for group in (each for each in groups if each.id in ranked):
        found = [scored.run.record.ranked_stage.probes.get(str(hypothesis.probe)) for scored in group.runs]
        probed = [each.value for each in found if each is not None and each.value is not None]
        values = [value for value in group.values(metric) if value is not None]
        if len(probed) == len(values) == len(group.runs):
            pairs[group.id] = float(np.mean(probed)), float(np.mean(values))
    return pairs


_TESTS: dict[Kind, _Test] = {
    "difference": _difference,
    "slope": _slope,
    "slope-difference": _slope_difference,
    "aligned-share": _aligned_share,
    "rank-correlation": _rank_correlation,
}
