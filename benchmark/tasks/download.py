"""Files over HTTP for `data fetch`: resumed, bounded, and in place only when they are whole and verified."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import DamagedFile, DataError, NotAvailable
from benchmark.progress import Progress
from benchmark.records.files import fsync_folder, make_folder, read_json, storage_error, write_json
from benchmark.tasks.block import SourceFile

if TYPE_CHECKING:
    import httpx2

RETRY_DELAYS_S = (1.0, 3.0, 10.0)
LARGEST_BYTES = 64 * 2**30
_FORMAT = 1
_BLOCK = 2**20
_SHOWN_DIGITS = 12
_PASSING_STATUSES = (408, 425, 429)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PAGE_TYPES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class Network:
    """How patient a download is.

    Attributes:
        connect_s: Seconds until a server must have answered the call.
        read_s: Seconds until the next bytes must have come.
        delays_s: Waits before each further try; they start anew when a try brought the file further than ever.
        largest: Bytes beyond which a body is refused.
    """

    connect_s: float = 15.0
    read_s: float = 60.0
    delays_s: tuple[float, ...] = RETRY_DELAYS_S
    largest: int = LARGEST_BYTES


# --- what a file must be -------------------------------------------------------------------------------------------


def is_pinned(file: SourceFile) -> bool:
    """Return whether the card says what a file's content must be."""
    return any((file.sha256, file.md5, file.content_md5))


def mismatch(path: Path, file: SourceFile, progress: Progress) -> str | None:
    """Compare a file with what its card pins.

    Args:
        path: Where it lies.
        file: What it should be; `content_md5` is of the decompressed content where the path ends in ``.gz``, or in
            ``.gz.part``.
        progress: Told about the hashing.

    Returns:
        What differs, in words with both digests, or None.

    Raises:
        DataError: When the file cannot be read.
    """
    pins = {name: value for name, value in (("sha256", file.sha256), ("md5", file.md5)) if value}
    if pins:
        found = file_digests(path, list(pins), progress)
        for name, expected in pins.items():
            if found[name] != expected:
                return _differs(name, expected, found[name])
    if file.content_md5:
        try:
            content = _content_md5(path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return f"is no whole gzip file ({error})"
        except OSError as error:
            raise _unreadable(path, error) from error
        if content != file.content_md5:
            return _differs("md5 of the content", file.content_md5, content)
    return None


def file_digests(path: Path, algorithms: list[str], progress: Progress, prefix: bytes = b"") -> dict[str, str]:
    """Return digests of a file's bytes, read once, by the names that `hashlib` gives them.

    Args:
        path: The file.
        algorithms: Which digests.
        progress: Told about each block.
        prefix: Bytes that are hashed before the file's.

    Raises:
        DataError: When the file cannot be read.
    """
    hashes = {name: hashlib.new(name, prefix, usedforsecurity=False) for name in algorithms}
    handle = progress.start(f"checking {path.name.removesuffix('.part')}", path.stat().st_size)
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                for digest in hashes.values():
                    digest.update(block)
                progress.advance(handle, len(block))
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        progress.finish(handle)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _content_md5(path: Path) -> str:
    compressed = path.name.removesuffix(".part").endswith(".gz")
    digest = hashlib.md5(usedforsecurity=False)
    with gzip.open(path) if compressed else path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}")


def _differs(name: str, expected: str, found: str) -> str:
    return f"has {name} {found[:_SHOWN_DIGITS]}…, expected {expected[:_SHOWN_DIGITS]}…"


def put_in_place(path: Path, target: Path) -> None:
    """Flush a verified file to disk and give it its final name.

    Raises:
        StoreError: When that cannot be written.
    """
    make_folder(target.parent)
    with _storing(target):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.replace(target)
    fsync_folder(target.parent)


