"""Trials: fitted as a run is, judged on validation images alone, and what a tuned run says of its study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.contract.space import SEED
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import DamagedFile, InvalidValue
from benchmark.evaluation.cell import Configuration, Request, ResolvedCell, resolve_cell
from benchmark.evaluation.job import split_parts
from benchmark.evaluation.judging import apart
from benchmark.evaluation.run import Evaluation, evaluate
from benchmark.records.schema import TuningUse
from benchmark.tasks.manifest import TEST, TRAIN, VALIDATION, Rows
from benchmark.tasks.task import Task

Run = Callable[..., Evaluation]
STUDY = "7" * 64
AVERAGE, WORST = SelectionRule.VALIDATION_AVERAGE, SelectionRule.VALIDATION_WORST_GROUP


def configuration(method: str, rule: SelectionRule = AVERAGE, **changes: Any) -> Configuration:
    fields: dict[str, Any] = {
        "study": STUDY, "method": f"{method}@1", "task": "colorized-digits@1", "recipe": "default", "generator": None,
        "hparams": {}, "training": {}, "criterion": rule, "trial": 0,
    }  # fmt: skip
    return Configuration(**(fields | changes))


def trial(method: str, rule: SelectionRule = AVERAGE, **changes: Any) -> ResolvedCell:
    """Resolve a trial of a task whose recipe is short."""
    return resolve_cell(Request(method, level="0.95", seed=SEED, configuration=configuration(method, rule, **changes)))


CHOSEN = TuningUse(study=STUDY, trial=0, trials=1, criterion="val-average", expected_best=[0.5])


def forbid_test_images(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where pixels of the test split are asked for."""
    images = task.images

    def guarded(rows: Rows, size: int | None = None) -> Any:
        assert not set(rows.ids) & test, "the test split was read"
        return images(rows, size)

    test = set(task.manifest("0.95", 0).splits[TEST].ids)
    monkeypatch.setattr(task, "images", guarded)


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_trial_reads_no_test_image_and_answers_none(
    short_task: Task, run_short: Run, monkeypatch: pytest.MonkeyPatch, isolated: bool
) -> None:
    forbid_test_images(short_task, monkeypatch)
    done = run_short(trial("erm"), isolated=isolated)
    record = done.record
    assert (record.kind, record.status, record.cell.tuning) == ("trial", "success", STUDY)
    assert [file.name for file in done.folder.iterdir()] == ["record.json"]
    assert set(record.task.prepared_sha256) == {TRAIN, VALIDATION}
    assert [stage.checkpoints for stage in record.stages] == [[]]
    assert record.budget is not None
    assert (record.budget.steps_used, record.isolation.separate_process) == (12, isolated)
    assert record.cost is not None
    assert record.cost.training_seconds > 0


@pytest.mark.parametrize("rule", [AVERAGE, WORST])
def test_a_trial_is_judged_as_the_rule_of_its_criterion_chooses_checkpoints(
    short_task: Task, run_short: Run, rule: SelectionRule
) -> None:
    record = run_short(trial("group-dro", rule)).record
    column = "validation_loss" if rule is AVERAGE else "validation_worst_group_loss"
    lowest = min(float(row[column] or 0) for row in record.ranked_stage.curves)
    assert record.trial is not None
    assert (record.trial.criterion, record.trial.study) == (rule.value, STUDY)
    assert record.trial.value == pytest.approx(lowest, rel=1e-6)


@pytest.mark.slow
def test_a_trial_is_found_again_and_is_no_run_of_its_cell(short_task: Task, run_short: Run) -> None:
    cell = trial("erm")
    first, again = run_short(cell), run_short(cell)
    assert (first.reused, again.reused, again.folder) == (False, True, first.folder)
    run = run_short(resolve_cell(Request("erm", level="0.95", seed=SEED)))
    assert (run.reused, run.record.kind, run.record.trial) == (False, "run", None)
    assert run.record.cell_id != cell.cell_id


