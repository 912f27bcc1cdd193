"""A pull request's files taken out of a real repository as data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / ".github" / "scripts" / "submission_files.py"
RUN = "results/colorized-digits/erm/0.95-seed0-abc123"
WHOLE = {
    f"{RUN}/record.json": b"{}",
    f"{RUN}/predictions-erm-last.parquet": b"PAR1",
    "submissions/erm-2.json": b'{"format_version": 1}',
}
IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


class PullRequest:
    """A repository with a base commit, and what a pull request adds to its index."""

    def __init__(self, folder: Path, base: str = "") -> None:
        self.folder, self.outcome, self.base = folder / "repository", folder, base

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        environment = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=environment, input=stdin, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def put(self, files: dict[str, bytes], mode: str = "100644") -> None:
        for path, content in files.items():
            blob = self.git("hash-object", "-w", "--stdin", stdin=content)
            self.git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}")

    def commit(self) -> str:
        return self.git("commit-tree", self.git("write-tree", "--missing-ok"), "-m", "x")

    def take(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, SCRIPT, self.base, self.commit(), "--output", self.outcome / "submission"]
        command += ["--report", self.outcome / "report.md"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def refusal(self) -> str:
        done = self.take()
        assert done.returncode == 1, done.stderr
        assert not (self.outcome / "submission").exists()
        return (self.outcome / "report.md").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PullRequest:
    """A base, and a pull request of a whole submission; tests change copies of it."""
    pull = PullRequest(tmp_path_factory.mktemp("whole"))
    pull.folder.mkdir()
    pull.git("init", "-q", "-b", "main", "--template=")
    pull.put({"results/.keep": b"", f"{RUN}-old/record.json": b"{}", "methods/erm.py": b""})
    pull.base = pull.commit()
    pull.put(WHOLE)
    return pull


@pytest.fixture
def pull(whole: PullRequest, tmp_path: Path) -> PullRequest:
    shutil.copytree(whole.folder, tmp_path / "repository")
    return PullRequest(tmp_path, whole.base)


def test_a_submission_lies_as_verify_reads_it(pull: PullRequest) -> None:
    done = pull.take()
    assert (done.returncode, done.stdout) == (0, "3 files\n")
    out = pull.outcome / "submission"
    found = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert found == {
        "colorized-digits/erm/0.95-seed0-abc123/record.json": b"{}",
        "colorized-digits/erm/0.95-seed0-abc123/predictions-erm-last.parquet": b"PAR1",
        "submission.json": b'{"format_version": 1}',
    }


@pytest.mark.parametrize(
    "path",
    [
        "methods/evil.py", ".github/workflows/x.yml", ".gitattributes", "results/.gitattributes",
        f"{RUN}/pool.parquet", f"{RUN}/contact_sheet.png", f"{RUN}/model.safetensors", f"{RUN}/x/record.json",
        "results/record.json", "results/a/b/.hidden/record.json", "results/a/b/c\n/record.json",
        "results/a/b/-x/record.json", "submissions/a/b.json", "submissions/.json", "submissions/a.json.sh",
        "results/a/b/$(id)/record.json", "results/a/b/c d/record.json", "results/ä/b/c/record.json",
        "results/a/b/\u202ec/record.json", f"results/a/b/{'c' * 129}/record.json", f"{RUN}/predictions-.parquet",
    ],
)  # fmt: skip
def test_a_path_without_a_place_in_a_submission_is_refused(pull: PullRequest, path: str) -> None:
    pull.put({path: b"x"})
    report = pull.refusal()
    assert "has no place in a submission" in report
    assert report.isascii()
    assert len(report.splitlines()) == 3


@pytest.mark.parametrize(("mode", "content"), [("120000", b"/etc/passwd"), ("100755", b"#!/bin/sh\n")])
def test_links_and_programs_are_refused(pull: PullRequest, mode: str, content: bytes) -> None:
    pull.put({f"{RUN}/record.json": content}, mode)
    assert f"is no plain file (mode {mode})" in pull.refusal()


def test_a_submodule_is_refused(pull: PullRequest) -> None:
    pull.git("update-index", "--add", "--cacheinfo", f"160000,{pull.base},results/a/b/c/record.json")
    assert "is no plain file (mode 160000)" in pull.refusal()


def test_a_submission_changes_and_removes_nothing_that_is_there(pull: PullRequest) -> None:
    pull.put({f"{RUN}-old/record.json": b"{ }"})
    assert "is there already" in pull.refusal()
    pull.git("update-index", "--force-remove", f"{RUN}-old/record.json")
    assert "is there already" in pull.refusal()


def test_a_submission_is_described_once(pull: PullRequest) -> None:
    pull.put({"submissions/another.json": b"{}"})
    assert "2 files `submissions/<name>.json`; a submission has exactly one" in pull.refusal()
    pull.git("update-index", "--force-remove", "submissions/another.json", "submissions/erm-2.json")
    assert "0 files `submissions/<name>.json`; a submission has exactly one" in pull.refusal()


def test_large_files_are_refused(pull: PullRequest) -> None:
    pull.put({f"{RUN}/record.json": b" " * 1_000_001})
    assert f"`{RUN}/record.json` is larger than 1,000,000 bytes" in pull.refusal()


def test_a_file_that_the_fetch_left_out_stays_out(pull: PullRequest) -> None:
    blob = pull.git("ls-files", "-s", f"{RUN}/predictions-erm-last.parquet").split()[1]
    (pull.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    assert f"`{RUN}/predictions-erm-last.parquet` is larger than 20,000,000 bytes" in pull.refusal()


@pytest.mark.parametrize("large", [False, True])
def test_the_workflow_s_step_fetches_no_file_over_the_limit(pull: PullRequest, large: bool, tmp_path: Path) -> None:
    """The step as it stands in the workflow, in a shallow clone of the base."""
    size = 20 * 2**20 + 1 if large else 4
    pull.put({f"{RUN}/predictions-erm-last.parquet": b"\0" * size})
    blob = pull.git("ls-files", "-s", f"{RUN}/predictions-erm-last.parquet").split()[1]
    merge = pull.git("commit-tree", pull.git("write-tree"), "-p", pull.base, "-m", "merge")
    pull.git("update-ref", "refs/heads/main", pull.base)
    pull.git("update-ref", "refs/pull/1/merge", merge)
    for permission in ("allowFilter", "allowAnySHA1InWant"):
        pull.git("config", f"uploadpack.{permission}", "true")
    clone = tmp_path / "clone"
    pull.git("clone", "-q", "--depth=1", f"file://{pull.folder}", str(clone))
    (clone / ".github").symlink_to(SCRIPT.parents[1])
    steps = yaml.safe_load((SCRIPT.parents[1] / "workflows" / "submissions.yml").read_text())["jobs"]["verify"]["steps"]
    (step,) = [step for step in steps if "submission_files.py" in step.get("run", "")]
    environment = {**os.environ, "GITHUB_SHA": merge, "RUNNER_TEMP": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
        cwd=clone, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    here = ["git", "rev-list", "--objects", "--no-object-names", "--missing=print", "--max-count=1", merge]
    listed = subprocess.run(here, cwd=clone, capture_output=True, text=True, check=True).stdout.split()
    if large:
        assert done.returncode == 1, done.stderr
        assert f"?{blob}" in listed
        assert "is larger than 20,000,000 bytes" in (tmp_path / "report.md").read_text()
    else:
        assert (done.returncode, done.stdout) == (0, "3 files\n"), done.stderr
        assert blob in listed


def test_the_forge_and_the_hub_have_one_law_of_paths_and_sizes(script: Callable[[str], ModuleType]) -> None:
    from leaderboard import pull, untrusted

    module = script("submission_files")
    assert module._PART == pull._PART
    assert module._MOST_FILES <= untrusted.MOST_FILES
    assert module._LARGEST_TOGETHER <= untrusted.MOST_BYTES
    assert module._LARGEST[".json"] <= untrusted.JSON_BYTES


def test_too_many_files_are_refused_unread(script: Callable[[str], ModuleType]) -> None:
    module = script("submission_files")
    changes = [module.Change("A", "100644", "0", f"results/a/b/c{i}/record.json") for i in range(2001)]
    with pytest.raises(module.Refused, match="2001 files in one pull request; at most 2000"):
        module.check_changes(changes)
