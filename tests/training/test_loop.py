"""The training loop on a handful of real digits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import TrainingDiverged, UndeclaredGroupLabels
from benchmark.tasks.catalog import load_task
from benchmark.training.augment import augmented_copies
from benchmark.training.backbones import build_backbone, fresh_state, state_digest
from benchmark.training.loop import Normaliser, TrainingConfig, predict, train_classifier
from benchmark.training.pixels import Pixels
from benchmark.training.remember import load_outcome, save_outcome, training_key
from benchmark.training.specs import backbone_spec, weights_identity

CPU = torch.device("cpu")
SPEC = backbone_spec("small-cnn", 10)
CONFIG = TrainingConfig(
    spec=SPEC, steps=12, batch_size=16, optimiser="adamw", learning_rate=2e-3, weight_decay=0.01, warmup_share=0.1,
    evaluations=3, loss="erm", groups="y,a", freeze_bn=False, seed=5, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    precision="float32",
)  # fmt: skip


def digits(split: str, n: int, granted: Track = Track.TRAIN) -> ImageSet:
    task = load_task("colorized-digits")
    rows = task.manifest("0.9", 0).splits[split]
    block = task.card.task
    return ImageSet(
        images=task.render(rows)[:n],
        y=rows.y[:n].copy(),
        synthetic=np.zeros(n, dtype=np.bool_),
        names=GroupNames(block.label.values, block.attribute.values),
        needs=Track.TRAIN if split == "train" else Track.VALIDATION_TRAINS,
        granted=granted,
        _attributes=rows.a[:n].copy(),
    )


def run(config: TrainingConfig = CONFIG, images: ImageSet | None = None):  # type: ignore[no-untyped-def]
    return train_classifier(
        config, images or digits("train", 96), digits("validation", 64), fresh_state(SPEC, 0), CPU, lambda n: None
    )


def test_the_same_seed_gives_bit_equal_weights_and_another_gives_others() -> None:
    first, again = run(), run()
    other = run(dataclasses.replace(CONFIG, seed=6))
    digest = state_digest(first.checkpoints[SelectionRule.LAST])
    assert state_digest(again.checkpoints[SelectionRule.LAST]) == digest
    assert state_digest(other.checkpoints[SelectionRule.LAST]) != digest


def test_every_selection_rule_gets_a_checkpoint_from_an_evaluated_step() -> None:
    outcome = run()
    assert set(outcome.checkpoints) == set(SelectionRule)
    assert [row["step"] for row in outcome.curves] == [4, 8, 12]
    assert outcome.steps_at[SelectionRule.LAST] == 12
    losses = {row["step"]: row["validation_loss"] for row in outcome.curves}
    assert losses[outcome.steps_at[SelectionRule.VALIDATION_AVERAGE]] == min(losses.values())
    worst = {row["step"]: row["validation_worst_group_loss"] for row in outcome.curves}
    assert worst[outcome.steps_at[SelectionRule.VALIDATION_WORST_GROUP]] == min(worst.values())


def test_training_learns_the_images_it_is_shown() -> None:
    images = digits("train", 64)
    outcome = run(dataclasses.replace(CONFIG, steps=60), images)
    model = build_backbone(SPEC)
    model.load_state_dict(outcome.checkpoints[SelectionRule.LAST])
    label, top = predict(model, images.images, mean=CONFIG.mean, std=CONFIG.std, device=CPU, precision="float32")
    assert (label == images.y).mean() > 0.9
    assert top.dtype == np.float16
    assert float(top.min()) >= 0.1


def test_initial_weights_are_not_changed() -> None:
    initial = fresh_state(SPEC, 0)
    before = state_digest(initial)
    train_classifier(CONFIG, digits("train", 32), digits("validation", 16), initial, CPU, lambda n: None)
    assert state_digest(initial) == before


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    run()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frozen_batch_statistics_stay_as_they_were() -> None:
    initial = fresh_state(SPEC, 0)
    frozen = run(dataclasses.replace(CONFIG, freeze_bn=True)).checkpoints[SelectionRule.LAST]
    moving = run().checkpoints[SelectionRule.LAST]
    name = "backbone.1.running_mean"
    assert torch.equal(frozen[name], initial[name])
    assert not torch.equal(moving[name], initial[name])


def test_a_group_loss_needs_the_declared_track() -> None:
    config = dataclasses.replace(CONFIG, loss="group-dro")
    with pytest.raises(UndeclaredGroupLabels, match="declares track 'none'"):
        run(config, digits("train", 32, granted=Track.NONE))
    assert run(config).steps_at[SelectionRule.LAST] == 12


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate() -> None:
    with pytest.raises(TrainingDiverged, match=r"at step \d+ \(learning rate"):
        run(dataclasses.replace(CONFIG, learning_rate=1e30, optimiser="sgd"))


def test_normalisation_equals_its_definition() -> None:
    images = digits("train", 4).images
    normalised = Normaliser((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), CPU)(Pixels(images, CPU).batch(torch.arange(len(images))))
    expected = (images / 255.0 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    np.testing.assert_allclose(normalised.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


def test_an_empty_validation_split_leaves_only_the_last_checkpoint() -> None:
    empty = digits("validation", 0)
    outcome = train_classifier(CONFIG, digits("train", 32), empty, fresh_state(SPEC, 0), CPU, lambda n: None)
    assert set(outcome.checkpoints) == {SelectionRule.LAST}
    assert outcome.curves[-1]["validation_loss"] is None


def test_an_outcome_survives_being_stored(tmp_path) -> None:  # type: ignore[no-untyped-def]
    outcome = run()
    save_outcome(tmp_path, outcome, 1.5)
    loaded, seconds = load_outcome(tmp_path)
    assert seconds == 1.5
    assert loaded.steps_at == outcome.steps_at
    assert loaded.curves == outcome.curves
    for rule, state in outcome.checkpoints.items():
        assert state_digest(loaded.checkpoints[rule]) == state_digest(state)


def test_the_training_key_moves_with_everything_that_matters() -> None:
    def key(config: TrainingConfig = CONFIG, **changes: str) -> str:
        parts = {"images": "i", "validation": "v", "initial": "w"} | changes
        return training_key(config, device=CPU, **parts)

    changed = {key(), key(images="j"), key(validation="u"), key(initial="x")}
    changed |= {key(dataclasses.replace(CONFIG, seed=6)), key(dataclasses.replace(CONFIG, steps=13))}
    assert len(changed) == 6


def test_copies_are_near_their_originals_but_not_equal_and_follow_the_seed() -> None:
    images = digits("train", 16).images
    copies = augmented_copies(images, seed=1)
    assert copies.shape == images.shape
    assert copies.dtype == np.uint8
    assert np.array_equal(copies, augmented_copies(images, seed=1))
    assert not np.array_equal(copies, augmented_copies(images, seed=2))
    ink = images.astype(int).sum(axis=(1, 2)), copies.astype(int).sum(axis=(1, 2))
    # The colour (ratio of the channels) is the attribute and must survive.
    for before, after in zip(*ink, strict=True):
        np.testing.assert_allclose(after / after.sum(), before / before.sum(), atol=0.02)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_backbones_map_images_to_logits(name: str) -> None:
    spec = backbone_spec(name, 7)
    model = build_backbone(spec).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    assert weights_identity(spec) == "none"
