"""A stand-in for the Hugging Face Hub: what the real client asks when it publishes, over HTTP, on this machine.

Repositories are real content under git's identities, with commits, branches and pull requests (`refs/pr/N`). Written
from the client's source; the live Hub may differ where the client does not look.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITER, READER = "hf_writer", "hf_reader"
_API = re.compile(r"/api/(dataset|space)s/([^/]+/[^/]+?)(?:/(revision|tree|commits|preupload|commit|paths-info)/(.+))?")
_RESOLVE = re.compile(r"/(dataset|space)s/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BATCH = re.compile(r"/(dataset|space)s/([^/]+/[^/]+)\.git/info/lfs/objects/batch")


class Refused(Exception):
    """An answer that is an error: status, code and message."""

    def __init__(self, status: int, code: str = "", message: str = "", **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message or code, **body}


@dataclass(frozen=True)
class Blob:
    """A file's content; a large one lies outside of git, which holds a pointer."""

    data: bytes
    large: bool = False

    @property
    def pointer(self) -> bytes:
        digest = hashlib.sha256(self.data).hexdigest()
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(self.data)}\n".encode()

    @property
    def oid(self) -> str:
        held = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.large:
            found["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return found


@dataclass(frozen=True)
class Commit:
    """A state of all files."""

    parent: Commit | None
    files: dict[str, Blob]
    title: str
    description: str = ""

    @property
    def id(self) -> str:
        named = {path: blob.oid for path, blob in self.files.items()}
        parent = self.parent.id if self.parent else None
        return hashlib.sha1(json.dumps([parent, self.title, named], sort_keys=True).encode()).hexdigest()

    @property
    def history(self) -> list[Commit]:
        return [self, *(self.parent.history if self.parent else [])]


@dataclass
class Repo:
    """A repository: its references, and what they lead to."""

    refs: dict[str, Commit] = field(default_factory=dict)

    @property
    def main(self) -> Commit:
        return self.refs["main"]

    def find(self, revision: str) -> Commit:
        if revision in self.refs:
            return self.refs[revision]
        for head in self.refs.values():
            for commit in head.history:
                if commit.id == revision:
                    return commit
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")


@dataclass
class Fault:
    """Something that goes wrong with the next requests whose method and path hold some text.

    ``status`` answers with it; ``reset`` closes the connection: ``before`` anything was done, or ``after``.
    """

    where: str
    times: int = 1
    status: int = 0
    reset: str = ""


class HubServer:
    """The server: repositories, a log of requests, faults, and what somebody else does just before each commit."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.log: list[str] = []
        self.sent: list[str] = []
        self.faults: list[Fault] = []
        self.meanwhile: list[Callable[[], None]] = []
        self.large: set[str] = set()
        self.page = 1000
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        verbs = dict.fromkeys(("do_GET", "do_HEAD", "do_POST", "do_PUT"), lambda to: self._answer(to))  # noqa: PLW0108
        handler = type("Handler", (BaseHTTPRequestHandler,), {**verbs, "log_message": lambda *_: None})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # --- what tests do ---------------------------------------------------------------------------------------------

    def repo(self, name: str, kind: str = "dataset") -> Repo:
        return self.repos[kind, name]

    def files(self, name: str, kind: str = "dataset", revision: str = "main") -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.repo(name, kind).find(revision).files.items()}

    def make(self, name: str, kind: str = "dataset") -> Repo:
        start = {".gitattributes": Blob(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")}
        return self.repos.setdefault((kind, name), Repo({"main": Commit(None, start, "initial commit")}))

    def write(self, name: str, files: dict[str, bytes | None], kind: str = "dataset", revision: str = "main") -> None:
        """Commit as somebody else does; None deletes."""
        repo = self.repo(name, kind)
        start = repo.refs.get(revision, repo.main)
        kept = {path: blob for path, blob in start.files.items() if path not in files}
        new = {path: Blob(data) for path, data in files.items() if data is not None}
        repo.refs[revision] = Commit(start, kept | new, "by hand")

    def merge(self, name: str, number: int) -> None:
        """Merge a pull request whose files nobody else touched."""
        repo = self.repo(name)
        head = repo.refs[f"refs/pr/{number}"]
        repo.refs["main"] = Commit(repo.main, repo.main.files | head.files, f"Merge {number}")

    def asked(self, text: str) -> list[str]:
        return [line for line in self.log if text in line]

    # --- HTTP ------------------------------------------------------------------------------------------------------

    def _answer(self, to: BaseHTTPRequestHandler) -> None:
        path, line = unquote(urlsplit(to.path).path), f"{to.command} {unquote(to.path)}"
        body = to.rfile.read(int(to.headers.get("Content-Length") or 0))
        self.log.append(line)
        fault = next((each for each in self.faults if each.times and each.where in line), None)
        if fault is not None:
            fault.times -= 1
            if fault.reset == "before":
                return _hang_up(to)
            if fault.status:
                return _send(to, fault.status, {"error": "out of order"})
        try:
            with self._lock:
                found = self._route(to, path, body)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.body["error"]}
            return _send(to, refused.status, refused.body, headers)
        if fault is not None and fault.reset == "after":
            return _hang_up(to)
        if isinstance(found, tuple):
            return _send(to, 200, found[0], found[1])
        return _send(to, 200, found)

    def _route(self, to: BaseHTTPRequestHandler, path: str, body: bytes) -> Any:
        query = {name: values[0] for name, values in parse_qs(urlsplit(to.path).query).items()}
        token = (to.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (WRITER, READER, ""):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        # Slashes of a revision come encoded, so the raw path tells where it ends.
        raw = urlsplit(to.path).path
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if path == "/api/validate-yaml":
            return _validate(json.loads(body)["content"])
        if path.startswith("/lfs/"):
            self._objects[path.removeprefix("/lfs/")] = body
            return {}
        if match := _BATCH.fullmatch(path):
            return self._batch(json.loads(body))
        if match := _RESOLVE.fullmatch(raw):
            kind, name, revision, file = match.groups()
            return self._resolve(self._repo(kind, name).find(unquote(revision)), unquote(file))
        if match := _API.fullmatch(raw):
            kind, name, verb, rest = match.groups()
            return self._repository(to, self._repo(kind, name), (kind, name, verb, rest), query, token, body)
        raise Refused(404, "", f"Sorry, we can't find {path}")

    def _repo(self, kind: str, name: str) -> Repo:
        if (kind, name) not in self.repos:
            raise Refused(404, "RepoNotFound", "Repository not found")
        return self.repos[kind, name]

    def _repository(
        self, to: BaseHTTPRequestHandler, repo: Repo, where: tuple[str, str, str | None, str | None],
        query: dict[str, str], token: str, body: bytes,
    ) -> Any:  # fmt: skip
        kind, name, verb, rest = where
        revision, _, below = (rest or "main").partition("/")
        commit = repo.find(unquote(revision))
        if verb in (None, "revision"):
            return {"id": name, "sha": commit.id, "siblings": [{"rfilename": path} for path in commit.files]}
        if verb == "tree":
            return self._tree(commit, unquote(below), to, query)
        if verb == "commits":
            return [
                {"id": each.id, "title": each.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
                for each in commit.history
            ]
        if verb == "paths-info":
            paths = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            return [commit.files[path].entry(path) for path in paths if path in commit.files]
        if token != WRITER and not (token and query.get("create_pr")):
            raise Refused(403 if token else 401, "", "you may not write here")
        if verb == "preupload":
            return {"files": [self._mode(commit, file["path"]) for file in json.loads(body)["files"]]}
        return self._commit(repo, kind, name, commit, [json.loads(line) for line in body.splitlines()], query)

    def _create(self, asked: dict[str, Any], token: str) -> Any:
        name, kind = f"{asked['organization']}/{asked['name']}", asked["type"]
        if token != WRITER:
            raise Refused(403, "", "you may not create repositories here")
        url = f"{self.url}/{kind}s/{name}"
        if (kind, name) in self.repos:
            raise Refused(409, "", "You already created this repo", url=url)
        assert kind != "space" or asked["sdk"] == "static"
        self.make(name, kind)
        return {"url": url}

    def _tree(self, commit: Commit, below: str, to: BaseHTTPRequestHandler, query: dict[str, str]) -> Any:
        entries = [blob.entry(path) for path, blob in sorted(commit.files.items()) if _inside(path, below)]
        folders = {path.rpartition("/")[0] for path in commit.files} - {""}
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        if query.get("recursive", "false").lower() != "true":
            entries = [each for each in entries if "/" not in each["path"][len(below) :].lstrip("/")]
        start = int(query.get("cursor", 0))
        headers = {}
        if start + self.page < len(entries):
            address = to.path.partition("&cursor")[0]
            headers["Link"] = f'<{self.url}{address}&cursor={start + self.page}>; rel="next"'
        return entries[start : start + self.page], headers

    def _mode(self, commit: Commit, path: str) -> dict[str, Any]:
        mode, held = "lfs" if path.endswith(tuple(self.large)) and self.large else "regular", commit.files.get(path)
        oid = None if held is None else held.sha256 if held.large else held.oid
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _batch(self, asked: dict[str, Any]) -> Any:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}} for each in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _resolve(self, commit: Commit, file: str) -> Any:
        if file not in commit.files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        blob = commit.files[file]
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{blob.sha256 if blob.large else blob.oid}"'}
        return blob.data, headers

    def _commit(
        self, repo: Repo, kind: str, name: str, head: Commit, lines: list[dict[str, Any]], query: dict[str, str]
    ) -> Any:
        if self.meanwhile:
            self.meanwhile.pop()()
        about, pull_request = lines[0]["value"], query.get("create_pr") == "1"
        head = repo.main if not pull_request else repo.find(about.get("parentCommit", repo.main.id))
        if about.get("parentCommit", head.id) != head.id:
            raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines[1:]:
            value = line["value"]
            self.sent.append(value["path"])
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[value["path"]] = Blob(self._objects[value["oid"]], large=True)
            else:
                del files[value["path"]]
        made = Commit(head, files, about["summary"], about.get("description", ""))
        number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
        repo.refs[f"refs/pr/{number}" if pull_request else "main"] = made
        page = f"{self.url}/{kind}s/{name}"
        return {
            "success": True, "commitOid": made.id, "commitUrl": f"{page}/commit/{made.id}", "hookOutput": "",
            "pullRequestUrl": f"{page}/discussions/{number}" if pull_request else None,
        }  # fmt: skip


def _inside(path: str, below: str) -> bool:
    return not below or path.startswith(f"{below}/")


def _validate(content: str) -> Any:
    head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        front = yaml.safe_load(head.group(1)) if head else None
    except yaml.YAMLError as error:
        front = str(error)
    if not isinstance(front, dict):
        raise Refused(400, "", "Invalid YAML", errors=[{"message": f"metadata must be an object: {front}"}])
    return {"errors": [], "warnings": []}


def _send(to: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    to.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
        to.send_header(name, value)
    to.end_headers()
    if to.command != "HEAD":
        to.wfile.write(data)


def _hang_up(to: BaseHTTPRequestHandler) -> None:
    to.close_connection = True
    to.connection.shutdown(socket.SHUT_RDWR)
    to.wfile = to.rfile  # the handler flushes what it writes to when it ends
