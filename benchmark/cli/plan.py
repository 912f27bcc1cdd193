"""`plan`: which cells a grid holds, which of them are done, what they share, and what the rest will cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli import grid as options
from benchmark.cli.output import Debug, Json, print_json, print_table, print_text, say

if TYPE_CHECKING:
    from benchmark.sweep.estimates import Estimate
    from benchmark.sweep.planner import Plan

_MOST_REASONS = 10


def plan(
    grid: options.Grid = None,
    method: options.Methods = None,
    task: options.Tasks = None,
    bias_level: options.Levels = None,
    seeds: options.Seeds = None,
    generator: options.Generators = None,
    set_: options.Set = None,
    sampling: options.Sampling = None,
    recipe: options.Recipe = None,
    backbone_weights: options.Weights = None,
    clip: options.Clip = None,
    tuned: options.Tuned = None,
    results_dir: options.Results = Path("results"),
    store: options.StoreFolder = None,
    isolated: options.Isolated = False,
    stale: options.Stale = False,
    workers: options.Workers = None,
    offline: options.Offline = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a grid: its cells and their states, what they share, and what the rest may cost.

    For example:

      genbias-bench plan --method erm --method ffr --bias-level all

      genbias-bench plan --method all --task colorized-digits --seeds 0-2

      genbias-bench plan --grid leaderboard/grids/colorized-digits.toml --method lora
    """
    del debug  # main() reads it
    from benchmark.records.store import default_store
    from benchmark.sweep.planner import make_plan

    options.check_numbers(workers=workers)
    requests = options.requests_from(
        grid, methods=method, tasks=task, levels=bias_level, seeds=seeds, generators=generator, set_=set_,
        sampling=sampling, recipe=recipe, weights=backbone_weights, clip=clip, tuned=tuned, offline=offline,
    )  # fmt: skip
    made = make_plan(requests, results=results_dir, store=store or default_store(), isolated=isolated, stale=stale)
    show_plan(made, stale=stale, workers=workers or 1, json=json)


def show_plan(plan: Plan, *, stale: bool, workers: int, json: bool) -> None:
    """Print a plan."""
    from benchmark.sweep.estimates import estimate

    positions = plan.open(stale=stale)
    expected = estimate(plan, positions)
    if json:
        print_json(_as_json(plan, positions, expected))
        return
    print_table(("task", "bias level", "method", "changed", "seeds", "states"), _rows(plan))
    print_text(f"{_number(len(plan.cells), 'cell')}: {counted(plan.counts)}")
    if plan.pieces:
        print_text()
        print_table(
            ("shared", "images", "cells"),
            [(piece.label, piece.images or "-", len(piece.cells)) for piece in plan.pieces],
            "Made once, before the cells that need them",
        )
    print_text()
    say_reasons(plan)
    for line in estimate_lines(expected, len(positions), workers):
        print_text(line)
    if blocked := plan.counts.get("blocked"):
        print_text(f"{_number(blocked, 'cell')} cannot run here")


def estimate_lines(expected: Estimate, cells: int, workers: int) -> list[str]:
    """Return what to say about the cost of the cells that are to run."""
    if not cells:
        return ["nothing is left to run"]
    if not expected.cells:
        return [f"{_number(cells, 'cell')} to run; no estimate: no record of such cells on {expected.hardware}"]
    text = f"{_number(cells, 'cell')} to run: about {duration(expected.device_seconds / workers)} with "
    text += f"{_number(workers, 'worker')}, "
    text += f"{expected.device_seconds / 3600:.2g} device-hours, from past records on {expected.hardware}"
    if len(expected.cells) == cells:
        return [text]
    return [text, f"no estimate for {cells - len(expected.cells)} of them: {', '.join(expected.unknown)}"]


def duration(seconds: float) -> str:
    """Show a time span."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("s" if n > 1 else "")


def counted(counts: Mapping[Any, int]) -> str:
    """Show numbers of cells by state."""
    return ", ".join(f"{n} {state}" for state, n in counts.items())


def _rows(plan: Plan) -> list[tuple[object, ...]]:
    groups: dict[tuple[str, str, str, str], dict[str, list[int]]] = {}
    for cell in plan.cells:
        request = cell.request
        key = request.task, request.level or "", request.method, cell.changed or "-"
        groups.setdefault(key, {}).setdefault(cell.state, []).append(request.seed)
    return [
        (
            *key,
            sum(map(len, states.values())),
            ", ".join(_state(state, seeds, states) for state, seeds in states.items()),
        )
        for key, states in groups.items()
    ]


def _state(state: str, seeds: list[int], states: dict[str, list[int]]) -> str:
    return state if len(states) == 1 else f"{state} (seed {', '.join(map(str, seeds))})"


def say_reasons(plan: Plan) -> None:
    """Tell why cells are not done that were tried, cannot run or are out of date, and which records cannot be read."""
    for problem in plan.problems:
        say(f"warning: {problem}")
    reasons: dict[str, int] = {}
    for cell in plan.cells:
        if cell.why and cell.state in ("error", "stale", "blocked"):
            text = f"{cell.state}: {cell.request.method} on {cell.request.task}: {cell.why}"
            reasons[text] = reasons.get(text, 0) + 1
    for text, n in list(reasons.items())[:_MOST_REASONS]:
        say(f"{text} ({n} cells)" if n > 1 else text)
    if len(reasons) > _MOST_REASONS:
        say(f"and {len(reasons) - _MOST_REASONS} more reasons; --json shows them all")


def _as_json(plan: Plan, positions: list[int], expected: Estimate) -> dict[str, Any]:
    return {
        "counts": plan.counts,
        "cells": [
            {
                "task": cell.request.task, "level": cell.request.level, "method": cell.request.method,
                "seed": cell.request.seed, "generator": cell.request.generator, "set": dict(cell.request.overrides),
                "sampling": dict(cell.request.sampling), "recipe": cell.request.recipe,
                "backbone_weights": cell.request.backbone_weights, "clip": cell.request.clip,
                "tuned": cell.request.configuration and cell.request.configuration.study,
                "cell_id": cell.cell_id or None, "state": cell.state, "why": cell.why or None,
                "estimated_seconds": expected.cells.get(index),
            }
            for index, cell in enumerate(plan.cells)
        ],
        "shared": [
            {"kind": piece.kind, "label": piece.label, "images": piece.images, "cells": list(piece.cells)}
            for piece in plan.pieces
        ],
        "to_run": positions,
        "estimate": {
            "device_seconds": expected.device_seconds if expected.cells else None, "cells": len(expected.cells),
            "unknown": list(expected.unknown), "hardware": expected.hardware,
        },
        "problems": [str(problem) for problem in plan.problems],
    }  # fmt: skip
