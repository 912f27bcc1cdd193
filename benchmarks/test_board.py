"""Time and memory of building the board from thousands of records, cold and with what an earlier build remembered.

The records are made from the accepted ones: further methods and settings, each with answers of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.contract.registry import source_digest
from benchmark.records.canonical import canonical_json, sha256_file, sha256_hex, sha256_of
from benchmark.records.files import write_json
from benchmark.records.generations import PROCESS
from benchmark.records.predictions import StoredPredictions, write_predictions
from benchmark.records.results import RECORD_FILE, record_files, run_folder
from benchmark.records.schema import Record
from leaderboard.answers import Split, Splits, reduce_answers
from leaderboard.kept import read_labels
from leaderboard.load import load_run
from leaderboard.remembered import Remembered

ACCEPTED = Path(__file__).parents[1] / "leaderboard" / "results"
SIZES = (1_000, 3_000, 10_000)
GROWN = SIZES[-1] + 75
BOUND_S, BOUND_MIB = 10.0, 1024.0
SETTINGS = 8
"""Settings of each made-up method, so that some fifty methods give ten thousand records."""
VARIED = ("adapter_learning_rate", "identification_share")
"""Hyper-parameters of ours that get other values: such copies stay our methods' runs, the others become a plug-in's."""
VARIANTS = 4
"""Different errors that are given to each accepted file of answers; the probabilities differ in every copy."""
MOST_CHANGED = 0.06
VERIFICATION = "verification.json"
CELL_ID, RUN_ID, METHOD, COPY = "0" * 64, "1" * 12, "acme/method", "the number of the copy"


@dataclass
class Template:
    """One accepted run, and texts from which copies are made by replacing a few words."""

    folder: Path
    record: Record
    split: Split

    @property
    def row(self) -> tuple[str, str]:
        return self.record.cell.task, self.record.method.name

    @cached_property
    def files(self) -> list[str]:
        return sorted({c.predictions.file for stage in self.record.stages for c in stage.checkpoints})

    @cached_property
    def answers(self) -> list[list[StoredPredictions]]:
        """Answers of each variant of each file."""
        rows, digest = len(self.split.labels), self.split.rows_digest
        named = {c.predictions.file: c.predictions for stage in self.record.stages for c in stage.checkpoints}
        labels = [
            read_labels(self.folder, self.record, named[file], rows=rows, rows_digest=digest) for file in self.files
        ]
        # Of earlier stages no answers are kept: copies get those of a later one.
        kept = next(label for label in reversed(labels) if label is not None)
        top = np.full(rows, 0.5, np.float16)
        stored = [StoredPredictions(kept if label is None else label, top, digest) for label in labels]
        return [[self._changed(each, variant) for each in stored] for variant in range(VARIANTS)]

    @cached_property
    def texts(self) -> list[str]:
        """The record of each variant in canonical form."""
        return [canonical_json(self._content(variant)).decode() for variant in range(VARIANTS)]

    def _changed(self, stored: StoredPredictions, variant: int) -> StoredPredictions:
        random = np.random.default_rng([variant, self.record.seed])
        label, classes = stored.label.copy(), self.split.labels.n_classes
        moved = random.random(len(label)) < MOST_CHANGED * variant / VARIANTS
        label[moved] = random.integers(0, classes, int(moved.sum()))
        return StoredPredictions(label, stored.top_probability, stored.rows_digest)

    @cached_property
    def varied(self) -> str | None:
        return next((name for name in VARIED if name in self.record.method.hparams), None)

    def hparams(self, value: float | str) -> dict[str, Any]:
        """Return the hyper-parameters of a copy."""
        return self.record.method.hparams | {self.varied or "copy": value}

    def _content(self, variant: int) -> dict[str, Any]:
        content = self.record.model_dump(mode="json")
        content |= {"cell_id": CELL_ID, "run_id": RUN_ID}
        method, hparams = content["method"], self.hparams(COPY)
        method |= {"hparams": hparams, "hparams_changed": hparams, "configuration": "changed"}
        if self.varied:
            method["source_digest"] = source_digest(method["name"])
        else:
            method |= {"name": METHOD, "version": 1, "origin": "plug-in", "package": "acme", "package_version": "1.0"}
            content["cell"]["method"] = f"{METHOD}@1"
        content["cell"]["hparams"] = hparams
        reduced = [reduce_answers(self.split, stored.label) for stored in self.answers[variant]]
        for checkpoint in (c for stage in content["stages"] for c in stage["checkpoints"]):
            position = self.files.index(checkpoint["predictions"]["file"])
            checkpoint["predictions"]["sha256"] = _placeholder(position)
            answers = reduced[position]
            for name, value in answers.values.items():
                metric = {"value": value, "interval": "none", "reason": answers.reasons.get(name, "no interval")}
                checkpoint["metrics"][name] = metric
            shape = (self.split.labels.n_classes, self.split.labels.n_attributes)
            tables = {"n": self.split.sizes, "correct": answers.right}
            checkpoint["groups"] |= {key: table.reshape(shape).tolist() for key, table in tables.items()}
        return content

    def copy_to(self, results: Path, number: int) -> tuple[str, str, str]:
        """Write the numbered copy and return its folder's name, its method, and the digest of the record's content."""
        name = f"acme/{self.record.method.name}-{number // SETTINGS:02}@1"
        value: float = number % SETTINGS
        if self.varied:
            name, value = self.record.cell.method, self.record.method.hparams[self.varied] * (1 + (number + 1) / 1000)
        cell = self.record.cell.model_dump(mode="json") | {"method": name, "hparams": self.hparams(value)}
        cell_id = sha256_of(cell)
        words = {CELL_ID: cell_id, RUN_ID: cell_id[:12], METHOD: name.removesuffix("@1")}
        below = run_folder(self.record.task.name, name.partition("@")[0])
        folder = results / below / f"{cell['level']}-seed{cell['seed']}-{cell_id[:12]}"
        folder.mkdir(parents=True)
        random = np.random.default_rng([number, self.record.seed])
        for position, file in enumerate(self.files):
            stored = self.answers[number % VARIANTS][position]
            top = stored.top_probability.copy()
            top[:8] = random.random(8)  # other bytes, the same answers
            write_predictions(
                folder / file, StoredPredictions(stored.label, top, stored.rows_digest), self.split.labels.n_classes
            )
            words[_placeholder(position)] = sha256_file(folder / file)
        text = self.texts[number % VARIANTS].replace(f'"{COPY}"', repr(value))
        for old, new in words.items():
            text = text.replace(f'"{old}', f'"{new}')
        (folder / RECORD_FILE).write_text(text)
        return folder.name, name, sha256_hex(text.encode())


def _placeholder(position: int) -> str:
    return f"{position:f>64}"


def templates() -> list[Template]:
    """Return the accepted runs of rows with five seeds, those of a method together."""
    splits, found = Splits(Remembered(None)), []
    for file in record_files(ACCEPTED):
        run = load_run(file, {})
        split = splits.of(run)
        shown = run.record.status == "success" and run.record.method.kind != PROCESS
        if shown and isinstance(split, Split) and "-" not in run.record.run_id:
            found.append(Template(file.parent, run.record, split))
    return sorted(found, key=lambda template: template.row)


def make_records(folder: Path, sizes: Sequence[int]) -> None:
    """Write records below a folder, in a part for each size that holds what the smaller ones lack; verify them all."""
    digests: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for number, (template, copied) in enumerate(_copies(sizes[-1])):
        part = folder / str(next(size for size in sizes if number < size))
        run, name, digest = template.copy_to(part, copied)
        digests[template.record.cell.task, name][run] = digest
    entries = [
        {"task": task, "method": method, "level": "replayed", "commit": "c" * 40, "records": records}
        for (task, method), records in digests.items()
    ]
    write_json(folder / VERIFICATION, {"format_version": 1, "release": 1, "entries": entries})


def _copies(number: int) -> Iterator[tuple[Template, int]]:
    found, copied = templates(), 0
    while True:
        for template in found:
            if number == 0:
                return
            yield template, copied
            number -= 1
        copied += 1


@dataclass(frozen=True)
class Built:
    """One build in a process of its own."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    rows: int
    digest: str


