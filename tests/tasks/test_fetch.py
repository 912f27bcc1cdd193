"""Fetching: from real servers on this machine that break in every way we know of, and from copies of one's own."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmark.errors import DataError, InvalidValue, NotAvailable, StoreError
from benchmark.progress import Silent
from benchmark.tasks import home
from benchmark.tasks.card import DataCard, cards_folder, parse_card
from benchmark.tasks.download import Network, download
from benchmark.tasks.fetch import Fetched, fetch

TEXT = (cards_folder() / "colorized-digits.md").read_text(encoding="utf-8")
BODY, OTHER = (random.Random(seed).randbytes(300_000) for seed in (0, 1))
BODY_SHA, OTHER_SHA = hashlib.sha256(BODY).hexdigest(), hashlib.sha256(OTHER).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIN = {"sha256": BODY_SHA}
QUICK = Network(connect_s=5.0, read_s=5.0, delays_s=(0.01, 0.01))
FOLDER = {"kind": "folder", "location": "the authors' page", "layout": "a.bin beside nothing else"}


@dataclass
class Answer:
    """How an address answers; ``cut`` ends the body there, counted from the file's beginning, without a word."""

    body: bytes = BODY
    status: int = 200
    etag: str | None = '"one"'
    cut: int | None = None
    ranges: bool = True
    length: bool = True
    wait_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class Server:
    """Answers per path, each used once but for the last, and a log of what was asked: paths and headers."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.log: list[tuple[str, dict[str, str]]] = []
        verbs = dict.fromkeys(("do_GET", "do_HEAD"), lambda to: self.answer(to))  # noqa: PLW0108 - a bound method is no method
        handler = type("Handler", (BaseHTTPRequestHandler,), {**verbs, "log_message": lambda *_: None})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        path, asked = urlsplit(to.path).path[1:], to.headers.get("Range")
        self.log.append((path, dict(to.headers.items())))
        answers = self.answers.get(path, [Answer(b"nothing here", 404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        time.sleep(answer.wait_s)
        start, status, headers = 0, answer.status, {}
        if asked and answer.ranges and status == 200 and to.headers.get("If-Range", answer.etag) == answer.etag:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(answer.body) - 1}/{len(answer.body)}"
        headers |= {"ETag": answer.etag} if answer.etag else {}
        headers |= {"Content-Length": str(len(answer.body) - start)} if answer.length else {}
        to.send_response(status)
        for name, value in (headers | answer.headers).items():
            to.send_header(name, value)
        to.end_headers()
        if to.command == "GET":
            to.wfile.write(answer.body[start : answer.cut])

    def put(self, name: str, *answers: Answer) -> None:
        self.answers[name] = list(answers) or [Answer()]

    @property
    def asked(self) -> list[str]:
        return [path for path, _ in self.log]

    def sent(self, header: str = "Range") -> list[str | None]:
        return [headers.get(header) for _, headers in self.log]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def running() -> Iterator[Server]:
    one = Server()
    yield one
    one.stop()


server, second = pytest.fixture(running, name="server"), pytest.fixture(running, name="second")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("GENBIAS_DATA", raising=False)
    return tmp_path / "store"


def make_card(*sources: dict[str, Any], terms: str = "Be kind.", accept: bool = False) -> DataCard:
    head, tail = TEXT.split("  sources:\n")
    block = {"sources": list(sources), "terms": terms, "terms_accept": accept, "data_set": "things"}
    lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in block.items())
    return parse_card(head + lines + tail[tail.index("  faces:") :], "x.md")


def url(server: Server, **file: Any) -> dict[str, Any]:
    return {"kind": "url", "location": server.url, "files": [{"name": "a.bin", **file}]}


def has(name: str = "a.bin") -> Callable[[Path], bool]:
    return lambda folder: (folder / name).is_file()


def get(card: DataCard, matches: Callable[[Path], bool] | None = None, **options: Any) -> Fetched:
    return fetch(card, matches=matches or has(), network=QUICK, **{"progress": Silent(), **options})


class Recorder(Silent):
    """Progress that remembers."""

    def __init__(self) -> None:
        self.pieces: list[list[Any]] = []
        self.messages: list[str] = []

    def start(self, name: str, total: int) -> int:
        self.pieces.append([name, total, 0, "open"])
        return len(self.pieces) - 1

    def advance(self, handle: int, n: int) -> None:
        self.pieces[handle][2] += n

    def finish(self, handle: int) -> None:
        self.pieces[handle][3] = "finished"

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_files_are_downloaded_and_verified_and_nothing_else_stays(server: Server, store: Path) -> None:
    server.put("a.bin")
    server.put("b.gz", Answer(gzip.compress(OTHER), headers={"Content-Encoding": "gzip"}))  # as some servers say
    source, progress, n = url(server, **PIN), Recorder(), len(BODY)
    source["files"].append({"name": "b.gz", "content_md5": hashlib.md5(OTHER).hexdigest()})
    done = get(make_card(source), progress=progress)
    assert done == Fetched(store / "data" / "files" / "things", server.url, n + len(gzip.compress(OTHER)))
    assert (done.folder / "a.bin").read_bytes() == BODY
    assert gzip.decompress((done.folder / "b.gz").read_bytes()) == OTHER
    assert sorted(path.name for path in done.folder.iterdir()) == ["a.bin", "b.gz"]
    assert progress.pieces[:2] == [["a.bin", n, n, "finished"], ["checking a.bin", n, n, "finished"]]


def test_what_is_there_is_not_asked_for_again(server: Server) -> None:
    server.put("a.bin")
    server.put("B", Answer(OTHER))
    source = url(server)
    done = get(make_card(source))
    assert get(make_card(source)) == Fetched(done.folder, "fetched", 0)
    source["files"].append({"name": "deep/b.bin", "remote": "B?id=1"})
    get(make_card(source), has("deep/b.bin"))
    assert (done.folder / "deep" / "b.bin").read_bytes() == OTHER
    assert server.asked == ["a.bin", "B"]


def test_two_at_once_download_once(server: Server) -> None:
    server.put("a.bin", Answer(wait_s=0.3))
    results: list[Fetched] = []
    threads = [threading.Thread(target=lambda: results.append(get(make_card(url(server, **PIN))))) for _ in range(2)]
    for act in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            act(thread)
    assert sorted(done.downloaded_bytes for done in results) == [0, len(BODY)]
    assert server.asked == ["a.bin"]


@pytest.mark.parametrize("pin", [PIN, {}])
def test_a_cut_connection_is_resumed_where_it_broke(server: Server, pin: dict[str, str]) -> None:
    server.put("a.bin", Answer(cut=120_000), Answer(cut=200_000), Answer())
    progress = Recorder()
    done = get(make_card(url(server, **pin)), progress=progress)
    assert (done.folder / "a.bin").read_bytes() == BODY
    assert server.sent() == [None, "bytes=120000-", "bytes=200000-"]
    assert server.sent("If-Range") == [None, '"one"', '"one"']
    assert done.downloaded_bytes == len(BODY)
    assert [piece[2] for piece in progress.pieces[:3]] == [120_000, 200_000, 300_000]
    # A line that breaks again and again but moves on is given its tries back.
    (done.folder / "a.bin").unlink()
    server.put("a.bin", *(Answer(cut=k * 50_000) for k in range(1, 6)), Answer())
    assert get(make_card(url(server, **pin))).downloaded_bytes == len(BODY)


@pytest.mark.parametrize(("piece", "whole"), [("a.bin", False), ("checking a.bin", True)])
def test_an_interrupted_command_goes_on_where_it_was(server: Server, piece: str, whole: bool) -> None:
    class Impatient(Recorder):
        def advance(self, handle: int, n: int) -> None:
            if n > 0 and self.pieces[handle][0] == piece:
                raise KeyboardInterrupt

    server.put("a.bin")
    card = make_card(url(server, **PIN))
    with pytest.raises(KeyboardInterrupt):
        get(card, progress=Impatient())
    size = (home.fetched_folder(card) / "a.bin.part").stat().st_size
    assert (size > 0, size == len(BODY)) == (True, whole)
    assert get(card).downloaded_bytes == len(BODY) - size
    assert server.sent() == ([None] if whole else [None, f"bytes={size}-"])


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (Answer(ranges=False), None),
        (Answer(etag='"two"'), None),
        (Answer(status=416), "again"),
        (Answer(BODY[50:], 206, headers={"Content-Range": "bytes 50-299999/300000"}), "again"),
        (Answer(BODY[100_000:], 206, headers={"Content-Range": "bytes 100000-400000/400001"}), "again"),
        (Answer(OTHER[100_000:], 206, '"two"', headers={"Content-Range": "bytes 100000-299999/300000"}), "again"),
        (Answer(BODY[100_000:], 206), "again"),
    ],
)
def test_a_server_that_does_not_go_on_starts_over(server: Server, answer: Answer, asked: str | None) -> None:
    server.put("a.bin", Answer(OTHER, cut=100_000), answer, Answer())
    done = get(make_card(url(server)))
    assert (done.folder / "a.bin").read_bytes() == BODY
    assert server.sent() == [None, "bytes=100000-"] + [None] * (asked == "again")
    assert done.downloaded_bytes == 400_000


@pytest.mark.parametrize(
    ("etag", "pin", "asked"),
    [(None, {}, None), ('W/"one"', {}, None), (None, PIN, "bytes=100000-")],
)
def test_later_only_what_can_be_checked_is_resumed(server: Server, etag: str, pin: Any, asked: str | None) -> None:
    server.put("a.bin", Answer(cut=100_000, etag=etag, ranges=False))
    card = make_card(url(server, **pin))
    with pytest.raises(NotAvailable, match=r"tried 3 times" + (r"; what came is kept" if asked else r"\)")):
        get(card)
    server.put("a.bin", Answer(etag=etag))
    server.log.clear()
    assert (get(card).folder / "a.bin").read_bytes() == BODY
    assert server.sent() == [asked]


PAGE = b"\n<!DOCTYPE html><html>Please log in</html>"


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        (Answer(PAGE, headers={"Content-Type": "text/html; charset=utf-8"}), "answered with a web page", 1),
        (Answer(PAGE), "answered with a web page", 1),
        (Answer(status=404), "answered with status 404 Not Found", 1),
        (Answer(status=503), "answered with status 503 Service Unavailable (tried 3 times)", 3),
        (Answer(cut=1000), "the connection failed: RemoteProtocolError", 3),
        (Answer(cut=0), "tried 3 times)", 3),
        (Answer(b""), "answered with an empty file", 1),
        (Answer(headers={"Content-Length": str(2**40)}), "more than 68,719,476,736 bytes", 1),
        (Answer(headers={"Content-Encoding": "br"}), "compressed the file (br)", 1),
        (Answer(status=302, headers={"Location": "/a.bin"}), "leads nowhere", 21),
    ],
)
def test_what_is_not_the_file_is_named(server: Server, answer: Answer, reason: str, requests: int) -> None:
    server.put("a.bin", answer)
    card = make_card(url(server), FOLDER)
    with pytest.raises(NotAvailable) as caught:
        get(card)
    assert f"{server.url}: a.bin: " in str(caught.value)
    assert reason in str(caught.value)
    assert "colorized-digits --from FOLDER`, where FOLDER holds: a.bin beside nothing else" in str(caught.value)
    assert len(server.log) == requests
    assert not has()(home.fetched_folder(card))


def test_failures_pass_redirects_are_followed_and_bodies_bounded(server: Server, second: Server) -> None:
    server.put("a.bin", Answer(status=500), Answer(status=302, headers={"Location": f"{second.url}there"}))
    second.put("there")
    done = get(make_card(url(server, **PIN)))
    assert (done.folder / "a.bin").read_bytes() == BODY
    assert (server.asked, second.asked) == (["a.bin", "a.bin"], ["there"])
    file = make_card(url(server)).task.sources[0].files[0]
    second.put("there", Answer(length=False))
    with pytest.raises(NotAvailable, match="more bytes than it announced, or than any file"):
        download(f"{second.url}there", done.folder / "b", file, Silent(), Network(largest=299_999))
    assert download(f"{second.url}there", done.folder / "b", file, Silent(), QUICK) == len(BODY)
    assert sorted(path.name for path in done.folder.iterdir()) == ["a.bin", "b"]


def test_a_wrong_digest_is_removed_and_the_next_source_asked(server: Server, second: Server) -> None:
    gone = Server()
    gone.stop()
    server.put("a.bin", Answer(OTHER))
    second.put("a.bin")
    card = make_card(*(url(source, **PIN) for source in (gone, server, second)))
    done = get(card)
    assert (done.origin, (done.folder / "a.bin").read_bytes()) == (second.url, BODY)
    (done.folder / "a.bin").unlink()
    second.put("a.bin", Answer(status=410))
    with pytest.raises(NotAvailable) as caught:
        get(card)
    dead, digest, status = str(caught.value).split("; http")
    assert f"{gone.url}: a.bin: the connection failed: ConnectError" in dead
    assert f"sent has sha256 {OTHER_SHA[:12]}…, expected {BODY_SHA[:12]}…; it was removed" in digest
    assert "status 410 Gone. To use a copy of your own, run" in status
    assert list(done.folder.iterdir()) == []


def test_an_optional_file_is_a_warning_and_a_wrong_layout_an_error(server: Server) -> None:
    server.put("a.bin")
    source = url(server, **PIN)
    source["files"].insert(0, {"name": "b.bin", "optional": True})
    progress = Recorder()
    assert has()(get(make_card(source), progress=progress).folder)
    (warning,) = progress.messages
    assert warning == "b.bin, which is optional, was left out: the server answered with status 404 Not Found"
    with pytest.raises(DataError, match="do not have the layout of colorized-digits"):
        get(make_card(source), lambda folder: False)


def test_without_a_source_a_network_or_a_folder_nothing_is_asked(server: Server, store: Path) -> None:
    with pytest.raises(NotAvailable, match=r"only from the authors' page\. .*FOLDER holds: a\.bin beside nothing"):
        get(make_card(FOLDER))
    with pytest.raises(NotAvailable, match=r"--offline downloads nothing\. .*--from FOLDER`$"):
        get(make_card(url(server)), offline=True)
    (store / "data" / "files").mkdir(parents=True)
    (store / "data" / "files" / "things").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        get(make_card(url(server)))
    assert server.asked == []


def test_terms_are_asked_for_once_per_wording(server: Server) -> None:
    server.put("a.bin")
    card = make_card(url(server, **PIN), accept=True)
    with pytest.raises(InvalidValue, match=r"terms of use: Be kind\. .* --accept-terms"):
        get(card)
    assert server.asked == []
    assert has()(get(card, accept=True).folder)
    assert get(card).downloaded_bytes == 0
    with pytest.raises(InvalidValue, match=r"Be kinder\."):
        get(make_card(url(server, **PIN), terms="Be kinder.", accept=True))


def test_a_copy_of_ones_own_is_verified_and_remembered(server: Server, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.bin").write_bytes(BODY)
    (own / "b.txt.gz").write_bytes(gzip.compress(b"the list"))
    listed = {"name": "Anno/b.txt", "content_md5": hashlib.md5(b"the list").hexdigest()}
    card = make_card(url(server, **PIN), {**FOLDER, "files": [listed]})
    progress = Recorder()
    assert get(card, source=own, progress=progress) == Fetched(own, "named by --from", 0)
    assert [piece[0] for piece in progress.pieces] == ["checking a.bin"]
    assert get(card) == Fetched(own, "named by --from", 0)
    assert get(card, source=own / "a.bin").folder == own
    assert server.asked == []
    (own / "b.txt.gz").write_bytes(gzip.compress(b"another list"))
    with pytest.raises(DataError, match=r"b\.txt\.gz in .*md5 of the content .*expected .*from the authors' page"):
        get(card, source=own)
    (own / "b.txt.gz").write_bytes(gzip.compress(b"the list")[:-9])
    with pytest.raises(DataError, match=r"b\.txt\.gz in .*no whole gzip file"):
        get(card, source=own)


def test_a_copy_must_have_the_layout_and_a_version_that_a_source_pins(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"there is nothing at .*nowhere"):
        get(make_card(FOLDER), source=tmp_path / "nowhere")
    (tmp_path / "x.zip").write_bytes(b"x")
    for source in (tmp_path, tmp_path / "x.zip"):
        with pytest.raises(DataError, match=rf"{source} does not hold .*expected there: a\.bin beside nothing else"):
            get(make_card(FOLDER), source=source)
    (tmp_path / "a.bin").write_bytes(OTHER)
    expected = rf"a\.bin in {tmp_path} has sha256 {OTHER_SHA[:12]}…, expected {BODY_SHA[:12]}…; .*get it again"
    with pytest.raises(DataError, match=expected):
        get(make_card(url(server, **PIN)), source=tmp_path)
    assert get(make_card(url(server, **PIN), url(server, sha256=OTHER_SHA)), source=tmp_path).folder == tmp_path


@pytest.mark.parametrize("length", [True, False])
def test_a_full_disk_ends_it_at_once_and_room_lets_it_go_on(
    server: Server, second: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: bool
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(small, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    monkeypatch.setenv("GENBIAS_STORE", str(disk / "store"))
    server.put("a.bin", Answer(length=length))
    card = make_card(url(server, **PIN), url(second, **PIN))
    try:
        with pytest.raises(StoreError, match="no space left"):
            get(card)
        assert second.asked == []
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert (get(card).folder / "a.bin").read_bytes() == BODY
        # A file of known size is refused before it is begun; the other is written until the disk is full.
        assert (server.sent()[-1] is None) == length
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A Hub on this machine, and the real client pointed at it as by HF_ENDPOINT, which it reads at import."""
    constants = {
        "ENDPOINT": server.url.rstrip("/"),
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "AGENT_HARNESSES_PATH": str(tmp_path / "harnesses.json"),
        "HF_HUB_OFFLINE": False,
    }
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    lfs = {"size": len(BODY), "sha256": BODY_SHA, "pointerSize": 134}
    small = {"size": 5, "blobId": hashlib.sha1(b"blob 5\0hello").hexdigest()}
    siblings = [{"rfilename": name, "size": len(BODY), "lfs": lfs} for name in ("data/a.bin", "other.bin")]
    siblings += [{"rfilename": name, **small} for name in ("b.txt", "other.txt")]
    info = json.dumps({"id": "org/things", "sha": COMMIT, "siblings": siblings}).encode()
    server.put(f"api/datasets/org/things/revision/{COMMIT}", Answer(info))
    for name, body in {"data/a.bin": BODY, "b.txt": b"hello", "other.bin": OTHER, "other.txt": b"hullo"}.items():
        answer = Answer(body, etag=f'"{hashlib.sha256(body).hexdigest()}"', headers={"X-Repo-Commit": COMMIT})
        server.put(f"datasets/org/things/resolve/{COMMIT}/{name}", answer)
    return server


