"""Rank intervals say which methods can be told apart, and hold together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmark.errors import InvalidValue
from benchmark.metrics.compare import performance
from benchmark.metrics.ranking import contest, holm, places, rank


def seeds_of(tools, shares, n=400, seeds=5):
    """Methods that answer a fixed share of images, with a little luck per seed."""
    test = tools.grouped_test(np.array([[n, 0], [0, 0]]))
    rng = np.random.default_rng(0)
    difficulty = rng.permutation(n) / n
    return {
        name: performance(
            test,
            np.stack([difficulty < share + rng.normal(0, 0.005) for _ in range(seeds)]),
            np.arange(seeds) % 5,
            "acc_mean",
        )
        for name, share in shares.items()
    }


def test_holm_of_a_hand_computed_family():
    # Sorted: .01·4, .02·3, .03·2, .4·1; never decreasing.
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_clearly_different_methods_have_ranks_of_their_own(tools):
    found = rank(seeds_of(tools, {"c": 0.5, "a": 0.9, "b": 0.7}))
    assert [(r.name, r.low, r.high) for r in found] == [("a", 1, 1), ("b", 2, 2), ("c", 3, 3)]
    assert (found[1].better, found[1].worse) == (("a",), ("c",))
    assert (found[0].against_best, found[0].p_against_best) == (None, None)
    assert found[2].against_best.difference > 0.3
    assert found[2].p_against_best < 0.001


def test_methods_that_cannot_be_told_apart_share_their_ranks(tools):
    found = rank(seeds_of(tools, {"a": 0.9, "b": 0.7, "c": 0.702, "d": 0.4}))
    assert {r.name: (r.low, r.high) for r in found} == {"a": (1, 1), "b": (2, 3), "c": (2, 3), "d": (4, 4)}


def test_a_difference_that_only_one_comparison_alone_would_show_is_not_enough(tools):
    # Two methods are right everywhere, the third misses 5 of 60: p = .023 for each of two pairs, .07 after Holm.
    test = tools.grouped_test(np.array([[60, 0], [0, 0]]))
    right = {"a": np.ones(60, bool), "b": np.ones(60, bool), "c": np.arange(60) >= 5}
    found = rank({k: performance(test, np.stack([v] * 5), np.arange(5), "acc_mean") for k, v in right.items()})
    assert 0.02 < found[2].against_best.p_value < 0.03
    assert {(r.low, r.high) for r in found} == {(1, 3)}


def test_where_lower_is_better_the_order_turns_round(tools):
    found = rank(seeds_of(tools, {"a": 0.9, "b": 0.5}), higher_is_better=False)
    assert [(r.name, r.low, r.high) for r in found] == [("b", 1, 1), ("a", 2, 2)]


def test_fewer_than_five_seeds_are_shown_and_not_ranked(tools):
    methods = seeds_of(tools, {"a": 0.8, "b": 0.6}) | seeds_of(tools, {"few": 0.95}, seeds=4)
    found = rank(methods)
    assert [r.name for r in found] == ["a", "b", "few"]
    assert (found[0].low, found[0].high, found[1].high) == (1, 1, 2)
    assert (found[2].low, found[2].high) == (None, None)
    assert found[2].reason == "not ranked: 4 seed(s), at least 5 are needed"


def test_a_single_method_and_none_at_all(tools):
    (alone,) = rank(seeds_of(tools, {"a": 0.8}))
    assert (alone.low, alone.high) == (1, 1)
    assert rank({}) == []
    (unranked,) = rank(seeds_of(tools, {"a": 0.8}, seeds=2))
    assert unranked.low is None


def test_some_of_a_contest_are_placed_as_if_they_were_alone(tools):
    methods = seeds_of(tools, {"a": 0.9, "b": 0.7, "c": 0.702, "d": 0.4})
    chosen = {name: methods[name] for name in ("d", "b", "c")}
    assert places(contest(methods).among(["d", "b", "c"])) == rank(chosen)


def test_methods_with_other_draws_or_metrics_are_not_ranked_together(tools):
    methods = seeds_of(tools, {"a": 0.9, "b": 0.7})
    elsewhere = dataclasses.replace(methods["b"], draws=np.array([0, 1, 2, 3, 3]))
    for other in (elsewhere, dataclasses.replace(methods["b"], metric="gap")):
        with pytest.raises(InvalidValue, match="one metric, one test split and the same draws"):
            rank(methods | {"b": other})


@pytest.mark.slow
def test_equal_methods_are_all_given_every_rank(tools):
    rng = np.random.default_rng(2)
    test = tools.grouped_test(np.array([[100, 60], [60, 100]]))
    wrongly = []
    for _ in range(300):
        difficulty = rng.random(len(test))
        methods = {
            str(m): performance(
                test,
                np.stack(
                    [0.6 * difficulty + 0.4 * rng.random(len(test)) < 0.7 + rng.normal(0, 0.03) for _ in range(5)]
                ),
                np.arange(5),
                "acc_conflicting",
            )
            for m in range(6)
        }
        wrongly.append(any((r.low, r.high) != (1, 6) for r in rank(methods)))
    assert np.mean(wrongly) <= 0.07
