"""A folder, a zip or a tar as one thing: names of files, and their bytes. Nothing is ever extracted to the disk."""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from benchmark.errors import DataError
from benchmark.records.canonical import sha256_of

LARGEST_MEMBER = 64 * 2**20
"""A single image or list of a data set is far smaller; a declared size above it is damage or an attack."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_DAMAGE = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    ValueError,
)


class Container:
    """A folder or an archive.

    Args:
        path: The folder, or the archive's file.

    Raises:
        DataError: When it is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kind = "folder" if path.is_dir() else archive_kind(path)

    def names(self) -> list[str]:
        """Return the relative paths of all regular files, sorted.

        Raises:
            DataError: When the archive is damaged, or a path in it climbs out of its folder.
        """
        try:
            if self._kind == "folder":
                return sorted(_walk(self.path))
            if self._kind == "zip":
                with zipfile.ZipFile(self.path) as archive:
                    found = [info.filename for info in archive.infolist() if _regular(info)]
            else:
                with tarfile.open(self.path) as tar:
                    found = [member.name for member in _members(tar) if member.isfile()]
        except _DAMAGE as error:
            raise self._damaged(error) from error
        return sorted({self._safe(name) for name in found})

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            DataError: When it is missing, damaged or too large.
        """
        for _, content in self.stream((name,)):
            return content
        raise DataError(f"{self.path.name} holds no {name}")

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of the wanted files: archives in their own order, in one pass.

        Raises:
            DataError: When the archive or a file is damaged or too large.
        """
        wanted = set(names)
        try:
            if self._kind == "folder":
                for name in sorted(wanted):
                    yield name, self._bounded(name, (self.path / name).stat().st_size, (self.path / name).read_bytes)
            elif self._kind == "zip":
                with zipfile.ZipFile(self.path) as archive:
                    for info in archive.infolist():
                        if info.filename in wanted and _regular(info):
                            wanted.discard(info.filename)  # a name that stands twice counts once
                            yield info.filename, self._bounded(info.filename, info.file_size, _reader(archive, info))
            else:
                yield from self._stream_tar(wanted)
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def deferred(self, names: Collection[str]) -> Iterator[tuple[str, bytes | Path]]:
        """Yield like :meth:`stream`, but of a folder the files' paths, so that whoever decodes them also reads them."""
        if self._kind != "folder":
            yield from self.stream(names)
            return
        for name in sorted(set(names)):
            yield name, self.path / name

    def _stream_tar(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        with tarfile.open(self.path) as tar:
            for member in _members(tar):
                if member.name not in wanted or not member.isfile():
                    continue
                wanted.discard(member.name)
                file = tar.extractfile(member)
                if file is not None:
                    yield member.name, self._bounded(member.name, member.size, file.read)

    def signature(self) -> str:
        """Return a cheap fingerprint that moves when the container is replaced: name, size and time of change."""
        status = self.path.stat()
        return sha256_of([self.path.name, self._kind, status.st_size, status.st_mtime_ns])

    def _bounded(self, name: str, size: int, read: Callable[[], bytes]) -> bytes:
        if size > LARGEST_MEMBER:
            raise DataError(
                f"{name} in {self.path.name} has {size:,} bytes; a file of this data set has at most {LARGEST_MEMBER:,}"
            )
        return read()

    def _safe(self, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise DataError(
                f"{self.path.name} holds the path {name!r}, which leads out of its folder: it is not the archive of "
                "this data set; get it again from its source"
            )
        return name

    def _damaged(self, error: BaseException) -> DataError:
        what = "folder" if self._kind == "folder" else "archive"
        return DataError(f"the {what} {self.path.name} cannot be read ({error}); get it again from its source")


def read_file(path: Path) -> bytes:
    """Return the content of one file of a folder.

    Raises:
        DataError: When it cannot be read or is too large.
    """
    try:
        if (size := path.stat().st_size) > LARGEST_MEMBER:
            raise DataError(f"{path.name} has {size:,} bytes; a file of this data set has at most {LARGEST_MEMBER:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror or error})") from error


def archive_kind(path: Path) -> str:
    """Return ``zip`` or ``tar`` by the file's content, whatever it is called.

    Raises:
        DataError: When it is no such archive.
    """
    try:
        if zipfile.is_zipfile(path):
            return "zip"
        with tarfile.open(path):
            return "tar"
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        head = _head(path)
        what = "is a web page, not the data" if head.lstrip()[:1] == b"<" else f"is no zip or tar archive ({error})"
        raise DataError(f"{path.name} {what}; get it again from its source") from error


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(512)
    except OSError:
        return b""


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    yield from tar
    # A damaged header ends Python's loop like the end mark does, and so the rest would be lost without a word.
    stream = tar.fileobj
    assert stream is not None
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off or damaged in the middle")
    while stream.read(2**20):
        pass  # a compressed archive compares its checksum at the end


def _regular(info: zipfile.ZipInfo) -> bool:
    mode = info.external_attr >> 16
    return not info.is_dir() and (mode == 0 or stat.S_IFMT(mode) in (0, stat.S_IFREG))


def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: archive.read(info)


def _walk(folder: Path) -> Iterator[str]:
    for parent, _, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        for file in files:
            if (Path(parent) / file).is_file():
                yield (relative / file).as_posix()
