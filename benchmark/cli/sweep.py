"""`sweep`: run what a grid lacks, on this machine, a SLURM cluster or a Ray cluster."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmark.cli import grid as options
from benchmark.cli.evaluate import parse_assignments
from benchmark.cli.output import Debug, Json, print_json, print_text, say
from benchmark.cli.plan import counted, duration, say_reasons, show_plan
from benchmark.cli.sweep_view import name_of, watcher
from benchmark.errors import InvalidValue

if TYPE_CHECKING:
    from benchmark.sweep.driver import Settings, Stop, Summary
    from benchmark.sweep.jobs import Engine
    from benchmark.sweep.planner import Plan

FAILED, INTERRUPTED = 1, 130
EngineName = Literal["local", "slurm", "ray"]


def sweep(
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    engine: Annotated[
        EngineName, typer.Option("--engine", "-e", help="Where cells run: local, slurm or ray.")
    ] = "local",
    engine_set: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-set",
            metavar="NAME=VALUE",
            help="Of slurm: partition, cpus, gpus, memory_gb, time_min, account, qos, constraint, exclude, "
            "reservation. Of ray: address, cpus, gpus.",
        ),
    ] = None,
    workers: options.Workers = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads of each cell; default: the cores, divided.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda (every GPU), cuda:1 or mps.")] = "auto",
    retries: Annotated[
        int, typer.Option("--retries", help="Further tries of a cell whose failure another try may mend.")
    ] = 1,
    offline: options.Offline = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run every cell of a grid that is not done; run it again to go on where it was.

    What cells share (images, adapters, auditors) is made once, first. A failure is kept as a record and tried again by
    the next sweep. Ctrl-C begins no further cell and lets those that run end; a second Ctrl-C ends them at once.

    For example:

      genbias-bench sweep --method erm --method ffr --bias-level all

      genbias-bench sweep --grid leaderboard/grids/colorized-digits.toml --dry-run

      genbias-bench sweep --grid my.toml --engine slurm --engine-set partition=gpu --engine-set gpus=1
    """
    del debug  # main() reads it
    from benchmark.records.store import default_store
    from benchmark.sweep.driver import Settings, Stop, Sweep
    from benchmark.sweep.planner import make_plan

    options.check_numbers(workers=workers, threads=threads)
    if retries < 0:
        raise InvalidValue(f"{retries} retries make no sense; use 0 or more")
    requests = options.requests_from(
        grid, methods=method, tasks=task, levels=bias_level, seeds=seeds, generators=generator, set_=set_,
        sampling=sampling, recipe=recipe, weights=backbone_weights, clip=clip, tuned=tuned, offline=offline,
    )  # fmt: skip
    place = (store or default_store()).absolute()
    plan = make_plan(requests, results=results_dir, store=place, isolated=isolated, stale=stale)
    if dry_run:
        show_plan(plan, stale=stale, workers=workers or 1, json=json)
        return
    settings = Settings(results_dir.absolute(), place, device, threads, isolated=isolated, retries=retries, stale=stale)
    stop = Stop()
    say_reasons(plan)
    if not plan.to_sweep(stale=stale):
        _report(plan, None, json)
        if plan.counts.get("blocked"):
            raise typer.Exit(FAILED)
        return
    with _heeding_signals(stop), watcher(plan, stale=stale) as view:
        where = _engine(engine, parse_assignments(engine_set or [], "--engine-set", "partition=gpu"), settings, workers)
        summary = Sweep(plan, where, settings, view, stop).run()
    _report(plan, summary, json)
    if stop.asked:
        raise typer.Exit(INTERRUPTED)
    if summary.failed or plan.counts.get("blocked"):
        raise typer.Exit(FAILED)


def _engine(name: EngineName, given: dict[str, Any], settings: Settings, workers: int | None) -> Engine:
    if name == "local":
        from benchmark.sweep.local import LocalEngine, local_slots

        if given:
            raise InvalidValue(f"--engine-set {next(iter(given))} has no use with --engine local")
        return LocalEngine(local_slots(settings.device, workers=workers, threads=settings.threads))
    if name == "slurm":
        from benchmark.sweep.slurm import slurm_engine

        return slurm_engine(settings.results / ".slurm", given, workers)
    from benchmark.sweep.ray_engine import ray_engine

    return ray_engine(given, workers)


@contextlib.contextmanager
def _heeding_signals(stop: Stop) -> Iterator[None]:
    def ask(signum: int, frame: FrameType | None) -> None:
        del frame
        # SIGTERM comes from a scheduler that will not wait.
        stop.asked = 2 if signum == signal.SIGTERM else stop.asked + 1
        say(
            "no further cell begins; those that run end first (Ctrl-C again ends them now)"
            if stop.asked == 1
            else "ending now; what was finished is kept"
        )

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(plan: Plan, summary: Summary | None, json: bool) -> None:
    """Say how a sweep ended."""
    before = plan.counts
    if json:
        print_json(_as_json(plan, summary))
        return
    if summary is None:
        print_text(f"nothing to run: {counted(before)}")
        return
    counts = summary.counts | ({"not begun": len(summary.not_begun)} if summary.not_begun else {})
    ended = counted(counts) or "nothing ended"
    print_text(f"{ended} in {duration(summary.seconds)}; done before: {before.get('done', 0)}")
    for index in summary.failed:
        outcome = summary.outcomes[index]
        say(f"{outcome.status}: {name_of(plan.cells[index])}: {outcome.message}")
    if summary.failed or summary.not_begun:
        say("run the same command again to go on")


def _as_json(plan: Plan, summary: Summary | None) -> dict[str, Any]:
    outcomes = {} if summary is None else summary.outcomes
    return {
        "done_before": plan.counts.get("done", 0),
        "counts": {} if summary is None else summary.counts,
        "seconds": 0.0 if summary is None else summary.seconds,
        "not_begun": [] if summary is None else summary.not_begun,
        "cells": [
            {
                "cell_id": plan.cells[index].cell_id, "status": outcome.status, "seconds": outcome.seconds,
                "tries": 0 if summary is None else summary.tries[index], "reused": outcome.reused,
                "message": outcome.message or None, "folder": None if outcome.folder is None else str(outcome.folder),
            }
            for index, outcome in sorted(outcomes.items())
        ],
    }  # fmt: skip
