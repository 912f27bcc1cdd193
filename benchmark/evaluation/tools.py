"""The tools that the harness lends to a method: budgets kept, every call remembered, everything used written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.contract.budget import Budget, Plan
from benchmark.contract.generation import Filter, FineTuning, OwnGenerator
from benchmark.contract.images import NO_ATTRIBUTE, ImageSet, MethodData
from benchmark.contract.method import GroupsOf, Loss, Trainable, Trained
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import BudgetExceeded, InvalidValue, NotApplicable, OracleUse
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.job import FitJob, group_key, training_config
from benchmark.evaluation.own import OwnSynthesis
from benchmark.evaluation.synthesis import Generated, Synthesis
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed
from benchmark.records.schema import LabelUse, PoolUse
from benchmark.records.store import Store
from benchmark.tasks.lazy import Images
from benchmark.training.augment import augmented_copies
from benchmark.training.backbones import fresh_state, load_backbone, state_digest
from benchmark.training.features import penultimate
from benchmark.training.last_layer import refit, with_last_layer
from benchmark.training.loop import Outcome, TrainingConfig, predict, train_classifier
from benchmark.training.losses import group_index
from benchmark.training.remember import remembered, training_key


class SharedPartsMade(BaseException):
    """Ends a `fit` that is to make no more than what several runs share; no adapter's ``except Exception`` stops it."""


