"""A thin client of the Hugging Face Hub for `push`, `submit` and `verify --pr`: heads, files and atomic commits.

What the Hub's own client raises becomes an error of ours that says what to do. A commit is one request, which the Hub
makes whole or not at all; large files that were sent ahead of a commit that failed are seen by nobody.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from benchmark.errors import DamagedFile, InvalidValue, NotAvailable
from leaderboard.hub_errors import Unreachable, cause, refusal

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How long to wait for the Hub.

    Attributes:
        delays_s: Pauses before each further attempt, in seconds; their number is the number of further attempts.
        read_s: Longest silence of the server, in seconds.
    """

    delays_s: tuple[float, ...] = (1.0, 4.0, 16.0)
    read_s: float = 300.0


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub.

    Attributes:
        kind: What it holds.
        name: ``ORG/NAME``.
    """

    kind: Literal["dataset", "space"]
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidValue(f"{self.name!r} is no name of a {self.kind} on the Hub; give ORG/NAME")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Content:
    """A file's content as it is here.

    Attributes:
        data: The bytes, or the file that holds them.
    """

    data: bytes | Path

    @functools.cached_property
    def _read(self) -> tuple[int, str, str]:
        data = self.data.read_bytes() if isinstance(self.data, Path) else self.data
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
        return len(data), blob.hexdigest(), hashlib.sha256(data).hexdigest()

    @property
    def size(self) -> int:
        """Bytes."""
        return self._read[0]

    @property
    def blob(self) -> str:
        """Identity as a git blob."""
        return self._read[1]

    @property
    def sha256(self) -> str:
        """SHA-256."""
        return self._read[2]


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub.

    Attributes:
        size: Bytes.
        blob: Identity as a git blob; of a large file that of its pointer.
        sha256: Of a large file's content; None for files in git itself.
    """

    size: int
    blob: str
    sha256: str | None

    def holds(self, content: Content) -> bool:
        """Return whether this is the same content."""
        return content.blob == self.blob if self.sha256 is None else content.sha256 == self.sha256


@dataclass(frozen=True)
class Head:
    """A commit and all its files by path.

    Attributes:
        commit: Full id; None for a repository that does not exist.
        files: By path.
    """

    commit: str | None
    files: Mapping[str, RemoteFile]


def _remote(file: RepoFile) -> RemoteFile:
    return RemoteFile(file.size, file.blob_id, str(file.lfs.sha256) if file.lfs else None)


def find_token() -> str:
    """Return the user's token: from the environment variable HF_TOKEN, or as `hf auth login` stored it.

    Raises:
        NotAvailable: Without one.
    """
    from huggingface_hub import get_token

    try:
        token = get_token()
    except Exception as error:  # an exchange of a forge's identity for a token can fail in many ways
        raise NotAvailable(f"no token for the Hugging Face Hub could be had: {cause(error)}") from error
    if not token:
        raise NotAvailable(
            "there is no token for the Hugging Face Hub, so nothing was sent: make one that may write at "
            "https://huggingface.co/settings/tokens and run `hf auth login`, or set HF_TOKEN"
        )
    return token


def reading_token() -> str | None:
    """Return the user's token if there is one: what is public can be read without."""
    with suppress(NotAvailable):
        return find_token()
    return None


