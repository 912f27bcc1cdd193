"""Pushing through the real client to a stand-in of the Hub: atomic, repeatable, and never over somebody else's work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import READER, Fault, HubServer

from benchmark.errors import DamagedFile, NotAvailable, StoreError
from leaderboard.hub import Content, Hub, Repository
from leaderboard.hub_errors import NoRepository, StaleHead, Unreachable
from leaderboard.push import Change, Pushed, Target, push

NAME = "org/records"
LIST = "data/pushed.json"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n\n# Records\n",
    "results/t/m/run-1/record.json": b'{"a": 1}',
    "results/t/m/run-1/predictions-real-last.parquet": b"PAR1\x00\xff\x01PAR1",
    "data/records.parquet": b"PAR1\x00\xfe\x02PAR1",
}
COMMIT = "POST /api/datasets/org/records/commit"

Client = Callable[..., Hub]

# From inside the client's own upload of large files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def target(files: dict[str, bytes] | None = None) -> Target:
    content = {path: Content(data) for path, data in (FILES if files is None else files).items()}
    return Target(Repository("dataset", NAME), content, LIST, ("results/", "data/"))


def without(*names: str) -> dict[str, bytes]:
    return {path: data for path, data in FILES.items() if path not in names}


def actions(pushed: Pushed) -> dict[str, str]:
    return {change.path: change.action for change in pushed.changes}


def ours(server: HubServer, **options: str) -> dict[str, bytes]:
    """What lies on main but for the Hub's own file and the list of files."""
    found = server.files(NAME, **options)
    return {path: data for path, data in found.items() if path not in (".gitattributes", LIST)}


def history(server: HubServer) -> list[str]:
    return [commit.title for commit in server.repo(NAME).main.history]


def test_the_first_push_creates_the_repository_and_makes_one_commit(hub: Client, hub_server: HubServer) -> None:
    pushed = push(target(), hub())
    assert ours(hub_server) == FILES
    assert json.loads(hub_server.files(NAME)[LIST]) == {"format_version": 1, "files": sorted([*FILES, LIST])}
    assert history(hub_server) == ["Update the leaderboard", "initial commit"]
    assert set(actions(pushed).values()) == {"add"}
    assert pushed.address == f"{hub_server.url}/datasets/{NAME}/commit/{hub_server.repo(NAME).main.id}"


def test_the_same_again_sends_nothing(hub: Client, hub_server: HubServer) -> None:
    push(target(), hub())
    hub_server.log.clear()
    again = push(target(), hub())
    assert (again.changes, again.unchanged, again.address) == ([], 5, None)
    assert hub_server.asked("POST") == []
    assert len(history(hub_server)) == 2


def test_only_what_differs_is_sent(hub: Client, hub_server: HubServer) -> None:
    push(target(), hub())
    hub_server.sent.clear()
    pushed = push(target(FILES | {"results/t/m/run-1/record.json": b'{"a": 2}'}), hub())
    assert hub_server.sent == ["results/t/m/run-1/record.json"]
    assert pushed.changes == [Change("change", "results/t/m/run-1/record.json", 8)]
    assert ours(hub_server)["results/t/m/run-1/record.json"] == b'{"a": 2}'


def test_large_files_are_compared_by_their_own_digest(hub: Client, hub_server: HubServer) -> None:
    hub_server.large = {".parquet"}
    push(target(), hub())
    assert hub_server.repo(NAME).main.files["data/records.parquet"].large
    assert ours(hub_server) == FILES
    hub_server.log.clear()
    assert push(target(), hub()).changes == []
    assert hub_server.asked("PUT") == []
    pushed = push(target(FILES | {"data/records.parquet": b"PAR1 other PAR1"}), hub())
    assert actions(pushed) == {"data/records.parquet": "change"}
    assert len(hub_server.asked("PUT")) == 1


def test_listings_of_many_pages_are_read_whole(hub: Client, hub_server: HubServer) -> None:
    hub_server.page = 2
    push(target(), hub())
    assert push(target(), hub()).changes == []


