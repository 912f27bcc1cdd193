"""The engine `slurm`: jobs as arrays of a SLURM cluster, through submitit."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import logging
import os
import pickle
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmark.errors import InvalidValue, NotAvailable
from benchmark.records.files import make_folder
from benchmark.sweep.cluster import ClusterOptions, Resources, allot, options_from
from benchmark.sweep.jobs import Job, Outcome, OutcomeStatus
from benchmark.sweep.worker import run_job

_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sinfo")
_ANSWER_S = 20
_POLL_S = 2.0
_AT_ONCE = 64
_LARGEST_ARRAY = 1000  # SLURM's own limit (MaxArraySize) unless the site moved it
_RESULT_LAG_S = 10.0  # a result may show up on a network folder after SLURM says that its job has ended
_GONE = "GONE"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _End:
    why: str
    retryable: bool
    exhausted: bool = False


# SLURM's final states where there is no result. A job whose time is up was queued again as often as is allowed.
_ENDS = {
    "COMPLETED": _End("its result did not arrive; the folder must be shared by all nodes", retryable=True),
    "FAILED": _End("its process was killed or crashed", retryable=True, exhausted=True),
    "OUT_OF_MEMORY": _End("it needs more memory than it asked for", retryable=True, exhausted=True),
    "TIMEOUT": _End("it needs more time than it asked for", retryable=False),
    "DEADLINE": _End("it could not end before its deadline", retryable=False),
    "NODE_FAIL": _End("its node failed", retryable=True),
    "BOOT_FAIL": _End("its node did not start", retryable=True),
    "PREEMPTED": _End("others had precedence", retryable=True),
    "CANCELLED": _End("it was cancelled", retryable=False),
    _GONE: _End("SLURM no longer knows it, and it left no result", retryable=True),
}
# Why a job waits that will wait for ever, in clusters that don't refuse it at once (EnforcePartLimits=NO).
_NEVER = {"BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"}


@dataclass(frozen=True)
class _Resumable:
    """What a node calls; submitit asks it what to run when SLURM takes the node away or the time is up."""

    run: Callable[[Job], Outcome]

    def __call__(self, job: Job) -> Outcome:
        return self.run(job)

    def checkpoint(self, job: Job) -> Any:
        """Return the same job: what it had finished is in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


@dataclass(frozen=True)
class _Sent:
    job: Any
    future: Future[Outcome]


class SlurmOptions(ClusterOptions):
    """What is asked of a SLURM cluster for each job; None leaves it to the cluster.

    Attributes:
        gpus: GPUs of a job whose device is ``auto``.
        memory_gb: Memory in GB.
        time_min: Time limit in minutes.
        partition, account, qos, constraint, exclude, reservation: As sbatch has them.
    """

    gpus: int = Field(default=0, ge=0)
    memory_gb: float | None = Field(default=None, gt=0)
    time_min: int = Field(default=240, ge=1)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None

    def for_submitit(self) -> dict[str, Any]:
        """Return them under submitit's names."""
        named = {
            "timeout_min": self.time_min,
            "mem_gb": self.memory_gb,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_exclude": self.exclude,
            "slurm_additional_parameters": {"requeue": True}
            | ({"reservation": self.reservation} if self.reservation else {}),
            # How long before its time is up a job is told to have itself queued again.
            "slurm_signal_delay_s": min(90, 15 * self.time_min),
        }
        return {name: value for name, value in named.items() if value is not None}


def slurm_engine(folder: Path, given: Mapping[str, Any], workers: int | None) -> SlurmEngine:
    """Return the engine for options as the command line gives them; see :class:`SlurmEngine`."""
    return SlurmEngine(folder, options_from(SlurmOptions, "slurm", given), at_once=workers or _AT_ONCE)


