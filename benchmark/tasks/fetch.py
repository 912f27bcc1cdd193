"""`data fetch`: a task's files from its card's sources in order, or from a copy of the user's own; all verified."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmark.errors import DataError, GenBiasError, InvalidValue, NotAvailable
from benchmark.progress import Progress
from benchmark.records.files import make_folder, storage_error
from benchmark.records.store import Store, default_store
from benchmark.tasks import home
from benchmark.tasks.block import Source, SourceFile
from benchmark.tasks.card import DataCard
from benchmark.tasks.download import (
    Network,
    download,
    file_digests,
    is_pinned,
    mismatch,
    need_room,
    put_in_place,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_FETCHABLE = ("hub", "url")
_STAGING = ".hub"

Matches = Callable[[Path], bool]
Getter = Callable[[SourceFile, Path], int]
"""Fetches one file to its final name, verified, and returns the bytes that came over the network."""


@dataclass(frozen=True)
class Fetched:
    """Where a task's data are now.

    Attributes:
        folder: The folder.
        origin: What gave the files, in words.
        downloaded_bytes: What came over the network in this call.
    """

    folder: Path
    origin: str
    downloaded_bytes: int


def fetch(
    card: DataCard,
    *,
    progress: Progress,
    accept: bool = False,
    source: Path | None = None,
    matches: Matches,
    offline: bool = False,
    network: Network | None = None,
) -> Fetched:
    """Get a task's data: a copy of the user's own, what is here already, or the first source that works.

    Args:
        card: The task's card.
        progress: Told about files and warnings.
        accept: The user accepts the terms of use; remembered until their wording changes.
        source: A folder in the original layout, or an archive in one; noted for later commands, never copied.
        matches: Whether a folder has the data set's layout.
        offline: Look for copies only.
        network: How patient downloads are.

    Raises:
        InvalidValue: When terms are not accepted, or there is nothing at ``source``.
        DataError: When ``source`` is not this data set, or what was fetched does not make it up.
        NotAvailable: When no source gives the data; lists why, source by source.
        StoreError: When files cannot be written.
    """
    _agree(card, accept)
    if source is not None:
        return _own_copy(card, source, matches, progress)
    if (place := home.find(card, matches)) is not None:
        return Fetched(place.folder, place.origin, 0)
    sources = [source for source in card.task.sources if source.kind in _FETCHABLE]
    if not sources:
        origins = "; ".join(source.location for source in card.task.sources)
        raise NotAvailable(f"the data of {card.task.name} cannot be downloaded by this program, only from {origins}. "
                           f"{_own_hint(card)}")  # fmt: skip
    if offline:
        raise NotAvailable(f"the data of {card.task.name} are not here, and --offline downloads nothing. "
                           f"{_own_hint(card)}")  # fmt: skip
    folder = make_folder(home.fetched_folder(card))
    with Store(default_store()).claim(f"fetch-{folder.name}"):
        # Another process may have been first.
        if (place := home.find(card, matches)) is not None:
            return Fetched(place.folder, place.origin, 0)
        done = _from_first(card, sources, folder, progress, network or Network())
    if not matches(folder):
        raise DataError(
            f"all files came from {done.origin}, but together they do not have the layout of {card.task.name}; "
            "please report this, with the output of `genbias-bench env`"
        )
    return done


def _agree(card: DataCard, accept: bool) -> None:
    if home.terms_accepted(card):
        return
    if not accept:
        raise InvalidValue(
            f"the data of {card.task.name} have terms of use: {card.task.terms} If you accept them, run the same "
            "command with --accept-terms"
        )
    home.accept_terms(card)


def _layouts(card: DataCard) -> str:
    return "; or ".join(source.layout for source in card.task.sources if source.kind == "folder" and source.layout)


def _own_hint(card: DataCard) -> str:
    hint = f"To use a copy of your own, run `genbias-bench data fetch {card.task.name} --from FOLDER`"
    layouts = _layouts(card)
    return f"{hint}, where FOLDER holds: {layouts}" if layouts else hint


# --- a copy of the user's own --------------------------------------------------------------------------------------


def _own_copy(card: DataCard, source: Path, matches: Matches, progress: Progress) -> Fetched:
    given = source.expanduser()
    if not given.exists():
        raise InvalidValue(f"there is nothing at {source}; give the folder that holds the data of {card.task.name}")
    folder = given.parent if given.is_file() else given
    if not matches(folder):
        layouts = _layouts(card) or ", ".join(file.name for s in card.task.sources for file in s.files)
        raise DataError(f"{source} does not hold the data of {card.task.name}; expected there: {layouts}")
    for path, candidates in _known_files(card, folder).items():
        wrong = [mismatch(path, file, progress) for _, file in candidates]
        if None not in wrong:
            raise DataError(
                f"{path.relative_to(folder)} in {source} {wrong[0]}; it is damaged or another version: get it again "
                f"from {candidates[0][0].location}"
            )
    home.remember_location(card, folder)
    return Fetched(folder.resolve(), "named by --from", 0)


def _known_files(card: DataCard, folder: Path) -> dict[Path, list[tuple[Source, SourceFile]]]:
    """Return the files in a folder that the card pins; sources may pin different contents under one name."""
    found: dict[Path, list[tuple[Source, SourceFile]]] = {}
    for source in card.task.sources:
        for file in source.files:
            names = {file.name, Path(file.name).name}
            if file.content_md5:
                names |= {f"{name}.gz" for name in names}
            for path in (folder / name for name in sorted(names)):
                if is_pinned(file) and path.is_file():
                    found.setdefault(path, []).append((source, file))
    return found


# --- downloads -----------------------------------------------------------------------------------------------------


def _from_first(card: DataCard, sources: list[Source], folder: Path, progress: Progress, network: Network) -> Fetched:
    """Fetch from the first source that gives every file it must; a full disk ends it at once."""
    reasons = []
    for source in sources:
        where = f"the Hub's {source.location}" if source.kind == "hub" else source.location
        try:
            received = _from_source(source, folder, progress, network)
        except (NotAvailable, DataError) as error:
            reasons.append(f"{where}: {error}")
        else:
            return Fetched(folder, where, received)
    raise NotAvailable(f"the data of {card.task.name} could not be downloaded: {'; '.join(reasons)}. {_own_hint(card)}")


def _from_source(source: Source, folder: Path, progress: Progress, network: Network) -> int:
    missing = [file for file in source.files if not _is_complete(folder / file.name, file, progress)]
    if not missing:
        return 0
    received = 0
    try:
        if source.kind == "hub":
            get = _hub_getter(source, missing, folder, progress, network)
        else:
            get = _url_getter(source, progress, network)
        for file in missing:
            try:
                received += get(file, folder / file.name)
            except (NotAvailable, DataError) as error:
                if not file.optional:
                    raise type(error)(f"{file.name}: {error}") from error
                progress.message(f"{file.name}, which is optional, was left out: {error}")
    finally:
        shutil.rmtree(folder / _STAGING, ignore_errors=True)
    return received


def _is_complete(path: Path, file: SourceFile, progress: Progress) -> bool:
    """Whether a file need not be fetched: only whole ones get their names, so one without a pin is believed."""
    return path.is_file() and mismatch(path, file, progress) is None


def _url_getter(source: Source, progress: Progress, network: Network) -> Getter:
    def get(file: SourceFile, target: Path) -> int:
        return download(source.location + (file.remote or file.name), target, file, progress, network)

    return get


# --- the Hub -------------------------------------------------------------------------------------------------------


def _hub_getter(
    source: Source, missing: list[SourceFile], folder: Path, progress: Progress, network: Network
) -> Getter:
    """Ask the Hub about the files, and return what fetches one of them."""
    from huggingface_hub import HfApi, hf_hub_download

    where: dict[str, Any] = {"repo_id": source.location, "revision": source.revision}
    # Unverified files stay out of the folder that tasks look into.
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    into: dict[str, Any] = {"repo_type": "dataset", "local_dir": staging}
    try:  # whatever the client raises, the next source may do better
        answer = HfApi().dataset_info(**where, files_metadata=True, timeout=network.read_s)
    except Exception as error:
        raise _hub_error(error, source, folder) from error
    infos = {info.rfilename: info for info in answer.siblings or ()}
    need_room(folder, sum(infos[name].size or 0 for file in missing if (name := file.remote or file.name) in infos))

    def get(file: SourceFile, target: Path) -> int:
        name = file.remote or file.name
        if (info := infos.get(name)) is None:
            raise NotAvailable(f"the repository has no such file at commit {str(source.revision)[:12]}")
        bar = _Bar(progress, target.name, info.size or 0)
        try:
            path = Path(hf_hub_download(**where, **into, filename=name, tqdm_class=cast("Any", bar)))
            received = bar.done
            bar.update(info.size or 0)  # what came out of the Hub's own cache
        except Exception as error:  # whatever the client raises, the next source may do better
            raise _hub_error(error, source, folder) from error
        finally:
            bar.end()
        if (wrong := _hub_mismatch(path, file, info, progress)) is not None:
            raise DataError(f"what the Hub sent {wrong}; it was removed")
        put_in_place(path, target)
        return received

    return get


def _hub_mismatch(path: Path, file: SourceFile, info: RepoSibling, progress: Progress) -> str | None:
    """Compare a file with the card's digest, or else with the one that the Hub names at the pinned commit."""
    if is_pinned(file):
        return mismatch(path, file, progress)
    if info.lfs is not None:
        return mismatch(path, file.model_copy(update={"sha256": info.lfs.sha256}), progress)
    if info.blob_id is None:
        return "cannot be checked: neither the card nor the Hub names a digest"
    # Small files lie in git itself, where the identity is the SHA-1 of a header and the content.
    found = file_digests(path, ["sha1"], progress, b"blob %d\0" % path.stat().st_size)["sha1"]
    return None if found == info.blob_id else f"has git id {found[:12]}…, expected {info.blob_id[:12]}…"


