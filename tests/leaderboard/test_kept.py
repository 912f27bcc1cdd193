"""Accepted runs on a large test split keep the arg-max of the ranked stage: the board, `score`, `replay` and `push`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from whole_runs import whole_run

from benchmark.cli import score as score_module
from benchmark.cli.score import score as score_verb
from benchmark.errors import DamagedFile, InvalidValue, UsageError
from benchmark.evaluation.run import Evaluation
from benchmark.evaluation.score import score
from benchmark.records import kept as kept_module
from benchmark.records.files import write_json
from benchmark.records.predictions import read_argmax, write_argmax
from benchmark.records.results import ACCEPTED_FILE, compressed, read_content, read_record, record_bytes
from leaderboard import replay as replaying
from leaderboard.accept import accept
from leaderboard.build import collect_board
from leaderboard.kept import read_labels
from leaderboard.load import Problems, find_records
from leaderboard.people import run_files
from leaderboard.push import dataset_target
from leaderboard.reading import read_runs
from leaderboard.remembered import Remembered
from leaderboard.verification import read_verifications

COMMIT = "c" * 40
ARGMAX = "argmax-real-last.parquet"
ERM = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits" / "erm"


@pytest.fixture
def verification(tmp_path):
    """The verification file of a folder as leaderboard/ of a checkout is."""
    file = tmp_path / "leaderboard" / "verification.json"
    file.parent.mkdir()
    write_json(file, {"format_version": 1, "release": 1, "entries": []})
    return file


@pytest.fixture
def take(verification):
    def take(*paths, **options):
        options = {"level": "maintained", "commit": COMMIT, **options}
        return accept(paths, options.pop("level"), verification=verification, **options)

    return take


@pytest.fixture
def one(maker, take, verification):
    """The folder of one accepted run with an earlier stage."""
    folder = maker.run("erm", 0, stages={"first": 0.3})
    take(folder)
    return verification.with_name("results") / folder.relative_to(maker.results)


def scored(folder):
    problems = Problems()
    with Remembered(None) as memory:
        read = read_runs(find_records([folder]), {}, memory, problems)
    problems.raise_any()
    return read.scored[0]


def again(folder, labels=None, **footer):
    """Write a run's arg-max again, with other labels or another footer."""
    named = read_record(folder).ranked_stage.checkpoints[0].predictions
    found = read_argmax(folder / ARGMAX, rows=named.rows, rows_digest=named.rows_digest, sha256=named.sha256)
    footer = {"rows_digest": named.rows_digest, "sha256": named.sha256, **footer}
    write_argmax(folder / ARGMAX, found if labels is None else labels(found), **footer)


def edit(folder, change):
    content = read_content(folder / ACCEPTED_FILE)
    change(content)
    (folder / ACCEPTED_FILE).write_bytes(compressed(json.dumps(content)))


# --- accepting -----------------------------------------------------------------------------------------------------


def test_the_board_is_that_of_the_whole_predictions(maker, take, verification, tmp_path):
    maker.row("erm", 0.5, verified=None, stages={"first": 0.3})
    maker.row("other/one", 0.6, verified=None, seeds=2)
    take(maker.results)
    assert {path.name for path in verification.with_name("results").rglob("*") if path.is_file()} == {
        ACCEPTED_FILE, ARGMAX,
    }  # fmt: skip
    boards = [
        collect_board([folder], verification=verification, cache=cache)
        for folder, cache in (
            (maker.results, None),
            (verification.with_name("results"), None),
            (verification.with_name("results"), tmp_path / "board.sqlite"),
            (verification.with_name("results"), tmp_path / "board.sqlite"),
        )
    ]
    assert boards[0].tasks[0].stages[0].stages[0].metrics["acc_conflicting"].value is not None
    assert [board == boards[0] for board in boards[1:]] == [True] * 3


