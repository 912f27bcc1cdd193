"""What `verify` says of honest submissions, and of those that say something else than they hold."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmark.errors import UsageError
from benchmark.records.files import write_json
from leaderboard.accept import accept
from leaderboard.verify import runs, verify


@pytest.fixture(scope="module")
def honest(forge_once):
    """The report on one run that a plug-in made with one seed."""
    forge_once.run()
    forge_once.about()
    return forge_once.report(intervals=True, cached=False)


def test_an_honest_submission_is_recomputed_and_never_more(honest):
    assert (honest.ok, honest.level, honest.submission) == (True, "recomputed", "acme/method@1")
    assert (honest.runs, honest.recomputed_runs, honest.checkpoints) == (1, 1, 1)
    text = honest.markdown()
    assert "shows that the arithmetic is right, not that the predictions were come by honestly" in text
    assert "a row is ranked only after a maintainer's `replay`" in text
    assert json.loads(honest.model_dump_json())["ok"] is True


def test_a_run_with_fewer_than_five_seeds_is_said_to_stay_unranked(honest):
    assert [(each.severity, each.message) for each in honest.findings] == [
        ("note", "seeds of one configuration: 1; fewer than 5 are shown, not ranked")
    ]


def test_a_row_that_the_board_does_not_have_is_said_to_be_new(honest):
    assert {(each.board, tuple(each.board_seeds)) for each in honest.differences} == {(None, ())}
    assert "no such row" in honest.markdown()


def test_results_without_a_submission_file_are_checked_too_unless_it_is_required(forge):
    folder = forge.run(change=lambda content: content.update(status="skipped", skipped_because="no images"))
    (folder / "groups.png").write_bytes(b"a picture")
    report = forge.report()
    assert report.ok
    assert (report.submission, report.level) == (None, "self-reported")
    assert "files: has no place in a submission; it is not opened" in forge.reasons("warning")
    assert "submission: is missing" in forge.reasons(submission_required=True)
    forge.about()
    assert forge.reasons() == ["files: has no place in a submission; it is not opened"]


def test_all_that_is_wrong_is_collected(forge, tamper):
    for seed in (0, 1):
        tamper(forge.run(seed=seed), metric("gap", value=0.1))
    (forge.root / "stray").mkdir()
    (forge.root / "stray" / "link").symlink_to("/etc/passwd")
    report = forge.report()
    assert {each.check for each in report.findings if each.severity == "error"} == {"files", "metrics", "plausible"}
    assert len({each.where for each in report.findings if each.check == "metrics" and each.severity == "error"}) == 2
    assert report.level == "self-reported"


def test_findings_are_bounded_and_counted(forge):
    folder = forge.run()
    forge.about()
    for number in range(150):
        (folder / f"predictions-{number}.parquet").write_bytes(b"")
    report = forge.report()
    assert len(report.findings) == 100
    assert report.errors == 150
    assert f"and {report.further_findings} more" in report.markdown()
    assert report.further_findings >= 50


def checkpoint(content):
    return content["stages"][0]["checkpoints"][0]


def metric(name, **values):
    return lambda content: checkpoint(content)["metrics"][name].update(values)


def quick(content):
    content["cost"].update(training_seconds=0.0, generator_seconds=3.0)
    content["stages"][0]["seconds"] = 0.0


def generous(content):
    content["budget"]["synthetic_allowed"] = content["cell"]["budget"]["synthetic"] = 9_000
    content["cell"]["training"]["learning_rate"] = 1.0


def old_code(content):
    content["method"] |= {"name": "erm", "origin": "in-tree", "package": "genbias-bench", "source_digest": "0" * 64}
    content["cell"]["method"] = "erm@1"


ODD = [
    (lambda c: None, "note: metrics: the bands of its calibration errors were not resampled (--intervals)"),
    (old_code, "warning: versions: stale: the method's code has changed since"),
    (quick, "warning: plausible: its training took no time"),
    (quick, "warning: plausible: a generator took 3 s, but no generated image was used"),
    (generous, "warning: budget: another training recipe than the task's (training.learning_rate): not ranked"),
    (generous, "warning: budget: its budget is not the protocol's: another row, not ranked"),
    (lambda c: c["method"].update(oracle=True), "note: claims: an oracle: it uses what no method has"),
    (lambda c: c["task"].update(card_digest="0" * 64), "warning: versions: stale: the task's data card has changed"),
]  # fmt: skip
CASES = [
    (metric("acc_mean", value=0.99), "metrics: real/last: acc_mean is 0.99, its predictions give 0.4"),
    (metric("acc_mean", low=0.1), "acc_mean differs from what its predictions give"),
    (lambda c: checkpoint(c)["metrics"].pop("flip_any"), "flip_any differs from what its predictions give"),
    (metric("calibration_error", value=0.0), "calibration_error is 0.0, its predictions give 0."),
    (metric("acc_mean", value=0.99), "metrics: predictions-real-last.parquet: the record says acc_mean = 0.99"),
    (lambda c: checkpoint(c)["groups"]["correct"][3].__setitem__(3, 0), "group counts are not those of its"),
    (lambda c: checkpoint(c).update(track="train"), "identity: rule last on track none is track none, not train"),
    (lambda c: c["method"].update(track="train"), "is track train, not none"),
    (lambda c: c["budget"].update(synthetic_kept=5000), "5000 kept images used, 1980 allowed"),
    (lambda c: c["budget"].update(steps_used=399), "took 400 optimiser steps, the budget says 399"),
    (lambda c: c["budget"].update(sampled_allowed=9999), "identity: contradicts itself: budget"),
    (lambda c: c["task"].update(split_digest="a" * 64), "split_digest is 'aaaa"),
    (lambda c: checkpoint(c)["predictions"].update(rows_digest="a" * 64), "answers other test rows by its record"),
    (lambda c: checkpoint(c)["predictions"].update(rows=7), "has 7 rows by its record, the test split has 3590"),
    (lambda c: c.update(kind="trial", status="started", stages=[]), "kind: it is a trial; only runs are accepted"),
    (lambda c: c.update(status="cancelled"), "status: it was never finished: its status is cancelled"),
    (lambda c: c.update(schema_version="9.0"), "this version reads 1.x: update genbias-bench"),
    (lambda c: c.update(metrics_version=9), "update genbias-bench"),
    (lambda c: c["task"].update(version=7), "task is 'colorized-digits@7', in its cell 'colorized-digits@1'"),
    (lambda c: c.update(finished="2001-01-01T00:00:00+00:00"), "plausible: it finished before it started"),
    (lambda c: c.update(started="2999-01-01T00:00:00+00:00"), "plausible: started lies in the future: 2999-01-01"),
    (lambda c: c.update(started="yesterday"), "plausible: started is 'yesterday', no time in ISO 8601"),
    (lambda c: c["cost"].update(wall_seconds=1.0), "plausible: it took 1 s in all, but"),
    (lambda c: c["cost"].update(wall_seconds=-1.0), "plausible: wall_seconds is negative"),
    (lambda c: c["cost"].update(training_seconds=0.0), "s, its cost says 0 s"),
    (lambda c: c["task"].update(n_train=7), "n_train, smallest_group and populated_groups are (7,"),
    (lambda c: checkpoint(c).update(step=9999), "plausible: real/last: taken at step 9999 of 400"),
    (metric("acc_worst_group", value=0.9), "acc_worst_group is 0.9, above acc_group_mean with"),
    (metric("flip_any", value=0.0), "above flip_any with 0"),
    (metric("gap", value=0.0), "gap is 0, but acc_aligned - acc_conflicting is"),
    (metric("acc_mean", value=7.0), "acc_mean is 7, outside of 0 to 1"),
    (metric("gap", low=1.0, high=0.0), "the interval of gap ends before it begins"),
    (lambda c: checkpoint(c)["groups"]["n"][0].__setitem__(0, 9999), "test images, the test split 3590"),
]  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory, forge_once):
    return replace(forge_once, root=tmp_path_factory.mktemp("odd")).cases([change for change, _ in ODD], [])


@pytest.fixture(scope="module")
def found(tmp_path_factory, forge_once):
    return replace(forge_once, root=tmp_path_factory.mktemp("cases")).cases([], [change for change, _ in CASES])


@pytest.mark.parametrize("number", range(len(ODD)))
def test_what_is_only_odd_or_keeps_a_run_unranked_is_said(odd, number):
    _, message = ODD[number]
    assert any(message in each for each in odd[number]), odd[number]
    # All of them have the predictions of one run.
    assert not [each for each in odd[number] if each.startswith("error") and "error: copies: " not in each]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_record_that_says_what_its_predictions_do_not_or_what_cannot_be_is_refused(found, number):
    _, message = CASES[number]
    reasons = [each for each in found[number] if each.startswith("error: ")]
    assert any(message in reason for reason in reasons), reasons


def test_one_cell_twice_in_a_submission_is_refused(forge):
    folder = forge.run()
    twin = folder.with_name(folder.name + "-2")
    twin.mkdir()
    for file in folder.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    content = json.loads((twin / "record.json").read_text())
    (twin / "record.json").write_text(json.dumps(content | {"run_id": content["run_id"] + "-2"}))
    reasons = forge.reasons()
    assert len([reason for reason in reasons if "stands 2 times in the submission" in reason]) == 2


@pytest.mark.slow
def test_a_record_of_the_board_is_refused_and_another_attempt_of_its_cell_noticed(forge):
    folder = forge.run()
    forge.run(below=forge.board)
    assert forge.reasons() == ["duplicates: this very record is on the board already"]
    content = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(content | {"notes": ["again"]}))
    assert forge.report().ok
    assert "is on the board already; this attempt stands beside it" in " ".join(forge.reasons("warning"))


def test_a_single_run_can_be_checked_also_one_of_the_board_itself(forge):
    report = verify(forge.run(below=forge.board), board=[forge.board], intervals=False)
    assert (report.ok, report.recomputed_runs) == (True, 1)


def test_predictions_of_another_method_are_a_copy_byte_for_byte(forge):
    forge.run("zenith/original", below=forge.board)
    forge.run()
    assert forge.reasons() == [
        "copies: its predictions file is that of zenith/original@1 at 0.95, seed 0, byte for byte"
    ]


def test_the_same_answers_for_two_seeds_are_a_copy(forge):
    first, second = forge.run(seed=0), forge.run(seed=1)
    contents = [json.loads((folder / "record.json").read_text()) for folder in (first, second)]
    contents[1]["stages"] = contents[0]["stages"]
    (second / "record.json").write_text(json.dumps(contents[1]))
    (second / "predictions-real-last.parquet").write_bytes((first / "predictions-real-last.parquet").read_bytes())
    assert "copies: its predictions file is that of acme/method@1 at 0.95, seed 1, byte for byte" in forge.reasons()


def other_probabilities(stored):
    label = stored.label.copy()
    label[:3] = (label[:3] + 1) % 10
    return replace(stored, label=label, top_probability=np.full(len(label), 0.25, np.float16))


def other_answers(stored):
    label = stored.label.copy()
    label[:30] = (label[:30] + 1) % 10
    return replace(stored, label=label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_probabilities, "all but 3 of 3590 answers are those of zenith/original@1 at 0.95, seed 0"),
        (other_answers, "probabilities are those of zenith/original@1 at 0.95, seed 0 to the last bit"),
    ],
)
def test_a_retouched_copy_is_noticed(forge, change, message):
    forge.run("zenith/original", below=forge.board)
    recompute(forge.run(stored=change))
    report = forge.report()
    assert report.ok, report.findings
    assert any(message in each.message and each.check == "copies" for each in report.findings)


def test_a_copy_of_answers_of_which_the_board_keeps_the_arg_max_is_noticed(forge, tmp_path):
    verification = tmp_path / "leaderboard" / "verification.json"
    verification.parent.mkdir()
    write_json(verification, {"format_version": 1, "release": 0, "entries": []})
    accept([forge.run("zenith/original", below=tmp_path / "runs")], "recomputed", verification=verification)
    (kept,) = verification.parent.rglob("*.parquet")
    assert kept.name.startswith("argmax-")
    recompute(forge.run(stored=other_probabilities))
    report = verify(forge.root, board=[verification.with_name("results")], intervals=False, cached=False)
    message = "all but 3 of 3590 answers are those of zenith/original@1 at 0.95, seed 0"
    assert [message in each.message for each in report.findings if each.check == "copies"] == [True]
    # Whether probabilities are the same cannot be told any more.
    shutil.rmtree(forge.root)
    recompute(forge.run(stored=other_answers))
    report = verify(forge.root, board=[verification.with_name("results")], intervals=False, cached=False)
    assert (report.ok, [each for each in report.findings if each.check == "copies"]) == (True, [])


def test_independent_seeds_and_methods_are_no_copies(forge):
    forge.run("zenith/original", 1, below=forge.board)
    forge.run(seed=0)
    forge.run(seed=2)
    assert not [each for each in forge.report().findings if each.check == "copies"]


def test_other_code_under_a_version_of_the_board_is_noticed(forge):
    forge.run(seed=1, below=forge.board)
    skipped = {"status": "skipped", "skipped_because": "no images"}
    forge.run(change=lambda content: (content.update(skipped), content["method"].update(source_digest="7" * 64)))
    found = " ".join(forge.reasons("warning") + forge.reasons("note"))
    assert "acme/method@1 has other code on the board; changed code needs another version" in found
    assert "acme/method is on the board already; whether it is submitted by its authors is for people to see" in found


def test_many_parts_of_a_data_set_are_not_all_computed(forge, monkeypatch):
    def lacking(number):
        return lambda content: content["task"].update(missing_samples=[f"digit-{number}"])

    monkeypatch.setattr(runs, "_MOST_INCOMPLETE", 1)
    first, second = forge.cases([], [lacking(number) for number in range(2)])
    assert len([each for each in first + second if "is made on yet another part of its data set" in each]) == 1


def test_the_difference_to_the_standing_row_is_shown(forge):
    for seed in (0, 1):
        forge.run(seed=seed, below=forge.board)
    forge.run(seed=2)
    report = forge.report()
    found = next(each for each in report.differences if each.metric == "acc_conflicting")
    assert (found.board_seeds, found.submission_seeds, found.rule) == ([0, 1], [2], "last")
    assert found.board is not None
    assert f"{100 * (found.submission - found.board):+.2f}" in report.markdown()


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "nowhere"):
        with pytest.raises(UsageError, match="is no folder that can be read"):
            verify(tmp_path / name)


def recompute(folder):
    """Give a record the numbers of its predictions."""
    from benchmark.evaluation.scoring import recorded_manifest, score_predictions
    from benchmark.records.results import read_record, record_text
    from benchmark.tasks.catalog import load_task

    record = read_record(folder)
    task = load_task(record.cell.task)
    stage = record.stages[0]
    metrics, groups = score_predictions(task, recorded_manifest(task, record), folder / "predictions-real-last.parquet")
    checkpoint = stage.checkpoints[0].model_copy(update={"metrics": metrics, "groups": groups})
    stages = [stage.model_copy(update={"checkpoints": [checkpoint]})]
    (folder / "record.json").write_text(record_text(record.model_copy(update={"stages": stages})))
