"""What is asked of a cluster for a job, and the options of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import InvalidValue, UnknownName
from benchmark.evaluation.cell import Request
from benchmark.sweep.cluster import Resources, allot, options_from
from benchmark.sweep.jobs import Job
from benchmark.sweep.ray_engine import RayOptions
from benchmark.sweep.slurm import SlurmOptions


def _job(device: str = "auto", threads: int | None = None) -> Job:
    return Job("evaluate", Request("erm"), Path("/results"), Path("/store"), device=device, threads=threads)


def test_threads_and_device_of_a_job_decide_what_is_asked_for() -> None:
    assert allot(_job("cpu", threads=4), cpus=1, gpus=1)[0] == Resources(4, 0)
    assert allot(_job("cuda"), cpus=2, gpus=0)[0] == Resources(2, 1)
    assert allot(_job("cuda"), cpus=2, gpus=0.5)[0] == Resources(2, 0.5)
    assert allot(_job("auto"), cpus=2, gpus=0.5)[0] == Resources(2, 0.5)


def test_a_job_runs_on_what_it_was_given() -> None:
    _, on_gpu = allot(_job("auto"), cpus=3, gpus=1)
    _, on_cpu = allot(_job("auto"), cpus=3, gpus=0)
    assert (on_gpu.device, on_gpu.threads) == ("cuda", 3)
    assert (on_cpu.device, on_cpu.threads) == ("cpu", 3)


def test_one_gpu_of_a_cluster_cannot_be_chosen() -> None:
    with pytest.raises(InvalidValue, match=r"assigns devices itself, so 'cuda:1' has no use"):
        allot(_job("cuda:1"), cpus=1, gpus=1)


def test_options_are_read_from_words() -> None:
    options = options_from(SlurmOptions, "slurm", {"gpus": "1", "memory_gb": "7.5", "qos": "low"})
    assert (options.gpus, options.memory_gb, options.qos, options.partition) == (1, 7.5, "low", None)


def test_wrong_options_are_named() -> None:
    with pytest.raises(UnknownName, match=r"unknown option of the engine ray 'adress'; did you mean 'address'"):
        options_from(RayOptions, "ray", {"adress": "auto"})
    with pytest.raises(InvalidValue, match=r"option gpus='many' of the engine slurm"):
        options_from(SlurmOptions, "slurm", {"gpus": "many"})