class HarnessTools:
    """What `fit` receives as ``tools``; see :class:`benchmark.contract.method.Tools`.

    Args:
        job: What is being fitted.
        data: Its training and validation splits.
        progress: Where to say how far it is.
        reserve: For oracles: real images that the level and draw left out.
    """

    def __init__(self, job: FitJob, data: MethodData, progress: Progress, reserve: ImageSet | None = None) -> None:
        self._job, self._data, self._progress, self._reserve = job, data, progress, reserve
        self._store = Store(job.store)
        self._device = torch.device(job.device)
        self._auxiliary = Auxiliary(job, data, progress)
        self._calls = 0
        self.steps_used = 0
        self.sampled = 0
        self.kept = 0
        self.generator_seconds = 0.0
        self.pools: list[PoolUse] = []
        self.notes: list[str] = []

    @property
    def budget(self) -> Budget:
        """What may be spent."""
        return self._job.budget

    @property
    def device(self) -> torch.device:
        """The device to compute on."""
        return self._device

    def seed(self, purpose: str) -> int:
        """Return a seed that depends on the run's seed, task, method and purpose."""
        return derive_seed(base=self._job.seed, task=self._job.task, method=self._job.method, purpose=purpose)

    def _own_part(self) -> None:
        """End here where only shared parts are to be made."""
        if self._job.shared_only:
            raise SharedPartsMade

    def note(self, message: str) -> None:
        """Say something to the user and keep it in the record."""
        self.notes.append(message)
        self._progress.message(message)

    # --- images ----------------------------------------------------------------------------------------------------

    def synthesize(
        self,
        data: MethodData,
        *,
        plan: Plan,
        tuning: FineTuning | None = None,
        keep: Filter = "none",
        generation: int = 0,
        labels: Trained | None = None,
    ) -> ImageSet:
        """Return generated images by plan; see :meth:`benchmark.contract.method.Tools.synthesize`."""
        self._check(plan)
        synthesis = Synthesis(self._job, self._auxiliary, self._progress)
        return self._handed_over(synthesis.images(data, plan, tuning, keep, generation), labels)

    def generate(
        self,
        images: ImageSet,
        *,
        plan: Plan,
        model: OwnGenerator,
        keep: Filter = "none",
        generation: int = 0,
        labels: Trained | None = None,
    ) -> ImageSet:
        """Train a generator and return what it makes; see :meth:`benchmark.contract.method.Tools.generate`."""
        self._own_part()
        self._check(plan)
        synthesis = OwnSynthesis(self._job, self._auxiliary, self._progress)
        return self._handed_over(synthesis.images(images, plan, model, keep, generation), labels)

    def _handed_over(self, made: Generated, labels: Trained | None) -> ImageSet:
        """Spend, write down and return generated images, under a classifier's labels if one is given."""
        self._spend(len(made.y), made.sampled)
        self.generator_seconds += made.seconds
        if made.note:
            self.note(made.note)
        images = ImageSet(
            images=made.images,
            y=made.y,
            synthetic=np.ones(len(made.y), dtype=np.bool_),
            names=self._job.names,
            needs=Track.NONE,
            granted=self._job.track,
            _attributes=made.a,
        )
        use = made.use
        if labels is not None and len(images):
            answers = self.predict(labels, images)
            changed = int((answers != images.y).sum())
            use = use.model_copy(update={"labels": LabelUse(source="classifier", y=answers.tolist(), changed=changed)})
            images = images.relabelled(answers)
        if len(images):
            self.pools.append(use)
        return images

    @property
    def auxiliary_seconds(self) -> float:
        """Time of trainings that only clustered or filtered images."""
        return self._auxiliary.seconds

    def copies(self, images: ImageSet, *, plan: Plan) -> ImageSet:
        """Return augmented copies of real images by plan; each image of a group is copied equally often."""
        self._check(plan)
        self._spend(sum(plan.values()), sum(plan.values()))
        chosen: list[int] = []
        for (y, a), n in sorted(plan.items(), key=lambda item: group_key(*item[0])):
            members = (
                np.flatnonzero((images.y == y) & (images.a == a)) if a is not None else np.flatnonzero(images.y == y)
            )
            if n and not len(members):
                raise InvalidValue(f"group ({y}, {a}) has no real image to copy")
            chosen += [int(members[k % len(members)]) for k in range(n)]
        copies = images.take(chosen)
        return _as_generated(copies, augmented_copies(copies.images, self.seed("copies")))

    def reserve(self, *, plan: Plan) -> ImageSet:
        """Return real images by plan that this level and draw left out; see the contract."""
        if self._reserve is None:
            raise OracleUse(
                f"{self._job.method} asks for real images that no method has; declare oracle=True, which never ranks"
            )
        self._check(plan)
        chosen: list[int] = []
        for (y, a), n in sorted(plan.items(), key=lambda item: group_key(*item[0])):
            members = (self._reserve.y == y) & (True if a is None else self._reserve.a == a)
            chosen += np.flatnonzero(members)[:n].tolist()
        self._spend(len(chosen), len(chosen))
        images = self._reserve.take(chosen)
        return _as_generated(images, images.images)

    def _check(self, plan: Plan) -> None:
        self.budget.check(plan)
        n = sum(plan.values())
        if self.kept + n > self.budget.synthetic:
            raise BudgetExceeded(
                f"{self.kept} generated images are in use; {n} more exceed B = {self.budget.synthetic}"
            )

    def _spend(self, kept: int, sampled: int) -> None:
        if self.sampled + sampled > self.budget.sampled:
            raise BudgetExceeded(
                f"{self.sampled} images were sampled; {sampled} more exceed 2B = {self.budget.sampled}"
            )
        self.kept += kept
        self.sampled += sampled

    # --- training --------------------------------------------------------------------------------------------------

    def train(
        self,
        images: ImageSet,
        *,
        init: Trained | None = None,
        loss: Loss = "erm",
        groups: GroupsOf = "y,a",
        share: float | None = None,
        learning_rate_scale: float = 1.0,
        freeze_bn: bool = False,
        trainable: Trainable = "all",
        contrastive: float = 0.0,
    ) -> Trained:
        """Train a classifier; see :meth:`benchmark.contract.method.Tools.train`."""
        self._own_part()
        if len(images) == 0:
            if not self.budget.synthetic:
                raise NotApplicable("no group is smaller than the largest here, so there are no images to generate")
            raise InvalidValue("there is no image to train on")
        steps = self._steps(share)
        self._calls += 1
        config = training_config(
            self._job, steps=steps, seed=self.seed(f"batches of training {self._calls}"), loss=loss, groups=groups,
            learning_rate_scale=learning_rate_scale, freeze_bn=freeze_bn, trainable=trainable, contrastive=contrastive,
        )  # fmt: skip
        initial = (
            init.checkpoints[SelectionRule.LAST] if init else fresh_state(config.spec, self.seed("initial weights"))
        )
        digest = init.digest if init else state_digest(initial)
        handle = self._progress.start(f"training on {len(images):,} images", steps)

        def train() -> Outcome:
            return train_classifier(config, images, self._data.validation, initial, self._device, self._advance(handle))

        try:
            outcome, seconds, known = self._remembered(config, images, digest, train)
        finally:
            self._progress.finish(handle)
        self.steps_used += steps
        return Trained(
            spec=config.spec,
            checkpoints=outcome.checkpoints,
            steps_at=outcome.steps_at,
            digest=state_digest(outcome.checkpoints[SelectionRule.LAST]),
            curves=tuple(outcome.curves),
            steps=steps,
            seconds=seconds,
            remembered=known,
            training_set=images,
        )

    def _remembered(
        self, config: TrainingConfig, images: ImageSet, initial: str, train: Callable[[], Outcome]
    ) -> tuple[Outcome, float, bool]:
        if not self._job.remember:
            start = time.perf_counter()
            return train(), time.perf_counter() - start, False
        key = training_key(
            config, images=images.digest, validation=self._data.validation.digest, initial=initial, device=self._device
        )
        return remembered(self._store, key, train)

    def _steps(self, share: float | None) -> int:
        total = self.budget.steps
        if share is None:
            # Equal parts for every declared stage; the last takes what rounding left.
            stages = len(self._job.stages)
            steps = total - self.steps_used if self._calls >= stages - 1 else total // stages
        elif not 0 < share <= 1:
            raise InvalidValue(f"share {share} of the optimiser steps must lie in (0, 1]")
        else:
            steps = round(total * share)
            if abs(total - self.steps_used - steps) <= 1:
                # Shares that add up to one must spend every step, however they round.
                steps = total - self.steps_used
        if steps < 1 or self.steps_used + steps > total:
            raise BudgetExceeded(f"{steps} more optimiser steps after {self.steps_used} exceed the budget of {total}")
        return steps

    # --- looking at images -----------------------------------------------------------------------------------------

    def refit_last_layer(self, model: Trained, images: ImageSet) -> Trained:
        """Fit the last layer anew on group-balanced subsets; see the contract."""
        if int((images.group_counts > 0).sum(axis=1).max()) < 2:
            raise NotApplicable(
                "no class has validation images in two groups (none conflict with the bias), so balancing groups would "
                "change nothing"
            )
        start = time.perf_counter()
        state = model.checkpoints[SelectionRule.LAST]
        job, names = self._job, images.names
        features = penultimate(
            load_backbone(model.spec, state), images.images, mean=job.mean, std=job.std, device=self._device,
            precision=job.precision,
        )  # fmt: skip
        group = group_index(torch.tensor(images.y), torch.tensor(images.a), None, names.shape[1]).numpy()
        layer = refit(features, images.y, group, n_classes=names.shape[0], seed=self.seed("refit of the last layer"))
        self.note(f"the last layer was fitted on {len(images)} images with C = {layer.c:g}")
        state = with_last_layer(state, layer)
        # The fit itself has chosen: every rule stands for the same weights.
        return Trained(
            spec=model.spec,
            checkpoints=dict.fromkeys(SelectionRule, state),
            steps_at=dict.fromkeys(SelectionRule, 0),
            digest=state_digest(state),
            curves=(),
            steps=0,
            seconds=time.perf_counter() - start,
            remembered=False,
            training_set=images,
        )

    def predict(self, model: Trained, images: ImageSet) -> NDArray[np.int64]:
        """Return the label that a classifier gives each image; see the contract."""
        job = self._job
        network = load_backbone(model.spec, model.checkpoints[SelectionRule.LAST])
        return predict(
            network, images.images, mean=job.mean, std=job.std, device=self._device, precision=job.precision
        )[0]

    def _advance(self, handle: int) -> Callable[[int], None]:
        return lambda n: self._progress.advance(handle, n)


def _as_generated(images: ImageSet, pixels: Images) -> ImageSet:
    """Count images that stand in for generated ones as such: they spend the same budget, and G tells them apart."""
    return replace(images, images=pixels, synthetic=np.ones(len(images), dtype=np.bool_))


def mixture_counts(images: ImageSet, attributes: np.ndarray) -> tuple[list[list[list[int]]], list[int]]:
    """Count a training set by group and source: [classes][attributes][real, synthetic], and by class without one."""
    n_classes, n_attributes = images.names.shape
    table = np.zeros((n_classes, n_attributes, 2), dtype=np.int64)
    known = attributes != NO_ATTRIBUTE
    np.add.at(table, (images.y[known], attributes[known], images.synthetic[known].astype(np.int64)), 1)
    without = np.bincount(images.y[~known], minlength=n_classes)
    return table.tolist(), without.tolist()
