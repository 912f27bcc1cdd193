"""Submissions of a made-up plug-in whose records and predictions are those of an accepted run, to be tampered with."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_runs import whole_run

from benchmark.records.canonical import sha256_file, sha256_of
from benchmark.records.files import write_json
from benchmark.records.predictions import StoredPredictions, read_predictions, write_predictions
from benchmark.records.results import RECORD_FILE, read_record, run_folder
from leaderboard.verify import Report, verify

ACCEPTED = Path(__file__).parents[3] / "leaderboard" / "results"
ERM = ACCEPTED / "colorized-digits" / "erm"
FILE = "predictions-real-last.parquet"
ABOUT: dict[str, Any] = {
    "format_version": 1, "method": "acme/method@1", "title": "A method", "authors": ["A. Author"],
    "links": ["https://example.org/method"], "citation": "@misc{acme}", "note": "",
}  # fmt: skip

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One store for all tests here: only pinned splits and accepted records are remembered in it."""
    store = tmp_path_factory.getbasetemp() / "verify-store"
    monkeypatch.setenv("GENBIAS_STORE", str(store))
    return store


@dataclass
class Forge:
    """Makes submissions below a folder.

    Attributes:
        root: The submission folder.
        board: The standing board's folder.
        accepted: Gives the folder of the accepted run of a seed, with all its predictions.
    """

    root: Path
    board: Path
    accepted: Callable[[int], Path]

    def run(
        self, method: str = "acme/method", seed: int = 0, *, below: Path | None = None, change: Change | None = None,
        stored: Callable[[StoredPredictions], StoredPredictions] | None = None,
    ) -> Path:  # fmt: skip
        """Write one run with a single checkpoint, and return its folder.

        Args:
            method: A plug-in's name, or ``erm``.
            seed: Which accepted run it is made from.
            below: The results folder; None is the submission.
            change: Changes the record before it gets its identities.
            stored: Changes the predictions; the record's numbers stay those of the accepted run.
        """
        source = self.accepted(seed)
        content = json.loads((source / RECORD_FILE).read_text(encoding="utf-8"))
        package = method.rpartition("/")[0]
        if package:
            content["method"] |= {"name": method, "origin": "plug-in", "package": package, "package_version": "1.0"}
            content["method"]["source_digest"] = "5" * 64
            content["cell"]["method"] = f"{method}@1"
        checkpoint = content["stages"][0]["checkpoints"][0]
        content["stages"][0]["checkpoints"] = [checkpoint]
        content["artifacts"] = {}
        if change is not None:
            change(content)
        content["cell_id"] = sha256_of(content["cell"])
        content["run_id"] = content["cell_id"][:12]
        name = f"{content['task']['level']}-seed{content['seed']}-{content['run_id']}"
        task_and_method = run_folder(content["task"]["name"], content["method"]["name"])
        folder = (self.root if below is None else below) / task_and_method / name
        folder.mkdir(parents=True)
        shutil.copy(source / FILE, folder / FILE)
        if stored is not None:
            rewrite(folder / FILE, stored)
            checkpoint["predictions"]["sha256"] = sha256_file(folder / FILE)
        (folder / RECORD_FILE).write_text(json.dumps(content), encoding="utf-8")
        return folder

    def cases(self, made: Sequence[Change], tampered: Sequence[Change]) -> list[list[str]]:
        """Verify one submission that holds a run for each change.

        Args:
            made: Changes before a record gets its identities.
            tampered: Changes after that.

        Returns:
            What was found in each run, first the ones made so: severity, check and message.
        """
        changes = [*made, *[_unchanged] * len(tampered)]
        folders = [self.run(change=_numbered(number, change)) for number, change in enumerate(changes)]
        for folder, change in zip(folders[len(made) :], tampered, strict=True):
            edit(folder, change)
        found: list[list[str]] = [[] for _ in folders]
        for each in self.report(cached=False).findings:
            for number, folder in enumerate(folders):
                if each.where.startswith(folder.relative_to(self.root).as_posix()):
                    found[number].append(f"{each.severity}: {each.check}: {each.message}")
        return found

    def about(self, **fields: Any) -> None:
        """Write submission.json."""
        self.root.mkdir(exist_ok=True)
        write_json(self.root / "submission.json", ABOUT | fields)

    def report(self, **options: Any) -> Report:
        """Verify the submission beside the board."""
        self.board.mkdir(exist_ok=True)
        return verify(self.root, board=[self.board], **{"intervals": False, **options})

    def reasons(self, severity: str = "error", **options: Any) -> list[str]:
        """Return the messages of one severity, each behind its check."""
        return [
            f"{each.check}: {each.message}" for each in self.report(**options).findings if each.severity == severity
        ]


def _unchanged(content: dict[str, Any]) -> None:
    del content


def _numbered(number: int, change: Change) -> Change:
    """Return a change that also gives a run an identity of its own."""

    def both(content: dict[str, Any]) -> None:
        content["method"]["hparams"] = content["cell"]["hparams"] = {"case": number}
        change(content)

    return both


def rewrite(file: Path, change: Callable[[StoredPredictions], StoredPredictions]) -> None:
    """Replace a predictions file by a changed one."""
    named = read_record(next(ERM.glob("0.95-seed0-*"))).stages[0].checkpoints[0].predictions
    stored = read_predictions(file, rows=named.rows, rows_digest=named.rows_digest)
    write_predictions(file, change(stored), 10)


def edit(folder: Path, change: Change) -> None:
    """Change a record without giving it new identities."""
    content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    change(content)
    (folder / RECORD_FILE).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    root = tmp_path_factory.mktemp("accepted")

    @functools.cache
    def of_seed(seed: int) -> Path:
        run = next(ERM.glob(f"0.95-seed{seed}-*"))
        return whole_run(run, root / run.name)

    return of_seed


@pytest.fixture
def forge(tmp_path: Path, accepted: Callable[[int], Path]) -> Forge:
    return Forge(tmp_path / "submission", tmp_path / "board", accepted)


@pytest.fixture(scope="module")
def forge_once(tmp_path_factory: pytest.TempPathFactory, accepted: Callable[[int], Path]) -> Forge:
    """A forge for one submission that several tests look at."""
    root = tmp_path_factory.mktemp("once")
    return Forge(root / "submission", root / "board", accepted)


@pytest.fixture
def tamper() -> Callable[[Path, Change], None]:
    return edit


@pytest.fixture
def stored_like() -> Callable[..., StoredPredictions]:
    """Make predictions of a test split of some rows."""

    def make(rows: int, digest: str = "ab" * 32) -> StoredPredictions:
        return StoredPredictions(np.zeros(rows, np.uint8), np.full(rows, 0.5, np.float16), digest)

    return make
