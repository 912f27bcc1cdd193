"""The engine `ray`: jobs as tasks of a Ray cluster that runs, or of one that is started here for a sweep."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from pydantic import Field

from benchmark.errors import InvalidValue, NotAvailable
from benchmark.sweep.cluster import ClusterOptions, Resources, allot, options_from
from benchmark.sweep.jobs import Job, Outcome
from benchmark.sweep.worker import failed, run_job

_JOBS_PER_PROCESS = 50  # then a fresh one, so that what libraries leak does not add up
_CONNECT_S = 10
_ATTEMPTS = 3
_ANSWER_S = 60  # a busy machine needs more than twenty for the client of `ray://`
_GRACE_S = 10.0

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_OWN = {
    # Despite its name it works on Linux too: Ray's processes listen on the loopback address alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray gives its workers the lowest priority but a few (15), so that anything else on the machine starves them.
    "RAY_worker_niceness": "0",
}
_ATTACH = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"

logger = logging.getLogger(__name__)


class RayOptions(ClusterOptions):
    """What is asked of Ray.

    Attributes:
        address: ``auto``, ``host:port`` or ``ray://host:port`` of a cluster; None starts one on this machine, which
            ends with the engine.
        gpus: GPUs of a job whose device is ``auto``; with a fraction several share one.
    """

    address: str | None = None
    gpus: float = Field(default=0, ge=0)


def ray_engine(given: Mapping[str, Any], workers: int | None) -> RayEngine:
    """Return the engine for options as the command line gives them; see :class:`RayEngine`."""
    return RayEngine(options_from(RayOptions, "ray", given), workers=workers)


class RayEngine:
    """Runs jobs on a Ray cluster, in worker processes that stay for several jobs.

    Ray starts as many jobs as it has CPUs and GPUs for, and retries none: that is for the sweep to decide.

    Args:
        options: What to ask for.
        workers: Jobs at once on a cluster that is started here; None takes as many as it has CPUs for.
        run: What a worker does with a job.

    Raises:
        NotAvailable: Without Ray, or where no cluster answers.
        InvalidValue: For ``workers`` of a cluster that runs already.
    """

    def __init__(
        self, options: RayOptions, *, workers: int | None = None, run: Callable[[Job], Outcome] = run_job
    ) -> None:
        if workers is not None and options.address is not None:
            raise InvalidValue("a Ray cluster decides itself how many jobs run at once; leave out workers, or address")
        self._options, self._run = options, run
        self._ray = ray = _connect(options.address, None if workers is None else workers * options.cpus)
        self.slots = max(1, sum(_fits(node, Resources(options.cpus, options.gpus)) for node in ray.nodes()))
        self._started = ray.remote(num_cpus=0)(_Started).remote()
        # On a GPU one: a process stays on its first GPU, and Ray may give its next job another.
        self._on_cpu = ray.remote(max_retries=0, max_calls=_JOBS_PER_PROCESS)(_work)
        self._on_gpu = ray.remote(max_retries=0, max_calls=1)(_work)
        self._numbers = itertools.count()
        self._open: dict[int, tuple[Any, Future[Outcome]]] = {}
        self._lock = threading.Lock()
        self._connected = True
        self._ending = threading.Lock()

    def submit(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        """Queue jobs.

        Raises:
            InvalidValue: For a device that a cluster cannot give.
        """
        allotted = [allot(job, self._options.cpus, self._options.gpus) for job in jobs]
        misfits = self._misfits({resources for resources, _ in allotted})
        return [self._start(resources, job, misfits.get(resources)) for resources, job in allotted]

    def stop(self, *, now: bool) -> None:
        """End: jobs that wait are cancelled; those that run are waited for, or with ``now`` interrupted."""
        with self._lock:
            pending = dict(self._open)
        futures = [future for _, future in pending.values()]
        with self._ending:
            if self._connected:
                self._cancel(pending, now)
        concurrent.futures.wait(futures)
        with self._ending:
            if self._connected:
                self._connected = False
                self._ray.shutdown()

    def _cancel(self, pending: Mapping[int, tuple[Any, Future[Outcome]]], now: bool) -> None:
        begun = set() if now else self._ray.get(self._started.numbers.remote())
        for number, (task, _) in pending.items():
            if number not in begun:
                self._ray.cancel(task)
        if now:
            concurrent.futures.wait([future for _, future in pending.values()], timeout=_GRACE_S)
            for task, future in pending.values():
                if not future.done():
                    self._ray.cancel(task, force=True)

    def _misfits(self, wanted: set[Resources]) -> dict[Resources, str]:
        """Say which resources no node has; a cluster that runs elsewhere may still get such a node, ours will not."""
        nodes = self._ray.nodes()
        messages = {
            resources: f"no node of the Ray cluster has {resources.cpus} CPUs and {resources.gpus:g} GPUs"
            for resources in wanted
            if not any(_fits(node, resources) for node in nodes)
        }
        if self._options.address is None:
            return messages
        for message in messages.values():
            logger.warning("%s; the jobs wait until one joins", message)
        return {}

    def _start(self, resources: Resources, job: Job, misfit: str | None) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()  # only `stop` cancels
        if misfit is not None:
            future.set_result(Outcome("error", 0.0, message=f"{misfit}; ask for less"))
            return future
        number = next(self._numbers)
        work = self._on_gpu if resources.gpus else self._on_cpu
        task = work.options(num_cpus=resources.cpus, num_gpus=resources.gpus).remote(
            self._run, job, self._started, number
        )
        with self._lock:
            self._open[number] = (task, future)
        task.future().add_done_callback(lambda ended: self._settle(number, ended))
        return future

    def _settle(self, number: int, ended: Future[Outcome]) -> None:
        with self._lock:
            _, future = self._open.pop(number)
        error = ended.exception()
        future.set_result(ended.result() if error is None else _lost(error))


class _Started:
    """An actor that knows which jobs have begun: Ray does not tell."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def add(self, number: int) -> None:
        self._numbers.add(number)

    def numbers(self) -> set[int]:
        return self._numbers


