"""The tools that the harness lends to a method: budgets kept, every call remembered, everything used written down."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmark.contract.budget import Budget, Plan
from benchmark.contract.images import NO_ATTRIBUTE, ImageSet, MethodData
from benchmark.contract.method import GroupsOf, Loss, Trained
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import BudgetExceeded, InvalidValue
from benchmark.evaluation.job import FitJob, GeneratorJob, group_key
from benchmark.generators.identity import GeneratorIdentity
from benchmark.generators.pools import Pool, PoolImages, Sampler
from benchmark.generators.recipe import PoolRecipe
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.records.schema import MetricValue, PoolUse
from benchmark.records.store import Store
from benchmark.training.augment import augmented_copies
from benchmark.training.backbones import fresh_state, state_digest
from benchmark.training.loop import Outcome, TrainingConfig, train_classifier
from benchmark.training.remember import remembered, training_key

_NOT_AUDITED = "no auditor has looked at this pool"


class HarnessTools:
    """What `fit` receives as ``tools``; see :class:`benchmark.contract.method.Tools`.

    Args:
        job: What is being fitted.
        data: Its training and validation splits.
        progress: Where to say how far it is.
    """

    def __init__(self, job: FitJob, data: MethodData, progress: Progress) -> None:
        self._job, self._data, self._progress = job, data, progress
        self._store = Store(job.store)
        self._device = torch.device(job.device)
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

    def note(self, message: str) -> None:
        """Say something to the user and keep it in the record."""
        self.notes.append(message)
        self._progress.message(message)

    # --- images ----------------------------------------------------------------------------------------------------

    def synthesize(self, data: MethodData, *, plan: Plan) -> ImageSet:
        """Return generated images by plan, from the shared pool."""
        if self._job.generator is None:
            raise InvalidValue(f"{self._job.method} asks for generated images but its card has uses_generator=False")
        self._spend(plan)
        counts = {group: n for group, n in plan.items() if n > 0}
        pool = Pool(self._store, pool_recipe(self._job, self._job.generator))
        start = time.perf_counter()
        handle = self._progress.start("generating images", sum(counts.values()))
        try:
            pool.ensure(counts, self._sampler(self._job.generator), progress=self._advance(handle))
        finally:
            self._progress.finish(handle)
        seconds = time.perf_counter() - start
        images = pool.read(counts)
        self.generator_seconds += seconds
        self.pools.append(_pool_use(pool.recipe, images, seconds))
        return ImageSet(
            images=images.images,
            y=images.y,
            synthetic=np.ones(len(images.y), dtype=np.bool_),
            names=data.names,
            needs=Track.NONE,
            granted=self._job.track,
            _attributes=images.a,
        )

    def copies(self, images: ImageSet, *, plan: Plan) -> ImageSet:
        """Return augmented copies of real images by plan; each image of a group is copied equally often."""
        self._spend(plan)
        chosen: list[int] = []
        for (y, a), n in sorted(plan.items(), key=lambda item: group_key(*item[0])):
            members = (
                np.flatnonzero((images.y == y) & (images.a == a)) if a is not None else np.flatnonzero(images.y == y)
            )
            if n and not len(members):
                raise InvalidValue(f"group ({y}, {a}) has no real image to copy")
            chosen += [int(members[k % len(members)]) for k in range(n)]
        copies = images.take(chosen)
        pixels = augmented_copies(copies.images, self.seed("copies"))
        # Copies count as generated in the mixture: they spend the same budget and G tells them from originals.
        return ImageSet(
            images=pixels,
            y=copies.y,
            synthetic=np.ones(len(copies), dtype=np.bool_),
            names=copies.names,
            needs=copies.needs,
            granted=copies.granted,
            _attributes=copies._attributes,
        )

    def _spend(self, plan: Plan) -> None:
        self.budget.check(plan)
        n = sum(plan.values())
        if self.kept + n > self.budget.synthetic:
            raise BudgetExceeded(
                f"{self.kept} generated images are in use; {n} more exceed B = {self.budget.synthetic}"
            )
        self.kept += n
        self.sampled += n

    def _sampler(self, generator: GeneratorJob) -> Callable[[], Sampler]:
        def load() -> Sampler:
            from benchmark.generators.pipelines import TextToImage

            return TextToImage.load(
                GeneratorIdentity(**generator.identity, location=generator.location),
                device=self._job.device,
                precision=self._job.precision,
                scheduler=generator.sampling.scheduler,
                offline=self._job.offline,
            )

        return load

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
    ) -> Trained:
        """Train a classifier; see :meth:`benchmark.contract.method.Tools.train`."""
        if len(images) == 0:
            raise InvalidValue("there is no image to train on")
        steps = self._steps(share)
        self._calls += 1
        config = self._config(steps, loss, groups, learning_rate_scale, freeze_bn)
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
            left = total - self.steps_used
            if self._calls == len(self._job.stages) - 1 and abs(left - steps) <= 1:
                # Shares that add up to one must spend every step, however they round.
                steps = left
        if steps < 1 or self.steps_used + steps > total:
            raise BudgetExceeded(f"{steps} more optimiser steps after {self.steps_used} exceed the budget of {total}")
        return steps

    def _config(
        self, steps: int, loss: Loss, groups: GroupsOf, learning_rate_scale: float, freeze_bn: bool
    ) -> TrainingConfig:
        recipe = self._job.training
        return TrainingConfig(
            spec=self._job.spec,
            steps=steps,
            batch_size=recipe.batch_size,
            optimiser=recipe.optimiser,
            learning_rate=recipe.learning_rate * learning_rate_scale,
            weight_decay=recipe.weight_decay,
            warmup_share=recipe.warmup_share,
            evaluations=max(1, min(steps, round(recipe.evaluations * steps / recipe.steps))),
            loss=loss,
            groups=groups,
            freeze_bn=freeze_bn,
            seed=self.seed(f"batches of training {self._calls}"),
            mean=self._job.mean,
            std=self._job.std,
            precision=self._job.precision,
        )

    def _advance(self, handle: int) -> Callable[[int], None]:
        return lambda n: self._progress.advance(handle, n)


def pool_recipe(job: FitJob, generator: GeneratorJob) -> PoolRecipe:
    """Return the recipe of the pool that a job draws from: everything that changes an image, but no count."""
    prompts: dict[tuple[int, int | None], str] = {}
    for key, prompt in generator.prompts.items():
        y, _, a = key.partition("-")
        prompts[int(y), None if a == "any" else int(a)] = prompt
    return PoolRecipe(
        task=job.task,
        generator=generator.identity,
        prompts=prompts,
        negative_prompt=generator.negative_prompt,
        scheduler=generator.sampling.scheduler,
        steps=generator.sampling.steps,
        guidance=generator.sampling.guidance,
        image_size=job.image_size,
        batch_size=generator.sampling.batch_size,
        precision=job.precision,
        device_kind=torch.device(job.device).type,
    )


def _pool_use(recipe: PoolRecipe, images: PoolImages, seconds: float) -> PoolUse:
    null = MetricValue(value=None, interval="none", reason=_NOT_AUDITED)
    short = {name: value for name, value in recipe.as_record().items() if name != "prompts"}
    return PoolUse(
        pool_id=images.pool_id,
        # The prompts follow from the card; a hundred of them would swell every record.
        recipe={**short, "prompts_sha256": sha256_of(recipe.as_record()["prompts"])},
        ranges={group_key(*group): span for group, span in images.ranges.items()},
        rows_sha256=images.rows_sha256,
        kept=len(images.y),
        sampled=len(images.y),
        seconds=seconds,
        label_fidelity={"y": null, "a": null},
    )


def mixture_counts(images: ImageSet, attributes: np.ndarray) -> tuple[list[list[list[int]]], list[int]]:
    """Count a training set by group and source: [classes][attributes][real, synthetic], and by class without one."""
    n_classes, n_attributes = images.names.shape
    table = np.zeros((n_classes, n_attributes, 2), dtype=np.int64)
    known = attributes != NO_ATTRIBUTE
    np.add.at(table, (images.y[known], attributes[known], images.synthetic[known].astype(np.int64)), 1)
    without = np.bincount(images.y[~known], minlength=n_classes)
    return table.tolist(), without.tolist()
