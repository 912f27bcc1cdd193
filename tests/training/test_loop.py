"""The training loop on a handful of real digits."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import TrainingDiverged, UndeclaredGroupLabels
from benchmark.tasks.catalog import load_task
from benchmark.training.augment import augmented_copies
from benchmark.training.backbones import build_backbone, fresh_state, load_backbone, state_digest
from benchmark.training.features import logits_of
from benchmark.training.loop import Normaliser, TrainingConfig, predict, train_classifier
from benchmark.training.losses import Batches
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
LAST_LAYER = dataclasses.replace(CONFIG, trainable="last-layer")


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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_the_last_layer_leaves_everything_else_bit_equal(precision: str) -> None:
    initial = fresh_state(SPEC, 0)
    outcome = run(dataclasses.replace(LAST_LAYER, precision=precision))
    for state in outcome.checkpoints.values():
        changed = {name for name in initial if not torch.equal(state[name], initial[name])}
        assert changed == {"fc.weight", "fc.bias"}
        assert state.keys() == initial.keys()


def test_the_last_layer_is_trained_as_if_images_went_through_the_frozen_model() -> None:
    images, initial = digits("train", 96), fresh_state(SPEC, 0)
    config = dataclasses.replace(LAST_LAYER, optimiser="sgd", learning_rate=0.5, warmup_share=1.0, steps=3)
    model = load_backbone(SPEC, initial).eval()
    optimiser = torch.optim.SGD(model.fc.parameters(), momentum=0.9, weight_decay=0.01)
    order, y = iter(Batches(96, 16, None, "erm", config.seed)), torch.tensor(images.y)
    normalise = Normaliser(config.mean, config.std, CPU)
    for step in range(3):
        optimiser.param_groups[0]["lr"] = 0.5 * (step + 1) / 3
        index = next(order)
        optimiser.zero_grad()
        functional.cross_entropy(model(normalise(Pixels(images.images, CPU).batch(index))), y[index]).backward()
        optimiser.step()
    trained = run(config, images).checkpoints[SelectionRule.LAST]
    assert not torch.allclose(trained["fc.weight"], initial["fc.weight"], atol=1e-3)
    torch.testing.assert_close(trained["fc.weight"], model.fc.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(trained["fc.bias"], model.fc.bias.detach(), rtol=1e-4, atol=1e-6)


def test_training_the_last_layer_validates_the_whole_model() -> None:
    outcome, validation = run(LAST_LAYER), digits("validation", 64)
    model = load_backbone(SPEC, outcome.checkpoints[SelectionRule.LAST])
    logits = logits_of(model, Pixels(validation.images, CPU), Normaliser(CONFIG.mean, CONFIG.std, CPU), CPU, "float32")
    loss = functional.cross_entropy(logits, torch.tensor(validation.y))
    assert outcome.curves[-1]["validation_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert outcome.curves[-1]["validation_loss"] < outcome.curves[0]["validation_loss"]


def test_training_the_last_layer_takes_every_loss_and_an_empty_validation_split() -> None:
    digests = {state_digest(run(dataclasses.replace(LAST_LAYER, loss=loss)).checkpoints[SelectionRule.LAST])
               for loss in ("erm", "resampling", "reweighting", "group-dro")}  # fmt: skip
    assert len(digests) == 4
    empty, train = digits("validation", 0), digits("train", 32)
    outcome = train_classifier(LAST_LAYER, train, empty, fresh_state(SPEC, 0), CPU, lambda n: None)
    assert set(outcome.checkpoints) == {SelectionRule.LAST}


@pytest.mark.slow
def test_training_the_last_layer_is_much_faster() -> None:
    images, validation, initial = digits("train", 512), digits("validation", 64), fresh_state(SPEC, 0)

    def seconds(config: TrainingConfig) -> float:
        longer = dataclasses.replace(config, steps=200, batch_size=64)
        start = time.perf_counter()
        train_classifier(longer, images, validation, initial, CPU, lambda n: None)
        return time.perf_counter() - start

    assert min(seconds(LAST_LAYER) for _ in range(2)) * 5 < seconds(CONFIG)


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
    changed |= {key(LAST_LAYER), key(dataclasses.replace(CONFIG, contrastive=0.5))}
    assert len(changed) == 8


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
