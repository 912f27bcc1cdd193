"""The cluster bootstrap: counts of resampled test splits, vectorised over resamples.

A resample draws, within each stratum of n units, n - 1 with replacement and weighs them by n / (n - 1): drawing n would
make the variance too small by that factor, which counts where strata are small (McCarthy & Snowden 1985). Units with
the same rows and answers are exchangeable, so they are merged into types and a resample is a multinomial draw over
types: 100,000 images of a few kinds cost no more than the kinds. Memory is bounded by chunks of resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.crossed import agreeing_pairs, answers_by_unit, ever_changes
from benchmark.metrics.data import BoolArray, FloatArray, IntArray, TestLabels
from benchmark.metrics.groups import GroupCounts
from benchmark.metrics.units import Design, sampling_design

_CHUNK_NUMBERS = 2_000_000
_TRIES = 20


@dataclass(frozen=True, eq=False)
class _Stratum:
    multiplicity: IntArray
    columns: IntArray
    statistics: FloatArray


@dataclass(frozen=True, eq=False)
class Resample:
    """Statistics of a chunk of resampled test splits.

    Attributes:
        counts: Group counts, arrays [chunk, classes, attributes].
        agreeing: Sum over units of agreeing pairs of renderings, [chunk]; zeros unless crossed.
        changing: Units whose answer ever changes, [chunk]; zeros unless crossed.
    """

    counts: GroupCounts
    agreeing: FloatArray
    changing: FloatArray


def bootstrap(
    test: TestLabels,
    label: NDArray[np.integer],
    statistic: Callable[[Resample], dict[str, FloatArray]],
    *,
    resamples: int,
    seed: int,
) -> dict[str, FloatArray] | None:
    """Evaluate statistics on resampled test splits.

    Args:
        test: Labels of n rows.
        label: Predicted labels [n].
        statistic: Maps a chunk of resamples to named values [chunk].
        resamples: How many resamples.
        seed: Decides them.

    Returns:
        Named values [resamples]; None when resamples empty a populated group so often that redrawing is hopeless.
    """
    design = sampling_design(test)
    strata = _strata(test, label, design)
    cells = test.n_classes * test.n_attributes
    rng = np.random.default_rng([seed, 1])
    widest = max(len(s.multiplicity) for s in strata)
    chunk = max(1, min(resamples, _CHUNK_NUMBERS // max(3 * cells + 2, widest)))
    populated = np.bincount(test.group, minlength=cells) > 0
    parts: list[dict[str, FloatArray]] = []
    accepted = tries = 0
    while accepted < resamples:
        if tries >= _TRIES * resamples:
            return None
        size = min(chunk, resamples - accepted) if design.strata != "none" else chunk
        tries += size
        drawn = _keep_populated(_draw(strata, 3 * cells + 2, size, rng), populated, resamples - accepted)
        if len(drawn):
            accepted += len(drawn)
            parts.append(statistic(_resample(drawn, test)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def unit_weights(design: Design, resamples: int, seed: int, chunk: int) -> Iterator[FloatArray]:
    """Yield the weight of each unit, float [chunk, units], for statistics that do not merge into types.

    Args:
        design: Units and strata.
        resamples: How many resamples in all.
        seed: Decides them.
        chunk: Resamples per array.
    """
    rng = np.random.default_rng([seed, 2])
    members = [np.flatnonzero(design.stratum == stratum) for stratum in range(design.n_strata)]
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = np.zeros((size, design.units))
        for units in members:
            n, m = len(units), max(len(units) - 1, 1)
            drawn = rng.integers(n, size=(size, m)) + np.arange(size)[:, None] * n
            weights[:, units] = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n) * (n / m)
        yield weights


def _draw(strata: list[_Stratum], columns: int, size: int, rng: np.random.Generator) -> FloatArray:
    out = np.zeros((size, columns))
    for stratum in strata:
        total = int(stratum.multiplicity.sum())
        size_drawn = max(total - 1, 1)
        drawn = rng.multinomial(size_drawn, stratum.multiplicity / total, size=size)
        # The product of whole numbers below 2**53 is exact, whatever order its sums are taken in.
        out[:, stratum.columns] += (drawn.astype(np.float64) @ stratum.statistics) * (total / size_drawn)
    return out


def _keep_populated(drawn: FloatArray, populated: BoolArray, limit: int) -> FloatArray:
    kept = (drawn[:, : len(populated)][:, populated] > 0).all(axis=1)
    return drawn[kept][:limit]


def _resample(drawn: FloatArray, test: TestLabels) -> Resample:
    cells = test.n_classes * test.n_attributes
    tables = drawn[:, : 3 * cells].reshape(len(drawn), 3, test.n_classes, test.n_attributes)
    return Resample(GroupCounts(tables[:, 0], tables[:, 1], tables[:, 2]), drawn[:, -2], drawn[:, -1])


def _strata(test: TestLabels, label: NDArray[np.integer], design: Design) -> list[_Stratum]:
    answers = label.astype(np.int64)
    kind_of_row = test.group * test.n_classes + answers
    type_of_unit, representative = _merge(kind_of_row, design)
    cells = test.n_classes * test.n_attributes
    shown = np.zeros(design.units, dtype=np.bool_)
    shown[representative] = True
    rows = np.flatnonzero(shown[design.unit])
    owner = type_of_unit[design.unit[rows]]
    right = answers[rows] == test.y[rows]
    columns = [
        test.group[rows],
        cells + test.group[rows][right],
        2 * cells + answers[rows] * test.n_attributes + test.a[rows],
    ]
    owners = [owner, owner[right], owner]
    values = [np.ones(len(part)) for part in owners]
    if test.crossed:
        by_unit = answers_by_unit(test, label)[representative]
        for offset, extra in enumerate((agreeing_pairs(by_unit), ever_changes(by_unit))):
            columns.append(np.full(len(representative), 3 * cells + offset))
            owners.append(np.arange(len(representative)))
            values.append(extra.astype(np.float64))
    entries = (np.concatenate(owners), np.concatenate(columns), np.concatenate(values))
    multiplicity = np.bincount(type_of_unit, minlength=len(representative))
    return _tables(entries, design.stratum[representative], multiplicity, design.n_strata)


def _tables(
    entries: tuple[IntArray, IntArray, FloatArray], stratum_of_type: IntArray, multiplicity: IntArray, n_strata: int
) -> list[_Stratum]:
    owner, column, value = entries
    order = np.argsort(stratum_of_type[owner], kind="stable")
    bounds = np.searchsorted(stratum_of_type[owner][order], np.arange(n_strata + 1))
    found = []
    for stratum in range(n_strata):
        types = np.flatnonzero(stratum_of_type == stratum)
        here = order[bounds[stratum] : bounds[stratum + 1]]
        used, local = np.unique(column[here], return_inverse=True)
        statistics = np.zeros((len(types), len(used)))
        np.add.at(statistics, (np.searchsorted(types, owner[here]), local.reshape(-1)), value[here])
        found.append(_Stratum(multiplicity[types], used, statistics))
    return found


def _merge(kind_of_row: IntArray, design: Design) -> tuple[IntArray, IntArray]:
    """Give units with the same rows one type; return the type of each unit and a representative unit of each type."""
    order = np.lexsort((kind_of_row, design.unit))
    sizes = np.bincount(design.unit, minlength=design.units)
    if int(sizes.max()) * design.units > 20 * len(kind_of_row) + 1_000_000:
        # A few very large units: padding all to their size would not fit, and they are no two alike.
        return np.arange(design.units), np.arange(design.units)
    starts = np.cumsum(sizes) - sizes
    position = np.arange(len(order)) - starts[design.unit[order]]
    padded = np.full((design.units, int(sizes.max())), -1, dtype=np.int64)
    padded[design.unit[order], position] = kind_of_row[order]
    # Sorted by the first rows' label, types of one stratum need not be adjacent; nothing relies on it.
    _, representative, type_of_unit = np.unique(padded, axis=0, return_index=True, return_inverse=True)
    return type_of_unit.reshape(-1).astype(np.int64), representative.astype(np.int64)
