"""Processes over their generations: what becomes of a bias when a generator learns from what it made (protocol §5).

Accuracies are recomputed from the predictions. What auditors saw in the generated images stands in the records alone
and is taken from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.contract.tracks import SelectionRule
from benchmark.errors import DamagedFile, InvalidValue
from benchmark.metrics.compare import performance
from benchmark.metrics.ranking import LEAST_SEEDS
from benchmark.metrics.trajectories import Judgement, Slope, judge, slope_of_accuracy, slope_of_shares
from benchmark.records.generations import PROCESS, Generation, generations_of
from benchmark.records.schema import MetricValue
from benchmark.tasks.card import DEFAULT_RECIPE, DataCard
from benchmark.tasks.law import DRAWS
from leaderboard.claims import changed_settings, recipe_of, stale_reasons
from leaderboard.groups import Group, Scored, group_runs
from leaderboard.load import Run
from leaderboard.models import RANKING_LEVELS, Estimate, Trajectory, TrajectoryPoint, TrajectorySlope
from leaderboard.rows import estimate, generator_label

SHARE, ACCURACY = "conflicting_share", "acc_conflicting"
PRIMARY = (SHARE, ACCURACY)
"""Quantities that are judged; where one falls over the generations, bias grows."""
QUANTITIES = (*PRIMARY, "acc_group_mean", "information_y_a", "label_fidelity_y", "fid")
NOTHING_GENERATED = "no generated image joined"

_RECOMPUTED = (ACCURACY, "acc_group_mean")
_LAST = SelectionRule.LAST.value
_NO_CHECKPOINT = "no checkpoint `last`"
_NOT_MEASURED = "not measured when the run was made"
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class _Seed:
    """One run of an arm: its quantities in each generation of the arm."""

    scored: Scored
    values: dict[str, list[MetricValue]]

    def missing(self, quantity: str) -> str | None:
        """Return why the run gives no slope of a quantity; None when it does."""
        for number, found in enumerate(self.values[quantity]):
            if found.value is None:
                return f"generation {number}: {found.reason}"
        return None


@dataclass(frozen=True, eq=False)
class _Arm:
    """An arm at one level: the seeds of one configuration, and their generations, the real data's included."""

    group: Group
    generations: int
    seeds: list[_Seed]

    @classmethod
    def of(cls, group: Group, card: DataCard) -> _Arm:
        """Read the quantities of an arm; runs that end early have none in the generations that they lack."""
        records = [each.run.record for each in group.runs]
        runs = [generations_of(each.stages, each.pools, each.task.train_counts) for each in records]
        most = max(map(len, runs))
        return cls(group, most, [_seed(*pair, most, card) for pair in zip(group.runs, runs, strict=True)])

    def complete(self, quantity: str) -> list[_Seed]:
        """Return the seeds with a value in every generation."""
        return [seed for seed in self.seeds if seed.missing(quantity) is None]


def is_process(scored: Scored) -> bool:
    """Return whether a run is of a process, which stands among the trajectories and in no other table."""
    return scored.run.record.method.kind == PROCESS


def why_no_trajectory(run: Run) -> str | None:
    """Return why a process has no trajectory; None when it has one, and for every other method.

    Raises:
        DamagedFile: For a share outside of 0 to 1, or more information than the labels hold.
    """
    record = run.record
    if record.method.kind != PROCESS:
        return None
    try:
        generations = generations_of(record.stages, record.pools, record.task.train_counts)
    except InvalidValue as error:
        return str(error)
    for groups in (each.pool.groups for each in generations if each.pool is not None):
        if groups is not None:
            _check(run, "share of conflicting images", groups.conflicting, 1.0)
            _check(run, "I(Y;A) of generated images", groups.information_y_a, math.log2(len(record.task.labels)))
    return None


