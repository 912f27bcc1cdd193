"""Calibration of the top probability: 15 bins of equal mass, overall and in the worst group (protocol section 6).

Equal probabilities (float16 has many) share their bins in proportion, so that the result depends on no order of rows:
bins are cut on the cumulative mass, straight through blocks of ties, each block contributing its mean accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.metrics.binomial import clopper_pearson
from benchmark.metrics.data import CONFIDENCE, BoolArray, FloatArray, IntArray, Metric, Predictions, TestLabels
from benchmark.metrics.fairness import Bounded
from benchmark.metrics.resampling import unit_weights
from benchmark.metrics.units import Design, sampling_design

BINS = 15
RESAMPLES = 500
"""One upper quantile needs fewer resamples than two ends; sorting every image is the dear part of a checkpoint."""
_CHUNK_NUMBERS = 1_000_000


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Rows in ascending probability, merged into blocks of ties."""

    unit: IntArray
    right: FloatArray
    starts: IntArray
    probability: FloatArray

    def bin_gaps(self, weights: FloatArray) -> FloatArray:
        """Return accuracy minus confidence per bin, [chunk, bins], under weights of units [chunk, units]."""
        by_row = weights[:, self.unit]
        mass = np.add.reduceat(by_row, self.starts, axis=1)
        right = np.add.reduceat(by_row * self.right, self.starts, axis=1)
        return _gaps_of_blocks(np.asarray(mass), np.asarray(right), np.asarray(mass * self.probability))


def bin_gaps(probability: FloatArray, right: BoolArray) -> FloatArray:
    """Return accuracy minus confidence in each of the 15 bins of equal mass, float [15].

    Args:
        probability: Top probabilities [n].
        right: Whether the answers are right [n].
    """
    rows = _sort(probability, right, np.zeros(len(right), dtype=np.int64))
    return np.asarray(rows.bin_gaps(np.ones((1, 1)))[0])


def calibration_error(probability: FloatArray, right: BoolArray) -> float:
    """Return the mean of |accuracy - confidence| over 15 bins of equal mass (Naeini et al. 2015, equal-mass bins)."""
    return float(np.abs(bin_gaps(probability, right)).mean())


def calibration_metrics(
    test: TestLabels, predictions: Predictions, groups: Bounded, seed: int, *, bands: bool = True
) -> dict[str, Metric]:
    """Return the overall and the worst group's calibration error with bands.

    Args:
        test: Labels of n rows.
        predictions: Answers to them.
        groups: Group accuracies with simultaneous bounds, [classes, attributes].
        seed: Decides the resamples.
        bands: Whether to resample; without, the errors have no bands.
    """
    design = sampling_design(test)
    probability = predictions.top_probability.astype(np.float64)
    right = predictions.label == test.y
    sizes = np.bincount(test.group, minlength=groups.value.size)
    large = np.flatnonzero(sizes >= BINS)
    parts = [_sort(probability, right, design.unit)]
    for group in large:
        rows = np.flatnonzero(test.group == group)
        parts.append(_sort(probability[rows], right[rows], design.unit[rows]))
    observed = [part.bin_gaps(np.ones((1, design.units)))[0] for part in parts]
    errors = np.array([np.abs(gaps).mean() for gaps in observed])
    distances = _distances(parts, observed, design, seed) if bands else None
    overall = None if distances is None else distances[:, 0]
    found = {"calibration_error": _band(errors[0], overall, _constant_overall(right, design))}
    if not len(large):
        reason = f"no group has a test image for each of the {BINS} bins; the largest has {int(sizes.max())}"
        return found | {"calibration_error_worst_group": Metric.undefined(reason)}
    constant = [_constant_group(groups, int(group)) for group in large]
    largest = None if distances is None else distances[:, 1:].max(axis=1)
    return found | {"calibration_error_worst_group": _band(errors[1:].max(), largest, max(constant))}