class SlurmEngine:
    """Runs jobs on a SLURM cluster; those that are submitted together and need the same become one array.

    A job is queued again when SLURM preempts it, when its node fails, and up to three times when its time is up.

    Args:
        folder: Where submitit keeps jobs, results and logs; every node must see it under this path.
        options: What to ask for.
        at_once: Jobs of an array that run at once.
        run: What a node does with a job.

    Raises:
        NotAvailable: Without submitit, or where no SLURM answers.
        InvalidValue: For a partition that the cluster does not have.
    """

    def __init__(
        self, folder: Path, options: SlurmOptions, *, at_once: int, run: Callable[[Job], Outcome] = run_job
    ) -> None:
        _require_slurm(options.partition)
        self.slots = at_once
        self._folder = make_folder(folder).resolve()
        self._options, self._run = options, run
        self._open: dict[str, _Sent] = {}
        self._final_since: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="slurm-watcher", daemon=True)
        self._watcher.start()

    def submit(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        """Queue jobs.

        Raises:
            InvalidValue: For a device that a cluster cannot give.
        """
        allotted = [allot(job, self._options.cpus, self._options.gpus) for job in jobs]
        futures: list[Future[Outcome]] = [Future() for _ in jobs]
        alike: dict[Resources, list[tuple[Job, Future[Outcome]]]] = {}
        for (resources, job), future in zip(allotted, futures, strict=True):
            future.set_running_or_notify_cancel()  # only `stop` cancels
            alike.setdefault(resources, []).append((job, future))
        for resources, members in alike.items():
            for start in range(0, len(members), _LARGEST_ARRAY):
                self._send(resources, members[start : start + _LARGEST_ARRAY])
        return futures

    def stop(self, *, now: bool) -> None:
        """End: jobs in the queue are cancelled; those that run are waited for, or with ``now`` cancelled too."""
        with self._lock:
            sent = dict(self._open)
        if arrays := sorted({job_id.partition("_")[0] for job_id in sent}):
            only = [] if now else ["--state=PENDING"]
            subprocess.run(["scancel", "--quiet", *only, *arrays], check=False, capture_output=True)
        concurrent.futures.wait([entry.future for entry in sent.values()])
        self._ended.set()
        self._watcher.join()

    def _send(self, resources: Resources, members: Sequence[tuple[Job, Future[Outcome]]]) -> None:
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import clean_env

        executor = AutoExecutor(self._folder, cluster="slurm")
        executor.update_parameters(
            **self._options.for_submitit(),
            name="genbias",
            slurm_array_parallelism=self.slots,
            cpus_per_task=resources.cpus,
            # Since 22.05 srun no longer inherits this from sbatch.
            slurm_srun_args=[f"--cpus-per-task={resources.cpus}"],
            **({"gpus_per_node": int(resources.gpus)} if resources.gpus else {}),
        )
        try:
            with clean_env():  # a sweep may itself run in a job of SLURM
                sent = executor.map_array(_Resumable(self._run), [job for job, _ in members])
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            message = f"sbatch refused the job: {_last_line(str(error))}"
            for _, future in members:
                future.set_result(Outcome("error", 0.0, message=message, retryable=True))
            return
        with self._lock:
            self._open.update({job.job_id: _Sent(job, future) for job, (_, future) in zip(sent, members, strict=True)})

    def _watch(self) -> None:
        answering = True
        while not self._ended.wait(_POLL_S):
            with self._lock:
                sent = dict(self._open)
            if not sent:
                continue
            try:
                states = _states()
            except (OSError, subprocess.SubprocessError) as error:
                if answering:
                    logger.warning("SLURM does not say how its jobs are; they are waited for: %s", error)
                answering = False
                continue
            answering = True
            for job_id, entry in sent.items():
                # Members that were cancelled while they waited are listed as their array alone.
                array = states.get(job_id.partition("_")[0], (_GONE, ""))
                self._settle(entry, *states.get(job_id, array))

    def _settle(self, sent: _Sent, state: str, reason: str) -> None:
        """Resolve the future of a job that has ended, or can never begin."""
        job_id = sent.job.job_id
        if state == "PENDING" and reason in _NEVER:
            sent.job.cancel(check=False)
            message = f"SLURM's job {job_id} can never begin ({reason}): the partition has no such nodes or time limit"
            self._resolve(sent, Outcome("error", 0.0, message=message))
        elif state not in _ENDS:
            # Also after an end: SLURM may queue a job again.
            self._final_since.pop(job_id, None)
        elif sent.job.paths.result_pickle.exists():
            self._resolve(sent, _result(sent.job))
        elif state == "CANCELLED" or self._seconds_final(job_id) > _RESULT_LAG_S:
            self._resolve(sent, _lost(sent.job, state))

    def _resolve(self, sent: _Sent, outcome: Outcome) -> None:
        with self._lock:
            del self._open[sent.job.job_id]
        if outcome.status in ("success", "skipped"):
            _remove_files(sent.job)
        sent.future.set_result(outcome)

    def _seconds_final(self, job_id: str) -> float:
        now = time.monotonic()
        return now - self._final_since.setdefault(job_id, now)


def _require_slurm(partition: str | None) -> None:
    if importlib.util.find_spec("submitit") is None:
        raise NotAvailable("the engine slurm needs submitit; install it with: pip install 'genbias-bench[slurm]'")
    if missing := [command for command in _COMMANDS if shutil.which(command) is None]:
        raise NotAvailable(
            f"there is no SLURM on this machine ({missing[0]} is not on the PATH); run this on a cluster's login node, "
            "or use --engine local"
        )
    try:
        listing = _output("sinfo", "--noheader", "--format=%R", timeout=_ANSWER_S)
    except subprocess.CalledProcessError as error:
        raise NotAvailable(f"SLURM's controller cannot be reached: {_last_line(error.stderr)}") from error
    except subprocess.TimeoutExpired as error:
        raise NotAvailable(f"SLURM's controller did not answer sinfo within {_ANSWER_S} s; try again later") from error
    partitions = sorted(set(listing.split()))
    if partition is not None and partition not in partitions:
        raise InvalidValue(f"SLURM has no partition {partition!r}; use one of {', '.join(partitions)}")


def _states() -> dict[str, tuple[str, str]]:
    """Return state and reason of each of the user's jobs and array members, those of the last minutes included."""
    # Not sacct, which submitit asks: it needs an accounting database, and many small clusters have none.
    listing = _output(
        "squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r", timeout=60
    )
    rows = (line.strip().split("|", 2) for line in listing.splitlines())
    return {job_id: (state, reason) for job_id, state, reason in rows}


def _output(*command: str, timeout: float) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True).stdout


def _result(job: Any) -> Outcome:
    """Read how a job ended; a damaged result, or none that is an outcome, is an error of the job."""
    log = job.paths.stderr
    try:
        # Written by our own job into the user's own folder.
        ended, value = pickle.loads(job.paths.result_pickle.read_bytes())
    except Exception as error:  # anything can come out of damaged bytes
        message = f"the result of SLURM's job {job.job_id} cannot be read ({error}); its log is {log}"
        return Outcome("error", 0.0, message=message, retryable=True)
    if ended == "success" and isinstance(value, Outcome):
        return value
    return Outcome("error", 0.0, message=f"{_last_line(str(value))}; the log is {log}", retryable=True)


def _lost(job: Any, state: str) -> Outcome:
    end = _ENDS[state]
    message = f"SLURM's job {job.job_id} ended as {state}: {end.why}; its log is {job.paths.stderr}"
    status: OutcomeStatus = "cancelled" if state == "CANCELLED" else "error"
    return Outcome(status, 0.0, message=message, retryable=end.retryable, exhausted=end.exhausted)


def _remove_files(job: Any) -> None:
    paths = job.paths
    for file in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr):
        with contextlib.suppress(OSError):
            file.unlink()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it gave no reason"
