"""Refitting the last layer on balanced subsets, on features whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from benchmark.errors import InvalidValue, NotApplicable, NotAvailable
from benchmark.training.backbones import fresh_state, state_digest
from benchmark.training.last_layer import (
    STRENGTHS,
    LastLayer,
    _balanced,
    _fit,
    _halves,
    _standardised,
    refit,
    with_last_layer,
)
from benchmark.training.specs import backbone_spec


def biased(counts: list[int], seed: int = 0, core: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes and two attributes, groups of the given sizes: a weak feature for y, a strong one for a, six noises.

    Raw scales and offsets differ by feature, so that standardisation matters.
    """
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(4), counts)
    y, a = group // 2, group % 2
    noise = random.normal(size=(len(y), 6))
    signal = np.stack([core * (2 * y - 1), 3.0 * (2 * a - 1)], 1) + random.normal(size=(len(y), 2))
    features = np.concatenate([signal, noise], 1) * np.geomspace(0.01, 100, 8) + 5
    return features.astype(np.float32), y, group


def many_classes(n: int = 200, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    y, a = np.arange(n) % classes, random.integers(2, size=n)
    features = 2 * np.eye(classes, 12)[y] + random.normal(size=(n, 12))
    return features.astype(np.float32), y, 2 * y + a


def predicted(layer: LastLayer, features: np.ndarray) -> np.ndarray:
    return (features @ layer.weight.T + layer.bias).argmax(1)


def worst_group(right: np.ndarray, group: np.ndarray) -> float:
    return min(float(right[group == g].mean()) for g in np.unique(group))


@pytest.mark.parametrize(("data", "classes"), [(biased([60, 9, 7, 50]), 2), (many_classes(), 5)])
def test_the_layer_on_raw_features_is_the_average_of_the_refits_on_standardised_ones(data, classes) -> None:  # type: ignore[no-untyped-def]
    features, y, group = data
    layer = refit(features, y, group, n_classes=classes, seed=4, refits=3)
    standard, _, _ = _standardised(features)
    logits = []
    for k in range(3):
        generator = np.random.default_rng((4, 1, k))
        rows = _balanced(np.arange(len(y)), group, generator)
        fit = _fit(standard[rows], y[rows], classes, layer.c, generator)
        logits.append(standard @ fit.weight.T + fit.bias)
    assert not np.allclose(logits[0], logits[1])
    average = np.mean(logits, axis=0)
    np.testing.assert_allclose(features @ layer.weight.T + layer.bias, average, rtol=1e-3, atol=1e-4)
    assert np.array_equal(predicted(layer, features), average.argmax(1))
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert layer.weight.shape == (classes, features.shape[1])


def test_two_classes_have_the_probabilities_of_the_logistic_regression() -> None:
    features, y, group = biased([30, 30, 30, 30])  # equal groups: every subset is everything
    layer = refit(features, y, group, n_classes=2, seed=0, refits=2)
    standard = (features - features.mean(0)) / features.std(0)
    regression = LogisticRegression(l1_ratio=1.0, C=layer.c, solver="liblinear", random_state=0)
    expected = regression.fit(standard, y).predict_proba(standard)[:, 1]
    logits = torch.from_numpy(features @ layer.weight.T + layer.bias)
    np.testing.assert_allclose(torch.softmax(logits, 1)[:, 1], expected, atol=2e-3)


def test_balanced_refits_ignore_the_attribute_that_a_plain_fit_follows() -> None:
    features, y, group = biased([400, 20, 20, 400])
    layer = refit(features, y, group, n_classes=2, seed=0)
    plain = LogisticRegression().fit((features - features.mean(0)) / features.std(0), y)
    other, labels, groups = biased([300, 300, 300, 300], seed=1)
    followed = plain.predict((other - features.mean(0)) / features.std(0)) == labels
    assert worst_group(followed, groups) < 0.5
    assert worst_group(predicted(layer, other) == labels, groups) > 0.75
    assert layer.images_per_group == 20


def test_the_strongest_regularisation_wins_a_tie() -> None:
    features, y, group = biased([400, 400, 400, 400], core=8.0)
    layer = refit(features, y, group, n_classes=2, seed=0, refits=1)
    assert (layer.c, layer.worst_group_accuracy, layer.mean_group_accuracy) == (min(STRENGTHS), 1.0, 1.0)


def test_the_choice_is_judged_on_images_that_were_not_fitted() -> None:
    # Labels without any relation to the features: a judge that had seen them would call the fit good.
    random = np.random.default_rng(0)
    features, y = random.normal(size=(200, 300)).astype(np.float32), np.arange(200) % 2
    layer = refit(features, y, y, n_classes=2, seed=0, refits=1)
    assert layer.worst_group_accuracy < 0.65


def test_halves_take_every_image_once_and_single_images_are_fitted() -> None:
    group = np.array([7, 3, 3, 7, 3, 9, 7, 7])
    fitted, judging = _halves(group, np.random.default_rng(0))
    assert sorted([*fitted, *judging]) == list(range(8))
    assert sorted(group[fitted]) == [3, 3, 7, 7, 9]
    assert sorted(group[judging]) == [3, 7, 7]


def test_balanced_subsets_cut_every_group_to_the_smallest_and_differ() -> None:
    group = np.array([0] * 50 + [2] * 3 + [5] * 20)
    first, second = (_balanced(np.arange(73), group, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.unique(group[first], return_counts=True)[1].tolist() == [3, 3, 3]
    assert set(first) != set(second)


def test_a_group_of_one_image_is_fitted_but_does_not_judge() -> None:
    features, y, group = biased([10, 10, 1, 10])
    layer = refit(features, y, group, n_classes=2, seed=0)
    assert (layer.judged_groups, layer.images_per_group) == (3, 1)


def test_the_seed_decides() -> None:
    data = biased([60, 9, 7, 50])
    first, again, other = (refit(*data, n_classes=2, seed=seed, refits=2) for seed in (1, 1, 2))
    assert np.array_equal(first.weight, again.weight)
    assert np.array_equal(first.bias, again.bias)
    assert not np.array_equal(first.weight, other.weight)


def test_a_class_without_validation_images_makes_it_not_applicable() -> None:
    features, y, group = biased([10, 10, 10, 10])
    with pytest.raises(NotApplicable, match="no validation image of class 2, 3"):
        refit(features, y, group, n_classes=4, seed=0)


def test_groups_of_single_images_make_it_not_applicable() -> None:
    features, y, group = biased([1, 1, 1, 1])
    with pytest.raises(NotApplicable, match="no group has two"):
        refit(features, y, group, n_classes=2, seed=0)


def test_arrays_that_make_no_sense_are_refused() -> None:
    features, y, group = biased([5, 5, 5, 5])
    with pytest.raises(InvalidValue, match="do not belong together"):
        refit(features[1:], y, group, n_classes=2, seed=0)
    with pytest.raises(InvalidValue, match=r"not in 0\.\.1"):
        refit(features, y + 1, group, n_classes=2, seed=0)
    with pytest.raises(InvalidValue, match="not finite"):
        refit(np.full_like(features, np.nan), y, group, n_classes=2, seed=0)
    with pytest.raises(InvalidValue, match="one refit"):
        refit(features, y, group, n_classes=2, seed=0, refits=0)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    features, y, group = biased([20, 20, 20, 20], core=4.0)
    features[:, 4] = 0
    layer = refit(features, y, group, n_classes=2, seed=0, refits=2)
    assert np.isfinite(layer.weight).all()
    assert (predicted(layer, features) == y).mean() > 0.95


def test_a_state_dict_gets_the_layer_and_the_given_one_keeps_its_own() -> None:
    state = fresh_state(backbone_spec("small-cnn", 2), 0)
    before = state_digest(state)
    random = np.random.default_rng(0)
    features, y = random.normal(size=(40, 128)).astype(np.float32), np.arange(40) % 2
    layer = refit(features, y, y, n_classes=2, seed=0, refits=1)
    changed = with_last_layer(state, layer)
    assert np.array_equal(changed["fc.weight"], layer.weight)
    assert np.array_equal(changed["fc.bias"], layer.bias)
    assert all(torch.equal(changed[name], state[name]) for name in state if not name.startswith("fc."))
    assert state_digest(state) == before


def test_a_layer_of_another_shape_or_a_state_without_one_is_refused() -> None:
    layer = refit(*biased([5, 5, 5, 5]), n_classes=2, seed=0, refits=1)
    state = fresh_state(backbone_spec("small-cnn", 2), 0)
    with pytest.raises(InvalidValue, match=r"\(2, 8\) cannot replace \(2, 128\)"):
        with_last_layer(state, layer)
    with pytest.raises(NotAvailable, match="no last layer"):
        with_last_layer({"head.weight": state["fc.weight"]}, layer)
