"""Who is ranked, among whom, and where."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import t

from benchmark.evaluation.scoring import score_predictions
from benchmark.generators.sampling import sampling_of
from benchmark.tasks.catalog import find_card, load_task
from benchmark.tasks.locks import Lock
from leaderboard.load import load_run


def place(row):
    return None if row.rank is None else (row.rank.low, row.rank.high, row.rank.among)


def test_rows_that_differ_clearly_have_one_rank_each_and_are_sorted(maker):
    maker.row("acme/low", 0.3)
    maker.row("acme/high", 0.7)
    maker.row("erm", 0.5)
    table = maker.table()
    assert [row.method for row in table.rows] == ["acme/high@1", "erm@1", "acme/low@1"]
    assert [place(row) for row in table.rows] == [(1, 1, 3), (2, 2, 3), (3, 3, 3)]
    assert [row.not_ranked for row in table.rows] == [[], [], []]
    assert [row.seeds for row in table.rows] == [[0, 1, 2, 3, 4]] * 3
    assert [row.draws for row in table.rows] == [[0, 1, 2, 3, 4]] * 3


def test_rows_that_cannot_be_told_apart_share_an_interval(maker):
    maker.row("acme/one", 0.5)
    maker.row("acme/two", 0.5)
    maker.row("acme/worse", 0.3)
    rows = maker.rows()
    assert place(rows["acme/one"]) == place(rows["acme/two"]) == (1, 2, 3)
    assert place(rows["acme/worse"]) == (3, 3, 3)


def test_the_difference_to_the_best_is_paired_and_signed(maker):
    maker.row("acme/best", 0.6)
    maker.row("erm", 0.4)
    rows = maker.rows()
    best, behind = rows["acme/best"], rows["erm"].rank.behind
    assert best.rank.behind is None
    assert behind.best == best.id
    expected = rows["erm"].metrics["acc_conflicting"].value - best.metrics["acc_conflicting"].value
    assert behind.difference == pytest.approx(expected)
    assert behind.low < behind.difference < behind.high < 0
    assert behind.p_value < 0.001


def test_a_row_is_ranked_among_rows_of_its_own_and_lower_tracks(maker):
    maker.row("acme/none-good", 0.5)
    maker.row("acme/none-bad", 0.3)
    maker.row("acme/train-best", 0.7, track="train")
    maker.row("acme/validation", 0.4, track="val-train")
    maker.row("acme/train-worst", 0.2, track="train")
    rows = maker.rows()
    assert place(rows["acme/none-good"]) == (1, 1, 2)
    assert place(rows["acme/none-bad"]) == (2, 2, 2)
    assert place(rows["acme/validation"]) == (2, 2, 3)
    assert place(rows["acme/train-best"]) == (1, 1, 5)
    assert place(rows["acme/train-worst"]) == (5, 5, 5)
    assert rows["acme/validation"].rank.behind.best == rows["acme/none-good"].id
    assert rows["acme/train-worst"].rank.behind.best == rows["acme/train-best"].id


def test_the_rule_lifts_the_track_of_a_row(maker):
    maker.row("erm", 0.5)
    maker.row("acme/train", 0.6, track="train")
    assert {name: row.track for name, row in maker.rows("last").items()} == {"erm": "none", "acme/train": "train"}
    assert {n: row.track for n, row in maker.rows("val-worst-group").items()} == {
        "erm": "val-select",
        "acme/train": "train",
    }


def test_fewer_than_five_seeds_are_shown_below_and_not_ranked(maker):
    maker.row("erm", 0.4)
    maker.row("acme/four", 0.9, seeds=4)
    table = maker.table()
    assert [row.method for row in table.rows] == ["erm@1", "acme/four@1"]
    assert place(table.rows[0]) == (1, 1, 1)
    assert table.rows[1].rank is None
    assert table.rows[1].not_ranked == ["not ranked: fewer than 5 seeds"]
    assert table.rows[1].metrics["acc_conflicting"].value == pytest.approx(0.9, abs=0.01)


def test_five_seeds_that_leave_a_draw_out_are_not_ranked(maker):
    maker.row("acme/chosen", 0.6, seeds=(0, 1, 2, 3, 5))
    maker.row("erm", 0.4, seeds=(0, 6, 2, 8, 4))
    rows = maker.rows()
    assert rows["acme/chosen"].not_ranked == ["not ranked: the seeds do not cover the 5 draws"]
    assert place(rows["erm"]) == (1, 1, 1)


@pytest.mark.parametrize("level", ["maintained", "replayed"])
def test_what_maintainers_ran_or_replayed_ranks(maker, level):
    maker.row("acme/x", 0.6, verified=level)
    row = maker.rows()["acme/x"]
    assert (row.verification, place(row)) == (level, (1, 1, 1))


@pytest.mark.parametrize(("verified", "shown"), [(None, "self-reported"), ("recomputed", "recomputed")])
def test_what_nobody_replayed_is_listed_only(maker, verified, shown):
    maker.row("acme/x", 0.9, verified=verified)
    maker.row("erm", 0.4)
    rows = maker.rows()
    assert (rows["acme/x"].verification, rows["acme/x"].rank) == (shown, None)
    assert rows["acme/x"].not_ranked == [f"not ranked: {shown}"]
    assert place(rows["erm"]) == (1, 1, 1)


def test_a_strangers_seed_changes_no_maintained_row(maker):
    maker.row("erm", 0.5)
    before = maker.table().rows[0]
    maker.run("erm", 5, conflicting=0.0)
    after = maker.table().rows
    assert after[0] == before
    assert (after[1].seeds, after[1].verification, after[1].rank) == ([5], "self-reported", None)


def test_an_oracle_is_not_ranked_but_gives_the_recovered_gap(maker):
    maker.row("erm", 0.4)
    maker.row("acme/half", 0.5)

    def spend(content):
        content["budget"]["synthetic_kept"] = content["budget"]["synthetic_allowed"]

    maker.row("real-oracle", 0.6, oracle=True, change=spend)
    rows = maker.rows()
    assert rows["real-oracle"].not_ranked == ["not ranked: oracle, it uses what no method has"]
    erm, half, oracle = (rows[n].metrics["acc_conflicting"].value for n in ("erm", "acme/half", "real-oracle"))
    gap = rows["acme/half"].metrics["recovered_gap"]
    assert gap.value == pytest.approx((half - erm) / (oracle - erm))
    assert gap.low < gap.value < gap.high
    assert rows["erm"].metrics["recovered_gap"].value is None


def test_the_recovered_gap_is_null_without_an_oracle_or_with_one_short_of_images(maker):
    maker.row("erm", 0.4)
    maker.row("acme/half", 0.5)
    assert maker.rows()["acme/half"].metrics["recovered_gap"].reason == "no row of real-oracle here"
    maker.row("real-oracle", 0.6, oracle=True)
    reason = maker.rows()["acme/half"].metrics["recovered_gap"].reason
    assert reason == "real-oracle had fewer real images than the budget B"


def test_another_training_recipe_is_another_row_and_not_ranked(maker):
    def longer(content):
        content["cell"]["training"]["steps"] = 123456

    maker.row("erm", 0.4)
    maker.row("erm", 0.4, change=longer)
    rows = maker.table().rows
    assert [row.changed for row in rows] == [{}, {"training.steps": 123456}]
    assert [place(row) for row in rows] == [(1, 1, 1), None]
    assert rows[1].not_ranked == ["not ranked: another training recipe or budget than the task's"]


def test_configurations_and_generators_are_rows_of_their_own(maker, made):
    generator = {"kind": "hub", "name": "org/a", "revision": "1" * 40, "content_sha256": None}
    # Sampled as this generator is by default; another scheduler, length or guidance would be listed as a change.
    sampling = sampling_of("org/a", find_card("colorized-digits").task.generator)
    generator |= sampling.model_dump(include={"scheduler", "steps", "guidance"})

    def of(revision):
        return lambda content: content["cell"].update(generator=generator | {"revision": revision * 40})

    maker.run("acme/x", 0, change=of("1"))
    maker.run("acme/x", 1, change=of("1"))
    maker.run("acme/x", 0, change=of("2"))
    given = {"hparams": {"p": 2, "q": 1}, "hparams_changed": {"p": 2}}
    maker.run("acme/x", 0, change=of("2"), configuration="changed", **given)
    maker.run("acme/x", 0, change=of("2"), **made.tuned, **given)
    rows = maker.table().rows
    assert sorted((row.generator, row.configuration, tuple(row.seeds)) for row in rows) == [
        ("org/a@1111111", "default", (0, 1)),
        ("org/a@2222222", "changed", (0,)),
        ("org/a@2222222", "default", (0,)),
        ("org/a@2222222", "tuned", (0,)),
    ]
    assert {row.configuration: row.changed for row in rows} == {"default": {}, "changed": {"p": 2}, "tuned": {"p": 2}}


def test_an_unpinned_split_is_not_ranked(maker, monkeypatch):
    maker.row("erm", 0.4)
    monkeypatch.setattr("leaderboard.answers.load_lock", lambda name: Lock({}))
    assert maker.rows()["erm"].not_ranked == ["not ranked: unpinned split"]


def test_estimates_are_means_over_seeds_with_t_intervals(maker):
    folders = maker.row("erm", 0.5)
    checkpoints = [
        json.loads((folder / "record.json").read_text())["stages"][-1]["checkpoints"][0] for folder in folders
    ]
    row = maker.rows()["erm"]
    for name in ("acc_conflicting", "acc_group_mean", "gap", "bias_retained", "flip_rate"):
        values = np.array([checkpoint["metrics"][name]["value"] for checkpoint in checkpoints])
        half = t.ppf(0.975, 4) * values.std(ddof=1) / 5**0.5
        found, mean = row.metrics[name], values.mean()
        assert (found.value, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    shares = np.mean([np.array(c["groups"]["correct"]) / np.array(c["groups"]["n"]) for c in checkpoints], axis=0)
    worst = row.metrics["worst_group_of_mean"]
    assert (worst.value, worst.low) == (pytest.approx(shares.min()), None)


def test_numbers_equal_those_of_score(maker):
    folder = maker.run("erm", 0, conflicting=0.5)
    task = load_task("colorized-digits@1")
    metrics, _ = score_predictions(task, task.manifest("0.95", 0), folder / "predictions-real-last.parquet")
    row = maker.rows()["erm"]
    compared = set(row.metrics) & set(metrics)
    assert compared == {
        "acc_mean", "acc_group_mean", "acc_aligned", "acc_conflicting", "gap", "acc_worst_group", "bias_retained",
        "flip_rate",
    }  # fmt: skip
    assert {name: row.metrics[name].value for name in compared} == {name: metrics[name].value for name in compared}


def test_stages_are_shown_at_the_default_level(maker):
    maker.row("acme/x", 0.6, stages={"synthetic": 0.2})
    maker.row("acme/x", 0.5, stages={"synthetic": 0.1}, level="0.99")
    stages = maker.board().tasks[0].stages
    assert [[stage.name for stage in row.stages] for row in stages] == [["synthetic", "real"]]
    found = [stage.metrics["acc_conflicting"].value for stage in stages[0].stages]
    assert found == [pytest.approx(0.2, abs=0.01), pytest.approx(0.6, abs=0.01)]


def test_levels_stand_in_the_order_of_the_card_and_balanced_retains_nothing(maker):
    for level in ("0.99", "balanced", "0.9"):
        maker.row("erm", 0.5, level=level)
    tables = maker.board().tasks[0].rules[0].tables
    assert [table.level for table in tables] == ["balanced", "0.9", "0.99"]
    assert tables[0].rows[0].metrics["bias_retained"].value is None
    assert "at least 0.05 is needed" in tables[0].rows[0].metrics["bias_retained"].reason
    assert [table.rows[0].data.smallest_group.low for table in tables] == [9, 1, 1]


def test_the_level_of_a_run_is_read_with_it(maker):
    folder = maker.run("erm", 0)
    assert load_run(folder / "record.json", {}).level == "self-reported"
