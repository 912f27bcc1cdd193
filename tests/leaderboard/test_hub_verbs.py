"""The verbs that talk to the Hub, as the command line calls them: `push`, `submit`, `verify --pr`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hub_server import READER, WRITER, Fault, HubServer
from typer.testing import CliRunner, Result
from whole_runs import whole_run

from benchmark.cli.push import push
from benchmark.cli.submit import submit
from benchmark.cli.verify import verify
from benchmark.errors import GenBiasError, InvalidValue, NotAvailable, UsageError

DATASET, SPACE = "org/records", "org/board"
NAMES = ["--dataset", DATASET, "--space", SPACE]
ACCEPTED = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits"

PAGE = "<!doctype html><title>Board</title><table><tr><td>erm@1</td></tr></table>"

Verb = Callable[..., Result]


@pytest.fixture
def verb(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Run a verb against the stand-in; an error of ours is raised as the main program would get it."""
    app = typer.Typer()
    app.command("push")(push)
    app.command("submit")(submit)
    app.command("verify")(verify)
    monkeypatch.setenv("HF_ENDPOINT", hub_server.url)

    def run(*arguments: str | Path, token: str | None = WRITER) -> Result:
        environment = {} if token is None else {"HF_TOKEN": token}
        done = CliRunner().invoke(app, [str(each) for each in arguments], env=environment)
        if isinstance(done.exception, GenBiasError):
            raise done.exception
        return done

    return run


@pytest.fixture
def board(maker, tmp_path: Path) -> list[str]:
    """Accepted records and a page."""
    maker.row("erm", seeds=2, verified=None)
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(PAGE)
    return ["--records", str(maker.results), "--site", str(site)]


def test_push_writes_both_repositories_and_the_second_time_nothing(
    verb: Verb, board: list[str], hub_server: HubServer
) -> None:
    done = verb("push", *NAMES, *board)
    assert done.exit_code == 0
    assert "dataset org/records: 7 files added, 0 changed, 0 deleted, 0 unchanged" in done.stderr
    assert "space org/board: 3 files added" in done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["repository", "action", "file", "bytes"]
    assert ["space org/board", "add", "index.html", str(len(PAGE))] in lines
    assert set(hub_server.files(SPACE, "space")) == {".gitattributes", "README.md", "index.html", "pushed.json"}
    hub_server.log.clear()
    again = verb("push", *NAMES, *board)
    assert hub_server.asked("POST") == []
    assert "dataset org/records: 0 files added, 0 changed, 0 deleted, 7 unchanged; 0 bytes\n" in again.stderr


def test_push_without_a_token_reads_and_sends_nothing(verb: Verb, board: list[str], hub_server: HubServer) -> None:
    with pytest.raises(NotAvailable, match="there is no token for the Hugging Face Hub, so nothing was sent"):
        verb("push", *NAMES, *board, token=None)
    assert hub_server.log == []


def test_a_dry_run_lists_what_would_change_without_a_token(verb: Verb, board: list[str], hub_server: HubServer) -> None:
    done = verb("push", *NAMES, *board, "--dry-run", "--json", token=None)
    found = json.loads(done.stdout)
    assert [each["repository"]["name"] for each in found] == [DATASET, SPACE]
    assert {change["action"] for each in found for change in each["changes"]} == {"add"}
    assert all(change["size"] > 0 for each in found for change in each["changes"])
    assert "7 files would be added" in done.stderr
    assert hub_server.asked("POST") == []
    assert hub_server.repos == {}


def test_a_push_that_fails_at_the_space_is_completed_by_the_next(
    verb: Verb, board: list[str], hub_server: HubServer
) -> None:
    hub_server.faults = [Fault("POST /api/spaces/org/board/commit", times=9, status=403)]
    with pytest.raises(NotAvailable, match="this token may not do that with space org/board"):
        verb("push", *NAMES, *board)
    assert len(hub_server.files(DATASET)) == 8
    assert list(hub_server.files(SPACE, "space")) == [".gitattributes"]
    hub_server.faults, hub_server.sent = [], []
    verb("push", *NAMES, *board)
    assert set(hub_server.sent) == {"README.md", "index.html", "pushed.json"}


