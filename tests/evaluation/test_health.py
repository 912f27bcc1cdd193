"""`doctor` finds what would make a run fail, says what to do, and changes nothing."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.evaluation import health
from benchmark.evaluation.health import Finding, examine


def found(what: str, findings: list[Finding]) -> Finding:
    return next(each for each in findings if each.what == what)


def test_a_machine_that_runs_the_tests_has_no_problem_and_nothing_is_made(tmp_path: Path) -> None:
    findings = examine(tmp_path / "store", tmp_path / "results")
    assert [each for each in findings if each.state == "problem"] == []
    assert found("libraries", findings).found == "all in the declared ranges"
    assert found("data of colorized-digits@1", findings).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_libraries_that_are_missing_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=999", "no-such-library>=1", "optuna>=999; extra == 'tune'", "torch>=1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    libraries = found("libraries", list(health._versions()))
    assert libraries.state == "problem"
    numpy = importlib.metadata.version("numpy")
    assert libraries.found == f"numpy is {numpy}, not >=999; no-such-library is missing"


@pytest.mark.parametrize("what", ["store", "results"])
def test_a_file_where_a_folder_should_be_is_a_problem(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    folders = {"store": tmp_path, "results": tmp_path} | {what: tmp_path / "file"}
    finding = found(what, list(health._folders(**folders)))
    assert finding.state == "problem"
    assert str(tmp_path / "file") in finding.found
    assert "choose another folder" in finding.advice


def test_a_store_of_another_version_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "format_version").write_text("99\n")
    finding = found("store", list(health._folders(tmp_path, tmp_path)))
    assert (finding.state, "format version 99" in finding.found) == ("problem", True)


def test_scarce_memory_and_disk_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(health, "_SCARCE_MEMORY", 2**60)
    monkeypatch.setattr(health, "_SCARCE_DISK", 2**60)
    findings = [*health._machine(), *health._folders(tmp_path, tmp_path)]
    assert [found(what, findings).state for what in ("memory", "store", "results")] == ["problem", "note", "note"]


def test_a_token_is_seen_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    findings = list(health._credentials())
    assert found("Hugging Face token", findings).state == "ok"
    assert not any("hf_secret" in text for each in findings for text in (each.found, each.advice))


@pytest.mark.slow
def test_the_verb_ends_with_one_where_there_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "benchmark.cli.main", "doctor", "--json"]
    done = subprocess.run(
        [*command, "--store", str(tmp_path / "file")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "problems: store" in done.stderr
    assert any(each["what"] == "store" and each["state"] == "problem" for each in json.loads(done.stdout))
