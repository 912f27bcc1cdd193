"""A reproduction: a sample of the accepted rows is run again by an engine, as many runs at a time as fit, and judged.

It can be killed and called again: what has its `replay.json` is not run again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.progress import Progress, Silent
from benchmark.records.files import write_json, write_text
from benchmark.records.results import run_folder
from benchmark.sweep.jobs import Engine, Job, Outcome
from benchmark.sweep.local import LocalEngine, local_slots
from benchmark.sweep.worker import failed, interruptible
from leaderboard.replay import Where, replay
from leaderboard.replayable import request_of
from leaderboard.replayed import REPLAY_FILE, read_replays
from leaderboard.reproduce.markdown import name_of, render_estimate, render_report
from leaderboard.reproduce.plan import Chosen, Plan, keep_plan, make_plan
from leaderboard.reproduce.report import Key, Report, finished, make_report, run_result
from leaderboard.reproduce.sample import Wanted, candidates
from leaderboard.verification import VERIFICATION_FILE

REPORT_FILE, REPORT_DATA = "report.md", "report.json"
MINUTES = 60.0


@dataclass(frozen=True)
class Settings:
    """What a reproduction makes again, and how.

    Attributes:
        output: Folder of the plan, the runs and the report.
        wanted: Which rows can be chosen.
        minutes: Wall time into which the sample fits by estimate; None takes all rows.
        seed: The fresh seed; None takes a random one.
        store: Folder of pools and adapters; None takes one of its own in ``output``, so that nothing was made before.
        device: ``cpu``, ``cuda`` …
        workers: Runs at a time; None takes one per core as far as memory reaches.
        verification: The file of verification levels; the accepted records lie in ``results`` beside it.
    """

    output: Path = Path("reproduction")
    wanted: Wanted = field(default_factory=Wanted)
    minutes: float | None = MINUTES
    seed: int | None = None
    store: Path | None = None
    device: str = "cpu"
    workers: int | None = None
    verification: Path = VERIFICATION_FILE

    @property
    def runs(self) -> Path:
        """Folder of the runs that are made again."""
        return self.output.absolute() / "runs"

    @property
    def own_store(self) -> Path:
        """Folder of the pools and adapters that they use."""
        return (self.store or self.output / "store").absolute()

    @property
    def where(self) -> Where:
        """Where replays run and with what."""
        return Where(self.runs, self.own_store, self.device, verification=self.verification)


@dataclass(frozen=True)
class ReplayJob(Job):
    """A run that is made again and judged by its row.

    Attributes:
        records: The row's committed records.
        same_seed: Whether the seed is a committed one.
        verification: As in the settings.
        committed_threads: CPU threads of the committed runs.
    """

    records: tuple[Path, ...] = ()
    same_seed: bool = False
    verification: Path = VERIFICATION_FILE
    committed_threads: int = 1


def run_replay(job: Job) -> Outcome:
    """Make a run again, in a worker."""
    assert isinstance(job, ReplayJob)
    start = time.perf_counter()
    where = Where(job.results, job.store, job.device, job.committed_threads, verification=job.verification)
    try:
        with interruptible():
            (found,) = replay(job.records, where, seed=job.request.seed, same_seed=job.same_seed)
    except KeyboardInterrupt:
        return Outcome("cancelled", time.perf_counter() - start, message="interrupted", retryable=True)
    except Exception as error:  # one run's failure is a line of the report
        return failed(error, time.perf_counter() - start)
    task, method = (name.rpartition("@")[0] for name in (found.task, found.method))
    return Outcome("success", time.perf_counter() - start, job.results / run_folder(task, method) / found.run)


def plan_reproduction(settings: Settings) -> Chosen:
    """Choose what is made again; writes nothing.

    Raises:
        UsageError: When there is nothing to choose from, nothing fits, or the seed is a committed one.
        GenBiasError: For a record that is not what it says.
    """
    ordered = candidates(settings.verification.with_name("results"), settings.wanted)
    return make_plan(ordered, settings.wanted, settings.where, minutes=settings.minutes, seed=settings.seed)


def reproduce(settings: Settings, progress: Progress | None = None) -> Report:
    """Make a sample of the accepted rows again: a fresh seed and a committed one each; write and return the report.

    Args:
        settings: What and how.
        progress: Where to show progress.

    Raises:
        UsageError: As :func:`plan_reproduction`, or when the folder holds a reproduction of something else.
        GenBiasError: For a record that is not what it says, or a folder that cannot be written.
    """
    progress, start = progress or Silent(), time.perf_counter()
    chosen = keep_plan(settings.output, plan_reproduction(settings), settings.seed)
    plan = chosen.plan
    before = finished(settings.runs, plan)
    jobs = {key: job for key, job in _jobs(chosen, settings).items() if key not in before}
    workers, failures = 0, {}
    progress.message(render_estimate(plan) + (f"; {len(before)} runs are finished" if before else ""))
    if jobs:
        slots = local_slots(settings.device, workers=settings.workers, threads=max(row.threads for row in plan.rows))
        workers = len(slots)
        failures = run_jobs(jobs, LocalEngine(slots, run_replay), plan, progress)
    report = make_report(
        plan, finished(settings.runs, plan), failures, wall_seconds=time.perf_counter() - start, workers=workers,
        runs_before=len(before),
    )  # fmt: skip
    write_json(settings.output / REPORT_DATA, report.model_dump(mode="json"))
    write_text(settings.output / REPORT_FILE, render_report(report))
    return report


def _jobs(chosen: Chosen, settings: Settings) -> dict[Key, ReplayJob]:
    """Return the runs of the rows that can be made again here, the longest first: so the cores end together."""
    jobs: dict[Key, tuple[float, ReplayJob]] = {}
    for planned, candidate in zip(chosen.plan.rows, chosen.rows, strict=True):
        if planned.not_here is not None:
            continue
        for same_seed, cost in ((True, candidate.repeated), (False, candidate.fresh)):
            seed = planned.seed if same_seed else chosen.plan.fresh_seed
            job = ReplayJob(
                "evaluate",
                request_of(candidate.row, seed),
                results=settings.runs,
                store=settings.own_store,
                records=tuple(scored.run.file for scored in candidate.row.runs),
                same_seed=same_seed,
                verification=settings.verification,
                committed_threads=planned.threads,
            )
            jobs[planned.id, same_seed] = (cost.whole, job)
    return {key: job for key, (_, job) in sorted(jobs.items(), key=lambda item: -item[1][0])}


def run_jobs(jobs: Mapping[Key, Job], engine: Engine, plan: Plan, progress: Progress) -> dict[Key, str]:
    """Run jobs and say of each how it ended; whatever interrupts this ends them too.

    Args:
        jobs: What to run, in this order.
        engine: Where; it is stopped at the end.
        plan: Names the rows, and how wide the intervals are.
        progress: Where to show progress.

    Returns:
        Why some of them failed.
    """
    rows, failures = {row.id: row for row in plan.rows}, {}
    handle = progress.start("reproduction", len(jobs))
    try:
        futures = dict(zip(engine.submit(list(jobs.values())), jobs, strict=True))
        for number, future in enumerate(as_completed(futures), start=1):
            key, outcome = futures[future], future.result()
            if outcome.status != "success":
                failures[key] = outcome.message
            kind = f"seed {jobs[key].request.seed}, {'committed' if key[1] else 'fresh'}"
            said = f"{_said(outcome, plan.confidence)} in {outcome.seconds:.0f} s"
            progress.message(f"[{number}/{len(jobs)}] {name_of(rows[key[0]])}, {kind}: {said}")
            progress.advance(handle, 1)
    except BaseException:
        engine.stop(now=True)
        raise
    engine.stop(now=False)
    progress.finish(handle)
    return failures


def _said(outcome: Outcome, confidence: float) -> str:
    if outcome.folder is None:
        return f"{outcome.status} ({outcome.message})"
    (found,) = read_replays(outcome.folder / REPLAY_FILE)
    return run_result(outcome.folder, found, confidence).said
