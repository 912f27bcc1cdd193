"""The embedded task with its real data: the card's table, the locks, and pixels computed a second way."""

from __future__ import annotations

import dataclasses
import hashlib
from fractions import Fraction

import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmark.errors import DataError, InvalidValue
from benchmark.records.files import read_json
from benchmark.tasks.block import LevelCounts
from benchmark.tasks.catalog import load_task
from benchmark.tasks.digits import read_scans
from benchmark.tasks.ink import colourise, ink_jitter, upsample_bilinear
from benchmark.tasks.law import DRAWS
from benchmark.tasks.locks import Lock, load_lock, lock_path, split_key
from benchmark.tasks.manifest import SPLITS, Rows
from benchmark.tasks.pinning import level_counts_of, verify_task
from benchmark.tasks.task import Task

LEVELS = ("balanced", "0.9", "0.95", "0.99")


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task("colorized-digits")


def rows_of(digits: Task, numbers: list[int], inks: list[int]) -> Rows:
    ids = tuple(f"digit-{n:04d}" for n in numbers)
    return Rows(ids, ids, digits.listing.y[numbers], np.array(inks, dtype=np.int64))


# --- the card and the locks ----------------------------------------------------------------------------------------


def test_the_card_s_table_is_what_the_code_computes(digits: Task) -> None:
    assert digits.card.task.levels == LEVELS
    expected = {counts.level: counts for counts in digits.card.task.expected}
    assert set(expected) == set(LEVELS)
    for level in LEVELS:
        for draw in DRAWS:
            assert level_counts_of(digits, digits.manifest(level, draw)) == expected[level]


def test_every_split_and_pixel_is_the_pinned_one(digits: Task) -> None:
    found = verify_task(digits)
    assert [(v.level, v.draw, v.state) for v in found] == [(level, d, "pinned") for level in LEVELS for d in DRAWS]
    assert load_lock("splits").entries["colorized-digits"] == {
        split_key(digits.card, v.level, v.draw): v.digest for v in found
    }
    # verify_task has compared every digest that the lock holds; none may be missing or left over.
    pinned = load_lock("pixels").entries["colorized-digits"]
    assert set(pinned) == {"test", "audit", *(split_key(digits.card, v.level, v.draw) for v in found)}
    assert digits.pixel_digest(digits.manifest("0.99", 4).splits["train"]) == pinned["split-1/0.99/draw-4"]


def test_the_lock_says_what_it_says_in_plain_words(digits: Task) -> None:
    """The digest is SHA-256 over the sorted (id, split, y, a), computed here from the law's sentence alone."""
    content = read_json(lock_path("splits"))
    assert content["format_version"] == 1
    manifest = digits.manifest("0.95", 3)
    lines = sorted(
        f"{i}\t{name}\t{y}\t{a}"
        for name in SPLITS
        for i, y, a in zip(manifest.splits[name].ids, manifest.splits[name].y, manifest.splits[name].a, strict=True)
    )
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert content["tasks"]["colorized-digits"]["split-1/0.95/draw-3"] == digest


def test_a_changed_lock_is_an_error_that_names_level_draw_and_digests(digits: Task) -> None:
    manifest = digits.manifest("0.9", 2)
    wrong = Lock({"colorized-digits": {"split-1/0.9/draw-2": "0" * 64}})
    with pytest.raises(DataError, match=rf"at 0\.9, draw 2.*{manifest.digest[:12]}.*splits\.lock \(0{{12}}"):
        wrong.state(digits.card, manifest, complete=True)


def test_what_is_not_in_the_lock_is_unpinned_and_a_subset_is_partial(digits: Task) -> None:
    manifest = digits.manifest("0.9", 2)
    assert Lock({}).state(digits.card, manifest, complete=True) == "unpinned"
    wrong = Lock({"colorized-digits": {"split-1/0.9/draw-2": "0" * 64}})
    assert wrong.state(digits.card, manifest, complete=False) == "partial"


def test_a_card_that_expects_other_counts_is_an_error_that_names_both(digits: Task) -> None:
    task = digits.card.task
    wrong = LevelCounts.model_validate({**task.expected[1].model_dump(), "train": 991})
    card = digits.card.model_copy(
        update={"task": task.model_copy(update={"expected": (task.expected[0], wrong, *task.expected[2:])})}
    )
    with pytest.raises(DataError, match=r"(?s)at 0\.9, draw 0.*train=991.*train=990"):
        verify_task(type(digits)(card))


