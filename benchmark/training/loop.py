"""The training loop: uint8 images in memory, normalisation on the device, length in optimiser steps.

One training writes a checkpoint for each selection rule. Deterministic given the seed on one machine and thread count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmark.contract.images import ImageSet, attributes_for_measurement
from benchmark.contract.method import Trainable
from benchmark.contract.tracks import SelectionRule
from benchmark.errors import InvalidValue, TrainingDiverged
from benchmark.tasks.lazy import Images
from benchmark.training.backbones import load_backbone
from benchmark.training.device import Precision
from benchmark.training.features import (
    Features,
    Normaliser,
    Prepare,
    autocast,
    features_of,
    last_layer,
    logits_of,
    with_penultimate,
)
from benchmark.training.graphs import replayed
from benchmark.training.losses import Batches, LossName, Objective, contrastive_loss, group_index
from benchmark.training.pixels import Pixels

__all__ = ["Normaliser", "Outcome", "TrainingConfig", "autocast", "logits_of", "predict", "train_classifier"]

State = dict[str, torch.Tensor]
_CHECK_EVERY = 50


@dataclass(frozen=True)
class TrainingConfig:
    """Everything but images and initial weights that changes what a training gives.

    Attributes:
        spec: Specification of the backbone.
        steps: Optimiser steps.
        evaluations: Validation passes, evenly spaced; the last is at the end.
        seed: Seed of the batches' order.
        mean: Normalisation per channel, for pixels in 0..1.
        std: Normalisation per channel.
        trainable: Which weights move. With ``last-layer`` everything before it stays bit for bit as it was, the
            statistics of batch normalisation included.
        contrastive: Weight of the supervised contrastive loss, which is added to ``loss``.

    Raises:
        InvalidValue: For a weight that is no weight, or one that could move nothing.
    """

    spec: Mapping[str, Any]
    steps: int
    batch_size: int
    optimiser: str
    learning_rate: float
    weight_decay: float
    warmup_share: float
    evaluations: int
    loss: LossName
    groups: str
    freeze_bn: bool
    seed: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Precision
    trainable: Trainable = "all"
    contrastive: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not 0 <= self.contrastive < math.inf:
            raise InvalidValue(f"the weight {self.contrastive} of the contrastive loss must be a number from 0 up")
        if self.contrastive and self.trainable == "last-layer":
            raise InvalidValue(
                f"a contrastive loss (weight {self.contrastive}) moves features, but only the last layer is trained; "
                "train all weights or set its weight to 0"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for identities."""
        return asdict(self)


@dataclass
class Outcome:
    """What a training gives: a state dict per rule, the step of each, and the curves."""

    checkpoints: dict[SelectionRule, State] = field(default_factory=dict)
    steps_at: dict[SelectionRule, int] = field(default_factory=dict)
    curves: list[dict[str, float | int | None]] = field(default_factory=list)


