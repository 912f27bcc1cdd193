"""Shares of groups as an auditor with errors sees them: a known composition comes back, and verdicts follow from it."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from benchmark.audits.correction import corrected_fidelity, corrected_shares
from benchmark.audits.shares import (
    FREE,
    SAME_ODDS,
    GroupShares,
    group_audit,
    training_conflicting,
    verdict,
    verdicts_by_class,
)
from benchmark.errors import InvalidValue
from benchmark.metrics.data import Metric

VALUES = 10
N = 2000


def auditor(accuracy: float, values: int = VALUES) -> np.ndarray:
    """Probabilities [true, answered] of an auditor with evenly spread errors."""
    table = np.full((values, values), (1 - accuracy) / (values - 1))
    np.fill_diagonal(table, accuracy)
    return table


def answers(rng: np.random.Generator, table: np.ndarray, shown: np.ndarray) -> np.ndarray:
    return (rng.random(len(shown))[:, None] > table[shown].cumsum(axis=1)).sum(axis=1)


def confusion_of(rng: np.random.Generator, table: np.ndarray, images: int) -> np.ndarray:
    return np.array([rng.multinomial(images, row) for row in table])


def biased(conflicting: float, n: int = N, values: int = VALUES) -> tuple[np.ndarray, np.ndarray]:
    """Labels in turn and the attributes shown: exactly so many conflicting images, over all other values in turn."""
    y = np.arange(n) % values
    within = np.arange(n) // values
    off = within < round(conflicting * n / values)
    return y, np.where(off, (y + 1 + within % (values - 1)) % values, y)


def audit(y: np.ndarray, seen: np.ndarray, confusion: np.ndarray, **options: object) -> GroupShares:
    values = len(confusion)
    chosen: dict[str, object] = {"asked_a": np.full(len(y), FREE), "seed": 0, "aligned": range(values)} | options
    return group_audit(
        y, chosen.pop("asked_a"), seen, confusion, n_classes=values, n_attributes=values, **chosen  # type: ignore[arg-type]
    )  # fmt: skip


def inside(metric: Metric, truth: float) -> bool:
    assert metric.low is not None
    assert metric.high is not None
    assert metric.value is not None
    assert metric.low <= metric.value <= metric.high
    return metric.low <= truth <= metric.high


# --- known compositions --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("conflicting", "raw"), [(0.01, 0.109), (0.1, 0.189), (0.9, 0.9)])
def test_a_known_composition_comes_back_inside_its_interval(conflicting: float, raw: float) -> None:
    """With an auditor that errs once in ten: a true 1 % looks like 11 %."""
    table, (y, shown) = auditor(0.9), biased(conflicting)
    truth = np.zeros((VALUES, VALUES))
    np.add.at(truth, (y, shown), 1 / len(y))
    hits, groups, raws, values = 0, [], [], []
    for repetition in range(30):
        rng = np.random.default_rng(repetition)
        found = audit(y, answers(rng, table, shown), confusion_of(rng, table, 200), seed=repetition)
        hits += inside(found.conflicting, conflicting)
        groups.append((np.array(found.low) <= truth + 1e-5) & (truth - 1e-5 <= np.array(found.high)))
        raws.append(found.conflicting_raw.value)
        values.append(found.conflicting.value)
    assert np.mean(raws) == pytest.approx(raw, abs=0.005)
    assert np.mean(values) == pytest.approx(conflicting, abs=0.005)
    assert hits >= 27
    assert np.mean(groups) >= 0.93


def test_the_sum_of_bounded_shares_would_make_a_biased_set_look_less_biased() -> None:
    """Why the share of conflicting images is not the sum of its groups."""
    table, (y, shown) = auditor(0.9), biased(0.01)
    linear, summed = [], []
    for repetition in range(10):
        rng = np.random.default_rng(repetition)
        found = audit(y, answers(rng, table, shown), confusion_of(rng, table, 200), draws=20)
        linear.append(found.conflicting.value)
        summed.append(1 - np.trace(np.array(found.corrected)))
    assert np.mean(linear) == pytest.approx(0.01, abs=0.007)
    assert np.mean(summed) > 0.02


def test_shares_are_those_of_each_label_times_its_share_of_the_images() -> None:
    rng = np.random.default_rng(0)
    table = auditor(0.8, 3)
    y = np.array([0] * 300 + [1] * 90 + [2] * 10)
    seen, confusion = answers(rng, table, y), confusion_of(rng, table, 100)
    found = audit(y, seen, confusion)
    alone = corrected_shares(seen[y == 0], confusion, seed=0)
    assert found.corrected[0] == pytest.approx([0.75 * (share.value or 0) for share in alone], abs=1e-5)
    assert np.sum(found.corrected) == pytest.approx(1, abs=1e-4)
    assert found.raw[1] == pytest.approx(np.bincount(seen[y == 1], minlength=3) / 400)
    assert found.conflicting_by_class[0].value == pytest.approx(1 - corrected_value(y, seen, confusion, 0))
    assert found.conflicting.value == pytest.approx(1 - corrected_value(y, seen, confusion, None))


def corrected_value(y: np.ndarray, seen: np.ndarray, confusion: np.ndarray, label: int | None) -> float:
    chosen = np.ones(len(y), dtype=bool) if label is None else y == label
    value = corrected_fidelity(y[chosen], seen[chosen], confusion, seed=0).value
    assert value is not None
    return value


def test_the_aligned_attribute_may_be_another_number_than_the_label_or_shared_by_labels() -> None:
    y, shown = np.array([0] * 60 + [1] * 40), np.array([1] * 54 + [0] * 6 + [1] * 30 + [0] * 10)
    found = audit(y, shown, np.diag([500, 500]), aligned=[1, 1])
    assert found.conflicting.value == pytest.approx(0.16)
    assert found.conflicting_raw.value == pytest.approx(0.16)
    assert [share.value for share in found.conflicting_by_class] == pytest.approx([0.1, 0.25])


def test_two_thousand_images_of_a_hundred_groups_take_less_than_a_second() -> None:
    y, shown = biased(0.1)
    confusion = np.diag(np.full(VALUES, 600)) + 5
    audit(y[:10], shown[:10], confusion, draws=2)  # imports SciPy
    start = time.process_time()
    audit(y, shown, confusion)
    assert time.process_time() - start < 1


# --- information and what was asked --------------------------------------------------------------------------------


def test_information_is_one_bit_where_two_labels_show_one_attribute_each_and_none_where_both_show_all() -> None:
    y = np.arange(400) % 2
    bound = audit(y, y, np.diag([500, 500])).information_y_a
    assert bound.value == pytest.approx(1, abs=1e-6)
    assert bound.interval == "none"
    assert "no interval" in (bound.reason or "")
    assert audit(y, np.arange(400) // 2 % 2, np.diag([500, 500])).information_y_a.value == pytest.approx(0, abs=1e-6)


def test_the_shares_asked_for_stand_beside_those_obtained_and_are_null_where_the_attribute_was_free() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    asked = np.array([0, 0, 0, 1, FREE, FREE, 1, 1])
    found = audit(y, np.zeros(8, dtype=np.int64), np.diag([50, 50]), asked_a=asked)
    assert found.asked == [[0.375, 0.125], [None, None]]
    assert found.raw == [[0.5, 0.0], [0.5, 0.0]]


def test_groups_that_were_asked_for_or_could_be_there_but_are_not_seen_are_absent() -> None:
    y, seen = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    confusion = np.diag([50, 50])
    assert audit(y, seen, confusion).absent == [(0, 1), (1, 0)]
    only = np.array([[True, False], [True, True]])
    assert audit(y, seen, confusion, expected=only).absent == [(1, 0)]
    assert audit(y, seen, confusion, asked_a=np.array([0, 1, 1, 1])).absent == [(0, 1)]


def test_a_label_without_images_has_shares_of_zero_and_all_of_its_groups_are_absent() -> None:
    found = audit(np.array([0] * 10 + [1] * 10), np.array([0] * 10 + [1] * 10), np.diag([50, 50, 50]))
    for table in (found.raw, found.corrected, found.low, found.high):
        assert table[2] == [0, 0, 0]
    assert {(2, a) for a in range(3)} <= set(found.absent)
    assert found.conflicting_by_class[2].reason == "there are no images"
    assert found.conflicting.value == pytest.approx(0, abs=1e-6)


def test_values_that_the_auditor_does_not_know_are_null() -> None:
    confusion = np.array([[50, 0, 0], [0, 50, 0], [0, 0, 0]])
    found = audit(np.array([0, 1] * 20), np.array([0, 1] * 20), confusion)
    assert [row[2] for row in found.corrected] == [None, None, 0]
    assert found.conflicting.value == pytest.approx(0, abs=1e-6)
    lost = audit(np.array([0, 2] * 20), np.array([0, 1] * 20), confusion)
    assert lost.conflicting.reason == "the auditor was tested on no real image of value 2, an aligned attribute"
    assert lost.conflicting_by_class[0].value == pytest.approx(0, abs=1e-6)


def test_an_auditor_that_answers_alike_whatever_it_sees_leaves_the_raw_shares_alone() -> None:
    found = audit(np.array([0, 1]), np.array([0, 1]), np.array([[50, 50], [50, 50]]))
    assert found.raw == [[0.5, 0], [0, 0.5]]
    assert found.corrected == [[None, None], [None, None]]
    for metric in (found.conflicting, found.information_y_a):
        assert "cannot be told apart" in (metric.reason or "")


def test_numbers_per_group_have_five_decimals() -> None:
    y, shown = biased(0.1, n=990)
    found = audit(y, shown, np.diag(np.full(VALUES, 37)) + 1)
    for table in (found.raw, found.corrected, found.low, found.high):
        for number in np.array(table).flatten().tolist():
            assert number == round(number, 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": np.array([0, 2])}, r"labels span 0\.\.2, allowed are 0\.\.1"),
        ({"seen": np.array([0, 2])}, r"answered values span 0\.\.2"),
        ({"asked_a": np.array([0, 2])}, r"attributes asked for span 0\.\.2, allowed are -1\.\.1"),
        ({"aligned": [0]}, "1 aligned attributes do not fit 2 labels"),
        ({"aligned": [0, 5]}, r"aligned attributes span 0\.\.5"),
        ({"seen": np.array([0])}, "2 labels, 2 attributes asked for and 1 answers"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"y": np.array([0, 1]), "seen": np.array([0, 1]), "confusion": np.diag([9, 9])}
    with pytest.raises(InvalidValue, match=words):
        audit(**(given | change))  # type: ignore[arg-type]


def test_no_images_are_refused() -> None:
    none = np.array([], dtype=np.int64)
    with pytest.raises(InvalidValue, match="an image at least"):
        audit(none, none, np.diag([9, 9]))


# --- verdicts ------------------------------------------------------------------------------------------------------


def share(low: float, high: float) -> Metric:
    return Metric((low + high) / 2, low, high, "exact")


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        (share(0.08, 0.12), "replicated"),
        (share(0.08, 0.09), "replicated"),  # certainly less, but hardly
        (share(0.02, 0.06), "amplified"),
        (share(0.05, 0.09), "amplified"),
        (share(0.12, 0.2), "reduced"),
        (share(0.8, 0.95), "reduced"),
        (share(0.05, 0.12), "not distinguishable"),
        (share(0.02, 0.5), "not distinguishable"),
        (Metric(0.1, reason="no interval"), "not distinguishable"),
        (Metric.undefined("no auditor"), "not distinguishable"),
    ],
)
def test_verdicts_against_training_data_with_a_tenth_of_conflicting_images(generated: Metric, expected: str) -> None:
    assert verdict(generated, 0.1) == expected


def test_neighbouring_levels_are_never_called_replicated() -> None:
    levels = (0.1, 0.05, 0.03, 0.01)
    for training, other in itertools.pairwise(levels):
        assert verdict(share(other, other), training) == "amplified"
        assert verdict(share(training, training), other) == "reduced"
        assert (training / (1 - training)) / (other / (1 - other)) > SAME_ODDS


def test_an_uncertain_share_of_the_training_data_widens_the_doubt() -> None:
    assert verdict(share(0.08, 0.12), share(0.09, 0.11)) == "replicated"
    assert verdict(share(0.08, 0.12), share(0.05, 0.2)) == "not distinguishable"
    assert verdict(share(0.04, 0.07), 0.1) == "amplified"
    assert verdict(share(0.04, 0.07), share(0.06, 0.14)) == "not distinguishable"
    assert verdict(share(0.08, 0.12), Metric(0.1, reason="no interval")) == "replicated"
    assert verdict(share(0.08, 0.12), Metric.undefined("no auditor")) == "not distinguishable"


def test_training_data_without_any_or_with_only_conflicting_images_have_verdicts() -> None:
    assert verdict(share(0.1, 0.2), 0.0) == "reduced"
    assert verdict(share(0.0, 0.01), 0.0) == "not distinguishable"
    assert verdict(share(0.5, 0.6), 1.0) == "amplified"
    assert verdict(share(1.0, 1.0), 1.0) == "replicated"


def test_a_generator_that_copies_its_training_data_is_replicated_and_one_that_exaggerates_is_not() -> None:
    table, counts = auditor(0.97), np.full((VALUES, VALUES), 2)
    np.fill_diagonal(counts, 162)
    training, by_class = training_conflicting(counts, range(VALUES))
    assert training == pytest.approx(0.1)
    found = {}
    for name, conflicting in (("copies", 0.1), ("exaggerates", 0.04), ("mends", 0.3)):
        rng, (y, shown) = np.random.default_rng(3), biased(conflicting)
        found[name] = audit(y, answers(rng, table, shown), confusion_of(rng, table, 600))
    assert {name: verdict(each.conflicting, training) for name, each in found.items()} == {
        "copies": "replicated",
        "exaggerates": "amplified",
        "mends": "reduced",
    }
    assert verdicts_by_class(found["mends"].conflicting_by_class, by_class) == ["reduced"] * VALUES
    # Two hundred images of a label do not tell a tenth from a fifth.
    assert "not distinguishable" in verdicts_by_class(found["copies"].conflicting_by_class, by_class)


def test_another_mix_of_labels_is_no_other_bias() -> None:
    counts = np.array([[90, 10], [50, 50]])
    assert training_conflicting(counts, [0, 1]) == (pytest.approx(0.3), pytest.approx([0.1, 0.5]))
    assert training_conflicting(counts, [0, 1], np.array([300, 100]))[0] == pytest.approx(0.2)
    with pytest.raises(InvalidValue, match="no image of label 1"):
        training_conflicting(np.array([[9, 1], [0, 0]]), [0, 1], np.array([1, 1]))
