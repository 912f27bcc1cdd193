"""Generated images for a method: fine-tune if asked, sample from the shared pool, filter, and write it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.contract.budget import Budget, Plan
from benchmark.contract.generation import OVERSAMPLING, SMALLEST_GROUP, Filter, FineTuning
from benchmark.contract.images import ImageSet, MethodData
from benchmark.errors import InvalidValue
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.job import FitJob, GeneratorJob, group_key
from benchmark.evaluation.thinning import thin_out
from benchmark.generators.identity import GeneratorIdentity
from benchmark.generators.pools import Counts, Pool, PoolImages
from benchmark.generators.recipe import GroupKey, PoolRecipe, sorted_groups
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.records.schema import AdapterUse, MetricValue, PoolUse, Tuning
from benchmark.records.store import Store
from benchmark.training.device import Precision

if TYPE_CHECKING:
    from pathlib import Path

    from benchmark.generators.pipelines import TextToImage
    from benchmark.generators.tuning import Assignment, Prior, Tuned

_NOT_AUDITED = "no auditor has looked at this pool"


@dataclass(frozen=True)
class Generated:
    """Images that a method gets, what the record says about them, the time of making them, and what to tell."""

    images: NDArray[np.uint8]
    y: NDArray[np.int64]
    a: NDArray[np.int64]
    sampled: int
    use: PoolUse
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class _Adapted:
    """Adapters that a pool is to use."""

    cycles: dict[tuple[int, int | None], tuple[str | None, ...]]
    files: dict[str, Path]
    record: Tuning


class Synthesis:
    """What ``tools.synthesize`` does.

    Args:
        job: What is being fitted.
        auxiliary: Models for clusters and filters.
        progress: Where to say how far it is.
    """

    def __init__(self, job: FitJob, auxiliary: Auxiliary, progress: Progress) -> None:
        self._job, self._auxiliary, self._progress = job, auxiliary, progress
        self._store = Store(job.store)

    def images(
        self, data: MethodData, plan: Plan, tuning: FineTuning | None, keep: Filter, generation: int = 0
    ) -> Generated:
        """Return generated images by plan; see :meth:`benchmark.contract.method.Tools.synthesize`."""
        generator = self._job.generator
        if generator is None:
            raise InvalidValue(f"{self._job.method} asks for generated images but its card has uses_generator=False")
        counts: Counts = {group: plan[group] for group in sorted_groups(plan) if plan[group] > 0}
        start, auxiliary = time.perf_counter(), self._auxiliary.spent
        recipe, adapted = replace(pool_recipe(self._job, generator), generation=generation), None
        if tuning is not None and counts:
            adapted = self._fine_tune(generator, data.train, sorted_groups(counts), tuning)
            recipe = _adapted_recipe(recipe, adapted, tuning)
        factor = OVERSAMPLING if keep != "none" else 1
        begun = time.perf_counter()
        drawn = self._sample(recipe, {group: factor * n for group, n in counts.items()}, adapted)
        now = time.perf_counter()
        # What clusters images has an account of its own.
        seconds = now - start - (self._auxiliary.spent - auxiliary)
        kept, note, use = drawn, "", pool_use(recipe, drawn, now - begun, adapted.record if adapted else None)
        if keep != "none" and counts:
            kept, chosen, note = thin_out(drawn, counts, self._auxiliary, prompts_of(generator), keep)
            use = use.model_copy(update={"kept": len(kept.y), "rows_sha256": kept.rows_sha256, "filter": chosen})
        return Generated(kept.images, kept.y, kept.a, len(drawn.y), use, seconds, note)

    def _sample(self, recipe: PoolRecipe, counts: Counts, adapted: _Adapted | None) -> PoolImages:
        pool = Pool(self._store, recipe)
        handle = self._progress.start("generating images", sum(counts.values()))
        files = adapted.files if adapted else {}
        try:
            load = self._loader(recipe.scheduler, self._job.precision, files)
            pool.ensure(counts, load, progress=self._advance(handle))
        finally:
            self._progress.finish(handle)
        return pool.read(counts)

    def _loader(self, scheduler: str, precision: Precision, files: Mapping[str, Path]) -> Callable[[], TextToImage]:
        job, generator = self._job, self._job.generator
        assert generator is not None

        def load() -> TextToImage:
            from benchmark.generators.pipelines import TextToImage

            return TextToImage.load(
                GeneratorIdentity(**generator.identity, location=generator.location),
                device=job.device,
                precision=precision,
                scheduler=scheduler,
                offline=job.offline,
                adapters=files,
            )

        return load

    # --- fine-tuning -----------------------------------------------------------------------------------------------

    def _fine_tune(
        self, generator: GeneratorJob, train: ImageSet, groups: list[GroupKey], tuning: FineTuning
    ) -> _Adapted:
        from benchmark.generators.clusters import cluster
        from benchmark.generators.tuning import assign, subjects_of, tuned_adapters

        seed = derive_seed(task=self._job.task, purpose="fine-tuning")

        def clusters(positions: NDArray[np.int64]) -> NDArray[np.int64]:
            features = self._auxiliary.features(train.take(positions).images, tuning.features)
            return cluster(features, clusters=tuning.clusters, smallest=SMALLEST_GROUP, seed=seed).labels

        assignment = assign(
            train,
            groups,
            cluster=clusters if tuning.per == "cluster" else None,
            never=frozenset(generator.never_fine_tune),
            by_class=tuning.per == "class",
        )
        prior = self._prior(generator, assignment, tuning)
        prompts = prompts_of(generator)
        subjects = subjects_of(assignment, train, prompts, tuning, prior, _most_draws(tuning))
        # Small networks in bf16 are slower than in float32 on a CPU, and no more exact.
        precision: Precision = self._job.precision if torch.device(self._job.device).type == "cuda" else "float32"
        handle = self._progress.start(f"fine-tuning {len(subjects)} adapters", tuning.steps * len(subjects))
        try:
            tuned = tuned_adapters(
                self._store, subjects, tuning, self._loader(generator.sampling.scheduler, precision, {}),
                generator=generator.identity, seed=seed, device=torch.device(self._job.device), precision=precision,
                progress=self._advance(handle),
            )  # fmt: skip
        finally:
            self._progress.finish(handle)
        return _Adapted(
            {group: tuple(tuned.sha256[name] for name in names) for group, names in assignment.used_by.items()},
            tuned.files,
            _tuning_record(assignment, tuned, tuning, 0 if prior is None else len(prior.y)),
        )

    def _prior(self, generator: GeneratorJob, assignment: Assignment, tuning: FineTuning) -> Prior | None:
        """Return pooled images of the unchanged generator, for prior preservation only: no classifier sees them."""
        from benchmark.generators.tuning import Prior, prior_counts

        if not tuning.prior_weight or not assignment.members:
            return None
        groups = _prior_groups(self._job.budget, tuning, generator.never_fine_tune)
        counts = prior_counts(assignment, groups, tuning.prior_images)
        drawn = self._sample(pool_recipe(self._job, generator), counts, None)
        return Prior(drawn.images, drawn.y, drawn.a)

    def _advance(self, handle: int) -> Callable[[int], None]:
        return lambda n: self._progress.advance(handle, n)


def prompts_of(generator: GeneratorJob) -> dict[tuple[int, int | None], str]:
    """Return the prompt of each group; a is None for a class alone."""
    prompts: dict[tuple[int, int | None], str] = {}
    for key, prompt in generator.prompts.items():
        y, _, a = key.partition("-")
        prompts[int(y), None if a == "any" else int(a)] = prompt
    return prompts


def pool_recipe(job: FitJob, generator: GeneratorJob) -> PoolRecipe:
    """Return the recipe of the base generator's pool: everything that changes an image, but no count."""
    return PoolRecipe(
        task=job.task,
        generator=generator.identity,
        prompts=prompts_of(generator),
        negative_prompt=generator.negative_prompt,
        scheduler=generator.sampling.scheduler,
        steps=generator.sampling.steps,
        guidance=generator.sampling.guidance,
        image_size=job.image_size,
        batch_size=generator.sampling.batch_size,
        precision=job.precision,
        device_kind=torch.device(job.device).type,
    )