def test_what_is_not_accepted_any_more_is_deleted_and_nothing_else(hub: Client, hub_server: HubServer) -> None:
    push(target(), hub())
    merged = {
        "results/t/other/run-9/record.json": b"{}", "submissions/other.json": b"{}", "data/notes.md": b"by hand",
    }  # fmt: skip
    hub_server.write(NAME, dict(merged))
    pushed = push(target(without("results/t/m/run-1/record.json")), hub())
    assert actions(pushed) == {"results/t/m/run-1/record.json": "delete", LIST: "change"}
    assert ours(hub_server) == without("results/t/m/run-1/record.json") | merged
    assert pushed.foreign == ["results/t/other/run-9/record.json"]


def test_outside_of_its_folders_nothing_is_deleted(hub: Client, hub_server: HubServer) -> None:
    push(target(FILES | {"CITATION.md": b"cite"}), hub())
    assert actions(push(target(), hub())) == {LIST: "change"}
    assert ours(hub_server)["CITATION.md"] == b"cite"


def test_a_merged_run_that_is_then_accepted_is_only_listed(hub: Client, hub_server: HubServer) -> None:
    push(target(), hub())
    merged = {"results/t/other/run-9/record.json": b"{}"}
    hub_server.write(NAME, dict(merged))
    pushed = push(target(FILES | merged), hub())
    assert (actions(pushed), pushed.foreign) == ({LIST: "change"}, [])


def test_a_pull_request_leaves_main_alone(hub: Client, hub_server: HubServer) -> None:
    hub_server.make(NAME)
    pushed = push(target(), hub(), create_pr=True)
    assert ours(hub_server) == {}
    assert ours(hub_server, revision="refs/pr/1") == FILES
    assert pushed.address == f"{hub_server.url}/datasets/{NAME}/discussions/1"
    hub_server.merge(NAME, 1)
    assert push(target(), hub()).changes == []


def test_a_pull_request_needs_the_repository(hub: Client, hub_server: HubServer) -> None:
    with pytest.raises(NoRepository, match=f"there is no dataset {NAME} at .*check the name"):
        push(target(), hub(), create_pr=True)
    assert hub_server.repos == {}


def test_a_dry_run_needs_no_token_and_sends_nothing(hub: Client, hub_server: HubServer) -> None:
    first = push(target(), hub(None), dry_run=True)
    assert (set(actions(first).values()), hub_server.repos) == ({"add"}, {})
    push(target(), hub())
    hub_server.log.clear()
    changed = without("results/t/m/run-1/record.json") | {"README.md": FILES["README.md"] + b"more"}
    pushed = push(target(changed), hub(None), dry_run=True)
    assert actions(pushed) == {"README.md": "change", "results/t/m/run-1/record.json": "delete", LIST: "change"}
    assert {change.size for change in pushed.changes if change.action == "delete"} == {8}
    assert hub_server.asked("POST") == []
    assert ours(hub_server) == FILES


# --- somebody else was there ---------------------------------------------------------------------------------------


def test_a_commit_of_somebody_else_elsewhere_is_kept(hub: Client, hub_server: HubServer) -> None:
    push(target(), hub())
    hub_server.meanwhile = [lambda: hub_server.write(NAME, {"submissions/new.json": b"{}"})]
    push(target(FILES | {"results/t/m/run-2/record.json": b"{}"}), hub())
    assert set(ours(hub_server)) == {*FILES, "results/t/m/run-2/record.json", "submissions/new.json"}
    assert history(hub_server)[:2] == ["Update the leaderboard", "by hand"]


@pytest.mark.parametrize("theirs", [b'{"theirs": true}', None])
def test_what_somebody_else_changed_is_not_overwritten(hub: Client, hub_server: HubServer, theirs: bytes) -> None:
    push(target(), hub())
    path = "results/t/m/run-1/record.json"
    hub_server.meanwhile = [lambda: hub_server.write(NAME, {path: theirs})]
    told = f"somebody else changed {path} of dataset {NAME} meanwhile, which was not overwritten"
    with pytest.raises(StaleHead, match=told):
        push(target(FILES | {path: b'{"ours": true}'}), hub())
    assert ours(hub_server).get(path) == theirs


