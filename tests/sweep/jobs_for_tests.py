"""What workers of the tests do with a job, without torch: its method says what, its store is where they leave marks."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.evaluation.cell import Request
from benchmark.sweep.jobs import Job, Outcome
from benchmark.sweep.worker import interruptible

PATIENCE_S = 60.0


def job(place: Path, what: str) -> Job:
    """Return a job for :func:`act`, such as ``wait a``."""
    return Job("evaluate", Request(what), results=place, store=place)


def act(job: Job) -> Outcome:
    """Do what a job says."""
    verb, _, name = job.request.method.partition(" ")
    message: Any = ""
    if verb == "tell":
        told = {"threads": job.threads, "device": job.device, "omp": os.environ.get("OMP_NUM_THREADS")}
        message = json.dumps({"pid": os.getpid(), "group": os.getpgrp(), **told})
    elif verb == "wait":
        mark(job.store / f"{name}.begun")
        wait_for(job.store / f"{name}.go")
    elif verb == "interruptible":
        return _until_interrupted(job, name)
    elif verb == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "raise":
        raise ValueError(name)
    elif verb == "unsendable":
        message = lambda: name  # noqa: E731
    return Outcome("success", 0.1, message=message)


def _until_interrupted(job: Job, name: str) -> Outcome:
    """Work until SIGTERM, then take a while to write down what was done, as an evaluation does."""
    try:
        with interruptible():
            try:
                mark(job.store / f"{name}.begun")
                wait_for(job.store / f"{name}.go")
            except KeyboardInterrupt:
                time.sleep(1.5)
                mark(job.store / f"{name}.kept")
                raise
    except KeyboardInterrupt:
        return Outcome("cancelled", 0.1, message="interrupted", retryable=True)
    return Outcome("success", 0.1)


def mark(path: Path) -> None:
    """Leave this process's number in a file that appears with it."""
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def wait_for(path: Path) -> str:
    """Wait until a file exists; returns its text."""
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} never came")
        time.sleep(0.02)
    return path.read_text()


def die(job: Job) -> Outcome:
    """Be killed, whatever the job is."""
    return act(replace(job, request=Request("die")))
