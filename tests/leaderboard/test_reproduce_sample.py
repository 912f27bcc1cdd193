"""Which rows are made again: in the order of a hash, as many as fit; and what they are taken to cost."""

from __future__ import annotations

import dataclasses
import re

import pytest

from benchmark.errors import UsageError
from leaderboard.reproduce.sample import (
    Candidate,
    Cost,
    Wanted,
    candidates,
    repeated_seed,
    sample,
    wall_seconds,
    work_seconds,
)

AROUND_S = 3.0
"""Of each run, beside what its record counts."""


@pytest.fixture
def ordered(maker):
    """Three rows of 12 s a run; return them in their order."""
    for level in ("0.9", "0.95", "0.99"):
        maker.row("erm", 0.5, level=level)
    return candidates(maker.results, Wanted())


def costing(candidate: Candidate, own: float, **shared: float) -> Candidate:
    cost = Cost(own, shared)
    return dataclasses.replace(candidate, repeated=cost, fresh=cost)


# --- the choice ----------------------------------------------------------------------------------------------------


def test_the_order_is_that_of_hashes_and_always_the_same(maker, ordered):
    ids = [each.id for each in ordered]
    assert ids == sorted(ids)
    assert ids == [each.id for each in candidates(maker.results, Wanted())]
    assert len({each.row.record.cell.level for each in ordered}) == 3
    # What maintainers said of the records plays no part, nor does another row.
    maker.entries.clear()
    maker.row("other/one", 0.5, verified=None)
    assert set(ids) < {each.id for each in candidates(maker.results, Wanted())}


def test_rows_are_taken_from_the_front_and_one_that_does_not_fit_is_passed_over(ordered):
    first, second, third = (costing(c, own) for c, own in zip(ordered, (60.0, 600.0, 30.0), strict=True))
    # Two runs each, two at a time.
    assert sample([first, second, third], 1.0) == [first]
    assert sample([first, second, third], 1.5) == [first, third]
    assert sample([first, second, third], 11.5) == [first, second, third]
    assert sample([second, first, third], 2.0) == [first, third]
    assert sample([first, second, third], None) == [first, second, third]


def test_a_time_into_which_nothing_fits_is_an_error_that_says_what_would(ordered):
    long = [costing(each, 90.0 + 30 * index) for index, each in enumerate(ordered)]
    with pytest.raises(
        UsageError, match=re.escape("no row fits into 1 min; the shortest takes about 1.5: give --budg")
    ):
        sample(long, 1.0)


def test_no_run_ends_before_the_longest_does(ordered):
    rows = [costing(ordered[0], 100.0), costing(ordered[1], 5.0)]
    assert (wall_seconds(rows, 1), wall_seconds(rows, 2), wall_seconds(rows, 100)) == (210.0, 105.0, 100.0)


def test_what_runs_share_counts_once_and_as_the_one_that_needs_most(ordered):
    rows = [costing(ordered[0], 10.0, pool=40.0), costing(ordered[1], 20.0, pool=50.0, other=1.0)]
    assert work_seconds(rows) == 2 * 10.0 + 2 * 20.0 + 50.0 + 1.0


def test_the_same_seed_is_repeated_in_every_row_that_has_it():
    seed = repeated_seed(range(5))
    assert repeated_seed([4, 3, 2, 1, 0]) == repeated_seed([seed]) == repeated_seed([seed, (seed + 1) % 5]) == seed
    assert len({repeated_seed([seed, other]) for other in range(5, 40)}) > 1


# --- what there is to choose from ----------------------------------------------------------------------------------


def test_only_the_levels_and_methods_asked_for_are_looked_at(maker, ordered):
    (found,) = candidates(maker.results, Wanted(levels=("0.9",), methods=("erm",)))
    assert found.id in {each.id for each in ordered}
    assert found.row.record.cell.level == "0.9"


def test_a_single_seed_predicts_nothing_so_its_row_is_left_out(maker, ordered):
    maker.row("erm", 0.5, seeds=1, level="balanced")
    assert [each.id for each in candidates(maker.results, Wanted())] == [each.id for each in ordered]
    with pytest.raises(UsageError, match="has 2 seeds or more at the levels asked for"):
        candidates(maker.results, Wanted(levels=("balanced",)))


@pytest.mark.parametrize("wanted", [Wanted("colorized-mnist"), Wanted(methods=("erm", "magic"))])
def test_what_is_not_on_the_board_cannot_be_made_again(maker, ordered, wanted):
    with pytest.raises(UsageError, match=r"no accepted records in .*; ask for what is on the board, in a checkout"):
        candidates(maker.results, wanted)


# --- costs ---------------------------------------------------------------------------------------------------------


def generating(made, pool_of_seed, seconds_of_seed):
    """Return a change of records: a pool per run, that took so long, or nothing where it was in the store."""

    def change(content):
        seed = content["seed"]
        tuning = made.tuning("lora", {"0-0": "a"}, seconds=30.0)
        seconds = seconds_of_seed.get(seed, 0.0)
        pool = made.pool(seconds=seconds, tuning=tuning) | {"pool_id": pool_of_seed(seed) * 64}
        content["pools"] = [pool]
        spent = {
            "wall_seconds": 12.0 + seconds + 30.0 * (seconds > 0),
            "generator_seconds": 30.0 * (seconds > 0) + seconds,
        }
        content["cost"] = content["cost"] | spent

    return change


def test_a_run_costs_its_median_without_images(ordered):
    assert [each.costs for each in ordered] == [(Cost(12.0 + AROUND_S, {}),) * 2] * 3


def test_images_cost_what_they_took_the_run_that_made_them(maker, made):
    maker.row("erm", 0.5, change=generating(made, "abcde".__getitem__, dict.fromkeys(range(5), 40.0)))
    (found,) = candidates(maker.results, Wanted())
    pool = "abcde"[found.seed] * 64
    assert found.repeated == Cost(12.0 + AROUND_S, {pool: 70.0})
    # The fresh seed may be of another draw, which needs adapters and images of its own.
    assert found.fresh == Cost(12.0 + AROUND_S, {f"{pool} of a fresh seed": 70.0})
    assert work_seconds([found]) == 2 * (12.0 + AROUND_S) + 2 * 70.0


def test_images_that_every_seed_took_from_the_store_are_made_once_here(maker, made):
    maker.row("erm", 0.5, change=generating(made, lambda seed: "a", {3: 40.0}))
    (found,) = candidates(maker.results, Wanted())
    assert found.repeated == found.fresh == Cost(12.0 + AROUND_S, {"a" * 64: 70.0})
    assert work_seconds([found]) == 2 * (12.0 + AROUND_S) + 70.0


def test_a_stage_that_was_remembered_is_trained_again(maker):
    def remembered(content):
        content["stages"][0] |= {"remembered": True, "seconds": 100.0}

    maker.row("erm", 0.5, change=remembered)
    (found,) = candidates(maker.results, Wanted())
    assert found.repeated.own == 112.0 + AROUND_S
