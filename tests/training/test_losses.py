"""Losses and batches against values computed by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from benchmark.errors import InvalidValue
from benchmark.training.losses import GROUP_DRO_STEP, Batches, Objective, group_index

CPU = torch.device("cpu")
LOGITS = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
Y = torch.tensor([0, 1, 0])


def cross_entropies() -> list[float]:
    return [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(1))]


def test_erm_is_the_mean_cross_entropy() -> None:
    assert float(Objective("erm", None, CPU)(LOGITS, Y, None)) == pytest.approx(sum(cross_entropies()) / 3)


def test_reweighting_gives_every_populated_group_the_same_total_weight() -> None:
    group = torch.tensor([0, 0, 2])
    a, b, c = cross_entropies()
    # Two populated groups: weights 3/(2·2) for the pair and 3/(2·1) for the single one, averaged over three images.
    expected = (0.75 * a + 0.75 * b + 1.5 * c) / 3
    assert float(Objective("reweighting", group, CPU)(LOGITS, Y, group)) == pytest.approx(expected)


def test_group_dro_moves_weight_to_the_group_with_the_larger_loss() -> None:
    group = torch.tensor([0, 0, 2])
    objective = Objective("group-dro", group, CPU)
    a, b, c = cross_entropies()
    first, third = (a + b) / 2, c
    q = [0.5 * math.exp(GROUP_DRO_STEP * first), 0.5 * math.exp(GROUP_DRO_STEP * third)]
    expected = (q[0] * first + q[1] * third) / sum(q)
    assert float(objective(LOGITS, Y, group)) == pytest.approx(expected, rel=1e-6)
    assert float(objective(LOGITS, Y, group)) > expected


def test_a_group_loss_without_groups_is_refused() -> None:
    with pytest.raises(InvalidValue, match="needs groups"):
        Objective("group-dro", None, CPU)


def test_groups_are_numbered_by_label_attribute_and_source() -> None:
    y, a, g = torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([True, False])
    assert group_index(y, a, None, 3).tolist() == [2, 4]
    assert group_index(y, a, g, 3).tolist() == [5, 8]


def test_images_without_attribute_cannot_enter_a_group_loss() -> None:
    with pytest.raises(InvalidValue, match="class alone"):
        group_index(torch.tensor([0]), torch.tensor([-1]), None, 3)


def test_an_epoch_of_erm_shows_every_image_at_most_once() -> None:
    batches = list(itertools.islice(Batches(10, 5, None, "erm", seed=3), 4))
    assert sorted(torch.cat(batches[:2]).tolist()) == list(range(10))
    assert sorted(torch.cat(batches[2:]).tolist()) == list(range(10))
    assert torch.cat(batches[:2]).tolist() != torch.cat(batches[2:]).tolist()


def test_batches_depend_on_the_seed_only() -> None:
    def first(seed: int) -> list[int]:
        return next(iter(Batches(50, 8, None, "erm", seed))).tolist()

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_resampling_draws_every_populated_group_equally_often() -> None:
    group = torch.tensor([0] * 95 + [3] * 5)
    drawn = torch.cat(list(itertools.islice(Batches(100, 50, group, "resampling", seed=0), 200)))
    share = float((group[drawn] == 3).double().mean())
    assert share == pytest.approx(0.5, abs=0.02)


def test_an_empty_training_set_is_refused() -> None:
    with pytest.raises(InvalidValue, match="no image"):
        Batches(0, 8, None, "erm", seed=0)
