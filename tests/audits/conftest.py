"""Reports of audits: real tasks, real counts and the values of an accepted record; made-up numbers for the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.audits.report import Report
from benchmark.records.results import read_record
from benchmark.records.schema import Record
from benchmark.tasks.card import load_card
from benchmark.tasks.catalog import load_task
from benchmark.tasks.manifest import TRAIN

RESULTS = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits" / "ffr"
FREE = "the attribute was not asked for"

MakeReport = Callable[..., Report]


def value(found: float, width: float | None = 0.02) -> dict[str, Any]:
    if width is None:
        return {"value": found, "low": None, "high": None, "interval": "none", "reason": "no interval: exact"}
    ends = {"low": max(found - width, 0.0), "high": found + width}
    return {"value": found, **ends, "interval": "percentile bootstrap", "reason": None}


def null(reason: str) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "interval": "none", "reason": reason}


@pytest.fixture(scope="session")
def accepted() -> Record:
    """An accepted run of ffr with tiny-sd on colorized-digits at 0.9."""
    runs = map(read_record, sorted(RESULTS.glob("0.9-seed0-*")))
    return next(record for record in runs if not record.method.hparams_changed)


@pytest.fixture(scope="session")
def make_report(accepted: Record) -> MakeReport:
    """Make a report on a task that says everything an audit of whatever kind can say, but for changed fields."""

    def make(task: str = "colorized-digits", **changes: Any) -> Report:
        return Report.model_validate({**content(task, accepted), **changes})

    return make


def content(task: str, accepted: Record) -> dict[str, Any]:
    card = load_card(task)
    block, allowed = card.task, card.allowed_groups()
    aligned = [int(a) for a in card.law.aligned]
    counts = _counts(task, allowed, aligned)
    training = counts / counts.sum()
    is_aligned = np.zeros(counts.shape, dtype=bool)
    is_aligned[np.arange(len(aligned)), aligned] = True
    conflicting = float(training[~is_aligned].sum())
    samples = [_sample(by, training, allowed, is_aligned, accepted) for by in ("class", "group")]
    return {
        "created": "2026-01-31T12:00:00+00:00",
        "seconds": 41.5,
        "subject": {
            "kind": "generator",
            "name": "tiny-sd",
            "identity": accepted.pools[0].recipe["generator"],
            "pool_ids": [accepted.pools[0].pool_id],
        },
        "task": {
            "id": card.id,
            "level": "0.9",
            "draw": 0,
            "split_digest": accepted.task.split_digest,
            "faces": block.faces,
            "label": block.label.name,
            "labels": list(block.label.values),
            "attribute": block.attribute.name,
            "attributes": list(block.attribute.values),
            "aligned": aligned,
            "possible": [np.flatnonzero(row).tolist() for row in allowed],
        },
        "training": {
            "counts": counts.tolist(),
            "conflicting": conflicting,
            "information_y_a": value(2.586, None),
        },
        "auditors": {of: info.model_dump(mode="json") for of, info in accepted.auditors.items()},
        "held_out": {
            "images": 600,
            "shares": (allowed / allowed.sum()).tolist(),
            "raw": (0.98 * allowed / allowed.sum() + 0.02 * allowed.mean() / allowed.size).tolist(),
            "conflicting": 1 - 1 / allowed.sum(axis=1).mean(),
            "conflicting_raw": value(1 - 1 / allowed.sum(axis=1).mean() + 0.002),
        },
        "samples": samples,
        "typicality": _typicality(allowed),
        "transfer": _transfer(allowed),
        "matched": _matched(len(block.label.values), len(block.attribute.values)),
        "extractors": {
            "fid": "penultimate features of the auditor of y",
            "probes": "penultimate features of an ERM model of the training data with these images",
        },
        "environment": accepted.environment.model_dump(mode="json"),
        "notes": ["memory of the network was not measured: nothing asks for it"],
    }


def _counts(task: str, allowed: np.ndarray, aligned: list[int]) -> np.ndarray:
    if task == "colorized-digits":
        rows = load_task(task).manifest("0.9", 0).splits[TRAIN]
        counts = np.zeros(allowed.shape, dtype=np.int64)
        np.add.at(counts, (rows.y, rows.a), 1)
        return counts
    counts = np.where(allowed, 25, 0)
    counts[np.arange(len(aligned)), aligned] = 900
    return counts


def _sample(
    by: str, training: np.ndarray, allowed: np.ndarray, is_aligned: np.ndarray, accepted: Record
) -> dict[str, Any]:
    pool, probes = accepted.pools[0], accepted.stages[0].probes
    uniform = allowed / allowed.sum()
    # Asked for by class alone, the made-up generator keeps half of the bias-conflicting share of every other class.
    factor = np.where(np.arange(len(training)) % 2, 0.5, 0.95)[:, None]
    shares = np.where(is_aligned, training, training * factor) if by == "class" else uniform * 0.97
    shares = shares + (1 - shares.sum()) * is_aligned / len(training)
    fidelity = {name: metric.model_dump(mode="json") for name, metric in pool.label_fidelity.items()}
    if by == "class":
        fidelity |= dict.fromkeys(("a", "a_raw"), null(FREE))
    grid = np.linspace(0.05, 0.95, allowed.size).reshape(allowed.shape)
    quality = {
        "precision": _within(grid, allowed),
        "recall": _within(grid[::-1] / 2, allowed),
        "density": _within(grid * 1.2, allowed),
        "coverage": _within(grid[:, ::-1], allowed),
    }
    quality["recall"][0][int(np.argmax(allowed[0]))] = None
    judged = [_judged(training, shares, is_aligned, [c], by) for c in range(len(training))]
    return {
        "asked_by": by,
        "images": pool.kept,
        "fidelity": fidelity,
        "y_by_class": [value(0.3 + 0.6 * c / len(training), 0.06) for c in range(len(training))],
        "by_group": None
        if by == "class"
        else {
            "images": (20 * allowed).tolist(),
            **{
                of: {
                    "value": _within(table, allowed),
                    "low": _within(table - 0.05, allowed),
                    "high": _within(table + 0.05, allowed),
                }
                for of, table in (("y", grid), ("a", 1 - grid / 20))
            },
        },
        "groups": {
            "asked": np.full(allowed.shape, None).tolist() if by == "class" else uniform.tolist(),
            "raw": (0.95 * shares + 0.05 * uniform).tolist(),
            "corrected": shares.tolist(),
            "low": (0.8 * shares).tolist(),
            "high": (1.2 * shares + 0.001).tolist(),
            "conflicting": value(float(shares[~is_aligned].sum())),
            "conflicting_raw": value(float(shares[~is_aligned].sum()) + 0.03),
            "information_y_a": value(1.9),
            "absent": [[0, int(np.argmax(allowed[0]))]],
            "extractor": "penultimate features of the auditor of y",
            "neighbours": 3,
            **quality,
        },
        "conflicting": _judged(training, shares, is_aligned, list(range(len(training))), by),
        "conflicting_by_class": judged,
        **{name: pool.quality[name].model_dump(mode="json") for name in ("memorised_share", "fid", "kid")},
        "probes": {name: metric.model_dump(mode="json") for name, metric in probes.items()},
        "information_y_a": value(1.2, None),
        "information_y_ag": value(1.4, None),
    }


def _judged(
    training: np.ndarray, shares: np.ndarray, is_aligned: np.ndarray, classes: list[int], by: str
) -> dict[str, Any]:
    before, after = (
        float(np.where(is_aligned, 0, table)[classes].sum() / table[classes].sum()) for table in (training, shares)
    )
    if by == "group":
        reason = "the attribute was asked for, so its shares say nothing of the generator's own"
        return {"training": before, "generated": null(reason), "verdict": "not measured", "why": reason}
    low, high = max(after - 0.015, 0.0), after + 0.02
    verdict = "amplified" if high < before else "replicated"
    where = "below" if verdict == "amplified" else "around"
    return {
        "training": before,
        "generated": {**value(after), "low": low, "high": high},
        "verdict": verdict,
        "why": f"The interval of the corrected share lies {where} the share in the training data.",
    }


def _within(table: np.ndarray, allowed: np.ndarray) -> list[list[float | None]]:
    return [
        [float(cell) if inside else None for cell, inside in zip(*row, strict=True)]
        for row in zip(table, allowed, strict=True)
    ]


def _typicality(allowed: np.ndarray) -> dict[str, Any]:
    groups = [
        {
            "y": int(y),
            "a": int(a),
            "mean": value(0.004 + 0.0005 * k % 0.01, 0.001),
            "most": [{"index": 3 * k, "typicality": 0.02}, {"index": 3 * k + 1, "typicality": 0.01}],
            "least": [{"index": 3 * k + 2, "typicality": -0.003}],
        }
        for k, (y, a) in enumerate(np.argwhere(allowed))
    ]
    return {"of": "real", "draws": 16, "groups": groups}


def _moved(n: int, kept: float, reached: float) -> dict[str, Any]:
    parts = {"y_kept": kept, "a_reached": reached, "both": kept * reached}
    return {
        "images": n,
        **{name: value(found) for name, found in parts.items()},
        **{f"{name}_raw": value(found - 0.01) for name, found in parts.items()},
    }


def _transfer(allowed: np.ndarray) -> dict[str, Any]:
    together = (allowed.T.astype(np.int64) @ allowed > 0) & ~np.eye(allowed.shape[1], dtype=bool)
    pairs = [
        {"source": int(s), "target": int(t), "moved": _moved(20, 0.5 + 0.4 * s / len(together), 0.9)}
        for s, t in np.argwhere(together)
    ]
    return {"overall": _moved(1800, 0.71, 0.92), "pairs": pairs}


def _matched(labels: int, attributes: int) -> dict[str, Any]:
    def condition(name: str, conflicting: float, *, shifted: bool) -> dict[str, Any]:
        shift = {
            "y": [value(0.001)] * labels,
            "a": [{**value(0.0), "low": -0.02}] * attributes,
            "conflicting": {**value(0.0), "value": -0.79, "low": -0.82, "high": -0.76},
        }
        return {
            "name": name,
            "y": [value(1 / labels)] * labels,
            "a": [value(1 / attributes)] * attributes,
            "conflicting": value(conflicting),
            "shift": shift if shifted else None,
        }

    return {
        "codes": 256,
        "conditions": [condition("balanced", 0.9, shifted=False), condition("0.99", 0.11, shifted=True)],
    }
