"""Two methods on one test split: is the difference of their ranking metric more than chance? (protocol section 7).

Methods are paired over test units and over draws; training seeds are independent. The variance of the difference is

* the test part: the cluster variance over units, within strata, of the influence of each unit on the seed-averaged
  difference;
* s²/S of each method, s the standard deviation of its per-seed values;

with Satterthwaite's degrees of freedom. Averages of group accuracies are linear in the answers, and their influence
is exact.

``acc_worst_group`` is the minimum of noisy shares and has no derivative where groups tie. Each seed's influence is
taken at its own worst group (of tied ones the smallest, whose share is noisiest): the minimum varies no more than the
group that attains it, so this part is conservative. A minimum is also biased downward, the more the more groups are
nearly worst, and two methods need not share that bias. The bootstrap cannot see it from where the groups happened to
fall, so its size is taken as if all groups that may be tied with the worst one were (the idea of Andrews & Soares
2010), and the squared difference of the two methods' biases is added to the variance.

The parts overlap: per-seed values carry test noise too, and draws that are hard for both methods widen s. Both errors
are on the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.metrics.data import CONFIDENCE, BoolArray, FloatArray, IntArray, TestLabels
from benchmark.metrics.distributions import t_quantile
from benchmark.metrics.groups import average_weights
from benchmark.metrics.resampling import unit_weights
from benchmark.metrics.units import Design, sampling_design

COMPARABLE_METRICS = (
    "acc_mean",
    "acc_adjusted",
    "acc_group_mean",
    "acc_aligned",
    "acc_conflicting",
    "gap",
    "acc_worst_group",
)
BIAS_RESAMPLES = 200
_NUMBERS_AT_ONCE = 2_000_000
NEAR = 2.0
"""Groups within so many standard deviations of the worst one may be tied with it."""


@dataclass(frozen=True, eq=False)
class Performance:
    """One method's seeds on one test split, reduced to what comparisons need.

    Attributes:
        metric: Name of the metric.
        values: The metric per seed, [seeds].
        draws: Draw of each seed, [seeds].
        influence: Each unit's influence on each seed's value, [seeds, units].
        bias: Possible sampling bias of each seed's value, [seeds]; zeros but for ``acc_worst_group``.
        design: Units and strata of the test split.
    """

    metric: str
    values: FloatArray
    draws: IntArray
    influence: FloatArray
    bias: FloatArray
    design: Design


@dataclass(frozen=True)
class Comparison:
    """A difference of two methods, first minus second.

    Attributes:
        difference: Of the seed averages over common draws.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: Two-sided, of no difference.
        standard_error: Of the difference.
        test_variance: Part of its square from test sampling, the minimum's bias included.
        training_variance: Part from seeds and draws.
        degrees_of_freedom: Satterthwaite's.
    """

    difference: float
    low: float
    high: float
    p_value: float
    standard_error: float
    test_variance: float
    training_variance: float
    degrees_of_freedom: float


def performance(
    test: TestLabels,
    correct: BoolArray,
    draws: IntArray,
    metric: str,
    train_counts: IntArray | None = None,
    *,
    seed: int | None = 0,
) -> Performance:
    """Reduce one method's answers to per-seed values and influences.

    Args:
        test: Labels of n rows.
        correct: Whether each seed answers each row rightly, bool [seeds, n].
        draws: Draw of each seed, [seeds].
        metric: One of ``COMPARABLE_METRICS``.
        train_counts: Real training images [classes, attributes]; needed for ``acc_adjusted``.
        seed: Decides the resamples of the minimum's bias; None leaves the bias at 0, where only influences are needed.

    Raises:
        InvalidValue: When shapes disagree, or the metric cannot be compared or is undefined on this test.
    """
    correct, draws = np.asarray(correct, dtype=np.bool_), np.asarray(draws, dtype=np.int64)
    if correct.ndim != 2 or not len(correct) or correct.shape != (len(draws), len(test)):
        raise InvalidValue(
            f"expected answers [seeds, {len(test)}] and one draw per seed; got {correct.shape} and {draws.shape}"
        )
    design = sampling_design(test)
    n = np.bincount(test.group, minlength=test.n_classes * test.n_attributes).astype(np.float64)
    right = np.stack([np.bincount(test.group, weights=row, minlength=len(n)) for row in correct])
    shares = np.divide(right, n, out=np.full(right.shape, np.nan), where=n > 0)
    bias = np.zeros(len(draws))
    if metric == "acc_worst_group":
        weights = np.stack([_worst(row, n) for row in shares])
        if seed is not None:
            bias = _bias_of_minimum(test, correct, design, shares, seed)
    else:
        weights = np.broadcast_to(_weights(test, metric, n, train_counts), shares.shape)
    values = np.where(weights != 0, weights * shares, 0).sum(axis=1)
    centre = np.broadcast_to(values[:, None], shares.shape) if metric == "acc_mean" else shares
    slope = np.divide(weights, n, out=np.zeros(weights.shape), where=n > 0)
    influence = np.stack(
        [
            np.bincount(
                design.unit, weights=slope[s, test.group] * (row - centre[s, test.group]), minlength=design.units
            )
            for s, row in enumerate(correct)
        ]
    )
    return Performance(metric, values, draws, np.asarray(influence, dtype=np.float64), bias, design)


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Many differences, as arrays [pairs]; see :class:`Comparison`."""

    difference: FloatArray
    p_value: FloatArray
    standard_error: FloatArray
    test_variance: FloatArray
    training_variance: FloatArray
    degrees_of_freedom: FloatArray

    def one(self, pair: int) -> Comparison:
        """Return one of them with its interval."""
        difference, error, freedom = (
            float(column[pair]) for column in (self.difference, self.standard_error, self.degrees_of_freedom)
        )
        half = float(t_quantile((1 + CONFIDENCE) / 2, np.float64(freedom))) * error
        return Comparison(
            difference,
            difference - half,
            difference + half,
            float(self.p_value[pair]),
            error,
            float(self.test_variance[pair]),
            float(self.training_variance[pair]),
            freedom,
        )


