"""Post the report of a submission's check as a comment on its pull request; submission-report.yml runs it, alone.

The report comes from a run that a stranger's pull request could change, so it is data: read in memory with a limit,
shown as plain text between fences that it cannot close, and posted on the pull request that the *event* names. The
standard library only, because nothing is installed where this runs.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import unicodedata
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

MARK = "<!-- genbias-bench: report of a submission -->"
ARTIFACT, MEMBER = "report", "report.md"
BOT = "github-actions[bot]"
_LARGEST_ARCHIVE = 2_000_000
_LARGEST_REPORT = 1_000_000
# GitHub takes 65,536 characters and counts some as more than one.
_LONGEST_COMMENT = 50_000
_LONGEST_LINE = 1_000
_LAYOUT = {"\n", "\t"}
# Control, format (bidi marks, zero width), surrogate, private, unassigned; line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str) -> str:
    """Return ``text`` with long lines cut and everything that cannot be seen written out by its code point."""
    text = text.replace("\r\n", "\n")
    seen = "".join(
        c if c in _LAYOUT or unicodedata.category(c) not in _INVISIBLE else f"\\u{{{ord(c):x}}}" for c in text
    )
    return "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …" for line in seen.split("\n"))


def comment_body(report: str | None, run_url: str) -> str:
    """Return the comment: the report in a fenced block, so that nothing in it is rendered, linked or mentioned.

    Args:
        report: The report as it was found; None where the run left none.
        run_url: Address of the run, from the event.
    """
    link = f"[the run]({run_url})"
    if report is None:
        return f"{MARK}\nThe check left no report; {link} says why."
    shown = plain(report)
    note = ""
    if len(shown) > _LONGEST_COMMENT:
        shown = shown[:_LONGEST_COMMENT].rsplit("\n", 1)[0]
        note = f"\n\nCut here; {link} has the whole report."
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 3)
    return f"{MARK}\nReport of {link}, as plain text:\n\n{fence}text\n{shown}\n{fence}{note}"


def read_report(archive: bytes) -> str | None:
    """Return the report in an artifact's archive; None where there is none that can be read within the limits."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as zipped, zipped.open(MEMBER) as file:
            content = file.read(_LARGEST_REPORT)
    # An archive's fields are the attacker's: damaged, encrypted, an unknown compression, a wrong checksum.
    except (KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, OSError):
        return None
    return content.decode("utf-8", "replace")


class Forge:
    """The few calls of GitHub's REST API that are needed, for one repository."""

    def __init__(self, api: str, repository: str, token: str) -> None:
        self._root, self._token = f"{api}/repos/{repository}", token

    def _open(self, address: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data=data, method=method)
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        # Not sent along when the archive's address redirects to the store of artifacts.
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return urllib.request.urlopen(request, timeout=60)

    def _get(self, path: str, **query: str | int) -> Any:
        with self._open(f"{self._root}/{path}?{urllib.parse.urlencode(query)}") as answer:
            return json.load(answer)

    def _pages(self, path: str, **query: str | int) -> Iterator[Any]:
        for page in range(1, 11):
            found = self._get(path, per_page=100, page=page, **query)
            yield from found
            if len(found) < 100:
                return

    def pull_request(self, owner: str, branch: str, sha: str) -> int | None:
        """Return the number of the open pull request from that branch whose head is ``sha``."""
        found = self._pages("pulls", state="open", head=f"{owner}:{branch}")
        return next((int(pull["number"]) for pull in found if pull["head"]["sha"] == sha), None)

    def archive(self, run: int) -> bytes | None:
        """Return the archive of the report of a run; None where there is none within the limit."""
        listed = self._get(f"actions/runs/{run}/artifacts", name=ARTIFACT)["artifacts"]
        for artifact in listed:
            if artifact["name"] == ARTIFACT and not artifact["expired"]:
                with self._open(f"{self._root}/actions/artifacts/{int(artifact['id'])}/zip") as answer:
                    content: bytes = answer.read(_LARGEST_ARCHIVE + 1)
                return content if len(content) <= _LARGEST_ARCHIVE else None
        return None

    def comment(self, number: int, body: str) -> None:
        """Write the comment, or renew the one that an earlier run wrote."""
        for earlier in self._pages(f"issues/{number}/comments"):
            if earlier["user"]["login"] == BOT and earlier["body"].startswith(MARK):
                self._open(f"{self._root}/issues/comments/{int(earlier['id'])}", "PATCH", {"body": body}).close()
                return
        self._open(f"{self._root}/issues/{number}/comments", "POST", {"body": body}).close()


def main(environment: Mapping[str, str]) -> int:
    """Post the report of the run that the event names; 0 also when its pull request has moved on."""
    forge = Forge(environment["GITHUB_API_URL"], environment["GITHUB_REPOSITORY"], environment["GH_TOKEN"])
    number = forge.pull_request(environment["HEAD_OWNER"], environment["HEAD_BRANCH"], environment["HEAD_SHA"])
    if number is None:
        sys.stdout.write("no open pull request has this commit as its head\n")
        return 0
    archive = forge.archive(int(environment["RUN_ID"]))
    report = None if archive is None else read_report(archive)
    forge.comment(number, comment_body(report, environment["RUN_URL"]))
    sys.stdout.write(f"posted on pull request {number}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
