"""Samples that are listed but not at hand: they drop out, and no other sample moves."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest

from benchmark.errors import DataError, InvalidValue
from benchmark.tasks.card import load_card
from benchmark.tasks.law import DRAWS, Splitter
from benchmark.tasks.manifest import AUDIT, SPLITS, TEST, TRAIN, UNCOLOURED, VALIDATION, Listing, Manifest, Rows
from benchmark.tasks.task import Task

SIZES = {(0, 0): 60, (0, 1): 400, (1, 0): 300, (1, 1): 40}
LEVELS = ("balanced", "native", "0.5", "0.9", "0.95", "0.99")
COLOURED = {(0, UNCOLOURED): 60, (1, UNCOLOURED): 80, (2, UNCOLOURED): 40}


def lacking(listing: Listing, missing: frozenset[str]) -> Listing:
    return Listing(listing.ids, listing.y, listing.a, listing.partition, listing.complete, missing)


def some_of(listing: Listing, share: float, seed: int) -> frozenset[str]:
    return frozenset(random.Random(seed).sample(sorted(listing.ids), round(share * len(listing.ids))))


def table(rows: Rows) -> list[tuple[str, str, int, int]]:
    return list(zip(rows.ids, rows.sources, rows.y.tolist(), rows.a.tolist(), strict=True))


# --- the listing ---------------------------------------------------------------------------------------------------


def test_a_listing_is_whole_when_it_is_complete_and_lacks_nothing(toy: Any) -> None:
    listing = toy.listing_of({(0, 0): 2, (1, 1): 2})
    assert listing.whole
    assert listing.missing == frozenset()
    assert not lacking(listing, frozenset({"0-0-00001"})).whole
    assert not Listing(listing.ids, listing.y, listing.a, complete=False).whole


def test_a_missing_sample_that_is_not_listed_is_refused_by_name(toy: Any) -> None:
    with pytest.raises(DataError, match=r"'0-0-00002' is named as missing but is not in the listing"):
        lacking(toy.listing_of({(0, 0): 2, (1, 1): 2}), frozenset({"0-0-00001", "0-0-00002", "z"}))


def test_rows_without_some_sources_keep_the_others_in_their_order() -> None:
    rows = Rows(("a/0", "a/1", "b/0", "c/0"), ("a", "a", "b", "c"), np.array([0, 0, 1, 2]), np.array([0, 1, 0, 0]))
    assert table(rows.without(frozenset({"a", "z"}))) == [("b/0", "b", 1, 0), ("c/0", "c", 2, 0)]
    assert rows.without(frozenset()) is rows
    nothing = rows.without(frozenset("abc"))
    assert len(nothing) == 0
    assert nothing.y.dtype == nothing.a.dtype == np.int64


# --- the law -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("partitioned", [False, True])
def test_other_samples_stay_where_they_are(toy: Any, level: str, partitioned: bool) -> None:
    if partitioned:
        listing = toy.joined(*(toy.listing_of(SIZES, part, prefix=part) for part in (TRAIN, VALIDATION, TEST)))
        law = toy.law_of(2, 2, (1, 0), audit="0.05")
    else:
        listing, law = toy.listing_of(SIZES), toy.law_of(2, 2, (1, 0), audit="0.05", test="0.2", validation="0.1")
    whole = Splitter(listing, law)
    for seed, share in enumerate((0.01, 0.3, 0.8)):
        missing = some_of(listing, share, seed)
        restricted = Splitter(lacking(listing, missing), law)
        for draw in DRAWS:
            full, found = whole.split(level, draw), restricted.split(level, draw)
            for name in SPLITS:
                assert table(found.splits[name]) == [
                    row for row in table(full.splits[name]) if row[1] not in missing
                ], (name, draw, share)


@pytest.mark.parametrize("level", ["balanced", "0.9", "0.99"])
def test_other_digits_keep_their_ink_and_a_missing_one_takes_all_its_renderings_along(toy: Any, level: str) -> None:
    listing = toy.listing_of(COLOURED)
    law = toy.law_of(3, 4, (0, 1, 2), attribute="rendered", audit="0.05", test="0.2", validation="0.1")
    full = Splitter(listing, law).split(level, 2)
    missing = some_of(listing, 0.4, 7)
    found = Splitter(lacking(listing, missing), law).split(level, 2)
    for name in SPLITS:
        assert table(found.splits[name]) == [row for row in table(full.splits[name]) if row[1] not in missing]
    assert len(found.splits[TEST]) < len(full.splits[TEST])
    assert found.counts(TEST).max(axis=1).tolist() == found.counts(TEST).min(axis=1).tolist()


@pytest.mark.parametrize("level", LEVELS)
def test_the_whole_split_is_that_of_the_data_set_with_every_image(toy: Any, level: str) -> None:
    listing, law = toy.listing_of(SIZES), toy.law_of(2, 2, (1, 0), audit="0.05", test="0.2", validation="0.1")
    restricted = Splitter(lacking(listing, some_of(listing, 0.5, 3)), law)
    for draw in DRAWS:
        full = Splitter(listing, law).split(level, draw)
        assert restricted.split(level, draw, whole=True).digest == full.digest
        assert restricted.split(level, draw).digest != full.digest
        # Asked for in turn, each stays what it is.
        assert restricted.split(level, draw, whole=True).digest == full.digest


def test_the_digest_of_what_is_left_is_over_what_is_left(toy: Any) -> None:
    listing, law = toy.listing_of({(0, 0): 3, (1, 1): 3}), toy.law_of(2, 2, (0, 1))
    found = Splitter(lacking(listing, frozenset({"0-0-00000", "1-1-00002"})), law).split("native", 0)
    lines = ["0-0-00001\ttrain\t0\t0", "0-0-00002\ttrain\t0\t0", "1-1-00000\ttrain\t1\t1", "1-1-00001\ttrain\t1\t1"]
    assert found.digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_a_level_is_not_refilled_when_part_of_its_minority_is_missing(toy: Any) -> None:
    listing, law = toy.listing_of(SIZES), toy.law_of(2, 2, (1, 0))
    full = Splitter(listing, law).split("0.95", 0)
    kept = toy.conflicting(full.splits[TRAIN], (1, 0))
    gone = frozenset(sorted(kept)[:7])
    found = Splitter(lacking(listing, gone), law).split("0.95", 0)
    assert toy.conflicting(found.splits[TRAIN], (1, 0)) == kept - gone
    assert len(found.splits[TRAIN]) == len(full.splits[TRAIN]) - 7


def test_a_group_may_be_left_empty(toy: Any) -> None:
    listing, law = toy.listing_of(SIZES), toy.law_of(2, 2, (1, 0), test="0.2")
    gone = frozenset(i for i in listing.ids if i.startswith(("0-0", "1-1")))
    found = Splitter(lacking(listing, gone), law).split("0.9", 0)
    assert found.counts(TRAIN)[[0, 1], [0, 1]].tolist() == [0, 0]
    assert found.counts(TEST)[[0, 1], [0, 1]].tolist() == [0, 0]


def test_validation_and_audit_may_be_left_empty(toy: Any) -> None:
    listing, law = toy.listing_of(SIZES), toy.law_of(2, 2, (1, 0), audit="0.05", validation="0.1", test="0.2")
    full = Splitter(listing, law).split("0.9", 0)
    gone = frozenset(full.splits[VALIDATION].ids + full.splits[AUDIT].ids)
    found = Splitter(lacking(listing, gone), law).split("0.9", 0)
    assert [len(found.splits[name]) for name in (VALIDATION, AUDIT)] == [0, 0]
    assert table(found.splits[TRAIN]) == table(full.splits[TRAIN])


@pytest.mark.parametrize("level", ["native", "0.9"])
def test_a_class_without_a_training_image_at_hand_is_an_error_but_its_whole_split_is_known(
    toy: Any, level: str
) -> None:
    listing, law = toy.listing_of(SIZES), toy.law_of(2, 2, (1, 0), test="0.2")
    full = Splitter(listing, law).split(level, 0)
    train = full.splits[TRAIN]
    gone = frozenset(i for i, y in zip(train.ids, train.y, strict=True) if y == 1)
    splitter = Splitter(lacking(listing, gone), law)
    with pytest.raises(DataError, match=rf"toy: class 1 has no training sample at level {level}"):
        splitter.split(level, 0)
    assert splitter.split(level, 0, whole=True).digest == full.digest


def test_a_data_set_without_any_image_at_hand_is_an_error(toy: Any) -> None:
    listing = toy.listing_of(SIZES)
    with pytest.raises(DataError, match="class 0 has no training sample"):
        Splitter(lacking(listing, frozenset(listing.ids)), toy.law_of(2, 2, (1, 0))).split("0.9", 0)


# --- the task ------------------------------------------------------------------------------------------------------


@pytest.fixture
def partial(toy: Any) -> Task:
    """UTKFace's card over a small listing, of which a tenth is missing."""
    listing = toy.listing_of({(0, 0): 100, (0, 1): 100, (1, 0): 50, (1, 1): 300})
    return toy.Task(load_card("utkface"), lacking(listing, some_of(listing, 0.1, 1)))


