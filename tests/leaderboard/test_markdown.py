"""What a reader of LEADERBOARD.md sees."""

from __future__ import annotations

import re
import shutil

import pytest

from benchmark.records.schema import SCHEMA_VERSION
from benchmark.tasks.catalog import find_card
from leaderboard.build import collect_board
from leaderboard.markdown import render_markdown
from leaderboard.models import Board

HOSTILE = "x|y\n| 1 | <script>alert(1)</script> **b** [l](http://evil.example)\u202e"


def grids(text):
    """Return the tables as lists of rows of cells."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            found.append([rows[0], *rows[2:]])
            rows = []
    return found


def cells(grid, row):
    return dict(zip(grid[0], grid[row], strict=True))


def test_an_empty_board_says_how_to_fill_it(maker):
    text = render_markdown(maker.board())
    assert f"**Board release 1** · 0 runs of 0 methods · record schema {SCHEMA_VERSION} · metrics version 1" in text
    assert "No overall score is shown until 4 data sets outside the demo tier" in text
    assert "(0 so far)" in text
    assert "Make one with `genbias-bench evaluate --method erm`." in text
    assert grids(text) == []
    assert "Tasks:" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Leaderboard", "## How to read it", "## No record yet", "## How to reproduce a row",
    ]  # fmt: skip


def test_a_board_of_one_run(maker):
    maker.run("erm", 0, conflicting=0.5)
    text = render_markdown(maker.board())
    assert "1 run of 1 method" in text
    tables = grids(text)
    assert len(tables) == 4  # three rules at one level, and the stages
    row = cells(tables[0], 1)
    expected = {
        "Rank": "-", "Method": "erm@1", "Generator": "–", "Track": "none", "Seeds": "1", "Δ to best": "–",
        "Verification": "self-reported", "Notes": "a, b",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert re.fullmatch(r"\d\d\.\d", row["acc_conflicting %"])
    assert re.fullmatch(r"0\.\d\d", row["bias_retained"])
    assert "recovered_gap" not in row
    steps = find_card("colorized-digits").task.training.steps
    assert "- a: not ranked: self-reported\n- b: not ranked: fewer than 5 seeds\n" in text
    assert (
        "**Bias level ρ = 0.95.** small-cnn from scratch at 32 px. N = 990 training images, smallest populated group "
        "1, 60 populated groups, in each draw. Budget: B = 1,980 kept synthetic images, "
        f"{steps:,} optimiser steps. Ran on: cpu = a processor." in text
    )


def external(component):
    return {"component": component, "trained_on": "nobody knows what", "may_contain_task_images": None}


def test_ranked_rows_show_percent_with_intervals(maker):
    maker.row("erm", 0.4)
    maker.row("acme/x", 0.6, track="train", external_data=[external("a generator")])
    board = maker.board()
    text = render_markdown(board)
    table = grids(text)[0]
    best, erm = cells(table, 1), cells(table, 2)
    assert (best["Rank"], erm["Rank"]) == ("1 of 2", "1 of 1")
    assert (best["Track"], best["External data"], erm["External data"]) == ("train", "yes (b)", "no")
    assert "- b: external data: a generator: nobody knows what (contents not known)" in text
    assert (best["Training s"], best["Generator s"], best["Device"]) == ("10", "0", "cpu")
    found = board.tasks[0].rules[0].tables[0].rows[0].metrics["acc_conflicting"]
    shown = f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    assert best["acc_conflicting %"] == shown
    assert (best["Δ to best"], erm["Δ to best"]) == ("best", "best")


def test_a_significant_difference_is_starred(maker):
    maker.row("erm", 0.4)
    maker.row("acme/x", 0.6)
    row = cells(grids(render_markdown(maker.board()))[0], 2)
    assert re.fullmatch(r"-\d\d\.\d \[-\d\d\.\d, -\d\d\.\d\] \\\*", row["Δ to best"])
    assert row["Rank"] == "2 of 2"


def test_the_demo_tier_stands_apart(maker):
    maker.row("erm", 0.4)
    board = maker.board()
    text = render_markdown(board)
    assert "## Demo tier: not evidence about photographs" in text
    assert "## Tasks" not in text
    core = board.tasks[0].model_copy(update={"task": "photographs@1", "tier": "core"})
    both = render_markdown(board.model_copy(update={"tasks": [core, board.tasks[0]], "data_sets_covered": 1}))
    headings = [line for line in both.splitlines() if re.match("##?#? ", line)]
    assert headings == [
        "# Leaderboard", "## How to read it", "## Tasks", "### photographs@1",
        "## Demo tier: not evidence about photographs", "### colorized-digits@1", "## How to reproduce a row",
    ]  # fmt: skip
    assert "(1 so far)" in both
    assert "Tasks: [photographs@1](#photographs1), [colorized-digits@1](#colorized-digits1)" in both


def test_only_tasks_outside_the_demo_tier_are_covered(maker):
    maker.row("erm", 0.4)
    assert maker.board().data_sets_covered == 0


def test_hostile_strings_stay_in_their_cell(maker, made):
    def attack(content):
        content["environment"]["device"] = HOSTILE
        content["cell"]["generator"] = {"name": HOSTILE, "revision": HOSTILE, "scheduler": HOSTILE}
        content["stages"][0]["name"] = HOSTILE

    hparams = {"hparams": {HOSTILE: HOSTILE}, "hparams_changed": {HOSTILE: HOSTILE}, **made.tuned}
    name = "evil|<b>_x_"
    maker.run(name, 0, external_data=[external(HOSTILE)], package_version=HOSTILE, change=attack, **hparams)
    failure = {"kind": HOSTILE, "message": HOSTILE, "traceback": []}
    maker.run(name, 1, status="error", change=lambda content: content.update(failure=failure))
    text = render_markdown(maker.board())
    assert not re.search(r"<(?!!-- written by)|\*\*b|\]\(http|http:|\u202e|_x_", text)
    tables = grids(text)
    assert len(tables) == 5  # three rules, stages, absent runs: nothing was split or added
    assert [len(table) for table in tables] == [2, 2, 2, 2, 2]
    for table in tables:
        assert {len(row) for row in table} == {len(table[0])}
    assert cells(tables[0], 1)["Method"].startswith("evil&#124;&#60;b&#62;&#95;x&#95;@1 (tuned: ")
    assert cells(tables[-1], 1)["Reason"].startswith("x&#124;y &#124; 1 &#124; &#60;script&#62;")


def test_rows_say_their_own_size_where_draws_differ(maker):
    maker.row("erm", 0.4)
    board = maker.board()
    table = board.tasks[0].rules[0].tables[0]
    data = table.rows[0].data
    wider = data.model_copy(update={"n_train": data.n_train.model_copy(update={"high": 1002})})
    rows = [table.rows[0].model_copy(update={"data": wider})]
    rule = board.tasks[0].rules[0].model_copy(update={"tables": [table.model_copy(update={"rows": rows})]})
    task = board.tasks[0].model_copy(update={"rules": [rule]})
    text = render_markdown(board.model_copy(update={"tasks": [task]}))
    assert cells(grids(text)[0], 1)["N / smallest / groups"] == "990–1,002 / 1 / 60"
    assert "**Bias level ρ = 0.95.** small-cnn from scratch at 32 px. Budget:" in text


def test_the_bytes_do_not_depend_on_where_records_lie_or_in_which_order_they_are_given(maker, tmp_path):
    maker.row("erm", 0.4)
    maker.row("acme/x", 0.6)
    maker.run("erm", 0, conflicting=0.9)
    first = render_markdown(maker.board())
    copies = []
    for position, folder in enumerate(sorted(maker.results.rglob("record.json"), reverse=True)):
        copies.append(shutil.copytree(folder.parent, tmp_path / "other" / str(position)))
    again = render_markdown(collect_board(copies, verification=maker.verification))
    assert again.encode() == first.encode()
    assert "1 repeated run of a seed left out: the first attempt counts." not in first  # another level, another row
    maker.entries.clear()
    assert "1 repeated run of a seed left out: the first attempt counts." in render_markdown(maker.board())


def test_metrics_are_explained_in_the_registry_s_words(maker):
    text = render_markdown(maker.board())
    assert "  - `gap`: acc_aligned minus acc_conflicting; 0 is ideal." in text


def test_unmatched_verifications_are_said(maker):
    folders = maker.row("erm", 0.4)
    shutil.rmtree(folders[0])
    assert "verification.json names 1 record that this board was not given" in render_markdown(maker.board())


def test_pools_and_plug_ins_are_said_on_the_row(maker):
    pool = {
        "pool_id": "0" * 64, "recipe": {}, "ranges": {}, "rows_sha256": "0" * 64, "kept": 1, "sampled": 1,
        "seconds": 1.0, "label_fidelity": {},
    }  # fmt: skip
    maker.run("acme/x", 0, change=lambda content: content.update(pools=[pool]))
    text = render_markdown(maker.board())
    assert "its seeds share one pool of generated images, whose variance is not in the interval" in text
    assert "plug-in from acme 1.0" in text


@pytest.mark.parametrize("filled", [False, True])
def test_the_board_survives_json(maker, filled):
    if filled:
        maker.row("erm", 0.4)
        maker.row("acme/x", 0.6, seeds=2)
    board = maker.board()
    assert Board.model_validate_json(board.model_dump_json()) == board
