"""The excerpt in README.md: what it holds, where it goes, and that the committed one follows from the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import DamagedFile
from leaderboard import build
from leaderboard.build import build_board, collect_board
from leaderboard.site.readme import END, MOST_LINES, START, excerpt, update_readme

ROOT = Path(__file__).parents[2]


def test_the_excerpt_shows_the_top_ranked_rows_with_intervals(maker):
    maker.row("erm", 0.4)
    maker.row("acme/x", 0.6)
    maker.row("acme/new", 0.9, verified=None)
    board = maker.board()
    lines = excerpt(board).splitlines()
    assert (lines[0], lines[-1]) == (START, END)
    title = next(line for line in lines if line.startswith("**"))
    assert title == "**colorized-digits@1**, ρ = 0.95: 2 of 2 ranked, demo tier: no evidence about photographs"
    rows = [line for line in lines if line.startswith("| 1 of 2") or line.startswith("| 2 of 2")]
    found = board.tasks[0].rules[0].tables[0].rows[0].metrics["acc_conflicting"]
    assert "acme/x@1" in rows[0]
    assert f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]" in rows[0]
    assert "acme/new" not in "".join(lines)


def test_many_tasks_and_rows_still_fit(maker):
    maker.row("erm", 0.4)
    board = maker.board()
    section, table = board.tasks[0].rules[0], board.tasks[0].rules[0].tables[0]
    longer = section.model_copy(update={"tables": [table.model_copy(update={"rows": table.rows * 12})]})
    one = board.tasks[0].model_copy(update={"rules": [longer]})
    for tasks in range(7):
        assert len(excerpt(board.model_copy(update={"tasks": [one] * tasks})).splitlines()) <= MOST_LINES
    assert len(excerpt(board.model_copy(update={"tasks": [one]})).splitlines()) == 4 + 4 + 8


def test_an_empty_board_has_an_excerpt(maker):
    assert excerpt(maker.board()).splitlines() == [START, "Board release 1: no run has been accepted yet.", END]


def test_only_the_part_between_the_comments_changes(maker, tmp_path):
    maker.row("erm", 0.4)
    board, readme = maker.board(), tmp_path / "README.md"
    assert not update_readme(board, readme)
    readme.write_text("# Title\n")
    assert not update_readme(board, readme)
    readme.write_text(f"# Title\n\n{START}\nold\n{END}\n\nMore.\n")
    for _ in range(2):
        assert update_readme(board, readme)
        assert readme.read_text() == f"# Title\n\n{excerpt(board)}\n\nMore.\n"


@pytest.mark.parametrize("content", [START, END, f"{END}{START}", f"{START}{END}{START}", f"{START}{START}{END}"])
def test_comments_that_are_not_a_pair_are_refused(maker, tmp_path, content):
    (tmp_path / "README.md").write_text(content)
    with pytest.raises(DamagedFile, match="once each, in this order"):
        update_readme(maker.board(), tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == content


def test_build_updates_the_readme_with_the_accepted_records_only(maker, tmp_path, monkeypatch):
    maker.row("erm", 0.4)
    root = tmp_path / "clone"
    (root / "leaderboard").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / "README.md").write_text(f"{START}{END}\n")
    monkeypatch.setattr(build, "__file__", str(root / "leaderboard" / "build.py"))
    build_board([maker.results], tmp_path / "L.md", verification=maker.verification)
    assert (root / "README.md").read_text() == f"{START}{END}\n"
    maker.results.rename(root / "leaderboard" / "results")
    board = build_board(verification=maker.verification)
    assert (root / "README.md").read_text() == f"{excerpt(board)}\n"


@pytest.mark.slow
def test_the_committed_readme_holds_what_the_accepted_records_give(tmp_path):
    committed = (ROOT / "README.md").read_text(encoding="utf-8")
    copy = tmp_path / "README.md"
    copy.write_text(committed, encoding="utf-8")
    update_readme(collect_board([ROOT / "leaderboard" / "results"]), copy)
    assert copy.read_text(encoding="utf-8") == committed
