"""A slope over generations is told from none when it is more than test sampling and training explain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, norm, t, ttest_1samp

from benchmark.errors import InvalidValue
from benchmark.metrics.compare import performance
from benchmark.metrics.trajectories import judge, slope_of_accuracy, slope_of_shares, slope_weights

GENERATIONS = 5
LEVELS = np.array([[0.95, 0.7], [0.6, 0.93]])
SIZES = np.array([[240, 60], [60, 240]])


def loop(rng, test, accuracy, seed_deviation, per_generation=0.0, seeds=5):
    """Performances of generations 0 to 5: units are hard in all of them, every training has its own luck per group."""
    difficulty = rng.standard_normal(int(test.unit.max()) + 1)
    found = []
    for g in range(GENERATIONS + 1):
        score = norm.ppf(accuracy + g * per_generation * (1 - np.eye(2)))
        answers = []
        for _ in range(seeds):
            luck = seed_deviation * rng.standard_normal(score.shape)
            z = np.sqrt(0.5) * difficulty[test.unit] + np.sqrt(0.5) * rng.standard_normal(len(test))
            answers.append(z < (score + luck)[test.y, test.a])
        found.append(performance(test, np.stack(answers), np.arange(seeds), "acc_conflicting"))
    return found


def shares_of(slopes, deviation=0.0, start=0.1, generations=GENERATIONS):
    """Shares [seeds, generations + 1] whose per-seed slopes are these, with some fixed scatter around the lines."""
    scatter = deviation * np.random.default_rng(0).standard_normal((len(slopes), generations + 1))
    return start + np.outer(slopes, np.arange(generations + 1)) + scatter


def test_the_weights_are_those_of_least_squares():
    np.testing.assert_allclose(slope_weights(5), np.array([-5, -3, -1, 1, 3, 5]) / 35)
    values = np.random.default_rng(0).random(8)
    assert slope_weights(7) @ values == pytest.approx(linregress(np.arange(8), values).slope)


def test_a_golden_of_shares_by_hand():
    # Lines of -.01 and -.03 per generation: mean -.02, standard deviation √2·.01, over √2 seeds: .01.
    found = slope_of_shares(shares_of([-0.01, -0.03]))
    assert (found.seeds, found.generations, found.still) == (2, 5, False)
    assert found.value == pytest.approx(-0.02)
    test = found.against_none
    assert test.standard_error == pytest.approx(0.01)
    assert test.degrees_of_freedom == pytest.approx(1)
    assert (test.test_variance, test.training_variance) == (0, pytest.approx(1e-4))
    half = t.ppf(0.975, 1) * 0.01
    assert (test.low, test.high) == (pytest.approx(-0.02 - half), pytest.approx(-0.02 + half))
    assert test.p_value == pytest.approx(2 * t.sf(2, 1))


def test_the_slope_of_shares_is_scipys_t_test_of_the_slopes_of_the_seeds():
    shares = shares_of([-0.004, 0.001, -0.006, -0.002, -0.003, 0.002], deviation=0.01)
    slopes = [linregress(np.arange(6), row).slope for row in shares]
    found, expected = slope_of_shares(shares), ttest_1samp(slopes, 0)
    assert found.value == pytest.approx(np.mean(slopes))
    assert found.against_none.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.against_none.low, found.against_none.high) == pytest.approx((interval.low, interval.high))


def test_a_golden_of_accuracies_by_hand(tools):
    # Two groups of two images, both conflicting; three generations; two seeds.
    test = tools.grouped_test(np.array([[0, 2], [2, 0]]))
    answers = np.array(
        [[[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 0, 1, 0], [1, 1, 1, 0]], [[0, 0, 1, 0], [1, 0, 0, 1]]], dtype=bool
    )  # [generations, seeds, images]
    generations = [performance(test, right, np.arange(2), "acc_conflicting") for right in answers]
    found = slope_of_accuracy(generations)
    # Accuracies .75 .5 .25 and 1 .75 .5; the slope over three points is half of last minus first.
    assert found.value == pytest.approx(-0.25)
    assert found.against_none.training_variance == 0
    # Each image's seed-averaged half difference, weighted 1/4; groups of two are the strata.
    d = ((answers[2] - answers[0].astype(float)).mean(axis=0) / 2 / 4).reshape(2, 2)
    assert found.against_none.test_variance == pytest.approx((2 * d.var(axis=1, ddof=1)).sum())
    assert found.against_none.degrees_of_freedom == pytest.approx(2)


@pytest.mark.parametrize("slope", [0.0, -0.02])
@pytest.mark.parametrize("seed_deviation", [0.05, 0.3])
def test_the_interval_covers_the_true_slope_of_an_accuracy(tools, slope, seed_deviation):
    test = tools.grouped_test(SIZES)
    # Luck on the scale of scores pulls shares towards a half; the truth is the slope of the expected accuracies.
    conflicting = np.array([0.7, 0.6])[:, None] + slope * np.arange(GENERATIONS + 1)
    expected = norm.cdf(norm.ppf(conflicting) / np.sqrt(1 + seed_deviation**2)).mean(axis=0)
    truth = slope_weights(GENERATIONS) @ expected
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(100):
        found = slope_of_accuracy(loop(rng, test, LEVELS, seed_deviation, slope)).against_none
        inside.append(found.low <= truth <= found.high)
    assert np.mean(inside) >= 0.93


def test_the_interval_covers_the_true_slope_of_shares():
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(400):
        slopes = -0.01 + 0.004 * rng.standard_normal(5)
        found = slope_of_shares(shares_of(slopes) + 0.005 * rng.standard_normal((5, 6))).against_none
        inside.append(found.low <= -0.01 <= found.high)
    assert 0.92 <= np.mean(inside) <= 0.98


def test_images_that_are_hard_in_every_generation_do_not_blur_the_slope(tools):
    test = tools.grouped_test(np.array([[0, 200], [0, 0]]))
    right = np.arange(200) >= 80
    generations = [
        performance(test, np.stack([right & (np.arange(200) % 50 != 49 - g)] * 2), np.arange(2), "acc_mean")
        for g in range(6)
    ]
    found = slope_of_accuracy(generations).against_none
    independent = (slope_weights(5) ** 2).sum() * np.var(right, ddof=1) / 200
    assert found.test_variance < independent / 4


def test_all_seeds_answer_one_test_split_so_more_seeds_do_not_shrink_its_part(tools):
    test = tools.grouped_test(SIZES)
    rng = np.random.default_rng(3)
    answers = [rng.random(len(test)) < 0.8 for _ in range(6)]
    parts = []
    for seeds in (2, 20):
        generations = [performance(test, np.stack([each] * seeds), np.arange(seeds), "acc_mean") for each in answers]
        parts.append(slope_of_accuracy(generations).against_none.test_variance)
    assert parts[0] == pytest.approx(parts[1])
    assert parts[0] > 0


def test_a_clear_fall_is_amplified_and_a_clear_rise_reduced():
    found = judge(
        {
            "falls": slope_of_shares(shares_of([-0.010, -0.012, -0.011, -0.009, -0.010])),
            "rises": slope_of_shares(shares_of([0.010, 0.012, 0.011, 0.009, 0.010])),
            "neither": slope_of_shares(shares_of([0.010, -0.012, 0.001, -0.009, 0.010])),
        }
    )
    assert {arm: each.verdict for arm, each in found.items()} == {
        "falls": "amplified", "rises": "reduced", "neither": "not distinguishable",
    }  # fmt: skip
    assert found["neither"].p_value > 0.05
    assert found["neither"].reason is None


def test_holm_corrects_over_the_family_and_leaves_out_what_is_too_few():
    doubtful = slope_of_shares(shares_of([-0.010, -0.004, -0.016, -0.003, -0.012]))
    p_value = doubtful.against_none.p_value
    assert 0.0125 < p_value < 0.025
    noise = slope_of_shares(shares_of([0.010, -0.012, 0.001, -0.009, 0.010]))
    four = slope_of_shares(shares_of([-0.01] * 4))
    assert judge({"a": doubtful, "b": noise, "four": four})["a"].p_value == pytest.approx(2 * p_value)
    assert judge({"a": doubtful, "b": noise, "four": four})["a"].verdict == "amplified"
    wider = judge({("a", "0.9"): doubtful, **{(arm, "0.95"): noise for arm in "bcd"}})
    assert wider["a", "0.9"].p_value == pytest.approx(4 * p_value)
    assert wider["a", "0.9"].verdict == "not distinguishable"


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        (shares_of([-0.01, -0.02, -0.03, -0.02]), "4 seed(s), at least 5 are needed"),
        (shares_of([-0.01]), "1 seed(s), at least 5 are needed"),
        (shares_of([-0.01, -0.02, -0.03, -0.02, -0.01], generations=4), "4 generations after the real data's"),
        (shares_of([-0.01] * 5), "all seeds report the same values, so they count as one"),
    ],
)
def test_too_few_seeds_or_generations_are_not_judged(shares, reason):
    found = judge({"arm": slope_of_shares(shares)})["arm"]
    assert (found.verdict, found.p_value) == ("too few", None)
    assert found.reason.startswith(reason)


def test_a_constant_has_slope_zero_and_says_so():
    # As retraining on real data: each draw its own share, the same in every generation.
    found = slope_of_shares(np.repeat(np.array([[0.1], [0.1], [0.101], [0.099], [0.1]]), 6, axis=1))
    assert (found.value, found.still) == (0.0, True)
    assert (found.against_none.low, found.against_none.high, found.against_none.p_value) == (0, 0, 1)
    judged = judge({"real": found})["real"]
    assert (judged.verdict, judged.p_value) == ("not distinguishable", 1)
    assert judged.reason == "constant: no seed's value changes over the generations"


def test_one_seed_has_a_slope_and_no_interval():
    found = slope_of_shares(shares_of([-0.01]))
    assert (found.value, found.seeds, found.against_none) == (pytest.approx(-0.01), 1, None)


def test_an_empty_family_has_no_judgement():
    assert judge({}) == {}


def test_slopes_that_make_no_sense_are_refused(tools):
    with pytest.raises(InvalidValue, match="over 0 generations"):
        slope_of_shares(np.full((5, 1), 0.1))
    with pytest.raises(InvalidValue, match="a number for each seed"):
        slope_of_shares(np.array([[0.1, np.nan]]))
    with pytest.raises(InvalidValue, match="a number for each seed"):
        slope_of_shares(np.zeros((0, 6)))
    test = tools.grouped_test(np.full((2, 2), 4))
    two, three = (performance(test, np.ones((n, 16), dtype=bool), np.arange(n), "acc_mean") for n in (2, 3))
    gap = performance(test, np.ones((2, 16), dtype=bool), np.arange(2), "gap")
    for pair in ([two, three], [two, gap]):
        with pytest.raises(InvalidValue, match="same metric, seeds and test split"):
            slope_of_accuracy(pair)
