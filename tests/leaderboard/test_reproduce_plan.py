"""What a reproduction writes down before it begins, and when it goes on with what it finds."""

from __future__ import annotations

import json

import pytest

from benchmark.errors import DamagedFile, UsageError
from benchmark.training.device import default_precision, describe_device, resolve_device
from leaderboard.replay import Where
from leaderboard.reproduce.plan import PLAN_FILE, Chosen, keep_plan, make_plan, read_plan
from leaderboard.reproduce.sample import Wanted, candidates


def here(content):
    """Let a record say that it was made under the conditions of this machine."""
    device = resolve_device("cpu")
    conditions = {"cpu_capability": describe_device(device)[1], "precision": default_precision(device), "threads": 1}
    content["environment"].update(conditions)


def elsewhere(content):
    content["environment"]["cpu_capability"] = "of another machine"


@pytest.fixture
def plan_of(maker, tmp_path):
    """Plan a reproduction of the rows that the maker has made."""
    where = Where(results=tmp_path / "runs", store=tmp_path / "own", device="cpu", verification=maker.verification)

    def plan(minutes: float | None = None, seed: int | None = None, wanted: Wanted | None = None) -> Chosen:
        wanted = wanted or Wanted()
        return make_plan(candidates(maker.results, wanted), wanted, where, minutes=minutes, seed=seed)

    return plan


def test_a_plan_says_what_runs_how_long_and_against_how_many_intervals(maker, plan_of):
    maker.row("erm", 0.5, change=here)
    maker.row("erm", 0.5, level="0.9", change=elsewhere)
    plan = plan_of().plan
    same, other = sorted(plan.rows, key=lambda row: row.level, reverse=True)
    assert (same.conditions, same.not_here, same.threads) == ([], None, 1)
    assert other.conditions[-1].startswith("cpu_capability (of another machine, here ")
    # A fresh seed under three rules in both rows, and the repeated one where it need not be equal.
    assert plan.comparisons == 3 + 2 * 3
    assert plan.confidence == pytest.approx(1 - 0.05 / 9)
    assert plan.fresh_seed not in range(5)
    assert sorted(same.runs) == sorted(path.name for path in maker.results.glob("*/erm/0.95-*"))
    assert (plan.work_seconds, plan.wall_seconds) == (60.0, 30.0)
    assert {row.seconds for row in plan.rows} == {30.0}


def test_a_row_of_other_code_is_planned_and_says_why_it_cannot_be_made_here(maker, plan_of):
    maker.row("erm", 0.5, source_digest="7" * 64)
    (row,) = plan_of().plan.rows
    assert "was made by code 777777777777… of 'erm'" in row.not_here
    assert str(maker.results) not in row.not_here


def test_a_committed_seed_is_no_fresh_one(maker, plan_of):
    maker.row("erm", 0.5)
    with pytest.raises(UsageError, match=r"seed 3 is a committed one \(0, 1, 2, 3, 4\); give another"):
        plan_of(seed=3)
    assert plan_of(seed=77).plan.fresh_seed == 77


def test_a_folder_is_gone_on_with_under_its_own_fresh_seed(maker, plan_of, tmp_path):
    maker.row("erm", 0.5)
    first = keep_plan(tmp_path / "out", plan_of(1.0), None)
    assert read_plan(tmp_path / "out" / PLAN_FILE) == first.plan
    written = (tmp_path / "out" / PLAN_FILE).read_bytes()
    again = keep_plan(tmp_path / "out", plan_of(1.0), None)
    assert again.plan == first.plan
    assert keep_plan(tmp_path / "out", plan_of(1.0, first.plan.fresh_seed), first.plan.fresh_seed).plan == first.plan
    assert (tmp_path / "out" / PLAN_FILE).read_bytes() == written


def test_a_folder_of_something_else_is_refused_with_what_differs(maker, plan_of, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def refused(chosen: Chosen, seed: int | None = None) -> str:
        with pytest.raises(UsageError, match="go on with the same, or give a new folder by --output") as caught:
            keep_plan(out, chosen, seed)
        return str(caught.value).partition(" with ")[2].partition(";")[0]

    maker.row("erm", 0.5)
    keep_plan(out, plan_of(1.0), None)
    assert refused(plan_of(2.0)) == "another time"
    assert refused(plan_of(1.0, 77), 77) == "another seed"
    assert refused(plan_of(1.0, wanted=Wanted(levels=("0.95",)))) == "other levels"
    with monkeypatch.context() as patch:
        patch.setattr("leaderboard.reproduce.plan.git_state", lambda: ("d" * 40, False))
        assert refused(plan_of(1.0)) == "another commit or version"
    maker.row("erm", 0.5, seeds=(5,))
    assert refused(plan_of(1.0)) == "other accepted records"


def test_another_machine_in_the_same_folder_is_refused(maker, plan_of, tmp_path):
    maker.row("erm", 0.5, change=here)
    chosen = plan_of()
    keep_plan(tmp_path, chosen, None)
    content = json.loads((tmp_path / PLAN_FILE).read_text())
    content["rows"][0]["conditions"] = ["precision (float32, here bfloat16)"]
    (tmp_path / PLAN_FILE).write_text(json.dumps(content))
    with pytest.raises(UsageError, match="holds a reproduction with another machine"):
        keep_plan(tmp_path, chosen, None)


def test_a_damaged_plan_is_named(tmp_path):
    (tmp_path / PLAN_FILE).write_text("{}")
    with pytest.raises(DamagedFile, match=r"plan.json is no plan of a reproduction: task: Field required"):
        read_plan(tmp_path / PLAN_FILE)