def _distances(parts: list[_Sorted], observed: list[FloatArray], design: Design, seed: int) -> FloatArray:
    chunk = max(1, min(RESAMPLES, _CHUNK_NUMBERS // len(parts[0].unit)))
    out = []
    for weights in unit_weights(design, RESAMPLES, seed, chunk):
        pairs = zip(parts, observed, strict=True)
        out.append(np.stack([np.abs(part.bin_gaps(weights) - gaps).mean(axis=1) for part, gaps in pairs], axis=1))
    # A resample without rows of a group says nothing about it.
    return np.asarray(np.nan_to_num(np.concatenate(out)))


def _quantile(values: FloatArray) -> float:
    return float(np.quantile(values, CONFIDENCE))


def _band(error: float, distances: FloatArray | None, constant: float) -> Metric:
    """Return an error with its band; ``constant`` bounds the distance where answers, and so resamples, do not vary."""
    if distances is None:
        return Metric(float(error))
    half = max(_quantile(distances), constant)
    return Metric(float(error), max(float(error) - half, 0.0), min(float(error) + half, 1.0), "bootstrap-band")


def _constant_overall(right: BoolArray, design: Design) -> float:
    if not right.all() and right.any():
        return 0.0
    low, _ = clopper_pearson(np.array([design.units]), np.array([design.units]), 1 - CONFIDENCE)
    return float(1 - low[0])


def _constant_group(groups: Bounded, group: int) -> float:
    value, low, high = (float(part.flat[group]) for part in (groups.value, groups.low, groups.high))
    if value == 1:
        return 1 - low
    return high if value == 0 else 0.0


def _sort(probability: FloatArray, right: BoolArray, unit: IntArray) -> _Sorted:
    values, block = np.unique(probability, return_inverse=True)
    order = np.argsort(block.reshape(-1), kind="stable")
    starts = np.searchsorted(block.reshape(-1)[order], np.arange(len(values)))
    return _Sorted(unit[order], right[order].astype(np.float64), starts.astype(np.int64), values)


def _gaps_of_blocks(mass: FloatArray, right: FloatArray, confidence: FloatArray) -> FloatArray:
    """Cut cumulative mass into equal bins, through blocks, row by row; NaN in rows without mass."""
    resamples, blocks = mass.shape
    cumulative = [np.cumsum(part, axis=1) for part in (mass, right, confidence)]
    total = cumulative[0][:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        # One sorted array for all rows: row r occupies (r, r + 1].
        edges = cumulative[0] / total + np.arange(resamples)[:, None]
    wanted = np.arange(1, BINS) / BINS + np.arange(resamples)[:, None]
    found = np.searchsorted(np.nan_to_num(edges, nan=0.0).ravel(), wanted) if total.all() else _by_row(edges, wanted)
    at = np.clip(found - np.arange(resamples)[:, None] * blocks, 0, blocks - 1)
    before, here = (np.take_along_axis(part, at, axis=1) for part in (cumulative[0] - mass, mass))
    missing = total * np.arange(1, BINS) / BINS - before
    fraction = np.clip(np.divide(missing, here, out=np.zeros_like(missing), where=here > 0), 0, 1)
    cut = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for part, running in zip((right, confidence), cumulative[1:], strict=True):
            inner = np.take_along_axis(running - part, at, axis=1) + fraction * np.take_along_axis(part, at, axis=1)
            cut.append(np.diff(inner, axis=1, prepend=0.0, append=running[:, -1:]))
        return np.asarray((cut[0] - cut[1]) / (total / BINS))


def _by_row(edges: FloatArray, wanted: FloatArray) -> IntArray:
    """Search each row by itself: rows without mass are NaN and would break the order of the joint array."""
    blocks = edges.shape[1]
    return np.stack(
        [np.searchsorted(row, want) + k * blocks for k, (row, want) in enumerate(zip(edges, wanted, strict=True))]
    )