def test_a_small_test_split_keeps_all_predictions(maker, take, verification, monkeypatch):
    monkeypatch.setattr(kept_module, "FULL_ROWS", 3_600)
    folder = maker.run("erm", 0, stages={"first": 0.3})
    take(folder)
    kept = verification.with_name("results") / folder.relative_to(maker.results)
    names = ["predictions-first-last.parquet", "predictions-real-last.parquet"]
    assert sorted(path.name for path in kept.iterdir()) == [*names, ACCEPTED_FILE]
    assert all((kept / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_what_is_not_kept_is_checked_all_the_same(maker, take):
    folder = maker.run("erm", 0, stages={"first": 0.3})
    shutil.copy(folder / "predictions-real-last.parquet", folder / "predictions-first-last.parquet")
    with pytest.raises(DamagedFile, match=r"predictions-first-last\.parquet is not the file that its record names"):
        take(folder)


def test_kept_runs_get_another_level_and_keep_their_bytes(one, take, verification, tmp_path):
    before = {path.name: path.read_bytes() for path in one.iterdir()}
    done = take(shutil.copytree(one, tmp_path / one.name), level="recomputed", commit=None)
    assert (len(done.runs), done.removed) == (1, [])
    assert {path.name: path.read_bytes() for path in one.iterdir()} == before
    assert [entry.level for entry in read_verifications(verification).entries] == ["recomputed"]


def test_a_run_that_never_was_accepted_comes_with_all_its_predictions(one, take, verification, tmp_path):
    stranger = shutil.copytree(one, tmp_path / "results" / one.name)
    write_json(verification, {"format_version": 1, "release": 1, "entries": []})
    with pytest.raises(UsageError, match="was never accepted, so its numbers cannot be recomputed; give the run with"):
        take(stranger)


# --- reading -------------------------------------------------------------------------------------------------------


def test_earlier_stages_are_as_recorded_and_have_no_answers(one):
    found, record = scored(one), read_record(one)
    first, last = found.answers[0, "last"], found.answers[1, "last"]
    recorded = record.stages[0].checkpoints[0]
    assert first.values == {name: recorded.metrics[name].value for name in first.values}
    assert list(first.values) == list(last.values)
    assert first.right.tolist() == [n for row in recorded.groups.correct for n in row]
    assert last.correct.mean() == record.ranked_stage.checkpoints[0].metrics["acc_mean"].value
    with pytest.raises(InvalidValue, match="no answers were kept"):
        _ = first.correct


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: again(run, sha256="d" * 64), "is the arg-max of other predictions than its record names"),
        (lambda run: again(run, rows_digest="d" * 64), "answers other test rows"),
        (lambda run: again(run, labels=lambda found: found[:-1]), "holds 3589 rows, the test split has 3590"),
        (lambda run: again(run, labels=lambda found: found + 10), r"answers with class \d+ of 10"),
        (lambda run: again(run, labels=np.zeros_like), "group counts are not those of its predictions"),
        (lambda run: (run / ARGMAX).write_bytes(b"PAR1"), "cannot be read as Parquet"),
        (lambda run: (run / ARGMAX).unlink(), r"predictions-first-last\.parquet is missing"),
    ],
)
def test_an_arg_max_that_does_not_fit_is_refused(one, change, message):
    change(one)
    with pytest.raises(DamagedFile, match=message):
        scored(one)


def test_counts_of_earlier_stages_that_cannot_be_are_refused(one):
    def more(content):
        content["stages"][0]["checkpoints"][0]["groups"]["correct"][0][0] += 1000

    edit(one, more)
    with pytest.raises(DamagedFile, match="group counts of an earlier stage are impossible"):
        scored(one)


def test_numbers_of_another_metrics_version_are_not_shown_as_today_s(one, monkeypatch):
    monkeypatch.setattr("benchmark.metrics.versions.METRICS_VERSION", 2)
    first = scored(one).answers[0, "last"]
    assert set(first.values.values()) == {None}
    assert set(first.reasons.values()) == {"recorded by an earlier metrics version, and its answers were not kept"}
    assert first.right.sum() > 0


def test_predictions_that_lie_beside_the_arg_max_are_read_and_checked(one, maker, verification, tmp_path):
    cache, results = tmp_path / "board.sqlite", verification.with_name("results")
    before = collect_board([results], verification=verification, cache=cache)
    whole = next(maker.results.rglob("predictions-real-last.parquet"))
    record = read_record(one)
    named = record.ranked_stage.checkpoints[0].predictions
    rows = {"rows": named.rows, "rows_digest": named.rows_digest}
    again(one, labels=np.zeros_like)
    assert not read_labels(one, record, named, **rows).any()
    shutil.copy(whole, one)
    assert read_labels(one, record, named, **rows).any()
    assert collect_board([results], verification=verification, cache=cache) == before
    (one / whole.name).write_bytes(whole.read_bytes() + b"x")
    with pytest.raises(DamagedFile, match=r"predictions-real-last\.parquet is not the file that its record names"):
        collect_board([results], verification=verification, cache=cache)