def trajectories(runs: Sequence[Scored], card: DataCard) -> list[Trajectory]:
    """Return the arms of a task's processes, by recipe and level as the card has them, then by method and settings.

    Arms that maintainers ran or replayed are one family for Holm and all others another: what strangers submit changes
    no verdict on a maintained arm.

    Args:
        runs: Runs of processes, of which :func:`why_no_trajectory` says nothing.
        card: The task's card.
    """
    arms = [_Arm.of(group, card) for group in group_runs(runs, _LAST)]
    slopes: dict[str, dict[str, TrajectorySlope]] = {arm.group.id: {} for arm in arms}
    for family in _families(arms):
        for quantity in PRIMARY:
            found = {arm.group.id: _slope(arm, quantity) for arm in family}
            judged = judge({name: slope for name, slope in found.items() if isinstance(slope, Slope)})
            for arm in family:
                slope = found[arm.group.id]
                slopes[arm.group.id][quantity] = _shown(arm, quantity, slope, judged.get(arm.group.id))
    rows = [_trajectory(arm, slopes[arm.group.id], card) for arm in arms]
    return sorted(rows, key=_order(card))


def _check(run: Run, name: str, found: MetricValue, most: float) -> None:
    for value in (found.value, found.low, found.high):
        if value is not None and not -_ROUNDING <= value <= most + _ROUNDING:
            raise DamagedFile(f"{run.file}: {name} is {value!r:.16}, outside of 0 to {most:.6g}")


def _order(card: DataCard) -> Callable[[Trajectory], tuple[int, int, str, int, str, str]]:
    recipes, levels = [DEFAULT_RECIPE, *card.task.recipes], list(card.task.levels)

    def position(row: Trajectory) -> tuple[int, int, str, int, str, str]:
        changed = sorted(row.changed.items())
        return (
            recipes.index(row.recipe), levels.index(row.level), row.method, len(changed), str(changed), row.id,
        )  # fmt: skip

    return position


def _families(arms: Sequence[_Arm]) -> list[list[_Arm]]:
    verified = [arm for arm in arms if arm.group.first.run.level in RANKING_LEVELS]
    return [verified, [arm for arm in arms if arm not in verified]]


# --- quantities ------------------------------------------------------------------------------------------------------


def _seed(scored: Scored, generations: Sequence[Generation], most: int, card: DataCard) -> _Seed:
    aligned = list(card.law.aligned)
    lacking = [_null(f"the run ends at generation {len(generations) - 1}")] * (most - len(generations))
    values = {
        SHARE: [each.conflicting_share(aligned) for each in generations],
        "information_y_a": [each.information_y_a for each in generations],
        "label_fidelity_y": [_of_pool(each, "label_fidelity", "y") for each in generations],
        "fid": [_of_pool(each, "quality", "fid") for each in generations],
    } | {name: [_recomputed(scored, each, name) for each in generations] for name in _RECOMPUTED}
    return _Seed(scored, {name: found + lacking for name, found in values.items()})


def _recomputed(scored: Scored, generation: Generation, metric: str) -> MetricValue:
    answers = scored.answers.get((generation.number, _LAST))
    if answers is None:
        return _null(_NO_CHECKPOINT)
    value = answers.values[metric]
    return _null(answers.reasons[metric]) if value is None else MetricValue(value=value, interval="none")


def _of_pool(generation: Generation, part: str, name: str) -> MetricValue:
    if generation.pool is None:
        return _null(NOTHING_GENERATED)
    known: Mapping[str, MetricValue] = getattr(generation.pool, part)
    return known.get(name) or _null(_NOT_MEASURED)


def _null(reason: str) -> MetricValue:
    return MetricValue(value=None, interval="none", reason=reason)


def _points(arm: _Arm) -> list[TrajectoryPoint]:
    return [
        TrajectoryPoint(generation=number, values={name: _point(arm, name, number) for name in QUANTITIES})
        for number in range(arm.generations)
    ]


def _point(arm: _Arm, quantity: str, number: int) -> Estimate:
    # A primary quantity averages the seeds whose slope is shown, where there are any.
    seeds = (arm.complete(quantity) if quantity in PRIMARY else []) or arm.seeds
    found = [seed.values[quantity][number] for seed in seeds]
    return estimate([each.value for each in found], [each.reason or "" for each in found if each.value is None])


