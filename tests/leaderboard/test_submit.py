"""`submit`: finished runs become a submission folder, and a pull request that leaves main alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import READER, Fault, HubServer
from whole_runs import whole_run

from benchmark.errors import DamagedFile, InvalidValue, NotAvailable, UnknownName, UsageError
from benchmark.records.results import RECORD_FILE
from leaderboard.hub import Hub, Repository
from leaderboard.hub_errors import NoRepository, Unreachable
from leaderboard.people import run_files
from leaderboard.pull import download_pull_request
from leaderboard.submit import describe, gather, open_pull_request, write_submission

ACCEPTED = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits"
SAID = {"title": "Plain training", "links": ["https://example.org/paper"], "note": "No tricks."}
DATASET = Repository("dataset", "org/records")

Client = Callable[..., Hub]


def copied(folder: Path, pattern: str) -> Path:
    """Copy real finished runs into a results folder."""
    for run in sorted((ACCEPTED / "erm").glob(pattern)):
        whole_run(run, folder / "colorized-digits" / "erm" / run.name)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A results folder with two runs, a picture beside one of them, and the submission folder made of it."""
    folder = tmp_path_factory.mktemp("submit")
    results = copied(folder / "results", "0.95-seed[01]-*")
    next(results.rglob(RECORD_FILE)).with_name("contact_sheet.png").write_bytes(b"\x89PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBIAS_STORE", str(folder / "store"))
        write(results, folder / "out", **SAID)
    return results, folder / "out"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A results folder with one run."""
    return copied(tmp_path / "results", "0.95-seed0-*")


def write(results: Path, out: Path, **said) -> Path:
    """Write a submission folder, compared with an empty board."""
    runs = gather("erm", results)
    write_submission(runs, describe(runs, **({"authors": ["A. Author"]} | said)), out, board=[])
    return out


def send(written: tuple[Path, Path], client: Hub) -> str:
    results, folder = written
    about = describe(gather("erm", results), authors=["A. Author"])
    return open_pull_request(folder, about, "All is well.", DATASET, client)


# --- gathering -----------------------------------------------------------------------------------------------------


def test_the_last_success_of_each_cell_is_gathered(maker) -> None:
    maker.run("acme/x", 0, conflicting=0.4)
    again = maker.run("acme/x", 0, conflicting=0.6)
    other = maker.run("acme/x", 1)
    maker.run("acme/y", 0)
    assert again.name.endswith("-2")
    assert [run.folder for run in gather("acme/x", maker.results)] == [again, other]


def test_trials_and_runs_that_did_not_finish_are_left_out(maker) -> None:
    def trial(content) -> None:
        content["kind"] = "trial"
        content["trial"] = {"study": "5" * 64, "number": 0, "criterion": "val-average", "value": 0.1}
        content["cell"]["tuning"] = "5" * 64
        for stage in content["stages"]:
            stage["checkpoints"] = []

    def fail(content) -> None:
        content["failure"] = {"kind": "ValueError", "message": "no", "traceback": []}

    maker.run("acme/x", 0, change=trial)
    maker.run("acme/x", 1, status="error", change=fail)
    with pytest.raises(UsageError, match="holds no finished run of acme/x; run `genbias-bench evaluate` first"):
        gather("acme/x", maker.results)
    finished = maker.run("acme/x", 2)
    assert [run.folder for run in gather("acme/x", maker.results)] == [finished]


def test_one_task_and_one_version_are_chosen_by_name(maker) -> None:
    first = maker.run("acme/x", 0)
    assert [run.folder for run in gather("acme/x@1", maker.results, "colorized-digits")] == [first]
    with pytest.raises(UsageError, match="holds no finished run of acme/x@2"):
        gather("acme/x@2", maker.results)
    with pytest.raises(UsageError, match="holds no finished run of acme/x on utkface"):
        gather("acme/x", maker.results, "utkface")
    with pytest.raises(UnknownName, match="unknown task"):
        gather("acme/x", maker.results, "utkfaces")


def test_several_versions_have_to_be_told_apart(maker) -> None:
    def second(content) -> None:
        content["method"]["version"], content["cell"]["method"] = 2, "acme/x@2"

    maker.run("acme/x", 0)
    newer = maker.run("acme/x", 0, change=second)
    with pytest.raises(UsageError, match=r"versions \[1, 2\] of acme/x; name one: --method acme/x@2"):
        gather("acme/x", maker.results)
    assert [run.folder for run in gather("acme/x@2", maker.results)] == [newer]


def test_pictures_of_people_are_not_among_what_is_submitted(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "utkface" / "erm"
    run = next(iter(sorted((ACCEPTED.parent / "utkface" / "erm").iterdir())))
    whole_run(run, folder / run.name)
    (folder / run.name / "contact_sheet.png").write_bytes(b"\x89PNG")
    (found,) = gather("erm", tmp_path / "results")
    assert {file.suffix for file in run_files(found.folder, found.record)} == {".json", ".parquet"}


# --- the folder ----------------------------------------------------------------------------------------------------


def test_a_submission_holds_records_predictions_and_what_it_says_about_itself(written: tuple[Path, Path]) -> None:
    results, out = written
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    own = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.suffix in (".json", ".parquet")}
    assert files == own | {"submission.json"}
    assert json.loads((out / "submission.json").read_text()) == {
        "format_version": 1, "method": "erm@1", "title": "Plain training", "authors": ["A. Author"],
        "links": ["https://example.org/paper"], "citation": "", "note": "No tricks.",
    }  # fmt: skip
    assert [path.name for path in out.parent.glob(".tmp-*")] == []


def test_a_title_is_made_where_none_is_given(one: Path) -> None:
    assert describe(gather("erm", one), authors=["A"]).title == "erm@1 on colorized-digits"


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({"authors": []}, "authors"),
        ({"authors": ["A"], "links": ["javascript:alert(1)"]}, "links.0"),
        ({"authors": ["A"], "title": "x" * 101}, "title"),
        ({"authors": ["A"], "note": "right\u202eleft"}, "note"),
    ],
)
def test_what_cannot_be_said_is_refused(one: Path, said, place: str) -> None:
    with pytest.raises(InvalidValue, match=f"the submission cannot say this about itself: {place}: "):
        describe(gather("erm", one), **said)


@pytest.mark.slow
def test_the_same_again_is_no_error_and_something_else_is(written: tuple[Path, Path]) -> None:
    results, out = written
    with pytest.raises(UsageError, match="holds something else; give --out another folder"):
        write(results, out, **(SAID | {"title": "Another"}))
    write(results, out, **SAID)
    assert json.loads((out / "submission.json").read_text())["title"] == SAID["title"]


@pytest.mark.slow
def test_what_the_board_would_refuse_is_not_written(one: Path, tmp_path: Path) -> None:
    file = next(one.rglob(RECORD_FILE))
    content = json.loads(file.read_text())
    content["stages"][0]["checkpoints"][0]["metrics"]["acc_mean"]["value"] = 0.99
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"(?s)out was not written, because the board would refuse it:\n.*acc_mean"):
        write(one, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_predictions_are_found(one: Path, tmp_path: Path) -> None:
    next(one.rglob("predictions-*")).write_bytes(b"PAR1")
    with pytest.raises(DamagedFile, match="SHA-256 differs"):
        write(one, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the pull request ----------------------------------------------------------------------------------------------


def test_a_pull_request_adds_the_runs_and_main_stays(
    written: tuple[Path, Path], hub: Client, hub_server: HubServer
) -> None:
    main = hub_server.make(DATASET.name).main
    out = written[1]
    address = send(written, hub(READER))
    assert address == f"{hub_server.url}/datasets/org/records/discussions/1"
    assert hub_server.repo(DATASET.name).main == main
    made = hub_server.repo(DATASET.name).refs["refs/pr/1"]
    assert (made.title, made.description) == ("Submission: erm@1, 2 runs", "All is well.")
    added = {path: blob.data for path, blob in made.files.items() if path != ".gitattributes"}
    (about,) = (path for path in added if path.startswith("submissions/erm-1-"))
    assert added.pop(about) == (out / "submission.json").read_bytes()
    runs = [path for path in out.rglob("*") if path.is_file() and path.parent != out]
    assert added == {f"results/{path.relative_to(out).as_posix()}": path.read_bytes() for path in runs}


def test_a_pull_request_comes_back_as_it_was_sent(
    written: tuple[Path, Path], hub: Client, hub_server: HubServer, tmp_path: Path
) -> None:
    hub_server.make(DATASET.name)
    out = written[1]
    send(written, hub(READER))
    back = download_pull_request(DATASET, 1, tmp_path / "back", hub(None))
    assert {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()} == {
        path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def test_only_runs_that_main_lacks_are_sent(written: tuple[Path, Path], hub: Client, hub_server: HubServer) -> None:
    hub_server.make(DATASET.name)
    out = written[1]
    held = sorted((out / "colorized-digits" / "erm").iterdir())[0]
    path = f"results/{held.relative_to(out).as_posix()}"
    hub_server.write(DATASET.name, {f"{path}/{file.name}": file.read_bytes() for file in held.iterdir()})
    send(written, hub(READER))
    assert not [sent for sent in hub_server.sent if sent.startswith(path)]
    assert hub_server.repo(DATASET.name).refs["refs/pr/1"].title == "Submission: erm@1, 1 runs"


def test_what_main_has_is_not_submitted_again_or_overwritten(
    written: tuple[Path, Path], hub: Client, hub_server: HubServer
) -> None:
    hub_server.make(DATASET.name)
    send(written, hub(READER))
    hub_server.merge(DATASET.name, 1)
    with pytest.raises(UsageError, match="holds all of these runs already; there is nothing to submit"):
        send(written, hub(READER))
    file = next(path for path in hub_server.files(DATASET.name) if path.endswith(RECORD_FILE))
    hub_server.write(DATASET.name, {file: b"{}"})
    with pytest.raises(UsageError, match=f"holds another {file}; results that lie there are never overwritten"):
        send(written, hub(READER))


def test_a_missing_data_set_is_not_created(written: tuple[Path, Path], hub: Client, hub_server: HubServer) -> None:
    with pytest.raises(NoRepository, match="there is no dataset org/records"):
        send(written, hub())
    assert hub_server.repos == {}


def test_a_wrong_token_is_said(written: tuple[Path, Path], hub: Client, hub_server: HubServer) -> None:
    hub_server.make(DATASET.name)
    with pytest.raises(NotAvailable, match="does not accept this token"):
        send(written, hub("hf_wrong"))


def test_a_lost_answer_points_to_the_discussions(
    written: tuple[Path, Path], hub: Client, hub_server: HubServer
) -> None:
    hub_server.make(DATASET.name)
    hub_server.faults = [Fault("POST /api/datasets/org/records/commit", reset="after")]
    with pytest.raises(Unreachable, match=r"first look at .*/datasets/org/records/discussions: .* there all the same"):
        send(written, hub(READER))
    assert len(hub_server.asked("/commit/")) == 1
