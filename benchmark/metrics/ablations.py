"""What is left of the accuracy when the object goes: ablated views and relative foreground sensitivity.

Moayeri et al. 2022 (Hard ImageNet, RIVAL10). The views are made by the task; here are only answers and labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InvalidValue
from benchmark.metrics.binomial import clopper_pearson
from benchmark.metrics.data import CONFIDENCE, FloatArray, IntArray, Metric

ACCURACIES = {
    "acc_clean": "clean",
    "acc_object_grey": "object-grey",
    "acc_box_grey": "box-grey",
    "acc_tiled": "tiled",
}
"""Metric → view."""
FOREGROUND, BACKGROUND = "noise-foreground", "noise-background"
RESAMPLES = 2000


def ablation_metrics(y: IntArray, answers: Mapping[str, NDArray[np.integer]], *, seed: int) -> dict[str, Metric]:
    """Compute the accuracies on ablated views and the relative foreground sensitivity.

    Args:
        y: Labels of the n images, the same for every view.
        answers: Answers [n] by view; noise views are named ``noise-foreground-0`` … and ``noise-background-0`` ….
        seed: Decides the resamples behind the sensitivity's interval.

    Raises:
        InvalidValue: When a view is missing or has another length.
    """
    for view, label in answers.items():
        if label.shape != y.shape:
            raise InvalidValue(f"view {view!r} has answers of shape {label.shape}, the labels have {y.shape}")
    found = {}
    for name, view in ACCURACIES.items():
        if view not in answers:
            raise InvalidValue(f"there are no answers to the view {view!r}")
        found[name] = _accuracy(answers[view] == y)
    found["rfs"] = _sensitivity(y, _mean_right(y, answers, FOREGROUND), _mean_right(y, answers, BACKGROUND), seed)
    return found


def relative_foreground_sensitivity(foreground: FloatArray, background: FloatArray) -> FloatArray:
    """Return (a_bg - a_fg) / (2 min(ā, 1 - ā)), ā their mean; 0 where ā is 0 or 1.

    Args:
        foreground: Accuracy with noise on the object, any shape.
        background: Accuracy with noise on the background, same shape.
    """
    mean = (foreground + background) / 2
    room = 2 * np.minimum(mean, 1 - mean)
    return np.asarray(np.divide(background - foreground, room, out=np.zeros_like(mean), where=room > 1e-12))


def _accuracy(right: NDArray[np.bool_]) -> Metric:
    n, k = len(right), int(right.sum())
    low, high = clopper_pearson(np.array([float(k)]), np.array([float(n)]), 1 - CONFIDENCE)
    return Metric(k / n, float(low[0]), float(high[0]), "exact")


def _mean_right(y: IntArray, answers: Mapping[str, NDArray[np.integer]], kind: str) -> FloatArray:
    draws = [label for view, label in sorted(answers.items()) if view.startswith(f"{kind}-")]
    if not draws:
        raise InvalidValue(f"there are no answers to the views {kind!r}")
    return np.asarray(np.mean([label == y for label in draws], axis=0, dtype=np.float64))


def _sensitivity(y: IntArray, foreground: FloatArray, background: FloatArray, seed: int) -> Metric:
    """Average each kind over classes first, as the source does; images are resampled within classes."""
    rng = np.random.default_rng(seed)
    classes = np.unique(y)
    points = np.zeros((2, len(classes)))
    drawn = np.zeros((2, len(classes), RESAMPLES))
    for position, c in enumerate(classes):
        members = np.flatnonzero(y == c)
        values = np.stack([foreground[members], background[members]])
        points[:, position] = values.mean(axis=1)
        counts = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=RESAMPLES)
        drawn[:, position] = values @ counts.T / len(members)
    value = float(relative_foreground_sensitivity(*points.mean(axis=1, keepdims=True))[0])
    resampled = relative_foreground_sensitivity(*drawn.mean(axis=1))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if low == high:
        return Metric(value, reason="every resample gives the same value")
    return Metric(value, float(low), float(high), "cluster-bootstrap")
