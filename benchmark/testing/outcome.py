"""What one watched run of ``fit`` leaves for the checks to look at: plain data from a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

Topic = Literal["data", "offline", "state", "inputs", "answers", "order"]
"""What a problem is about: the check of the same name reports it."""


SEED, OTHER_SEED = 0, 5
"""Two training seeds of one draw: what differs is training, not data."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunSpec(_Plain):
    """How a child runs ``fit``.

    Attributes:
        place: Folder with the working, home and temporary folders ``work``, ``home`` and ``tmp``.
        isolated: Leave the network and hide data folders first, as ``evaluate --isolated`` does.
        kill: End by SIGKILL after the first finished piece of work.
        frozen: Attributes that stand at the training set's positions in the frozen split, of which this run's order
            knows nothing.
        aligned: The aligned attribute of each class.
        roots: Files and folders of the adapter's own code.
        sources: Files and folders of the task's data, the test split among them.
    """

    place: Path
    isolated: bool
    kill: bool
    frozen: tuple[int, ...]
    aligned: tuple[int, ...]
    roots: tuple[Path, ...]
    sources: tuple[Path, ...]


class Problem(_Plain):
    """Something that an adapter's own code did and must not."""

    topic: Topic
    text: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class Ended(_Plain):
    """The exception that ended ``fit``, and where in the adapter it came from."""

    kinds: tuple[str, ...]
    message: str
    where: str

    def __str__(self) -> str:
        text = f"{self.kinds[0]}: {self.message}" if self.message else self.kinds[0]
        return f"{self.where}: {text}" if self.where else text


class StageSeen(_Plain):
    """One stage: digests of its checkpoints by selection rule, and of its answers to the validation images."""

    name: str
    weights: dict[str, str]
    answers: str


class Outcome(_Plain):
    """What a child found.

    Attributes:
        calls: Pieces of work that the adapter asked of its tools, in order.
        remembered: Whether the first of them came from the store.
        own_steps: Optimiser steps that the adapter took in a loop of its own.
    """

    stages: tuple[StageSeen, ...] = ()
    failure: Ended | None = None
    problems: tuple[Problem, ...] = ()
    calls: tuple[str, ...] = ()
    remembered: bool = False
    steps_used: int = 0
    own_steps: int = 0
    synthetic_kept: int = 0
    sampled: int = 0
    notes: tuple[str, ...] = ()
    network_blocked: bool = False


class Ran(_Plain):
    """How a child process ended.

    Attributes:
        end: ``done`` with an outcome, ``killed`` by its own doing as asked, ``timeout``, or ``died`` without a word.
        outcome: What it found, as far as it got.
        code: Its exit code; negative for a signal, None where it was ended.
        where: For one that hung or died: where in the adapter's code it was.
        left: Files that it left in its working, home and temporary folders.
        processes: Names of processes that it left running.
    """

    end: Literal["done", "killed", "timeout", "died"]
    outcome: Outcome
    code: int | None
    where: str
    left: tuple[str, ...]
    processes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether ``fit`` came to its end."""
        return self.end == "done" and self.outcome.failure is None

    @property
    def results(self) -> list[tuple[str, str, str, str]]:
        """Stage, rule, digest of the weights and of the answers, for every checkpoint."""
        return [(s.name, rule, sha, s.answers) for s in self.outcome.stages for rule, sha in sorted(s.weights.items())]


@dataclass(frozen=True)
class Runs:
    """Every run of one adapter; None for those that were not started.

    Attributes:
        first: The run that the others are compared with: isolated, as a ranked one.
        killed: In a process and store of its own, ended by SIGKILL after its first piece of work.
        resumed: Started again in the killed one's folders and store, not isolated.
        again: Once more like the first, where the resumed one came out differently.
        other: Another training seed on the same data.
        regrouped: The undeclared group labels dealt out anew; None also for adapters that may read all of them.
    """

    first: Ran
    killed: Ran
    resumed: Ran | None = None
    again: Ran | None = None
    other: Ran | None = None
    regrouped: Ran | None = None

    @property
    def started(self) -> tuple[Ran, ...]:
        """Every run that was started."""
        found = (self.first, self.killed, self.resumed, self.again, self.other, self.regrouped)
        return tuple(ran for ran in found if ran is not None)
