"""Records of runs that never ran: real identities, real files, made-up answers of a known quality."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.evaluation.draft import draft_record
from benchmark.evaluation.scoring import labels_of
from benchmark.metrics.amplification import bias_retained, why_not_retained
from benchmark.metrics.crossed import agreeing_pairs, answers_by_unit, flip_rate
from benchmark.metrics.groups import count_groups
from benchmark.records.canonical import derive_seed, sha256_file, sha256_of
from benchmark.records.files import temporary_folder, write_json
from benchmark.records.predictions import StoredPredictions, write_predictions
from benchmark.records.results import RECORD_FILE, publish_run
from benchmark.records.schema import Environment, Isolation, Record
from benchmark.tasks.manifest import TEST, TRAIN
from leaderboard.build import collect_board
from leaderboard.hub import Hub, Patience
from leaderboard.models import Board, Row, Table
from leaderboard.verification import record_digest

sys.path.append(str(Path(__file__).parent))
from hub_server import WRITER, HubServer

COMMIT = "c" * 40
RULES = ("last", "val-average", "val-worst-group")
TASK = "colorized-digits@1"
_ENVIRONMENT = Environment(
    environment_id="e" * 64, git_commit=COMMIT, git_dirty=False, packages={}, python="3.11.0", system="Linux x86_64",
    device="a processor", device_kind="cpu", cpu_capability="AVX2", precision="float32", threads=1,
)  # fmt: skip
_ISOLATION = Isolation(requested=True, separate_process=True, test_split_absent=True, network_blocked=True, limits=[])


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store in which builds remember what they found out."""
    store = tmp_path / "store"
    monkeypatch.setenv("GENBIAS_STORE", str(store))
    return store


@functools.cache
def _cell(level: str, seed: int) -> tuple[ResolvedCell, dict[str, Any]]:
    cell = resolve_cell(Request("erm", level=level, seed=seed))
    return cell, draft_record(cell, _ENVIRONMENT, _ISOLATION).model_dump(mode="json")


@functools.cache
def _answers(level: str, seed: int, name: str, conflicting: float) -> np.ndarray:
    """Aligned images are always right; conflicting ones in that share, else answered with the colour's digit."""
    cell, _ = _cell(level, seed)
    rows = cell.manifest.splits[TEST]
    rng = np.random.default_rng(derive_seed(name=name, seed=seed))
    right = (rows.y == rows.a) | (rng.random(len(rows)) < conflicting)
    return np.where(right, rows.y, rows.a).astype(np.int64)


@functools.cache
def _scored(level: str, seed: int, name: str, conflicting: float) -> tuple[dict[str, Any], dict[str, Any]]:
    cell, _ = _cell(level, seed)
    test, label = labels_of(cell.task, cell.manifest), _answers(level, seed, name, conflicting)
    counts, train = count_groups(test, label), cell.manifest.counts(TRAIN)
    share = counts.correct / counts.n
    aligned, others = share[test.aligned].mean(), share[~test.aligned].mean()
    reason = why_not_retained(test, counts, train)
    values = {
        "acc_mean": counts.correct.sum() / counts.n.sum(),
        "acc_group_mean": share.mean(),
        "acc_worst_group": share.min(),
        "acc_aligned": aligned,
        "acc_conflicting": others,
        "gap": aligned - others,
        "flip_rate": flip_rate(float(agreeing_pairs(answers_by_unit(test, label)).sum()), len(test) / 10, 10),
        "bias_retained": None if reason else float(bias_retained(test, counts, train)),
    }
    metrics = {
        key: {"value": None if value is None else float(value), "interval": "none", "reason": reason}
        for key, value in values.items()
    }
    # The board reads no interval of groups, and writing thousands of nulls would be most of the tests' time.
    return metrics, {"n": counts.n.tolist(), "correct": counts.correct.tolist(), "low": [], "high": []}


STUDY = "7" * 64
TUNED = {
    "configuration": "tuned",
    "tuning": {
        "study": STUDY, "trial": 3, "trials": 12, "criterion": "val-average", "expected_best": [0.9, 0.8, 0.7],
    },
}  # fmt: skip
"""What a record says of a method whose configuration a study chose."""


