"""Precision, recall, density and coverage: by hand on a line, against the definitions, and what they can tell."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.audits import manifold
from benchmark.audits.manifold import Manifold, by_group, precision_recall_density_coverage
from benchmark.errors import InvalidValue


def line(*positions: float) -> np.ndarray:
    return np.array(positions, dtype=np.float64)[:, None]


def cloud(n: int, seed: int, width: int = 8, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, width)) * scale + shift).astype(np.float32)


def naive(real: np.ndarray, generated: np.ndarray, k: int) -> Manifold:
    """The definitions, image by image."""

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.linalg.norm(one.astype(np.float64) - other))

    def radius(side: np.ndarray, i: int) -> float:
        return sorted(distance(side[i], side[j]) for j in range(len(side)) if j != i)[k - 1]

    around_real = [radius(real, i) for i in range(len(real))]
    around_generated = [radius(generated, j) for j in range(len(generated))]
    balls = [sum(distance(x, g) <= r for x, r in zip(real, around_real, strict=True)) for g in generated]
    return Manifold(
        precision=float(np.mean([n > 0 for n in balls])),
        recall=float(
            np.mean([any(distance(x, g) <= r for g, r in zip(generated, around_generated, strict=True)) for x in real])
        ),
        density=float(np.mean(balls) / k),
        coverage=float(
            np.mean([min(distance(x, g) for g in generated) <= r for x, r in zip(real, around_real, strict=True)])
        ),
    )


def test_three_images_a_side_by_hand() -> None:
    # Nearest neighbours: real balls 0±1, 1±1, 3±2; generated balls 0.5±5.5, 6±0.5, 6.5±0.5.
    found = precision_recall_density_coverage(line(0, 1, 3), line(0.5, 6, 6.5), neighbours=1)
    # 0.5 lies in the balls of 0 and 1; 6 and 6.5 in none. All real images lie in the ball of 0.5.
    assert found == Manifold(precision=1 / 3, recall=1, density=2 / 3, coverage=2 / 3)


def test_two_neighbours_reach_further_by_hand() -> None:
    # Second neighbours: real balls 0±3, 1±2, 3±3, generated balls 5±4, 9±4, 8±3.
    found = precision_recall_density_coverage(line(0, 1, 3), line(5, 9, 8), neighbours=2)
    # 5 lies in the ball of 3 alone. 1 and 3 lie in the ball of 5.
    assert found == Manifold(precision=1 / 3, recall=2 / 3, density=1 / 6, coverage=1 / 3)


@pytest.mark.parametrize(("n", "m", "k"), [(40, 40, 5), (60, 25, 3), (12, 50, 1), (6, 6, 5)])
def test_the_definitions_image_by_image_give_the_same(n: int, m: int, k: int) -> None:
    real, generated = cloud(n, 0, width=3), cloud(m, 1, width=3, shift=0.5)
    found, expected = precision_recall_density_coverage(real, generated, neighbours=k), naive(real, generated, k)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_identical_sets_are_precise_and_complete() -> None:
    same = cloud(300, 0, width=64) + 100  # far from the origin, where products lose digits
    found = precision_recall_density_coverage(same, same)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # Each ball holds its own image besides the five neighbours.
    assert found.density == pytest.approx(6 / 5)


def test_copies_count_even_where_duplicates_make_the_balls_points() -> None:
    real = np.repeat(cloud(4, 0, width=64) + 100, 6, axis=0)
    assert precision_recall_density_coverage(real, real[::-1].copy()) == Manifold(1, 1, 6 / 5, 1)


def test_sets_far_apart_have_nothing_in_common() -> None:
    found = precision_recall_density_coverage(cloud(50, 0), cloud(50, 1, shift=50))
    assert found == Manifold(0, 0, 0, 0)


def test_collapse_to_one_mode_keeps_precision_and_loses_recall_and_coverage() -> None:
    real = cloud(300, 0)
    collapsed = precision_recall_density_coverage(real, real[:1] + cloud(300, 1, scale=0.01))
    spread = precision_recall_density_coverage(real, cloud(300, 2))
    assert collapsed.precision > 0.9
    assert collapsed.recall < 0.05
    assert collapsed.coverage < 0.2
    assert spread.recall > 0.8
    assert spread.coverage > 0.9
    assert spread.density == pytest.approx(1, abs=0.15)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = cloud(200, 0), cloud(150, 1, shift=0.3)
    whole = precision_recall_density_coverage(real, generated)
    monkeypatch.setattr(manifold, "_BLOCK", 37)
    assert precision_recall_density_coverage(real, generated) == whole


def test_groups_are_compared_with_themselves_and_those_with_few_images_are_null() -> None:
    real, generated = cloud(40, 0), cloud(40, 1)
    generated[30:] += 50
    real_group = np.array([0] * 20 + [1] * 4 + [3] * 16)
    generated_group = np.array([0] * 20 + [1] * 9 + [-1] + [3] * 10)
    found = by_group(real, real_group, generated, generated_group, (2, 2), neighbours=5)
    alone = precision_recall_density_coverage(real[:20], generated[:20])
    assert found.precision == [[round(alone.precision, 5), None], [None, 0]]
    assert found.recall == [[round(alone.recall, 5), None], [None, 0]]
    assert found.density == [[round(alone.density, 5), None], [None, 0]]
    assert found.coverage == [[round(alone.coverage, 5), None], [None, 0]]
    more = by_group(real, real_group, generated, generated_group, (2, 2), neighbours=5, fewest=11)
    assert more.precision == [[round(alone.precision, 5), None], [None, None]]
    fewer = by_group(real, real_group, generated, generated_group, (2, 2), neighbours=3, fewest=1)
    assert fewer.precision[0][1] is not None, "four real images have three neighbours"


def test_features_that_are_not_finite_make_their_group_null() -> None:
    real, generated, group = cloud(20, 0), cloud(20, 1), np.array([0] * 10 + [1] * 10)
    generated[3] = np.inf
    found = by_group(real, group, generated, group, (1, 2))
    assert found.precision[0][0] is None
    assert found.precision[0][1] is not None
    with pytest.raises(InvalidValue, match="generated images are not finite"):
        precision_recall_density_coverage(real, generated)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"features of real images are \(9, 8\), of generated ones \(9, 4\)"):
        precision_recall_density_coverage(cloud(9, 0), cloud(9, 0, width=4))
    with pytest.raises(InvalidValue, match="5 real images have no 5 neighbours"):
        precision_recall_density_coverage(cloud(5, 0), cloud(9, 0))
    with pytest.raises(InvalidValue, match="0 neighbours make no balls"):
        precision_recall_density_coverage(cloud(5, 0), cloud(9, 0), neighbours=0)
    with pytest.raises(InvalidValue, match="9 real images with 8 groups"):
        by_group(cloud(9, 0), np.zeros(8, dtype=np.int64), cloud(9, 0), np.zeros(9, dtype=np.int64), (1, 1))
