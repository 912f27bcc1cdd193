"""What every workflow must keep to, read from the files themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FORGE = Path(__file__).parents[2] / ".github"
WORKFLOWS = sorted((FORGE / "workflows").glob("*.yml"))
# What an event carries is a stranger's, and so are inputs and outputs; `run` gets them through its environment.
EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
# Jobs that may do more than read, and what.
MAY_WRITE = {
    ("submission-report.yml", "comment"): {"pull-requests"},
    ("official-grid.yml", "submit"): {"id-token"},
    ("publish.yml", "space"): {"id-token"},
    ("publish.yml", "dataset"): {"id-token"},
    ("publish.yml", "pypi"): {"id-token"},
}


def load(file: Path) -> dict[Any, Any]:
    read: dict[Any, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    read["on"] = read.pop(True)  # YAML 1.1 reads `on` as true
    return read


def steps() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    for file, name, job in JOBS:
        for step in job["steps"]:
            yield file, name, step


JOBS = [(file, name, job) for file in WORKFLOWS for name, job in load(file)["jobs"].items()]
ALL_WORKFLOWS = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
ALL_JOBS = pytest.mark.parametrize(("file", "name", "job"), JOBS, ids=[f"{file.stem}-{name}" for file, name, _ in JOBS])


def test_the_expected_workflows_are_there() -> None:
    assert {file.stem for file in WORKFLOWS} == {
        "adapters", "official-grid", "publish", "submission-report", "submissions", "tests",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.dependabot", [FORGE / "dependabot.yml"]),
        ("vendor.github-issue-forms", sorted((FORGE / "ISSUE_TEMPLATE").glob("*.yml"))),
    ],
)
def test_files_fit_the_forge_s_schemas(schema: str, files: list[Path]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@ALL_WORKFLOWS
def test_nothing_is_permitted_unless_a_job_asks(file: Path) -> None:
    assert load(file)["permissions"] == {}
    assert "concurrency" in load(file)


@ALL_JOBS
def test_a_job_has_a_limit_and_declares_what_it_may(file: Path, name: str, job: dict[str, Any]) -> None:
    assert 0 < job["timeout-minutes"] <= 2880
    assert {scope for scope, level in job["permissions"].items() if level == "write"} == MAY_WRITE.get(
        (file.name, name), set()
    )


@ALL_WORKFLOWS
def test_what_runs_on_pull_requests_reads_only_and_has_no_secret(file: Path) -> None:
    workflow = load(file)
    assert "pull_request_target" not in workflow["on"]
    if "pull_request" in workflow["on"]:
        levels = {level for job in workflow["jobs"].values() for level in job["permissions"].values()}
        assert levels == {"read"}
        assert not any("environment" in job for job in workflow["jobs"].values())
    # No workflow needs one: what publishes exchanges its identity.
    assert "secrets." not in str(workflow)


def test_no_expression_is_pasted_into_a_script() -> None:
    pasted = [(file.name, step["run"]) for file, _, step in steps() if EXPRESSION.search(step.get("run", ""))]
    assert pasted == []


def test_checkouts_keep_no_credentials() -> None:
    found = [step for _, _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(found) >= 5
    assert all(step["with"]["persist-credentials"] is False for step in found)


def test_actions_are_pinned_by_commit_with_their_version_beside() -> None:
    lines = [line for file in WORKFLOWS for line in file.read_text().splitlines() if re.search(r"\buses:", line)]
    assert len(lines) > 10
    assert [
        line for line in lines if not re.search(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)
    ] == []
    pins = {match[1]: match[0] for line in lines if (match := re.search(r"(\S+)@\S+ # \S+", line))}
    assert all(any(pin in line for pin in pins.values()) for line in lines), "one action, one version"


def test_a_submission_is_never_checked_out() -> None:
    refs = [step["with"].get("ref") for file, _, step in steps() if file.stem == "submissions" and "with" in step]
    assert "${{ github.event.pull_request.base.sha }}" in refs
    assert not any("head" in str(step) for file, _, step in steps() if file.stem == "submissions")


def test_what_may_comment_checks_nothing_out_and_runs_one_script_of_the_default_branch() -> None:
    (step,) = [step for file, _, step in steps() if file.stem == "submission-report"]
    assert "uses" not in step
    assert "contents/.github/scripts/post_report.py?ref=$GITHUB_SHA" in step["run"]
    module_reads = set(re.findall(r'environment\["(\w+)"\]', (FORGE / "scripts" / "post_report.py").read_text()))
    assert module_reads - set(step["env"]) == {"GITHUB_API_URL", "GITHUB_REPOSITORY"}


def test_tokens_are_for_one_repository_each() -> None:
    resources = [
        (file.stem, name, step["env"]["HF_OIDC_RESOURCE"])
        for file, name, step in steps()
        if "HF_OIDC_RESOURCE" in step.get("env", {})
    ]
    assert resources == [
        ("official-grid", "submit", "datasets/${{ vars.HF_DATASET }}"),
        ("publish", "space", "spaces/${{ vars.HF_SPACE }}"),
        ("publish", "dataset", "datasets/${{ vars.HF_DATASET }}"),
    ]


def test_a_method_s_code_runs_where_nothing_can_be_published() -> None:
    grid = load(FORGE / "workflows" / "official-grid.yml")
    assert grid["on"].keys() == {"workflow_dispatch"}
    assert grid["jobs"]["run"]["permissions"] == {"contents": "read"}
    assert {job["environment"] for job in grid["jobs"].values()} == {"official-grid"}
    offered = grid["on"]["workflow_dispatch"]["inputs"]["grid"]["options"]
    assert set(offered) == {file.stem for file in (FORGE.parent / "leaderboard" / "grids").glob("*.toml")}


def test_shell_steps_parse_and_the_scripts_they_call_are_there() -> None:
    for file, name, step in steps():
        if "run" not in step:
            continue
        done = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (file.name, name, done.stderr)
        for called in re.findall(r"\.github/scripts/[\w.]+", step["run"]):
            assert (FORGE.parent / called).is_file(), (file.name, called)