def _work(run: Callable[[Job], Outcome], job: Job, started: Any, number: int) -> Outcome:
    # Not waited for: Ray would start another job on the CPUs of one that waits.
    started.add.remote(number)
    return run(job)


def _connect(address: str | None, num_cpus: int | None) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise NotAvailable("the engine ray needs Ray; install it with: pip install 'genbias-bench[ray]'")
    os.environ.update(_QUIET if address is not None else _QUIET | _OWN)
    if address is not None:
        _require_answer(address)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    else:
        # The workers of a cluster of our own inherit this; here they were started with another environment.
        variables = {name: value for name, value in os.environ.items() if name.startswith("GENBIAS_")}
        if "PYTHONPATH" in os.environ:
            variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
        ray.init(address=address, runtime_env={"env_vars": variables}, **quiet)
    return ray


def _require_answer(address: str) -> None:
    """Attach in a process first: Ray waits minutes for a cluster that does not answer, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise NotAvailable(
            f"nothing answers at {address!r} ({error}); start a Ray cluster with `ray start --head`, or leave out the "
            "address to start one here"
        ) from error
    try:
        _attach(address)
    except subprocess.TimeoutExpired as error:
        raise NotAvailable(
            f"no Ray cluster answers at {address!r} (waited {_ANSWER_S} s); start one with `ray start --head`, or "
            "leave out the address to start one here"
        ) from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()
        raise NotAvailable(
            f"the Ray cluster at {address!r} cannot be used: {reason[-1] if reason else 'Ray gave no reason'}"
        ) from error


def _attach(address: str) -> None:
    """Attach in a process of its own; again where the cluster's server for the client did not start.

    Raises:
        subprocess.SubprocessError: When that does not work.
    """
    command = [sys.executable, "-c", _ATTACH, address]
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ANSWER_S)
            return
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ANSWER_S)


def _fits(node: dict[str, Any], resources: Resources) -> int:
    """Return how many jobs with these resources a node has room for."""
    if not node["Alive"]:
        return 0
    room = int(node["Resources"].get("CPU", 0) // resources.cpus)
    return min(room, int(node["Resources"].get("GPU", 0) // resources.gpus)) if resources.gpus else room


def _lost(error: BaseException) -> Outcome:
    """Say how a task ended that gave no outcome."""
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return Outcome("cancelled", 0.0, message="interrupted", retryable=True)
    if isinstance(error, exceptions.OutOfMemoryError):
        message = "Ray ended the worker because memory ran out on its node"
        return Outcome("error", 0.0, message=message, retryable=True, exhausted=True)
    if isinstance(error, exceptions.WorkerCrashedError):
        message = "the worker was killed or crashed; Ray's logs on its node may say more (/tmp/ray/session_latest/logs)"
        return Outcome("error", 0.0, message=message, retryable=True, exhausted=True)
    if isinstance(error, exceptions.NodeDiedError):
        return Outcome("error", 0.0, message="the worker's node left the Ray cluster", retryable=True)
    if isinstance(error, exceptions.RayTaskError):
        # `run` raised, or the job could not be read there.
        return failed(error.cause if isinstance(error.cause, Exception) else error, 0.0)
    lines = str(error).strip().splitlines() or ["Ray gave no reason"]
    retryable = not isinstance(error, exceptions.RuntimeEnvSetupError)
    return Outcome("error", 0.0, message=f"{type(error).__name__}: {lines[-1]}", retryable=retryable)