def build(folder: Path, number: int, cache: Path) -> Built:
    """Build a board from the records of some size."""
    start = time.perf_counter()
    done = run("build", str(folder), str(number), str(cache))
    return Built(time.perf_counter() - start, **json.loads(done))


def run(*arguments: str) -> str:
    """Run this file in a process of its own, whose memory is only what it needs."""
    return subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    run("make", str(folder), *map(str, (*SIZES, GROWN)))
    return folder


def test_a_board_of_ten_thousand_records(benchmark: Any, records: Path, tmp_path: Path) -> None:
    """Cold: everything is read. Warm: nothing has changed since. Grown: runs are new in most tables."""
    cold: dict[int, Built] = {}
    warm: dict[int, Built] = {}
    grown: dict[int, Built] = {}

    def measure() -> None:
        for size in SIZES:
            cache = tmp_path / f"{size}.sqlite"
            cold[size] = build(records, size, cache)
            # Other processes may share the machine, so the faster of two counts.
            warm[size] = min((build(records, size, cache) for _ in range(2)), key=lambda built: built.seconds)
        grown[GROWN] = build(records, GROWN, cache)

    benchmark.pedantic(measure, rounds=1)
    for state, found in (("cold", cold), ("warm", warm), ("grown", grown)):
        for size, built in found.items():
            figures = {"seconds": built.seconds, "cpu_seconds": built.cpu_seconds, "peak_mib": built.peak_mib}
            benchmark.extra_info[f"{state} {size}"] = figures
            text = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
            sys.stderr.write(f"{state}, {size:,} records, {built.rows:,} rows: {text}\n")
    assert [built.digest for built in warm.values()] == [built.digest for built in cold.values()]
    assert max(built.peak_mib for found in (cold, warm, grown) for built in found.values()) <= BOUND_MIB
    assert warm[SIZES[-1]].seconds <= BOUND_S


def report(folder: Path, number: int, cache: Path) -> dict[str, Any]:
    """Build here and say what it took."""
    from benchmark.records.provenance import peak_memory_bytes
    from leaderboard.build import collect_board
    from leaderboard.markdown import render_markdown

    parts = [part for part in folder.iterdir() if part.is_dir() and int(part.name) <= number]
    board = collect_board(parts, verification=folder / VERIFICATION, cache=cache)
    text = board.model_dump_json() + render_markdown(board)
    return {
        "cpu_seconds": time.process_time(),
        "peak_mib": (peak_memory_bytes() or 0) / 2**20,
        "rows": sum(len(t.rows) for section in board.tasks for rule in section.rules for t in rule.tables),
        "digest": sha256_hex(text.encode()),
    }


if __name__ == "__main__":
    verb, place, *rest = sys.argv[1:]
    if verb == "make":
        make_records(Path(place), [int(size) for size in rest])
    else:
        sys.stdout.write(json.dumps(report(Path(place), int(rest[0]), Path(rest[1]))) + "\n")
