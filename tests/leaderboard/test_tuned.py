"""Tuned rows: what they must say, what they may change, and where they stand."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from benchmark.contract.registry import source_digest
from benchmark.errors import DamagedFile
from leaderboard.markdown import render_markdown


def training(**values: Any):
    """Let a record say that it was trained with other settings."""
    return lambda content: content["cell"]["training"].update(values)


def test_a_tuned_row_is_ranked_beside_the_default_and_says_what_was_tuned(maker, made):
    maker.row("erm", 0.3)
    maker.row("erm", 0.6, **made.tuned, change=training(learning_rate=0.004, weight_decay=0.1))
    default, tuned = sorted(maker.table().rows, key=lambda row: row.configuration)
    assert (default.configuration, default.changed, default.rank is not None) == ("default", {}, True)
    assert (tuned.configuration, tuned.rank is not None, tuned.not_ranked) == ("tuned", True, [])
    assert tuned.changed == {"training.learning_rate": 0.004, "training.weight_decay": 0.1}
    assert tuned.rank.low == 1 < default.rank.low
    assert tuned.remarks == [
        "trial 3 of the 12 of its study (0 is the default) did best by val-average on the validation split of bias "
        "level 0.95, draw 0"
    ]
    assert "erm@1 (tuned: training.learning_rate=0.004, training.weight_decay=0.1)" in render_markdown(maker.board())


def test_a_tuned_row_is_none_of_the_references_of_the_recovered_gap(maker, made):
    maker.row("erm", 0.6, **made.tuned, change=training(learning_rate=0.004))
    maker.row("acme/better", 0.7)
    gap = maker.rows()["acme/better"].metrics["recovered_gap"]
    assert (gap.value, gap.reason) == (None, "no row of erm and real-oracle here")


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 0.5}, {"weight_decay": 0.0}, {"batch_size": 32}, {"learning_rate": 0.004, "steps": 1}]
)
def test_what_is_not_tuned_by_the_rules_is_not_ranked(maker, made, changes):
    maker.row("erm", 0.6, **made.tuned, change=training(**changes))
    (row,) = maker.table().rows
    assert (row.rank, row.configuration) == (None, "tuned")
    assert "not ranked: another training recipe or budget than the task's" in row.not_ranked
    assert {f"training.{name}" for name in changes} == set(row.changed)


def test_the_recipe_of_what_is_not_tuned_is_the_task_s(maker):
    maker.row("erm", 0.6, change=training(learning_rate=0.004))
    assert maker.table().rows[0].rank is None


def test_two_studies_are_two_rows(maker, made):
    other = {**made.tuned, "tuning": {**made.tuned["tuning"], "study": "8" * 64}}
    for method in (made.tuned, other):
        maker.row("erm", 0.6, **method, change=training(learning_rate=0.004))
    assert [(row.configuration, len(row.seeds)) for row in maker.table().rows] == [("tuned", 5), ("tuned", 5)]


@pytest.mark.parametrize(
    ("method", "cell", "message"),
    [
        ({"configuration": "tuned"}, {}, "a tuned configuration, and no other, names the study"),
        ({"tuning": None, "configuration": "tuned"}, {}, "names the study"),
        ({"configuration": "changed"}, {"tuning": "7" * 64}, "its cell names another study"),
    ],
)
def test_tuned_is_a_claim_that_names_its_study(maker, method, cell, message):
    def claim(content):
        content["method"].update(method)
        content["cell"].update(cell)

    with pytest.raises(ValidationError, match=message):
        maker.run("erm", 0, change=claim)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upweight": 20, "identification_share": 0.1}, None),
        ({"upweight": 1000}, "is tuned with upweight=1000, which is not in the space of jtt@1"),
        ({"identification_share": 0.75}, "identification_share=0.75, which is not in the space"),
    ],
)
def test_a_tuned_in_tree_method_lies_in_its_space(maker, made, changes, message):
    def jtt(content):
        hparams = {"identification_share": 0.25, "upweight": 10} | changes
        content["method"] |= {"name": "jtt", "origin": "in-tree", "package": "genbias-bench", "hparams": hparams}
        content["method"] |= {"source_digest": source_digest("jtt"), "hparams_changed": changes}
        content["cell"] |= {"method": "jtt@1", "hparams": hparams}

    maker.run("jtt", 0, **made.tuned, change=jtt)
    if message is None:
        assert maker.table().rows[0].changed == changes
        return
    with pytest.raises(DamagedFile, match=message):
        maker.board()
