"""The client of the Hub: tokens, names, revisions and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import Blob, Commit, Fault, HubServer

from benchmark.errors import DamagedFile, InvalidValue, NotAvailable
from leaderboard.hub import Content, Hub, Repository, find_token, reading_token
from leaderboard.hub_errors import NoRepository, Unreachable

NAME = "org/records"
DATASET = Repository("dataset", NAME)

Client = Callable[..., Hub]


@pytest.mark.parametrize("name", ["", "records", "org/a/b", "../x", "org/", "https://huggingface.co/org/a", "o rg/a"])
def test_a_repository_is_named_by_owner_and_name(name: str) -> None:
    with pytest.raises(InvalidValue, match="give ORG/NAME"):
        Repository("space", name)


def test_content_has_the_identity_that_git_gives_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    for content in (Content(b"hello\n"), Content(tmp_path / "file")):
        # echo hello | git hash-object --stdin
        assert content.blob == "ce013625030ba8dba906f756967f9e9ca394464a"
        assert content.sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        assert content.size == 6


def test_the_token_is_that_of_the_environment_or_the_stored_one(
    hub_server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_stored\n")
    assert find_token() == "hf_stored"
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    assert find_token() == reading_token() == "hf_environment"


def test_without_a_token_it_is_said_how_to_get_one(hub_server: HubServer) -> None:
    with pytest.raises(
        NotAvailable, match=r"no token .* nothing was sent: make one .* `hf auth login`, or set HF_TOKEN"
    ):
        find_token()
    assert reading_token() is None


def test_a_head_is_a_commit_and_its_files(hub: Client, hub_server: HubServer) -> None:
    repo = hub_server.make(NAME)
    large = {"data/a.parquet": Blob(b"PAR1", large=True)}
    repo.refs["main"] = Commit(repo.main, repo.main.files | large, "more")
    head = hub(None).head(DATASET)
    assert head.commit == repo.main.id
    assert set(head.files) == {".gitattributes", "data/a.parquet"}
    assert head.files["data/a.parquet"].holds(Content(b"PAR1"))
    assert not head.files["data/a.parquet"].holds(Content(large["data/a.parquet"].pointer))


def test_an_unknown_revision_is_said(hub: Client, hub_server: HubServer) -> None:
    hub_server.make(NAME)
    with pytest.raises(NotAvailable, match=r"no such branch, commit or pull request; see .*/discussions"):
        hub().head(DATASET, "refs/pr/7")


def test_a_missing_repository_is_said(hub: Client) -> None:
    with pytest.raises(NoRepository, match=r"there is no dataset org/records at http.*check the name"):
        hub().head(DATASET)


def test_offline_mode_is_said(hub: Client, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_server.make(NAME)
    client = hub()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotAvailable, match="set to offline; unset HF_HUB_OFFLINE"):
        client.head(DATASET)
    assert hub_server.log == []


def test_another_status_is_shown_with_what_the_hub_says(hub: Client, hub_server: HubServer) -> None:
    hub_server.make(NAME)
    hub_server.faults = [Fault("GET", status=418)]
    with pytest.raises(NotAvailable, match=r"refused with status 418: .*out of order"):
        hub().head(DATASET)


def test_reading_is_tried_again_a_few_times(hub: Client, hub_server: HubServer) -> None:
    hub_server.make(NAME)
    hub_server.faults = [Fault("GET", times=2, reset="before")]
    assert hub().head(DATASET).commit == hub_server.repo(NAME).main.id
    hub_server.faults = [Fault("GET", times=9, status=504)]
    with pytest.raises(Unreachable, match="answered with status 504"):
        hub().head(DATASET)
    assert hub_server.faults[0].times == 6


def test_a_space_is_made_static_and_making_it_twice_is_one(hub: Client, hub_server: HubServer) -> None:
    for _ in range(2):
        hub().create(Repository("space", "org/board"))
    assert list(hub_server.repos) == [("space", "org/board")]


def test_a_file_is_fetched_as_a_plain_file_and_checked(hub: Client, hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.make(NAME)
    hub_server.write(NAME, {"data/x.json": b"{}"})
    head = hub().head(DATASET)
    file = hub().fetch(DATASET, "data/x.json", str(head.commit), head.files["data/x.json"], tmp_path / "to")
    assert (file, file.read_bytes(), file.is_symlink()) == (tmp_path / "to" / "data" / "x.json", b"{}", False)
    with pytest.raises(DamagedFile, match=r"sent as data/x\.json is not what it lists at"):
        hub().fetch(DATASET, "data/x.json", str(head.commit), head.files[".gitattributes"], tmp_path / "other")


def test_the_common_commit_is_where_a_pull_request_began(hub: Client, hub_server: HubServer) -> None:
    start = hub_server.make(NAME).main
    hub_server.write(NAME, {"a": b"1"}, revision="refs/pr/1")
    hub_server.write(NAME, {"a": b"2"}, revision="refs/pr/1")
    hub_server.write(NAME, {"b": b"1"})
    assert hub().common_commit(DATASET, "refs/pr/1", "main") == start.id
    hub_server.repo(NAME).refs["refs/pr/2"] = Commit(None, {}, "from nowhere")
    with pytest.raises(NotAvailable, match="no commit in common"):
        hub().common_commit(DATASET, "refs/pr/2", "main")
