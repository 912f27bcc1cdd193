"""Studies on real digits with few optimiser steps: what is tried, what ends it, and going on after a kill."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.contract.registry import load_method
from benchmark.contract.space import SEED, Range
from benchmark.errors import DamagedFile, InvalidValue, NotApplicable, TrainingDiverged, UsageError
from benchmark.evaluation.cell import Request
from benchmark.evaluation.run import evaluate
from benchmark.evaluation.score import score
from benchmark.evaluation.tuned import Study, Tried, read_study, study_of
from benchmark.progress import Silent
from benchmark.records.results import iterate_records
from benchmark.records.schema import Record
from benchmark.tasks.task import Task
from benchmark.tuning import study as running
from benchmark.tuning.chart import draw_best
from benchmark.tuning.study import CHART_FILE, Place, tune
from leaderboard.build import collect_board

Found = dict[str, Any]


def place_at(folder: Path, on_trial: Callable[[Study], None] = lambda _: None) -> Place:
    return Place(folder / "results", folder / "store", "cpu", 1, isolated=False, progress=Silent(), on_trial=on_trial)


@pytest.fixture
def place(tmp_path: Path, short_task: Task) -> Place:
    return place_at(tmp_path)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a study go on however slow this machine happens to be: on twelve steps, seconds say little."""
    monkeypatch.setattr(running, "_device_seconds", lambda record: 1.0)


def records_of(place: Place) -> list[Record]:
    return [record for _, record in iterate_records([place.results])]


def found_by(study: Study) -> list[Found]:
    """What a study found out, without the times."""
    return [trial.model_dump(exclude={"device_seconds"}) for trial in study.trials]


@pytest.mark.usefixtures("unhurried")
def test_a_study_tries_the_default_and_draws_and_keeps_every_trial(place: Place) -> None:
    seen: list[int] = []
    study, file = tune(Request("jtt"), 3, dataclasses.replace(place, on_trial=lambda s: seen.append(len(s.trials))))
    assert seen == [1, 2, 3]
    assert (study.ended, len(study.trials), study.definition.criterion) == ("trials", 3, "val-average")
    assert set(study.definition.space) == {
        "training.learning_rate", "training.weight_decay", "identification_share", "upweight",
    }  # fmt: skip
    assert study.trials[0].values == {
        "training.learning_rate": 0.002, "training.weight_decay": 0.01, "identification_share": 0.25, "upweight": 10,
    }  # fmt: skip
    values = [trial.value for trial in study.trials]
    assert study.winner is not None
    assert values[study.winner] == min(value for value in values if value is not None) == study.expected_best[-1]
    assert file.parent.parent == place.results / "tuning" / "colorized-digits" / "jtt"
    assert file.parent.name == f"study-{study.study[:12]}"
    assert read_study(file) == study
    assert b"expected best" in (file.parent / CHART_FILE).read_bytes()
    trials = [record for record in records_of(place) if record.method.name == "jtt"]
    assert {(r.kind, r.seed, r.cell.draw, r.task.level, r.cell.tuning) for r in trials} == {
        ("trial", SEED, 0, "0.95", study.study)
    }
    assert {(r.cell_id, r.trial and r.trial.value) for r in trials} == {(t.cell_id, t.value) for t in study.trials}
    with pytest.raises(DamagedFile, match="is a trial of a tuning study, which has no predictions"):
        score(next((place.results / "tuning").rglob("record.json")))
    board = collect_board([place.results], cache=None)
    assert (board.runs, board.tasks, board.absent) == (0, [], [])


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
def test_a_study_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path, short_task: Task) -> None:
    def killed(study: Study) -> None:
        if len(study.trials) == 2:
            raise SystemExit("killed")

    with pytest.raises(SystemExit):
        tune(Request("group-dro"), 3, place_at(tmp_path / "a", killed))
    (partial,) = (tmp_path / "a" / "results").rglob("tuning.json")
    assert (read_study(partial).ended, len(read_study(partial).trials)) == (None, 2)
    with pytest.raises(InvalidValue, match="it has not ended"):
        evaluate("group-dro", tuned=partial, results=tmp_path, store=tmp_path / "a" / "store")
    before = {record.run_id for record in records_of(place_at(tmp_path / "a"))}
    study, file = tune(Request("group-dro"), 3, place_at(tmp_path / "a"))
    whole, _ = tune(Request("group-dro"), 3, place_at(tmp_path / "b"))
    assert file == partial
    assert found_by(study) == found_by(whole)
    assert (study.study, study.winner, study.expected_best) == (whole.study, whole.winner, whole.expected_best)
    after = {record.run_id for record in records_of(place_at(tmp_path / "a"))}
    assert len(after - before) == 1
    assert after == {record.run_id for record in records_of(place_at(tmp_path / "b"))}


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
def test_a_finished_study_is_final(place: Place) -> None:
    study, file = tune(Request("erm"), 1, place)
    for folder in (place.results / "tuning").glob("*/erm/0.95-*"):
        shutil.rmtree(folder)
    assert tune(Request("erm"), 1, place) == (study, file)
    assert records_of(place) == []
    longer, other = tune(Request("erm"), 2, place)
    assert (len(longer.trials), other == file, read_study(file) == study) == (2, False, True)