def on_hub(*names: str, repo: str = "org/things", **pin: str) -> dict[str, Any]:
    return {"kind": "hub", "location": repo, "revision": COMMIT, "files": [{"name": name, **pin} for name in names]}


def test_a_pinned_commit_of_the_hub_is_downloaded_and_verified(hub: Server) -> None:
    card = make_card(on_hub("data/a.bin", "b.txt"))
    progress = Recorder()
    done = get(card, has("data/a.bin"), progress=progress)
    assert done == Fetched(home.fetched_folder(card), "the Hub's org/things", len(BODY) + 5)
    assert {p.relative_to(done.folder).as_posix() for p in done.folder.rglob("*")} == {"data", "data/a.bin", "b.txt"}
    assert (done.folder / "data" / "a.bin").read_bytes() == BODY
    assert ["a.bin", len(BODY), len(BODY), "finished"] in progress.pieces
    hub.log.clear()
    (done.folder / "b.txt").unlink()
    assert get(card, has("b.txt")).downloaded_bytes == 5
    assert not [path for path in hub.asked if path.endswith("a.bin")]
    renamed = on_hub("c.bin", **PIN)
    renamed["files"][0]["remote"] = "data/a.bin"
    assert (get(make_card(renamed), has("c.bin")).folder / "c.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (on_hub("data/a.bin", sha256=OTHER_SHA), f"data/a.bin: what the Hub sent has sha256 {BODY_SHA[:12]}…"),
        (on_hub("other.bin"), f"other.bin: what the Hub sent has sha256 {OTHER_SHA[:12]}…, expected {BODY_SHA[:12]}…"),
        (on_hub("other.txt"), "other.txt: what the Hub sent has git id 84b22d8ad8cc…, expected b6fc4c620b67…; it was"),
        (on_hub("c.txt"), "c.txt: the repository has no such file at commit 0123456789ab"),
        (on_hub("a.bin", repo="org/secret"), "its terms must be accepted on its page"),
        (on_hub("a.bin", repo="org/none"), "the Hub has no such data set, or it is private"),
        (on_hub("a.bin", repo="org/moved"), "the Hub has no commit 0123456789ab of it"),
        (on_hub("a.bin", repo="org/broken"), "the Hub answered with status 500"),
        (on_hub("a.bin", repo="org/odd"), "the Hub's client failed: JSONDecodeError"),
    ],
)
def test_what_the_hub_does_not_give_is_named(hub: Server, second: Server, source: Any, reason: str) -> None:
    codes = {"secret": (403, "GatedRepo"), "none": (404, "RepoNotFound"), "moved": (404, "RevisionNotFound"),
             "broken": (500, ""), "odd": (200, "")}  # fmt: skip
    for name, (status, code) in codes.items():
        hub.put(f"api/datasets/org/{name}/revision/{COMMIT}", Answer(b"<", status, headers={"X-Error-Code": code}))
    card = make_card(source, url(second, **PIN))
    with pytest.raises(NotAvailable) as caught:
        get(card)
    assert f"the Hub's {source['location']}: {reason}" in str(caught.value)
    assert f"{second.url}: a.bin: the server answered with status 404" in str(caught.value)
    assert list(home.fetched_folder(card).iterdir()) == []
    second.put("a.bin")
    assert get(card).origin == second.url


def test_an_offline_client_and_a_dead_hub_say_so(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make_card(on_hub("data/a.bin"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotAvailable, match="the Hub's client is set to offline"):
        get(card, has("data/a.bin"))
    assert hub.asked == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NotAvailable, match=r"could not be reached \(ConnectError"):
        get(card, has("data/a.bin"))