def need_room(folder: Path, missing: int) -> None:
    """Refuse at once what would fill the disk hours later.

    Raises:
        StoreError: When there is less room.
    """
    free = shutil.disk_usage(folder).free
    # Some network file systems report nothing free; there the write itself tells.
    if 0 < free < missing:
        raise storage_error(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


# --- a file on its way ---------------------------------------------------------------------------------------------


@dataclass
class _Partial:
    """A file on its way, and what must hold so that the next bytes belong to the same file.

    Attributes:
        target: The final name.
        url: Where it comes from; a part from elsewhere is dropped.
        pinned: Whether its content is verified when it is whole.
        validator: ETag or modification time that the server gave, for If-Range.
        total: Size of the whole file, if announced.
        received: Bytes that came over the network in this call.
    """

    target: Path
    url: str
    pinned: bool
    validator: str | None = None
    total: int | None = None
    received: int = 0

    @property
    def path(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def note(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def resumable(self) -> bool:
        """Whether another call may go on with it, perhaps days later."""
        return self.size > 0 and (self.pinned or self.validator is not None)

    def take_up(self) -> None:
        """Read what an earlier call noted; drop a part that may belong to another file."""
        try:
            known = read_json(self.note) if self.size and self.note.exists() else {}
            self.validator, self.total = known.get("validator"), known.get("total")
            same = known.get("url") == self.url and known.get("format_version") == _FORMAT
        except (DamagedFile, AttributeError):
            same = False
        too_long = self.total is not None and self.size > self.total
        if not same or too_long or not self.resumable:
            self.discard()

    def begin(self, validator: str | None, total: int | None) -> None:
        """Start from nothing; the note is written before the part."""
        self.discard()
        self.validator, self.total = validator, total
        write_json(self.note, {"format_version": _FORMAT, "url": self.url, "validator": validator, "total": total})

    def discard(self) -> None:
        """Remove the part and the note."""
        self.validator = self.total = None
        with _storing(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)


class _Interrupted(Exception):
    """A try failed in a way in which the next one may not."""


def download(url: str, target: Path, file: SourceFile, progress: Progress, network: Network) -> int:
    """Fetch one file, verify it and put it in place; what came before an interruption is not asked for again.

    Args:
        url: Where it is.
        target: Its final name; ``<target>.part`` and ``<target>.part.json`` lie beside it on the way.
        file: What the card pins of it.
        progress: Told about every block.
        network: How patient to be.

    Returns:
        Bytes that came over the network.

    Raises:
        NotAvailable: When the server does not give the file; the message is the reason alone.
        DataError: When it gave another file, which is then removed.
        StoreError: When it cannot be written.
    """
    make_folder(target.parent)
    partial = _Partial(target, url, is_pinned(file))
    partial.take_up()
    if partial.total is None or partial.size < partial.total:
        _complete(partial, progress, network)
    with _storing(partial.path), partial.path.open("rb") as stream:
        head = stream.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")) and not _is_page(target):
        partial.discard()
        raise NotAvailable("the server answered with a web page instead of the file")
    if (wrong := mismatch(partial.path, file, progress)) is not None:
        partial.discard()
        raise DataError(f"what the server sent {wrong}; it was removed")
    put_in_place(partial.path, target)
    partial.discard()
    return partial.received


def _complete(partial: _Partial, progress: Progress, network: Network) -> None:
    """Ask until the file is whole, waiting longer each time that nothing new came."""
    import httpx2

    timeout = httpx2.Timeout(network.read_s, connect=network.connect_s)
    furthest, tries, delays = partial.size, 0, iter(network.delays_s)
    with httpx2.Client(follow_redirects=True, timeout=timeout, headers={"User-Agent": "genbias-bench"}) as client:
        while True:
            tries += 1
            try:
                _try_once(client, partial, progress, network)
            except _Interrupted as error:
                if partial.size > furthest:
                    furthest, delays = partial.size, iter(network.delays_s)
                if (delay := next(delays, None)) is None:
                    kept = "; what came is kept for the next time" if partial.resumable else ""
                    raise NotAvailable(f"{error} (tried {tries} times{kept})") from error
                time.sleep(delay)
            else:
                return


def _try_once(client: httpx2.Client, partial: _Partial, progress: Progress, network: Network) -> None:
    import httpx2

    start = partial.size
    # The bytes as the server has them: digests and ranges are of those.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if partial.validator:
            headers["If-Range"] = partial.validator
    try:
        with client.stream("GET", partial.url, headers=headers) as response:
            _refuse_status(response, partial, start)
            _refuse_other_content(response, partial)
            if response.status_code == 206:
                _continue(response, partial, start)
            else:
                length = response.headers.get("Content-Length", "")
                partial.begin(_validator(response), int(length) if length.isdecimal() else None)
            _pour(response, partial, progress, network.largest)
    except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
        raise NotAvailable(f"the address leads nowhere ({error})") from error
    except httpx2.TransportError as error:
        raise _Interrupted(f"the connection failed: {type(error).__name__} {error}".rstrip()) from error


def _refuse_status(response: httpx2.Response, partial: _Partial, start: int) -> None:
    status = response.status_code
    named = f"the server answered with status {status} {response.reason_phrase}".strip()
    if status == 416 and start:
        partial.discard()
        raise _Interrupted(named)
    if status in _PASSING_STATUSES or status >= 500:
        raise _Interrupted(named)
    if status != 200 and not (status == 206 and start):
        raise NotAvailable(named)


def _refuse_other_content(response: httpx2.Response, partial: _Partial) -> None:
    kind = response.headers.get("Content-Type", "").lower()
    if kind.startswith(_PAGE_TYPES) and not _is_page(partial.target):
        raise NotAvailable("the server answered with a web page instead of the file")
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    # Some servers call a .gz file's own compression an encoding; its raw bytes are then the file.
    own = encoding in ("gzip", "x-gzip") and partial.target.name.endswith((".gz", ".tgz"))
    if encoding not in ("", "identity") and not own:
        raise NotAvailable(f"the server compressed the file ({encoding}) although it was asked not to")


def _is_page(path: Path) -> bool:
    return path.suffix.lower() in (".html", ".htm")


def _validator(response: httpx2.Response) -> str | None:
    etag = response.headers.get("ETag", "")
    # A weak ETag promises the same meaning, not the same bytes.
    return (None if etag.startswith("W/") else etag or None) or response.headers.get("Last-Modified")


def _continue(response: httpx2.Response, partial: _Partial, start: int) -> None:
    """Check that the bytes of a 206 are the next ones of the same file; otherwise start over."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    total = int(match[2]) if match is not None and match[2] != "*" else None
    validator = _validator(response)
    other_file = validator is not None and partial.validator is not None and validator != partial.validator
    other_size = None not in (total, partial.total) and total != partial.total
    if match is None or int(match[1]) != start or other_file or other_size:
        partial.discard()
        raise _Interrupted("the server continued with bytes that do not follow those at hand")
    partial.total = partial.total if total is None else total


def _pour(response: httpx2.Response, partial: _Partial, progress: Progress, largest: int) -> None:
    size = partial.size
    if (partial.total or 0) > largest:
        partial.discard()
        raise NotAvailable(f"the server announced more than {largest:,} bytes, which no file here has")
    if partial.total is not None:
        need_room(partial.path.parent, partial.total - size)
    most = largest if partial.total is None else partial.total
    handle = progress.start(partial.target.name, partial.total or 0)
    try:
        progress.advance(handle, size)
        with _storing(partial.path), partial.path.open("ab") as stream:
            for block in response.iter_raw():
                size += len(block)
                if size > most:
                    break
                stream.write(block)
                partial.received += len(block)
                progress.advance(handle, len(block))
    finally:
        progress.finish(handle)
    if size > most:
        partial.discard()
        raise NotAvailable("the server sent more bytes than it announced, or than any file here has")
    if size < (partial.total or 0):
        raise _Interrupted(f"the server sent {size:,} of {partial.total:,} bytes")
    if size == 0:
        raise NotAvailable("the server answered with an empty file")
