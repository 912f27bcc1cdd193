"""What the rest of a plan may cost: medians of past records of the same kind on the same hardware, or no estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from records_for_tests import publish, record_of

from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.records.provenance import cpu_name
from benchmark.sweep.estimates import Estimate, device_name, estimate
from benchmark.sweep.planner import make_plan


class Past:
    """A results folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, request: Request, status: str = "success", **options: Any) -> None:
        publish(self._folder / "results", record_of(resolve_cell(request), status, **options))

    def estimate(self, *requests: Request, device: str | None = None) -> Estimate:
        plan = make_plan(requests, results=self._folder / "results", store=self._folder / "store")
        return estimate(plan, plan.open(), device=device or cpu_name())


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def test_without_records_there_is_no_estimate(past: Past) -> None:
    found = past.estimate(Request("erm"), Request("jtt", level="0.9"), Request("erm", seed=1))
    assert found == Estimate(0.0, {}, ("erm on colorized-digits", "jtt on colorized-digits"), cpu_name())


def test_a_cell_takes_the_median_of_its_kind_at_any_level_and_seed(past: Past) -> None:
    for seed, (level, wall) in enumerate([("0.9", 10.0), ("0.95", 30.0), ("0.99", 12.0)]):
        past.add(Request("erm", level=level, seed=seed), wall=wall)
    found = past.estimate(Request("erm", seed=7), Request("erm", seed=8), Request("jtt"))
    assert found.cells == {0: 12.0, 1: 12.0}
    assert (found.device_seconds, found.unknown) == (24.0, ("jtt on colorized-digits",))


def test_other_hardware_failures_and_recipes_tell_nothing(past: Past) -> None:
    past.add(Request("erm", seed=1), wall=1.0, device="Another CPU")
    past.add(Request("erm", seed=2), "error")
    past.add(Request("erm", seed=3), "skipped")
    assert past.estimate(Request("erm")).cells == {}
    assert past.estimate(Request("erm"), device="Another CPU").cells == {0: 1.0}
    record = record_of(resolve_cell(Request("erm", seed=4)))
    small = record.model_copy(update={"task": record.task.model_copy(update={"recipe": "small"})})
    publish(past._folder / "results", small)
    assert past.estimate(Request("erm")).cells == {}


def test_images_that_cells_share_count_once_and_their_own_time_each(past: Past) -> None:
    budget = resolve_cell(Request("ffr")).budget.synthetic
    past.add(Request("ffr", seed=9), wall=50.0, generator=20.0, sampled=400)  # .05 s an image
    found = past.estimate(*(Request("ffr", seed=seed) for seed in range(4)))
    assert found.cells == dict.fromkeys(range(4), 30.0)
    assert found.device_seconds == pytest.approx(4 * 30.0 + 0.05 * budget)


def test_runs_that_found_their_images_do_not_make_images_look_free(past: Past) -> None:
    budget = resolve_cell(Request("ffr")).budget.synthetic
    past.add(Request("ffr", seed=9), wall=50.0, generator=20.0, sampled=400)
    for seed in (6, 7, 8):
        past.add(Request("ffr", seed=seed), wall=30.0, generator=0.04, sampled=400)
    found = past.estimate(Request("ffr"))
    assert found.device_seconds - sum(found.cells.values()) == pytest.approx(0.05 * budget)
    assert found.cells[0] == pytest.approx(30.0, abs=0.1)


def test_a_generator_of_the_method_s_own_counts_with_its_cell(past: Past) -> None:
    past.add(Request("cinn-transfer", seed=9), wall=90.0, generator=60.0, sampled=400)
    found = past.estimate(Request("cinn-transfer"), Request("cinn-transfer", seed=1))
    assert (found.cells, found.device_seconds) == ({0: 90.0, 1: 90.0}, 180.0)


def test_what_is_done_costs_nothing(past: Past) -> None:
    past.add(Request("erm"), wall=10.0)
    assert past.estimate(Request("erm")).device_seconds == 0.0


@pytest.mark.parametrize(
    ("script", "name"),
    [("echo 'NVIDIA H100 80GB HBM3'; echo 'NVIDIA A100'", "NVIDIA H100 80GB HBM3"), ("exit 9", None), ("", None)],
)
def test_the_hardware_is_the_gpu_where_the_driver_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str | None
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    device_name.cache_clear()
    try:
        assert device_name() == (name or cpu_name())
    finally:
        device_name.cache_clear()
