"""Trajectories of a process: the change of a quantity per generation, and whether it is more than chance.

Used by the board for self-consuming loops (protocol sections 5 and 7). A slope is the least-squares slope of a quantity
over the generations, generation 0 included, per seed and then averaged over seeds: within a seed each generation comes
from the one before, so seeds alone are independent. It is a linear contrast Σ w_g x_g, so what compares two methods
(:mod:`~benchmark.metrics.compare`) tests it, as a method against one that never changes:

* for accuracies, test part plus training part: all seeds and generations answer one test split, so the influence of a
  unit on the seed-averaged slope is the contrast of its influences on each generation, and units that are hard in every
  generation cancel;
* for shares of generated images, the training part alone: t over the slopes of the seeds.

What all seeds have in common, an auditor's confusion matrix above all, is in neither part.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.metrics.compare import Comparison, Performance, compare
from benchmark.metrics.data import CONFIDENCE, FloatArray
from benchmark.metrics.ranking import LEAST_SEEDS, holm
from benchmark.metrics.units import Design

LEAST_GENERATIONS = 5
"""Generations after the real data's that a slope is judged on (protocol section 5)."""

Verdict = Literal["amplified", "reduced", "not distinguishable", "too few"]
Arm = TypeVar("Arm", bound=Hashable)

_NO_TEST = Design(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1, "none")
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Slope:
    """A seed-averaged change per generation.

    Attributes:
        value: The slope, in the quantity's unit per generation.
        seeds: How many seeds it averages.
        generations: How many generations follow the real data's.
        against_none: Its comparison with no change: interval, p value, and the parts of its variance; None with one
            seed.
        still: Every seed has one and the same value in all generations.
    """

    value: float
    seeds: int
    generations: int
    against_none: Comparison | None
    still: bool


@dataclass(frozen=True)
class Judgement:
    """What a slope says about bias.

    Attributes:
        verdict: ``amplified`` where the quantity falls, ``reduced`` where it rises.
        p_value: Two-sided, of no change, adjusted by Holm over the family; None where nothing was tested.
        reason: Why nothing was tested, or why nothing can be told apart.
    """

    verdict: Verdict
    p_value: float | None
    reason: str | None = None


def slope_weights(generations: int) -> FloatArray:
    """Return the weights w_g of the least-squares slope over generations 0 to ``generations``, [generations + 1].

    Raises:
        InvalidValue: With no generation after the real data's.
    """
    if generations < 1:
        raise InvalidValue(f"a slope over {generations} generations makes no sense; use 1 or more")
    time = np.arange(generations + 1) - generations / 2
    return np.asarray(time / (time**2).sum())


def slope_of_accuracy(generations: Sequence[Performance]) -> Slope:
    """Return the slope of a metric that is linear in the answers, such as ``acc_conflicting``.

    Args:
        generations: The same seeds, in the same order, in each generation from the real data's on; all of one metric
            and one test split.

    Raises:
        InvalidValue: With one generation only, or when seeds, metric or test split differ.
    """
    weights, first = slope_weights(len(generations) - 1), generations[0]
    if any(each.metric != first.metric or each.influence.shape != first.influence.shape for each in generations):
        raise InvalidValue("a slope needs the same metric, seeds and test split in every generation")
    values = np.stack([each.values for each in generations], axis=1)
    influence = np.tensordot(weights, np.stack([each.influence for each in generations]), axes=1)
    return _slope(first.metric, values, np.asarray(influence), first.design)


def slope_of_shares(shares: FloatArray) -> Slope:
    """Return the slope of numbers that no test split stands behind.

    Args:
        shares: A number for each seed and generation, from the real data's on, [seeds, generations + 1].

    Raises:
        InvalidValue: Without seeds, with one generation only, or with values that are no numbers.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.ndim != 2 or not len(values) or not bool(np.isfinite(values).all()):
        raise InvalidValue(f"a slope needs a number for each seed and generation, [seeds, generations]; got {values}")
    return _slope("share", values, np.zeros((len(values), 1)), _NO_TEST)


def judge(slopes: Mapping[Arm, Slope]) -> dict[Arm, Judgement]:
    """Classify the slopes of one quantity, for which falling means that bias grows.

    Args:
        slopes: The family: every arm at every level of a task.

    Returns:
        A judgement for each. Those on too few seeds or generations are no part of the family that Holm corrects for.
    """
    reasons = {arm: _too_few(slope) for arm, slope in slopes.items()}
    tested = {
        arm: slope.against_none for arm, slope in slopes.items() if slope.against_none is not None and not reasons[arm]
    }
    adjusted = dict(zip(tested, holm([each.p_value for each in tested.values()]), strict=True))
    return {
        arm: Judgement("too few", None, reasons[arm]) if reasons[arm] else _judgement(slope, adjusted[arm])
        for arm, slope in slopes.items()
    }


def _slope(metric: str, values: FloatArray, influence: FloatArray, design: Design) -> Slope:
    """Test the slopes of some seeds: values [seeds, generations], influences of units on each slope [seeds, units]."""
    seeds, generations = values.shape
    weights = slope_weights(generations - 1)
    # From the first generation on, so that a constant has exactly slope 0.
    change = values - values[:, :1]
    slopes = change @ weights
    none = np.zeros_like(slopes)
    # Nothing is paired over draws here, so every seed counts alike.
    order = np.arange(seeds)
    changing = Performance(metric, slopes, order, influence, none, design)
    staying = Performance(metric, none, order, np.zeros_like(influence), none, design)
    return Slope(
        value=float(slopes.mean()),
        seeds=seeds,
        generations=generations - 1,
        against_none=compare(changing, staying) if seeds > 1 else None,
        still=not change.any(),
    )


def _too_few(slope: Slope) -> str | None:
    if slope.generations < LEAST_GENERATIONS:
        return f"{slope.generations} generations after the real data's, at least {LEAST_GENERATIONS} are needed"
    if slope.seeds < LEAST_SEEDS:
        return f"{slope.seeds} seed(s), at least {LEAST_SEEDS} are needed"
    found = slope.against_none
    if found is not None and found.standard_error == 0 and abs(found.difference) > _ROUNDING:
        return "all seeds report the same values, so they count as one"
    return None


def _judgement(slope: Slope, p_value: float) -> Judgement:
    if slope.still:
        return Judgement("not distinguishable", p_value, "constant: no seed's value changes over the generations")
    if p_value > 1 - CONFIDENCE:
        return Judgement("not distinguishable", p_value)
    return Judgement("amplified" if slope.value < 0 else "reduced", p_value)
