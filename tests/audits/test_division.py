"""The audit split is divided by source, a third of every group held out, and rows of a matrix balance the groups."""

from __future__ import annotations

from collections import Counter

import numpy as np

from benchmark.audits.division import balanced, divide
from benchmark.tasks.catalog import load_task
from benchmark.tasks.manifest import AUDIT, Rows


def observed(sizes: dict[tuple[int, int], int]) -> Rows:
    """A split with so many images per group, each its own source."""
    pairs = [group for group, n in sizes.items() for _ in range(n)]
    ids = tuple(f"image-{k}" for k in range(len(pairs)))
    return Rows(ids, ids, np.array([y for y, _ in pairs]), np.array([a for _, a in pairs]))


def test_no_digit_is_on_both_sides_and_none_is_lost() -> None:
    rows = load_task("colorized-digits").manifest("0.95", 0).splits[AUDIT]
    division = divide(rows, "colorized-digits@1")
    train, held_out = ({rows.sources[k] for k in side} for side in (division.train, division.held_out))
    assert not train & held_out
    assert sorted([*division.train, *division.held_out]) == list(range(len(rows)))
    assert (len(train), len(held_out)) == (119, 60)


def test_a_third_of_every_observed_group_is_held_out() -> None:
    rows = observed({(0, 0): 30, (0, 1): 6, (1, 0): 2, (1, 1): 1})
    division = divide(rows, "faces@1")
    held = Counter((int(rows.y[k]), int(rows.a[k])) for k in division.held_out)
    assert held == {(0, 0): 10, (0, 1): 2, (1, 0): 1}


def test_the_division_does_not_depend_on_the_order_of_rows() -> None:
    rows = observed({(0, 0): 30, (1, 0): 30})
    turned = rows.take(np.arange(len(rows))[::-1])
    held = {rows.ids[k] for k in divide(rows, "faces@1").held_out}
    assert {turned.ids[k] for k in divide(turned, "faces@1").held_out} == held
    assert {rows.ids[k] for k in divide(rows, "others@1").held_out} != held


def test_every_value_is_tested_with_its_groups_equally_often() -> None:
    value = np.array([0] * 10 + [1] * 7)
    other = np.array([0] * 8 + [1] * 2 + [0] * 3 + [2] * 4)
    chosen = balanced(value, other)
    assert Counter(zip(value[chosen].tolist(), other[chosen].tolist(), strict=True)) == {
        (0, 0): 2,
        (0, 1): 2,
        (1, 0): 3,
        (1, 2): 3,
    }
    assert chosen[:2].tolist() == [0, 1], "the first of a group stay"
