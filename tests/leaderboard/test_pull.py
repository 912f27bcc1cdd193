"""Pull requests of strangers: what is no submission is refused from its listing, and nothing of it is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import Blob, Commit, Fault, HubServer

from benchmark.errors import DamagedFile, NotAvailable, UsageError
from leaderboard import pull
from leaderboard.hub import Hub, Repository
from leaderboard.pull import download_pull_request

NAME = "org/records"
RUN = "results/colorized-digits/acme--x/0.95-seed0-0123456789ab"
SOUND = {
    f"{RUN}/record.json": b"{}",
    f"{RUN}/predictions-real-last.parquet": b"PAR1\x00PAR1",
    "submissions/acme--x-1-0123.json": b'{"a": 1}',
}
MAIN = {"README.md": b"# Records", "results/colorized-digits/erm/0.95-seed0-b489c2f00c97/record.json": b'{"erm": 1}'}


@pytest.fixture
def offered(hub: Callable[..., Hub], hub_server: HubServer, tmp_path: Path) -> Callable[..., Path]:
    """Open a pull request with some changes and download it."""
    hub_server.make(NAME)
    hub_server.write(NAME, dict(MAIN))

    def download(changes: dict[str, bytes | None]) -> Path:
        hub_server.write(NAME, changes, revision="refs/pr/1")
        hub_server.log.clear()
        return download_pull_request(Repository("dataset", NAME), 1, tmp_path / "out", hub(None))

    return download


def test_what_it_adds_becomes_a_submission_folder_of_plain_files(offered, tmp_path: Path) -> None:
    folder = offered(SOUND)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    run = RUN.removeprefix("results/")
    assert {name: path.read_bytes() for name, path in found.items()} == {
        f"{run}/record.json": b"{}",
        f"{run}/predictions-real-last.parquet": b"PAR1\x00PAR1",
        "submission.json": b'{"a": 1}',
    }
    assert not any(path.is_symlink() for path in found.values())
    assert [path.name for path in tmp_path.glob(".tmp-*")] == []


def test_large_files_come_too(offered, hub_server: HubServer) -> None:
    repo = hub_server.repo(NAME)
    large = {path: Blob(data, large=path.endswith(".parquet")) for path, data in SOUND.items()}
    repo.refs["refs/pr/1"] = Commit(repo.main, repo.main.files | large, "all")
    folder = offered({})
    assert (folder / RUN.removeprefix("results/") / "predictions-real-last.parquet").read_bytes() == b"PAR1\x00PAR1"


def test_what_main_gained_since_is_none_of_its_changes(offered, hub_server: HubServer) -> None:
    hub_server.write(NAME, dict(SOUND), revision="refs/pr/1")
    hub_server.write(NAME, {"README.md": b"# New", "results/t/m/r/record.json": b"{}", "submissions/a.json": b"{}"})
    assert len(list(offered({}).rglob("*.json"))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"README.md": b"# Mine"}, r"changes or deletes README\.md; a submission only adds files"),
        (dict.fromkeys(MAIN), r"changes or deletes README\.md, results/colorized-digits/erm/.*record\.json"),
        ({f"{RUN}/contact_sheet.png": b"\x89PNG"}, r"adds .*contact_sheet\.png; a submission adds results/TASK"),
        ({f"{RUN}/deeper/record.json": b"{}"}, r"adds .*deeper/record\.json"),
        ({"results/record.json": b"{}"}, r"adds results/record\.json"),
        ({"data/records.parquet": b"PAR1"}, r"adds data/records\.parquet"),
        ({".github/workflows/x.yml": b"on: push"}, r"adds \.github"),
        ({"results/../../x/m/record.json": b"{}"}, r"adds results/\.\./\.\."),
        ({"results/t/m/.hidden/record.json": b"{}"}, r"adds results/t/m/\.hidden"),
        ({"results/t/m/r\u202exx/record.json": b"{}"}, "adds results/t/m/r\ufffdxx"),
        ({"results/t/m/r\x1b[31m/record.json": b"{}"}, "adds results/t/m/r\ufffd"),
        ({f"results/t/m/{'r' * 200}/record.json": b"{}"}, "adds results/t/m/rrr"),
        ({f"results/t{k}/m/r/x.exe": b"" for k in range(9)}, "and 4 more; a submission adds"),
        ({"submissions/second.json": b"{}"}, "2 files below submissions/, not one"),
        ({"submissions/acme--x-1-0123.json": None}, "0 files below submissions/, not one"),
        ({path: None for path in SOUND if "submissions" not in path}, "adds 0 files of runs"),
        ({f"{RUN.upper().replace('RESULTS', 'results')}/record.json": b"{}"}, "differ in case only"),
        ({f"{RUN}/record.json": b" " * (2**20 + 1)}, r"record\.json with 1,048,577 bytes; at most 1,048,576"),
    ],
)
def test_what_is_no_submission_is_refused_before_anything_is_fetched(
    offered, hub_server: HubServer, tmp_path: Path, changes, message: str
) -> None:
    with pytest.raises(DamagedFile, match=rf"pull request 1 of dataset org/records .*{message}"):
        offered(SOUND | changes)
    assert hub_server.asked("resolve") == []
    assert not (tmp_path / "out").exists()


def test_number_and_total_size_of_files_are_bounded(offered, hub_server: HubServer, monkeypatch) -> None:
    monkeypatch.setattr(pull, "MOST_FILES", 2)
    with pytest.raises(DamagedFile, match=r"adds 3 files with 19 bytes; at most 2 files"):
        offered(SOUND)
    monkeypatch.setattr(pull, "MOST_FILES", 3)
    monkeypatch.setattr(pull, "MOST_BYTES", 18)
    with pytest.raises(DamagedFile, match=r"at most 3 files and 18 bytes are downloaded"):
        offered({})
    assert hub_server.asked("resolve") == []


def test_an_existing_folder_is_left_alone(offered, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists; name a folder that does not"):
        offered(SOUND)


def test_a_pull_request_that_does_not_exist_is_said(hub, hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.make(NAME)
    with pytest.raises(NotAvailable, match="no such branch, commit or pull request"):
        download_pull_request(Repository("dataset", NAME), 5, tmp_path / "out", hub(None))


def test_a_download_that_breaks_off_leaves_nothing(offered, hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.faults = [Fault("HEAD /datasets/org/records/resolve", status=403)]
    with pytest.raises(NotAvailable, match="this token may not do that with dataset org/records"):
        offered(SOUND)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "hf") == []
