"""Accuracies on ablated views and relative foreground sensitivity, against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import InvalidValue
from benchmark.metrics.ablations import ACCURACIES, ablation_metrics, relative_foreground_sensitivity
from benchmark.metrics.registry import METRICS
from benchmark.tasks.ablations import VIEWS

Y = np.repeat(np.arange(3), 40)


def answers(**rates: float) -> dict[str, np.ndarray]:
    """Answers to every view; the first share of each class is right, the rest says the next class."""
    found = {}
    for view in VIEWS:
        rate = rates.get(view.replace("-", "_"), rates.get(view.rpartition("-")[0].replace("-", "_"), 1.0))
        label = Y.copy()
        for c in range(3):
            label[c * 40 + round(40 * rate) : (c + 1) * 40] = (c + 1) % 3
        found[view] = label
    return found


def test_accuracies_are_shares_of_right_answers_with_exact_intervals() -> None:
    found = ablation_metrics(Y, answers(object_grey=0.75, box_grey=0.5, tiled=0.25), seed=0)
    assert [found[name].value for name in ACCURACIES] == [1.0, 0.75, 0.5, 0.25]
    assert found["acc_clean"].interval == "exact"
    # Clopper-Pearson of 120 of 120: the lower end is .025 ** (1 / 120).
    assert found["acc_clean"].low == pytest.approx(0.025 ** (1 / 120), abs=1e-12)
    assert found["acc_clean"].high == 1.0
    assert found["acc_box_grey"].low == pytest.approx(1 - found["acc_box_grey"].high, abs=1e-12)


def test_sensitivity_is_the_normalised_difference_of_both_noises() -> None:
    found = ablation_metrics(Y, answers(noise_foreground=0.4, noise_background=0.8), seed=0)["rfs"]
    # Mean .6, so there is room for 2 · .4: (.8 - .4) / .8.
    assert found.value == pytest.approx(0.5)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high


def test_reliance_on_the_background_is_negative() -> None:
    found = ablation_metrics(Y, answers(noise_foreground=0.8, noise_background=0.4), seed=0)["rfs"]
    assert found.value == pytest.approx(-0.5)


def test_sensitivity_averages_accuracies_over_classes_before_it_divides() -> None:
    y = np.repeat([0, 1], [10, 90])
    base = {view: y.copy() for view in VIEWS}
    for view in VIEWS:
        if view.startswith("noise-foreground"):
            base[view][:10] = 1  # the small class is always wrong with noise on the object
    found = ablation_metrics(y, base, seed=0)["rfs"]
    # Accuracies by class: foreground (0, 1), background (1, 1); means .5 and 1, so (1 - .5) / (2 · .25).
    assert found.value == pytest.approx(1.0)


def test_where_there_is_no_room_sensitivity_is_0() -> None:
    assert relative_foreground_sensitivity(np.array([0.0, 1.0, 0.5]), np.array([0.0, 1.0, 0.5])).tolist() == [0, 0, 0]
    found = ablation_metrics(Y, answers(), seed=0)["rfs"]
    assert (found.value, found.low, found.interval) == (0.0, None, "none")
    assert found.reason == "every resample gives the same value"


def test_the_seed_decides_the_interval_and_not_the_value() -> None:
    made = [ablation_metrics(Y, answers(noise_foreground=0.6, noise_background=0.9), seed=s)["rfs"] for s in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0].value == made[2].value
    assert made[0].low != made[2].low


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(5), 60)
    truth = float(relative_foreground_sensitivity(np.array([0.6]), np.array([0.8]))[0])
    covered = 0
    for seed in range(120):
        made = {view: y.copy() for view in VIEWS}
        for kind, accuracy in (("noise-foreground", 0.6), ("noise-background", 0.8)):
            wrong = rng.random(len(y)) >= accuracy
            for draw in range(3):
                made[f"{kind}-{draw}"] = np.where(wrong, (y + 1) % 5, y)
        found = ablation_metrics(y, made, seed=seed)["rfs"]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered / 120 >= 0.88


@pytest.mark.parametrize("missing", ["tiled", "noise"])
def test_a_missing_view_is_refused(missing: str) -> None:
    made = {view: label for view, label in answers().items() if not view.startswith(missing)}
    with pytest.raises(InvalidValue, match=f"no answers to the view.*{missing}"):
        ablation_metrics(Y, made, seed=0)


def test_answers_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidValue, match="view 'tiled' has answers of shape"):
        ablation_metrics(Y, answers() | {"tiled": Y[:-1]}, seed=0)


def test_every_name_is_registered_for_tasks_with_views() -> None:
    assert {name for name, definition in METRICS.items() if definition.scope == "views"} == {*ACCURACIES, "rfs"}
