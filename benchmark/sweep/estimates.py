"""How long the rest of a plan may take: from past records of the same kind on this hardware, or no estimate."""

from __future__ import annotations

import functools
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmark.records.index import Summary
from benchmark.records.provenance import cpu_name
from benchmark.sweep.needs import Need
from benchmark.sweep.planner import Plan, PlannedCell, most_images
from benchmark.tasks.card import DEFAULT_RECIPE

_MADE = 0.1
"""A run whose time per image is below this share of the slowest found its images in the store."""

_Kind = tuple[str, str, str]
"""Task, method and recipe: cells of one kind cost about the same."""


@dataclass(frozen=True)
class Estimate:
    """What is left of a plan.

    Attributes:
        device_seconds: Summed over the cells that have an estimate, and the images that they share counted once.
        cells: Positions of cells that have one, with their own seconds.
        unknown: Methods on tasks that have none.
        hardware: Whose records were looked at.
    """

    device_seconds: float
    cells: dict[int, float]
    unknown: tuple[str, ...]
    hardware: str


def estimate(plan: Plan, positions: Sequence[int], *, device: str | None = None) -> Estimate:
    """Estimate some cells of a plan and what they share.

    Args:
        plan: The plan; its results folder holds the past.
        positions: The cells that are to run.
        device: Device name as records have it; None is this machine's GPU, or its processor where there is none.
    """
    hardware = device or device_name()
    costs = _costs(record for record in plan.past if record.status == "success" and record.device == hardware)
    known: dict[int, float] = {}
    unknown: set[str] = set()
    for index in positions:
        cell = plan.cells[index]
        cost = costs.get(_kind(cell))
        if cost is None:
            unknown.add(f"{cell.request.method} on {cell.request.task}")
        else:
            # The store may hold its images, or other cells share them.
            known[index] = cost.without_images if any(need.images for need in cell.needs) else cost.whole
    images = _image_seconds(plan, known, costs)
    return Estimate(sum(known.values()) + images, known, tuple(sorted(unknown)), hardware)


@functools.cache
def device_name() -> str:
    """Return the name of the device that `auto` takes, without importing torch."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return cpu_name()
    return done.stdout.partition("\n")[0].strip() or cpu_name()


def _kind(cell: PlannedCell) -> _Kind:
    request = cell.request
    return request.task.partition("@")[0], request.method, request.recipe or DEFAULT_RECIPE


@dataclass(frozen=True)
class _Cost:
    """What cells of a kind took, in seconds: medians of their runs.

    Attributes:
        whole: All of it.
        without_images: Without fine-tuning and sampling.
        image: One image, where a run made its images itself.
    """

    whole: float
    without_images: float
    image: float


def _costs(past: Iterable[Summary]) -> dict[_Kind, _Cost]:
    kinds: dict[_Kind, list[Summary]] = defaultdict(list)
    for record in past:
        if record.wall_seconds is not None:
            kinds[record.task.partition("@")[0], record.method.rpartition("@")[0], record.recipe].append(record)
    costs = {}
    for kind, records in kinds.items():
        walls = [(record.wall_seconds or 0.0, record.generator_seconds or 0.0) for record in records]
        own = max(0.0, median(wall - generator for wall, generator in walls))
        costs[kind] = _Cost(median(wall for wall, _ in walls), own, median(_rates(records) or [0.0]))
    return costs


def _image_seconds(plan: Plan, positions: Iterable[int], costs: Mapping[_Kind, _Cost]) -> float:
    """Return the time of making the images that some cells need, what they share once."""
    users: dict[str, list[tuple[int, Need]]] = defaultdict(list)
    for index in positions:
        for need in plan.cells[index].needs:
            if need.images:
                users[need.key].append((index, need))
    return sum(
        most_images([need for _, need in members]) * costs[_kind(plan.cells[members[0][0]])].image
        for members in users.values()
    )


def _rates(past: Sequence[Summary]) -> list[float]:
    """Return seconds per image of the runs that made their images themselves."""
    made = [(record.generator_seconds, record.sampled) for record in past]
    rates = [seconds / images for seconds, images in made if seconds and images]
    slowest = max(rates, default=0.0)
    return [rate for rate in rates if rate >= _MADE * slowest]
