"""Runs ``fit`` of adapters in forked children, one after the other, and ends those that take too long.

Run as ``python -m benchmark.testing.runner``; every line of standard input is one request, a JSON list of the limit in
seconds and of folders, and is answered with a line. Libraries are imported once, every run has a process of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

import psutil

from benchmark.records.files import read_json, write_json
from benchmark.testing import child
from benchmark.testing.outcome import Outcome, Ran, RunSpec

RAN = "ran.json"
_SAID = "said.txt"
_PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_POLL_S, _LAST_WORDS_S = 0.05, 0.5
_STANDS_STILL_S, _STILL = 10.0, 0.05
"""A child that in so many seconds uses no more processor time than that is waiting for something."""


def main() -> int:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        limit, *folders = json.loads(line)
        _serve(float(limit), [Path(folder) for folder in folders])
        sys.stdout.write("done\n")
        sys.stdout.flush()
    return 0


def _serve(limit: float, folders: list[Path]) -> None:
    """Run what lies in each folder, and leave how it ended there; stop where a run neither finishes nor is killed."""
    _import(read_json(folders[0] / "job.json")["generator"] is not None)
    for folder in folders:
        spec = RunSpec.model_validate(read_json(folder / child.SPEC))
        ran = _run(folder, spec, limit)
        write_json(folder / RAN, ran.model_dump(mode="json"))
        if not ran.finished and ran.end != "killed":
            break


def _import(generator: bool) -> None:
    """Import what every child needs; nothing may compute yet, threads do not survive a fork."""
    importlib.import_module("torch._dynamo")  # the first optimiser of a process does so, which takes seconds
    if generator:
        importlib.import_module("benchmark.generators.pipelines")


def _run(folder: Path, spec: RunSpec, limit: float) -> Ran:
    free = [spec.place / kind for kind in ("work", "home", "tmp")]
    before = _files(free)
    pid = os.fork()
    if pid == 0:
        _be_child(folder, *free)
    try:
        code = _wait(pid, limit)
    except BaseException:  # interrupted: nothing may run on
        os.killpg(pid, signal.SIGKILL)
        raise
    processes = _end_session(pid)
    return _collect(folder, code, spec, tuple(sorted(_files(free) - before)), processes)


def _be_child(folder: Path, *free: Path) -> NoReturn:
    code = 1
    try:
        _enter(folder, *free)
        code = child.main(folder)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _enter(folder: Path, work: Path, home: Path, temporary: Path) -> None:
    """Give a forked child a session, folders and standard streams of its own."""
    os.setsid()
    said = os.open(folder / _SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, target in ((0, nothing), (1, said), (2, said)):
        os.dup2(target, stream)
    own = Path.home()
    # Libraries keep what they have downloaded; everything else that is written into a home is seen.
    os.environ.setdefault("HF_HOME", str(own / ".cache" / "huggingface"))
    os.environ.setdefault("TORCH_HOME", str(own / ".cache" / "torch"))
    os.environ.setdefault("MPLCONFIGDIR", str(own / ".config" / "matplotlib"))
    os.environ.update(HOME=str(home), TMPDIR=str(temporary))
    tempfile.tempdir = None
    os.chdir(work)


def _wait(pid: int, limit: float) -> int | None:
    """Return the exit code, or None where the child had to be ended.

    Processor time counts, so that a busy machine ends nobody; a child that waits for something uses none, so it is
    ended when the limit has passed on the clock and it has stood still for a while.
    """
    start = moved = time.monotonic()
    used = 0.0
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        now, spent = time.monotonic(), _processor_seconds(pid)
        if spent > used + _STILL:
            used, moved = spent, now
        if spent > limit or (now - start > limit and now - moved > min(limit, _STANDS_STILL_S)):
            _end(pid)
            return None
        time.sleep(_POLL_S)
    return os.waitstatus_to_exitcode(done[1])


def _processor_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _end(pid: int) -> None:
    """End a child and what it has started, after it has written down where it is."""
    os.kill(pid, signal.SIGUSR1)
    time.sleep(_LAST_WORDS_S)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _end_session(session: int) -> tuple[str, ...]:
    """End what a child left running, and return its names."""
    left = []
    for process in psutil.process_iter(["name"]):
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                left.append(str(process.info["name"]))
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return tuple(left)


def _collect(folder: Path, code: int | None, spec: RunSpec, left: tuple[str, ...], processes: tuple[str, ...]) -> Ran:
    if code == 0 and (folder / child.OUTCOME).is_file():
        outcome = Outcome.model_validate(read_json(folder / child.OUTCOME))
        return Ran(end="done", outcome=outcome, code=code, where="", left=left, processes=processes)
    outcome = Outcome(calls=tuple(_text(folder / child.CALLS).split()))
    where = _where(_text(folder / child.PLACES), spec.roots)
    if code is None:
        return Ran(end="timeout", outcome=outcome, code=code, where=where, left=left, processes=processes)
    if spec.kill and code == -signal.SIGKILL:
        return Ran(end="killed", outcome=outcome, code=code, where="", left=left, processes=processes)
    where = where or _last_line(_text(folder / _SAID))
    return Ran(end="died", outcome=outcome, code=code, where=where, left=left, processes=processes)


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.is_file() else ""


def _where(text: str, roots: tuple[Path, ...]) -> str:
    """Return the innermost place in the adapter's code of a stack that faulthandler wrote."""
    for match in _PLACE.finditer(text):
        if match["file"].startswith(tuple(map(str, roots))):
            return f"{match['file']}, line {match['line']}"
    return ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def _files(folders: list[Path]) -> set[str]:
    """Return the files below some folders, by the folder's and their own name; byte code is Python's."""
    return {
        str(path.relative_to(folder.parent))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


if __name__ == "__main__":
    sys.exit(main())
