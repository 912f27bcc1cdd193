"""Records of runs that never were, for tests of what a planner makes of them; `benchmarks` uses it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.draft import draft_record, utc_now
from benchmark.records.files import temporary_folder
from benchmark.records.provenance import cpu_name, environment
from benchmark.records.results import publish_run
from benchmark.records.schema import BudgetUse, Cost, Failure, Isolation, MetricValue, Record

NO_ENERGY = MetricValue(value=None, interval="none", reason="not read")


def record_of(
    cell: ResolvedCell,
    status: str = "success",
    *,
    isolated: bool = False,
    device: str = "",
    wall: float = 10.0,
    generator: float = 0.0,
    sampled: int = 0,
    message: str = "out of luck",
) -> Record:
    """Return the record of a run, but for its stages."""
    where = environment(
        device=device or cpu_name(), device_kind="cpu", cpu_capability="AVX2", precision="float32", threads=1
    )
    isolation = Isolation(
        requested=isolated, separate_process=isolated, test_split_absent=isolated, network_blocked=False, limits=[]
    )
    fields: dict[str, Any] = {"status": status, "finished": utc_now()}
    if status == "success":
        use = dict.fromkeys(("synthetic_allowed", "synthetic_kept", "steps_allowed", "steps_used"), 0)
        fields["budget"] = BudgetUse(**use, sampled_allowed=sampled, sampled=sampled)
        fields["cost"] = Cost(
            wall_seconds=wall, training_seconds=wall, generator_seconds=generator, peak_memory_bytes=None,
            peak_device_memory_bytes=None, energy_joules=NO_ENERGY,
        )  # fmt: skip
    elif status == "skipped":
        fields["skipped_because"] = message
    elif status == "error":
        fields["failure"] = Failure(kind="TrainingDiverged", message=message, traceback=[])
    return draft_record(cell, where, isolation).model_copy(update=fields)


def publish(results: Path, record: Record) -> Path:
    """Put a record into a results folder."""
    with temporary_folder(results) as folder:
        return publish_run(folder, results, record)