@pytest.mark.slow
def test_device_time_ends_a_study_after_the_trial_that_used_it_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"erm@1": 1.0, "group-dro@1": 9.0}
    monkeypatch.setattr(running, "_device_seconds", lambda record: seconds[record.cell.method])
    study, _ = tune(Request("group-dro"), 5, place)
    assert (study.ended, len(study.trials), study.device_seconds, study.erm_seconds) == ("device time", 3, 27.0, 1.0)
    assert study.definition.criterion == "val-worst-group"


def test_one_run_of_erm_is_measured_once_for_all_studies_of_a_task(place: Place) -> None:
    first, _ = tune(Request("erm"), 1, place)
    second, _ = tune(Request("resampling"), 1, place)
    assert first.erm_seconds == second.erm_seconds > 0
    assert [record.kind for record in records_of(place) if record.method.name == "erm"] == ["trial", "trial"]


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
def test_a_trial_that_diverges_is_kept_and_not_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = running.configurations

    def reckless(*arguments: Any) -> Any:
        for number, values in enumerate(drawn(*arguments)):
            yield values | {"training.learning_rate": 1e30 if number == 1 else 0.002}

    monkeypatch.setattr(running, "configurations", reckless)
    monkeypatch.setattr(running, "recipe_space", _without_bounds)
    study, file = tune(Request("erm"), 3, place)
    assert [trial.state for trial in study.trials] == ["finished", "diverged", "finished"]
    assert (study.trials[1].value, study.trials[1].steps, study.winner != 1) == (None, 0, True)
    assert study.expected_best[-1] == min(trial.value for trial in study.trials if trial.value is not None)
    errors = [record for record in records_of(place) if record.status == "error"]
    assert [(record.kind, record.failure and record.failure.kind) for record in errors] == [
        ("trial", TrainingDiverged.__name__)
    ]
    file.unlink()
    assert found_by(tune(Request("erm"), 3, place)[0]) == found_by(study)
    assert len([record for record in records_of(place) if record.status == "error"]) == 1


def _without_bounds(recipe: Any) -> dict[str, Range]:
    return {"learning_rate": Range(low=1e-5, high=1e31, log=True)}


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
def test_what_was_chosen_runs_on_fresh_seeds_as_a_tuned_row(place: Place) -> None:
    study, file = tune(Request("erm"), 2, place)
    runs = [
        evaluate("erm", seed=seed, level=level, tuned=file, results=place.results, store=place.store, threads=1).record
        for seed, level in ((0, "0.95"), (1, "0.9"))
    ]
    assert {(r.kind, r.method.configuration, r.cell.tuning) for r in runs} == {("run", "tuned", study.chosen().study)}
    assert {r.cell.training["learning_rate"] for r in runs} == {study.chosen().training["learning_rate"]}
    assert all(len(record.ranked_stage.checkpoints) == 3 for record in runs)
    again = evaluate("erm", tuned=file, results=place.results, store=place.store, threads=1)
    assert again.reused
    assert runs[0].method.tuning is not None
    assert runs[0].method.tuning.trial == study.winner


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
def test_a_generating_method_is_tuned_with_its_generator(place: Place) -> None:
    study, file = tune(Request("ffr"), 2, place)
    assert study.definition.generator is not None
    assert (study.definition.generator["name"], study.definition.criterion) == ("tiny-sd", "val-average")
    record = evaluate("ffr", tuned=file, results=place.results, store=place.store, threads=1).record
    assert (record.method.configuration, record.pools[0].sampled > 0) == ("tuned", True)
    trials = [each for each in records_of(place) if each.kind == "trial" and each.method.name == "ffr"]
    assert [len(each.pools) for each in trials] == [1, 1]


@pytest.mark.parametrize(
    ("request_", "trials", "message"),
    [
        (Request("erm"), 21, "21 trials: a study has 1 to 20"),
        (Request("erm"), 0, "0 trials"),
        (Request("ermm"), 5, "unknown method"),
        (Request("erm", task="nope"), 5, "unknown task"),
        (Request("erm", recipe="nope"), 5, "unknown recipe"),
        (Request("erm", generator="tiny-sd"), 5, "no text-to-image generator"),
    ],
)
def test_what_makes_no_study_is_one_sentence(tmp_path: Path, request_: Request, trials: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tune(request_, trials, place_at(tmp_path))
    assert not (tmp_path / "results").exists()


def test_a_process_is_observed_and_not_tuned(tmp_path: Path) -> None:
    assert load_method("self-consuming-loop").card.kind == "process"
    with pytest.raises(NotApplicable, match="a process that is observed, not tuned"):
        tune(Request("self-consuming-loop"), 5, place_at(tmp_path))


def test_a_chart_is_the_same_for_the_same_study(place: Place) -> None:
    study, file = tune(Request("erm"), 1, place)
    assert draw_best(read_study(file)) == draw_best(study) == (file.parent / CHART_FILE).read_bytes()
    longer = [Tried(**{**study.trials[0].model_dump(), "number": n, "value": 1.0 / (n + 1)}) for n in range(2)]
    assert draw_best(study_of(study.definition, 1.0, longer)) != draw_best(study)