class _Bar:
    """What the Hub's client takes for a class of progress bars, and for the one bar that it makes of it.

    Having `update_transfer` keeps the client from making a second bar for the network, which would count twice.
    """

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress, self._total = progress, total
        self.done = 0
        self._handle = progress.start(name, total)

    def __call__(self, **_: object) -> _Bar:
        return self

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        """The caller ends the bar."""

    def update(self, n: float | None = 1) -> None:
        """Count bytes; the client takes some back when it starts over, which a piece of ours cannot."""
        more = min(max(int(n or 0), 0), self._total - self.done)
        self.done += more
        self._progress.advance(self._handle, more)

    def update_transfer(self, n: float) -> None:
        """Leave out what `update` counts when it is written."""

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Show no speed."""

    def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Show no speed."""

    def close(self) -> None:
        """The caller ends the bar."""

    def end(self) -> None:
        self._progress.finish(self._handle)


def _hub_error(error: Exception, source: Source, folder: Path) -> GenBiasError:
    """Turn whatever the Hub's client raised into a reason of one sentence, or into the error of a full disk."""
    from huggingface_hub import errors

    known: list[tuple[type[Exception], str]] = [
        (errors.OfflineModeIsEnabled, "the Hub's client is set to offline (HF_HUB_OFFLINE)"),
        (errors.GatedRepoError, "its terms must be accepted on its page, and `hf auth login` run"),
        (errors.RepositoryNotFoundError, "the Hub has no such data set, or it is private"),
        (errors.RevisionNotFoundError, f"the Hub has no commit {str(source.revision)[:12]} of it"),
        (errors.LocalEntryNotFoundError, f"the Hub could not be reached ({_cause(error)})"),
        (errors.EntryNotFoundError, f"the repository has no such file at commit {str(source.revision)[:12]}"),
    ]
    for kind, reason in known:
        if isinstance(error, kind):
            return NotAvailable(reason)
    if isinstance(error, errors.HfHubHTTPError):
        return NotAvailable(f"the Hub answered with status {error.response.status_code}")
    # The client is built on httpx or httpx2, by its version.
    library = type(error).__module__.partition(".")[0]
    if library in ("httpx", "httpx2") or isinstance(error, ConnectionError | TimeoutError):
        return NotAvailable(f"the Hub could not be reached ({_cause(error)})")
    if isinstance(error, OSError) and error.errno is not None:
        return storage_error(folder, error)
    return NotAvailable(f"the Hub's client failed: {_cause(error)}")


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
