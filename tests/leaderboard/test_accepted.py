"""The accepted records and the committed board: nothing in them is edited by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.evaluation.score import score
from leaderboard.build import collect_board
from leaderboard.markdown import render_markdown

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "leaderboard" / "results"
MOST_BYTES = 25_000_000


def test_the_committed_board_follows_from_the_committed_records() -> None:
    assert render_markdown(collect_board([RESULTS])) == (ROOT / "LEADERBOARD.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["copy-augment", "erm", "ffr", "sd-augment"])
def test_every_metric_of_an_accepted_record_is_recomputed_bit_equal(method: str) -> None:
    folder = sorted((RESULTS / "colorized-digits" / method).iterdir())[0]
    record, rescored = score(folder)
    assert record.method.name == method
    assert [checkpoint.differing for checkpoint in rescored] == [[]] * len(rescored)


def test_the_accepted_records_do_not_outgrow_the_repository() -> None:
    files = [path for path in (ROOT / "leaderboard").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert not {path.suffix for path in files if path.is_relative_to(RESULTS)} - {".json", ".parquet"}