def test_somebody_who_commits_again_and_again_wins(hub: Client, hub_server: HubServer) -> None:
    push(target(), hub())
    hub_server.meanwhile = [
        lambda: hub_server.write(NAME, {"submissions/1.json": b"{}"}),
        lambda: hub_server.write(NAME, {"submissions/2.json": b"{}"}),
    ]
    with pytest.raises(StaleHead, match="somebody else committed to dataset org/records meanwhile; run the same"):
        push(target(FILES | {"results/t/m/run-2/record.json": b"{}"}), hub())
    assert set(ours(hub_server)) == {*FILES, "submissions/1.json", "submissions/2.json"}


# --- refusals and failures in the middle ---------------------------------------------------------------------------


def test_a_wrong_token_is_said(hub: Client, hub_server: HubServer) -> None:
    with pytest.raises(NotAvailable, match=r"does not accept this token; make another at .*hf auth login"):
        push(target(), hub("hf_wrong"))
    assert hub_server.repos == {}


def test_a_token_that_may_not_write_is_said(hub: Client, hub_server: HubServer) -> None:
    hub_server.make(NAME)
    with pytest.raises(NotAvailable, match=f"this token may not do that with dataset {NAME}"):
        push(target(), hub(READER))
    assert ours(hub_server) == {}


def test_a_wrong_front_matter_sends_nothing(hub: Client, hub_server: HubServer) -> None:
    with pytest.raises(DamagedFile, match=r"does not accept the front matter of README.md: .*must be an object"):
        push(target(FILES | {"README.md": b"---\na: [\n---\n"}), hub())
    assert hub_server.sent == []


def test_a_list_that_no_push_wrote_is_refused(hub: Client, hub_server: HubServer) -> None:
    push(target(), hub())
    for content, message in (
        (b'{"format_version": 2, "files": []}', "not what a push writes"),
        (b"{", "cannot be read as JSON"),
        (b" " * (17 * 2**20), "so no push wrote it"),
    ):
        hub_server.write(NAME, {LIST: content})
        with pytest.raises(DamagedFile, match=message):
            push(target(), hub())


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(COMMIT, times=2, status=500)],
        [Fault(COMMIT, reset="before")],
        [Fault(COMMIT, reset="after")],
        [Fault("GET /api/datasets/org/records", times=1, status=502), Fault("repos/create", reset="after")],
        [Fault("commit", status=503), Fault("commit", reset="after")],
    ],
)
def test_a_passing_failure_is_overcome_with_one_commit(hub: Client, hub_server: HubServer, faults: list[Fault]) -> None:
    hub_server.faults = faults
    assert set(actions(push(target(), hub()))) == {*FILES, LIST}
    assert ours(hub_server) == FILES
    assert history(hub_server) == ["Update the leaderboard", "initial commit"]
    assert not any(fault.times for fault in faults)


@pytest.mark.parametrize("fault", [Fault(COMMIT, times=99, status=500), Fault(COMMIT, times=99, reset="before")])
def test_a_lasting_failure_leaves_everything_as_it_was_and_a_second_push_completes(
    hub: Client, hub_server: HubServer, fault: Fault
) -> None:
    hub_server.large = {".parquet"}
    hub_server.faults = [fault]
    with pytest.raises(Unreachable, match=f"{hub_server.url}/datasets/{NAME} (answered with status 500|could not be)"):
        push(target(), hub())
    assert 99 - fault.times == 3
    assert (len(hub_server.asked("PUT")), ours(hub_server)) == (6, {})
    hub_server.faults = []
    push(target(), hub())
    assert ours(hub_server) == FILES


def test_a_server_that_is_gone_is_said(hub: Client, hub_server: HubServer) -> None:
    client = hub()
    hub_server.stop()
    with pytest.raises(Unreachable, match="could not be reached"):
        push(target(), client)


def test_a_pull_request_is_not_asked_for_twice(hub: Client, hub_server: HubServer) -> None:
    hub_server.make(NAME)
    hub_server.faults = [Fault(COMMIT, reset="after")]
    with pytest.raises(Unreachable):
        push(target(), hub(), create_pr=True)
    assert sorted(hub_server.repo(NAME).refs) == ["main", "refs/pr/1"]


def test_a_full_disk_is_said(hub: Client, hub_server: HubServer, tmp_path: Path) -> None:
    push(target(), hub())
    head = hub().head(Repository("dataset", NAME))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        hub().fetch(Repository("dataset", NAME), LIST, str(head.commit), head.files[LIST], tmp_path / "file" / "x")
