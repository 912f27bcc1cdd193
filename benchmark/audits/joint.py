"""Shares of pairs (label, attribute shown) among generated images, corrected with both auditors' confusion matrices.

For one auditor the correction of `correction` is linear in its answers: an answer counts so much for each true value.
On one image the two auditors err independently of each other, so a pair of answers counts for a pair of values what the
two count by themselves, multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.audits.auditors import Auditor, Auditors
from benchmark.audits.correction import DRAWS, corrected_rows
from benchmark.audits.intervals import share_of_draws
from benchmark.errors import InvalidValue
from benchmark.metrics.data import CONFIDENCE, FloatArray, IntArray, Metric

HOW = "percentile bootstrap of the images and both auditors' confusion matrices"


@dataclass(frozen=True, eq=False)
class Answers:
    """What answers count for true values: the first map is the estimate, the others are bootstrap draws of it.

    Attributes:
        y: Answered label → true label, float [1 + draws, C, C].
        a: Answered attribute → true attribute, float [1 + draws, A, A].
        untested: Values of label and attribute that the auditors were not tested on.
        unsolved: Why the maps say nothing; empty where they do.
        seed: Decides which images the draws resample.
    """

    y: FloatArray
    a: FloatArray
    untested: tuple[frozenset[int], frozenset[int]]
    unsolved: str
    seed: int

    @classmethod
    def of(cls, auditors: Auditors, *, seed: int, draws: int = DRAWS) -> Answers:
        """Return the maps of a task's auditors.

        Args:
            auditors: Of the task.
            seed: Decides the draws.
            draws: How many.
        """
        (y, why_y), (a, why_a) = (_counts_for(auditor, seed, draws) for auditor in (auditors.y, auditors.a))
        untested = [
            frozenset(np.flatnonzero(each.confusion.sum(axis=1) == 0).tolist()) for each in (auditors.y, auditors.a)
        ]
        return cls(y, a, (untested[0], untested[1]), why_y or why_a or "", seed)

    def weights(self, n: int) -> FloatArray:
        """Return how often each of ``n`` images stands in the estimate and in each draw, float [1 + draws, n]."""
        drawn = np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=len(self.y) - 1)
        return np.concatenate([np.ones((1, n)), drawn])


def _counts_for(auditor: Auditor, seed: int, draws: int) -> tuple[FloatArray, str | None]:
    """Correct one image of each answer by itself: what comes out is what the answer counts for each value."""
    answers = np.arange(len(auditor.confusion), dtype=np.int64)
    found = corrected_rows(
        answers, answers, auditor.confusion, rows=len(answers), seed=seed, draws=draws, independent=auditor.independent
    )
    return np.concatenate([found.solved[None], found.draws]), found.unsolved


def both_shown(wanted: tuple[IntArray, IntArray], answered: tuple[IntArray, IntArray], answers: Answers) -> Metric:
    """Return the share of images that show both the label and the attribute that were wanted.

    Args:
        wanted: Labels and attributes, int64 [n] each.
        answered: What the auditors see, int64 [n] each.
        answers: What it counts for.
    """
    if answers.unsolved or not len(wanted[0]):
        return Metric.undefined(answers.unsolved or "there are no images")
    for values, untested in zip(wanted, answers.untested, strict=True):
        if unseen := untested & set(values.tolist()):
            return Metric.undefined(f"the auditor was tested on no real image of value {min(unseen)}, which was wanted")
    own = answers.y[:, answered[0], wanted[0]] * answers.a[:, answered[1], wanted[1]]
    n = own.shape[1]
    shares = np.clip((own * answers.weights(n)).sum(axis=1) / n, 0, 1)
    return share_of_draws(float(shares[0]), shares[1:], independent=n, how=HOW)


@dataclass(frozen=True, eq=False)
class PairShares:
    """Shares among images that are matched: image i of every condition is made from the same code.

    Attributes:
        y: Of each label, per condition C metrics.
        a: Of each attribute, per condition A metrics.
        conflicting: Of bias-conflicting images, per condition.
        y_shift: Differences to the first condition, for every other one C metrics.
        a_shift: The same for attributes, A metrics.
        conflicting_shift: The same for conflicting images.
    """

    y: list[list[Metric]]
    a: list[list[Metric]]
    conflicting: list[Metric]
    y_shift: list[list[Metric]]
    a_shift: list[list[Metric]]
    conflicting_shift: list[Metric]


def matched_shares(
    conditions: Sequence[tuple[IntArray, IntArray]], answers: Answers, aligned: Sequence[int]
) -> PairShares:
    """Return shares of labels, attributes and conflicting images under every condition, and their shifts.

    The draws resample codes, so that shifts are paired.

    Args:
        conditions: For each condition the labels and attributes that the auditors see, int64 [n] each.
        answers: What they count for.
        aligned: Aligned attribute of each label.

    Raises:
        InvalidValue: For conditions with different numbers of images, or none.
    """
    sizes = {len(part) for pair in conditions for part in pair}
    if len(sizes) != 1 or 0 in sizes:
        raise InvalidValue(f"conditions with {sorted(sizes)} images are not matched")
    n, shape = sizes.pop(), (answers.y.shape[1], answers.a.shape[1])
    weights = answers.weights(n)
    tables = [_pairs(y, a, weights, shape) for y, a in conditions]
    pairs = [answers.y.swapaxes(1, 2) @ table @ answers.a for table in tables]
    y = [np.clip(pair.sum(axis=2), 0, 1) for pair in pairs]
    a = [np.clip(pair.sum(axis=1), 0, 1) for pair in pairs]
    own = np.arange(shape[0]), list(aligned)
    conflicting = [np.clip(1 - pair[:, *own].sum(axis=1), 0, 1)[:, None] for pair in pairs]
    untested_y, untested_a = answers.untested
    any_aligned = frozenset({0} if untested_y or untested_a & set(aligned) else ())
    return PairShares(
        y=[_shares(part, n, untested_y, answers) for part in y],
        a=[_shares(part, n, untested_a, answers) for part in a],
        conflicting=[_shares(part, n, any_aligned, answers)[0] for part in conflicting],
        y_shift=[_shifts(part - y[0], untested_y, answers) for part in y[1:]],
        a_shift=[_shifts(part - a[0], untested_a, answers) for part in a[1:]],
        conflicting_shift=[_shifts(part - conflicting[0], any_aligned, answers)[0] for part in conflicting[1:]],
    )


def _pairs(y: IntArray, a: IntArray, weights: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Return the shares of pairs of answers in the estimate and each draw, float [1 + draws, C, A]."""
    n = len(y)
    cells = np.zeros((n, shape[0] * shape[1]))
    cells[np.arange(n), y * shape[1] + a] = 1 / n
    return (weights @ cells).reshape(-1, *shape)


def _shares(found: FloatArray, n: int, untested: frozenset[int], answers: Answers) -> list[Metric]:
    """Estimate and draws [1 + draws, K] of shares to K metrics."""
    return [
        _untested(k, untested, answers) or share_of_draws(float(found[0, k]), found[1:, k], independent=n, how=HOW)
        for k in range(found.shape[1])
    ]


def _shifts(found: FloatArray, untested: frozenset[int], answers: Answers) -> list[Metric]:
    """Estimate and draws [1 + draws, K] of differences to K metrics."""
    return [_untested(k, untested, answers) or _shift(found[:, k]) for k in range(found.shape[1])]


def _shift(found: FloatArray) -> Metric:
    value = float(found[0])
    low, high = (float(end) for end in np.quantile(found[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    if low == high:
        return Metric(value, reason=f"no interval: no draw of the {HOW} differs")
    return Metric(value, min(low, value), max(high, value), HOW)


def _untested(k: int, untested: frozenset[int], answers: Answers) -> Metric | None:
    if answers.unsolved:
        return Metric.undefined(answers.unsolved)
    if k in untested:
        return Metric.undefined("an auditor was tested on no real image of a value that this is about")
    return None