def train_classifier(
    config: TrainingConfig,
    images: ImageSet,
    validation: ImageSet,
    initial: Mapping[str, torch.Tensor],
    device: torch.device,
    progress: Callable[[int], None],
) -> Outcome:
    """Train a backbone from ``initial`` weights and keep a checkpoint per selection rule.

    Args:
        config: Recipe, loss and seed.
        images: What to train on; group losses read its group labels through the guard.
        validation: For the selection rules only.
        initial: State dict to start from; it is not changed.
        device: Where to compute.
        progress: Called with the number of steps done since the last call.

    Raises:
        TrainingDiverged: When the loss is not finite.
    """
    model = load_backbone(config.spec, initial)
    model = model.to(device).to(memory_format=torch.channels_last)
    group = _groups(config, images)
    order = islice(Batches(len(images), config.batch_size, group, config.loss, config.seed), config.steps)
    objective = Objective(config.loss, group, device)
    group = None if group is None else group.to(device)
    y = torch.tensor(images.y, device=device)
    trained = _trained_part(config, model, images, validation, device)
    optimiser, schedule = _optimiser(trained.part, config, device)
    selector = Selector(config, validation, trained, device)
    checks = {math.ceil(config.steps * k / config.evaluations) for k in range(1, config.evaluations + 1)}
    running, since = torch.zeros((), device=device), 0
    part = trained.part
    _training_mode(part, config.freeze_bn)
    for step, (index, batch) in enumerate(trained.training.batches(order), 1):
        prepared = trained.prepare(batch)
        if step == 1 and _replays(config, device):
            part = replayed(part, prepared, config.precision)
        with autocast(device, config.precision):
            logits, features = _forward(part, prepared, config.contrastive)
        loss = objective(logits, y[index], None if group is None else group[index])
        if features is not None:
            loss = loss + config.contrastive * contrastive_loss(features, y[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        running, since = running + loss.detach(), since + 1
        if step in checks or step % _CHECK_EVERY == 0:
            mean_loss = _finite(float(running) / since, step, float(schedule.get_last_lr()[0]))
            if step in checks:
                selector.look(step, mean_loss)
                _training_mode(part, config.freeze_bn)
            running, since = torch.zeros((), device=device), 0
        progress(1)
    return selector.outcome


@dataclass(frozen=True)
class _TrainedPart:
    """The part of a model that is trained and what it sees: all of it and images, or its last layer and features."""

    model: nn.Module
    part: nn.Module
    prepare: Prepare
    training: Pixels | Features
    validation: Pixels | Features


def _trained_part(
    config: TrainingConfig, model: nn.Module, images: ImageSet, validation: ImageSet, device: torch.device
) -> _TrainedPart:
    normalise = Normaliser(config.mean, config.std, device)
    if config.trainable == "all":
        return _TrainedPart(model, model, normalise, Pixels(images.images, device), Pixels(validation.images, device))

    def features(of: ImageSet) -> Features:
        # Nothing before the last layer moves, so its inputs are constants: every image is looked at once.
        return Features(features_of(model, Pixels(of.images, device, limit=0), normalise, device, config.precision))

    return _TrainedPart(model, last_layer(model), nn.Identity(), features(images), features(validation))


def _replays(config: TrainingConfig, device: torch.device) -> bool:
    """Say whether passes are recorded once and replayed; the contrastive loss reads features through a hook."""
    return device.type == "cuda" and config.trainable == "all" and not config.contrastive


def _forward(part: nn.Module, batch: torch.Tensor, contrastive: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return logits, and the penultimate features where the loss wants them."""
    return with_penultimate(part, batch) if contrastive else (part(batch), None)


def _groups(config: TrainingConfig, images: ImageSet) -> torch.Tensor | None:
    if config.loss == "erm":
        return None
    synthetic = torch.tensor(images.synthetic) if config.groups == "y,a,source" else None
    return group_index(torch.tensor(images.y), torch.tensor(images.a), synthetic, images.names.shape[1])


def _finite(loss: float, step: int, learning_rate: float) -> float:
    if not math.isfinite(loss):
        raise TrainingDiverged(f"the loss is {loss} at step {step} (learning rate {learning_rate:.2g}); lower it")
    return loss


def _training_mode(model: nn.Module, freeze_bn: bool) -> None:
    model.train()
    if freeze_bn:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _optimiser(
    part: nn.Module, config: TrainingConfig, device: torch.device
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    fused = device.type in ("cpu", "cuda")
    optimiser: torch.optim.Optimizer
    if config.optimiser == "sgd":
        optimiser = torch.optim.SGD(part.parameters(), momentum=0.9, fused=fused, **options)
    else:
        optimiser = torch.optim.AdamW(part.parameters(), fused=fused, **options)
    warmup = max(1, round(config.steps * config.warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


class Selector:
    """Looks at the validation split during training and keeps the best weights of each selection rule.

    ``val-average`` minimises the mean cross-entropy, ``val-worst-group`` the largest group-mean cross-entropy over
    populated groups: finer than accuracies, which tie on small validation splits. Ties go to the earlier step.
    """

    def __init__(
        self, config: TrainingConfig, validation: ImageSet, trained: _TrainedPart, device: torch.device
    ) -> None:
        self._config, self._trained, self._device = config, trained, device
        self._y = torch.tensor(validation.y, device=device)
        a = torch.tensor(attributes_for_measurement(validation), device=device)
        self._group = self._y * validation.names.shape[1] + a
        self._best: dict[SelectionRule, float] = {}
        self.outcome = Outcome()

    def look(self, step: int, training_loss: float) -> None:
        """Measure on validation and update the checkpoints."""
        row: dict[str, float | int | None] = {"step": step, "training_loss": training_loss}
        scores: dict[SelectionRule, float] = {}
        if len(self._y):
            part, prepare, seen = self._trained.part, self._trained.prepare, self._trained.validation
            logits = logits_of(part, seen, prepare, self._device, self._config.precision)
            each = functional.cross_entropy(logits, self._y, reduction="none").double()
            present = torch.bincount(self._group)
            means = torch.zeros(len(present), dtype=torch.float64, device=self._device)
            means = means.index_add(0, self._group, each)[present > 0] / present[present > 0]
            scores = {
                SelectionRule.VALIDATION_AVERAGE: float(each.mean()),
                SelectionRule.VALIDATION_WORST_GROUP: float(means.max()),
            }
            row["validation_accuracy"] = float((logits.argmax(1) == self._y).double().mean())
        row["validation_loss"] = scores.get(SelectionRule.VALIDATION_AVERAGE)
        row["validation_worst_group_loss"] = scores.get(SelectionRule.VALIDATION_WORST_GROUP)
        self.outcome.curves.append(row)
        state = {name: tensor.detach().cpu().clone() for name, tensor in self._trained.model.state_dict().items()}
        for rule, score in scores.items():
            if score < self._best.get(rule, math.inf):
                self._best[rule] = score
                self.outcome.checkpoints[rule], self.outcome.steps_at[rule] = state, step
        self.outcome.checkpoints[SelectionRule.LAST], self.outcome.steps_at[SelectionRule.LAST] = state, step


def predict(
    model: nn.Module,
    images: Images,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device,
    precision: Precision,
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Return arg-max (taken before any rounding) and top probability of every image.

    Args:
        model: Maps normalised images to logits.
        images: uint8 [n, h, w, 3], in memory or read when asked for.
        mean: Normalisation per channel.
        std: Normalisation per channel.
        device: Where to compute.
        precision: With or without bf16 autocast.
    """
    model.to(device)
    # Nothing stays resident: every image is looked at once.
    pixels = Pixels(images, device, limit=0)
    logits = logits_of(model, pixels, Normaliser(mean, std, device), device, precision)
    top = torch.softmax(logits, dim=1).amax(dim=1)
    return logits.argmax(1).cpu().numpy(), top.cpu().numpy().astype(np.float16)
