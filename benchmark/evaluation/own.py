"""Images of a generator that is trained on images which the method hands over: from scratch, invertible, bootstrap."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.contract.budget import Plan
from benchmark.contract.generation import OVERSAMPLING, Bootstrap, Filter, FromScratch, Invertible, OwnGenerator
from benchmark.contract.images import ImageSet
from benchmark.errors import InvalidValue
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.job import FitJob
from benchmark.evaluation.synthesis import Generated, pool_use
from benchmark.evaluation.thinning import thin_out
from benchmark.generators.own import OwnModel
from benchmark.generators.pools import Counts, Pool, PoolImages, Sampler
from benchmark.generators.recipe import GroupKey, PoolRecipe, sorted_groups
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed
from benchmark.records.schema import OwnGeneratorUse
from benchmark.records.store import Store
from benchmark.training.device import Precision

_TRANSFER_BATCH = 128


class OwnSynthesis:
    """What ``tools.generate`` does.

    Args:
        job: What is being fitted.
        auxiliary: Models for filters.
        progress: Where to say how far it is.
    """

    def __init__(self, job: FitJob, auxiliary: Auxiliary, progress: Progress) -> None:
        self._job, self._auxiliary, self._progress = job, auxiliary, progress
        self._store, self._device = Store(job.store), torch.device(job.device)

    def images(self, images: ImageSet, plan: Plan, model: OwnGenerator, keep: Filter, generation: int) -> Generated:
        """Return generated images by plan; see :meth:`benchmark.contract.method.Tools.generate`."""
        counts: Counts = {group: plan[group] for group in sorted_groups(plan) if plan[group] > 0}
        self._check(counts, model, keep)
        if not len(images):
            raise InvalidValue(f"{self._job.method} trains a generator on no image")
        start, auxiliary = time.perf_counter(), self._auxiliary.spent
        trained = self._trained(images, model, generation)
        factor = OVERSAMPLING if keep != "none" else 1
        asked = {group: factor * n for group, n in counts.items()}
        recipe = self._recipe(trained, model, generation, asked)
        begun = time.perf_counter()
        drawn = self._sample(recipe, asked, images, model, trained)
        now = time.perf_counter()
        use = pool_use(recipe, drawn, now - begun).model_copy(update={"own": _own_use(trained, model)})
        seconds = now - start - (self._auxiliary.spent - auxiliary)
        kept, note = drawn, ""
        if keep != "none" and counts:
            kept, chosen, note = thin_out(drawn, counts, self._auxiliary, recipe.prompts, keep)
            use = use.model_copy(update={"kept": len(kept.y), "rows_sha256": kept.rows_sha256, "filter": chosen})
        return Generated(kept.images, kept.y, kept.a, len(drawn.y), use, seconds, note)

    def _check(self, counts: Counts, model: OwnGenerator, keep: Filter) -> None:
        if keep == "clip":
            raise InvalidValue(f"{self._job.method}: an own generator has no prompts for CLIP; use the filter `own`")
        free = [group for group in counts if group[1] is None]
        by_class = isinstance(model, FromScratch) and model.condition == "class"
        if (by_class and len(free) < len(counts)) or (free and not by_class and not isinstance(model, Bootstrap)):
            raise InvalidValue(
                f"{self._job.method}: a generator conditioned on {'the class alone' if by_class else 'groups'} cannot "
                f"be asked for {'groups' if by_class else 'classes alone'}"
            )

    # --- training --------------------------------------------------------------------------------------------------

    def _trained(self, images: ImageSet, model: OwnGenerator, generation: int) -> OwnModel:
        job = self._job
        if isinstance(model, Bootstrap):
            return _bootstrap(images)
        seed = derive_seed(base=job.seed, task=job.task, purpose=f"own generator of generation {generation}")
        total = model.steps + (model.autoencoder_steps if isinstance(model, Invertible) else 0)
        handle = self._progress.start(f"training a generator on {len(images):,} images", total)
        common: dict[str, Any] = {"seed": seed, "device": self._device, "progress": self._advance(handle)}
        try:
            if isinstance(model, Invertible):
                from benchmark.generators.invertible import trained_invertible

                factors, sizes = self._factors(images.y, images.a, model)
                return trained_invertible(
                    self._store, np.asarray(images.images), factors, sizes, model, precision="float32", **common
                )
            from benchmark.generators.scratch import trained_scratch

            free = np.full(len(images), -1, dtype=np.int64)
            return trained_scratch(
                self._store, images.images, images.y, free if model.condition == "class" else images.a, model,
                n_classes=len(job.labels), n_attributes=len(job.attributes), precision=job.precision, **common,
            )  # fmt: skip
        finally:
            self._progress.finish(handle)

    def _factors(
        self, y: NDArray[np.int64], a: NDArray[np.int64], model: Invertible
    ) -> tuple[NDArray[np.int64], tuple[int, ...]]:
        """Return the condition of each image, [n, factors], and the number of values of each factor."""
        labels, attributes = len(self._job.labels), len(self._job.attributes)
        if model.condition == "attribute":
            return a[:, None].copy(), (attributes,)
        return np.stack([y, a], axis=1), (labels, attributes)

    # --- sampling --------------------------------------------------------------------------------------------------

    def _recipe(self, trained: OwnModel, model: OwnGenerator, generation: int, counts: Counts) -> PoolRecipe:
        job = self._job
        scratch = isinstance(model, FromScratch)
        precision: Precision = job.precision if scratch else "float32"
        return PoolRecipe(
            task=job.task,
            generator=trained.as_record(),
            prompts=self._moves(counts) if isinstance(model, Invertible) else self._requests,
            negative_prompt="",
            scheduler="DDIMScheduler" if scratch else "native",
            steps=model.sampling_steps if isinstance(model, FromScratch) else 1,
            guidance=model.guidance if isinstance(model, FromScratch) else 0.0,
            image_size=job.image_size,
            batch_size=model.sampling_batch if isinstance(model, FromScratch) else _TRANSFER_BATCH,
            precision=precision,
            device_kind=self._device.type,
            generation=generation,
        )

    @property
    def _requests(self) -> dict[tuple[int, int | None], str]:
        """The request for each group in words, which is what tells requests apart."""
        job = self._job
        words: dict[tuple[int, int | None], str] = {(y, None): label for y, label in enumerate(job.labels)}
        return words | {(y, a): f"{job.labels[y]}, {job.attributes[a]}" for y, a in job.budget.groups}

    def _moves(self, counts: Counts) -> dict[tuple[int, int | None], str]:
        """The request for each group of moved images: which turns it takes among the images of its class.

        What an image is made from depends on all that is asked for at once, so requests for other numbers are
        requests for other images, and no pool holds both.
        """
        from benchmark.generators.transfer import turns

        words = self._requests
        return {
            (group.y, group.a): f"{words[group.y, group.a]}, turns {taken.start} to {taken.stop}"
            for group, taken in turns(counts).items()
        }

    def _sample(
        self, recipe: PoolRecipe, counts: Counts, images: ImageSet, model: OwnGenerator, trained: OwnModel
    ) -> PoolImages:
        pool = Pool(self._store, recipe)
        handle = self._progress.start("generating images", sum(counts.values()))
        try:
            pool.ensure(
                counts,
                lambda: self._sampler(recipe, counts, images, model, trained),
                progress=self._advance(handle),
            )
        finally:
            self._progress.finish(handle)
        return pool.read(counts)

    def _sampler(
        self, recipe: PoolRecipe, counts: Counts, images: ImageSet, model: OwnGenerator, trained: OwnModel
    ) -> Sampler:
        job = self._job
        if isinstance(model, Bootstrap):
            return BootstrapSampler(images, recipe)
        if isinstance(model, Invertible):
            from benchmark.generators.transfer import TransferSampler, transfer_sources

            factors, sizes = self._factors(images.y, images.a, model)
            sources = transfer_sources(images.y, images.a, counts)
            # The last factors of a group are its condition: attribute alone, or label and attribute.
            of_seed = {
                recipe.seed(group, index): (position, (group.y, group.attribute)[-len(sizes) :], sd)
                for (group, index), (position, sd) in sources.items()
            }
            return TransferSampler.load(
                trained, model, sizes, sources=np.asarray(images.images), source_factors=factors, of_seed=of_seed,
                device=self._device, precision="float32",
            )  # fmt: skip
        from benchmark.generators.scratch_sampling import ScratchSampler

        return ScratchSampler.load(
            trained, model, {text: group for group, text in recipe.prompts.items()},
            n_classes=len(job.labels), n_attributes=len(job.attributes), image_size=job.image_size,
            device=self._device, precision=job.precision,
        )  # fmt: skip

    def _advance(self, handle: int) -> Callable[[int], None]:
        return lambda n: self._progress.advance(handle, n)


class BootstrapSampler:
    """Draws images with replacement: a sampler of the perfect generator, under the interface of the others.

    Args:
        images: What to draw from; with a request for a class alone no group label is read.
        recipe: The pool's recipe, which says what its requests mean.
    """

    def __init__(self, images: ImageSet, recipe: PoolRecipe) -> None:
        self._images, self._recipe = images, recipe
        self._groups: dict[str, GroupKey] = {recipe.prompts[group]: group for group in recipe.groups}

    def conditions(self) -> dict[str, Any]:
        """What was loaded, in the words of a recipe; the images are in the generator's hash."""
        return {"generator": _bootstrap(self._images).as_record()}

    def sample(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        height: int,
        width: int,
        batch_size: int,
        resize: str,
        adapters: Sequence[str | None] | None,
    ) -> NDArray[np.uint8]:
        """Draw one image per request and seed."""
        del negative_prompts, steps, guidance, height, width, batch_size, resize, adapters
        chosen = [self._one(self._groups[prompt], seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return np.asarray(self._images.images[np.array(chosen, dtype=np.int64)])

    def _one(self, group: GroupKey, seed: int) -> int:
        members = self._members(group)
        if not len(members):
            raise InvalidValue(f"there is no image of group {group} to draw from")
        return int(members[seed % len(members)])

    def _members(self, group: GroupKey) -> NDArray[np.int64]:
        images = self._images
        return np.flatnonzero((images.y == group.y) & (True if group.a is None else images.a == group.a))


def _bootstrap(images: ImageSet) -> OwnModel:
    """Return the images themselves as a model: they are what identifies it."""
    return OwnModel("bootstrap", None, hashlib.sha256(images.digest.encode()).hexdigest(), len(images), 0.0, ())


def _own_use(trained: OwnModel, model: OwnGenerator) -> OwnGeneratorUse:
    settings: Mapping[str, Any] = asdict(model)
    return OwnGeneratorUse(
        kind=trained.kind,
        settings=dict(settings),
        images=trained.images,
        weights_sha256=trained.sha256,
        seconds=trained.seconds,
        curves=list(trained.curves),
    )
