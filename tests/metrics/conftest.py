"""Simulated test splits whose true metrics are known."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from benchmark.metrics.data import Metric, Predictions, TestLabels
from benchmark.metrics.table import compute_metrics


@dataclass(frozen=True)
class World:
    """A test design and the true accuracy of every group; wrong answers are spread as ``answer_law`` says."""

    test: TestLabels
    accuracy: np.ndarray
    correlation: float = 0.0
    share_to_attribute: float = 0.7

    def answer_law(self) -> np.ndarray:
        """P(answer | y, a), [classes, attributes, classes]: wrong answers go to class a with some preference."""
        classes, attributes = self.accuracy.shape
        law = np.zeros((classes, attributes, classes))
        for y in range(classes):
            for a in range(attributes):
                wrong = np.ones(classes)
                wrong[y] = 0
                wrong /= wrong.sum()
                if a < classes and a != y:
                    wrong = (1 - self.share_to_attribute) * wrong
                    wrong[a] += self.share_to_attribute
                law[y, a] = (1 - self.accuracy[y, a]) * wrong
                law[y, a, y] = self.accuracy[y, a]
        return law

    def labels(self, rng: np.random.Generator) -> np.ndarray:
        """Draw answers: one Gaussian difficulty per unit, shared by its rows, and one per row."""
        test = self.test
        n = len(test)
        shared = rng.standard_normal(int(test.unit.max()) + 1)[test.unit]
        own = rng.standard_normal(n)
        score = np.sqrt(self.correlation) * shared + np.sqrt(1 - self.correlation) * own
        right = score < norm.ppf(self.accuracy)[test.y, test.a]
        law = self.answer_law()
        law[np.arange(len(law)), :, np.arange(len(law))] = 0
        cumulative = np.cumsum(law, axis=2)
        cumulative /= np.where(cumulative[..., -1:] > 0, cumulative[..., -1:], 1)
        wrong = (rng.random((n, 1)) > cumulative[test.y, test.a]).sum(axis=1)
        return np.where(right, test.y, wrong).astype(np.uint8)


def crossed_test(units_per_class: int, classes: int) -> TestLabels:
    """A crossed test with as many attribute values as classes; pair (k, k) is aligned."""
    units = units_per_class * classes
    return TestLabels(
        y=np.repeat(np.arange(units) % classes, classes),
        a=np.tile(np.arange(classes), units),
        unit=np.repeat(np.arange(units), classes),
        n_classes=classes,
        n_attributes=classes,
        aligned=np.eye(classes, dtype=bool),
        crossed=True,
        ranking_metric="acc_conflicting",
    )


def grouped_test(sizes: np.ndarray, **declared: object) -> TestLabels:
    """A test of independent images with given group sizes, [classes, attributes]."""
    sizes = np.asarray(sizes)
    y, a = np.indices(sizes.shape)
    aligned = np.zeros(sizes.shape, dtype=bool)
    np.fill_diagonal(aligned, val=True)
    return TestLabels(
        **{
            "y": np.repeat(y.ravel(), sizes.ravel()),
            "a": np.repeat(a.ravel(), sizes.ravel()),
            "unit": np.arange(sizes.sum()),
            "n_classes": sizes.shape[0],
            "n_attributes": sizes.shape[1],
            "aligned": aligned,
            **declared,
        }
    )


def metrics_of(test: TestLabels, label: np.ndarray, train_counts: np.ndarray, **options: int) -> dict[str, Metric]:
    """Metrics without interest in calibration."""
    return compute_metrics(test, Predictions(label, np.full(len(label), 0.5, np.float16)), train_counts, **options)


def share_inside(truth: float, found: list[Metric]) -> float:
    """How many intervals hold the truth."""
    return float(np.mean([metric.low - 1e-12 <= truth <= metric.high + 1e-12 for metric in found]))


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """What the tests of this folder share."""
    return SimpleNamespace(
        World=World,
        crossed_test=crossed_test,
        grouped_test=grouped_test,
        metrics_of=metrics_of,
        share_inside=share_inside,
    )