@dataclass(frozen=True, eq=False)
class Standings:
    """Methods on some draws, as arrays [methods]; seeds are averaged within a draw first, so that draws count alike.

    Attributes:
        value: The metric.
        bias: Possible sampling bias of the value.
        training: Variance of the value from seeds and draws.
        seeds: Seeds behind it.
    """

    value: FloatArray
    bias: FloatArray
    training: FloatArray
    seeds: FloatArray

    def take(self, methods: IntArray) -> Standings:
        """Return some of them."""
        return Standings(self.value[methods], self.bias[methods], self.training[methods], self.seeds[methods])


def standings(methods: Sequence[Performance], draws: IntArray) -> Standings:
    """Average the seeds of each method over some draws.

    Raises:
        InvalidValue: When one has fewer than two seeds there.
    """
    rows = []
    for method in methods:
        weights = _seed_weights(method.draws, draws)
        seeds = int((weights > 0).sum())
        if seeds < 2:
            raise InvalidValue("a comparison needs at least two seeds of each method on the common draws")
        rows.append(
            (float(weights @ method.values), float(weights @ method.bias), _training(method.values, weights), seeds)
        )
    return Standings(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def spread(method: Performance, draws: IntArray) -> FloatArray:
    """Return the units' influences on a method's average over some draws, [units], centred and scaled.

    The squared distance of two methods' spreads is the variance of their difference under sampling of units within
    strata.
    """
    return _spread(_seed_weights(method.draws, draws) @ method.influence, method.design)


def squared_distances(spreads: FloatArray, other: FloatArray) -> FloatArray:
    """Return the squared distance of each of some spreads, [methods, units], to one other, [units].

    Differences are taken before squares, so that equal answers are at distance 0; and row by row, so that a distance
    does not depend on which others are asked for.
    """
    found = np.empty(len(spreads))
    step = max(1, _NUMBERS_AT_ONCE // len(other))
    for start in range(0, len(spreads), step):
        found[start : start + step] = np.square(spreads[start : start + step] - other).sum(axis=1)
    return found


def compare(first: Performance, second: Performance) -> Comparison:
    """Compare two methods on the draws that both have, averaging seeds within a draw first.

    Raises:
        InvalidValue: When they answer different tests or metrics, share no draw, or have fewer than two seeds there.
    """
    if first.metric != second.metric or first.influence.shape[1] != second.influence.shape[1]:
        raise InvalidValue("only the same metric on the same test split can be compared")
    common = np.intersect1d(first.draws, second.draws)
    if not len(common):
        raise InvalidValue(
            f"no common draw: {sorted(set(first.draws.tolist()))} and {sorted(set(second.draws.tolist()))}"
        )
    distance = squared_distances(spread(first, common)[None], spread(second, common))
    ours, theirs = (standings([each], common) for each in (first, second))
    return compare_standings(ours, theirs, distance, sampling_freedom(first.design)).one(0)


def compare_standings(first: Standings, second: Standings, distances: FloatArray, freedom: int) -> Comparisons:
    """Compare methods pair by pair, on the draws that their standings average over.

    Args:
        first: One side of each pair, [pairs].
        second: The other side, [pairs].
        distances: Squared distances of the two sides' spreads, [pairs].
        freedom: Degrees of freedom of the part from test sampling.
    """
    sampling = distances + (first.bias - second.bias) ** 2
    parts = np.stack([sampling, first.training, second.training])
    freedoms = np.stack([np.full(len(distances), float(freedom)), first.seeds - 1, second.seeds - 1])
    return _test(first.value - second.value, parts, freedoms)


def sampling_freedom(design: Design) -> int:
    """Return the degrees of freedom of a variance from test sampling."""
    return max(design.units - design.n_strata, 1)


def stratified_variance(influence: FloatArray, design: Design) -> float:
    """Return the variance of a sum of unit influences under sampling of units within strata.

    Args:
        influence: Per unit, [units].
        design: Strata of the units.
    """
    return float(np.square(_spread(influence, design)).sum())


def _spread(influence: FloatArray, design: Design) -> FloatArray:
    size = np.bincount(design.stratum, minlength=design.n_strata).astype(np.float64)
    total = np.bincount(design.stratum, weights=influence, minlength=design.n_strata)
    # A stratum of one unit cannot show its spread: its influence, centred on its own group, is taken as it is.
    centre = np.where(size > 1, total / size, 0.0)
    scale = np.sqrt(size / np.maximum(size - 1, 1))
    return np.asarray((influence - centre[design.stratum]) * scale[design.stratum])


def _test(difference: FloatArray, parts: FloatArray, freedoms: FloatArray) -> Comparisons:
    """Test differences [pairs] with the parts of their variances and those parts' degrees of freedom, [3, pairs]."""
    from scipy.special import stdtr

    variance = parts[0] + parts[1] + parts[2]
    # Where every seed and every unit says the same, nothing is left to chance.
    certain = variance <= 1e-24
    squares = np.where(certain, 1.0, (parts**2 / freedoms).sum(axis=0))
    freedom = np.where(certain, freedoms.min(axis=0), variance**2 / squares)
    error = np.where(certain, 0.0, np.sqrt(variance))
    by_chance = 2 * stdtr(freedom, -np.abs(difference) / np.where(certain, 1.0, error))
    p_value = np.where(certain, np.where(np.abs(difference) <= 1e-12, 1.0, 0.0), by_chance)
    return Comparisons(difference, p_value, error, parts[0], parts[1] + parts[2], freedom)


def _training(values: FloatArray, weights: FloatArray) -> float:
    used = weights > 0
    return float(values[used].var(ddof=1) * (weights[used] ** 2).sum())


def _seed_weights(draws: IntArray, common: IntArray) -> FloatArray:
    """Weigh seeds so that each common draw counts alike."""
    sizes = {int(draw): int((draws == draw).sum()) for draw in common}
    return np.array([1 / (len(common) * sizes[draw]) if draw in sizes else 0.0 for draw in draws.tolist()])


def _weights(test: TestLabels, metric: str, n: FloatArray, train_counts: IntArray | None) -> FloatArray:
    shape = (test.n_classes, test.n_attributes)
    if metric not in COMPARABLE_METRICS:
        raise InvalidValue(f"methods are not compared on {metric!r}; possible: {', '.join(COMPARABLE_METRICS)}")
    if metric == "acc_adjusted" and train_counts is None:
        raise InvalidValue("acc_adjusted needs the training counts")
    if metric == "acc_mean":
        return np.asarray(n / n.sum())
    populated = n.reshape(shape) > 0
    tables = average_weights(test, populated, np.zeros(shape, dtype=np.int64) if train_counts is None else train_counts)
    names = ("acc_aligned", "acc_conflicting") if metric == "gap" else (metric,)
    if any(not tables[name].any() or (tables[name][~populated] > 0).any() for name in names):
        raise InvalidValue(f"{metric} is undefined on this test split: a group that it weighs has no images")
    shares = [(tables[name] / tables[name].sum()).ravel() for name in names]
    return np.asarray(shares[0] - shares[1] if metric == "gap" else shares[0])


def _worst(shares: FloatArray, n: FloatArray) -> FloatArray:
    worst = np.flatnonzero(shares == np.nanmin(shares))
    return np.asarray(np.arange(len(shares)) == worst[np.argmin(n[worst])], dtype=np.float64)


def _bias_of_minimum(test: TestLabels, correct: BoolArray, design: Design, shares: FloatArray, seed: int) -> FloatArray:
    """Return what sampling would lower the minimum by if all groups near it were tied with it, per seed [seeds]."""
    from scipy.sparse import csr_array

    shape = (design.units, shares.shape[1])
    rows = csr_array((np.ones(len(test)), (design.unit, test.group)), shape=shape)
    answers = [csr_array((row.astype(np.float64), (design.unit, test.group)), shape=shape) for row in correct]
    errors = []
    for weights in unit_weights(design, BIAS_RESAMPLES, seed, max(1, 1_000_000 // design.units)):
        n = weights @ rows
        drawn = [np.divide(weights @ table, n, out=np.full(n.shape, np.nan), where=n > 0) for table in answers]
        errors.append(np.nan_to_num(np.stack(drawn) - shares[:, None]))
    error = np.concatenate(errors, axis=1)
    deviation = error.std(axis=1)
    at = np.nanargmin(shares, axis=1)[:, None]
    lead = shares - np.take_along_axis(shares, at, axis=1)
    near = lead <= NEAR * np.hypot(deviation, np.take_along_axis(deviation, at, axis=1))
    return np.asarray(np.where(near[:, None], error, np.inf).min(axis=2).mean(axis=1))
