"""What a method receives: images and labels for everyone, group labels for those who declare them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmark.contract.images import GroupNames, ImageSet, attributes_for_measurement
from benchmark.contract.tracks import SelectionRule, Track, row_track
from benchmark.errors import ContractViolation, InvalidValue, UndeclaredGroupLabels

GROUPS = [(0, 0), (0, 1), (1, 1), (2, 0), (2, 0)]
Route = Callable[[ImageSet], Any]

READS: dict[str, Route] = {"a": lambda s: s.a.tolist(), "group_counts": lambda s: s.group_counts.tolist()}
WAYS: dict[str, Route] = {
    "as it is": lambda s: s,
    "take": lambda s: s.take([0, 1, 2, 3, 4]),
    "with_images": lambda s: s.with_images(s.images.copy()),
    "+ itself": lambda s: (s + s).take([0, 1, 2, 3, 4]),
    "+ nothing": lambda s: s + s.take([]),
    "nothing +": lambda s: s.take([]) + s,
    "take of take of with_images": lambda s: s.with_images(255 - s.images).take([4, 3, 2, 1, 0]).take([4, 3, 2, 1, 0]),
}


# --- the guard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("granted", [Track.NONE, Track.VALIDATION_SELECTS, Track.VALIDATION_TRAINS])
def test_no_route_leads_to_undeclared_group_labels(contract: Any, granted: Track, read: str, way: str) -> None:
    images = WAYS[way](contract.images_of(GROUPS, granted=granted))
    with pytest.raises(UndeclaredGroupLabels, match=f"card declares track '{granted.value}'; declare track='train'"):
        READS[read](images)


@pytest.mark.parametrize("way", WAYS)
def test_declared_group_labels_can_be_read_on_every_route(contract: Any, way: str) -> None:
    images = WAYS[way](contract.images_of(GROUPS, granted=Track.TRAIN))
    assert images.a.tolist() == [0, 1, 1, 0, 0]
    assert images.group_counts.tolist() == [[1, 1], [0, 1], [2, 0]]


def test_validation_labels_need_their_own_track(contract: Any) -> None:
    def validation(granted: Track) -> ImageSet:
        images: ImageSet = contract.images_of(GROUPS, needs=Track.VALIDATION_SELECTS, granted=granted)
        return images

    with pytest.raises(UndeclaredGroupLabels, match="of the validation split"):
        _ = validation(Track.NONE).a
    for granted in (Track.VALIDATION_SELECTS, Track.VALIDATION_TRAINS, Track.TRAIN):
        assert validation(granted).a.tolist() == [0, 1, 1, 0, 0]


def test_what_a_method_asked_for_itself_it_may_read(contract: Any) -> None:
    fake = contract.images_of([(0, 1), (1, -1)], needs=Track.NONE, synthetic=True)
    assert fake.a.tolist() == [1, -1]
    assert fake.group_counts.tolist() == [[0, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("turned", [False, True])
def test_mixing_real_and_generated_images_keeps_the_real_ones_guarded(contract: Any, turned: bool) -> None:
    real, fake = contract.images_of(GROUPS), contract.images_of([(0, 1)], needs=Track.NONE, synthetic=True)
    mixed = fake + real if turned else real + fake
    assert mixed.needs is Track.TRAIN
    for read in READS.values():
        with pytest.raises(UndeclaredGroupLabels):
            read(mixed)
    assert mixed.synthetic.sum() == 1
    assert len(mixed) == 6
    with pytest.raises(UndeclaredGroupLabels):
        _ = mixed.take(np.flatnonzero(mixed.synthetic)).a


def test_printing_a_set_shows_no_group_labels(contract: Any) -> None:
    images = contract.images_of([(0, 1)] * 3)
    assert "_attributes" not in repr(images)


def test_everyone_may_count_classes(contract: Any) -> None:
    assert contract.images_of(GROUPS).class_counts.tolist() == [2, 1, 2]
    assert contract.images_of([(0, 0)]).class_counts.tolist() == [1, 0, 0]


def test_the_harness_measures_without_the_guard(contract: Any) -> None:
    assert attributes_for_measurement(contract.images_of(GROUPS)).tolist() == [0, 1, 1, 0, 0]


def test_undeclared_labels_are_a_violation_of_the_contract() -> None:
    assert issubclass(UndeclaredGroupLabels, ContractViolation)


# --- immutability --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images", "y", "synthetic", "a"])
def test_arrays_are_read_only_on_every_route(contract: Any, name: str) -> None:
    for way in WAYS.values():
        array = getattr(way(contract.images_of(GROUPS, granted=Track.TRAIN)), name)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_attributes_of_the_set_cannot_be_replaced(contract: Any) -> None:
    with pytest.raises(AttributeError):
        contract.images_of(GROUPS).granted = Track.TRAIN


# --- choosing and mixing -------------------------------------------------------------------------------------------


def test_taking_keeps_order_and_repeats(contract: Any) -> None:
    taken = contract.images_of(GROUPS, granted=Track.TRAIN).take([3, 0, 3])
    assert taken.y.tolist() == [2, 0, 2]
    assert taken.a.tolist() == [0, 0, 0]
    assert taken.images[:, 0, 0, 0].tolist() == [3, 0, 3]


def test_a_mask_or_fractions_are_refused_instead_of_being_read_as_positions(contract: Any) -> None:
    images = contract.images_of(GROUPS)
    for wrong in (images.y == 2, [True, False], [0.5, 1.0]):
        with pytest.raises(InvalidValue, match=r"for a mask use np\.flatnonzero"):
            images.take(wrong)
    assert len(images.take([])) == 0
    assert len(images.take(np.array([], dtype=np.float64))) == 0
    assert images.take(np.array([1, 2], dtype=np.uint8)).y.tolist() == [0, 1]


def test_taking_what_is_not_there_is_an_error(contract: Any) -> None:
    with pytest.raises(IndexError):
        contract.images_of(GROUPS).take([5])


def test_mixing_puts_one_behind_the_other(contract: Any) -> None:
    mixed = contract.images_of(GROUPS) + contract.images_of([(1, 0)], synthetic=True)
    assert mixed.y.tolist() == [0, 0, 1, 2, 2, 1]
    assert mixed.synthetic.tolist() == [False] * 5 + [True]


def test_sets_of_different_tasks_do_not_mix(contract: Any) -> None:
    other = ImageSet(
        np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64), np.zeros(1, bool), GroupNames(("x",), ("z",)),
        Track.NONE, Track.NONE, np.zeros(1, np.int64),
    )  # fmt: skip
    with pytest.raises(InvalidValue, match="different tasks"):
        contract.images_of(GROUPS) + other


@pytest.mark.parametrize(
    "images",
    [np.zeros((5, 2, 2), np.uint8), np.zeros((5, 2, 2, 1), np.uint8), np.zeros((5, 2, 2, 3), np.float32)],
)
def test_other_shapes_and_types_of_pixels_are_refused(contract: Any, images: np.ndarray) -> None:
    with pytest.raises(InvalidValue, match="images must be uint8"):
        contract.images_of(GROUPS).with_images(images)


def test_another_number_of_pixels_is_refused(contract: Any) -> None:
    with pytest.raises(InvalidValue, match="different lengths"):
        contract.images_of(GROUPS).with_images(np.zeros((4, 2, 2, 3), np.uint8))


# --- digests -------------------------------------------------------------------------------------------------------


def test_the_digest_moves_with_pixels_labels_attributes_source_and_order(contract: Any) -> None:
    base = contract.images_of(GROUPS)
    pixels = base.images.copy()
    pixels[4, 1, 1, 2] ^= 1
    digests = [
        base.digest,
        base.with_images(pixels).digest,
        contract.images_of([(1, 0), *GROUPS[1:]]).digest,
        contract.images_of([(0, 1), *GROUPS[1:]]).digest,
        contract.images_of(GROUPS, synthetic=True).digest,
        base.take([1, 0, 2, 3, 4]).digest,
        base.take([0, 1, 2, 3]).digest,
        (base + base).digest,
    ]
    assert len(set(digests)) == len(digests)


def test_equal_contents_have_equal_digests_whoever_reads_them(contract: Any) -> None:
    base = contract.images_of(GROUPS)
    assert contract.images_of(GROUPS, granted=Track.TRAIN).digest == base.digest
    assert base.take([0, 1, 2, 3, 4]).digest == base.digest
    assert base.with_images(base.images[:, :, ::-1][:, :, ::-1]).digest == base.digest


# --- tracks --------------------------------------------------------------------------------------------------------


def test_tracks_are_ordered_from_nothing_to_everything() -> None:
    assert [t.value for t in sorted(Track, key=lambda t: t.rank)] == ["none", "val-select", "val-train", "train"]
    for low in Track:
        for high in Track:
            assert high.covers(low) == (high.rank >= low.rank)


def test_a_row_s_track_is_the_most_that_method_and_rule_used() -> None:
    for track in Track:
        assert row_track(track, SelectionRule.LAST) is track
        assert row_track(track, SelectionRule.VALIDATION_AVERAGE) is track
    found = [row_track(track, SelectionRule.VALIDATION_WORST_GROUP) for track in Track]
    assert found == [Track.VALIDATION_SELECTS, Track.VALIDATION_SELECTS, Track.VALIDATION_TRAINS, Track.TRAIN]
    assert [rule.value for rule in SelectionRule] == ["last", "val-average", "val-worst-group"]