class Hub:
    """The Hub at one endpoint, with one token or none.

    Args:
        token: The token; None reads what is public.
        endpoint: Its address; None takes HF_ENDPOINT, else https://huggingface.co.
        patience: How long to wait.
    """

    def __init__(self, token: str | None, endpoint: str | None = None, patience: Patience | None = None) -> None:
        from huggingface_hub import HfApi, get_session
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        self.patience = patience or Patience()
        self._api = HfApi(endpoint=endpoint or os.environ.get("HF_ENDPOINT") or None, token=token or False)
        get_session().timeout = self.patience.read_s  # the client would wait for ever
        disable_progress_bars()  # one for each of hundreds of small files

    def address(self, repository: Repository) -> str:
        """Return the address of a repository's page."""
        return f"{self._api.endpoint}/{repository.kind}s/{repository.name}"

    def head(self, repository: Repository, revision: str = "main") -> Head:
        """Return a revision's commit and files.

        Args:
            repository: The repository.
            revision: A branch, a commit or ``refs/pr/N``.

        Raises:
            NoRepository: When there is none.
            NotAvailable: When there is no such revision, or the Hub does not answer as it should.
        """
        from huggingface_hub.hf_api import RepoFile

        def ask() -> Head:
            where: dict[str, Any] = {"repo_id": repository.name, "repo_type": repository.kind}
            commit = self._api.repo_info(**where, revision=revision, timeout=self.patience.read_s).sha
            tree = self._api.list_repo_tree(**where, revision=commit, recursive=True)
            files = (entry for entry in tree if isinstance(entry, RepoFile))
            return Head(commit, {each.path: _remote(each) for each in files})

        return self._patiently(repository, ask)

    def common_commit(self, repository: Repository, revision: str, other: str) -> str:
        """Return the newest commit of a revision that another one has too.

        Raises:
            NotAvailable: When they have none in common, or the Hub does not answer as it should.
        """

        def ask() -> str | None:
            where: dict[str, Any] = {"repo_id": repository.name, "repo_type": repository.kind}
            known = {each.commit_id for each in self._api.list_repo_commits(**where, revision=other)}
            ours = (each.commit_id for each in self._api.list_repo_commits(**where, revision=revision))
            return next((commit for commit in ours if commit in known), None)

        found = self._patiently(repository, ask)
        if found is None:
            raise NotAvailable(f"{revision} of {repository} has no commit in common with {other}")
        return found

    def fetch(self, repository: Repository, path: str, commit: str, known: RemoteFile, folder: Path) -> Path:
        """Download one file below a folder, under its path in the repository, and check it against the listing.

        Raises:
            NotAvailable: When the Hub does not answer as it should.
            DamagedFile: When other content came.
            StoreError: When it cannot be written.
        """
        with self._asking(repository):  # the client asks again by itself here
            file = Path(
                self._api.hf_hub_download(
                    repository.name, path, repo_type=repository.kind, revision=commit, local_dir=folder
                )
            )
        if not known.holds(Content(file)):
            raise DamagedFile(f"what the Hub sent as {path} is not what it lists at {commit[:12]}; run it again")
        return file

    def create(self, repository: Repository) -> None:
        """Create a repository unless it exists; a Space is static.

        Raises:
            NotAvailable: When this token may not, or the Hub does not answer as it should.
        """
        sdk = "static" if repository.kind == "space" else None
        self._patiently(
            repository,
            lambda: self._api.create_repo(
                repository.name, repo_type=repository.kind, space_sdk=sdk, exist_ok=True
            ),
        )  # fmt: skip

    def commit(
        self,
        repository: Repository,
        added: Mapping[str, Content],
        deleted: Sequence[str] = (),
        *,
        parent: str,
        title: str,
        description: str = "",
        pull_request: bool = False,
    ) -> str:
        """Make one commit; asked once, since only the caller knows whether to ask again.

        Args:
            repository: The repository.
            added: New and changed files by path.
            deleted: Paths of files to delete.
            parent: The commit that it follows.
            title: First line of its message, or the title of the pull request.
            description: The rest.
            pull_request: Open a pull request instead of writing to main.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            StaleHead: When the head of main is no longer the parent.
            Unreachable: When it is not known whether the commit was made.
            NotAvailable: When it was refused.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._asking(repository):
            made = self._api.create_commit(
                repository.name,
                [
                    *(CommitOperationAdd(path, content.data) for path, content in added.items()),
                    *(CommitOperationDelete(path) for path in deleted),
                ],
                repo_type=repository.kind,
                commit_message=title,
                commit_description=description,
                parent_commit=parent,
                create_pr=pull_request,
            )
        return str(made.pr_url if pull_request else made.commit_url)

    def _patiently(self, repository: Repository, ask: Callable[[], _T]) -> _T:
        """Ask again after a pause when there was no answer; only for what may be asked twice."""
        for delay in self.patience.delays_s:
            try:
                with self._asking(repository):
                    return ask()
            except Unreachable:
                time.sleep(delay)
        with self._asking(repository):
            return ask()

    @contextmanager
    def _asking(self, repository: Repository) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the client raises, the user wants to know what to do
            raise refusal(error, str(repository), self.address(repository)) from error
