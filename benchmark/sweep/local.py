"""The local engine: one process per device; on the CPU as many as memory allows, with the cores divided among them."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import LifoQueue

from benchmark.errors import InvalidValue
from benchmark.sweep.jobs import Job, Outcome
from benchmark.sweep.worker import failed, run_job

_CELLS_PER_PROCESS = 50
"""A worker is replaced after so many jobs, so that what a library leaks does not add up."""
_MEMORY_PER_WORKER = 2 << 30
"""Bytes that a worker is taken to need where no record says more."""
_LIVES_EVERY_S = 1.0
_ENDS_WITHIN_S = 30


@dataclass(frozen=True)
class Slot:
    """Where one job at a time runs."""

    device: str
    threads: int | None


def local_slots(
    device: str = "auto", *, workers: int | None = None, threads: int | None = None, memory: int | None = None
) -> list[Slot]:
    """Return the slots of this machine.

    Args:
        device: ``auto`` takes every GPU, or the CPU where there is none; ``cuda`` every GPU; else the one named.
        workers: How many at once; None takes one per GPU, and on the CPU one per core as far as memory reaches.
        threads: CPU threads of each; None divides the cores.
        memory: Bytes that a worker needs; None is 2 GiB.

    Raises:
        InvalidValue: For a number below 1.
        NotAvailable: For a device that is not here.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise InvalidValue(f"{value} {name} make no sense; use 1 or more")
    devices = _devices(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        workers = len(devices) if devices[0] != "cpu" else min(cores, _fitting(memory or _MEMORY_PER_WORKER))
    threads = threads or max(1, cores // workers)
    return [Slot(devices[index % len(devices)], threads) for index in range(workers)]


def _devices(name: str) -> list[str]:
    from benchmark.training.device import resolve_device

    device = resolve_device(name)
    if device.type == "cuda" and device.index is None:
        import torch

        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


def _fitting(memory: int) -> int:
    import psutil

    return max(1, int(psutil.virtual_memory().available // memory))


class LocalEngine:
    """Runs jobs in processes of this machine, one per slot.

    A process that dies takes only its own job with it.

    Args:
        slots: Where jobs run; see :func:`local_slots`.
        run: What a worker does with a job; a function of a module.
    """

    def __init__(self, slots: Sequence[Slot], run: Callable[[Job], Outcome] = run_job) -> None:
        self.slots = len(slots)
        self._threads = ThreadPoolExecutor(len(slots), thread_name_prefix="slot")
        self._processes = [_Process(slot, run) for slot in slots]
        # The one that was used last is taken first: it has loaded its libraries.
        self._free: LifoQueue[_Process] = LifoQueue()
        for process in self._processes:
            self._free.put(process)
        self._stopped = False

    def submit(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        """Queue jobs; see :class:`~benchmark.sweep.jobs.Engine`."""
        return [self._threads.submit(self._do, job) for job in jobs]

    def stop(self, *, now: bool) -> None:
        """End the workers; see :class:`~benchmark.sweep.jobs.Engine`."""
        self._stopped = True
        if now:
            for process in self._processes:
                process.interrupt()
        self._threads.shutdown(wait=True)
        for process in self._processes:
            process.close()

    def _do(self, job: Job) -> Outcome:
        if self._stopped:
            return Outcome("cancelled", 0.0, message="the sweep was stopped before it began", retryable=True)
        process = self._free.get()
        try:
            return process.do(replace(job, device=process.slot.device, threads=process.slot.threads))
        finally:
            self._free.put(process)


class _Process:
    """A worker process that is started when it is needed, and again after it died."""

    def __init__(self, slot: Slot, run: Callable[[Job], Outcome]) -> None:
        self.slot = slot
        self._run = run
        self._pool: ProcessPoolExecutor | None = None
        self._pid = 0
        self._done = 0
        self._interrupted = False

    def do(self, job: Job) -> Outcome:
        """Run a job there; also a death is an outcome."""
        start, begun = time.perf_counter(), False
        try:
            pool = self._started()
            begun = True
            # Whoever interrupts from here on finds the process.
            outcome = _interrupted(start) if self._interrupted else pool.submit(self._run, job).result()
        except BrokenExecutor:
            self.close()
            return _interrupted(start) if self._interrupted else _died(start, begun=begun)
        except Exception as error:  # such as a job that cannot be sent
            return failed(error, time.perf_counter() - start)
        self._done += 1
        if self._done % _CELLS_PER_PROCESS == 0:
            self.close()
        return outcome

    def interrupt(self) -> None:
        """Interrupt what runs there, for good."""
        self._interrupted = True
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def close(self) -> None:
        """End the process when its job is done."""
        pool, self._pool, self._pid = self._pool, None, 0
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn"), initializer=functools.partial(_begin, os.getpid())
            )
            with _SPAWNING, _environment(OMP_NUM_THREADS=str(self.slot.threads or 1)), _without_interrupts():
                pid = self._pool.submit(os.getpid)
            self._pid = pid.result()
        return self._pool


_SPAWNING = threading.Lock()
"""The environment belongs to all threads, so one at a time changes it."""


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for processes that start meanwhile: numerical libraries read them when they are loaded."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that start meanwhile: they inherit this thread's mask until they can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupted(start: float) -> Outcome:
    return Outcome("cancelled", time.perf_counter() - start, message="interrupted", retryable=True)


def _died(start: float, *, begun: bool) -> Outcome:
    """Return the outcome of a job whose process ended under it, or could not begin."""
    seconds = time.perf_counter() - start
    if not begun:
        return Outcome("error", seconds, message="its worker process could not be started; see what it printed")
    message = "its worker process was killed; where the system ran out of memory, use fewer --workers"
    return Outcome("error", seconds, message=message, retryable=True, exhausted=True)


def _begin(parent: int) -> None:
    """Prepare a worker: Ctrl-C in the terminal is the parent's to judge, and a worker does not outlive its parent."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LIVES_EVERY_S)
    for _ in range(_ENDS_WITHIN_S):
        # The first interrupts a job, so that what was finished is kept; one that comes later ends an idle process.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.0)
    os._exit(1)
