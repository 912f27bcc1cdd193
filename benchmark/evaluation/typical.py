"""Which of the audited images their own generator finds typical, where it is a diffusion model and can be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.audits.groups import as_value
from benchmark.audits.report import GroupTypicality, TypicalImage, Typicality
from benchmark.contract.generation import FromScratch
from benchmark.contract.images import NO_ATTRIBUTE
from benchmark.errors import DamagedFile, GeneratorError, NotAvailable, UsageError
from benchmark.evaluation.audited_images import Material, Seen
from benchmark.evaluation.job import FitJob
from benchmark.generators.identity import TINY_SD, GeneratorIdentity, resolve_generator
from benchmark.generators.own import OwnModel
from benchmark.generators.recipe import GroupKey, PoolRecipe
from benchmark.metrics.across_seeds import mean_over_seeds
from benchmark.metrics.data import IntArray, Metric
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed
from benchmark.records.files import read_json
from benchmark.records.schema import OwnGeneratorUse

MOST = 400
"""Images whose typicality is computed: each costs some dozen passes of the generator."""
SHOWN = 4
"""Typical and untypical images of each group, at most."""


@dataclass(frozen=True, eq=False)
class Rated:
    """Images with their typicality.

    Attributes:
        report: What the report says.
        y: Label asked for, int64 [m].
        a: Attribute asked for, int64 [m]; -1 where it was free.
        images: uint8 [m, h, w, 3].
        typicality: float32 [m].
    """

    report: Typicality
    y: IntArray
    a: IntArray
    images: NDArray[np.uint8]
    typicality: NDArray[np.float32]


def rated(material: Material, samples: Sequence[Seen], job: FitJob, progress: Progress) -> tuple[Rated | None, str]:
    """Return the typicality of an evenly spaced part of the images, asked for by group if there are any; or why not.

    Args:
        material: What is audited.
        samples: Its images.
        job: Says where generator, store and device are.
        progress: Where to say how far it is.
    """
    if len(material.pool_ids) > 1:
        return None, "the images come from several generators; audit their pools one by one"
    recipe = material.streams[0].pool.recipe
    seen = next((part for part in samples if part.asked_by == "group"), samples[0])
    part = _Part.of(seen)
    handle = progress.start("typicality of images", len(part.images))
    try:
        typicality = _typicality(part, recipe, material.own, job)
        progress.advance(handle, len(part.images))
    except (GeneratorError, NotAvailable, UsageError, DamagedFile) as reason:
        return None, str(reason)
    finally:
        progress.finish(handle)
    return Rated(_report(part, typicality), part.y, part.a, part.images, typicality), ""


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the images of a sample: their places in it, what they were asked for by, and pixels."""

    places: IntArray
    y: IntArray
    a: IntArray
    index: IntArray
    images: NDArray[np.uint8]

    @classmethod
    def of(cls, seen: Seen) -> _Part:
        held = len(seen.chosen)
        some = np.unique(np.linspace(0, held - 1, min(held, MOST)).round().astype(np.int64))
        places = seen.chosen[some]
        return cls(places, seen.asked_y[places], seen.a[places], seen.index[places], seen.images[some])

    @property
    def groups(self) -> list[GroupKey]:
        """What each image was asked for by."""
        pairs = zip(self.y.tolist(), self.a.tolist(), strict=True)
        return [GroupKey(y, None if a == NO_ATTRIBUTE else a) for y, a in pairs]


def _typicality(part: _Part, recipe: PoolRecipe, own: OwnGeneratorUse | None, job: FitJob) -> NDArray[np.float32]:
    name = recipe.generator["name"]
    if recipe.generator.get("kind"):
        return _of_text_to_image(part, recipe, job)
    if name == "from-scratch":
        return _of_scratch(part, recipe, own, job)
    raise NotAvailable(f"a generator of kind {name!r} has no denoising loss, on which typicality is defined")


def _of_text_to_image(part: _Part, recipe: PoolRecipe, job: FitJob) -> NDArray[np.float32]:
    from benchmark.audits.typicality import TextToImageDenoiser, typicality
    from benchmark.generators.pipelines import TextToImage

    adapters = [recipe.adapter(group, index) for group, index in zip(part.groups, part.index.tolist(), strict=True)]
    names = sorted({adapter for adapter in adapters if adapter is not None})
    generator = TextToImage.load(
        _identity(recipe, job), device=job.device, precision=recipe.precision, offline=job.offline,
        adapters={name: _adapter_file(job.store, name) for name in names},
    )  # fmt: skip
    result = np.zeros(len(part.images), dtype=np.float32)
    for adapter in [None, *names]:
        mine = [k for k, used in enumerate(adapters) if used == adapter]
        if mine:
            prompts = [recipe.prompts[part.groups[k]] for k in mine]
            denoiser = TextToImageDenoiser(generator, adapter)
            result[mine] = typicality(denoiser, part.images[mine], prompts, seed=_seed(recipe), batch=recipe.batch_size)
    return result