def test_a_moved_split_version_gives_other_splits_that_are_not_pinned(digits: Task) -> None:
    card = digits.card.model_copy(update={"task": digits.card.task.model_copy(update={"split_version": 2})})
    moved = type(digits)(card)
    manifest = moved.manifest("0.95", 0)
    assert manifest.digest != digits.manifest("0.95", 0).digest
    assert moved.pin_state(manifest) == "unpinned"


def test_a_level_that_the_task_does_not_offer_is_refused(digits: Task) -> None:
    with pytest.raises(InvalidValue, match=r"no bias level '\.97'; offered: balanced, 0\.9, 0\.95, 0\.99"):
        digits.manifest(".97", 0)


def test_a_level_may_be_spelled_otherwise(digits: Task) -> None:
    assert digits.manifest(".950", 1).digest == digits.manifest("0.95", 1).digest


# --- the source ----------------------------------------------------------------------------------------------------


def test_the_scans_are_scikit_learn_s_in_its_order(digits: Task) -> None:
    data = load_digits()
    scans = read_scans(digits.card)
    np.testing.assert_array_equal(scans[:, :-1], data.data)
    np.testing.assert_array_equal(scans[:, -1], data.target)
    assert digits.listing.ids[:2] == ("digit-0000", "digit-0001")
    assert len(digits.listing.ids) == 1797
    assert (digits.listing.a == -1).all()


def test_a_source_that_is_not_the_pinned_file_is_an_error_that_names_both_digests(digits: Task) -> None:
    source = digits.card.task.sources[0]
    card = digits.card.model_copy(
        update={
            "task": digits.card.task.model_copy(update={"sources": (source.model_copy(update={"sha256": "f" * 64}),)})
        }
    )
    with pytest.raises(DataError, match=r"not the pinned file \(sha256 6ebb3d2fee24….*expected ffffffffffff"):
        read_scans(card)


@pytest.mark.parametrize("location", ["datasets/data/gone.csv.gz", "datasets/data", "__init__.py"])
def test_a_missing_or_unreadable_source_says_to_reinstall(digits: Task, location: str) -> None:
    source = digits.card.task.sources[0].model_copy(update={"location": location})
    card = digits.card.model_copy(update={"task": digits.card.task.model_copy(update={"sources": (source,)})})
    with pytest.raises(DataError, match="reinstall scikit-learn"):
        read_scans(card)


# --- splits of the real data ---------------------------------------------------------------------------------------


def test_digits_of_the_splits_are_disjoint_and_complete(digits: Task) -> None:
    for draw in DRAWS:
        manifest = digits.manifest("0.95", draw)
        sources = [set(manifest.splits[name].sources) for name in SPLITS]
        assert sum(map(len, sources)) == 1797
        assert set().union(*sources) == set(digits.listing.ids)


def test_a_digit_keeps_its_conflicting_ink_when_the_bias_shrinks(digits: Task) -> None:
    def minority(level: str) -> dict[str, int]:
        rows = digits.manifest(level, 4).splits["train"]
        return {i: int(a) for i, y, a in zip(rows.ids, rows.y, rows.a, strict=True) if y != a}

    assert minority("0.99").items() < minority("0.95").items() < minority("0.9").items() < minority("balanced").items()


def test_each_class_of_the_training_split_has_its_share(digits: Task) -> None:
    for draw in DRAWS:
        table = digits.manifest("0.95", draw).counts("train")
        for y, row in enumerate(table):
            wanted = max(1, int(row.sum() * Fraction(1, 20) + Fraction(1, 2)))
            assert row.sum() - row[y] == wanted
            others = np.delete(row, y)
            assert others.max() - others.min() <= 1


# --- pixels --------------------------------------------------------------------------------------------------------


def test_one_pixel_by_hand(digits: Task) -> None:
    # Digit 0 is a zero whose row 4 is 0, 5, 8, 0, 0, 9, 8, 0. Output pixel (17, 9) is the source point
    # (17 + ½)/4 − ½ = 3.875 and (9 + ½)/4 − ½ = 1.875: rows 3 and 4 with ⅛ and ⅞, columns 1 and 2 with ⅛ and ⅞.
    scan = load_digits().images[0]
    (a, b), (c, d) = scan[3, 1:3], scan[4, 1:3]
    assert (a, b, c, d) == (4, 12, 5, 8)
    grey = (Fraction(4 + 7 * 12, 8) + 7 * Fraction(5 + 7 * 8, 8)) / 8  # (11 + 7·7.625)/8 = 8.046875 of 16
    level = int(grey * 255 / 16 + Fraction(1, 2))
    assert (grey, level) == (Fraction(515, 64), 128)
    offsets = [byte % 33 - 16 for byte in hashlib.sha256(b"colorized-digits/ink/digit-0000").digest()[:3]]
    ink = [min(max(c + o, 0), 255) for c, o in zip((40, 70, 240), offsets, strict=True)]  # blue
    expected = [int(Fraction(level * value, 255) + Fraction(1, 2)) for value in ink]
    assert digits.render(rows_of(digits, [0], [5]))[0, 17, 9].tolist() == expected


