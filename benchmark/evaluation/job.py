"""The fitting job: everything that `fit` needs, as plain data, so that it can run in this process or an isolated one.

It holds the training and validation splits, for oracles also unused training images, and nothing of the test split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from benchmark.contract.budget import Budget
from benchmark.contract.images import GroupNames, ImageSet, MethodData
from benchmark.contract.method import Loss
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import DamagedFile
from benchmark.evaluation.cell import ResolvedCell
from benchmark.records.files import read_json, write_json
from benchmark.records.schema import PoolUse
from benchmark.tasks.block import GeneratorDefault, TrainingRecipe
from benchmark.tasks.lazy import Images, LazyImages, blocks, in_memory
from benchmark.tasks.manifest import TRAIN, VALIDATION
from benchmark.training.loop import TrainingConfig
from benchmark.training.specs import backbone_spec

RESERVE = "reserve"
"""Real images that the level and draw left out; only oracles get them."""

IN_MEMORY = 1 << 30
"""Bytes of a split's images up to which they are held in memory, rather than read again whenever they are looked at."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GeneratorJob(_Plain):
    """Which generator to sample, how, with which prompts, and on which attribute values nothing is fine-tuned."""

    location: str
    identity: dict[str, Any]
    sampling: GeneratorDefault
    prompts: dict[str, str]
    negative_prompt: str
    never_fine_tune: tuple[int, ...] = ()


class ClipJob(_Plain):
    """Which CLIP model features and filters may come from."""

    location: str
    identity: dict[str, Any]


class FitJob(_Plain):
    """What `fit` is called with.

    ``hidden`` are folders that hold the test split, kept from an isolated `fit`. With ``shared_only``, `fit` ends where
    it first asks for something of this run alone: only what the store keeps for several runs is made. With ``judge``,
    the last stage is judged on the validation split.
    """

    task: str
    method: str
    hparams: dict[str, Any]
    track: Track
    stages: tuple[str, ...]
    seed: int
    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    budget: Budget
    training: TrainingRecipe
    spec: dict[str, Any]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    generator: GeneratorJob | None
    clip: ClipJob | None = None
    oracle: bool = False
    store: Path
    device: str
    precision: Literal["float32", "bfloat16"]
    threads: int
    offline: bool
    remember: bool
    shared_only: bool = False
    judge: SelectionRule | None = None
    hidden: tuple[Path, ...] = ()

    @property
    def names(self) -> GroupNames:
        """Names of labels and attribute values."""
        return GroupNames(self.labels, self.attributes)


class SavedCheckpoint(_Plain):
    """Weights of one stage under one rule, as a file beside the report."""

    rule: SelectionRule
    step: int
    file: str
    sha256: str


class SavedStage(_Plain):
    """What `fit` left of one stage."""

    name: str
    steps: int
    seconds: float
    remembered: bool
    spec: dict[str, Any]
    own_module: bool
    mixture: list[list[list[int]]] | None
    without_attribute: list[int] | None
    curves: list[dict[str, float | int | None]]
    checkpoints: tuple[SavedCheckpoint, ...]


class FitReport(_Plain):
    """What a finished `fit` left."""

    stages: list[SavedStage]
    pools: list[PoolUse]
    notes: list[str]
    synthetic_kept: int
    sampled: int
    steps_used: int
    generator_seconds: float
    auxiliary_seconds: float
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    network_blocked: bool = False
    data_hidden: bool = False
    judged: float | None = None


def group_key(y: int, a: int | None) -> str:
    """Name a group inside JSON: ``"3-7"``, or ``"3-any"`` for a class alone."""
    return f"{y}-{'any' if a is None else a}"


def make_job(
    cell: ResolvedCell,
    *,
    store: Path,
    device: str,
    precision: Literal["float32", "bfloat16"],
    threads: int,
    remember: bool,
) -> FitJob:
    """Turn a resolved cell into the plain job."""
    task = cell.card.task
    generator = None
    if cell.generator is not None:
        groups = [*cell.budget.groups, *((y, None) for y in range(cell.task.n_classes))]
        generator = GeneratorJob(
            location=cell.generator.location,
            identity=cell.generator.as_record(),
            sampling=cell.sampling,
            prompts={group_key(y, a): cell.card.prompt(y, a) for y, a in groups},
            negative_prompt=task.prompts.negative,
            never_fine_tune=tuple(task.attribute.values.index(value) for value in task.never_fine_tune),
        )
    clip = None
    if cell.clip is not None:
        clip = ClipJob(location=cell.clip.location, identity=cell.clip.as_record())
    return FitJob(
        task=cell.card.id,
        method=cell.request.method,
        hparams=cell.hparams.model_dump(mode="json"),
        track=cell.track,
        stages=cell.method.card.stages_of(cell.hparams),
        seed=cell.request.seed,
        labels=task.label.values,
        attributes=task.attribute.values,
        budget=cell.budget,
        # A named recipe's own fields are for the cell's identity; training needs the common ones.
        training=TrainingRecipe.model_validate(cell.recipe.model_dump(exclude={"image_size"})),
        spec=backbone_spec(cell.recipe.backbone, cell.task.n_classes, cell.recipe.backbone_weights),
        image_size=cell.image_size,
        mean=task.pixels.mean,
        std=task.pixels.std,
        generator=generator,
        clip=clip,
        oracle=cell.method.card.oracle,
        store=store,
        device=device,
        precision=precision,
        threads=threads,
        offline=cell.request.offline,
        remember=remember,
        hidden=tuple(folder for folder in cell.task.data_folders() if not store.resolve().is_relative_to(folder)),
    )


