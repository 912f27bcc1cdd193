"""Deep feature reweighting: the last layer alone, fitted again on group-balanced validation images.

Kirichenko, Izmailov, Wilson 2023 (arXiv 2204.02937), with the settings of FFR's code: L1 logistic regression on
standardised penultimate features, C from seven values, twenty balanced refits averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.errors import InvalidValue, NotApplicable, NotAvailable
from benchmark.training.features import LAST_LAYER

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""C of the logistic regression; small is strong regularisation."""

_WEIGHT, _BIAS = f"{LAST_LAYER}.weight", f"{LAST_LAYER}.bias"
_MOST_ITERATIONS = 1000
"""It converges within 40; at liblinear's own limit of 100 an unlucky subset would only warn."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A linear layer on raw features, and how its regularisation was chosen.

    Attributes:
        weight: float32 [classes, d].
        bias: float32 [classes].
        c: The chosen C.
        worst_group_accuracy: Of a fit with that C on the half that judged, over the groups found there.
        mean_group_accuracy: Their unweighted mean.
        judged_groups: Number of groups in the half that judged.
        images_per_group: Images of each group in every refit: the size of the smallest populated group.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    c: float
    worst_group_accuracy: float
    mean_group_accuracy: float
    judged_groups: int
    images_per_group: int


@dataclass(frozen=True, eq=False)
class _Linear:
    weight: Floats
    bias: Floats

    def predict(self, features: Floats) -> Integers:
        return (features @ self.weight.T + self.bias).argmax(axis=1)


def refit(
    features: NDArray[np.float32], y: Integers, group: Integers, *, n_classes: int, seed: int, refits: int = 20
) -> LastLayer:
    """Fit a last layer to group-balanced subsets of the validation images.

    C is chosen first: half of each group (rounded up, so that a single image counts here) is cut to equal groups and
    fitted, the other half judges by the accuracy of its worst group, then by their mean, then in favour of the
    stronger regularisation. A group with one image is therefore fitted but never judges. Then ``refits`` balanced
    subsets of all images are fitted with that C and averaged. More than two classes are fitted one against the rest:
    the arg-max is the classifier's, the softmax is not calibrated.

    Args:
        features: Penultimate features [n, d].
        y: Labels in 0..n_classes-1 [n].
        group: A number per group [n]; any numbers.
        n_classes: Rows of the layer.
        seed: Seed of the halves and the subsets.
        refits: Number of fits to average.

    Raises:
        NotApplicable: When a class has no image, or no group has two, so that nothing could choose C.
        InvalidValue: When the arrays do not belong together, or the features are not finite.
    """
    _check(features, y, group, n_classes, refits)
    standard, mean, scale = _standardised(features)
    c, worst, average, judged = _choose(standard, y, group, n_classes, seed)
    fits = []
    for k in range(refits):
        generator = np.random.default_rng((seed, 1, k))
        rows = _balanced(np.arange(len(y)), group, generator)
        fits.append(_fit(standard[rows], y[rows], n_classes, c, generator))
    weight = np.mean([fit.weight for fit in fits], axis=0) / scale
    bias = np.mean([fit.bias for fit in fits], axis=0) - weight @ mean
    return LastLayer(
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        c=c,
        worst_group_accuracy=float(worst),
        mean_group_accuracy=float(average),
        judged_groups=judged,
        images_per_group=int(np.unique(group, return_counts=True)[1].min()),
    )


def with_last_layer(state: Mapping[str, torch.Tensor], layer: LastLayer) -> dict[str, torch.Tensor]:
    """Return a state dict with another last layer; the given one stays as it is.

    Raises:
        NotAvailable: When the state dict has no last layer of that name.
        InvalidValue: When the layer has another shape.
    """
    if _WEIGHT not in state or _BIAS not in state:
        raise NotAvailable(f"the weights have no last layer `{_WEIGHT}` and `{_BIAS}` to replace")
    if tuple(state[_WEIGHT].shape) != layer.weight.shape:
        raise InvalidValue(f"a last layer of shape {layer.weight.shape} cannot replace {tuple(state[_WEIGHT].shape)}")
    weight = torch.tensor(layer.weight).to(state[_WEIGHT])
    bias = torch.tensor(layer.bias).to(state[_BIAS])
    return {**state, _WEIGHT: weight, _BIAS: bias}


def _check(features: NDArray[np.float32], y: Integers, group: Integers, n_classes: int, refits: int) -> None:
    if features.ndim != 2 or not len(features) == len(y) == len(group):
        raise InvalidValue(
            f"features {features.shape}, labels {y.shape} and groups {group.shape} do not belong together"
        )
    if n_classes < 2 or refits < 1:
        raise InvalidValue(f"a last layer needs two classes and one refit, not {n_classes} and {refits}")
    if len(y) and not 0 <= y.min() <= y.max() < n_classes:
        raise InvalidValue(f"labels from {y.min()} to {y.max()} are not in 0..{n_classes - 1}")
    if not np.isfinite(features).all():
        raise InvalidValue("the features are not finite: the training before has diverged; lower its learning rate")
    absent = np.flatnonzero(np.bincount(y, minlength=n_classes) == 0)
    if len(absent):
        raise NotApplicable(f"no validation image of class {', '.join(map(str, absent))} to fit the last layer on")
    if np.unique(group, return_counts=True)[1].max() < 2:
        raise NotApplicable(
            "no group has two validation images: half of each is fitted and half chooses the regularisation"
        )


def _standardised(features: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """Return standardised features, and the mean and scale that did it."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    standard = scaler.fit_transform(features.astype(np.float64))
    return standard, scaler.mean_, scaler.scale_