def float_rendering(scan: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Bilinear resize with half-pixel centres and clamped edges, in floating point, then grey × ink."""
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    columns = np.stack([np.interp(centres, np.arange(8), row) for row in scan])
    grey = np.stack([np.interp(centres, np.arange(8), column) for column in columns.T], axis=1) / 16
    return grey[..., None] * np.clip(ink, 0, 255)


def test_pixels_are_within_one_level_of_a_rendering_in_floating_point(digits: Task) -> None:
    numbers, inks = list(range(0, 1797, 60)), [k % 10 for k in range(30)]
    rows = rows_of(digits, numbers, inks)
    pixels = digits.render(rows)
    assert pixels.shape == (30, 32, 32, 3)
    assert pixels.dtype == np.uint8
    palette = digits.card.task.pixels.palette or {}
    colours = np.array([palette[name] for name in digits.card.task.attribute.values])
    jitter = ink_jitter("colorized-digits", rows.sources, 16)
    images = load_digits().images
    for k, number in enumerate(numbers):
        reference = float_rendering(images[number], colours[inks[k]] + jitter[k])
        assert np.abs(pixels[k] - reference).max() <= 1.0


def test_enlarging_keeps_constants_clamps_edges_and_rounds_halves_up() -> None:
    flat = np.full((1, 2, 2), 16)
    assert (upsample_bilinear(flat, 4, 16) == 255).all()
    step = upsample_bilinear(np.array([[[0, 16], [0, 16]]]), 2, 16)
    # Half-pixel centres at −.25, .25, .75, 1.25: 0, ¼, ¾, 1 of 255, 63.75 → 64 and 191.25 → 191.
    assert step[0].tolist() == [[0, 64, 191, 255]] * 4
    half = upsample_bilinear(np.array([[[1]]]), 2, 2)
    assert half[0].tolist() == [[128, 128], [128, 128]]  # 127.5


def test_ink_is_clipped_and_products_round_half_up() -> None:
    grey = np.array([[[255, 51, 0]]], dtype=np.uint8)
    found = colourise(grey, np.array([[300, -5, 100]]))
    assert found[0, 0].tolist() == [[255, 0, 100], [51, 0, 20], [0, 0, 0]]


def test_jitter_belongs_to_the_digit_not_to_its_ink(digits: Task) -> None:
    jitter = ink_jitter("colorized-digits", [f"digit-{k:04d}" for k in range(1797)], 16)
    assert (jitter.min(), jitter.max()) == (-16, 16)
    assert len(np.unique(jitter, axis=0)) > 1700
    palette = digits.card.task.pixels.palette or {}
    test = digits.manifest("0.95", 0).splits["test"]
    ten = Rows(test.ids[:10], test.sources[:10], test.y[:10], test.a[:10])
    assert len(set(ten.sources)) == 1
    pixels = digits.render(ten).astype(int)
    brightest = np.unravel_index(pixels.sum(axis=(0, 3)).argmax(), (32, 32))
    offset = jitter[int(ten.sources[0].removeprefix("digit-"))]
    grey = upsample_bilinear(load_digits().images[[int(ten.sources[0][-4:])]].astype(int), 4, 16)[0][brightest]
    for k, name in enumerate(digits.card.task.attribute.values):
        ink = np.clip(np.array(palette[name]) + offset, 0, 255)
        assert np.abs(pixels[k][brightest] - grey * ink / 255).max() <= 0.5


def test_the_same_row_has_the_same_pixels_wherever_it_stands(digits: Task) -> None:
    together = digits.render(rows_of(digits, [5, 900, 5], [1, 2, 1]))
    alone = digits.render(rows_of(digits, [5], [1]))
    np.testing.assert_array_equal(together[[0, 2]], np.concatenate([alone, alone]))


def test_the_pixel_digest_moves_with_one_level_of_jitter(digits: Task) -> None:
    task = digits.card.task
    pixels = task.pixels.model_copy(update={"ink_jitter": 15})
    other = type(digits)(digits.card.model_copy(update={"task": task.model_copy(update={"pixels": pixels})}))
    rows = dataclasses.replace(rows_of(digits, [1, 2, 3], [0, 1, 2]))
    assert other.pixel_digest(rows) != digits.pixel_digest(rows)
