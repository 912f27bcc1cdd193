"""The split law against counts computed by hand and an order computed from the protocol's sentence."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from benchmark.errors import DataError, InvalidValue
from benchmark.tasks.catalog import load_task
from benchmark.tasks.law import DRAWS, SplitLaw, Splitter, conflicting_order, hash_order, level_counts, split
from benchmark.tasks.levels import normalise_level, rho_of, round_half_up
from benchmark.tasks.manifest import SPLITS, Listing

LEVELS = ("0.9", "0.95", "0.97", "0.99", "0.999")
BIRDS = {(0, 0): 400, (0, 1): 90, (1, 0): 70, (1, 1): 300}
"""Two classes; class 0 is aligned with 0, class 1 with 1."""


def birds(toy: Any, **shares: Any) -> tuple[Listing, SplitLaw]:
    return toy.listing_of(BIRDS), toy.law_of(2, 2, (0, 1), **shares)


# --- levels and rounding -------------------------------------------------------------------------------------------


def test_half_a_sample_rounds_up_where_floating_point_would_lose_it() -> None:
    assert 50 * (1 - 0.99) != 0.5
    assert round_half_up(50 * (1 - rho_of("0.99"))) == 1
    assert [round_half_up(Fraction(n, 4)) for n in range(9)] == [0, 0, 1, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("text", [".95", "0.95", "0.950", " .95 ", "0.950000"])
def test_a_level_has_one_spelling(text: str) -> None:
    assert normalise_level(text) == "0.95"
    assert rho_of(normalise_level(text)) == Fraction(19, 20)


def test_named_levels_keep_their_names() -> None:
    assert (normalise_level("Balanced"), normalise_level(" native")) == ("balanced", "native")


@pytest.mark.parametrize(
    "text", ["", "1", "1.0", "0", "0.0", ".", "95", "-.9", "0.95.1", "1.95", ".9e0", "nan", "٠.٩٥"]
)
def test_what_is_no_share_between_0_and_1_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="bias level"):
        normalise_level(text)


# --- the order -----------------------------------------------------------------------------------------------------


def test_the_order_is_the_ascending_sha256_of_task_version_draw_and_id(toy: Any) -> None:
    law = dataclasses.replace(toy.law_of(2, 2, (0, 1)), split_version=3)
    ids = [f"sample {k}" for k in range(40)]
    for draw in ("fixed", 0, 4):
        assert [ids[k] for k in hash_order(ids, law, draw)] == toy.order_of(ids, draw, version=3)
    assert toy.order_of(ids, 0, version=3) != toy.order_of(ids, 1, version=3)


@pytest.mark.parametrize("level", ["balanced", "native", "0.5", "0.9", "0.99"])
def test_the_listing_s_order_changes_nothing(toy: Any, level: str) -> None:
    listing, law = birds(toy, audit="0.05", test="0.1", validation="0.1")
    first = split(listing, law, level, 2)
    for seed in range(3):
        again = split(toy.shuffled(listing, seed), law, level, 2)
        assert again.digest == first.digest
        assert {name: again.splits[name].ids for name in SPLITS} == {n: first.splits[n].ids for n in SPLITS}


def test_the_digest_moves_with_a_label_an_attribute_and_a_split(toy: Any) -> None:
    listing, law = birds(toy, validation="0.1")
    base = split(listing, law, "native", 0).digest
    y, a = listing.y.copy(), listing.a.copy()
    y[0], a[1] = 1, 1
    digests = {
        base,
        split(dataclasses.replace(listing, y=y), law, "native", 0).digest,
        split(dataclasses.replace(listing, a=a), law, "native", 0).digest,
        split(listing, law, "native", 1).digest,
    }
    assert len(digests) == 4


# --- partitions ----------------------------------------------------------------------------------------------------


def test_shares_are_cut_per_group_audit_first_test_next(toy: Any) -> None:
    listing, law = birds(toy, audit="0.05", test="0.1", validation="0.1")
    found = split(listing, law, "native", 0)
    # 400, 90, 70, 300 samples: 5 % and 10 %, halves up (4.5 → 5 and 3.5 → 4).
    assert found.counts("audit").tolist() == [[20, 5], [4, 15]]
    assert found.counts("test").tolist() == [[40, 9], [7, 30]]
    assert found.counts("validation").tolist() == [[40, 9], [7, 30]]
    assert found.counts("train").tolist() == [[300, 67], [52, 225]]
    group = toy.order_of([i for i in listing.ids if i.startswith("0-1-")], "fixed")
    chosen = {name: {i for i in found.splits[name].ids if i.startswith("0-1-")} for name in SPLITS}
    assert chosen["audit"] == set(group[:5])
    assert chosen["test"] == set(group[5:14])
    assert chosen["validation"] == set(toy.order_of(group[14:], 0)[:9])
    assert chosen["train"] == set(toy.order_of(group[14:], 0)[9:])


def test_no_sample_is_in_two_splits(toy: Any) -> None:
    listing, law = birds(toy, audit="0.05", test="0.1", validation="0.1")
    found = split(listing, law, "native", 3)
    ids = [i for name in SPLITS for i in found.splits[name].ids]
    assert sorted(ids) == sorted(listing.ids)


def test_five_draws_differ_but_share_test_and_audit(toy: Any) -> None:
    listing, law = birds(toy, audit="0.05", test="0.1", validation="0.1")
    found = [split(listing, law, "0.95", draw) for draw in DRAWS]
    assert len(DRAWS) == 5
    for name in ("test", "audit"):
        assert len({m.splits[name].digest for m in found}) == 1
    for name in ("train", "validation"):
        assert len({m.splits[name].digest for m in found}) == 5
    assert len({m.digest for m in found}) == 5
    assert len({str(m.counts("train").tolist()) for m in found}) == 1


def test_official_partitions_are_kept_and_the_audit_comes_out_of_the_training_part(toy: Any) -> None:
    listing = toy.joined(
        toy.listing_of({(0, 0): 200, (0, 1): 100, (1, 0): 100, (1, 1): 200}, "train", "train/"),
        toy.listing_of({(0, 0): 20, (0, 1): 10, (1, 0): 10, (1, 1): 20}, "validation", "val/"),
        toy.listing_of({(0, 0): 7, (0, 1): 8, (1, 0): 9, (1, 1): 10}, "test", "test/"),
    )
    found = split(listing, toy.law_of(2, 2, (0, 1), audit="0.05"), "native", 1)
    assert found.counts("audit").tolist() == [[10, 5], [5, 10]]
    assert found.counts("train").tolist() == [[190, 95], [95, 190]]
    assert found.counts("validation").tolist() == [[20, 10], [10, 20]]
    assert found.counts("test").tolist() == [[7, 8], [9, 10]]
    for name, prefix in (("train", "train/"), ("audit", "train/"), ("validation", "val/"), ("test", "test/")):
        assert all(i.startswith(prefix) for i in found.splits[name].ids)


def test_a_validation_split_is_cut_from_an_official_training_part(toy: Any) -> None:
    listing = toy.joined(
        toy.listing_of({(0, 0): 100, (0, 1): 45, (1, 0): 40, (1, 1): 100}, "train"),
        toy.listing_of({(0, 0): 5, (1, 1): 5}, "test", "test/"),
    )
    found = split(listing, toy.law_of(2, 2, (0, 1), validation="0.1"), "native", 0)
    assert found.counts("validation").tolist() == [[10, 5], [4, 10]]
    assert found.counts("test").tolist() == [[5, 0], [0, 5]]


# --- bias levels, observed attributes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "train"),
    [
        # n_conf = round(n_al·(1−ρ)/ρ): 400/9 = 44.4, 300/9 = 33.3; 400/19 = 21.05, 300/19 = 15.8; …
        ("0.9", [[400, 44], [33, 300]]),
        ("0.95", [[400, 21], [16, 300]]),
        ("0.97", [[400, 12], [9, 300]]),
        ("0.99", [[400, 4], [3, 300]]),
        ("0.999", [[400, 1], [1, 300]]),
        ("native", [[400, 90], [70, 300]]),
        # .9 has 444 and 333 samples; half of them fit into the minorities only up to 90 and 70, as many stay aligned.
        ("0.5", [[90, 90], [70, 70]]),
        # 355.2 and 266.4 aligned, the other 89 and 67 are at hand.
        ("0.8", [[355, 89], [67, 266]]),
        # The smallest group, 70, is below half of every class of the .9 level.
        ("balanced", [[70, 70], [70, 70]]),
    ],
)
def test_counts_at_every_level(toy: Any, level: str, train: list[list[int]]) -> None:
    listing, law = birds(toy)
    assert split(listing, law, level, 0).counts("train").tolist() == train


@pytest.mark.parametrize("draw", DRAWS)
def test_minorities_are_nested_over_the_levels(toy: Any, draw: int) -> None:
    listing, law = birds(toy)
    kept = [
        toy.conflicting(split(listing, law, level, draw).splits["train"], law.aligned)
        for level in ("0.999", "0.99", "0.97", "0.95", "0.9", "0.8", "0.5", "native")
    ]
    for small, large in itertools.pairwise(kept):
        assert small < large or (small == large and len(small) == 160)
    first = toy.order_of([i for i in listing.ids if i.startswith("0-1-")], draw)
    assert {i for i in kept[3] if i.startswith("0-")} == set(first[:21])


def test_every_draw_chooses_its_own_minority(toy: Any) -> None:
    listing, law = birds(toy)
    minorities = [frozenset(toy.conflicting(split(listing, law, "0.99", d).splits["train"], (0, 1))) for d in DRAWS]
    assert len(set(minorities)) == 5


def test_every_class_keeps_a_conflicting_sample_in_training_but_not_in_validation(toy: Any) -> None:
    listing = toy.listing_of({(0, 0): 200, (0, 1): 60, (1, 0): 60, (1, 1): 200})
    found = split(listing, toy.law_of(2, 2, (0, 1), validation="0.1"), "0.999", 0)
    assert found.counts("train").tolist() == [[180, 1], [1, 180]]
    assert found.counts("validation").tolist() == [[20, 0], [0, 20]]


def test_validation_follows_the_same_rho(toy: Any) -> None:
    listing = toy.listing_of({(0, 0): 900, (0, 1): 300, (1, 0): 300, (1, 1): 900})
    found = split(listing, toy.law_of(2, 2, (0, 1), validation="0.1"), "0.9", 0)
    assert found.counts("train").tolist() == [[810, 90], [90, 810]]
    assert found.counts("validation").tolist() == [[90, 10], [10, 90]]


def test_utkface_s_minorities_have_the_published_sizes() -> None:
    # FFR's split files: male-old and female-young beside 934 male-young and 5,731 female-old.
    published = {"0.9": (103, 636), "0.95": (50, 302), "0.97": (29, 178), "0.99": (10, 58), "0.999": (1, 6)}
    for level, (male_old, female_young) in published.items():
        male = level_counts(934, 2000, rho_of(level), floor=True)
        female = level_counts(5731, 2000, rho_of(level), floor=True)
        assert (male[0], female[0]) == (934, 5731)
        assert abs(male[1] - male_old) <= 1
        assert abs(female[1] - female_young) <= 1
    assert [level_counts(934, 2000, rho_of(v), floor=True)[1] for v in LEVELS] == [104, 49, 29, 9, 1]
    assert [level_counts(5731, 2000, rho_of(v), floor=True)[1] for v in LEVELS] == [637, 302, 177, 58, 6]


def test_celeba_smiling_s_capped_groups_give_the_published_minorities() -> None:
    published = {"0.9": (592, 866), "0.95": (281, 411), "0.97": (166, 242), "0.99": (54, 79), "0.999": (6, 8)}
    for level, pair in published.items():
        found = [level_counts(n, 9000, rho_of(level), floor=True)[1] for n in (5335, 7797)]
        assert np.abs(np.array(found) - pair).max() <= 1


def test_aligned_samples_are_cut_where_the_minority_runs_out() -> None:
    # CelebA blond: 22,880 blond women, 1,387 blond men. At .95 1,204 men are wanted and there; at .9 all 1,387 stay and
    # 1,387·9 = 12,483 women; at .99 231 are wanted.
    assert level_counts(22_880, 1_387, rho_of("0.95"), floor=True) == (22_880, 1_204)
    assert level_counts(22_880, 1_387, rho_of("0.9"), floor=True) == (12_483, 1_387)
    assert level_counts(22_880, 1_387, rho_of("0.99"), floor=True) == (22_880, 231)
    assert level_counts(22_880, 1_000, rho_of("0.95"), floor=True) == (19_000, 1_000)
    # Not blond: 66,874 men are aligned, and women abound.
    assert level_counts(66_874, 71_629, rho_of("0.95"), floor=True) == (66_874, 3_520)


def test_the_aligned_samples_that_stay_are_the_first_in_hash_order(toy: Any) -> None:
    listing = toy.listing_of({(0, 0): 100, (0, 1): 5, (1, 0): 20, (1, 1): 100})
    rows = split(listing, toy.law_of(2, 2, (0, 1)), "0.9", 2).splits["train"]
    aligned = toy.order_of([i for i in listing.ids if i.startswith("0-0-")], 2)
    assert {i for i in rows.ids if i.startswith("0-0-")} == set(aligned[:45])


def test_a_class_without_conflicting_samples_keeps_its_aligned_ones() -> None:
    assert level_counts(50, 0, rho_of("0.95"), floor=True) == (50, 0)
    assert level_counts(50, 0, rho_of("0.5"), floor=True) == (25, 0)
    assert level_counts(0, 0, rho_of("0.95"), floor=False) == (0, 0)


def test_levels_below_the_reference_have_its_class_sizes() -> None:
    for level in ("0.5", "0.8", "0.89"):
        assert sum(level_counts(450, 1800, rho_of(level), floor=True)) == 500
    assert level_counts(450, 1800, rho_of("0.8"), floor=True) == (400, 100)
    # 95 + 11 at .9; .8 of 106 is 84.8.
    assert level_counts(95, 50, rho_of("0.8"), floor=True) == (85, 21)


def test_an_aligned_cap_comes_before_every_level(toy: Any) -> None:
    listing, law = birds(toy, cap=(190, None))
    assert split(listing, law, "0.95", 0).counts("train").tolist() == [[190, 10], [16, 300]]
    assert split(listing, law, "0.9", 0).counts("train").tolist() == [[190, 21], [33, 300]]
    first = toy.order_of([i for i in listing.ids if i.startswith("0-0-")], 0)[:190]
    assert {i for i in split(listing, law, "0.95", 0).splits["train"].ids if i.startswith("0-0-")} == set(first)
    assert split(listing, law, "native", 0).counts("train").tolist() == [[400, 90], [70, 300]]


def test_balanced_is_cut_to_the_class_size_of_the_reference_level(toy: Any) -> None:
    listing = toy.listing_of({(0, 0): 90, (0, 1): 90, (1, 0): 90, (1, 1): 90})
    # At .9 each class has 90 + 10, so balanced has 50 per group although 90 are at hand.
    assert split(listing, toy.law_of(2, 2, (0, 1)), "balanced", 0).counts("train").tolist() == [[50, 50], [50, 50]]


def test_balanced_with_a_group_that_is_empty_balances_the_others(toy: Any) -> None:
    listing = toy.listing_of({(0, 0): 40, (0, 1): 12, (1, 1): 30})
    assert split(listing, toy.law_of(2, 2, (0, 1)), "balanced", 0).counts("train").tolist() == [[12, 12], [0, 12]]


def test_classes_with_five_attributes_of_their_own_share_the_minority_without_regard_to_which(toy: Any) -> None:
    # Like CIFAR's superclasses: fine class 5y is aligned, four are conflicting, 450 training images each.
    listing = toy.listing_of({(y, 5 * y + k): 450 for y in range(2) for k in range(5)})
    law = toy.law_of(2, 10, (0, 5))
    sizes = {"0.5": (250, 250), "0.8": (400, 100), "0.9": (450, 50), "0.95": (450, 24), "0.99": (450, 5)}
    for level, (aligned, rest) in sizes.items():
        table = split(listing, law, level, 0).counts("train")
        assert table[0, 5:].sum() == table[1, :5].sum() == 0
        for y in (0, 1):
            assert (table[y, 5 * y], table[y].sum() - table[y, 5 * y]) == (aligned, rest)
    balanced = split(listing, law, "balanced", 0).counts("train")
    assert balanced.tolist() == [[100] * 5 + [0] * 5, [0] * 5 + [100] * 5]
    chosen = toy.conflicting(split(listing, law, "0.95", 3).splits["train"], law.aligned)
    candidates = toy.order_of([i for i in listing.ids if i.startswith("0-") and not i.startswith("0-0-")], 3)
    assert {i for i in chosen if i.startswith("0-")} == set(candidates[:24])


def test_two_families_of_attributes_make_eight_groups(toy: Any) -> None:
    # Like SpuCo Animals: birds on land or water, dogs indoors or outdoors; a tenth of its majorities.
    aligned, rest = [(0, 0), (1, 1), (2, 2), (3, 3)], [(0, 1), (1, 0), (2, 3), (3, 2)]
    listing = toy.listing_of(dict.fromkeys(aligned, 1000) | dict.fromkeys(rest, 50))
    table = split(listing, toy.law_of(4, 4, (0, 1, 2, 3)), "0.97", 0).counts("train")
    expected = np.zeros((4, 4), dtype=int)
    for y, a in aligned:
        expected[y, a] = 1000
    for y, a in rest:
        expected[y, a] = 31
    assert table.tolist() == expected.tolist()


def test_spuco_s_minorities_have_the_published_sizes() -> None:
    # 310, 102 and 11 of each kind beside 10,000.
    found = [level_counts(10_000, 500, rho_of(level), floor=True) for level in ("0.97", "0.99", "0.999")]
    assert found == [(10_000, 309), (10_000, 101), (10_000, 10)]


# --- rendered attributes -------------------------------------------------------------------------------------------


def digits(toy: Any, per_class: int = 50, n: int = 4, **shares: Any) -> tuple[Listing, SplitLaw]:
    listing = toy.listing_of({(y, -1): per_class for y in range(n)})
    return listing, toy.law_of(n, n, range(n), attribute="rendered", **shares)


def test_rendering_keeps_every_image_and_rounds_half_a_sample_up(toy: Any) -> None:
    listing, law = digits(toy, 50)
    table = split(listing, law, "0.99", 0).counts("train")
    assert table.sum(axis=1).tolist() == [50] * 4
    assert np.diag(table).tolist() == [49] * 4


def test_conflicting_inks_go_round_robin_over_the_first_in_hash_order(toy: Any) -> None:
    listing, law = digits(toy, 50)
    rows = split(listing, law, "0.9", 1).splits["train"]
    ink = dict(zip(rows.ids, rows.a.tolist(), strict=True))
    for y in range(4):
        members = toy.order_of([i for i in listing.ids if i.startswith(f"{y}-")], 1)
        names = toy.order_of([f"class-{y}/attribute-{a}" for a in range(4) if a != y], 1)
        others = [int(name[-1]) for name in names]
        assert conflicting_order(law, y, 1) == others
        assert [ink[i] for i in members[:5]] == [others[k % 3] for k in range(5)]
        assert {ink[i] for i in members[5:]} == {y}


def test_rendered_balance_is_the_exact_share_of_one_ink(toy: Any) -> None:
    listing, law = digits(toy, 40)
    assert split(listing, law, "balanced", 0).counts("train").tolist() == [[10] * 4] * 4


@pytest.mark.parametrize("draw", DRAWS)
def test_rendered_minorities_are_nested_and_keep_their_ink(toy: Any, draw: int) -> None:
    listing, law = digits(toy, 200)
    previous: dict[str, int] = {}
    for level in ("0.999", "0.99", "0.97", "0.95", "0.9", "balanced"):
        rows = split(listing, law, level, draw).splits["train"]
        minority = toy.conflicting(rows, law.aligned)
        ink = {i: a for i, a in zip(rows.ids, rows.a.tolist(), strict=True) if i in minority}
        assert previous.items() < ink.items() or not previous
        previous = ink
    assert len(previous) == 600


def test_rendered_training_has_a_conflicting_sample_per_class_and_validation_need_not(toy: Any) -> None:
    listing, law = digits(toy, 30, validation="0.2")
    found = split(listing, law, "0.999", 0)
    assert [int(row.sum() - row[y]) for y, row in enumerate(found.counts("train"))] == [1, 1, 1, 1]
    assert np.diag(found.counts("validation")).tolist() == [6, 6, 6, 6]


def test_crossed_splits_render_every_sample_in_every_ink(toy: Any) -> None:
    listing, law = digits(toy, 10, audit="0.1", test="0.2")
    for level in ("balanced", "0.95"):
        found = split(listing, law, level, 0)
        assert found.counts("test").tolist() == [[2] * 4] * 4
        assert found.counts("audit").tolist() == [[1] * 4] * 4
        test = found.splits["test"]
        assert test.sources[:4] == (test.sources[0],) * 4
        assert test.ids[:4] == tuple(f"{test.sources[0]}/{a}" for a in range(4))
        assert test.a.tolist() == [0, 1, 2, 3] * 8
        assert len(set(test.ids)) == len(test) == 32


# --- what a level leaves out, for oracles ---------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [0, 3])
def test_the_reserve_is_the_training_part_that_the_level_left_out(toy: Any, draw: int) -> None:
    listing, law = birds(toy, audit="0.05", test="0.1", validation="0.1")
    splitter = Splitter(listing, law)
    found, whole = splitter.split("0.95", draw), splitter.split("native", draw)
    reserve = splitter.reserve(found, most=1000)
    left = set(whole.splits["train"].ids) - set(found.splits["train"].ids)
    assert list(reserve.ids) == toy.order_of(left, draw)
    assert reserve.sources == reserve.ids
    # 300, 67, 52, 225 training images; .95 takes 300 and 16, 225 and 12 of them.
    assert np.bincount(reserve.y * 2 + reserve.a, minlength=4).tolist() == [0, 51, 40, 0]
    assert [f"{y}-{a}" for y, a in zip(reserve.y, reserve.a, strict=True)] == [name[:3] for name in reserve.ids]


def test_the_reserve_holds_no_more_of_a_group_than_wanted_and_the_first_of_it(toy: Any) -> None:
    listing, law = birds(toy)
    splitter = Splitter(listing, law)
    found = splitter.split("0.99", 1)
    all_of_it, some = splitter.reserve(found, most=10**6), splitter.reserve(found, most=7)
    assert np.bincount(some.y * 2 + some.a, minlength=4).tolist() == [0, 7, 7, 0]
    for group in ("0-1-", "1-0-"):
        first = [i for i in all_of_it.ids if i.startswith(group)][:7]
        assert [i for i in some.ids if i.startswith(group)] == first
    assert len(splitter.reserve(found, most=0)) == 0


def test_what_a_cap_cut_is_in_the_reserve_and_the_whole_split_leaves_nothing(toy: Any) -> None:
    listing, law = birds(toy, cap=(190, None))
    splitter = Splitter(listing, law)
    reserve = splitter.reserve(splitter.split("0.95", 0), most=1000)
    assert np.bincount(reserve.y * 2 + reserve.a, minlength=4).tolist() == [210, 80, 54, 0]
    assert len(splitter.reserve(splitter.split("native", 0), most=1000)) == 0


def test_the_rendered_reserve_is_every_training_sample_in_the_inks_that_it_does_not_have(toy: Any) -> None:
    listing, law = digits(toy, 50, audit="0.1", test="0.2", validation="0.1")
    splitter = Splitter(listing, law)
    found = splitter.split("0.9", 2)
    reserve = splitter.reserve(found, most=10**6)
    train = found.splits["train"]
    ink = dict(zip(train.ids, train.a.tolist(), strict=True))
    expected = [(i, a) for i in toy.order_of(train.ids, 2) for a in range(4) if a != ink[i]]
    assert list(zip(reserve.sources, reserve.a.tolist(), strict=True)) == expected
    assert reserve.ids == tuple(f"{i}/{a}" for i, a in expected)
    assert reserve.y.tolist() == [int(i[0]) for i, _ in expected]
    others = {i for name in ("validation", "test", "audit") for i in found.splits[name].sources}
    assert not others & set(reserve.sources)


@pytest.mark.parametrize("kind", ["observed", "rendered"])
def test_samples_that_are_not_at_hand_are_in_no_reserve(toy: Any, kind: str) -> None:
    listing, law = (birds if kind == "observed" else digits)(toy)
    missing = frozenset(listing.ids[::3])
    splitter = Splitter(dataclasses.replace(listing, missing=missing), law)
    reserve = splitter.reserve(splitter.split("0.95", 0), most=10**6)
    complete = Splitter(listing, law)
    everything = complete.reserve(complete.split("0.95", 0), most=10**6)
    assert list(reserve.ids) == [i for i, s in zip(everything.ids, everything.sources, strict=True) if s not in missing]


def test_the_reserve_needs_no_split_to_have_been_made_by_the_same_object(toy: Any) -> None:
    listing, law = birds(toy, validation="0.1")
    found = split(listing, law, "0.95", 4)
    splitter = Splitter(listing, law)
    splitter.split("0.95", 4)
    assert Splitter(listing, law).reserve(found, most=9).ids == splitter.reserve(found, most=9).ids


# --- what the order of rows tells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["observed", "rendered"])
def test_rows_come_in_the_fixed_order_whatever_the_draw(toy: Any, kind: str) -> None:
    listing, law = (birds if kind == "observed" else digits)(toy, validation="0.1")
    for draw in DRAWS:
        for name in ("train", "validation"):
            ids = split(listing, law, "0.9", draw).splits[name].ids
            assert list(ids) == toy.order_of(ids, "fixed")


@pytest.mark.parametrize("kind", ["observed", "rendered"])
def test_positions_do_not_tell_who_conflicts(toy: Any, kind: str) -> None:
    if kind == "observed":
        listing, law = toy.listing_of({(0, 0): 900, (0, 1): 300}), toy.law_of(1, 2, (0,))
    else:
        listing, law = digits(toy, 1000)
    for draw in DRAWS:
        rows = split(listing, law, "0.9", draw).splits["train"]
        minority = toy.conflicting(rows, law.aligned)
        hit = np.array([i in minority for i in rows.ids])
        positions = np.arange(len(rows)) / len(rows)
        # The mean position of n uniform draws has standard deviation 1/√(12n).
        assert abs(positions[hit].mean() - 0.5) < 4 / np.sqrt(12 * hit.sum())
        halves = hit[: len(hit) // 2].sum() / hit.sum()
        assert 0.3 < halves < 0.7


# --- errors --------------------------------------------------------------------------------------------------------


def test_a_listing_with_an_id_twice_is_refused() -> None:
    with pytest.raises(DataError, match="twice"):
        Listing(("a", "b", "a"), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))


def test_a_listing_with_columns_of_different_lengths_is_refused() -> None:
    two, three = np.zeros(2, dtype=np.int64), np.zeros(3, dtype=np.int64)
    with pytest.raises(DataError, match=r"different lengths: \[2, 3\]"):
        Listing(("a", "b", "c"), three, two)
    with pytest.raises(DataError, match="different lengths"):
        Listing(("a", "b", "c"), three, three, ("train", "test"))


def test_an_unknown_official_partition_is_refused_instead_of_dropping_its_samples() -> None:
    zeros = np.zeros(2, dtype=np.int64)
    with pytest.raises(DataError, match="partition 'val'"):
        Listing(("a", "b"), zeros, zeros, ("train", "val"))


def test_an_empty_source_is_refused(toy: Any) -> None:
    with pytest.raises(DataError, match="no sample"):
        split(toy.listing_of({}), toy.law_of(2, 2, (0, 1)), "0.9", 0)


@pytest.mark.parametrize(
    ("group", "what"), [((2, 0), "labels"), ((-1, 0), "labels"), ((0, 2), "attributes"), ((0, -1), "attributes")]
)
def test_labels_and_attributes_outside_the_card_are_refused(toy: Any, group: tuple[int, int], what: str) -> None:
    listing = toy.listing_of({(0, 0): 3, (1, 1): 3, group: 1})
    with pytest.raises(DataError, match=rf"{what} must lie in 0\.\.1"):
        split(listing, toy.law_of(2, 2, (0, 1)), "0.9", 0)


def test_a_class_without_a_training_sample_is_refused(toy: Any) -> None:
    with pytest.raises(DataError, match="class 1 has no training sample"):
        split(toy.listing_of({(0, 0): 30, (0, 1): 30}), toy.law_of(2, 2, (0, 1)), "0.9", 0)


def test_a_rendered_task_has_no_native_level(toy: Any) -> None:
    listing, law = digits(toy)
    with pytest.raises(DataError, match="no native level"):
        split(listing, law, "native", 0)


@pytest.mark.parametrize("draw", [5, -1])
def test_a_draw_that_does_not_exist_is_refused(draw: int) -> None:
    with pytest.raises(InvalidValue, match="there are 0, 1, 2, 3, 4"):
        load_task("colorized-digits").manifest("0.95", draw)