@dataclass(frozen=True)
class Part:
    """Images and labels of one split."""

    images: Images
    y: NDArray[np.int64]
    a: NDArray[np.int64]


def split_parts(cell: ResolvedCell) -> dict[str, Part]:
    """Return images and labels of the training and validation splits; small ones in memory, large ones on disk.

    An oracle also gets what its level and draw left out, as much of each group as its budget could spend.
    """
    wanted = {name: cell.manifest.splits[name] for name in (TRAIN, VALIDATION)}
    if cell.method.card.oracle:
        wanted[RESERVE] = cell.task.reserve(cell.manifest, most=cell.budget.synthetic)
    result: dict[str, Part] = {}
    for name, rows in wanted.items():
        result[name] = Part(in_memory(cell.task.images(rows, cell.image_size), IN_MEMORY), rows.y, rows.a)
    return result


def method_data(job: FitJob, parts: dict[str, Part]) -> MethodData:
    """Wrap the splits with the guards of the job's track."""
    return MethodData(
        real_images(job, parts[TRAIN], Track.TRAIN), real_images(job, parts[VALIDATION], Track.VALIDATION_TRAINS)
    )


def real_images(job: FitJob, part: Part, needs: Track) -> ImageSet:
    """Wrap real images with the guard of the job's track."""
    return ImageSet(
        images=part.images,
        y=part.y.copy(),
        synthetic=np.zeros(len(part.y), dtype=np.bool_),
        names=job.names,
        needs=needs,
        granted=job.track,
        _attributes=part.a.copy(),
    )


def training_config(
    job: FitJob,
    *,
    steps: int,
    seed: int,
    loss: Loss = "erm",
    spec: dict[str, Any] | None = None,
    learning_rate_scale: float = 1.0,
    **options: Any,
) -> TrainingConfig:
    """Return the configuration of a training by the task's recipe.

    Args:
        job: What is being fitted.
        steps: Optimiser steps.
        seed: Of the batches' order.
        loss: Which loss.
        spec: Specification of the network; None is the task's classifier.
        learning_rate_scale: Factor on the recipe's learning rate.
        options: Further fields of the configuration.
    """
    recipe = job.training
    return TrainingConfig(
        spec=job.spec if spec is None else spec,
        steps=steps,
        batch_size=recipe.batch_size,
        optimiser=recipe.optimiser,
        learning_rate=recipe.learning_rate * learning_rate_scale,
        weight_decay=recipe.weight_decay,
        warmup_share=recipe.warmup_share,
        evaluations=max(1, min(steps, round(recipe.evaluations * steps / recipe.steps))),
        loss=loss,
        seed=seed,
        mean=job.mean,
        std=job.std,
        precision=job.precision,
        **{"groups": "y,a", "freeze_bn": False, **options},
    )


def write_job(folder: Path, job: FitJob, parts: dict[str, Part]) -> None:
    """Write a job and its two splits into a folder that an isolated process can be given."""
    write_json(folder / "job.json", job.model_dump(mode="json"))
    for name, part in parts.items():
        write_images(folder / f"{name}-images.npy", part.images)
        np.savez(folder / f"{name}.npz", y=part.y, a=part.a)


def read_job(folder: Path) -> tuple[FitJob, dict[str, Part]]:
    """Read what :func:`write_job` wrote.

    Raises:
        DamagedFile: When a part is missing.
    """
    job = FitJob.model_validate(read_json(folder / "job.json"))
    parts: dict[str, Part] = {}
    for name in (TRAIN, VALIDATION, *([RESERVE] if job.oracle else [])):
        try:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
                parts[name] = Part(
                    in_memory(read_images(folder / f"{name}-images.npy"), IN_MEMORY), file["y"], file["a"]
                )
        except (OSError, KeyError, ValueError) as error:
            raise DamagedFile(f"{folder / name} cannot be read: {error}") from error
    return job, parts


def write_images(path: Path, images: Images) -> None:
    """Write images as an array file, block by block."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=images.shape)
    for start, block in blocks(images):
        array[start : start + len(block)] = block
    array.flush()


def read_images(path: Path) -> LazyImages:
    """Return the images of an array file, read when they are asked for."""
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return LazyImages(len(array), array.shape[1], lambda index: array[index])
