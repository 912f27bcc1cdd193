"""Pictures that a person can judge: generated beside real images, accuracy by group, a process over generations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmark.errors import InvalidValue
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import FitJob, FitReport, Part
from benchmark.evaluation.used import used_images
from benchmark.records.generations import PROCESS, Generation, generations_of
from benchmark.records.schema import CheckpointResult, MetricValue, PoolUse, StageResult
from benchmark.records.store import Store
from benchmark.tasks.card import DataCard
from benchmark.tasks.lazy import Images
from benchmark.tasks.manifest import TRAIN

CONTACT_SHEET, GROUP_CHART, TRAJECTORY = "contact_sheet.png", "groups.png", "trajectory.png"
_MANY_GROUPS = 20
_TILE_FEW, _TILE_MANY = 64, 44
_MARGIN, _HEAD, _GROUND, _INK = 72, 34, (24, 24, 24), (235, 235, 235)
_METADATA = {"Software": None}
_BLUE, _ORANGE, _GREY = "#4c72b0", "#dd8452", "#666666"

logger = logging.getLogger(__name__)


def draw_pictures(
    cell: ResolvedCell, job: FitJob, report: FitReport, stage: StageResult, train: Part, folder: Path
) -> dict[str, str]:
    """Draw what fits this run into ``folder`` and return the files by kind."""
    title = f"{cell.request.method} on {cell.card.id}, level {cell.manifest.level}, seed {cell.request.seed}"
    chart(stage.checkpoints[0], cell, title, folder / GROUP_CHART)
    artifacts = {"groups": GROUP_CHART}
    if report.pools:
        groups = cell.budget.groups
        per_group = 1 if len(groups) > _MANY_GROUPS else 8
        images = used_images(Store(job.store), report.pools[0])
        fake = _by_group(images.images, images.y, images.a, per_group)
        real = _by_group(train.images, train.y, train.a, per_group)
        contact_sheet(cell, real, fake, per_group, title, folder / CONTACT_SHEET)
        artifacts["contact_sheet"] = CONTACT_SHEET
    return artifacts


def _by_group(
    images: Images, y: NDArray[np.int64], a: NDArray[np.int64], most: int
) -> dict[tuple[int, int], NDArray[np.uint8]]:
    pairs = sorted(set(zip(y.tolist(), a.tolist(), strict=True)))
    return {(c, v): images[np.flatnonzero((y == c) & (a == v))[:most]] for c, v in pairs}


def contact_sheet(
    cell: ResolvedCell,
    real: dict[tuple[int, int], NDArray[np.uint8]],
    fake: dict[tuple[int, int], NDArray[np.uint8]],
    per_group: int,
    title: str,
    path: Path,
) -> None:
    """Draw real images on the left and generated ones on the right, one row per class (or per group if few)."""
    block = cell.card.task
    labels, attributes = block.label.values, block.attribute.values
    if per_group == 1:
        # Many groups: classes × attributes; images asked for by class alone stand in a column of their own.
        any_attribute = [-1] if any(a < 0 for _, a in fake) else []
        columns = [[*values, *any_attribute] for values in attribute_columns(cell.card)]
        rows = [(labels[y], [(y, a, 0) for a in values]) for y, values in enumerate(columns)]
        shared = all(values == columns[0] for values in columns)
        heads = [attributes[a] if a >= 0 else "any" for a in columns[0]] if shared else [""] * len(columns[0])
        tile = _TILE_MANY
    else:
        keys = sorted(set(real) | set(fake))
        rows = [
            (f"{labels[y]} {attributes[a] if a >= 0 else 'any'}", [(y, a, k) for k in range(per_group)])
            for y, a in keys
        ]
        heads, tile = [""] * per_group, _TILE_FEW
    width = len(heads) * tile
    sheet = Image.new("RGB", (3 * _MARGIN + 2 * width, 2 * _HEAD + len(rows) * tile + 8), _GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 6), title, fill=_INK)
    for side, (name, images) in enumerate((("real training images", real), ("generated images", fake))):
        left = _MARGIN + side * (width + _MARGIN)
        draw.text((left, 20), name, fill=_INK)
        for k, head in enumerate(heads):
            draw.text((left + k * tile + 1, _HEAD + 8), head[: max(1, tile // 6)], fill=_INK)
        for row, (label, cells) in enumerate(rows):
            top = 2 * _HEAD + row * tile
            draw.text((left - _MARGIN + 6, top + tile // 2 - 6), label[:11], fill=_INK)
            for k, (y, a, index) in enumerate(cells):
                pixels = images.get((y, a))
                if pixels is not None and index < len(pixels):
                    picture = Image.fromarray(pixels[index]).resize((tile - 2, tile - 2), Image.Resampling.BILINEAR)
                    sheet.paste(picture, (left + k * tile + 1, top + 1))
    sheet.save(path, optimize=True)


def attribute_columns(card: DataCard) -> list[list[int]]:
    """Return the attribute values of each class that a grid shows: all, or its own family where families are nested.

    A hundred fine classes in twenty superclasses then make five columns and not a hundred, nearly all empty.
    """
    allowed = card.allowed_groups()
    own = [np.flatnonzero(row).tolist() for row in allowed]
    nested = len({len(values) for values in own}) == 1 and bool((allowed.sum(axis=0) == 1).all())
    return own if nested else [list(range(allowed.shape[1]))] * allowed.shape[0]


def chart(checkpoint: CheckpointResult, cell: ResolvedCell, title: str, path: Path) -> None:
    """Draw test accuracy by group: bars with intervals, or a heat map where there are many groups."""
    n, correct = np.array(checkpoint.groups.n), np.array(checkpoint.groups.correct)
    accuracy = np.divide(correct, n, out=np.full(n.shape, np.nan), where=n > 0)
    aligned = list(cell.card.law.aligned)
    figure = Figure(figsize=(7.5, 6.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if int((n > 0).sum()) > _MANY_GROUPS:
        _heat_map(figure, axes, accuracy, cell, aligned)
    else:
        _bars(axes, accuracy, checkpoint, cell, aligned)
    axes.set_title(f"{title}\ntest accuracy by group, rule {checkpoint.rule}", fontsize=10)
    figure.savefig(path, metadata=_METADATA)


def _heat_map(figure: Any, axes: Any, accuracy: NDArray[np.float64], cell: ResolvedCell, aligned: list[int]) -> None:
    block, columns = cell.card.task, attribute_columns(cell.card)
    names, nested = block.attribute.values, columns[0] != list(range(len(block.attribute.values)))
    image = axes.imshow(np.take_along_axis(accuracy, np.array(columns), axis=1), vmin=0, vmax=1, cmap="cividis",
                        aspect="auto" if nested else "equal")  # fmt: skip
    if nested:
        axes.set_xticks([])
    else:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(block.label.values)), block.label.values, fontsize=8)
    axes.set_xlabel(block.attribute.name)
    axes.set_ylabel(block.label.name)
    for y, values in enumerate(columns):
        for column, a in enumerate(values):
            value = accuracy[y, a]
            if np.isnan(value):
                continue
            weight = "bold" if aligned[y] == a else "normal"
            text = f"{names[a]} {100 * value:.0f}" if nested else f"{100 * value:.0f}"
            axes.text(column, y, text, ha="center", va="center", fontsize=7, weight=weight,
                      color="black" if value > 0.55 else "white")  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.8, label="accuracy (bold: bias-aligned)")


def _bars(
    axes: Any, accuracy: NDArray[np.float64], checkpoint: CheckpointResult, cell: ResolvedCell, aligned: list[int]
) -> None:
    block = cell.card.task
    groups = [(y, a) for (y, a), value in np.ndenumerate(accuracy) if not np.isnan(value)]
    for k, (y, a) in enumerate(groups):
        low, high = checkpoint.groups.low[y][a], checkpoint.groups.high[y][a]
        error = None if low is None or high is None else [[accuracy[y, a] - low], [high - accuracy[y, a]]]
        axes.barh(k, accuracy[y, a], xerr=error, color=_BLUE if aligned[y] == a else _ORANGE, capsize=3)
    axes.set_yticks(range(len(groups)), [f"{block.label.values[y]} / {block.attribute.values[a]}" for y, a in groups])
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy with simultaneous 95 % interval (blue: bias-aligned, orange: conflicting)")


def draw_trajectory(
    cell: ResolvedCell, stages: Sequence[StageResult], pools: Sequence[PoolUse], folder: Path
) -> dict[str, str]:
    """Draw a process over its generations into ``folder`` and return the file by kind; nothing for other methods."""
    if cell.method.card.kind != PROCESS:
        return {}
    title = f"{cell.request.method} on {cell.card.id}, level {cell.manifest.level}, seed {cell.request.seed}"
    try:
        generations = generations_of(stages, pools, cell.manifest.counts(TRAIN).tolist())
    except InvalidValue as error:
        # A plug-in's process may have stages of another kind; its run is sound all the same.
        logger.warning("no trajectory is drawn: %s", error)
        return {}
    trajectory(generations, list(cell.card.law.aligned), title, folder / TRAJECTORY)
    return {"trajectory": TRAJECTORY}


def trajectory(generations: Sequence[Generation], aligned: Sequence[int], title: str, path: Path) -> None:
    """Draw accuracies, and the share of conflicting images among those added, by generation, with 95 % intervals.

    Args:
        generations: Of one run.
        aligned: Aligned attribute of each class.
        title: Head of the picture.
        path: The PNG file.
    """
    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, colour in (("acc_conflicting", _ORANGE), ("acc_group_mean", _BLUE)):
        found = [None if each.checkpoint is None else each.checkpoint.metrics.get(name) for each in generations]
        _line(left, found, name, colour)
    shares = [each.conflicting_share(aligned) for each in generations]
    audits = [None if each.pool is None else each.pool.groups for each in generations]
    _line(right, shares, "auditor's, corrected" if any(audits) else "real images, exact", _ORANGE)
    if any(audits):
        raw = [None if audit is None else audit.conflicting_raw.value for audit in audits]
        right.plot(range(len(raw)), _percents(raw), ":", marker=".", color=_GREY, label="auditor's, raw")
    if (real := shares[0].value) is not None:
        right.axhline(100 * real, linestyle="--", linewidth=1, color=_GREY, label="real training data")
    titles = ("accuracy on the test split, %", "conflicting images among those added, %")
    for axes, head in zip((left, right), titles, strict=True):
        axes.set_title(head, fontsize=9, loc="left")
        axes.set_xticks(range(len(generations)))
        axes.set_xlabel("generation (0: real data)")
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata=_METADATA)


def _line(axes: Any, found: Sequence[MetricValue | None], label: str, colour: str) -> None:
    """Draw a metric by generation, with its intervals where it has any."""
    value, low, high = (
        _percents([None if each is None else getattr(each, end) for each in found]) for end in ("value", "low", "high")
    )
    axes.errorbar(
        range(len(value)), value, yerr=np.maximum(np.nan_to_num([value - low, high - value]), 0), label=label,
        color=colour, marker="o", markersize=4, capsize=3,
    )  # fmt: skip


def _percents(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else 100 * value for value in values])
