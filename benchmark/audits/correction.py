"""Shares of values among generated images, corrected for the errors of the auditor that answered (protocol section 8).

An auditor that is right nine times in ten shows a value of 1 % as one of 10.8 %. Its confusion matrix on held-out real
images, rows normalised, says how true shares ``p`` become the shares ``q`` that it answers: q = Mᵀp, solved for p by
least squares over shares: none negative, together one.

Bounds bias what noise pushes across them. Fidelity sums over many requested values with few images each, so the cut
noise adds up: with ten values, 2,000 images and an auditor of 90 %, a perfect generator would show .975, outside of its
interval. Fidelity and all bootstrap draws are therefore solved with the sum alone, and only the result is cut to 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.audits.intervals import exact_share, share_of_draws
from benchmark.errors import InvalidValue
from benchmark.metrics.data import FloatArray, IntArray, Metric

DRAWS = 500
HOW = "percentile bootstrap of the answers and the auditor's confusion matrix"
_SUM_WEIGHT = 1e4
"""Of the equation "together one" against those of single shares: what is left of it is divided out."""
_DOUBT = 0.5
_RIDGE = 1e-9
_TOLD_APART = 1e-3
"""Smallest singular value of a normalised confusion matrix that still determines the shares."""


def true_shares(observed: NDArray[np.integer], confusion: NDArray[np.integer]) -> FloatArray:
    """Return the true shares that explain an auditor's answers best, by least squares over shares.

    Args:
        observed: Images per answer, [K].
        confusion: Held-out real images, rows the true value, columns the answer, [K, K]. A value without images there
            gets share 0, as one that the task's real data do not show.

    Returns:
        float [K], none negative, together one.

    Raises:
        InvalidValue: For shapes that do not fit, negative counts, no answer, or a confusion matrix without images.
    """
    matrix = _Confusion.of(confusion)
    counts = np.asarray(observed)
    if counts.shape != (matrix.size,) or counts.min() < 0 or counts.sum() == 0:
        raise InvalidValue(f"answers must be counts of {matrix.size} values, some of them positive; got {counts}")
    return matrix.spread(_in_bounds(matrix.rates, counts / counts.sum()))


def raw_fidelity(requested: IntArray, answered: IntArray) -> Metric:
    """Return the share of images that the auditor takes for what was requested, with an exact binomial interval.

    Args:
        requested: Values asked of the generator, int64 [n].
        answered: Values that the auditor sees, int64 [n].
    """
    if requested.shape != answered.shape:
        raise InvalidValue(f"{requested.shape} requested values but {answered.shape} answers")
    if not len(requested):
        return Metric.undefined("there are no images")
    return exact_share(int((requested == answered).sum()), len(requested))


def corrected_fidelity(
    requested: IntArray,
    answered: IntArray,
    confusion: NDArray[np.integer],
    *,
    seed: int,
    draws: int = DRAWS,
    independent: NDArray[np.integer] | None = None,
) -> Metric:
    """Return the share of images that show what was requested, corrected for the auditor's errors.

    For each requested value c the true composition p_c of the images requested as c is solved from the answers to
    them; the fidelity is Σ (n_c / n) p_c[c]. The bootstrap resamples the rows of the confusion matrix and, within each
    requested value, the answers.

    Args:
        requested: Values asked of the generator, int64 [n].
        answered: Values that the auditor sees, int64 [n].
        confusion: Held-out real images, rows the true value, columns the answer, [K, K].
        seed: Decides the draws.
        draws: Bootstrap draws.
        independent: Independent images that each row of the confusion matrix is worth, [K]; None takes the row sums,
            which is too many where one source stands behind several images.

    Raises:
        InvalidValue: For shapes that do not fit or values outside of the matrix.
    """
    matrix = _Confusion.of(confusion, independent)
    if requested.shape != answered.shape:
        raise InvalidValue(f"{requested.shape} requested values but {answered.shape} answers")
    if not len(requested):
        return Metric.undefined("there are no images")
    histograms = matrix.histograms(requested, answered, matrix.size)
    wanted = np.flatnonzero(histograms.sum(axis=1))
    if len(unseen := np.setdiff1d(wanted, matrix.known)):
        return Metric.undefined(f"the auditor was tested on no real image of value {unseen[0]}, which was requested")
    if matrix.confused:
        return Metric.undefined(matrix.confused)
    chosen = histograms[wanted]
    sizes = chosen.sum(axis=1)
    at = np.searchsorted(matrix.known, wanted)

    def fidelity(rates: FloatArray, answers: FloatArray) -> FloatArray:
        """Rates [B, R, K] and shares of the answers [B, C, K] to fidelities [B]."""
        own = _in_sum(rates, answers)[:, np.arange(len(at)), at]
        return np.clip(own @ sizes / sizes.sum(), 0, 1)

    value = fidelity(matrix.rates[None], (chosen / sizes[:, None])[None])
    drawn = fidelity(*_resamples(matrix, chosen, draws, seed))
    return share_of_draws(float(value[0]), drawn, independent=len(requested), how=HOW)


def corrected_shares(
    answered: IntArray,
    confusion: NDArray[np.integer],
    *,
    seed: int,
    draws: int = DRAWS,
    independent: NDArray[np.integer] | None = None,
) -> list[Metric]:
    """Return the true share of each value among some images, corrected for the auditor's errors.

    Args:
        answered: Values that the auditor sees, int64 [n].
        confusion: Held-out real images, rows the true value, columns the answer, [K, K].
        seed: Decides the draws.
        draws: Bootstrap draws.
        independent: Independent images that each row is worth, [K]; None takes the row sums.

    Returns:
        K shares. One of a value that the auditor was not tested on is null; the others then suppose that it does not
        occur.

    Raises:
        InvalidValue: For values outside of the matrix.
    """
    row = np.zeros_like(answered)
    return corrected_rows(row, answered, confusion, rows=1, seed=seed, draws=draws, independent=independent).shares[0]


@dataclass(frozen=True, eq=False)
class CorrectedRows:
    """The true shares within each row of some images.

    Attributes:
        shares: K shares per row, within bounds.
        solved: The same with the sum as their only bound, float [rows, K]; 0 in a row without images and for values
            that the auditor was not tested on.
        draws: ``solved`` in every bootstrap draw, float [draws, rows, K].
        unsolved: Why ``solved`` and ``draws`` say nothing; None where they do.
    """

    shares: list[list[Metric]]
    solved: FloatArray
    draws: FloatArray
    unsolved: str | None = None


def corrected_rows(
    row: IntArray,
    answered: IntArray,
    confusion: NDArray[np.integer],
    *,
    rows: int,
    seed: int,
    draws: int = DRAWS,
    independent: NDArray[np.integer] | None = None,
) -> CorrectedRows:
    """Return the true share of each value within each row, as :func:`corrected_shares` does for a single one.

    All rows are solved with the same draws of the confusion matrix: its errors are common to them.

    Args:
        row: Which row each image belongs to, such as its label, int64 [n].
        answered: Values that the auditor sees, int64 [n].
        confusion: Held-out real images, rows the true value, columns the answer, [K, K].
        rows: Number of rows.
        seed: Decides the draws.
        draws: Bootstrap draws.
        independent: Independent images that each row of the confusion matrix is worth, [K]; None takes the row sums.

    Raises:
        InvalidValue: For shapes that do not fit, or values outside of the matrix or rows.
    """
    matrix = _Confusion.of(confusion, independent)
    if row.shape != answered.shape:
        raise InvalidValue(f"{len(row)} rows but {len(answered)} answers")
    shares = [[Metric.undefined("there are no images")] * matrix.size for _ in range(rows)]
    solved, drawn = np.zeros((rows, matrix.size)), np.zeros((draws, rows, matrix.size))
    if not len(answered):
        return CorrectedRows(shares, solved, drawn, "there are no images")
    counts = matrix.histograms(row, answered, rows)
    filled = np.flatnonzero(counts.sum(axis=1))
    if matrix.confused:
        for k in filled:
            shares[k] = [Metric.undefined(matrix.confused)] * matrix.size
        return CorrectedRows(shares, solved, drawn, matrix.confused)
    observed = counts[filled] / counts[filled].sum(axis=1, keepdims=True)
    solved[np.ix_(filled, matrix.known)] = _in_sum(matrix.rates[None], observed[None])[0]
    found = _in_sum(*_resamples(matrix, counts[filled], draws, seed))
    drawn[:, filled[:, None], matrix.known] = found
    for position, k in enumerate(filled):
        shares[k] = _shares_of_row(matrix, counts[k], np.clip(found[:, position], 0, 1))
    return CorrectedRows(shares, solved, drawn)


def _shares_of_row(matrix: _Confusion, counts: IntArray, drawn: FloatArray) -> list[Metric]:
    """Answers [K] to some images and their shares in each draw [draws, R] to K shares."""
    n = int(counts.sum())
    value = _in_bounds(matrix.rates, counts / n)
    shares = [Metric.undefined(f"the auditor was tested on no real image of value {k}") for k in range(matrix.size)]
    for position, k in enumerate(matrix.known):
        shares[k] = share_of_draws(float(value[position]), drawn[:, position], independent=n, how=HOW)
    return shares


@dataclass(frozen=True, eq=False)
class _Confusion:
    """A confusion matrix without the rows that hold no images.

    Attributes:
        size: Number K of values.
        known: Values with images, int64 [R].
        rates: Shares of the answers to each of them, float [R, K].
        trials: Independent images that each row is worth, int64 [R].
    """

    size: int
    known: IntArray
    rates: FloatArray
    trials: IntArray

    @classmethod
    def of(cls, confusion: NDArray[np.integer], independent: NDArray[np.integer] | None = None) -> _Confusion:
        counts = np.asarray(confusion, dtype=np.float64)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.min() < 0 or counts.sum() == 0:
            raise InvalidValue(f"a confusion matrix is square with counts, some of them positive; got {counts.shape}")
        sums = counts.sum(axis=1)
        worth = sums if independent is None else np.asarray(independent)
        if worth.shape != sums.shape:
            raise InvalidValue(f"{worth.shape} numbers of independent images for {len(sums)} values")
        known = np.flatnonzero(sums)
        trials = np.clip(worth[known], 1, sums[known]).astype(np.int64)
        return cls(len(counts), known, counts[known] / sums[known, None], trials)

    @property
    def confused(self) -> str | None:
        """Why the answers do not determine the shares; None where they do."""
        if float(np.linalg.svd(self.rates, compute_uv=False)[-1]) >= _TOLD_APART:
            return None
        return "the auditor's answers to real images of some values are the same, so they cannot be told apart"

    def histograms(self, row: IntArray, answered: IntArray, rows: int) -> IntArray:
        """Count the answers per row, such as the value requested, int64 [rows, K]."""
        for name, values, end in (("requested", row, rows), ("answered", answered, self.size)):
            if values.min() < 0 or values.max() >= end:
                raise InvalidValue(f"{name} values span {values.min()}..{values.max()}, allowed are 0..{end - 1}")
        table = np.zeros((rows, self.size), dtype=np.int64)
        np.add.at(table, (row, answered), 1)
        return table

    def spread(self, shares: FloatArray) -> FloatArray:
        """Put shares of the known values [R] into their places among all, [K]."""
        whole = np.zeros(self.size)
        whole[self.known] = shares
        return whole


def _resamples(matrix: _Confusion, answers: IntArray, draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return resampled rates [draws, R, K] and shares of the answers [draws, C, K], both by multinomial draws.

    Half of the draws add half an image, spread over all answers, to each row of the confusion matrix: a row without
    errors would else be taken for certain, and twenty images without an error are not (a test measures it).
    """
    rng = np.random.default_rng(seed)
    half = draws // 2
    rates = []
    for n, row in zip(matrix.trials, matrix.rates, strict=True):
        doubtful = (n * row + _DOUBT / matrix.size) / (n + _DOUBT)
        rates.append(np.concatenate([rng.multinomial(n, row, draws - half), rng.multinomial(n, doubtful, half)]) / n)
    shares = [rng.multinomial(n, row / n, draws) / n for n, row in zip(answers.sum(axis=1), answers, strict=True)]
    return np.stack(rates, axis=1), np.stack(shares, axis=1)


