"""The supervised contrastive loss: against its formula, and in a training on real digits."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import InvalidValue
from benchmark.tasks.catalog import load_task
from benchmark.training.backbones import fresh_state, load_backbone, state_digest
from benchmark.training.features import penultimate
from benchmark.training.loop import TrainingConfig, train_classifier
from benchmark.training.losses import TEMPERATURE, Batches, contrastive_loss
from benchmark.training.specs import backbone_spec

CPU = torch.device("cpu")
SPEC = backbone_spec("small-cnn", 10)
HALF = (0.5, 0.5, 0.5)
CONFIG = TrainingConfig(
    spec=SPEC, steps=12, batch_size=16, optimiser="adamw", learning_rate=2e-3, weight_decay=0.01, warmup_share=0.1,
    evaluations=1, loss="erm", groups="y,a", freeze_bn=False, seed=5, mean=HALF, std=HALF, precision="float32",
    contrastive=1.0,
)  # fmt: skip
PLAIN = dataclasses.replace(CONFIG, contrastive=0.0)


def digits(split: str, chosen: slice | list[int]) -> ImageSet:
    task = load_task("colorized-digits")
    rows = task.manifest("0.9", 0).splits[split]
    block = task.card.task
    images = ImageSet(
        images=task.render(rows),
        y=rows.y.copy(),
        synthetic=np.zeros(len(rows.y), dtype=np.bool_),
        names=GroupNames(block.label.values, block.attribute.values),
        needs=Track.TRAIN,
        granted=Track.TRAIN,
        _attributes=rows.a.copy(),
    )
    return images.take(np.arange(len(images))[chosen])


def run(config: TrainingConfig, images: ImageSet | None = None):  # type: ignore[no-untyped-def]
    shown = images or digits("train", slice(96))
    return train_classifier(config, shown, digits("validation", slice(32)), fresh_state(SPEC, 0), CPU, lambda n: None)


def by_definition(features: torch.Tensor, y: list[int]) -> float:
    """Khosla 2020, equation 2, averaged over the images that have a positive."""
    z = functional.normalize(features.double()).numpy()
    similarity = z @ z.T / TEMPERATURE
    terms = []
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        alike = [j for j in others if y[j] == y[i]]
        if alike:
            log_sum = np.log(sum(np.exp(similarity[i, j]) for j in others))
            terms.append(-np.mean([similarity[i, j] - log_sum for j in alike]))
    return float(np.mean(terms))


def test_the_loss_equals_its_definition_and_skips_images_without_a_positive() -> None:
    features, y = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), [0, 1, 0, 2, 1, 0, 3]
    loss = contrastive_loss(features, torch.tensor(y))
    assert float(loss) == pytest.approx(by_definition(features, y), rel=1e-5)
    # Only directions matter.
    lengths = torch.arange(1.0, 8)[:, None]
    assert float(contrastive_loss(features * lengths, torch.tensor(y))) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("y", [[0, 1, 2, 3], [1, 1, 1, 1], [2, 2, 2, 2]])
def test_a_batch_with_nothing_to_contrast_has_no_loss_and_no_gradient(y: list[int]) -> None:
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = contrastive_loss(features, torch.tensor(y))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(4, 5))


def test_training_adds_the_weighted_loss_of_the_same_forward_pass() -> None:
    config = dataclasses.replace(CONFIG, steps=1, contrastive=0.25)
    images = digits("train", slice(96))
    index = next(islice(Batches(96, 16, None, "erm", config.seed), 1))
    shown = torch.from_numpy((images.images[index.numpy()] / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    y = torch.from_numpy(images.y[index.numpy()])
    model = load_backbone(SPEC, fresh_state(SPEC, 0)).train()
    with torch.no_grad():
        features = model.backbone(shown)
        expected = float(functional.cross_entropy(model.fc(features), y)) + 0.25 * by_definition(features, y.tolist())
    assert run(config).curves[0]["training_loss"] == pytest.approx(expected, rel=1e-4)


def test_images_of_a_class_come_to_lie_nearer_than_by_cross_entropy_alone() -> None:
    images = digits("train", slice(96))

    def apart(config: TrainingConfig) -> float:
        model = load_backbone(SPEC, run(dataclasses.replace(config, steps=30)).checkpoints[SelectionRule.LAST])
        seen = penultimate(model, images.images, mean=HALF, std=HALF, device=CPU, precision="float32")
        return by_definition(torch.from_numpy(seen), images.y.tolist())

    assert apart(CONFIG) < apart(PLAIN) - 0.1


def test_without_two_images_of_a_label_training_is_bit_equal_to_the_plain_one() -> None:
    every = digits("train", slice(None))
    one_each = every.take([int(np.flatnonzero(every.y == label)[0]) for label in range(10)])
    pair = [run(config, one_each).checkpoints[SelectionRule.LAST] for config in (CONFIG, PLAIN)]
    assert state_digest(pair[0]) == state_digest(pair[1])


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "resampling"},
        {"loss": "reweighting"},
        {"loss": "group-dro"},
        {"freeze_bn": True},
        {"precision": "bfloat16"},
    ],
)
def test_it_adds_to_every_loss_and_goes_with_every_option(change: dict[str, object]) -> None:
    with_it, without = (run(dataclasses.replace(config, steps=2, **change)) for config in (CONFIG, PLAIN))
    assert with_it.curves[0]["training_loss"] > without.curves[0]["training_loss"] + 1
    digests = {state_digest(outcome.checkpoints[SelectionRule.LAST]) for outcome in (with_it, without)}
    assert len(digests) == 2


def test_it_is_deterministic_and_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first, again = (state_digest(run(CONFIG).checkpoints[SelectionRule.LAST]) for _ in range(2))
    assert first == again
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(InvalidValue, match="must be a number from 0 up"):
        dataclasses.replace(CONFIG, contrastive=weight)


def test_features_that_do_not_move_cannot_be_contrasted() -> None:
    with pytest.raises(InvalidValue, match="only the last layer is trained"):
        dataclasses.replace(CONFIG, trainable="last-layer")
