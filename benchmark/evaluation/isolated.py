"""Isolation: `fit` runs in a process whose data folder holds no test split, and answering in another one.

The child is given a folder with the job and two splits. Where the system allows it, it first leaves the network for
an empty network namespace, and the task's data folders disappear behind empty ones in a mount namespace. Run as
``python -m benchmark.evaluation.isolated fit|answer FOLDER``.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import benchmark.errors
from benchmark.errors import GenBiasError
from benchmark.evaluation.job import (
    FitJob,
    FitReport,
    Part,
    SavedStage,
    read_images,
    read_job,
    write_images,
    write_job,
)  # fmt: skip
from benchmark.progress import Progress
from benchmark.records.files import read_json, write_json
from benchmark.records.schema import PredictionsFile
from benchmark.tasks.manifest import Rows
from benchmark.tasks.task import View

if TYPE_CHECKING:
    from benchmark.evaluation.answer import Answers

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_RDONLY, _MS_REC, _MS_PRIVATE = 0x1, 0x4000, 0x40000
_REPORT, _FAILURE, _ANSWERS = "report.json", "failure.json", "answers.json"
_VIEW_ROWS, _VIEW_IMAGES = ".view.npz", ".view.npy"


def block_network() -> bool:
    """Move this process into an empty network namespace; returns whether the system allowed it."""
    if not sys.platform.startswith("linux"):
        return False
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:
        return False
    return bool(unshare(_CLONE_NEWNET) == 0 or unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def hide_folders(folders: Sequence[Path]) -> bool:
    """Cover some folders by empty ones, for this process and its children; returns whether all are covered."""
    existing = [folder for folder in folders if folder.is_dir()]
    if not existing or not sys.platform.startswith("linux"):
        return not existing
    library = ctypes.CDLL(None, use_errno=True)
    unshare, mount = getattr(library, "unshare", None), getattr(library, "mount", None)
    if unshare is None or mount is None:
        return False
    if unshare(_CLONE_NEWNS) != 0 and unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        return False
    # Private first: in a shared mount the cover would appear to everybody.
    if mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    covered = [mount(b"none", os.fsencode(folder), b"tmpfs", _MS_RDONLY, None) == 0 for folder in existing]
    return all(covered) and not any(any(folder.iterdir()) for folder in existing)


def fit_isolated(job: FitJob, parts: dict[str, Part], folder: Path, progress: Progress) -> FitReport:
    """Run ``fit`` in a child process that has no test split.

    Raises:
        GenBiasError: Whatever the child raised, of the same type.
    """
    write_job(folder, job, parts)
    _child("fit", folder, progress)
    return FitReport.model_validate(read_json(folder / _REPORT))


def answer_isolated(report: FitReport, weights: Path, views: Mapping[str, View], out: Path) -> dict[str, Answers]:
    """Answer the test split and further views in another child process, from the saved weights and the job there."""
    for name, view in views.items():
        rows = view.rows
        write_images(weights / f"{name}{_VIEW_IMAGES}", view.images)
        np.savez(
            weights / f"{name}{_VIEW_ROWS}", ids=np.array(rows.ids), sources=np.array(rows.sources), y=rows.y, a=rows.a
        )
    write_json(weights / _REPORT, report.model_dump(mode="json"))
    _child("answer", weights, None, str(out))
    content = read_json(weights / _ANSWERS)
    return {
        stage: {
            rule: {view: PredictionsFile.model_validate(file) for view, file in files.items()}
            for rule, files in rules.items()
        }
        for stage, rules in content.items()
    }


def _read_views(folder: Path) -> dict[str, View]:
    views = {}
    for file in sorted(folder.glob(f"*{_VIEW_ROWS}")):
        name = file.name.removesuffix(_VIEW_ROWS)
        with np.load(file, allow_pickle=False) as content:
            ids, sources = (tuple(content[key].tolist()) for key in ("ids", "sources"))
            rows = Rows(ids, sources, content["y"], content["a"])
        views[name] = View(rows, read_images(folder / f"{name}{_VIEW_IMAGES}"))
    return views


def _child(verb: str, folder: Path, progress: Progress | None, *extra: str) -> None:
    command = [sys.executable, "-m", "benchmark.evaluation.isolated", verb, str(folder), *extra]
    # The child imports this project from where the parent did, also from an uninstalled checkout.
    paths = os.pathsep.join(p for p in sys.path if p)
    handles: dict[int, int] = {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=None, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        try:
            for line in process.stdout or ():
                _relay(line, progress, handles)
        except BaseException:
            process.terminate()
            raise
    if (folder / _FAILURE).exists():
        failure = read_json(folder / _FAILURE)
        kind = getattr(benchmark.errors, str(failure["kind"]), GenBiasError)
        raise _same(kind, str(failure["message"]))
    if process.returncode != 0:
        raise GenBiasError(f"the isolated {verb} process ended with exit code {process.returncode}")


def _same(kind: type[GenBiasError], message: str) -> GenBiasError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


class _Lines:
    """Progress as JSON lines on standard output, for the parent."""

    def __init__(self) -> None:
        self._handles = 0

    def _say(self, *event: str | int) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    def start(self, name: str, total: int) -> int:
        """Begin a piece of work."""
        self._handles += 1
        self._say("start", self._handles, name, total)
        return self._handles

    def advance(self, handle: int, n: int) -> None:
        """Say that more is done."""
        self._say("advance", handle, n)

    def finish(self, handle: int) -> None:
        """End a piece."""
        self._say("finish", handle)

    def message(self, text: str) -> None:
        """Say something once."""
        self._say("message", text)


def _relay(line: str, progress: Progress | None, handles: dict[int, int]) -> None:
    try:
        event = json.loads(line)
        verb, arguments = event[0], event[1:]
    except (ValueError, IndexError, TypeError, KeyError):
        sys.stderr.write(line)
        return
    if progress is None:
        return
    if verb == "start":
        handles[arguments[0]] = progress.start(arguments[1], arguments[2])
    elif verb == "advance":
        progress.advance(handles[arguments[0]], arguments[1])
    elif verb == "finish":
        progress.finish(handles.pop(arguments[0]))
    elif verb == "message":
        progress.message(arguments[0])


def _end_with_parent() -> None:
    """End this process when its parent is gone: a killed one cannot tell, and nobody would read the answer.

    Called after the namespaces were left: only a process of one thread may leave a user namespace.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _fit(folder: Path) -> None:
    blocked = block_network()
    if blocked:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from benchmark.evaluation.fit import run_fit

    job, parts = read_job(folder)
    done: list[SavedStage] = []
    hidden = hide_folders(job.hidden)
    _end_with_parent()
    report = run_fit(job, parts, folder, _Lines(), done.append)
    seen = {"network_blocked": blocked, "data_hidden": hidden}
    write_json(folder / _REPORT, report.model_copy(update=seen).model_dump(mode="json"))


def _answer(folder: Path, out: Path) -> None:
    from benchmark.evaluation.answer import answer_stage

    _end_with_parent()
    job = FitJob.model_validate(read_json(folder / "job.json"))
    report = FitReport.model_validate(read_json(folder / _REPORT))
    views = _read_views(folder)
    answers = {
        stage.name: {
            rule: {view: answer.model_dump(mode="json") for view, answer in files.items()}
            for rule, files in answer_stage(job, stage, folder, views, out).items()
        }
        for stage in report.stages
    }
    write_json(folder / _ANSWERS, answers)


def main(arguments: list[str]) -> int:
    """Run the child's half; a known failure is left as a file for the parent."""
    verb, folder = arguments[0], Path(arguments[1])
    try:
        if verb == "fit":
            _fit(folder)
        else:
            _answer(folder, Path(arguments[2]))
    except GenBiasError as error:
        write_json(folder / _FAILURE, {"kind": type(error).__name__, "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