def as_trial(content: dict[str, Any]) -> None:
    """Turn the record of a run into that of a trial."""
    content["kind"] = "trial"
    content["trial"] = {"study": STUDY, "number": 0, "criterion": "val-average", "value": 0.7}
    content["cell"]["tuning"] = STUDY
    for stage in content["stages"]:
        stage["checkpoints"] = []


@dataclass
class Maker:
    """Makes records below one folder.

    Attributes:
        results: The results folder.
        cache: Where runs are kept for other tests.
        entries: Entries of the verification file that :meth:`board` uses.
    """

    results: Path
    cache: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    release: int = 1

    def run(
        self,
        name: str = "erm",
        seed: int = 0,
        *,
        conflicting: float = 0.5,
        level: str = "0.95",
        status: str = "success",
        stages: Mapping[str, float] | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
        **method: Any,
    ) -> Path:
        """Publish one run and return its folder.

        Args:
            name: ``erm`` keeps its real description; any other name is a plug-in's.
            seed: Seed.
            conflicting: Accuracy on conflicting images.
            level: Bias level.
            status: Of the record.
            stages: Earlier stages and their accuracies.
            change: Changes the record's content before it gets its cell_id.
            **method: Fields of the record's ``method``.
        """
        made = functools.partial(self._make, name, seed, conflicting, level, status, stages or {}, change, method)
        key = sha256_of([name, seed, conflicting, level, status, stages, method])
        if change is not None:
            return made(self.results)
        # Most tests want the same runs: each is made once and copied.
        if not (self.cache / key).is_dir():
            made(self.cache / key)
        source = next(file.parent for file in (self.cache / key).rglob(RECORD_FILE))
        target = self.results / source.relative_to(self.cache / key)
        return made(self.results) if target.exists() else shutil.copytree(source, target)

    def _make(
        self,
        name: str,
        seed: int,
        conflicting: float,
        level: str,
        status: str,
        stages: Mapping[str, float],
        change: Callable[[dict[str, Any]], None] | None,
        method: dict[str, Any],
        results: Path,
    ) -> Path:
        cell, draft = _cell(level, seed)
        content = copy.deepcopy(draft)
        if name != "erm":
            content["method"] |= {"name": name, "origin": "plug-in", "package": name.partition("/")[0]}
            content["method"] |= {"package_version": "1.0", "source_digest": "5" * 64}
            content["cell"]["method"] = f"{name}@1"
        content["method"] |= method
        content["cell"]["hparams"] = content["method"]["hparams"]
        if "tuning" in method:
            content["cell"]["tuning"] = method["tuning"]["study"]
        if status == "success":
            content |= {"budget": _budget(cell), "cost": _COST, "finished": content["started"]}
        content["status"] = status
        with temporary_folder(results) as folder:
            if status == "success":
                named = {**stages, "real": conflicting}
                content["stages"] = [
                    self._stage(folder, content, stage, level, seed, name, quality) for stage, quality in named.items()
                ]
                _divide(content["budget"]["steps_used"], content["stages"])
            if change is not None:
                change(content)
                _cover(content)
            content["cell_id"] = sha256_of(content["cell"])
            content["run_id"] = content["cell_id"][:12]
            return publish_run(folder, results, Record.model_validate(content))

    def _stage(
        self, folder: Path, content: dict[str, Any], stage: str, level: str, seed: int, name: str, quality: float
    ) -> dict[str, Any]:
        cell, _ = _cell(level, seed)
        # Copies: a test may change what it gets.
        metrics, groups = copy.deepcopy(_scored(level, seed, name, quality))
        label = _answers(level, seed, name, quality)
        file = f"predictions-{stage}-last.parquet"
        digest = cell.manifest.splits[TEST].digest
        write_predictions(
            folder / file, StoredPredictions(label.astype(np.uint8), np.full(len(label), 0.5, np.float16), digest), 10
        )
        predictions = {
            "file": file, "sha256": sha256_file(folder / file), "rows": len(label), "rows_digest": digest,
        }  # fmt: skip
        own = content["method"]["track"]
        worst = "val-select" if own == "none" else own
        return {
            "name": stage, "steps": 600, "seconds": 10.0, "remembered": False, "mixture": None, "curves": [],
            "checkpoints": [
                {
                    "rule": rule, "track": worst if rule == "val-worst-group" else own, "step": 600,
                    "weights_sha256": "0" * 64, "predictions": predictions, "metrics": metrics, "groups": groups,
                }
                for rule in RULES
            ],
        }  # fmt: skip

    def row(
        self, name: str = "erm", conflicting: float = 0.5, *, seeds: int | tuple[int, ...] = 5,
        verified: str | None = "maintained", **keywords: Any,
    ) -> list[Path]:  # fmt: skip
        """Publish the seeds of one row; their accuracies differ by chance only."""
        chosen = tuple(range(seeds)) if isinstance(seeds, int) else seeds
        folders = [self.run(name, seed, conflicting=conflicting, **keywords) for seed in chosen]
        if verified is not None:
            self.verify(folders, verified)
        return folders

    def verify(self, folders: list[Path], level: str, **fields: Any) -> None:
        """Add an entry for some runs."""
        contents = {folder.name: json.loads((folder / RECORD_FILE).read_text()) for folder in folders}
        first = next(iter(contents.values()))["cell"]
        entry = {"task": first["task"], "method": first["method"], "level": level, "commit": COMMIT}
        entry["records"] = {name: record_digest(content, name) for name, content in contents.items()}
        self.entries.append(entry | fields)

    @property
    def verification(self) -> Path:
        """The verification file, as the entries are now."""
        path = self.results.parent / "verification.json"
        write_json(path, {"format_version": 1, "release": self.release, "entries": self.entries})
        return path

    def board(self) -> Board:
        """Collect the board."""
        self.results.mkdir(exist_ok=True)
        return collect_board([self.results], verification=self.verification)

    def table(self, rule: str = "last", level: str = "0.95") -> Table:
        """Collect the board and return one of its tables."""
        section = next(s for s in self.board().tasks[0].rules if s.rule == rule)
        return next(table for table in section.tables if table.level == level)

    def rows(self, rule: str = "last", level: str = "0.95") -> dict[str, Row]:
        """Collect the board and return the rows of one table by the bare name of their method."""
        return {row.method.removesuffix("@1"): row for row in self.table(rule, level).rows}


