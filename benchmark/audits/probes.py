"""Linear probes: what a frozen classifier's features tell about the attribute A, the source G, and both (protocol §8).

If G can be read off features, a classifier can learn shortcuts through it; that is how generated data move a bias.
Source: Alain & Bengio 2017 (linear classifier probes); G and (A,G) after Qraitem et al. 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.audits.intervals import share_of_draws
from benchmark.errors import InvalidValue
from benchmark.metrics.data import BoolArray, FloatArray, IntArray, Metric

LARGEST = 2_000
"""Real and generated images each, at most."""
DRAWS = 500
_UNKNOWN = -1

Features = NDArray[np.floating[Any]]


def probe_metrics(
    real: Features,
    real_a: IntArray,
    fake: Features,
    fake_a: IntArray,
    *,
    units: Sequence[str] | NDArray[Any],
    seed: int,
    extractor: str,
) -> dict[str, Metric]:
    """Train linear probes on one half of the images and return their balanced accuracy on the other half.

    Equal numbers of real and generated images, at most 2,000 of each; where generated attributes are known, equal
    numbers within every attribute value, so that G says nothing about A. Images of unknown attribute are then left
    out; if all are unknown, ``g`` may partly be read off A. Real images of one unit stay in one half. Balanced
    accuracy is the mean recall over the values present in both halves; its interval resamples the units of the scored
    half within their values, not the training of the probe.

    Args:
        real: Features of real images, [n, d].
        real_a: Their attributes, int64 [n]; images with -1 are left out.
        fake: Features of generated images by the same extractor, [m, d].
        fake_a: Their attributes, int64 [m]; -1 where unknown.
        units: What each real image is made from, [n].
        seed: Decides the subsample, the halves and the bootstrap.
        extractor: What made the features; it stands in the metrics' texts.

    Returns:
        ``a``, ``g``, ``ag``, null with a reason where undefined; ``a_chance``, ``g_chance``, ``ag_chance``, one over
        the number of values.

    Raises:
        InvalidValue: When arrays have different lengths or features different widths.
    """
    data = _checked(real, real_a, fake, fake_a, units)
    if not np.isfinite(data.features).all():
        return _all_undefined(f"some features are not finite ({extractor})")
    matched, known = _matched(data, np.random.default_rng([seed, 0]))
    source = data.generated.astype(np.int64)
    none = f"there are no real and generated images to compare ({extractor})"
    unknown = f"the attribute of the generated images is unknown, or no real image shares it ({extractor})"
    alone = matched if known else _some(np.flatnonzero(~data.generated), LARGEST, np.random.default_rng([seed, 1]))
    result = _probe("a", data, alone, data.a, seed, extractor)
    result |= _probe("g", data, matched, source, seed, extractor) if len(matched) else _undefined("g", none)
    result |= _probe("ag", data, matched, 2 * data.a + source, seed, extractor) if known else _undefined("ag", unknown)
    return result


@dataclass(frozen=True, eq=False)
class _Data:
    """Real and generated images one after the other: features [n, d], attribute, unit and source of each."""

    features: Features
    a: IntArray
    unit: IntArray
    generated: BoolArray


def _checked(
    real: Features, real_a: IntArray, fake: Features, fake_a: IntArray, units: Sequence[str] | NDArray[Any]
) -> _Data:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise InvalidValue(f"features of real images are {real.shape}, of generated ones {fake.shape}")
    if not len(real) == len(real_a) == len(units) or len(fake) != len(fake_a):
        raise InvalidValue(
            f"{len(real)} real images have {len(real_a)} attributes and {len(units)} units; {len(fake)} generated ones "
            f"have {len(fake_a)} attributes"
        )
    kept = np.flatnonzero(np.asarray(real_a) != _UNKNOWN)
    _, unit = np.unique(np.asarray(units)[kept], return_inverse=True)
    own = len(kept) + np.arange(len(fake), dtype=np.int64)
    return _Data(
        features=np.concatenate([real[kept], fake]),
        a=np.concatenate([real_a[kept], fake_a]).astype(np.int64),
        unit=np.concatenate([unit.reshape(-1), own]).astype(np.int64),
        generated=np.arange(len(kept) + len(fake)) >= len(kept),
    )


def _matched(data: _Data, rng: np.random.Generator) -> tuple[IntArray, bool]:
    """Choose as many real as generated images; also within every attribute value, if these are known (second)."""
    real, fake = np.flatnonzero(~data.generated), np.flatnonzero(data.generated)
    size = int(data.a.max(initial=0)) + 1
    counts = [np.bincount(data.a[side][data.a[side] >= 0], minlength=size) for side in (real, fake)]
    quota = _level_off(np.minimum(*counts), LARGEST)
    if not quota.sum():
        if (data.a[fake] >= 0).any():
            return np.empty(0, dtype=np.int64), False
        n = min(len(real), len(fake), LARGEST)
        return np.concatenate([_some(real, n, rng), _some(fake, n, rng)]), False
    chosen = [
        _some(side[data.a[side] == value], int(quota[value]), rng)
        for side in (real, fake)
        for value in np.flatnonzero(quota)
    ]
    return np.concatenate(chosen), True


def _level_off(counts: IntArray, total: int) -> IntArray:
    """Cap counts at one level, the highest whose sum is at most ``total``: plentiful values give way to rare ones."""
    levels = range(min(int(counts.max(initial=0)), total), -1, -1)
    fitting = next(level for level in levels if np.minimum(counts, level).sum() <= total)
    return np.minimum(counts, fitting)


def _some(members: IntArray, n: int, rng: np.random.Generator) -> IntArray:
    return np.sort(rng.permutation(members)[:n])


def _probe(name: str, data: _Data, chosen: IntArray, labels: IntArray, seed: int, extractor: str) -> dict[str, Metric]:
    rng = np.random.default_rng([seed, *name.encode()])
    features, label, unit = data.features[chosen].astype(np.float64), labels[chosen], data.unit[chosen]
    scored, stratum = _halves(label, unit, rng)
    values = np.intersect1d(label[scored], label[~scored])
    if len(values) < 2:
        return _undefined(name, f"{len(values)} values have images in both halves; a probe needs 2 ({extractor})")
    usable = np.isin(label, values)
    train, test = usable & ~scored, usable & scored
    right = _answers(features[train], label[train], features[test]) == label[test]
    metric = _balanced_accuracy(label[test], right, unit[test], stratum[test], rng, extractor)
    chance = Metric(1 / len(values), reason=f"no interval: one over the {len(values)} values present")
    return {name: metric, f"{name}_chance": chance}


def _halves(label: IntArray, unit: IntArray, rng: np.random.Generator) -> tuple[BoolArray, IntArray]:
    """Divide units between two halves, in turn within their smallest label; also returns that label per image."""
    units, place = np.unique(unit, return_inverse=True)
    smallest = np.full(len(units), np.iinfo(np.int64).max)
    np.minimum.at(smallest, place, label)
    order = np.lexsort((rng.permutation(len(units)), smallest))
    second = np.zeros(len(units), dtype=np.bool_)
    second[order[1::2]] = True
    return second[place], smallest[place]


def _answers(train: FloatArray, label: IntArray, test: FloatArray) -> IntArray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Standardised features and the default ridge converge in some dozens of steps, also where classes separate.
    regression = LogisticRegression(class_weight="balanced", max_iter=2_000)
    probe = make_pipeline(StandardScaler(), regression).fit(train, label)
    return np.asarray(probe.predict(test), dtype=np.int64)


def _balanced_accuracy(
    label: IntArray, right: BoolArray, unit: IntArray, stratum: IntArray, rng: np.random.Generator, extractor: str
) -> Metric:
    """Return the mean recall with a bootstrap over units within strata."""
    units, row = np.unique(unit, return_inverse=True)
    _, column = np.unique(label, return_inverse=True)
    n, correct = (np.zeros((len(units), int(column.max()) + 1)) for _ in range(2))
    np.add.at(n, (row, column), 1)
    np.add.at(correct, (row, column), right)
    weights = np.empty((DRAWS, len(units)))
    of_unit = np.zeros(len(units), dtype=np.int64)
    of_unit[row] = stratum
    for value in np.unique(of_unit):
        members = np.flatnonzero(of_unit == value)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=DRAWS)
    images = weights @ n
    present = images > 0
    recall = np.divide(weights @ correct, images, out=np.zeros_like(images), where=present)
    return share_of_draws(
        float((correct.sum(axis=0) / n.sum(axis=0)).mean()),
        np.asarray(recall.sum(axis=1) / present.sum(axis=1)),
        independent=len(units),
        how=f"cluster-bootstrap of the scored half, on {extractor}",
    )


def _undefined(name: str, reason: str) -> dict[str, Metric]:
    return {key: Metric.undefined(reason) for key in (name, f"{name}_chance")}


def _all_undefined(reason: str) -> dict[str, Metric]:
    return _undefined("a", reason) | _undefined("g", reason) | _undefined("ag", reason)