def _of_scratch(part: _Part, recipe: PoolRecipe, own: OwnGeneratorUse | None, job: FitJob) -> NDArray[np.float32]:
    from benchmark.audits.typicality import ScratchDenoiser, typicality
    from benchmark.generators.scratch import KIND, TIMES
    from benchmark.generators.scratch_sampling import ScratchSampler

    if own is None:
        raise NotAvailable("a pool does not say how its generator's network is built; a record does, so audit that")
    sha256 = own.weights_sha256
    model = OwnModel(KIND, _model_folder(job.store / KIND, sha256), sha256, own.images, own.seconds, ())
    sampler = ScratchSampler.load(
        model, _from_scratch(own.settings), {}, n_classes=len(job.labels), n_attributes=len(job.attributes),
        image_size=job.image_size, device=torch.device(job.device), precision=job.precision,
    )  # fmt: skip
    return typicality(
        ScratchDenoiser(sampler, TIMES), part.images, part.groups, seed=_seed(recipe), batch=recipe.batch_size
    )


def _from_scratch(settings: Mapping[str, Any]) -> FromScratch:
    return FromScratch(**{**settings, "channels": tuple(settings["channels"])})


def _seed(recipe: PoolRecipe) -> int:
    return derive_seed(pool=recipe.pool_id, purpose="typicality")


# --- finding what made a pool ----------------------------------------------------------------------------------------


def _identity(recipe: PoolRecipe, job: FitJob) -> GeneratorIdentity:
    """Return the text-to-image generator that made a pool, with where to load it from."""
    record: Any = dict(recipe.generator)
    if job.generator is not None and job.generator.identity == record:
        return GeneratorIdentity(**record, location=job.generator.location)
    name = record["name"]
    if record["kind"] == "hub":
        found = resolve_generator(f"{name}@{record['revision']}", offline=job.offline)
    elif name == TINY_SD:
        found = resolve_generator(TINY_SD, offline=True)
    else:
        raise NotAvailable(f"the pool names its generator {name!r}, but not the folder in which it lies")
    if found.as_record() != record:
        raise NotAvailable(f"the generator {name!r} at hand is another than the one that made the pool")
    return found


def _adapter_file(store: Path, sha256: str) -> Path:
    files = (store / "adapters").glob(f"*/{sha256}.safetensors")
    found = next((file for file in files if not file.parent.name.startswith(".")), None)
    if found is None:
        raise NotAvailable(f"the adapter {sha256[:12]} that made some of the images is not in the store")
    return found


def _model_folder(folder: Path, sha256: str) -> Path:
    for file in folder.glob("*/report.json"):
        if not file.parent.name.startswith(".") and read_json(file).get("sha256") == sha256:
            return file.parent
    raise NotAvailable(f"the generator {sha256[:12]} that made the images is not in the store")


# --- saying it -------------------------------------------------------------------------------------------------------


def _report(part: _Part, values: NDArray[np.float32]) -> Typicality:
    from benchmark.audits.typicality import DRAWS

    groups = []
    for y, a in sorted(set(zip(part.y.tolist(), part.a.tolist(), strict=True))):
        members = np.flatnonzero((part.y == y) & (part.a == a))
        most, least = extremes(members, values, SHOWN)
        groups.append(
            GroupTypicality(
                y=y,
                a=None if a == NO_ATTRIBUTE else a,
                mean=as_value(_mean(values[members])),
                most=[_image(part, values, k) for k in most],
                least=[_image(part, values, k) for k in least],
            )
        )
    return Typicality(of="generated", draws=DRAWS, groups=groups)


def extremes(members: IntArray, values: NDArray[np.float32], most: int) -> tuple[IntArray, IntArray]:
    """Return the most typical and the least typical of some images; none is both.

    Args:
        members: Which images.
        values: Typicality of all images.
        most: How many of either, at most.
    """
    order = members[np.argsort(-values[members], kind="stable")]
    half = len(order) // 2
    return order[: min(most, len(order) - half)], order[::-1][: min(most, half)]


def _mean(values: NDArray[np.float32]) -> Metric:
    if len(values) < 2:
        return Metric(float(values.mean()), reason="one image has no spread")
    return mean_over_seeds(values.astype(np.float64))


def _image(part: _Part, values: NDArray[np.float32], k: int) -> TypicalImage:
    return TypicalImage(index=int(part.places[k]), typicality=float(values[k]))