def metric(value: float | None, low: float | None = None, high: float | None = None, text: str = "") -> dict[str, Any]:
    """Return a measurement as records hold it; the text is how its interval was made, or why there is none."""
    apart = {"interval": "none", "reason": text or "no interval"} if low is None else {"interval": text or "exact"}
    return {"value": value, "low": low, "high": high, "reason": None} | apart


EXTRACTOR = "penultimate features of the auditor of y"
MEASURES = {
    "y": metric(0.9, 0.88, 0.92), "y_raw": metric(0.85, 0.83, 0.87),
    "a": metric(0.99, 0.98, 1.0), "a_raw": metric(0.97, 0.96, 0.98),
    "memorised_share": metric(0.012, 0.008, 0.018, "exact; L2 on 32x32 pixels to 990 of 990 training images"),
    "fid": metric(12.345, text=f"no interval: FID of 190 real and 1980 generated images, on {EXTRACTOR}"),
    "kid": metric(0.01234, 0.01, 0.015, f"±1.96 standard deviations over 100 subsets of 95 images, on {EXTRACTOR}"),
}  # fmt: skip


def pool_of(kept: int = 100, sampled: int | None = None, seconds: float = 1.0, **parts: Any) -> dict[str, Any]:
    """Return a pool as a record of schema 1.2 holds it.

    Args:
        kept: Images that the method saw.
        sampled: Images that were made; None is as many.
        seconds: Of sampling.
        **parts: ``tuning``, ``filter``, or single measurements that are not those of MEASURES.
    """
    measures = MEASURES | {name: found for name, found in parts.items() if name in MEASURES}
    return {
        "pool_id": "0" * 64, "recipe": {}, "ranges": {}, "rows_sha256": "0" * 64, "kept": kept,
        "sampled": kept if sampled is None else sampled, "seconds": seconds,
        "label_fidelity": {name: measures[name] for name in ("y", "y_raw", "a", "a_raw")},
        "quality": {name: measures[name] for name in ("memorised_share", "fid", "kid")},
        "tuning": parts.get("tuning"), "filter": parts.get("filter"),
    }  # fmt: skip


