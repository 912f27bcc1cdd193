"""A stranger's report as a comment: bounded, plain, on the right pull request; over HTTP against a stand-in server."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from markdown_it import MarkdownIt

RUN_URL = "https://forge.example/o/r/actions/runs/7"
HOSTILE = [
    "<img src=https://evil.example/t.png>", "<script>alert(1)</script>", "![x](https://evil.example/t.png)",
    "[x](javascript:alert(1))", "@everyone @org/team", "#1 GH-1 o/r#1", "https://evil.example/?leak", "<!-- hidden",
    "```\n![x](https://evil.example/t.png)\n```", "~~~\n<b>x</b>\n~~~", "````````\n<i>x</i>", "    ```\n<i>x</i>",
    "</code></pre><h1>x</h1>", "<details open><summary>x</summary>", "$$\\href{https://evil.example}{x}$$",
    "```mermaid\ngraph\n```", "&lt;b&gt;", "[^1]: x", "| a |\n|---|\n| <b>x</b> |", "- [x] merged", ":+1:",
]  # fmt: skip


@pytest.fixture(scope="module")
def module(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("post_report")


def zipped(content: bytes, name: str = "report.md") -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return archive.getvalue()


@pytest.mark.parametrize("report", [*HOSTILE, "\n".join(HOSTILE)])
def test_nothing_in_a_report_is_rendered(module: ModuleType, report: str) -> None:
    body = module.comment_body(report, RUN_URL)
    mark, paragraph, inline, _, fence = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    assert (mark.type, mark.content.strip()) == ("html_block", module.MARK)
    assert paragraph.type == "paragraph_open"
    assert [child.attrs["href"] for child in inline.children if child.type == "link_open"] == [RUN_URL]
    assert (fence.type, fence.info, fence.content) == ("fence", "text", f"{report}\n")


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("\u202egpj.exe", "\\u{202e}gpj.exe"), ("a\u200bb", "a\\u{200b}b"), ("\x1b[2Jx", "\\u{1b}[2Jx"),
        ("a\x00b", "a\\u{0}b"), ("a\rb", "a\\u{d}b"), ("a\u2028b", "a\\u{2028}b"), ("\ufeffa", "\\u{feff}a"),
        ("a\r\nb\tc", "a\nb\tc"), ("ρ ≤ 0.95 – é", "ρ ≤ 0.95 – é"), ("\U000e0041", "\\u{e0041}"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_written_out(module: ModuleType, hidden: str, shown: str) -> None:
    assert module.plain(hidden) == shown


@pytest.mark.parametrize("report", ["x\n" * 400_000, "x" * 400_000, "`" * 400_000, "\u202e\n" * 100_000])
def test_a_huge_report_is_cut_and_says_so(module: ModuleType, report: str) -> None:
    body = module.comment_body(report, RUN_URL)
    assert len(body.encode("utf-16-le")) // 2 < 65_536
    assert ("Cut here" in body) == (len(module.plain(report)) > 50_000)
    *_, fence = [token for token in MarkdownIt().parse(body) if token.type == "fence"]
    assert set(fence.content) <= set(module.plain(report)) | {"\n"}


def test_a_run_without_a_report_is_told(module: ModuleType) -> None:
    assert "left no report" in module.comment_body(None, RUN_URL)


@pytest.mark.parametrize(
    "archive",
    [b"", b"PK\x03\x04", b"no zip", zipped(b"x")[:-10], zipped(b"x", "../report.md"), zipped(b"x", "/report.md")],
)  # fmt: skip
def test_a_damaged_archive_holds_no_report(module: ModuleType, archive: bytes) -> None:
    assert module.read_report(archive) is None


def test_an_archive_is_read_up_to_a_limit(module: ModuleType) -> None:
    bomb = zipped(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    assert len(module.read_report(bomb)) == 1_000_000


class StandIn(ThreadingHTTPServer):
    """The few addresses of a forge that are asked, and a store of artifacts elsewhere."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pulls: list[dict[str, Any]] = [{"number": 12, "head": {"sha": "head"}}]
        self.comments: list[dict[str, Any]] = []
        self.archive = zipped(b"# fine\n")
        self.artifacts = [{"id": 3, "name": "report", "expired": False}]
        self.seen: list[tuple[str, str, str | None]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.seen.append(("GET", self.path, self.headers["Authorization"]))
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        found: Any
        match address.path.removeprefix("/repos/o/r/"):
            case "pulls":
                found = self.server.pulls if query["head"] == ["fork:patch 1&x=y"] else []
            case "actions/runs/7/artifacts":
                found = {"artifacts": self.server.artifacts}
            case "issues/12/comments":
                page = int(query["page"][0])
                found = self.server.comments[100 * (page - 1) : 100 * page]
            case "actions/artifacts/3/zip":
                return self._answer(b"", 302, Location=f"{self.server.address}/store/of/artifacts")
            case "/store/of/artifacts":
                return self._answer(self.server.archive)
            case _:
                return self._answer(b"", 404)
        return self._answer(json.dumps(found).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.command, self.path, body["body"]))
        self._answer(b"{}", 201)

    def do_PATCH(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def forge() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def post(module: ModuleType, forge: StandIn, **changed: str) -> list[tuple[str, str, str | None]]:
    """Run the script as the workflow does, and return what it wrote."""
    environment = {
        "GITHUB_API_URL": forge.address, "GITHUB_REPOSITORY": "o/r", "GH_TOKEN": "secret", "RUN_ID": "7",
        "RUN_URL": RUN_URL, "HEAD_SHA": "head", "HEAD_OWNER": "fork", "HEAD_BRANCH": "patch 1&x=y",
    }  # fmt: skip
    assert module.main(environment | changed) == 0
    return [each for each in forge.seen if each[0] != "GET"]


def test_a_report_is_posted_on_the_pull_request_of_its_commit(module: ModuleType, forge: StandIn) -> None:
    forge.pulls.insert(0, {"number": 11, "head": {"sha": "another"}})
    ((method, path, body),) = post(module, forge)
    assert (method, path) == ("POST", "/repos/o/r/issues/12/comments")
    assert body == module.comment_body("# fine\n", RUN_URL)


def test_the_token_stays_with_the_forge(module: ModuleType, forge: StandIn) -> None:
    post(module, forge)
    sent = {path: token for method, path, token in forge.seen if method == "GET"}
    assert sent.pop("/store/of/artifacts") is None
    assert set(sent.values()) == {"Bearer secret"}


def test_an_earlier_comment_of_ours_is_renewed_and_no_one_else_s(module: ModuleType, forge: StandIn) -> None:
    forge.comments = [{"id": i, "user": {"login": "stranger"}, "body": module.MARK} for i in range(100)]
    forge.comments += [{"id": 500, "user": {"login": module.BOT}, "body": "of another workflow"}]
    forge.comments += [{"id": 501, "user": {"login": module.BOT}, "body": f"{module.MARK}\nold"}]
    ((method, path, _),) = post(module, forge)
    assert (method, path) == ("PATCH", "/repos/o/r/issues/comments/501")


@pytest.mark.parametrize("changed", [{"HEAD_SHA": "older"}, {"HEAD_OWNER": "someone"}, {"HEAD_BRANCH": "main"}])
def test_a_run_that_no_open_pull_request_has_as_its_head_is_not_posted(
    module: ModuleType, forge: StandIn, changed: dict[str, str]
) -> None:
    assert post(module, forge, **changed) == []


def test_a_missing_an_expired_and_a_huge_artifact_are_no_report(module: ModuleType, forge: StandIn) -> None:
    forge.archive = b"\0" * 2_000_001
    assert "left no report" in str(post(module, forge)[-1])
    forge.artifacts = [{"id": 3, "name": "report", "expired": True}, {"id": 4, "name": "another", "expired": False}]
    assert "left no report" in str(post(module, forge)[-1])
