"""The runs that the checks look at, made by two runners side by side."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import GenBiasError
from benchmark.evaluation.job import Part, write_job
from benchmark.records.files import make_folder, read_json, write_json
from benchmark.tasks import home
from benchmark.testing.child import SPEC
from benchmark.testing.outcome import OTHER_SEED, SEED, Ran, Runs, RunSpec
from benchmark.testing.runner import RAN
from benchmark.testing.small import SmallTask


class Runner:
    """A process that makes runs, one after the other, and has its libraries imported once.

    Args:
        log: Where its complaints go.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def run(self, limit: float, folders: list[Path]) -> dict[str, Ran]:
        """Make some runs, and return how those ended that were started, by name.

        Raises:
            GenBiasError: When the runner itself fails.
        """
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([limit, *map(str, folders)]) + "\n")
            process.stdin.flush()
        if not process.stdout.readline():
            raise GenBiasError(f"the contract suite failed itself: {self._log.read_text().strip()[-500:]}")
        found = {folder.name: folder / RAN for folder in folders}
        return {name: Ran.model_validate(read_json(file)) for name, file in found.items() if file.is_file()}

    def _start(self) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            # It imports this project, and adapters, from where the parent does.
            "PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p),
        }
        command = [sys.executable, "-m", "benchmark.testing.runner"]
        with self._log.open("w") as log:
            return subprocess.Popen(
                command, cwd=self._log.parent, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True,
            )  # fmt: skip

    def close(self) -> None:
        """End it, when it was ever needed; it ends with its input, or at the end of what it is doing."""
        if self._process is not None:
            with self._process as process:
                assert process.stdin is not None
                process.stdin.close()


@contextlib.contextmanager
def two_runners() -> Iterator[tuple[Runner, Runner]]:
    """Start two runners; what differs between processes, such as the order of sets, differs between them."""
    with tempfile.TemporaryDirectory(prefix="genbias-runners-") as folder:
        pair = Runner(Path(folder) / "0.txt"), Runner(Path(folder) / "1.txt")
        try:
            yield pair
        finally:
            for runner in pair:
                runner.close()


def run_all(
    task: SmallTask, roots: tuple[Path, ...], folder: Path, limit: float, runners: tuple[Runner, Runner]
) -> Runs:
    """Run an adapter as often as the checks need it.

    Args:
        task: The small task.
        roots: Files and folders of the adapter's own code.
        folder: An empty folder for everything.
        limit: Seconds of processor time, or of waiting, that one run may take.
        runners: Who makes the runs.

    Raises:
        GenBiasError: When a runner itself fails.
    """
    bench = _Bench(task, roots, folder)
    compared = [bench.write("first", isolated=True), bench.write("other", seed=OTHER_SEED, store="first")]
    parts = task.without_groups()
    if any(parts[name] is not task.parts[name] for name in parts):
        # Generated images depend on neither, and the store shares them between runs as it does in a sweep.
        compared.append(bench.write("regrouped", parts=parts, store="first"))
    interrupted = [bench.write("killed", kill=True), bench.write("resumed", place="killed")]
    with ThreadPoolExecutor(2) as pool:
        one, two = (pool.submit(r.run, limit, f) for r, f in zip(runners, (compared, interrupted), strict=True))
        ran = one.result() | two.result()
    first, resumed = ran["first"], ran.get("resumed")
    if first.finished and (resumed is None or resumed.results != first.results):
        # Is it resuming that changes the result?
        ran |= runners[1].run(limit, [bench.write("again")])
    return Runs(**ran)


@dataclass(frozen=True)
class _Bench:
    task: SmallTask
    roots: tuple[Path, ...]
    folder: Path

    def write(
        self,
        name: str,
        *,
        seed: int = SEED,
        isolated: bool = False,
        kill: bool = False,
        parts: dict[str, Part] | None = None,
        place: str = "",
        store: str = "",
    ) -> Path:
        """Write down a run and return its folder.

        Args:
            name: Its name.
            seed: The training seed.
            isolated: As ``evaluate --isolated``.
            kill: End by SIGKILL after the first piece of work.
            parts: Images and labels, if other than the task's.
            place: The run in whose working, home and temporary folders it goes on; by default its own.
            store: The run whose store it uses; by default that of its place.
        """
        notes = make_folder(self.folder / "notes" / name)
        own = self.folder / (place or name)
        for kind in ("work", "home", "tmp"):
            make_folder(own / kind)
        spec = RunSpec(
            place=own, isolated=isolated, kill=kill, frozen=tuple(self.task.frozen.tolist()),
            aligned=self.task.cell.card.law.aligned, roots=self.roots, sources=_sources(self.task),
        )  # fmt: skip
        job = self.task.job(make_folder(self.folder / (store or place or name) / "store"), seed=seed)
        write_job(notes, job, parts or self.task.parts)
        write_json(notes / SPEC, spec.model_dump(mode="json"))
        return notes


def _sources(task: SmallTask) -> tuple[Path, ...]:
    """Return where the data of tasks lie: the small task's own inside a package, and everything that was fetched."""
    found = [home.data_home()]
    if folder := os.environ.get("GENBIAS_DATA"):
        found.append(Path(folder))
    spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        found += [Path(spec.origin).parent / source.location for source in task.cell.card.task.sources]
    return tuple(path.resolve() for path in found)
