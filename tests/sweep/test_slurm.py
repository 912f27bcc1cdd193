"""The engine `slurm` on a real SLURM: results, failures of every kind, queueing again, and stopping."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import InvalidValue, NotAvailable
from benchmark.records.results import read_record
from benchmark.sweep.jobs import Job, Outcome
from benchmark.sweep.slurm import SlurmEngine, SlurmOptions
from benchmark.sweep.worker import run_job

cloudpickle = pytest.importorskip("cloudpickle", reason="submitit, which brings cloudpickle, is not installed")
# The functions below travel to the node by value: it cannot import a module of tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Engines = Callable[..., SlurmEngine]
MakeJob = Callable[..., Job]


def _say(job: Job) -> Outcome:
    said = f"seed {job.request.seed} on {job.device}, {job.threads} threads, {os.environ['SLURM_CPUS_PER_TASK']} CPUs"
    return Outcome("success", 0.5, message=f"{said}, array {os.environ.get('SLURM_ARRAY_JOB_ID')}")


def _fail(job: Job) -> Outcome:
    raise ValueError(f"seed {job.request.seed} is not wanted")


def _die(job: Job) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return Outcome("success", 0.0)


def _take_memory(job: Job) -> Outcome:
    content = bytearray(os.urandom(1 << 20)) * 600
    time.sleep(30)
    return Outcome("success", float(len(content)))


def _begin(job: Job) -> int:
    """Leave a mark; returns how often the job has begun."""
    job.results.mkdir(parents=True, exist_ok=True)
    with (job.results / f"begun-{job.request.seed}").open("a") as marks:
        marks.write("x")
    return (job.results / f"begun-{job.request.seed}").stat().st_size


def _slow_at_first(job: Job) -> Outcome:
    tries = _begin(job)
    if tries == 1:
        time.sleep(60)
    return Outcome("success", 0.0, message=f"try {tries}")


def _slow(job: Job) -> Outcome:
    _begin(job)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        time.sleep(6)
    except KeyboardInterrupt:
        return Outcome("cancelled", 0.5, message="interrupted", retryable=True)
    return Outcome("success", 6.0)


@pytest.fixture
def engines(slurm: None, tmp_path: Path) -> Iterator[Engines]:
    """Make engines that are ended after the test."""
    made: list[SlurmEngine] = []

    def make(run: Callable[[Job], Outcome], *, at_once: int = 2, **options: Any) -> SlurmEngine:
        asked = SlurmOptions.model_validate({"memory_gb": 0.25, "time_min": 5} | options)
        made.append(SlurmEngine(tmp_path / "slurm", asked, at_once=at_once, run=run))
        return made[-1]

    yield make
    for engine in made:
        engine.stop(now=True)


def _ended(futures: list[Future[Outcome]]) -> list[Outcome]:
    return [future.result(timeout=120) for future in futures]


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _jobs(state: str = "RUNNING") -> list[str]:
    listing = ["squeue", "--noheader", "--array", f"--states={state}", "--name=genbias", "--format=%i"]
    return subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()


def test_without_submitit_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(NotAvailable, match=r"pip install 'genbias-bench\[slurm\]'"):
        SlurmEngine(tmp_path, SlurmOptions(), at_once=1)


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match=r"no SLURM on this machine \(sbatch is not on the PATH\)"):
        SlurmEngine(tmp_path, SlurmOptions(), at_once=1)


def test_what_keeps_slurm_from_answering_is_told(slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = tmp_path / "slurm.conf"
    configuration.write_text("Nonsense=3\n")
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    with pytest.raises(NotAvailable, match=r"SLURM's controller cannot be reached: sinfo: fatal: Unable to process"):
        SlurmEngine(tmp_path, SlurmOptions(), at_once=1)


@pytest.mark.slow
def test_a_controller_that_does_not_answer_is_not_waited_for_long(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "slurm.conf"
    configuration.write_text("ClusterName=gone\nSlurmctldHost=localhost\nSlurmctldPort=1\n")
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    begun = time.monotonic()
    with pytest.raises(NotAvailable, match=r"SLURM's controller (cannot be reached|did not answer)"):
        SlurmEngine(tmp_path, SlurmOptions(), at_once=1)
    assert time.monotonic() - begun < 25


def test_an_unknown_partition_is_told(engines: Engines) -> None:
    with pytest.raises(InvalidValue, match=r"no partition 'gpu'; use one of main"):
        engines(_say, partition="gpu")


@pytest.mark.slow
def test_jobs_alike_become_one_array_and_leave_no_files(engines: Engines, make_job: MakeJob, tmp_path: Path) -> None:
    engine = engines(_say, partition="main")
    outcomes = _ended(engine.submit([make_job(seed=0), make_job(seed=1, device="auto"), make_job(seed=2, threads=2)]))
    said = [outcome.message.rpartition(" ") for outcome in outcomes]
    assert [message for message, _, _ in said] == [
        "seed 0 on cpu, 1 threads, 1 CPUs, array", "seed 1 on cpu, 1 threads, 1 CPUs, array",
        "seed 2 on cpu, 2 threads, 2 CPUs, array",
    ]  # fmt: skip
    assert said[0][2] == said[1][2] != "None"
    assert said[2][2] == "None"
    assert not [file for file in (tmp_path / "slurm").iterdir() if file.suffix in (".pkl", ".out", ".err")]


@pytest.mark.slow
def test_what_a_job_raises_arrives(engines: Engines, make_job: MakeJob) -> None:
    (outcome,) = _ended(engines(_fail).submit([make_job(seed=3)]))
    assert (outcome.status, outcome.retryable, outcome.exhausted) == ("error", True, False)
    assert outcome.message.startswith("ValueError: seed 3 is not wanted; the log is ")
    assert "Traceback" in Path(outcome.message.rpartition(" ")[2]).read_text()


@pytest.mark.slow
def test_killed_jobs_and_jobs_without_memory_are_errors_that_may_be_tried_again(
    engines: Engines, make_job: MakeJob
) -> None:
    killed, greedy = engines(_die).submit([make_job()]), engines(_take_memory).submit([make_job()])
    for outcome in _ended([*killed, *greedy]):
        assert (outcome.status, outcome.retryable, outcome.exhausted) == ("error", True, True)
        assert "ended as FAILED: its process was killed or crashed; its log is " in outcome.message
    log = Path(outcome.message.rpartition(" ")[2]).read_text()
    assert "exceeded" in log


@pytest.mark.slow
def test_what_cannot_be_had_is_an_error_at_once(engines: Engines, make_job: MakeJob) -> None:
    refused = engines(_say, memory_gb=1_000_000).submit([make_job()])
    endless = engines(_say).submit([make_job(threads=1000)])
    (first, second) = _ended([*refused, *endless])
    assert first.message.startswith("sbatch refused the job: ")
    assert "Requested node configuration is not available" in first.message
    assert (second.status, second.retryable) == ("error", False)
    assert "can never begin (PartitionConfig)" in second.message
    assert not _jobs("PENDING")


@pytest.mark.slow
@pytest.mark.parametrize("again", ["requeue", "preempt"])
def test_a_job_that_is_queued_again_ends_all_the_same(
    engines: Engines, make_job: MakeJob, tmp_path: Path, again: str
) -> None:
    futures = engines(_slow_at_first).submit([make_job(seed=0), make_job(seed=1)])
    _wait_until(lambda: len(list((tmp_path / "results").glob("begun-*"))) == 2)
    for job_id in _jobs():
        # USR2 is what SLURM sends before it takes a node away; submitit then queues the job again.
        command = ["scontrol", "requeue"] if again == "requeue" else ["scancel", "--signal=USR2"]
        subprocess.run([*command, job_id], check=True)
    assert [outcome.message for outcome in _ended(futures)] == ["try 2", "try 2"]


@pytest.mark.slow
def test_a_job_that_somebody_cancels_is_cancelled(engines: Engines, make_job: MakeJob, tmp_path: Path) -> None:
    (future,) = engines(_slow_at_first).submit([make_job()])
    _wait_until((tmp_path / "results" / "begun-0").exists)
    subprocess.run(["scancel", *_jobs()], check=True)
    outcome = future.result(timeout=60)
    assert (outcome.status, outcome.retryable) == ("cancelled", False)
    assert "ended as CANCELLED: it was cancelled" in outcome.message


@pytest.mark.slow
@pytest.mark.parametrize("now", [False, True])
def test_stopping_cancels_what_waits_and_only_now_what_runs(
    engines: Engines, make_job: MakeJob, tmp_path: Path, now: bool
) -> None:
    engine = engines(_slow, at_once=1)
    futures = engine.submit([make_job(seed=seed) for seed in range(3)])
    _wait_until((tmp_path / "results" / "begun-0").exists)
    engine.stop(now=now)
    assert all(future.done() for future in futures)
    assert not _jobs()
    assert [future.result().status for future in futures] == [
        "cancelled" if now else "success",
        "cancelled",
        "cancelled",
    ]
    assert len(list((tmp_path / "results").glob("begun-*"))) == 1


@pytest.mark.slow
def test_a_cell_runs_on_a_node_as_it_runs_here(engines: Engines, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("erm")
    (there,) = _ended(engines(run_job, memory_gb=2).submit([job]))
    here = run_job(dataclasses.replace(job, results=tmp_path / "here", store=tmp_path / "own"))
    assert (there.status, there.message) == ("success", "")
    assert there.folder is not None
    assert here.folder is not None
    stages = [[stage.checkpoints for stage in read_record(folder).stages] for folder in (there.folder, here.folder)]
    assert stages[0] == stages[1]
