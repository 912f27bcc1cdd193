"""Everything about one checkpoint on one test split: all metrics with intervals, and the table of groups.

Evaluation and verification call :func:`compute_metrics` on the stored predictions. Point values come from integer
counts in a fixed order, so that recomputing them gives the same bits; intervals are decided by the seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.metrics import amplification, crossed, fairness, intervals
from benchmark.metrics.calibration import calibration_metrics
from benchmark.metrics.data import FloatArray, GroupResult, IntArray, Metric, Predictions, TestLabels
from benchmark.metrics.fairness import Bounded
from benchmark.metrics.groups import GroupCounts, average_weights, averages, count_groups, expected_disparity
from benchmark.metrics.registry import METRICS
from benchmark.metrics.resampling import Resample, bootstrap
from benchmark.metrics.units import sampling_design

RESAMPLES = 2000
COMPUTED = tuple(name for name, definition in METRICS.items() if definition.scope == "predictions")
"""What :func:`compute_metrics` returns, in its order."""

_SUBPOPULATION = (
    "the attribute is nested in the label or says nothing of it: only accuracies, gaps and calibration are defined"
)
_SPURIOUS_ONLY = (
    *(name for name in COMPUTED if name.startswith(("parity_", "opportunity_", "odds_", "disparate_"))),
    "accuracy_ratio",
    "bias_amplification",
    "bias_retained",
    "flip_rate",
    "flip_any",
)


@dataclass(frozen=True, eq=False)
class _Checkpoint:
    test: TestLabels
    predictions: Predictions
    train_counts: IntArray
    counts: GroupCounts
    groups: Bounded


def compute_metrics(
    test: TestLabels,
    predictions: Predictions,
    train_counts: IntArray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    bands: bool = True,
) -> dict[str, Metric]:
    """Compute every metric that follows from predictions, labels and training counts (protocol sections 6 and 7).

    Args:
        test: Labels of n rows and the card's declarations.
        predictions: Answers to them, in their order.
        train_counts: Images of the real training split, int [n_classes, n_attributes].
        seed: Decides the resamples, and so the intervals; values do not depend on it.
        resamples: Bootstrap resamples.
        bands: Also resample the bands of the calibration errors, by far the dearest part.

    Returns:
        Metrics by name, in the order of ``COMPUTED``; undefined ones have no value and a reason.

    Raises:
        InvalidValue: When predictions do not answer the test split, or counts have another shape or are negative.
    """
    checkpoint = _checkpoint(test, predictions, train_counts)
    found = _extremes(checkpoint) | _bootstrapped(checkpoint, seed, resamples)
    found |= calibration_metrics(test, predictions, checkpoint.groups, seed, bands=bands)
    if test.bias_kind == "subpopulation":
        found |= dict.fromkeys(_SPURIOUS_ONLY, Metric.undefined(_SUBPOPULATION))
    else:
        found |= _fairness(checkpoint)
    return {name: found[name] for name in COMPUTED}


def group_table(test: TestLabels, predictions: Predictions) -> list[GroupResult]:
    """Return every group, empty ones too, by label and then attribute: n_classes * n_attributes entries.

    Raises:
        InvalidValue: When predictions do not answer the test split.
    """
    label = predictions.checked(test).label
    counts = count_groups(test, label)
    bounds = intervals.group_bounds(test, label, counts)
    return [
        GroupResult(y, a, int(counts.n[y, a]), int(counts.correct[y, a]), *_numbers(bounds, y, a))
        for y in range(test.n_classes)
        for a in range(test.n_attributes)
    ]


def _numbers(bounds: Bounded, y: int, a: int) -> tuple[float | None, float | None, float | None]:
    if np.isnan(bounds.value[y, a]):
        return None, None, None
    return float(bounds.value[y, a]), float(bounds.low[y, a]), float(bounds.high[y, a])


def _checkpoint(test: TestLabels, predictions: Predictions, train_counts: IntArray) -> _Checkpoint:
    label = predictions.checked(test).label
    shape = (test.n_classes, test.n_attributes)
    if train_counts.shape != shape or train_counts.min() < 0:
        raise InvalidValue(f"training counts must be non-negative and of shape {shape}; got shape {train_counts.shape}")
    counts = count_groups(test, label)
    return _Checkpoint(test, predictions, train_counts, counts, intervals.group_bounds(test, label, counts))


def _extremes(checkpoint: _Checkpoint) -> dict[str, Metric]:
    counts, groups = checkpoint.counts, checkpoint.groups
    found = {"acc_worst_group": intervals.lowest(groups)}
    sizes = counts.n[counts.n > 0].astype(np.int64)
    if len(sizes) < 2:
        only_one = Metric.undefined("the test split has a single populated group")
        return found | {"max_disparity": only_one, "max_disparity_expected": only_one}
    flat = Bounded(*(part.reshape(1, -1) for part in (groups.value, groups.low, groups.high)))
    difference = fairness.spread(flat)
    value, low, high = (float(part[0]) for part in (difference.value, difference.low, difference.high))
    mean = float(counts.correct.sum() / counts.n.sum())
    return found | {
        "max_disparity": Metric(value, low, high, "sidak-propagated"),
        "max_disparity_expected": Metric(expected_disparity(sizes, mean)),
    }


def _bootstrapped(checkpoint: _Checkpoint, seed: int, resamples: int) -> dict[str, Metric]:
    test, counts, train_counts = checkpoint.test, checkpoint.counts, checkpoint.train_counts
    undefined = _undefined(checkpoint)
    weights = average_weights(test, counts.n > 0, train_counts)
    defined_weights = {name: table for name, table in weights.items() if name not in undefined}

    def statistic(sample: Resample) -> dict[str, FloatArray]:
        values = averages(sample.counts, defined_weights)
        if "bias_amplification" not in undefined:
            values["bias_amplification"] = amplification.bias_amplification(test, sample.counts, train_counts)
        if "bias_retained" not in undefined:
            values["bias_retained"] = amplification.bias_retained(test, sample.counts, train_counts)
        if "flip_rate" not in undefined:
            units = len(test) / test.n_attributes
            pairs = units * test.n_attributes**2
            values["flip_rate"] = (pairs - sample.agreeing) / pairs
            values["flip_any"] = sample.changing / units
        return values

    label = checkpoint.predictions.label
    points = statistic(_observed(checkpoint))
    drawn = bootstrap(test, label, statistic, resamples=resamples, seed=seed)
    fallbacks = _fallbacks(checkpoint, defined_weights)
    found = {name: Metric.undefined(reason) for name, reason in undefined.items()}
    for name, point in points.items():
        value = float(point.reshape(-1)[0])
        ends = None if drawn is None else intervals.percentile(drawn[name])
        if ends is not None and ends[0] < ends[1]:
            found[name] = Metric(value, *ends, "cluster-bootstrap")
        else:
            found[name] = fallbacks[name](value)
    return found


def _observed(checkpoint: _Checkpoint) -> Resample:
    """Return the observed test split as a resample, so that points and resamples share their formulas."""
    test = checkpoint.test
    agreeing = changing = np.zeros(1)
    if test.crossed:
        answers = crossed.answers_by_unit(test, checkpoint.predictions.label)
        agreeing = np.array([crossed.agreeing_pairs(answers).sum()], dtype=np.float64)
        changing = np.array([crossed.ever_changes(answers).sum()], dtype=np.float64)
    return Resample(checkpoint.counts, agreeing, changing)


def _undefined(checkpoint: _Checkpoint) -> dict[str, str]:
    """Say of every bootstrapped metric that has no value why."""
    test, counts, train_counts = checkpoint.test, checkpoint.counts, checkpoint.train_counts
    populated = counts.n > 0
    reasons: dict[str, str | None] = {}
    if not train_counts.any():
        reasons["acc_adjusted"] = "the training counts are all zero"
    elif (train_counts[~populated] > 0).any():
        missing = int((train_counts[~populated] > 0).sum())
        reasons["acc_adjusted"] = f"{missing} training group(s) have no test image"
    for name, mask in (("acc_aligned", test.aligned), ("acc_conflicting", ~test.aligned)):
        if not (populated & mask).any():
            reasons[name] = f"no populated test group is bias-{name.removeprefix('acc_')}"
            reasons["gap"] = reasons[name]
    if test.bias_kind == "subpopulation":
        reasons |= dict.fromkeys(("bias_amplification", "bias_retained", "flip_rate", "flip_any"), _SUBPOPULATION)
    else:
        reasons["bias_amplification"] = amplification.why_no_amplification(test, counts, train_counts)
        reasons["bias_retained"] = amplification.why_not_retained(test, counts, train_counts)
        if not test.crossed:
            reasons |= dict.fromkeys(
                ("flip_rate", "flip_any"), "the test is not crossed: no image appears with every attribute"
            )
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _fallbacks(checkpoint: _Checkpoint, weights: dict[str, FloatArray]) -> dict[str, Callable[[float], Metric]]:
    """Return, per bootstrapped metric, its interval for when the bootstrap has none."""
    test, counts = checkpoint.test, checkpoint.counts
    shares = {name: table / table.sum() for name, table in weights.items() if table.any()}
    shares["acc_mean"] = counts.n / counts.n.sum()
    if "acc_aligned" in shares and "acc_conflicting" in shares:
        shares["gap"] = shares["acc_aligned"] - shares["acc_conflicting"]

    design = sampling_design(test)
    stratum_of_group = np.zeros(counts.n.size, dtype=np.int64)
    stratum_of_group[test.group] = design.stratum[design.unit]
    units_of_stratum = np.bincount(design.stratum).astype(np.int64)

    def of_groups(table: FloatArray) -> Callable[[float], Metric]:
        def bound(value: float) -> Metric:
            if value in (0.0, 1.0) and (table >= 0).all() and design.strata != "none":
                weights = np.bincount(stratum_of_group, weights=table.ravel()).astype(np.float64)
                return intervals.all_alike(value, weights, units_of_stratum)
            return intervals.propagated(value, table, checkpoint.groups)

        return bound

    def of_rates(name: str) -> Callable[[float], Metric]:
        return lambda value: intervals.propagated(value, *_rate_slopes(checkpoint, name))

    return {
        **{name: of_groups(table) for name, table in shares.items()},
        "bias_amplification": of_rates("bias_amplification"),
        "bias_retained": of_rates("bias_retained"),
        "flip_rate": lambda value: intervals.constant_over_units(value, 1 - 1 / test.n_attributes, design.units),
        "flip_any": lambda value: intervals.constant_over_units(value, 1.0, design.units),
    }


def _rate_slopes(checkpoint: _Checkpoint, name: str) -> tuple[FloatArray, Bounded]:
    """Return the coefficients of P(answer | attribute) in a number that is linear in them, and the rates' bounds."""
    test, counts, train_counts = checkpoint.test, checkpoint.counts, checkpoint.train_counts
    every_class = dataclasses.replace(test, positive_class=None)
    tables = fairness.rate_tables(every_class, counts)
    bounds = intervals.rate_bounds(every_class, checkpoint.predictions.label, tables)["selection"]
    pairs = test.comparable_pairs & (counts.n.sum(axis=0) > 0)
    signs = amplification.association_signs(test, train_counts) * pairs
    if name == "bias_amplification":
        return signs / pairs.sum(), bounds
    kept = pairs & (train_counts.sum(axis=0) > 0)
    total = amplification.training_bias(test, counts, train_counts) * int(kept.any(axis=0).sum())
    return signs * kept / total, bounds


