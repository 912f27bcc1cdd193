"""Workers that fill one store and one results folder and are killed at random; `test_store_under_kill` runs this.

Usage: python killed_workers.py ROOT RECORD SEED KILLS. It forks workers and a reader, kills workers, starts others in
their place, lets the last ones finish, and prints what it saw as JSON. It forks because an import outlasts a life.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  # or every worker would import it
import numpy as np
import pyarrow.parquet  # noqa: F401
from numpy.typing import NDArray

from benchmark.generators import pools
from benchmark.generators.pools import Pool
from benchmark.generators.recipe import PoolRecipe
from benchmark.records.canonical import sha256_hex
from benchmark.records.files import temporary_folder
from benchmark.records.results import (
    RECORD_FILE,
    damaged_predictions,
    find_success,
    publish_run,
    read_record,
    run_folder,
)
from benchmark.records.schema import Record
from benchmark.records.store import Store, verify_sealed

WORKERS = 3
EXPIRES_S = 0.4
LONGEST_LIFE_S = 0.2
ENTRIES = 2  # of each round, and as many without claims
POOL_ROUNDS = 4  # a pool grows for so many rounds, then a new one begins
POOL_STEP = 3  # images of each group that a round adds
FINISH_S = 60.0


class Noise:
    """A sampler that needs no model: pixels drawn from the seed."""

    def conditions(self) -> dict[str, Any]:
        return {}

    def sample(self, prompts: Sequence[str], negative: Sequence[str], seeds: Sequence[int], **options: Any) -> Any:
        return np.stack([pixels(seed, options["height"]) for seed in seeds])


def pixels(seed: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def recipe_of(number: int) -> PoolRecipe:
    return PoolRecipe(
        task="colorized-digits@1",
        generator={"kind": "hub", "name": "org/sd", "revision": "0" * 40, "content_sha256": None},
        prompts={(0, 0): "a red zero", (1, None): f"a one, {number}"},
        negative_prompt="",
        scheduler="native",
        steps=1,
        guidance=2.0,
        image_size=8,
        batch_size=2,
    )


def pool_of(turn: int) -> tuple[int, dict[tuple[int, int | None], int]]:
    """Return which pool a round extends, and how many images of each group it then has."""
    number, step = divmod(turn, POOL_ROUNDS)
    return number, dict.fromkeys(((0, 0), (1, None)), POOL_STEP * (step + 1))


def contents(key: str) -> dict[str, bytes]:
    """Return the files of an entry: what they hold follows from its key."""
    return {f"{k}/f" if k else "f": hashlib.sha256(f"{key} {k}".encode()).digest() * 200 for k in range(3)}


def cell_of(turn: int) -> str:
    return sha256_hex(f"cell {turn}".encode())


class Work:
    """All pieces of work of the rounds, on one store and one results folder."""

    def __init__(self, root: Path, record: Record) -> None:
        self.store, self.results = Store(root / "store", claim_expires_s=EXPIRES_S), root / "results"
        self.record = record
        self.prefix = run_folder(record.task.name, record.method.name)

    def pieces(self, turn: int) -> list[Callable[[], None]]:
        keys = [f"{turn:04d}-{k}" for k in range(ENTRIES)]
        claimed = [lambda key=key: self._produce(key) for key in keys]
        free = [lambda key=key: self._publish(key) for key in keys]
        return [*claimed, *free, lambda: self._extend_pool(turn), lambda: self._run_cell(turn)]

    def _build(self, key: str) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            for name, content in contents(key).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
                time.sleep(0.003)

        return build

    def _produce(self, key: str) -> None:
        self.store.produce("claimed", key, self._build(key))

    def _publish(self, key: str) -> None:
        """Work without a claim: done by every worker, published by one."""
        if self.store.load("free", key) is None:
            self.store.publish("free", key, self._build(key))

    def _extend_pool(self, turn: int) -> None:
        number, counts = pool_of(turn)
        pool = Pool(self.store, recipe_of(number))
        pool.ensure(counts, Noise)
        pool.read(counts)

    def _run_cell(self, turn: int) -> None:
        cell = cell_of(turn)
        with self.store.claim(f"cell-{cell}"):
            if find_success(self.results, cell, self.prefix) is None:
                with temporary_folder(self.results) as folder:
                    publish_run(folder, self.results, self._answered(folder, cell))

    def _answered(self, folder: Path, cell: str) -> Record:
        content = self.record.model_dump(mode="json") | {"cell_id": cell}
        for stage in content["stages"]:
            for checkpoint in stage["checkpoints"]:
                file = checkpoint["predictions"]
                answers = f"{cell} {file['file']}".encode() * 50
                (folder / file["file"]).write_bytes(answers)
                file["sha256"] = sha256_hex(answers)
        return Record.model_validate(content)

    def newest(self) -> int:
        """Return the newest round of which an entry is published."""
        folders = [path for kind in ("claimed", "free") for path in visible(self.store.root / kind)]
        return max((int(folder.name[:4]) for folder in folders), default=0)


def visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def run_rounds(work: Work, first: int, last: Path, seed: int) -> None:
    """Do round after round, each in an order of this worker's own, until the file ``last`` names the one to stop at."""
    order, turn = random.Random(seed), first
    while not (last.exists() and turn > int(last.read_text())):
        pieces = work.pieces(turn)
        order.shuffle(pieces)
        for piece in pieces:
            piece()
        turn += 1