def _adapted_recipe(recipe: PoolRecipe, adapted: _Adapted, tuning: FineTuning) -> PoolRecipe:
    """Return the recipe of a fine-tuned generator's pool; only groups that an adapter serves get the rare token."""
    from benchmark.generators.tuning import with_token

    served = {group for group, cycle in adapted.cycles.items() if cycle}
    prompts = {
        group: with_token(prompt, tuning.token) if group in served else prompt
        for group, prompt in recipe.prompts.items()
    }
    return replace(recipe, prompts=prompts, adapters=adapted.cycles)


def _prior_groups(budget: Budget, tuning: FineTuning, never: Collection[int]) -> list[tuple[int, int | None]]:
    """Return what prior images may be asked for by; by class alone they might show what must not be trained on."""
    if tuning.per == "class" and not never:
        return [(y, None) for y in range(budget.n_classes)]
    return [(y, a) for y, a in budget.groups if a not in never]


def _most_draws(tuning: FineTuning) -> int:
    """Return how many images the training of an adapter can look at."""
    return tuning.steps * tuning.batch_size


def _tuning_record(assignment: Assignment, tuned: Tuned, tuning: FineTuning, prior: int) -> Tuning:
    def use(name: str) -> AdapterUse:
        seen = min(len(assignment.members[name]), _most_draws(tuning))
        return AdapterUse(sha256=tuned.sha256[name], name=name, images=seen)

    return Tuning(
        kind=tuning.kind,
        settings=asdict(tuning),
        adapters={group_key(g.y, g.a): [use(name) for name in names] for g, names in assignment.used_by.items()},
        seconds=tuned.seconds,
        prior_images=prior,
    )


def pool_use(recipe: PoolRecipe, images: PoolImages, seconds: float, tuning: Tuning | None = None) -> PoolUse:
    """Return what a record says of images that were sampled and all kept."""
    null = MetricValue(value=None, interval="none", reason=_NOT_AUDITED)
    # Prompts and adapters follow from the card and from `tuning`; a hundred of them would swell every record.
    record = recipe.as_record()
    short = {name: value for name, value in record.items() if name != "prompts"}
    adapters = sha256_of(record["adapter"]) if recipe.adapters else None
    return PoolUse(
        pool_id=images.pool_id,
        recipe={**short, "adapter": adapters, "prompts_sha256": sha256_of(record["prompts"])},
        ranges={group_key(*group): span for group, span in images.ranges.items()},
        rows_sha256=images.rows_sha256,
        kept=len(images.y),
        sampled=len(images.y),
        seconds=seconds,
        label_fidelity={"y": null, "a": null},
        tuning=tuning,
    )
