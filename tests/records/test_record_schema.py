"""The record: what it refuses, what it keeps, and the JSON Schema that others may validate against."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from benchmark.errors import DamagedFile, NewerSchema
from benchmark.records.canonical import sha256_of
from benchmark.records.files import read_json
from benchmark.records.results import accepted_text, read_record, record_bytes, record_files, record_text
from benchmark.records.schema import (
    SCHEMA_FILE,
    SCHEMA_MAJOR,
    SCHEMA_VERSION,
    BudgetUse,
    MetricValue,
    PoolUse,
    Record,
    json_schema,
)

ACCEPTED = Path(__file__).parents[2] / "leaderboard" / "results"


def stored(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def metric(content: dict[str, Any], name: str = "acc_mean") -> dict[str, Any]:
    found: dict[str, Any] = content["stages"][0]["checkpoints"][0]["metrics"][name]
    return found


# --- the committed files -------------------------------------------------------------------------------------------


def test_the_committed_json_schema_is_the_models() -> None:
    assert read_json(SCHEMA_FILE) == json_schema() == Record.model_json_schema()


def test_the_json_schema_is_made_again_by_one_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.records.schema"], capture_output=True, check=True, cwd=SCHEMA_FILE.parents[2]
    )
    assert done.stdout == SCHEMA_FILE.read_bytes()


def test_a_record_fits_the_json_schema(content: dict[str, Any], fixture_1_1: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(content, read_json(SCHEMA_FILE))
    jsonschema.validate(read_json(fixture_1_1), read_json(SCHEMA_FILE))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("cell_id"),
        lambda c: c.update(cell_id="x" * 64),
        lambda c: c.update(status="finished"),
        lambda c: metric(c).update(value="0.93"),
        lambda c: c["task"].update(n_train="990"),
        lambda c: c["stages"][0].update(checkpoints=[]),
    ],
)
def test_what_the_json_schema_refuses_the_models_refuse_too(
    tmp_path: Path, content: dict[str, Any], change: Any
) -> None:
    change(content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema())
    with pytest.raises(DamagedFile, match=r"record\.json does not fit the record schema: "):
        read_record(stored(tmp_path, content))


def test_the_record_of_schema_1_0_is_still_read(fixture_file: Path) -> None:
    record = read_record(fixture_file)
    assert record.schema_version == "1.0"
    assert (record.status, record.task.name, record.method.name) == ("success", "colorized-digits", "erm")
    assert record.ranked_stage.name == "real"
    assert [c.rule for c in record.ranked_stage.checkpoints] == ["last", "val-worst-group"]
    assert record.ranked_stage.checkpoints[0].metrics["acc_conflicting"].value == 0.4485952619285953
    assert record.ranked_stage.checkpoints[0].metrics["recovered_gap"].value is None


def test_the_record_of_schema_1_0_is_written_as_it_was(fixture_file: Path) -> None:
    assert record_text(read_record(fixture_file)) == fixture_file.read_text(encoding="utf-8")


def test_the_record_of_schema_1_1_is_still_read_and_written_as_it_was(fixture_1_1: Path) -> None:
    record = read_record(fixture_1_1)
    assert record.schema_version == "1.1"
    assert (record.task.image_size, record.task.resampling_unit, record.task.missing_samples) == (32, "sample", [])
    assert record.ranked_stage.checkpoints[0].views == {}
    # What 1.2 added is as if nothing had been measured.
    assert (record.auditors, record.ranked_stage.probes, record.cell.clip) == ({}, {}, None)
    assert record.cost is not None
    assert record.cost.auxiliary_seconds == 0
    assert record_text(record) == fixture_1_1.read_text(encoding="utf-8")


@pytest.mark.parametrize("minor", ["1.0", "1.1"])
def test_an_older_record_s_cell_id_still_follows_from_its_cell(
    fixture_file: Path, fixture_1_1: Path, minor: str
) -> None:
    record = read_record({"1.0": fixture_file, "1.1": fixture_1_1}[minor])
    assert record.schema_version == minor
    assert sha256_of(record.cell.model_dump(mode="json")) == record.cell_id
    asked = record.cell.model_copy(update={"clip": {"name": "clip"}})
    assert sha256_of(asked.model_dump(mode="json")) != record.cell_id


def add_pool(content: dict[str, Any]) -> None:
    """Let a record say that it used five generated images, as schema 1.1 says it."""
    null = {"value": None, "low": None, "high": None, "interval": "none", "reason": "no auditor has looked"}
    content["pools"] = [
        {
            "pool_id": "a" * 64, "recipe": {"steps": 8}, "ranges": {"0-1": [0, 3], "1-any": [0, 2]}, "kept": 5,
            "rows_sha256": "b" * 64, "sampled": 5, "seconds": 1.5, "label_fidelity": {"y": null, "a": null},
        }
    ]  # fmt: skip
    content["budget"] |= {"synthetic_kept": 5, "sampled": 5}


def test_a_pool_of_schema_1_1_is_written_as_it_was(tmp_path: Path, content: dict[str, Any]) -> None:
    content["schema_version"] = "1.1"
    add_pool(content)
    record = read_record(stored(tmp_path, content))
    assert (record.pools[0].tuning, record.pools[0].filter, record.pools[0].quality) == (None, None, {})
    assert json.loads(record_text(record)) == content
    # One of this release says that nothing was fine-tuned or filtered.
    written = PoolUse(**record.pools[0].model_dump(), tuning=None, filter=None, quality={}).model_dump(mode="json")
    assert {name: written[name] for name in ("tuning", "filter", "quality")} == {
        "tuning": None, "filter": None, "quality": {},
    }  # fmt: skip


@pytest.mark.slow
def test_every_accepted_record_is_written_as_it_was_and_named_by_its_cell() -> None:
    files = list(record_files(ACCEPTED))
    assert len(files) >= 85
    for file in files:
        record = read_record(file)
        assert record_bytes(file).decode() == accepted_text(record), file
        assert sha256_of(record.cell.model_dump(mode="json")) == record.cell_id, file


@pytest.mark.parametrize("minor", ["1.0", "1.1"])
def test_the_committed_record_holds_no_path(fixture_file: Path, fixture_1_1: Path, minor: str) -> None:
    text = {"1.0": fixture_file, "1.1": fixture_1_1}[minor].read_text(encoding="utf-8")
    assert not [
        line for line in text.splitlines() if any(p in line for p in ("/home", "/root", "/tmp", "/work", "\\\\"))
    ]


# --- versions ------------------------------------------------------------------------------------------------------


def test_this_release_writes_the_current_version() -> None:
    assert f"{SCHEMA_MAJOR}.0" <= SCHEMA_VERSION
    assert SCHEMA_VERSION.partition(".")[0] == str(SCHEMA_MAJOR)


@pytest.mark.parametrize("version", [f"{SCHEMA_MAJOR + 1}.0", "999.1", "2", "10.0"])
def test_a_newer_major_is_refused_with_what_to_do(tmp_path: Path, content: dict[str, Any], version: str) -> None:
    content["schema_version"] = version
    with pytest.raises(NewerSchema, match=rf"has schema {version}; this version reads 1\.x: update genbias-bench"):
        read_record(stored(tmp_path, content))


@pytest.mark.parametrize("version", [None, "", "one", "²", "-1", "1e3", "1.x", "9" * 5000, [], {"a": 1}])
def test_a_file_without_a_version_is_no_record(tmp_path: Path, content: dict[str, Any], version: Any) -> None:
    content["schema_version"] = version
    with pytest.raises(DamagedFile, match=r"has no schema_version, so it is no record of a run"):
        read_record(stored(tmp_path, content))


def test_a_missing_version_is_no_record(tmp_path: Path, content: dict[str, Any]) -> None:
    del content["schema_version"]
    with pytest.raises(DamagedFile, match="no schema_version"):
        read_record(stored(tmp_path, content))


def test_a_major_that_never_was_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    content["schema_version"] = "0.9"
    with pytest.raises(DamagedFile, match="never was released"):
        read_record(stored(tmp_path, content))


def test_unknown_fields_of_a_newer_minor_are_kept(tmp_path: Path, content: dict[str, Any]) -> None:
    content["schema_version"] = f"{SCHEMA_MAJOR}.99"
    content["carbon_grams"] = {"value": 12.5, "notes": [None, "ρ"]}
    content["task"]["colour_space"] = "sRGB"
    metric(content)["method"] = "bca"
    content["stages"][0]["checkpoints"][0]["groups"]["odd"] = [[1, 2], [3, 4]]
    written = json.loads(record_text(read_record(stored(tmp_path, content))))
    assert written == content


@pytest.mark.parametrize("content", [[], "text", 3, None])
def test_json_that_is_no_object_is_no_record(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DamagedFile, match="holds no JSON object"):
        read_record(stored(tmp_path, content))


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinities_are_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="use null with a reason"):
        MetricValue(value=value, interval="none")
    with pytest.raises(ValidationError, match="use null with a reason"):
        MetricValue(value=0.5, low=value, interval="bootstrap")


def test_nan_in_a_file_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    metric(content)["value"] = float("nan")
    with pytest.raises(DamagedFile, match="NaN is not JSON"):
        read_record(stored(tmp_path, content))


def test_a_number_out_of_range_is_refused_also_in_a_field_that_nobody_knows(
    tmp_path: Path, content: dict[str, Any], fixture_file: Path
) -> None:
    path = tmp_path / "record.json"
    path.write_text(fixture_file.read_text().replace('"kind": "run"', '"kind": "run", "extra": 1e999'))
    with pytest.raises(DamagedFile, match="1e999 is out of range"):
        read_record(path)


def test_null_needs_a_reason(tmp_path: Path, content: dict[str, Any]) -> None:
    assert MetricValue(value=None, interval="none", reason="no such group").value is None
    with pytest.raises(ValidationError, match="a null metric needs a reason"):
        MetricValue(value=None, interval="none")
    metric(content, "recovered_gap")["reason"] = ""
    with pytest.raises(DamagedFile, match=r"metrics\.recovered_gap: .*a null metric needs a reason"):
        read_record(stored(tmp_path, content))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("stages", 0, "checkpoints", 0, "metrics", "acc_mean", "value"), "88.03 ± 0.25"),
        (("stages", 0, "checkpoints", 0, "metrics", "acc_mean", "value"), "0.88"),
        (("stages", 0, "checkpoints", 0, "groups", "n", 0, 0), "36"),
        (("stages", 0, "steps"), 600.5),
        (("stages", 0, "steps"), -1),
        (("stages", 0, "remembered"), "no"),
        (("seed",), True),
        (("task", "pinned"), "yes"),
        (("task", "split_digest"), "82625E"),
        (("stages", 0, "checkpoints", 0, "predictions", "file"), "../../etc/passwd.parquet"),
        (("stages", 0, "checkpoints", 0, "predictions", "file"), ".hidden.parquet"),
        (("stages", 0, "checkpoints", 0, "predictions", "rows"), 0),
        (("run_id",), "../x"),
        (("run_id",), "692d6bce2693\n"),
        (("notes",), ["\ud800"]),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_by_name(
    tmp_path: Path, content: dict[str, Any], where: tuple[Any, ...], value: Any
) -> None:
    part: Any = content
    for step in where[:-1]:
        part = part[step]
    assert where[-1] in part if isinstance(part, dict) else True
    part[where[-1]] = value
    with pytest.raises(DamagedFile, match=r"does not fit the record schema: "):
        read_record(stored(tmp_path, content))


def test_more_than_the_budget_is_refused() -> None:
    spent = {"synthetic_allowed": 10, "sampled_allowed": 20, "steps_allowed": 5}
    within = {"synthetic_kept": 10, "sampled": 20, "steps_used": 5}
    BudgetUse(**spent, **within)
    for name, what in (
        ("synthetic_kept", "kept images"),
        ("sampled", "sampled images"),
        ("steps_used", "optimiser steps"),
    ):
        with pytest.raises(ValidationError, match=rf"{within[name] + 1} {what} used, {within[name]} allowed"):
            BudgetUse(**spent, **{**within, name: within[name] + 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["stages"][0].update(steps=c["stages"][0]["steps"] - 1), "the stages took .* optimiser steps"),
        (lambda c: c["budget"].update(synthetic_kept=4), "the pools hold 5 kept and 5 sampled images"),
        (lambda c: c["budget"].update(sampled=4), "the pools hold 5 kept and 5 sampled images"),
    ],
)
def test_stages_and_pools_are_held_against_the_budget(
    tmp_path: Path, content: dict[str, Any], change: Any, message: str
) -> None:
    add_pool(content)
    read_record(stored(tmp_path, content))
    change(content)
    with pytest.raises(DamagedFile, match=message):
        read_record(stored(tmp_path, content))


# --- status --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        ({"stages": []}, "a success needs stages, a budget and a cost"),
        ({"budget": None}, "a success needs stages, a budget and a cost"),
        ({"cost": None}, "a success needs stages, a budget and a cost"),
        ({"status": "skipped"}, "a skipped run needs its reason"),
        ({"status": "skipped", "skipped_because": ""}, "a skipped run needs its reason"),
        ({"status": "error"}, "an error needs its failure"),
        ({"status": "done"}, "status"),
        ({"auditors": {"y": {"id": "c" * 64, "trained_on": 0, "tested_on": 1, "confusion": [[1]]}}}, "trained_on"),
    ],
)
def test_a_status_needs_what_belongs_to_it(
    tmp_path: Path, content: dict[str, Any], change: dict[str, Any], needs: str
) -> None:
    with pytest.raises(DamagedFile, match=needs):
        read_record(stored(tmp_path, {**content, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"status": "started", "finished": None},
        {"status": "cancelled"},
        {"status": "skipped", "skipped_because": "no conflicting validation image"},
        {"status": "error", "failure": {"kind": "TrainingDiverged", "message": "the loss is NaN", "traceback": []}},
    ],
)
def test_every_other_status_may_stand_without_results(
    tmp_path: Path, content: dict[str, Any], change: dict[str, Any]
) -> None:
    unfinished = {**content, "stages": [], "budget": None, "cost": None, **change}
    assert read_record(stored(tmp_path, unfinished)).status == change["status"]
    jsonschema.validate(unfinished, json_schema())


def test_a_record_cannot_be_changed(record: Record) -> None:
    before = copy.deepcopy(record)
    with pytest.raises(ValidationError, match="frozen"):
        record.status = "error"  # type: ignore[misc]
    assert record == before


# --- trials and tuned runs -----------------------------------------------------------------------------------------


STUDY = "7" * 64


def trial_of(content: dict[str, Any]) -> dict[str, Any]:
    """Turn a run into a trial of a tuning study."""
    content["kind"] = "trial"
    content["cell"]["tuning"] = STUDY
    content["trial"] = {"study": STUDY, "number": 3, "criterion": "val-average", "value": 0.5}
    for stage in content["stages"]:
        stage["checkpoints"] = []
    return content


def test_a_trial_answers_no_test_image(tmp_path: Path, content: dict[str, Any]) -> None:
    answered = content["stages"][0]["checkpoints"]
    trial = read_record(stored(tmp_path, trial_of(content)))
    jsonschema.validate(content, json_schema())
    assert trial.trial is not None
    assert (trial.kind, trial.trial.number, trial.ranked_stage.checkpoints) == ("trial", 3, [])
    content["stages"][0]["checkpoints"] = answered
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema())
    with pytest.raises(DamagedFile, match="none of a trial, has checkpoints that answered the test split"):
        read_record(stored(tmp_path, content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(trial=None), "a finished trial, and nothing else, has the result of one"),
        (lambda c: c.update(status="cancelled"), "a finished trial, and nothing else"),
        (lambda c: c["trial"].update(study="8" * 64), "its cell names another study"),
        (lambda c: c["trial"].update(number=20), "trial.number"),
        (lambda c: c["trial"].update(criterion="last"), "trial.criterion"),
        (lambda c: c["trial"].update(value=None), "trial.value"),
    ],
)
def test_a_trial_says_what_its_study_found_out(
    tmp_path: Path, content: dict[str, Any], change: Any, message: str
) -> None:
    change(trial_of(content))
    with pytest.raises(DamagedFile, match=message):
        read_record(stored(tmp_path, content))


def test_what_is_not_tuned_is_written_without_a_word_of_tuning(record: Record) -> None:
    assert (record.cell.tuning, record.method.tuning, record.trial) == (None, None, None)
    assert "tuning" not in record.cell.model_dump() | record.method.model_dump()
    assert "trial" not in record.model_dump()