def _fairness(checkpoint: _Checkpoint) -> dict[str, Metric]:
    test = checkpoint.test
    tables = fairness.rate_tables(test, checkpoint.counts)
    rates = intervals.rate_bounds(test, checkpoint.predictions.label, tables)
    odds = fairness.larger(fairness.spread(rates["true_positive"]), fairness.spread(rates["false_positive"]))
    differences = {
        "parity_difference": fairness.spread(rates["selection"]),
        "opportunity_difference": fairness.spread(rates["opportunity"]),
        "odds_difference": odds,
    }
    found: dict[str, Metric] = {}
    for name, values in differences.items():
        for how in ("mean", "max"):
            found[f"{name}_{how}"] = _over_classes(values, how)
    impact = fairness.ratio(rates["selection"])
    never = np.flatnonzero(np.isfinite(differences["parity_difference"].value) & np.isnan(impact.value))
    for how in ("mean", "min"):
        reason = f"class {', '.join(map(str, never))} is never predicted: its ratio is 0/0"
        found[f"disparate_impact_{how}"] = Metric.undefined(reason) if len(never) else _over_classes(impact, how)
    return found | {"accuracy_ratio": _accuracy_ratio(test, rates["accuracy"])}


def _over_classes(values: Bounded, how: str) -> Metric:
    if not np.isfinite(values.value).any():
        return Metric.undefined("no class has two comparable attribute values with test images")
    return Metric(*fairness.over_classes(values, how), "sidak-propagated")


def _accuracy_ratio(test: TestLabels, rates: Bounded) -> Metric:
    families = [np.asarray(family) for family in test.comparable]
    parts = [
        fairness.ratio(Bounded(*(part[None, family] for part in (rates.value, rates.low, rates.high))))
        for family in families
    ]
    joined = Bounded(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("value", "low", "high")))
    if not np.isfinite(joined.value).any():
        return Metric.undefined("no family has two attribute values with test images and a right answer among them")
    return Metric(*fairness.over_classes(joined, "min"), "sidak-propagated")
