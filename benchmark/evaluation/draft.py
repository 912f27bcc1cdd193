"""What a record says before anything has run: the task, the split, the method and where it will run."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from benchmark.contract.registry import origin_of, source_digest
from benchmark.evaluation.cell import ResolvedCell
from benchmark.generators.identity import TINY_SD
from benchmark.metrics.registry import METRICS_VERSION
from benchmark.records.results import run_folder
from benchmark.records.schema import (
    SCHEMA_VERSION,
    Environment,
    ExternalData,
    Isolation,
    MethodInfo,
    Record,
    TaskInfo,
)
from benchmark.tasks.card import DEFAULT_RECIPE
from benchmark.tasks.manifest import TEST, TRAIN, VALIDATION
from benchmark.tasks.plugins import plug_in_tasks

_MOST_MISSING = 100
"""Samples that a record names one by one, so that its split can be rebuilt without the data."""


def utc_now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_prefix(cell: ResolvedCell) -> Path:
    """Return the folder of a cell's runs below the results folder."""
    return run_folder(cell.card.task.name, cell.request.method)


def draft_record(cell: ResolvedCell, where: Environment, isolation: Isolation) -> Record:
    """Return the record of a run that has begun."""
    return Record(
        schema_version=SCHEMA_VERSION,
        metrics_version=METRICS_VERSION,
        run_id=cell.cell_id[:12],
        cell_id=cell.cell_id,
        cell=cell.cell,
        kind="trial" if cell.request.is_trial else "run",
        status="started",
        started=utc_now(),
        finished=None,
        seed=cell.request.seed,
        task=_task_info(cell),
        method=_method_info(cell),
        budget=None,
        stages=[],
        pools=[],
        environment=where,
        isolation=isolation,
        cost=None,
        notes=[],
        artifacts={},
    )


def _task_info(cell: ResolvedCell) -> TaskInfo:
    task, manifest, block = cell.task, cell.manifest, cell.card.task
    train = manifest.counts(TRAIN)
    rho = [
        None if not row.sum() else float(row[aligned]) / float(row.sum())
        for row, aligned in zip(train, cell.card.law.aligned, strict=True)
    ]
    plug_in = plug_in_tasks().get(block.name)
    origin = {} if plug_in is None else {"package": plug_in.package, "package_version": plug_in.version}
    return TaskInfo(
        **origin,
        name=block.name,
        version=block.version,
        split_version=block.split_version,
        card_digest=cell.card.digest,
        tier=block.tier,
        bias_kind=block.bias_kind,
        ranking_metric=block.ranking_metric,
        level=manifest.level,
        draw=manifest.draw,
        split_digest=manifest.digest,
        pinned=task.pin_state(manifest),
        labels=list(block.label.values),
        attributes=list(block.attribute.values),
        train_counts=train.tolist(),
        validation_counts=manifest.counts(VALIDATION).tolist(),
        test_rows=len(manifest.splits[TEST]),
        n_train=int(train.sum()),
        smallest_group=int(train[train > 0].min()),
        populated_groups=int((train > 0).sum()),
        realised_rho=rho,
        prepared_sha256={},
        recipe=cell.request.recipe or DEFAULT_RECIPE,
        image_size=cell.image_size,
        resampling_unit=task.resampling_unit,
        missing_samples=missing if len(missing := sorted(task.listing.missing)) <= _MOST_MISSING else None,
    )


def _method_info(cell: ResolvedCell) -> MethodInfo:
    card, origin = cell.method.card, origin_of(cell.request.method)
    resolved = cell.hparams.model_dump(mode="json")
    defaults = card.defaults(cell.card.task.tier).model_dump(mode="json")
    configuration: Literal["default", "changed", "tuned"] = "default" if resolved == defaults else "changed"
    tuned = cell.request.configuration and cell.request.configuration.chosen
    if tuned:
        configuration = "tuned"
    return MethodInfo(
        name=cell.request.method,
        version=card.version,
        origin=origin.kind,
        package=origin.package,
        package_version=origin.version,
        source_digest=source_digest(cell.request.method),
        hparams=resolved,
        hparams_changed={name: value for name, value in resolved.items() if value != defaults[name]},
        kind=card.kind,
        configuration=configuration,
        track=cell.track.value,
        uses_generator=card.generator_for(cell.hparams),
        external_data=[*(ExternalData(**asdict(part)) for part in card.external_data), *_pretrained(cell)],
        oracle=card.oracle,
        **({"tuning": tuned} if tuned else {}),
    )


def _pretrained(cell: ResolvedCell) -> list[ExternalData]:
    """Return the components that were trained elsewhere: the backbone's weights, CLIP and the generator."""
    parts = []
    recipe = cell.recipe
    if recipe.backbone_weights:
        parts.append(
            ExternalData(
                component=f"backbone {recipe.backbone} {recipe.backbone_weights}",
                trained_on="ImageNet (torchvision)",
                may_contain_task_images=None,
            )
        )
    if cell.clip is not None:
        parts.append(
            ExternalData(
                component=f"CLIP {cell.clip.name}",
                trained_on="not known to the harness; see the model's own card",
                may_contain_task_images=None,
            )
        )
    if cell.generator is not None and cell.generator.name == TINY_SD:
        parts.append(
            ExternalData(
                component=TINY_SD,
                trained_on="typeset coloured digits and letters, rendered from fonts",
                may_contain_task_images=False,
            )
        )
    elif cell.generator is not None:
        parts.append(
            ExternalData(
                component=f"generator {cell.generator.name}",
                trained_on="not known to the harness; see the model's own card",
                may_contain_task_images=None,
            )
        )
    return parts