def _choose(
    standard: Floats, y: Integers, group: Integers, n_classes: int, seed: int
) -> tuple[float, Fraction, Fraction, int]:
    """Return C, the worst and the mean group accuracy that it was chosen by, and the number of groups that judged."""
    generator = np.random.default_rng((seed, 0))
    fitted, judging = _halves(group, generator)
    rows = _balanced(fitted, group, generator)
    best: tuple[Fraction, Fraction, float] | None = None
    for c in STRENGTHS:
        fit = _fit(standard[rows], y[rows], n_classes, c, np.random.default_rng((seed, 2)))
        right = fit.predict(standard[judging]) == y[judging]
        # Exact, so that equal accuracies do tie.
        accuracies = [
            Fraction(int(right[group[judging] == g].sum()), int((group[judging] == g).sum()))
            for g in np.unique(group[judging])
        ]
        score = min(accuracies), sum(accuracies, Fraction(0)) / len(accuracies), -c
        best = score if best is None else max(best, score)
    assert best is not None  # there are seven
    return -best[2], best[0], best[1], len(np.unique(group[judging]))


def _halves(group: Integers, generator: np.random.Generator) -> tuple[Integers, Integers]:
    """Split every group in half; the first half takes what is odd, and so every single image."""
    first, second = [], []
    for g in np.unique(group):
        members = generator.permutation(np.flatnonzero(group == g))
        middle = -(-len(members) // 2)
        first.append(members[:middle])
        second.append(members[middle:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _balanced(rows: Integers, group: Integers, generator: np.random.Generator) -> Integers:
    """Choose equally many of the given rows from every group that they populate."""
    members = [rows[group[rows] == g] for g in np.unique(group[rows])]
    smallest = min(map(len, members))
    return np.sort(np.concatenate([generator.choice(each, smallest, replace=False) for each in members]))


def _fit(standard: Floats, y: Integers, n_classes: int, c: float, generator: np.random.Generator) -> _Linear:
    """Fit one L1 logistic regression (two classes), or one per class against the rest; every class has an image."""
    from sklearn.linear_model import LogisticRegression

    options: dict[str, Any] = {"l1_ratio": 1.0, "C": c, "solver": "liblinear", "max_iter": _MOST_ITERATIONS}
    weight, bias = np.zeros((n_classes, standard.shape[1])), np.zeros(n_classes)
    # With two classes the first one's logit stays 0, so that the softmax is the regression's own probability.
    for label in range(n_classes) if n_classes > 2 else (1,):
        regression = LogisticRegression(**options, random_state=int(generator.integers(2**31)))
        regression.fit(standard, y == label)
        weight[label], bias[label] = regression.coef_[0], regression.intercept_[0]
    return _Linear(weight, bias)