def _in_bounds(rates: FloatArray, shares: FloatArray) -> FloatArray:
    """Minimise |ratesᵀ p - shares| over shares p by active sets (Lawson & Hanson 1974): rates [R, K] to p [R]."""
    from scipy.optimize import nnls

    rows, columns = rates.shape
    system = np.empty((columns + 1, rows))
    system[:-1], system[-1] = rates.T, _SUM_WEIGHT
    found: FloatArray = nnls(system, np.append(shares, _SUM_WEIGHT), maxiter=30 * rows)[0]
    return found / found.sum()


def _in_sum(rates: FloatArray, shares: FloatArray) -> FloatArray:
    """Minimise |ratesᵀ p - shares| where p sums to one: rates [B, R, K] and shares [B, C, K] to p [B, C, R]."""
    batch, rows, _ = rates.shape
    system = np.ones((batch, rows + 1, rows + 1))
    # The ridge decides only where a resample gives two values equal rows.
    system[:, :-1, :-1] = rates @ rates.swapaxes(1, 2) + _RIDGE * np.eye(rows)
    system[:, -1, -1] = 0
    wanted = np.ones((batch, rows + 1, shares.shape[1]))
    wanted[:, :-1] = rates @ shares.swapaxes(1, 2)
    return np.asarray(np.linalg.solve(system, wanted)[:, :-1].swapaxes(1, 2))
