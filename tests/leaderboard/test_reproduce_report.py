"""How runs that were made again are judged, and what the report says of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmark.metrics.across_seeds import prediction_interval
from benchmark.records.files import write_json
from benchmark.records.schema import Environment, Isolation, MetricValue
from leaderboard.replayed import REPLAY_FILE, Replay, SameSeed, judge, largest_difference
from leaderboard.reproduce.markdown import name_of, render_report
from leaderboard.reproduce.plan import Code, Plan, PlannedRow
from leaderboard.reproduce.report import Report, finished, make_report

VALUES = {0: 0.60, 1: 0.64, 2: 0.58, 3: 0.66, 4: 0.62}
RUNS = {f"0.95-seed{seed}-aaaa": f"{seed}" * 64 for seed in VALUES}
FRESH = 77
HERE = Environment(
    environment_id="e" * 64, git_commit="c" * 40, git_dirty=False, packages={}, python="3.11.0", system="Linux x86_64",
    device="a | processor", device_kind="cpu", cpu_capability="AVX2", precision="float32", threads=1,
)  # fmt: skip
ALONE = Isolation(requested=True, separate_process=True, test_split_absent=True, network_blocked=True, limits=[])
OTHER = ["precision (float32, here bfloat16)"]


def planned(*conditions: str, not_here: str | None = None) -> Plan:
    row = PlannedRow(
        id="1" * 64, method="erm@1", level="0.95", recipe="default", changed={"beta": "a|b"}, rules=["last"], runs=RUNS,
        seed=0, threads=1, conditions=list(conditions), not_here=not_here, seconds=30.0,
    )  # fmt: skip
    return Plan(
        task="colorized-digits", levels=[], methods=[], minutes=60, records="2" * 64,
        code=Code(version="0.1.0", git_commit="c" * 40, git_dirty=False), rows_to_choose_from=4, work_seconds=60,
        wall_seconds=30, fresh_seed=FRESH, rows=[row],
    )  # fmt: skip


@pytest.fixture
def keep(maker, tmp_path):
    """Keep a replay beside a record, as `replay` does."""
    runs = tmp_path / "runs"

    def write(seed: int, value: float, same: SameSeed | None = None, pooled: float | None = None) -> Path:
        folder = maker.run("erm", 0)
        target = runs / f"seed{seed}"
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        verdict = judge("last", "acc_conflicting", VALUES, value, pooled, same)
        replay = Replay(
            task="colorized-digits@1", level="0.95", recipe="default", method="erm@1", hparams={},
            configuration="default", generator=None, records=RUNS, seed=seed, draw=seed % 5, same_seed=same is not None,
            run=target.name, record="3" * 64, environment=HERE, isolation=ALONE, rules=[verdict], inside=verdict.inside,
        )  # fmt: skip
        write_json(target / REPLAY_FILE, replay.model_dump(mode="json"))
        return runs

    return write


def report_of(runs: Path, plan: Plan | None = None, **failures: str) -> Report:
    plan = plan or planned()
    why = {("1" * 64, name == "repeated"): text for name, text in failures.items()}
    return make_report(plan, finished(runs, plan), why, wall_seconds=90.0, workers=2, runs_before=1)


EQUAL = SameSeed([], [], True, 0.0)


def test_what_came_out_as_committed_is_reproduced(keep):
    keep(FRESH, 0.7)
    report = report_of(keep(0, 0.6, EQUAL))
    (row,) = report.rows
    assert report.holds
    assert (row.fresh.said, row.repeated.said) == ("inside", "equal")
    assert row.fresh.rules[0].mean == pytest.approx(0.62)
    assert (report.comparisons, report.confidence) == (1, 0.95)
    assert report.measured.work_seconds == 24.0
    assert report.verdict == (
        "Reproduced: 1 of 1 values lie inside their prediction intervals, 1 of 1 repeated runs are equal to 1e-6; "
        "by chance alone an honest reproduction fails in 5 % of cases at most, by construction."
    )
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_fresh_value_outside_is_not_reproduced(keep):
    keep(FRESH, 0.72)
    report = report_of(keep(0, 0.6, EQUAL))
    assert not report.holds
    assert report.rows[0].fresh.said == "outside"
    assert report.verdict.startswith("Not reproduced: 0 of 1 values lie inside")


def test_intervals_are_as_wide_as_the_number_of_comparisons_asks(keep):
    keep(FRESH, 0.72)
    # Under other conditions the repeated seed is held against the interval too: two comparisons.
    plan = planned(*OTHER)
    report = report_of(keep(0, 0.68, SameSeed(OTHER, ["acc"], False, 0.08)), plan)
    fresh, repeated = report.rows[0].fresh.rules[0], report.rows[0].repeated.rules[0]
    expected = prediction_interval(np.array(list(VALUES.values())), confidence=0.975)
    assert (fresh.low, fresh.high) == (repeated.low, repeated.high) == (expected.low, expected.high)
    assert report.holds
    assert not repeated.by_equality
    assert report.verdict.startswith("Reproduced: 2 of 2 values lie inside their prediction intervals, 0 of 0 repeated")
    text = render_report(report)
    assert "the level 1 − 0.05/2 = 97.500 %" in text
    assert "the same seed, but not the same precision (float32, here bfloat16)" in text


def test_a_repeated_seed_that_differs_under_the_same_conditions_is_not_reproduced(keep):
    keep(FRESH, 0.62)
    report = report_of(keep(0, 0.61, SameSeed([], ["acc", "gap"], False, 0.01)))
    assert not report.holds
    assert report.rows[0].repeated.said == "different"
    assert "0 of 1 repeated runs are equal to 1e-6" in report.verdict
    assert re.search(r"\| \*\*different\*\*: acc, gap +\| 1\.0e-02 ", render_report(report))


def test_a_run_without_a_result_is_in_the_report(keep):
    report = report_of(keep(FRESH, 0.62), repeated="its worker process was killed")
    assert not report.holds
    assert "Not complete: 1 of 1 values lie inside their prediction intervals, 0 of 0 repeated runs" in report.verdict
    assert "1 of 2 runs have no result" in report.verdict
    assert "- erm beta=a&#124;b at 0.95, seed 0: its worker process was killed" in render_report(report)


def test_a_row_that_cannot_be_made_here_is_in_the_report(tmp_path):
    report = report_of(tmp_path, planned(not_here="'erm' is not installed"))
    assert [run.said for run in report.runs] == ["'erm' is not installed"] * 2
    assert not report.holds
    assert "No run finished." in render_report(report)


def test_an_interval_that_the_cap_narrows_is_counted(keep):
    keep(FRESH, 0.62, pooled=0.01)
    report = report_of(keep(0, 0.6, EQUAL))
    assert report.rows[0].fresh.rules[0].capped
    assert report.verdict.endswith("by construction, more because the cap on s narrows 1 of the intervals.")
    assert "(s capped)" in render_report(report)


def test_runs_of_other_seeds_and_other_records_are_no_results(keep):
    runs = keep(FRESH + 1, 0.62)
    keep(1, 0.64, EQUAL)
    assert finished(runs, planned()) == {}
    keep(FRESH, 0.62)
    plan = planned()
    other = plan.model_copy(update={"rows": [plan.rows[0].model_copy(update={"runs": {"0.95-seed0-bbbb": "9" * 64}})]})
    assert list(finished(runs, plan)) == [("1" * 64, False)]
    assert finished(runs, other) == {}


def test_a_report_says_what_ran_where_and_how_long(keep):
    keep(FRESH, 0.7)
    text = render_report(report_of(keep(0, 0.6, EQUAL)))
    assert "1 of 4 accepted rows" in text
    assert "those that fit into 60 min by estimate" in text
    assert "version 0.1.0, commit cccccccccccc, in isolation" in text
    assert "Machine: a &#124; processor (cpu), AVX2, float32, 1 thread(s) a run" in text
    assert "estimated 1.0 min of runs, 0.5 min with two at a time" in text
    assert (
        "measured 0.4 min of runs, and 1.5 min in the last call with 2 at a time; 1 runs were finished before" in text
    )
    assert re.search(
        r"\| erm beta=a&#124;b at 0\.95 +\| `last` +\| acc_conflicting \| 62\.0 +\| \[52\.4, 71\.6\]", text
    )
    assert name_of(planned().rows[0]) == "erm beta=a|b at 0.95"


def test_the_largest_difference_is_of_metrics_that_both_have():
    def metrics(**values):
        return {n: MetricValue(value=v, interval="none", reason="none") for n, v in values.items()}

    assert largest_difference(metrics(a=0.5, b=0.25, c=None), metrics(a=0.75, b=0.0, c=9.0, d=1.0)) == 0.25
    assert largest_difference(metrics(a=0.5), metrics(b=0.5)) is None


def test_an_honest_reproduction_fails_in_at_most_5_percent():
    rng = np.random.default_rng(0)
    plan = planned(*OTHER).model_copy(update={"rows": planned(*OTHER).rows * 3})
    assert plan.comparisons == 6
    failed = 0
    for _ in range(1000):
        # Three rows, each under two rules that mostly agree.
        seeds = rng.normal(size=(3, 6, 1)) + 0.3 * rng.normal(size=(3, 6, 2))
        held = [
            prediction_interval(seeds[row, :5, rule], confidence=plan.confidence)
            for row in range(3)
            for rule in range(2)
        ]
        new = seeds[:, 5].ravel()
        failed += not all(each.low <= value <= each.high for each, value in zip(held, new, strict=True))
    assert 0.02 < failed / 1000 < 0.06
