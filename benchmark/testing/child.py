"""What a forked child of the runner does: run ``fit`` once, watched, and write down what it saw.

An adapter may hang, crash or end this process; the runner copes.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.contract.images import MethodData
from benchmark.contract.method import Hparams, Method, Stage
from benchmark.contract.registry import load_method, resolve_hparams
from benchmark.errors import ContractViolation
from benchmark.evaluation.fit import fit_stages
from benchmark.evaluation.isolated import block_network, hide_folders
from benchmark.evaluation.job import FitJob, Part, SavedStage, method_data, read_job
from benchmark.progress import Silent
from benchmark.records.files import read_json, write_json
from benchmark.testing.answers import answers_digest
from benchmark.testing.outcome import Ended, Outcome, RunSpec, StageSeen
from benchmark.testing.watch import Watch, WatchedTools, digest_of, order_score

SPEC, OUTCOME, PLACES, CALLS, WEIGHTS = "run.json", "outcome.json", "places.txt", "calls.txt", "weights"
_MOST_DEVIATIONS = 6.0
"""Chance goes so far once in a billion runs."""


class Watched(Method):
    """An adapter whose ``fit`` is watched; to the harness it is the adapter itself.

    Args:
        method: The adapter.
        watch: Where to note.
        folder: The run's folder.
        store: Its store.
        kill: End the process by SIGKILL after the first piece of work, or the first stage where there is none.
    """

    def __init__(self, method: Method, watch: Watch, folder: Path, store: Path, *, kill: bool) -> None:
        self.card = method.card  # type: ignore[misc]
        self._method, self._watch, self._folder, self._store, self._kill = method, watch, folder, store, kill
        self.calls: list[str] = []
        self.remembered = False

    def fit(self, data: MethodData, tools: Any, hparams: Hparams) -> Iterator[Stage]:
        """Run the adapter's, piece by piece."""
        before = digest_of(data)
        lent = WatchedTools(tools, self._watch, self._worked, self._entries)
        with self._watch.own_code():
            stages = self._method.fit(data, lent, hparams)
        if not isinstance(stages, Iterator):
            raise ContractViolation(f"fit returns a {type(stages).__name__}; it must yield its stages")
        while True:
            with self._watch.own_code():
                stage = next(stages, None)
            if digest_of(data) != before:
                self._watch.note("inputs", "changes the images or labels that it was given")
            if stage is None:
                return
            yield stage
            self._end_here()

    def build(self, spec: Any) -> Any:
        """Build an own stage's architecture as the adapter does."""
        return self._method.build(spec)

    def _worked(self, name: str, remembered: bool) -> None:
        self.calls.append(name)
        if len(self.calls) == 1:
            self.remembered = remembered
        with (self._folder / CALLS).open("a") as stream:
            stream.write(f"{name}\n")
        self._end_here()

    def _end_here(self) -> None:
        if self._kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def _entries(self) -> set[str]:
        """Return what the store holds; claims and work in progress are no part of it."""
        found = (path.relative_to(self._store) for path in self._store.rglob("*"))
        return {str(path) for path in found if path.parts[0] not in ("claims", "work")}


def run(folder: Path) -> Outcome:
    """Run the job in a folder and return what was seen."""
    spec = RunSpec.model_validate(read_json(folder / SPEC))
    places = (folder / PLACES).open("w")
    faulthandler.enable(places)
    faulthandler.register(signal.SIGUSR1, file=places)
    # Forked, this process has one thread: no other may leave a user namespace.
    blocked = spec.isolated and block_network()
    job, parts = read_job(folder)
    if spec.isolated:
        hide_folders(job.hidden)
    torch.set_num_threads(job.threads)
    watch = Watch(spec.roots, spec.sources)
    (folder / WEIGHTS).mkdir()
    try:
        return _seen(folder, spec, job, parts, watch).model_copy(update={"network_blocked": blocked})
    except (Exception, SystemExit) as error:  # whatever an adapter raises is a finding
        return Outcome(
            failure=_ended(error, spec.roots), problems=tuple(watch.problems), network_blocked=blocked,
            calls=tuple((folder / CALLS).read_text().split()) if (folder / CALLS).is_file() else (),
        )  # fmt: skip


def _seen(folder: Path, spec: RunSpec, job: FitJob, parts: dict[str, Part], watch: Watch) -> Outcome:
    method = load_method(job.method)
    watched = Watched(method, watch, folder, job.store, kill=spec.kill)
    stages: list[StageSeen] = []

    def on_stage(stage: SavedStage) -> None:
        stages.append(_look(job, stage, folder / WEIGHTS, parts, watch))

    hparams = resolve_hparams(method, job.hparams)
    report = fit_stages(watched, hparams, job, parts, folder / WEIGHTS, Silent(), on_stage)
    _hold_order(spec, job, parts, watch)
    return Outcome(
        stages=tuple(stages),
        problems=tuple(watch.problems),
        calls=tuple(watched.calls),
        remembered=watched.remembered,
        steps_used=report.steps_used,
        own_steps=watch.own_steps,
        synthetic_kept=report.synthetic_kept,
        sampled=report.sampled,
        notes=tuple(report.notes),
    )


def _look(job: FitJob, stage: SavedStage, weights: Path, parts: dict[str, Part], watch: Watch) -> StageSeen:
    """Hold a saved stage's answers to what the board needs, and return its digests."""
    last = stage.checkpoints[0]
    digest = answers_digest(job, stage, weights / last.file, parts["validation"].images, watch)
    return StageSeen(name=stage.name, weights={c.rule.value: c.sha256 for c in stage.checkpoints}, answers=digest)


def _hold_order(spec: RunSpec, job: FitJob, parts: dict[str, Part], watch: Watch) -> None:
    train = method_data(job, parts).train
    conflicting = np.array(spec.frozen) != np.array(spec.aligned)[train.y]
    score = order_score(watch.drawn, train, conflicting)
    if abs(score) > _MOST_DEVIATIONS:
        watch.note("order", f"trains on images by their place in the frozen split ({score:+.0f} standard deviations)")


def _ended(error: BaseException, roots: tuple[Path, ...]) -> Ended:
    kinds = tuple(kind.__name__ for kind in type(error).__mro__ if kind not in (object, BaseException))
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(tuple(map(str, roots)))]
    where = f"{own[-1].filename}, line {own[-1].lineno}" if own else ""
    return Ended(kinds=kinds, message=str(error), where=where)


def main(folder: Path) -> int:
    """Run, and leave the outcome as a file."""
    write_json(folder / OUTCOME, run(folder).model_dump(mode="json"))
    return 0
