"""Two methods differ when their difference is more than test sampling and training explain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, ttest_rel

from benchmark.errors import InvalidValue
from benchmark.metrics.compare import (
    compare,
    compare_standings,
    performance,
    sampling_freedom,
    spread,
    squared_distances,
    standings,
    stratified_variance,
)
from benchmark.metrics.units import sampling_design

DRAWS = np.arange(5)


def trained(rng, test, accuracy, difficulty, seed_deviation, seeds=5):
    """Right answers of several trainings: units are hard for all, and every training has its own luck per group."""
    score = norm.ppf(accuracy)
    found = []
    for _ in range(seeds):
        luck = seed_deviation * rng.standard_normal(score.shape)
        z = np.sqrt(0.5) * difficulty[test.unit] + np.sqrt(0.5) * rng.standard_normal(len(test))
        found.append(z < (score + luck)[test.y, test.a])
    return np.stack(found)


def rejections(tools, test, accuracies, metric, seed_deviation, repetitions):
    """Share of repetitions in which two methods are told apart at 5 %."""
    rng = np.random.default_rng(1)
    found = []
    for repetition in range(repetitions):
        difficulty = rng.standard_normal(int(test.unit.max()) + 1)
        pair = [
            performance(test, trained(rng, test, accuracy, difficulty, seed_deviation), DRAWS, metric, seed=repetition)
            for accuracy in accuracies
        ]
        found.append(compare(*pair).p_value <= 0.05)
    return np.mean(found)


NATURAL = np.array([[0.95, 0.7], [0.6, 0.93]])
SIZES = np.array([[240, 60], [60, 240]])


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["acc_mean", "acc_conflicting", "gap", "acc_worst_group"])
@pytest.mark.parametrize("seed_deviation", [0.05, 0.3])
def test_equally_good_methods_are_rarely_told_apart(tools, metric, seed_deviation):
    test = tools.grouped_test(SIZES)
    repetitions = 60 if metric == "acc_worst_group" else 150
    assert rejections(tools, test, (NATURAL, NATURAL), metric, seed_deviation, repetitions) <= 0.07


def test_equally_good_methods_are_rarely_told_apart_on_a_crossed_test(tools):
    accuracy = np.full((4, 4), 0.6) + 0.3 * np.eye(4)
    test = tools.crossed_test(25, 4)
    assert rejections(tools, test, (accuracy, accuracy), "acc_conflicting", 0.1, 150) <= 0.07


def test_many_tied_groups_do_not_make_a_worse_minimum(tools):
    # One method has eight groups at .8, the other one at .8 and seven at .97: the same worst group, but not the same
    # expected minimum of eight noisy shares.
    test = tools.grouped_test(np.full((4, 2), 300))
    lone = np.full((4, 2), 0.97)
    lone[0, 1] = 0.8
    assert rejections(tools, test, (np.full((4, 2), 0.8), lone), "acc_worst_group", 0.0, 60) <= 0.07


def test_a_large_difference_is_found(tools):
    test = tools.grouped_test(SIZES)
    better = np.array([[0.95, 0.85], [0.82, 0.93]])
    for metric in ("acc_conflicting", "acc_worst_group"):
        assert rejections(tools, test, (better, NATURAL), metric, 0.05, 20) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed_deviation", [0.05, 0.3])
def test_the_size_of_the_paired_test_in_a_longer_simulation(tools, seed_deviation):
    test = tools.grouped_test(SIZES)
    share = rejections(tools, test, (NATURAL, NATURAL), "acc_conflicting", seed_deviation, 1500)
    assert share <= 0.06


def test_the_difference_and_its_parts_by_hand(tools):
    # Four images, one group each; answers of two seeds.
    test = tools.grouped_test(np.array([[2, 2], [2, 2]]))
    first = np.array([[1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 1, 1]], dtype=bool)
    second = np.array([[1, 0, 1, 0, 1, 1, 0, 1], [1, 0, 1, 0, 1, 1, 0, 0]], dtype=bool)
    ours, theirs = (performance(test, answers, np.arange(2), "acc_mean") for answers in (first, second))
    found = compare(ours, theirs)
    np.testing.assert_allclose(ours.values, [7 / 8, 7 / 8])
    np.testing.assert_allclose(theirs.values, [5 / 8, 4 / 8])
    assert found.difference == pytest.approx(7 / 8 - 9 / 16)
    assert found.training_variance == pytest.approx(np.var([5 / 8, 4 / 8], ddof=1) / 2)
    # Per image: seed-averaged differences, within each of the four groups of two.
    d = (first.mean(0) - second.mean(0)).reshape(4, 2) / 8
    assert found.test_variance == pytest.approx((2 * d.var(axis=1, ddof=1)).sum())
    parts = np.array([found.test_variance, 0, found.training_variance])
    assert found.degrees_of_freedom == pytest.approx(parts.sum() ** 2 / (parts**2 / [4, 1, 1]).sum())
    assert found.standard_error == pytest.approx(parts.sum() ** 0.5)


def test_without_training_variance_one_stratum_is_scipys_paired_t_test(tools):
    test = tools.grouped_test(np.array([[60, 0], [0, 0]]))
    rng = np.random.default_rng(0)
    first, second = rng.random(60) < 0.9, rng.random(60) < 0.6
    pair = [performance(test, np.stack([answers] * 5), DRAWS, "acc_mean") for answers in (first, second)]
    expected = ttest_rel(first.astype(float), second.astype(float))
    assert compare(*pair).p_value == pytest.approx(expected.pvalue)


def test_images_that_are_hard_for_both_do_not_blur_the_difference(tools):
    test = tools.grouped_test(np.array([[200, 0], [0, 0]]))
    hard = np.arange(200) < 80
    first, second = ~hard, ~hard & (np.arange(200) % 20 != 19)
    pair = [performance(test, np.stack([answers] * 5), DRAWS, "acc_mean") for answers in (first, second)]
    found = compare(*pair)
    unpaired = (np.var(first, ddof=1) + np.var(second, ddof=1)) / 200
    assert found.test_variance < unpaired / 8


def test_renderings_of_one_digit_are_one_observation(tools):
    test = tools.crossed_test(20, 4)
    right = np.repeat(np.random.default_rng(0).random(80) < 0.6, 4)  # all four renderings agree
    clustered = performance(test, np.stack([right] * 2), np.arange(2), "acc_group_mean")
    alone = type(test)(**{**test.__dict__, "unit": np.arange(320), "crossed": False})
    independent = performance(alone, np.stack([right] * 2), np.arange(2), "acc_group_mean")
    ratio = stratified_variance(clustered.influence[0], clustered.design) / stratified_variance(
        independent.influence[0], independent.design
    )
    assert ratio == pytest.approx(4, rel=0.02)


def test_only_common_draws_are_compared_and_each_counts_alike(tools):
    test = tools.grouped_test(np.array([[4, 0], [0, 4]]))
    share = {0: 2, 1: 4, 2: 6, 3: 8}
    rows = {draw: np.arange(8) < right for draw, right in share.items()}
    ours = performance(test, np.stack([rows[0], rows[1], rows[1], rows[3]]), np.array([0, 1, 1, 3]), "acc_mean")
    theirs = performance(test, np.stack([rows[0], rows[1], rows[2]]), np.array([0, 1, 2]), "acc_mean")
    assert compare(ours, theirs).difference == 0.0


def test_comparisons_that_make_no_sense_are_refused(tools):
    test = tools.grouped_test(np.full((2, 2), 4))
    right = np.ones((2, 16), dtype=bool)
    base = performance(test, right, np.array([0, 1]), "acc_mean")
    with pytest.raises(InvalidValue, match="same metric"):
        compare(base, performance(test, right, np.array([0, 1]), "gap"))
    with pytest.raises(InvalidValue, match="no common draw"):
        compare(base, performance(test, right, np.array([2, 3]), "acc_mean"))
    with pytest.raises(InvalidValue, match="at least two seeds"):
        compare(base, performance(test, right, np.array([1, 2]), "acc_mean"))
    with pytest.raises(InvalidValue, match="not compared on 'flip_rate'"):
        performance(test, right, np.array([0, 1]), "flip_rate")
    with pytest.raises(InvalidValue, match="training counts"):
        performance(test, right, np.array([0, 1]), "acc_adjusted")
    with pytest.raises(InvalidValue, match="undefined"):
        performance(tools.grouped_test(np.array([[8, 0], [0, 8]])), right, np.array([0, 1]), "acc_conflicting")


def test_identical_answers_are_not_told_apart_and_opposite_ones_are(tools):
    test = tools.grouped_test(np.full((2, 2), 4))
    right = performance(test, np.ones((2, 16), dtype=bool), np.array([0, 1]), "acc_mean")
    wrong = performance(test, np.zeros((2, 16), dtype=bool), np.array([0, 1]), "acc_mean")
    assert compare(right, right).p_value == 1.0
    assert compare(right, wrong).p_value == 0.0
    assert compare(right, wrong).difference == 1.0


def test_a_single_image_in_a_group_does_not_break_the_variance(tools):
    test = tools.grouped_test(np.array([[1, 5], [5, 5]]))
    design = sampling_design(test)
    assert design.n_strata == 4
    assert stratified_variance(np.ones(16), design) == pytest.approx(1.0)


def test_a_distance_does_not_depend_on_which_others_are_asked_for(tools):
    spreads = np.random.default_rng(0).normal(size=(40, 357))
    whole = squared_distances(spreads, spreads[3])
    assert whole[3] == 0
    assert whole.min() >= 0
    for start, stop in ((0, 1), (3, 5), (7, 40)):
        assert squared_distances(spreads[start:stop], spreads[3]).tolist() == whole[start:stop].tolist()


def test_many_differences_at_once_are_those_of_each_pair(tools):
    test = tools.grouped_test(np.array([[60, 20], [20, 60]]))
    rng = np.random.default_rng(1)
    methods = [
        performance(test, rng.random((5, len(test))) < share, DRAWS, "acc_conflicting") for share in (0.5, 0.6, 0.9)
    ]
    draws = np.unique(DRAWS)
    spreads = np.stack([spread(each, draws) for each in methods])
    found = standings(methods, draws)
    first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
    distances = np.array([squared_distances(spreads[[a]], spreads[b])[0] for a, b in zip(first, second, strict=True)])
    freedom = sampling_freedom(methods[0].design)
    many = compare_standings(found.take(first), found.take(second), distances, freedom)
    pairs = [compare(methods[a], methods[b]) for a, b in zip(first, second, strict=True)]
    assert [many.one(k) for k in range(3)] == pairs


def test_influences_do_not_need_the_bias_of_the_minimum(tools):
    test = tools.grouped_test(np.array([[30, 30], [30, 30]]))
    right = np.random.default_rng(2).random((5, len(test))) < 0.7
    whole, without = (performance(test, right, DRAWS, "acc_worst_group", seed=seed) for seed in (0, None))
    assert (whole.influence == without.influence).all()
    assert (whole.bias != 0).all()
    assert (without.bias == 0).all()