# --- slopes ----------------------------------------------------------------------------------------------------------


def _slope(arm: _Arm, quantity: str) -> Slope | str:
    """Return the slope over the seeds that have one; or why there is none at all."""
    seeds = arm.complete(quantity)
    if not seeds:
        return "no seed has a value in every generation"
    if arm.generations < 2:
        return "there is no generation after the real data's"
    if quantity in _RECOMPUTED:
        return _accuracy_slope(seeds, quantity, arm.generations)
    return slope_of_shares(np.array([[each.value for each in seed.values[quantity]] for seed in seeds]))


def _accuracy_slope(seeds: Sequence[_Seed], metric: str, generations: int) -> Slope | str:
    split = seeds[0].scored.split
    if any(seed.scored.split.rows_digest != split.rows_digest for seed in seeds):
        return "its seeds answer different test splits"
    draws = np.array([seed.scored.run.record.cell.draw for seed in seeds], dtype=np.int64)
    answers = [[seed.scored.answers[number, _LAST].correct for seed in seeds] for number in range(generations)]
    return slope_of_accuracy([performance(split.labels, np.stack(each), draws, metric) for each in answers])


def _shown(arm: _Arm, quantity: str, slope: Slope | str, judged: Judgement | None) -> TrajectorySlope:
    seeds = arm.complete(quantity)
    test = slope.against_none if isinstance(slope, Slope) else None
    return TrajectorySlope(
        value=slope.value if isinstance(slope, Slope) else None,
        low=test.low if test else None,
        high=test.high if test else None,
        test_variance=test.test_variance if test else None,
        training_variance=test.training_variance if test else None,
        p_value=test.p_value if test else None,
        adjusted_p_value=judged.p_value if judged else None,
        verdict=judged.verdict if judged else "too few",
        reason=judged.reason if judged else str(slope),
        seeds=[seed.scored.run.record.seed for seed in seeds],
        left_out=[
            f"seed {seed.scored.run.record.seed}: {reason}"
            for seed in arm.seeds
            if (reason := seed.missing(quantity)) is not None
        ],
    )


# --- rows ------------------------------------------------------------------------------------------------------------


def _trajectory(arm: _Arm, slopes: dict[str, TrajectorySlope], card: DataCard) -> Trajectory:
    group = arm.group
    record, records = group.first.run.record, [scored.run.record for scored in group.runs]
    return Trajectory(
        id=group.id,
        level=record.cell.level,
        recipe=recipe_of(record, card),
        method=record.cell.method,
        configuration=record.method.configuration,
        changed=changed_settings(record, card),
        hparams=record.method.hparams,
        generator=generator_label(group.first),
        verification=group.first.run.level,
        seeds=[each.seed for each in records],
        runs=[each.run_id for each in records],
        generations=arm.generations - 1,
        points=_points(arm),
        slopes={name: slopes[name] for name in PRIMARY},
        stale=sorted({reason for each in records for reason in stale_reasons(each, card)}),
        remarks=_remarks(arm),
    )


def _remarks(arm: _Arm) -> list[str]:
    records = [scored.run.record for scored in arm.group.runs]
    remarks = [f"{state} split" for state in sorted({each.split.pinned for each in arm.group.runs} - {"pinned"})]
    if len(records) >= LEAST_SEEDS and {record.cell.draw for record in records} != set(DRAWS):
        remarks.append(f"its seeds do not cover the {len(DRAWS)} draws, so that choice is not all in the interval")
    pools = [tuple(pool.pool_id for pool in record.pools) for record in records if record.pools]
    if len(set(pools)) < len(pools):
        remarks.append("some of its seeds share pools of generated images, whose variance is not in the interval")
    if arm.group.repeated:
        remarks.append(f"{arm.group.repeated} repeated run(s) of a seed left out: the first attempt counts")
    return remarks