def read_all(work: Work, last: Path) -> None:
    """Verify everything at its first sight, until the workers are to stop."""
    seen: set[Path] = set()
    while not last.exists():
        root = work.store.root
        sealed = [*visible(root / "claimed"), *visible(root / "free")]
        sealed += [shard for pool in visible(root / "pools") for shard in visible(pool)]
        for folder in set(sealed) - seen:
            verify_sealed(folder)
        runs = set(visible(work.results / work.prefix))
        for run in runs - seen:
            record = read_record(run / RECORD_FILE)
            assert not damaged_predictions(run, record), run
        seen |= {*sealed, *runs}
        time.sleep(0.005)


def fork(task: Callable[[], None], errors: Path) -> int:
    """Run ``task`` in a process of its own; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        task()
        code = 0
    except BaseException:
        with errors.open("a") as stream:
            stream.write(traceback.format_exc())
    finally:
        os._exit(code)


class Killer:
    """Starts workers and kills them."""

    def __init__(self, root: Path, work: Work, seed: int) -> None:
        self._work, self._errors, self._last = work, root / "errors.txt", root / "last.txt"
        self._random = random.Random(seed)
        self._errors.touch()

    def run(self, kills: int) -> dict[str, Any]:
        reader = self._fork(lambda: read_all(self._work, self._last))
        workers = [self._start() for _ in range(WORKERS)]
        killed = 0
        while killed < kills:
            time.sleep(self._random.uniform(0, LONGEST_LIFE_S))
            chosen = self._random.randrange(WORKERS)
            os.kill(workers[chosen], signal.SIGKILL)
            killed += os.waitpid(workers[chosen], 0)[1] == signal.SIGKILL
            workers[chosen] = self._start()
        newest = self._work.newest()
        self._last.with_suffix(".new").write_text(str(newest + 1))
        self._last.with_suffix(".new").rename(self._last)
        codes = [self._wait(process) for process in (*workers, reader)]
        # A piece whose every worker was killed is missing in an old round; one more worker goes over all of them.
        codes.append(self._wait(self._start(first=0)))
        return {"killed": killed, "codes": codes, "errors": self._errors.read_text()}

    def _start(self, first: int | None = None) -> int:
        begin = max(0, self._work.newest() - 1) if first is None else first
        seed = self._random.randrange(2**32)
        return self._fork(lambda: run_rounds(self._work, begin, self._last, seed))

    def _fork(self, task: Callable[[], None]) -> int:
        return fork(task, self._errors)

    def _wait(self, process: int) -> int:
        deadline = time.monotonic() + FINISH_S
        while time.monotonic() < deadline:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return -signal.SIGKILL


def main() -> None:
    root, record, seed, kills = Path(sys.argv[1]), read_record(Path(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4])
    pools.PIECE_IMAGES = 2
    (root / "results").mkdir()
    sys.stdout.write(json.dumps(Killer(root, Work(root, record), seed).run(kills)))


if __name__ == "__main__":
    main()