def test_push_can_open_pull_requests(verb: Verb, board: list[str], hub_server: HubServer) -> None:
    hub_server.make(DATASET)
    hub_server.make(SPACE, "space")
    done = verb("push", *NAMES, *board, "--create-pr", "--json")
    assert [each["address"] for each in json.loads(done.stdout)] == [
        f"{hub_server.url}/datasets/{DATASET}/discussions/1", f"{hub_server.url}/spaces/{SPACE}/discussions/1",
    ]  # fmt: skip
    assert list(hub_server.files(DATASET)) == [".gitattributes"]


def test_runs_that_were_merged_but_not_accepted_are_told(verb: Verb, board: list[str], hub_server: HubServer) -> None:
    hub_server.make(DATASET)
    hub_server.write(DATASET, {"results/t/m/r/record.json": b"{}"})
    done = verb("push", *NAMES, *board)
    assert "1 files below results/ there, such as results/t/m/r/record.json, are of runs that are not" in done.stderr
    assert hub_server.files(DATASET)["results/t/m/r/record.json"] == b"{}"


def test_names_are_checked_before_anything_else(verb: Verb, board: list[str], hub_server: HubServer) -> None:
    with pytest.raises(InvalidValue, match="'board' is no name of a space on the Hub"):
        verb("push", "--dataset", DATASET, "--space", "board", *board)
    assert hub_server.log == []


# --- submissions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for run in (ACCEPTED / "erm").glob("0.95-seed0-*"):
        whole_run(run, tmp_path / "results" / "colorized-digits" / "erm" / run.name)
    return tmp_path / "results"


@pytest.mark.slow
def test_submit_checks_pushes_and_verify_checks_the_pull_request(
    verb: Verb, results: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    hub_server.make(DATASET)
    (tmp_path / "cite.bib").write_text("@article{a, title={A}}")
    out = tmp_path / "out"
    said = ["--author", "A. Author", "--citation-file", tmp_path / "cite.bib", "--board", empty]
    done = verb(
        "submit", "-m", "erm", "--results-dir", results, "--out", out, *said, "--push", "--dataset", DATASET,
        token=READER,
    )  # fmt: skip
    assert done.stdout.strip() == f"{hub_server.url}/datasets/{DATASET}/discussions/1"
    assert "1 runs of erm@1 were checked" in done.stderr
    assert "## Verification" in hub_server.repo(DATASET).refs["refs/pr/1"].description
    assert json.loads((out / "submission.json").read_text())["citation"] == "@article{a, title={A}}"
    checked = verb("verify", "--pr", "1", "--dataset", DATASET, "--board", empty, "--json", token=None)
    assert json.loads(checked.stdout)["submission"] == "erm@1"
    assert json.loads(checked.stdout)["errors"] == 0


def test_push_and_dataset_go_together(verb: Verb, results: Path, tmp_path: Path) -> None:
    common = ["submit", "-m", "erm", "--author", "A", "--results-dir", results, "--out", tmp_path / "out"]
    for options in (["--push"], ["--dataset", DATASET]):
        with pytest.raises(UsageError, match="--push and --dataset ORG/NAME go together"):
            verb(*common, *options)
    with pytest.raises(InvalidValue, match=r"--citation-file .*nothing.bib cannot be read as text"):
        verb(*common, "--citation-file", tmp_path / "nothing.bib")
    assert not (tmp_path / "out").exists()


def test_a_token_is_asked_for_before_the_work(verb: Verb, results: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="there is no token"):
        verb(
            "submit", "-m", "erm", "--author", "A", "--results-dir", results, "--out", tmp_path / "out", "--push",
            "--dataset", DATASET, token=None,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_verify_takes_a_folder_or_a_pull_request(verb: Verb, results: Path) -> None:
    for options in ([], ["--pr", "1"], ["--dataset", DATASET], [results, "--pr", "1", "--dataset", DATASET]):
        with pytest.raises(UsageError, match="name a folder, or a pull request with --pr N --dataset ORG/NAME"):
            verb("verify", *options)