def test_a_task_gives_what_is_at_hand_and_on_demand_the_whole(partial: Task) -> None:
    here, whole = partial.manifest("0.9", 1), partial.manifest("0.9", 1, whole=True)
    assert {i for name in SPLITS for i in here.splits[name].sources}.isdisjoint(partial.listing.missing)
    assert {i for name in SPLITS for i in whole.splits[name].sources} & partial.listing.missing
    assert here.digest != whole.digest
    assert partial.manifest("0.90", 1) is here  # neither is made twice
    assert partial.manifest(".9", 1, whole=True) is whole


def test_the_whole_split_of_a_task_that_lacks_nothing_is_its_split(toy: Any, partial: Task) -> None:
    task = toy.Task(partial.card, partial.known_listing())
    assert task.manifest("0.9", 1, whole=True) is task.manifest("0.9", 1)
    assert task.manifest("0.9", 1).digest == partial.manifest("0.9", 1, whole=True).digest


def test_a_split_that_lacks_some_images_can_be_made_where_others_are_at_hand(toy: Any, partial: Task) -> None:
    missing = partial.listing.missing
    complete = toy.Task(partial.card, partial.known_listing())
    for task in (partial, complete):
        assert task.manifest_without("0.99", 3, missing).digest == partial.manifest("0.99", 3).digest
        assert task.manifest_without("0.99", 3, frozenset()).digest == complete.manifest("0.99", 3).digest


