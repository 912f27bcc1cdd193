"""Records of older metric versions are scored again; records of older task versions have a section of their own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmark.cli.score import score as score_verb
from benchmark.errors import DataError, NewerSchema, UsageError
from benchmark.evaluation.score import score
from benchmark.metrics import versions
from benchmark.tasks import card as cards
from benchmark.tasks.catalog import find_card, load_task, superseded_by
from leaderboard.markdown import render_markdown

RESULTS = Path(__file__).parents[2] / "leaderboard" / "results"
NOW = cards.cards_folder() / "colorized-digits.md"


def forget():
    for remembered in (cards.load_card, cards.load_superseded, load_task):
        remembered.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of cards in which today's colorized-digits is version 1 of two."""
    folder = tmp_path / "cards"
    (folder / cards.SUPERSEDED).mkdir(parents=True)
    shutil.copy(NOW, folder / cards.SUPERSEDED / "colorized-digits@1.md")
    text = NOW.read_text(encoding="utf-8")
    (folder / NOW.name).write_text(re.sub(r"(?m)^  version: 1$", "  version: 2", text, count=1), encoding="utf-8")
    forget()
    monkeypatch.setattr(cards, "cards_folder", lambda: folder)
    yield folder
    forget()


# --- metric versions -----------------------------------------------------------------------------------------------


def other_numbers(content):
    for stage in content["stages"]:
        for checkpoint in stage["checkpoints"]:
            wrong = {**checkpoint["metrics"]["acc_mean"], "value": 0.123}
            checkpoint["metrics"] = {**checkpoint["metrics"], "acc_mean": wrong}


def test_a_record_of_an_older_metrics_version_is_scored_again(maker, monkeypatch):
    maker.row("erm", 0.5)
    before = maker.rows()["erm"]
    shutil.rmtree(maker.results)
    maker.entries.clear()
    maker.row("erm", 0.5, change=other_numbers)
    monkeypatch.setattr(versions, "METRICS_VERSION", 2)
    row = maker.rows()["erm"]
    assert row.metrics["acc_mean"] == before.metrics["acc_mean"]
    assert row.rank is not None
    assert row.remarks == ["recorded by metrics version 1, scored again by metrics version 2"]
    assert "scored again by metrics version 2" in render_markdown(maker.board())


def test_a_record_of_a_newer_metrics_version_is_refused(maker):
    maker.run("erm", 0, change=lambda content: content.update(metrics_version=2))
    with pytest.raises(NewerSchema, match=r"has metrics version 2; this version computes 1: update genbias-bench"):
        maker.board()


def test_score_computes_an_older_version_again_and_refuses_a_newer(maker, monkeypatch):
    folder = maker.run("erm", 0, change=other_numbers)
    assert "acc_mean" in score(folder)[1][0].differing
    monkeypatch.setattr(versions, "METRICS_VERSION", 2)
    _, again = score(folder)
    # The group intervals, which these records leave out, are no metric.
    assert {name for checkpoint in again for name in checkpoint.differing} == {"groups"}
    assert again[0].metrics["acc_mean"].value != 0.123
    monkeypatch.setattr(versions, "METRICS_VERSION", 0)
    with pytest.raises(NewerSchema, match="has metrics version 1; this version computes 0"):
        score(folder)


def test_the_verb_says_that_it_scored_an_accepted_record_again(monkeypatch, capsys):
    folder = next(RESULTS.glob("colorized-digits/erm/*"))
    monkeypatch.setattr(versions, "METRICS_VERSION", 2)
    score_verb(folder)
    said = capsys.readouterr()
    assert "recorded by metrics version 1, scored again by metrics version 2; only group counts" in said.err
    assert "acc_worst_group" in said.out


# --- task versions -------------------------------------------------------------------------------------------------


def test_an_earlier_version_is_found_under_its_own_card(folder):
    earlier, current = find_card("colorized-digits@1"), find_card("colorized-digits")
    assert (earlier.id, current.id) == ("colorized-digits@1", "colorized-digits@2")
    assert earlier.digest == cards.parse_card(NOW.read_text(encoding="utf-8"), "x").digest
    assert (superseded_by(earlier), superseded_by(current)) == ("colorized-digits@2", None)
    assert cards.card_names() == ["colorized-digits"]
    with pytest.raises(UsageError, match=r"is at version 2; version 3 is not in this release"):
        find_card("colorized-digits@3")


def test_a_card_under_another_s_name_is_refused(folder):
    (folder / cards.SUPERSEDED / "colorized-digits@1.md").write_text((folder / NOW.name).read_text())
    with pytest.raises(DataError, match=r"colorized-digits@1\.md describes colorized-digits@2"):
        find_card("colorized-digits@1")


def test_records_of_an_earlier_version_have_a_section_that_says_so(maker, request):
    maker.row("erm", 0.5)
    before = maker.board()
    request.getfixturevalue("folder")
    board = maker.board()
    section = board.tasks[0]
    assert (section.task, section.superseded_by) == ("colorized-digits@1", "colorized-digits@2")
    assert section.model_copy(update={"superseded_by": None}) == before.tasks[0]
    text = render_markdown(board)
    assert "### colorized-digits@1\n\n**Superseded by colorized-digits@2.** These runs" in text
    assert "[colorized-digits@1](#colorized-digits1) (superseded)" in text
    assert "uperseded" not in render_markdown(before)


def test_without_its_card_an_earlier_version_is_in_no_table(maker, request):
    maker.row("erm", 0.5)
    folder = request.getfixturevalue("folder")
    (folder / cards.SUPERSEDED / "colorized-digits@1.md").unlink()
    board = maker.board()
    assert board.tasks == []
    assert [each.reason for each in board.absent] == [
        "task 'colorized-digits' is at version 2; version 1 is not in this release"
    ]


@pytest.mark.parametrize("earlier", [True, False])
def test_an_earlier_version_whose_data_are_gone_is_left_out_with_the_reason(maker, request, earlier):
    maker.row("erm", 0.5)
    folder = request.getfixturevalue("folder")
    card = folder / cards.SUPERSEDED / "colorized-digits@1.md"
    gone = re.sub(r"(?m)^  source_module: .*$", "  source_module: benchmark.tasks.digits:Gone", card.read_text())
    card.write_text(gone)
    if not earlier:
        (folder / NOW.name).write_text(gone)
        with pytest.raises(DataError, match="has no attribute 'Gone'"):
            maker.board()
        return
    board = maker.board()
    assert board.tasks == []
    assert "its answers cannot be checked: data card colorized-digits@1" in board.absent[0].reason


def test_an_earlier_version_is_no_covered_data_set(maker, request):
    def photographs(content):
        content["task"]["tier"] = "core"

    maker.row("erm", 0.5, change=photographs)
    folder = request.getfixturevalue("folder")
    for card in (folder / NOW.name, folder / cards.SUPERSEDED / "colorized-digits@1.md"):
        card.write_text(re.sub(r"(?m)^  tier: demo$", "  tier: core", card.read_text()))
    board = maker.board()
    section = json.loads(board.model_dump_json())["tasks"][0]
    assert section["tier"] == "core"
    assert section["rules"][0]["tables"][0]["rows"][0]["rank"] is not None
    assert board.data_sets_covered == 0