def tuning_of(kind: str, adapters: Mapping[str, str], seconds: float = 60.0) -> dict[str, Any]:
    """Return a fine-tuning with one-letter names for the adapters of each group."""
    uses = {
        group: [{"sha256": letter * 64, "name": f"{group} {letter}", "images": 9} for letter in letters]
        for group, letters in adapters.items()
    }
    return {"kind": kind, "settings": {}, "adapters": uses, "seconds": seconds, "prior_images": 0}


def filter_of(kind: str, model: str) -> dict[str, Any]:
    """Return a filter."""
    return {"kind": kind, "model": model, "kept_indices": {}, "mean_score_kept": 0.9, "mean_score_dropped": 0.1}


def mixture_of(real: int, generated: int, bits: float | None = 0.5, more: float | None = 0.75) -> dict[str, Any]:
    """Return a mixture of ten classes with so many images in one group; ``bits`` and ``more`` are its information."""

    def table(n: int) -> list[list[int]]:
        return [[n if y == a == 0 else 0 for a in range(10)] for y in range(10)]

    return {
        "real": table(real), "synthetic": table(generated), "synthetic_without_attribute": [0] * 10,
        "information_y_a": metric(bits, text="it is unknown"), "information_y_ag": metric(more, text="it is unknown"),
    }  # fmt: skip


def probes_of(a: float, g: float, ag: float) -> dict[str, Any]:
    """Return probes with the chance levels of ten attribute values."""
    values = {"a": a, "g": g, "ag": ag}
    chance = {"a_chance": metric(0.1), "g_chance": metric(0.5), "ag_chance": metric(0.05)}
    return {name: metric(value, value - 0.1, min(value + 0.1, 1.0)) for name, value in values.items()} | chance


_COST = {
    "wall_seconds": 12.0, "training_seconds": 10.0, "generator_seconds": 0.0, "peak_memory_bytes": None,
    "peak_device_memory_bytes": None, "energy_joules": {"value": None, "interval": "none", "reason": "not read"},
}  # fmt: skip


def _budget(cell: ResolvedCell) -> dict[str, int]:
    budget = cell.budget
    return {
        "synthetic_allowed": budget.synthetic, "synthetic_kept": 0, "sampled_allowed": budget.sampled, "sampled": 0,
        "steps_allowed": budget.steps, "steps_used": budget.steps,
    }  # fmt: skip


def _divide(steps: int, stages: list[dict[str, Any]]) -> None:
    """Give every stage the same number of optimiser steps; the last takes what rounding left."""
    for stage in stages:
        stage["steps"] = steps // len(stages)
    stages[-1]["steps"] += steps % len(stages)


def _cover(content: dict[str, Any]) -> None:
    """Let the budget cover the pools that a test put in: a record that says otherwise cannot be read at all."""
    for name, of in (("kept", "synthetic"), ("sampled", "sampled")):
        total = sum(pool[name] for pool in content.get("pools", ()))
        if content.get("budget") and total:
            used, allowed = (
                ("synthetic_kept", "synthetic_allowed") if of == "synthetic" else ("sampled", "sampled_allowed")
            )
            content["budget"][used] = max(content["budget"][used], total)
            content["budget"][allowed] = max(content["budget"][allowed], total)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """What makes parts of a record about generated images."""
    return SimpleNamespace(
        metric=metric, pool=pool_of, tuning=tuning_of, filter=filter_of, mixture=mixture_of, probes=probes_of,
        tuned=TUNED, as_trial=as_trial,
    )  # fmt: skip


@pytest.fixture
def maker(tmp_path: Path, cache: Path) -> Maker:
    return Maker(tmp_path / "results", cache)


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in for the Hub, and no trace of the user's own account, token or cache."""
    for name, value in {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    # Read from the environment when the client is imported, which other tests may have done.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture
def hub(hub_server: HubServer) -> Callable[..., Hub]:
    """Make a client of the stand-in that does not wait long."""
    quick = Patience(delays_s=(0.01, 0.01), read_s=10.0)
    return lambda token=WRITER, patience=quick: Hub(token, hub_server.url, patience)
