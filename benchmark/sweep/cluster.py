"""What the engines for clusters share: the options they take, and which resources a job asks a scheduler for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import InvalidValue, UnknownName
from benchmark.sweep.jobs import Job


class ClusterOptions(BaseModel):
    """Options of any cluster.

    Attributes:
        cpus: CPUs, and threads, of a job that leaves its threads open.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: int = Field(default=1, ge=1)


OptionsT = TypeVar("OptionsT", bound=ClusterOptions)


def options_from(kind: type[OptionsT], engine: str, given: Mapping[str, Any]) -> OptionsT:
    """Read an engine's options.

    Raises:
        UnknownName: For an option that the engine does not have.
        InvalidValue: For a value that it cannot have.
    """
    for name in given:
        if name not in kind.model_fields:
            raise UnknownName(f"option of the engine {engine}", name, kind.model_fields)
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidValue(
            f"option {first['loc'][0]}={first['input']!r} of the engine {engine}: {first['msg']}"
        ) from error


@dataclass(frozen=True)
class Resources:
    """What a scheduler sets aside for a job."""

    cpus: int
    gpus: float


def allot(job: Job, cpus: int, gpus: float) -> tuple[Resources, Job]:
    """Return what to ask for, and the job as it runs with it: on as many threads as it has CPUs.

    Args:
        job: The job; its ``threads`` and ``device`` come first.
        cpus: CPUs of a job that leaves its threads open.
        gpus: GPUs of a job whose device is ``auto``, or, where that is not 0, ``cuda``.

    Raises:
        InvalidValue: For a device that only makes sense on a machine of one's own.
    """
    if job.device not in ("auto", "cpu", "cuda"):
        raise InvalidValue(f"a cluster assigns devices itself, so {job.device!r} has no use; take auto, cpu or cuda")
    wanted = {"auto": gpus, "cpu": 0, "cuda": gpus or 1}[job.device]
    resources = Resources(job.threads or cpus, wanted)
    # `auto` is decided here: a node may show a GPU that nobody asked for, or hide the one that was.
    return resources, replace(job, device="cuda" if wanted else "cpu", threads=resources.cpus)