# --- score and replay ----------------------------------------------------------------------------------------------


@pytest.fixture
def real(take, verification, tmp_path):
    """The folder of an accepted run that was really made, and the folder of the run with all its predictions."""
    accepted = next(ERM.glob("0.95-seed0-*"))
    whole = whole_run(accepted, tmp_path / "results" / "colorized-digits" / "erm" / accepted.name)
    take(whole, level="recomputed", commit=None)
    return verification.with_name("results") / whole.relative_to(tmp_path / "results"), whole


def test_score_recomputes_what_follows_from_the_arg_max(real, capsys):
    kept, whole = real
    (_, few), (_, all_of_them) = score(kept), score(whole)
    assert [each.differing for each in few] == [[]] * 3
    assert {tuple(each.recorded) for each in few} == {("calibration_error", "calibration_error_worst_group")}
    assert [each.recorded for each in all_of_them] == [[]] * 3
    for one, other in zip(few, all_of_them, strict=True):
        assert one.metrics == {name: each for name, each in other.metrics.items() if name not in one.recorded}
    score_verb(kept / ACCEPTED_FILE)
    said = capsys.readouterr().err
    assert (
        "only the arg-max was kept; as recorded: calibration_error, calibration_error_worst_group (they need the "
        "probabilities)\n" in said
    )
    assert "3 checkpoints of" in said
    # Under other versions of numpy or scipy than the record's, ends of intervals may differ in the last bit.
    equal = r"is (bit-equal to the record|equal to the record to 1e-09)"
    assert re.search(f"every other metric {equal}", said)
    score_verb(whole)
    assert re.search(f"every metric {equal}", capsys.readouterr().err)


def test_score_finds_what_does_not_follow_from_the_arg_max(real, capsys):
    kept, _ = real
    edit(kept, lambda content: content["stages"][0]["checkpoints"][0]["metrics"]["acc_mean"].update(value=0.99))
    with pytest.raises(DamagedFile, match="does not follow from its predictions: real/last: acc_mean"):
        score_verb(kept)
    again(kept, labels=np.zeros_like)
    assert {"acc_mean", "gap", "groups"} <= set(score(kept)[1][0].differing)
    again(kept, labels=lambda found: found[:-1])
    with pytest.raises(DamagedFile, match="holds 3589 rows"):
        score(kept)


def test_score_names_the_stages_that_were_not_kept(one):
    record, found = score(one)
    assert [(each.stage, each.rule) for each in found] == [("real", each.rule) for each in record.stages[1].checkpoints]
    said = score_module._only_kept(record, found)
    assert said.endswith("as recorded: all of first/last, first/val-average, first/val-worst-group")


def test_a_repeated_seed_is_compared_by_what_was_kept_and_by_digest(real):
    kept, whole = real
    record = read_record(whole)
    same = replaying._same_seed(scored(kept), Evaluation(record, whole, False))
    assert {rule: (each.differing, each.same_predictions) for rule, each in same.items()} == {
        each.rule: ([], True) for each in record.ranked_stage.checkpoints
    }


# --- publishing ----------------------------------------------------------------------------------------------------


def test_the_data_set_gets_plain_records_and_what_is_kept(one, verification):
    files = dataset_target("org/records", verification.with_name("results"), {}).files
    run = f"results/colorized-digits/erm/{one.name}"
    assert {path for path in files if path.startswith("results/")} == {f"{run}/record.json", f"{run}/{ARGMAX}"}
    assert files[f"{run}/record.json"].data == record_bytes(one / ACCEPTED_FILE)
    assert b"Of test splits with\n  more than 2,000 images" in files["README.md"].data
    again(one, sha256="d" * 64)
    with pytest.raises(DamagedFile, match="is the arg-max of other predictions"):
        dataset_target("org/records", verification.with_name("results"), {})


def test_as_downloaded_from_the_data_set_it_is_read_alike(one):
    (one / "record.json").write_bytes(record_bytes(one / ACCEPTED_FILE))
    (one / ACCEPTED_FILE).unlink()
    assert scored(one).answers[1, "last"].correct.any()
    assert len(score(one)[1]) == 3


def test_an_accepted_run_is_not_submitted(one):
    with pytest.raises(UsageError, match="holds an accepted run, which is on the board"):
        run_files(one, read_record(one))
