"""The report of an audit: its JSON, its schema, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from benchmark.audits.report import FORMAT_VERSION, SCHEMA_FILE, Report, json_schema
from benchmark.records.files import pretty_json, read_json

MakeReport = Callable[..., Report]


def as_json(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = report.model_dump(mode="json")
    return found


def test_the_committed_json_schema_is_the_models() -> None:
    assert read_json(SCHEMA_FILE) == json_schema()
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_the_json_schema_is_made_again_by_one_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.audits.report"], capture_output=True, check=True, cwd=SCHEMA_FILE.parents[2]
    )
    assert done.stdout == SCHEMA_FILE.read_bytes()


@pytest.mark.parametrize("task", ["colorized-digits", "celeba-blond", "cifar20-100"])
def test_json_and_back_is_the_same_report(make_report: MakeReport, task: str) -> None:
    report = make_report(task)
    text = pretty_json(as_json(report))
    assert Report.model_validate_json(text) == report
    jsonschema.validate(json.loads(text), read_json(SCHEMA_FILE))
    assert json.loads(text)["format_version"] == FORMAT_VERSION


def test_a_report_cannot_be_changed(make_report: MakeReport) -> None:
    report = make_report()
    with pytest.raises(ValidationError, match="frozen"):
        report.seconds = 1.0  # type: ignore[misc]


def _without_groups(c: dict[str, Any]) -> None:
    c["samples"][0]["groups"] = None


def _short_row(c: dict[str, Any]) -> None:
    c["samples"][1]["groups"]["corrected"][3].pop()


def _second_reference(c: dict[str, Any]) -> None:
    c["matched"]["conditions"][1]["shift"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour="red"), "Extra inputs are not permitted"),
        (lambda c: c.update(format_version=2), "format_version"),
        (lambda c: c["samples"][0].update(fid={"value": None, "interval": "none"}), "a null metric needs a reason"),
        (lambda c: c["samples"][0].update(fid={"value": float("nan"), "interval": "none"}), "use null with a reason"),
        (_without_groups, "`groups` is null without a reason"),
        (lambda c: c.update(typicality=None), "`typicality` is null without a reason"),
        (lambda c: c["samples"][1].update(by_group=None), "`by_group` belongs to images that were asked for by group"),
        (lambda c: c["samples"].pop(0) and c["samples"].append(c["samples"][0]), "two samples were asked for"),
        (lambda c: c["samples"][0]["conflicting"].update(verdict="improved"), "verdict"),
        (lambda c: c["samples"][0]["conflicting"].update(why=""), "why"),
        (_short_row, "groups.corrected is not of 10 classes and 10 attribute values"),
        (lambda c: c["training"]["counts"].pop(), "training.counts is not of 10 classes"),
        (lambda c: c["samples"][0]["y_by_class"].pop(), "y_by_class has 9 entries, the task has 10"),
        (lambda c: c["matched"]["conditions"][0]["a"].pop(), "shares of a under 'balanced' has 9 entries"),
        (_second_reference, "every condition but the first needs its shift"),
        (lambda c: c["typicality"]["groups"][0].update(a=10), "the attribute value of a typicality 10 is beyond"),
        (lambda c: c["transfer"]["pairs"][0].update(target=10), "an attribute value of a transfer 10 is beyond"),
        (lambda c: c["task"]["aligned"].pop(), "need one entry for each of 10 classes"),
        (lambda c: c["task"]["possible"].__setitem__(0, [1, 2]), r"the aligned one \(0\) among them"),
        (lambda c: c["task"]["possible"].__setitem__(0, [0, 10]), "ascending indices of 10 attribute values"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    make_report: MakeReport, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    content = as_json(make_report())
    change(content)
    with pytest.raises(ValidationError, match=message):
        Report.model_validate(content)
