"""The accepted records and the committed board: nothing in them is edited by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.evaluation.score import score
from benchmark.records.files import pretty_json
from benchmark.records.kept import argmax_file, is_large, kept_checkpoints, named_files
from benchmark.records.results import ACCEPTED_FILE, read_record, record_files
from leaderboard.accept import MOST_BYTES, size_of
from leaderboard.build import collect_board
from leaderboard.markdown import render_markdown
from leaderboard.verification import VERIFICATION_FILE, read_verifications

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "leaderboard" / "results"


@pytest.mark.slow
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
    assert size_of(ROOT / "leaderboard") <= MOST_BYTES


def test_accepted_runs_hold_what_is_kept_and_nothing_else() -> None:
    for file in record_files(RESULTS):
        record = read_record(file)
        named = {each.file for each in named_files(record)}
        kept = {argmax_file(each.predictions) for each in kept_checkpoints(record)} if is_large(record) else named
        assert {path.name for path in file.parent.iterdir()} == {ACCEPTED_FILE, *kept}, file.parent


def test_the_committed_levels_are_written_as_accept_writes_them() -> None:
    known = read_verifications(VERIFICATION_FILE)
    assert pretty_json(known.model_dump(mode="json")) == VERIFICATION_FILE.read_text(encoding="utf-8")
    decisions = [(entry.task, entry.method, entry.level, entry.commit or "", entry.note) for entry in known.entries]
    assert decisions == sorted(set(decisions))
