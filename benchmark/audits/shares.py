"""Shares of groups among generated images, corrected for the auditor's errors, against the training data (protocol §8).

The audits of pools call :func:`group_audit`; :func:`verdict` says whether the bias of the training data came through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.audits.correction import DRAWS, HOW, CorrectedRows, corrected_rows
from benchmark.audits.intervals import exact_share, share_of_draws
from benchmark.errors import InvalidValue
from benchmark.metrics.data import BoolArray, FloatArray, IntArray, Metric
from benchmark.metrics.information import mutual_information
from benchmark.records.schema import Shares

DECIMALS = 5
"""Of shares per group: records are kept in git."""

SAME_ODDS = 1.5
"""Odds of a conflicting image that differ by less than this factor are replicated.

Between neighbouring levels that tasks offer (.9, .95, .97, .99) they differ by 1.7 or more.
"""

FREE = -1
"""In place of an attribute: none was asked for."""

_RESOLUTION = 10**9

Verdict = Literal["replicated", "amplified", "reduced", "not distinguishable"]


@dataclass(frozen=True, eq=False)
class GroupShares:
    """What an auditor of the attribute sees in the groups of some images; the fields are those of a record's audit.

    Attributes:
        asked: Share asked for, [C][A]; a label with images whose attribute was free has a row of None.
        raw: Share by the auditor's answers as they are, [C][A].
        corrected: Share corrected within each label, [C][A]; None where the auditor was tested on no such value.
        low: Lower end of the 95 % interval of ``corrected``.
        high: Upper end.
        conflicting: Corrected share of bias-conflicting images.
        conflicting_raw: The same by the auditor's answers as they are.
        conflicting_by_class: Corrected share of bias-conflicting images within each label, C of them.
        information_y_a: I(Y;A) of ``corrected`` in bits.
        absent: Groups of which the auditor saw no image, (label, attribute).
    """

    asked: Shares
    raw: Shares
    corrected: Shares
    low: Shares
    high: Shares
    conflicting: Metric
    conflicting_raw: Metric
    conflicting_by_class: list[Metric]
    information_y_a: Metric
    absent: list[tuple[int, int]]


def group_audit(
    y: IntArray,
    asked_a: IntArray,
    answered_a: IntArray,
    confusion: NDArray[np.integer],
    *,
    aligned: Sequence[int],
    n_classes: int,
    n_attributes: int,
    seed: int,
    independent: NDArray[np.integer] | None = None,
    expected: BoolArray | None = None,
    draws: int = DRAWS,
) -> GroupShares:
    """Measure the shares of the groups (label, attribute shown) among generated images.

    Attributes are corrected within each label and weighted with the label's share of the images. Labels count as they
    are: intervals cover the answers and the confusion matrix, not which labels there are.

    Shares of single groups are solved within bounds, which is best for each of them, but adds up: what noise pushes
    below 0 is cut, so the sum of the conflicting groups of a biased set would come out too high. The conflicting share
    is therefore one minus the corrected fidelity of "shows the aligned attribute of its label": linear in the answers,
    without that bias.

    I(Y;A) has no interval: noise in the shares only ever adds to it, so percentiles of a bootstrap miss the truth on
    one side (coverage near 0 for an unbiased set, in simulation), and reflected ones do at the other end.

    Args:
        y: Label under which each image is used, int64 [n].
        asked_a: Attribute asked of the generator, int64 [n]; -1 where it was free.
        answered_a: Attribute that the auditor sees, int64 [n].
        confusion: Of the auditor of the attribute: rows the true value, columns the answer, [A, A].
        aligned: Aligned attribute of each label.
        n_classes: Number C of labels.
        n_attributes: Number A of attribute values.
        seed: Decides the bootstrap's draws.
        independent: Independent images that each row of the confusion matrix is worth, [A]; None takes the row sums.
        expected: Groups that may be absent where the attribute was free, bool [C, A], such as those of the training
            data; None takes all.
        draws: Bootstrap draws.

    Raises:
        InvalidValue: Without images, for shapes that do not fit, and values out of range.
    """
    _check(y, asked_a, answered_a, confusion, aligned, (n_classes, n_attributes))
    rows = corrected_rows(y, answered_a, confusion, rows=n_classes, seed=seed, draws=draws, independent=independent)
    seen, asked = (_table(y, a, (n_classes, n_attributes)) for a in (answered_a, asked_a))
    n, per_label = len(y), np.bincount(y, minlength=n_classes)
    weights = per_label / n
    free = np.bincount(y[asked_a == FREE], minlength=n_classes) > 0
    may_lack = np.ones_like(seen, dtype=np.bool_) if expected is None else expected
    wanted = np.where((free | (per_label == 0))[:, None], may_lack, asked > 0)
    corrected, low, high = (_weighted(rows, weights, end) for end in ("value", "low", "high"))
    untested = np.asarray(confusion).sum(axis=1) == 0
    return GroupShares(
        asked=[[None] * n_attributes if free[c] else _rounded(asked[c] / n) for c in range(n_classes)],
        raw=[_rounded(row / n) for row in seen],
        corrected=corrected,
        low=low,
        high=high,
        conflicting=_conflicting(rows, aligned, per_label, untested),
        conflicting_raw=exact_share(int((np.asarray(aligned)[y] != answered_a).sum()), n),
        conflicting_by_class=[
            _conflicting(rows, aligned, np.where(np.arange(n_classes) == c, per_label, 0), untested)
            for c in range(n_classes)
        ],
        information_y_a=_information(rows, weights),
        absent=[(int(c), int(a)) for c, a in np.argwhere(wanted & (seen == 0))],
    )


def verdict(generated: Metric, training: float | Metric) -> Verdict:
    """Say what became of a training set's bias in generated images, from the shares of conflicting images.

    A test of equivalence, then of difference, on the 95 % interval of the generated images:

    * ``replicated``: the odds everywhere in it are within a factor ``SAME_ODDS`` of the training data's. A difference
      that is certain but smaller than that is replicated too.
    * ``amplified``: else, all of it lies below the training data's share: fewer conflicting images.
    * ``reduced``: else, all of it lies above.
    * ``not distinguishable``: else, or without an interval. This says that the audit cannot tell, not that nothing
      changed.

    Odds, because steps of a bias are factors: a margin of a fifth of the distance from .1 to an unbiased .9 would hold
    every share from 0 to .26, and nothing could ever be amplified.

    Args:
        generated: Share of conflicting images among the generated ones, with its interval.
        training: The same of the training data: exact, or with an interval, any part of which may be the truth.
    """
    real = _ends(training)
    if generated.low is None or generated.high is None or real is None:
        return "not distinguishable"
    least, most = real
    if _odds(most) / SAME_ODDS <= _odds(generated.low) and _odds(generated.high) <= _odds(least) * SAME_ODDS:
        return "replicated"
    if generated.high < least:
        return "amplified"
    return "reduced" if generated.low > most else "not distinguishable"


def verdicts_by_class(generated: Sequence[Metric], training: Sequence[float]) -> list[Verdict]:
    """Give a verdict per label. Each holds at 95 % for itself; of many, some will be wrong.

    Args:
        generated: Share of conflicting images within each label, as ``conflicting_by_class``.
        training: The same of the training data, as :func:`training_conflicting` returns it.
    """
    return [verdict(share, real) for share, real in zip(generated, training, strict=True)]


def training_conflicting(
    counts: IntArray, aligned: Sequence[int], labels: IntArray | None = None
) -> tuple[float, list[float]]:
    """Return the share of conflicting images in training data, over all and within each label.

    Args:
        counts: Training images, [C, A].
        aligned: Aligned attribute of each label.
        labels: Generated images of each label, [C]: the labels of the training data are then weighted like them, so
            that another mix of labels is not taken for another bias. None leaves them as they are.

    Raises:
        InvalidValue: When a label that counts has no training images.
    """
    sizes = counts.sum(axis=1)
    weights = sizes if labels is None else labels
    if empty := np.flatnonzero((sizes == 0) & (weights > 0)).tolist():
        raise InvalidValue(
            f"the training data hold no image of label {empty[0]}, so it has no share of conflicting ones"
        )
    within = 1 - counts[np.arange(len(counts)), list(aligned)] / np.maximum(sizes, 1)
    return float(within @ weights / weights.sum()), [float(share) for share in within]


def _check(
    y: IntArray,
    asked_a: IntArray,
    answered_a: IntArray,
    confusion: NDArray[np.integer],
    aligned: Sequence[int],
    shape: tuple[int, int],
) -> None:
    if not len(y) or {asked_a.shape, answered_a.shape} != {y.shape}:
        raise InvalidValue(
            f"{len(y)} labels, {len(asked_a)} attributes asked for and {len(answered_a)} answers; give one of each per "
            "image, and an image at least"
        )
    if confusion.shape != (shape[1], shape[1]) or len(aligned) != shape[0]:
        raise InvalidValue(
            f"a confusion matrix of {confusion.shape} and {len(aligned)} aligned attributes do not fit {shape[0]} "
            f"labels and {shape[1]} attribute values"
        )
    for name, values, least, end in (
        ("labels", y, 0, shape[0]),
        ("attributes asked for", asked_a, FREE, shape[1]),
        ("aligned attributes", np.asarray(aligned), 0, shape[1]),
    ):
        if values.min() < least or values.max() >= end:
            raise InvalidValue(f"{name} span {values.min()}..{values.max()}, allowed are {least}..{end - 1}")


def _table(y: IntArray, a: IntArray, shape: tuple[int, int]) -> IntArray:
    """Count images per group, int64 [C, A]; those with a free attribute are left out."""
    table = np.zeros(shape, dtype=np.int64)
    np.add.at(table, (y[a != FREE], a[a != FREE]), 1)
    return table


def _rounded(shares: FloatArray) -> list[float | None]:
    return [round(float(share), DECIMALS) for share in shares]


def _weighted(rows: CorrectedRows, weights: FloatArray, end: Literal["value", "low", "high"]) -> Shares:
    """Return one number of each label's shares as shares of all images; 0 for a label without images."""
    table: Shares = []
    for weight, row in zip(weights, rows.shares, strict=True):
        numbers = [getattr(share, end) for share in row]
        table.append(
            [None if number is None else round(number * weight, DECIMALS) for number in numbers]
            if weight
            else [0.0] * len(row)
        )
    return table


