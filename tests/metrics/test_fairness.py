"""Rates and their differences equal fairlearn's, class by class one-vs-rest."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)

from benchmark.metrics.fairness import Bounded, ratio, spread

TRAIN3 = np.array([[50, 5, 5], [5, 50, 5], [5, 5, 50]])
TRAIN2 = np.array([[50, 5], [5, 50]])


@pytest.fixture
def binary(tools):
    rng = np.random.default_rng(3)
    test = tools.grouped_test(np.array([[200, 90], [40, 130]]), positive_class=1)
    return test, np.where(rng.random(len(test)) < 0.75, test.y, 1 - test.y)


@pytest.fixture
def three(tools):
    rng = np.random.default_rng(4)
    test = tools.grouped_test(np.array([[60, 20, 31], [25, 70, 12], [18, 22, 55]]))
    return test, np.where(rng.random(len(test)) < 0.6, test.y, rng.integers(0, 3, len(test)))


def one_vs_rest(test, label, y):
    """Difference and ratio of fairlearn's rates between attributes, for one class."""
    frame = MetricFrame(
        metrics={"selection": selection_rate, "tpr": true_positive_rate, "fpr": false_positive_rate},
        y_true=test.y == y,
        y_pred=label == y,
        sensitive_features=test.a,
    )
    return frame.difference(), frame.ratio()


def test_a_binary_task_gives_fairlearns_metrics_of_its_positive_class(tools, binary):
    test, label = binary
    found = tools.metrics_of(test, label, TRAIN2)
    options = {"y_true": test.y, "y_pred": label, "sensitive_features": test.a}
    expected = {
        "parity_difference": demographic_parity_difference(**options),
        "opportunity_difference": equal_opportunity_difference(**options),
        "odds_difference": equalized_odds_difference(**options),
    }
    for name, value in expected.items():
        assert found[f"{name}_mean"].value == pytest.approx(value, abs=1e-14)
        assert found[f"{name}_max"].value == found[f"{name}_mean"].value
    impact = demographic_parity_ratio(**options)
    assert found["disparate_impact_mean"].value == pytest.approx(impact, abs=1e-14)
    assert found["disparate_impact_min"].value == pytest.approx(impact, abs=1e-14)


def test_the_positive_class_matters(tools, binary):
    test, label = binary
    other = type(test)(**{**test.__dict__, "positive_class": 0})
    name = "opportunity_difference_mean"
    assert tools.metrics_of(test, label, TRAIN2)[name].value != tools.metrics_of(other, label, TRAIN2)[name].value


def test_several_classes_are_one_vs_rest_with_mean_and_extreme(tools, three):
    test, label = three
    found = tools.metrics_of(test, label, TRAIN3)
    frames = [one_vs_rest(test, label, y) for y in range(3)]
    differences = {
        "parity_difference": [d["selection"] for d, _ in frames],
        "opportunity_difference": [d["tpr"] for d, _ in frames],
        "odds_difference": [max(d["tpr"], d["fpr"]) for d, _ in frames],
    }
    for name, values in differences.items():
        assert found[f"{name}_mean"].value == pytest.approx(np.mean(values), abs=1e-14)
        assert found[f"{name}_max"].value == pytest.approx(np.max(values), abs=1e-14)
    ratios = [r["selection"] for _, r in frames]
    assert found["disparate_impact_mean"].value == pytest.approx(np.mean(ratios), abs=1e-14)
    assert found["disparate_impact_min"].value == pytest.approx(np.min(ratios), abs=1e-14)


def test_accuracy_ratio_is_fairlearns_ratio_of_accuracies(tools, three):
    test, label = three
    by_attribute = [np.mean((label == test.y)[test.a == a]) for a in range(3)]
    found = tools.metrics_of(test, label, TRAIN3)["accuracy_ratio"]
    assert found.value == pytest.approx(min(by_attribute) / max(by_attribute), abs=1e-14)


def test_only_attributes_of_the_class_s_own_family_are_compared(tools):
    # Two families of two: birds on land or water, dogs indoors or outdoors. Within each family all rates are equal.
    sizes = np.zeros((4, 4), dtype=int)
    sizes[:2, :2] = sizes[2:, 2:] = 10
    test = tools.grouped_test(sizes, comparable=((0, 1), (2, 3)), class_family=(0, 0, 1, 1))
    family = test.y // 2
    label = test.y.copy()
    label[(family == 1) & (np.arange(len(test)) % 2 == 0)] ^= 1
    found = tools.metrics_of(test, label, sizes)
    for name in ("parity_difference_max", "opportunity_difference_max", "odds_difference_max"):
        assert found[name].value == 0
    assert found["accuracy_ratio"].value == 1.0
    # Across families accuracy is 1 against .5: with one family for all, the ratio shows it.
    joined = tools.grouped_test(sizes)
    assert tools.metrics_of(joined, label, sizes)["accuracy_ratio"].value == 0.5


def test_a_class_that_is_never_predicted_has_no_ratio_and_no_difference(tools):
    test = tools.grouped_test(np.full((2, 2), 5))
    found = tools.metrics_of(test, np.zeros(20, int), TRAIN2)
    assert found["disparate_impact_mean"].value is None
    assert "class 1 is never predicted" in found["disparate_impact_mean"].reason
    assert found["parity_difference_max"].value == 0.0


def test_without_a_pair_to_compare_differences_are_null(tools):
    found = tools.metrics_of(tools.grouped_test(np.array([[5, 0], [5, 0]])), np.zeros(10, int), TRAIN2)
    for name in ("parity_difference_mean", "opportunity_difference_max", "odds_difference_mean"):
        assert found[name].value is None
        assert "no class has two comparable" in found[name].reason
    assert found["accuracy_ratio"].value is None


def test_bounds_of_spread_and_ratio_hold_for_every_rate_inside_its_interval():
    rng = np.random.default_rng(5)
    for _ in range(50):
        low = rng.random((1, 4)) * 0.6
        high = low + rng.random((1, 4)) * 0.4
        value = (low + high) / 2
        inside = low + (high - low) * rng.random((500, 4))
        bounds = Bounded(value, low, high)
        difference, quotient = spread(bounds), ratio(bounds)
        ranges = np.ptp(inside, axis=1)
        ratios = inside.min(axis=1) / inside.max(axis=1)
        for bound, seen in ((difference, ranges), (quotient, ratios)):
            assert bound.low[0] - 1e-12 <= seen.min()
            assert seen.max() <= bound.high[0] + 1e-12
