"""Records that are damaged, forged, newer, repeated or of no use."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmark.errors import DamagedFile, NewerSchema
from benchmark.records.canonical import sha256_file, sha256_of
from leaderboard import load
from leaderboard.build import collect_board


def edit(folder, change, *, new_identity=False):
    file = folder / "record.json"
    content = json.loads(file.read_text())
    change(content)
    if new_identity:
        content["cell_id"] = sha256_of(content["cell"])
        content["run_id"] = content["cell_id"][:12]
    file.write_text(json.dumps(content))


def test_a_predictions_file_with_another_digest_is_named(maker):
    folder = maker.run("erm", 0)
    file = folder / "predictions-real-last.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFile, match=r"seed0-\w+/predictions-real-last.parquet is not the file that its record"):
        maker.board()


def test_a_missing_predictions_file_is_named(maker):
    folder = maker.run("erm", 0)
    (folder / "predictions-real-last.parquet").unlink()
    with pytest.raises(DamagedFile, match=r"predictions-real-last.parquet is missing"):
        maker.board()


def test_a_link_is_not_followed(maker):
    folder = maker.run("erm", 0)
    file = folder / "predictions-real-last.parquet"
    file.rename(folder / "elsewhere.parquet")
    file.symlink_to(folder / "elsewhere.parquet")
    with pytest.raises(DamagedFile, match="is no plain file"):
        maker.board()


def test_other_predictions_under_a_right_digest_do_not_fit_the_counts(maker):
    ours, better = maker.run("erm", 0, conflicting=0.4), maker.run("acme/x", 0, conflicting=0.8)
    shutil.copy(better / "predictions-real-last.parquet", ours / "predictions-real-last.parquet")
    digest = sha256_file(ours / "predictions-real-last.parquet")

    def adopt(content):
        for checkpoint in content["stages"][0]["checkpoints"]:
            checkpoint["predictions"]["sha256"] = digest

    edit(ours, adopt)
    with pytest.raises(DamagedFile, match="the record's group counts are not those of its predictions"):
        maker.board()


def test_a_better_number_than_the_predictions_give_is_refused(maker):
    folder = maker.run("erm", 0, conflicting=0.4)

    def embellish(content):
        content["stages"][0]["checkpoints"][0]["metrics"]["acc_conflicting"]["value"] = 0.99

    edit(folder, embellish)
    with pytest.raises(DamagedFile, match=r"the record says acc_conflicting = 0.99, its predictions give 0\.(3|4)"):
        maker.board()


def test_all_problems_are_listed_in_one_error(maker):
    for seed in range(3):
        folder = maker.run("erm", seed)
        (folder / "predictions-real-last.parquet").unlink()
    maker.run("erm", 3)
    with pytest.raises(DamagedFile) as error:
        maker.board()
    lines = str(error.value).splitlines()
    assert lines[0] == "the board was not built; 3 problems:"
    assert [f"seed{seed}" in line for seed, line in enumerate(lines[1:])] == [True, True, True]


def test_a_newer_schema_is_refused_as_such(maker):
    for seed in range(2):
        edit(maker.run("erm", seed), lambda content: content.update(schema_version="99.0"))
    with pytest.raises(NewerSchema, match=r"has schema 99\.0"):
        maker.board()


def test_an_unknown_field_of_a_newer_minor_version_is_no_harm(maker):
    folder = maker.run("erm", 0)
    edit(folder, lambda content: content.update(schema_version="1.7", mood="good"))
    assert maker.table().rows[0].seeds == [0]


@pytest.mark.parametrize(
    ("change", "new_identity", "message"),
    [
        (lambda c: c["cell"].update(seed=7), False, "cell_id is not the SHA-256 of its cell"),
        (lambda c: c.update(run_id="0" * 12), False, "run_id 000000000000 does not belong"),
        (lambda c: c["cell"].update(seed=5), True, "seed is 0, in its cell 5"),
        (lambda c: c["method"].update(hparams={"p": 1}), False, "hparams is"),
        (lambda c: (c["cell"].update(draw=1), c["task"].update(draw=1)), True, "seed 0 goes with draw 0, not 1"),
        (lambda c: c["budget"].update(steps_allowed=9000), False, "contradicts itself: budget"),
        (lambda c: c["stages"][0]["checkpoints"][2].update(track="none"), False, "is track val-select, not none"),
        (lambda c: c["stages"][0]["checkpoints"][1].update(rule="last"), False, "two checkpoints of one"),
        (lambda c: c["method"].update(track="train"), False, "on track train is track train, not none"),
        (lambda c: c["method"].update(oracle=True), False, "oracle is True, but erm@1 has False"),
        (lambda c: c["method"].update(configuration="changed"), False, "configuration 'changed' does not fit"),
        (lambda c: c["task"]["train_counts"][0].reverse(), False, "training counts are not those of its split"),
        (lambda c: c["cell"].update(level="x" * 300), True, "a name is longer than 200 characters"),
    ],
)
def test_a_record_that_contradicts_itself_or_the_code_is_refused(maker, change, new_identity, message):
    edit(maker.run("erm", 0), change, new_identity=new_identity)
    with pytest.raises(DamagedFile, match=message):
        maker.board()


def test_a_pinned_split_that_is_not_ours_is_refused_and_a_partial_one_left_out(maker):
    def other(content):
        content["cell"]["split_digest"] = content["task"]["split_digest"] = "a" * 64

    folder = maker.run("erm", 0, change=other)
    with pytest.raises(DamagedFile, match="was made on another split"):
        maker.board()
    edit(folder, lambda content: content["task"].update(pinned="partial"))
    board = maker.board()
    assert board.tasks == []
    assert (board.absent[0].status, board.absent[0].seeds) == ("left out", [0])
    assert board.absent[0].reason.startswith("its split is partial and not the one at hand")


@pytest.mark.parametrize(
    ("name", "version", "level", "reason"),
    [
        ("colorized-digits", 9, "0.95", "version 9 is not in this release"),
        ("nowhere", 1, "0.95", "unknown task 'nowhere@1'"),
        ("colorized-digits", 1, "0.5", "has no bias level '0.5'"),
    ],
)
def test_what_this_release_does_not_have_is_left_out(maker, name, version, level, reason):
    def elsewhere(content):
        content["task"] |= {"name": name, "version": version, "level": level}
        content["cell"] |= {"task": f"{name}@{version}", "level": level}

    maker.run("erm", 0, change=elsewhere)
    maker.run("erm", 1)
    board = maker.board()
    assert [row.seeds for row in board.tasks[0].rules[0].tables[0].rows] == [[1]]
    assert (board.absent[0].task, board.absent[0].status) == (f"{name}@{version}", "left out")
    assert reason in board.absent[0].reason


def test_the_first_attempt_of_a_cell_counts(maker):
    first = maker.run("erm", 0, conflicting=0.3)
    for again in (0.9, 0.8):
        folder = maker.run("erm", 0, conflicting=again)
        assert folder.name.startswith(first.name + "-")
    table = maker.table()
    assert (len(table.rows), table.rows[0].seeds, table.repeated) == (1, [0], 2)
    assert table.rows[0].runs == [json.loads((first / "record.json").read_text())["run_id"]]
    assert table.rows[0].metrics["acc_conflicting"].value == pytest.approx(0.3, abs=0.02)


def test_the_same_folder_given_twice_counts_once(maker):
    folder = maker.run("erm", 0)
    inputs = [maker.results, folder, folder / "record.json", maker.results]
    board = collect_board(inputs, verification=maker.verification)
    assert (board.runs, board.tasks[0].rules[0].tables[0].repeated) == (1, 0)


def test_trials_are_never_shown(maker, made):
    maker.run("erm", 0, change=made.as_trial)
    board = maker.board()
    assert (board.tasks, board.absent, board.runs) == ([], [], 0)


def test_unfinished_runs_are_listed_until_their_cell_succeeds(maker):
    failure = {"kind": "TrainingDiverged", "message": "the loss is NaN", "traceback": []}
    for seed in (0, 1):
        maker.run("erm", seed, status="error", change=lambda content: content.update(failure=failure))
    maker.run("erm", 0)
    maker.run("acme/dfr", 0, status="skipped", change=lambda content: content.update(skipped_because="no images"))
    maker.run("acme/dfr", 1, status="skipped", change=lambda content: content.update(skipped_because="no images"))
    maker.run("acme/dfr", 2, status="cancelled")
    found = [(each.method, each.status, each.reason, each.seeds) for each in maker.board().absent]
    assert found == [
        ("acme/dfr@1", "cancelled", "interrupted", [2]),
        ("acme/dfr@1", "skipped", "no images", [0, 1]),
        ("erm@1", "error", "TrainingDiverged: the loss is NaN", [1]),
    ]


def test_changed_code_and_cards_mark_a_row_as_stale(maker):
    maker.row("erm", 0.4, source_digest="0" * 64, change=lambda content: content["task"].update(card_digest="0" * 64))
    row = maker.rows()["erm"]
    assert row.stale == ["stale: the method's code has changed since", "stale: the task's data card has changed since"]
    assert row.rank is not None


def test_an_older_version_of_a_method_is_stale(maker):
    def rewrite(content):
        content["method"]["version"] = 7
        content["cell"]["method"] = "erm@7"

    maker.run("erm", 0, change=rewrite)
    row = maker.table().rows[0]
    assert (row.method, row.stale) == ("erm@7", ["stale: the method is at version 1 now"])


def test_a_huge_record_is_not_read(maker, monkeypatch):
    maker.run("erm", 0)
    monkeypatch.setattr(load, "MAX_RECORD_BYTES", 100)
    with pytest.raises(DamagedFile, match="at most 100 are read"):
        maker.board()


def test_an_input_that_does_not_exist_is_named(maker, tmp_path):
    with pytest.raises(DamagedFile, match=r"nowhere does not exist; give folders of records"):
        collect_board([tmp_path / "nowhere"], verification=maker.verification)