def test_what_was_missing_must_be_of_the_data_set_and_level_and_draw_must_exist(partial: Task) -> None:
    with pytest.raises(DataError, match=r"'elsewhere\.jpg' is named as missing"):
        partial.manifest_without("0.9", 0, frozenset({"elsewhere.jpg"}))
    with pytest.raises(InvalidValue, match=r"no bias level 'balanced'"):
        partial.manifest_without("balanced", 0, frozenset())
    for ask in (lambda: partial.manifest_without("0.9", 5, frozenset()), lambda: partial.manifest("0.9", -1)):
        with pytest.raises(InvalidValue, match=r"draw -?\d does not exist; there are 0, 1, 2, 3, 4"):
            ask()


def test_a_split_that_lacks_images_is_partial_whatever_the_lock_pins(toy: Any, partial: Task) -> None:
    manifest: Manifest = partial.manifest("0.9", 0)
    assert partial.pin_state(manifest) == "partial"
    incomplete = Listing(partial.listing.ids, partial.listing.y, partial.listing.a, complete=False)
    assert toy.Task(partial.card, incomplete).pin_state(manifest) == "partial"
    # With every image, another listing than UTKFace's is an error, since the lock pins that.
    with pytest.raises(DataError, match=r"utkface@1 at 0\.9, draw 0: .*differs from splits\.lock"):
        toy.Task(partial.card, partial.known_listing()).pin_state(manifest)
