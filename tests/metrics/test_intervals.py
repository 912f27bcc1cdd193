"""Intervals cover what they promise, on data whose truth is known, and cope with degenerate data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from benchmark.metrics import calibration
from benchmark.metrics.binomial import clopper_pearson, effective_trials, sidak_alpha, simultaneous
from benchmark.metrics.fairness import Bounded
from benchmark.metrics.groups import averages, count_groups
from benchmark.metrics.intervals import all_alike, percentile, propagated
from benchmark.metrics.resampling import bootstrap, unit_weights
from benchmark.metrics.units import sampling_design

TRAIN2 = np.array([[90, 10], [10, 90]])


def answers_for(test, wrong_rows):
    label = test.y.copy()
    label[wrong_rows] = (label[wrong_rows] + 1) % test.n_classes
    return label


# --- simultaneous intervals of shares -------------------------------------------------------------------------------


def test_clopper_pearson_equals_scipys_exact_interval():
    low, high = clopper_pearson(np.array([0, 3, 36]), np.array([36, 36, 36]), 0.05)
    for k, ours in zip((0, 3, 36), zip(low, high, strict=True), strict=True):
        assert ours == pytest.approx(tuple(binomtest(k, 36).proportion_ci(0.95, "exact")), abs=1e-12)


def test_sidak_makes_independent_intervals_hold_together():
    assert (1 - sidak_alpha(100)) ** 100 == pytest.approx(0.95)
    assert sidak_alpha(1) == pytest.approx(0.05)


def test_wilson_would_miss_where_clopper_pearson_holds():
    # A hundred groups of 36 with accuracy .99, exactly: the chance that every interval holds it.
    alpha, n, truth = sidak_alpha(100), 36, 0.99
    k = np.arange(n + 1)
    low, high = clopper_pearson(k, np.full(n + 1, n), alpha)
    exact = binom.pmf(k, n, truth)[(low <= truth) & (truth <= high)].sum() ** 100
    z = norm.ppf(1 - alpha / 2)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z * np.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    wilson = binom.pmf(k, n, truth)[(centre - half <= truth) & (truth <= centre + half)].sum() ** 100
    assert exact >= 0.95
    assert wilson < 0.9


def test_rows_of_different_units_count_fully_and_copies_not_at_all():
    cell = np.zeros(60, dtype=np.int64)
    independent = np.arange(60)
    success = independent % 3 == 0
    assert effective_trials(independent, cell, success, 1, 0.05)[0] == 60
    copies = independent // 3
    # Twenty units whose three rows always agree are worth twenty rows, a little less for the estimated variance.
    worth = effective_trials(copies, cell, copies % 3 == 0, 1, 0.05)[0]
    assert 17 < worth < 20
    # All right: nothing shows how far rows of a unit agree, so full agreement is assumed.
    assert effective_trials(copies, cell, np.ones(60, bool), 1, 0.05)[0] <= 20


def test_a_crossed_group_holds_each_unit_once(tools):
    test = tools.crossed_test(36, 10)
    worth = effective_trials(test.unit, test.group, test.y == test.a, 100, 0.0005)
    np.testing.assert_array_equal(worth, np.full(100, 36.0))


def test_empty_cells_have_no_interval_and_do_not_widen_the_others():
    low, high = simultaneous(np.array([5.0, 0.0]), np.array([10.0, 0.0]), np.array([10.0, 0.0]))
    assert np.isnan([low[1], high[1]]).all()
    assert (low[0], high[0]) == pytest.approx(tuple(binomtest(5, 10).proportion_ci(0.95, "exact")))


# --- pieces of the bootstrap ----------------------------------------------------------------------------------------


def test_strata_follow_the_design(tools):
    assert sampling_design(tools.crossed_test(4, 3)).strata == "label"
    grouped = tools.grouped_test(np.full((2, 2), 6))
    assert sampling_design(grouped).strata == "group"
    spanning = type(grouped)(**{**grouped.__dict__, "unit": np.arange(24) % 6})
    assert sampling_design(spanning).strata == "none"


def test_resamples_keep_the_strata_and_the_crossing(tools):
    test = tools.crossed_test(5, 3)
    label = np.random.default_rng(0).integers(0, 3, len(test))
    drawn = bootstrap(test, label, lambda r: {"n": r.counts.n, "all": r.counts.predicted.sum(1)}, resamples=50, seed=1)
    np.testing.assert_allclose(drawn["n"], np.full((50, 3, 3), 5.0))
    np.testing.assert_allclose(drawn["all"], np.full((50, 3), 15.0))


def test_strata_of_two_units_show_their_whole_variance(tools):
    # Twenty digits, two per class, one of each two right: drawing two of two would halve the variance.
    test = tools.crossed_test(2, 10)
    label = np.where(test.unit < 10, test.y, (test.y + 1) % 10)
    drawn = bootstrap(test, label, lambda r: averages(r.counts, {}), resamples=4000, seed=3)["acc_mean"]
    assert drawn.std() == pytest.approx((10 * 0.5 / 2 / 100) ** 0.5, rel=0.05)


def test_resampled_accuracies_have_the_variance_of_the_cluster_sample(tools):
    test = tools.crossed_test(30, 2)
    right = np.repeat(np.arange(60) % 3 > 0, 2)  # both renderings of a digit agree
    label = np.where(right, test.y, 1 - test.y)
    drawn = bootstrap(test, label, lambda r: averages(r.counts, {}), resamples=4000, seed=3)["acc_mean"]
    assert drawn.mean() == pytest.approx(2 / 3, abs=0.005)
    assert drawn.std() == pytest.approx((2 / 9 / 58) ** 0.5, rel=0.05)


def test_merged_types_and_single_units_give_the_same_distribution(tools):
    rng = np.random.default_rng(4)
    test = tools.grouped_test(np.array([[40, 20], [20, 40]]), unit=rng.integers(0, 25, 120))
    right = rng.random(120) < 0.7
    label = np.where(right, test.y, 1 - test.y)
    merged = bootstrap(test, label, lambda r: averages(r.counts, {}), resamples=4000, seed=5)["acc_mean"]
    design = sampling_design(test)
    weights = np.concatenate(list(unit_weights(design, 4000, 6, 1000)))[:, design.unit]
    single = (weights * right).sum(axis=1) / weights.sum(axis=1)
    assert merged.mean() == pytest.approx(single.mean(), abs=0.005)
    assert merged.std() == pytest.approx(single.std(), rel=0.06)


def test_resamples_that_empty_a_group_are_redrawn(tools):
    # One unit alone holds group (1, 0), and units span groups: a third of the plain resamples would lose it.
    y = np.array([0, 0, 1] * 8 + [1])
    a = np.array([0, 1, 1] * 8 + [0])
    test = tools.grouped_test(np.array([[8, 8], [1, 8]]), y=y, a=a, unit=np.array([*np.repeat(np.arange(8), 3), 8]))
    assert sampling_design(test).strata == "none"
    drawn = bootstrap(test, y, lambda r: {"n": r.counts.n}, resamples=300, seed=0)["n"]
    assert len(drawn) == 300
    assert (drawn > 0).all()


def test_hopeless_redrawing_falls_back_on_the_propagated_interval(tools):
    # Thirty groups, each in one unit of its own but for one unit that spans two: resamples lose some nearly always.
    y, a = np.divmod(np.arange(30), 10)
    test = tools.grouped_test(np.ones((3, 10), int), y=y, a=a, unit=np.array([0, 0, *range(1, 29)]))
    label = np.where(np.arange(30) % 2 == 0, y, (y + 1) % 3)
    assert bootstrap(test, label, lambda r: {"n": r.counts.n}, resamples=100, seed=0) is None
    found = tools.metrics_of(test, label, np.ones((3, 10), int), resamples=100)["acc_group_mean"]
    assert (found.value, found.interval) == (0.5, "sidak-propagated")
    assert found.low < 0.1
    assert found.high > 0.9


def test_the_seed_decides_the_interval_and_not_the_value(tools):
    test = tools.grouped_test(np.full((2, 2), 40))
    label = answers_for(test, np.arange(0, 160, 3))
    first, again, other = (tools.metrics_of(test, label, TRAIN2, seed=s)["acc_mean"] for s in (1, 1, 2))
    assert first == again
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high) or first.low == pytest.approx(other.low, abs=0.01)


def test_percentiles_leave_out_undefined_resamples():
    assert percentile(np.array([np.nan, 1.0, 1.0, 1.0])) == (1.0, 1.0)
    assert percentile(np.array([np.nan, np.nan, np.nan, 1.0])) is None


def test_propagation_of_a_signed_sum_takes_the_worst_ends():
    bounds = Bounded(np.array([0.5, 0.5]), np.array([0.4, 0.3]), np.array([0.7, 0.6]))
    found = propagated(0.1, np.array([1.0, -1.0]), bounds)
    assert (found.low, found.high) == pytest.approx((0.1 - 0.1 - 0.1, 0.1 + 0.2 + 0.2))


# --- degenerate data ------------------------------------------------------------------------------------------------


def test_a_perfect_score_has_an_interval_below_it(tools):
    test = tools.grouped_test(np.full((2, 2), 50))
    found = tools.metrics_of(test, test.y, TRAIN2)
    for name in ("acc_mean", "acc_group_mean"):
        # Groups of equal weight and size act as one sample: Clopper-Pearson of 200 of 200.
        assert (found[name].value, found[name].high, found[name].interval) == (1.0, 1.0, "exact")
        assert found[name].low == pytest.approx(0.025 ** (1 / 200))
    assert found["acc_aligned"].low == pytest.approx(0.025 ** (1 / 100))
    assert found["gap"].low < 0 < found["gap"].high
    assert found["bias_retained"].low < 0 < found["bias_retained"].high


def test_a_score_of_zero_has_an_interval_above_it(tools):
    test = tools.crossed_test(20, 2)
    found = tools.metrics_of(test, 1 - test.y, TRAIN2)
    assert (found["acc_conflicting"].value, found["acc_conflicting"].low) == (0.0, 0.0)
    assert found["acc_conflicting"].high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert found["accuracy_ratio"].value is None
    assert found["max_disparity"].value == 0.0


def test_unequal_weights_put_the_doubt_where_units_are_few():
    # Half the weight on 10 units, half on 1,000: an unseen exception is most likely among the ten.
    found = all_alike(1.0, np.array([0.5, 0.5]), np.array([10, 1000]))
    lone = 0.5 * (1 - 0.025 ** (1 / 10))
    assert 1 - found.low == pytest.approx(lone, rel=0.02)
    assert 1 - found.low >= lone - 1e-9


def test_a_single_group_has_an_accuracy_and_no_disparity(tools):
    test = tools.grouped_test(np.array([[12, 0], [0, 0]]))
    found = tools.metrics_of(test, answers_for(test, [0, 1, 2]), TRAIN2)
    assert found["acc_mean"].value == found["acc_worst_group"].value == 0.75
    assert found["max_disparity"].value is None
    assert "single populated group" in found["max_disparity"].reason


def test_groups_of_one_image_give_the_propagated_interval(tools):
    test = tools.grouped_test(np.ones((2, 2), int))
    found = tools.metrics_of(test, answers_for(test, [1]), TRAIN2)["acc_group_mean"]
    assert (found.value, found.interval) == (0.75, "sidak-propagated")
    assert found.low < 0.1


# --- coverage -------------------------------------------------------------------------------------------------------

AVERAGES = ("acc_mean", "acc_group_mean", "acc_conflicting", "gap")


def coverage(tools, world, truths, train, repetitions, **options):
    rng = np.random.default_rng(11)
    with pytest.MonkeyPatch.context() as patch:
        # Calibration has its own tests.
        patch.setattr(calibration, "RESAMPLES", 2)
        found = [
            tools.metrics_of(world.test, world.labels(rng), train, seed=repetition, **options)
            for repetition in range(repetitions)
        ]
    return {name: tools.share_inside(truth, [metrics[name] for metrics in found]) for name, truth in truths.items()}


def true_averages(world):
    n = count_groups(world.test, world.test.y).n
    weights = {"acc_group_mean": (n > 0) * 1.0, "acc_conflicting": (~world.test.aligned & (n > 0)) * 1.0}
    truth = {"acc_mean": (n * world.accuracy).sum() / n.sum()}
    truth |= {name: (table * world.accuracy).sum() / table.sum() for name, table in weights.items()}
    aligned = world.accuracy[world.test.aligned & (n > 0)].mean()
    return truth | {"gap": aligned - truth["acc_conflicting"]}


def true_bias_and_flips(tools, world, train):
    """Bias exactly from the law of the answers, flips from very many digits; for a crossed test of equal classes."""
    classes = world.test.n_classes
    change = world.answer_law().mean(axis=0).T - 1 / classes
    sign = 2 * np.eye(classes) - 1
    many = tools.World(tools.crossed_test(50000, classes), world.accuracy, correlation=world.correlation)
    answers = many.labels(np.random.default_rng(0)).reshape(-1, classes)
    return {
        "bias_amplification": (sign * change).mean(),
        "bias_retained": (sign * change).sum() / (sign * (train / train.sum(axis=0) - 1 / classes)).sum(),
        "flip_rate": 1 - (answers[:, :, None] == answers[:, None, :]).mean(),
        "flip_any": (answers != answers[:, :1]).any(axis=1).mean(),
    }


def extremes_of(accuracy):
    """Truths that follow from group accuracies alone, in a test of equal groups of two classes."""
    return {
        "acc_worst_group": accuracy.min(),
        "max_disparity": np.ptp(accuracy),
        "opportunity_difference_max": max(np.ptp(row) for row in accuracy),
        "accuracy_ratio": accuracy.mean(axis=0).min() / accuracy.mean(axis=0).max(),
    }


def natural(tools):
    return tools.World(tools.grouped_test(np.array([[240, 60], [50, 230]])), np.array([[0.95, 0.7], [0.6, 0.9]]))


def crossed(tools, classes=3, units=30):
    accuracy = np.full((classes, classes), 0.6) + 0.3 * np.eye(classes)
    return tools.World(tools.crossed_test(units, classes), accuracy, correlation=0.8)


def identities(tools):
    unit = np.random.default_rng(5).integers(0, 150, 1200)
    y = np.random.default_rng(6).integers(0, 2, 1200)
    test = tools.grouped_test(np.full((2, 2), 300), y=y, a=unit % 2, unit=unit)
    return tools.World(test, np.array([[0.9, 0.7], [0.65, 0.92]]), correlation=0.6)


def equal(tools):
    return tools.World(tools.grouped_test(np.full((2, 2), 60)), np.full((2, 2), 0.8))


@pytest.mark.slow
@pytest.mark.parametrize("make", [natural, crossed, identities])
def test_averages_and_gaps_are_covered(tools, make):
    world = make(tools)
    train = 40 * np.eye(len(world.accuracy), dtype=int) + 5
    found = coverage(tools, world, true_averages(world), train, 150, resamples=400)
    # 150 repetitions: within 2.5 standard errors of the nominal 95 %.
    assert all(0.905 <= share <= 0.994 for share in found.values()), found


@pytest.mark.parametrize("make", [equal, natural])
def test_extremes_are_covered_also_among_equal_groups(tools, make):
    world = make(tools)
    truths = extremes_of(world.accuracy)
    if make is natural:
        del truths["accuracy_ratio"]
    found = coverage(tools, world, truths, TRAIN2, 80, resamples=2)
    assert all(share >= 0.92 for share in found.values()), found


def test_the_percentile_bootstrap_would_miss_the_minimum_of_equal_groups(tools):
    world = tools.World(tools.grouped_test(np.full((4, 4), 60)), np.full((4, 4), 0.8))
    rng = np.random.default_rng(0)

    def minimum(sample):
        return {"worst": (sample.counts.correct / sample.counts.n).min(axis=(1, 2))}

    ends = [
        percentile(bootstrap(world.test, world.labels(rng), minimum, resamples=200, seed=s)["worst"]) for s in range(40)
    ]
    assert np.mean([low <= 0.8 <= high for low, high in ends]) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("make", [natural, crossed, identities])
def test_averages_gaps_bias_and_flips_are_covered_within_92_and_98_percent(tools, make):
    world = make(tools)
    train = 40 * np.eye(len(world.accuracy), dtype=int) + 5
    truths = true_averages(world) | (true_bias_and_flips(tools, world, train) if make is crossed else {})
    found = coverage(tools, world, truths, train, 450, resamples=600)
    assert all(0.92 <= share <= 0.98 for share in found.values()), found


@pytest.mark.slow
def test_a_hundred_crossed_groups_of_few_images_are_covered(tools):
    world = crossed(tools, classes=10, units=36)
    truths = true_averages(world) | {"acc_worst_group": 0.6, "max_disparity": 0.3, "opportunity_difference_mean": 0.3}
    found = coverage(tools, world, truths, np.full((10, 10), 1) + 80 * np.eye(10, dtype=int), 80, resamples=400)
    assert all(0.9 <= found[name] <= 1 for name in AVERAGES), found
    assert all(found[name] >= 0.92 for name in ("acc_worst_group", "max_disparity", "opportunity_difference_mean")), (
        found
    )