@pytest.mark.slow
def test_other_settings_of_the_recipe_give_another_training(short_task: Task, run_short: Run) -> None:
    values = {"learning_rate": 0.01, "weight_decay": 0.5}
    plain, other = run_short(trial("erm")).record, run_short(trial("erm", training=values)).record
    assert {name: other.cell.training[name] for name in values} == values
    assert {**other.cell.training, **dict.fromkeys(values)} == {**plain.cell.training, **dict.fromkeys(values)}
    assert plain.ranked_stage.curves != other.ranked_stage.curves


def test_a_method_that_trains_on_validation_images_is_judged_on_others(short_task: Task, run_short: Run) -> None:
    parts = split_parts(trial("dfr", WORST))
    seen, judging = apart(parts, Track.VALIDATION_TRAINS)
    whole, half = parts[VALIDATION], seen[VALIDATION]
    assert (seen[TRAIN], len(half.y), len(judging.y)) == (parts[TRAIN], 135, 134)
    for y, a in {*zip(whole.y, whole.a, strict=True)}:
        here, there = (int(((part.y == y) & (part.a == a)).sum()) for part in (half, judging))
        assert abs(here - there) <= 1
    together = np.concatenate([half.images, judging.images]).reshape(269, -1)
    assert sorted(map(bytes, together)) == sorted(map(bytes, np.asarray(whole.images).reshape(269, -1)))
    record = run_short(trial("dfr", WORST)).record
    assert any("the last layer was fitted on 135 images" in note for note in record.notes)
    assert record.trial is not None
    assert apart(parts, Track.TRAIN) == (parts, whole)


# --- tuned runs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tuned_run_is_a_run_that_names_its_study(short_task: Task, run_short: Run) -> None:
    chosen = configuration("jtt", hparams={"upweight": 7}, training={"learning_rate": 0.004}, chosen=CHOSEN)
    record = run_short(resolve_cell(Request("jtt", level="0.9", seed=3, configuration=chosen))).record
    assert (record.kind, record.method.configuration, record.method.tuning) == ("run", "tuned", CHOSEN)
    assert (record.method.hparams_changed, record.cell.training["learning_rate"]) == ({"upweight": 7}, 0.004)
    assert (record.cell.tuning, record.task.level, record.cell.draw) == (STUDY, "0.9", 3)
    assert {len(stage.checkpoints) for stage in record.stages} == {1, 3}


def test_the_default_that_won_is_another_cell_than_the_default() -> None:
    request = Request("erm")
    tuned = dataclasses.replace(request, configuration=configuration("erm", chosen=CHOSEN))
    assert resolve_cell(tuned).cell_id != resolve_cell(request).cell_id


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        ({}, {"method": "jtt"}, "the study tuned method erm@1, not jtt@1"),
        ({"task": "colorized-digits@2"}, {}, "the study tuned task colorized-digits@2, not colorized-digits@1"),
        ({"recipe": "small"}, {}, "the study tuned recipe small, not default"),
        ({"generator": {"name": "other"}}, {}, "the study tuned generator other, not None"),
        ({}, {"overrides": {"upweight": 3}}, "--set contradicts a tuned configuration"),
        ({}, {"backbone_weights": "none"}, "--backbone-weights contradicts"),
        ({}, {"sampling": {"steps": 3}}, "--sampling contradicts"),
        ({}, {"seed": SEED}, "seed 1000 is that of the study's trials"),
    ],
)
def test_a_tuned_configuration_is_for_what_was_tuned(
    changes: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    chosen = configuration("erm", chosen=CHOSEN, **changes)
    with pytest.raises(InvalidValue, match=message):
        resolve_cell(Request(**({"method": "erm"} | fields), configuration=chosen))


def test_another_generator_of_the_same_name_is_another() -> None:
    cell = resolve_cell(Request("ffr"))
    assert cell.cell.generator is not None
    chosen = configuration("ffr", generator={**cell.cell.generator, "content_sha256": "0" * 64}, chosen=CHOSEN)
    with pytest.raises(InvalidValue, match="tuned generator of another content, not this one"):
        resolve_cell(Request("ffr", configuration=chosen))


def test_a_file_that_is_no_study_is_said(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"tuning.json is no tuning study: definition: Field required"):
        evaluate("erm", tuned=tmp_path, results=tmp_path, store=tmp_path)