def _conflicting(rows: CorrectedRows, aligned: Sequence[int], per_label: IntArray, untested: BoolArray) -> Metric:
    """Return the share of conflicting images among those of some labels, ``per_label`` [C] of each."""
    if rows.unsolved or not per_label.any():
        return Metric.undefined(rows.unsolved or "there are no images")
    if unknown := [value for value, n in zip(aligned, per_label, strict=True) if n and untested[value]]:
        return Metric.undefined(f"the auditor was tested on no real image of value {unknown[0]}, an aligned attribute")
    own, weights = (np.arange(len(aligned)), list(aligned)), per_label / per_label.sum()
    value = np.clip(1 - rows.solved[own] @ weights, 0, 1)
    drawn = np.clip(1 - rows.draws[:, *own] @ weights, 0, 1)
    return share_of_draws(float(value), drawn, independent=int(per_label.sum()), how=HOW)


def _information(rows: CorrectedRows, weights: FloatArray) -> Metric:
    if rows.unsolved:
        return Metric.undefined(rows.unsolved)
    shares = np.array([[share.value or 0.0 for share in row] for row in rows.shares]) * weights[:, None]
    bits = mutual_information(np.rint(shares * _RESOLUTION).astype(np.int64))
    return Metric(bits, reason="no interval: noise in the shares only adds information, which a bootstrap doubles")


def _ends(share: float | Metric) -> tuple[float, float] | None:
    """Return the interval of a share, which is a point where it is exact."""
    if not isinstance(share, Metric):
        return share, share
    if share.low is not None and share.high is not None:
        return share.low, share.high
    return None if share.value is None else (share.value, share.value)


def _odds(share: float) -> float:
    return math.inf if share >= 1 else share / (1 - share)
