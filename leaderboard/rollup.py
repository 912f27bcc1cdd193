"""All accepted records as one flat Parquet table: a row for each record, stage and selection rule."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.metrics.registry import METRICS
from benchmark.records.results import run_folder_name
from benchmark.records.schema import CheckpointResult, Record, StageResult
from leaderboard.load import Run

if TYPE_CHECKING:
    import pyarrow as pa

_TEXT, _WHOLE, _REAL, _TRUTH = "string", "int64", "double", "bool"
_COLUMNS = {
    "task": _TEXT, "task_version": _WHOLE, "level": _TEXT, "draw": _WHOLE, "seed": _WHOLE, "recipe": _TEXT,
    "method": _TEXT, "method_version": _WHOLE, "kind": _TEXT, "configuration": _TEXT, "hparams_changed": _TEXT,
    "generator": _TEXT, "oracle": _TRUTH, "track": _TEXT, "rule": _TEXT, "stage": _TEXT, "is_last_stage": _TRUTH,
    "step": _WHOLE, "verification": _TEXT, "ranking_metric": _TEXT, "n_train": _WHOLE, "smallest_group": _WHOLE,
    "test_rows": _WHOLE, "pinned": _TEXT, "synthetic_allowed": _WHOLE, "synthetic_kept": _WHOLE,
    "sampled_allowed": _WHOLE, "sampled": _WHOLE, "steps_allowed": _WHOLE, "steps_used": _WHOLE,
    "wall_seconds": _REAL, "training_seconds": _REAL, "generator_seconds": _REAL, "auxiliary_seconds": _REAL,
    "energy_joules": _REAL, "peak_memory_bytes": _WHOLE, "peak_device_memory_bytes": _WHOLE, "device_kind": _TEXT,
    "device": _TEXT, "precision": _TEXT, "schema_version": _TEXT, "metrics_version": _WHOLE, "run_id": _TEXT,
    "cell_id": _TEXT, "folder": _TEXT,
}  # fmt: skip
_METRICS = [name for name, metric in METRICS.items() if metric.scope in ("predictions", "views")]


def rollup_parquet(runs: Sequence[Run]) -> bytes:
    """Return the table of some runs as a Parquet file; with one version of pyarrow, equal runs give equal bytes.

    Each metric has three columns: its name, and ``_low`` and ``_high`` for its 95 % interval from test sampling.
    Undefined is null. Runs without results, such as skipped ones, have no row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for run in sorted(runs, key=lambda run: run_folder_name(run.record)) for row in _rows(run)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), buffer, compression="zstd")
    return buffer.getvalue()


def _schema() -> pa.Schema:
    import pyarrow as pa

    metrics = {f"{name}{end}": _REAL for name in _METRICS for end in ("", "_low", "_high")}
    return pa.schema([pa.field(name, pa.type_for_alias(kind)) for name, kind in (_COLUMNS | metrics).items()])


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    about = _about(run)
    for stage in run.record.stages:
        for checkpoint in stage.checkpoints:
            yield about | _of_checkpoint(run.record, stage, checkpoint)


def _about(run: Run) -> dict[str, Any]:
    """Return what all rows of a run share."""
    record = run.record
    task, method, where = record.task, record.method, record.environment
    generator = record.cell.generator
    cost = {} if record.cost is None else record.cost.model_dump(exclude={"energy_joules"})
    return {
        **({} if record.budget is None else record.budget.model_dump()),
        **cost,
        "energy_joules": record.cost and record.cost.energy_joules.value,
        **{name: getattr(task, name) for name in ("level", "draw", "recipe", "ranking_metric", "n_train")},
        **{name: getattr(task, name) for name in ("smallest_group", "test_rows", "pinned")},
        **{name: getattr(method, name) for name in ("kind", "configuration", "oracle")},
        **{name: getattr(where, name) for name in ("device_kind", "device", "precision")},
        **{name: getattr(record, name) for name in ("seed", "schema_version", "metrics_version", "run_id", "cell_id")},
        "task": task.name,
        "task_version": task.version,
        "method": method.name,
        "method_version": method.version,
        "hparams_changed": json.dumps(method.hparams_changed, sort_keys=True),
        "generator": None if generator is None else str(generator.get("name")),
        "verification": run.level,
        "folder": f"results/{run_folder_name(record).as_posix()}",
    }


def _of_checkpoint(record: Record, stage: StageResult, checkpoint: CheckpointResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "stage": stage.name,
        "is_last_stage": stage is record.ranked_stage,
        "rule": checkpoint.rule,
        "track": checkpoint.track,
        "step": checkpoint.step,
    }
    for name in _METRICS:
        if (metric := checkpoint.metrics.get(name)) is not None:
            row |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}
    return row
