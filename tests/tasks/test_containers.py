"""Folders and archives as data sets come: the same names and bytes from each, and nothing of a hostile one."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmark.errors import DataError
from benchmark.tasks.containers import LARGEST_MEMBER, Container, archive_kind

FILES = {
    "list.txt": b"two images\n",
    "images/b.jpg": b"\xff\xd8 second",
    "images/a.jpg": b"\xff\xd8 first",
    "x/y/z": b"",
}
KINDS = ("folder", "zip", "tar", "tar.gz")


def folder_of(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zip_of(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_of(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            add(tar, name, content)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def made(tmp_path: Path, kind: str, files: Mapping[str, bytes] = FILES) -> Path:
    path = tmp_path / f"set.{kind}"
    if kind == "folder":
        return folder_of(path, files)
    if kind == "zip":
        return zip_of(path, files)
    return tar_of(path, files, "w:gz" if kind == "tar.gz" else "w")


# --- what is in it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_names_and_bytes(tmp_path: Path, kind: str) -> None:
    container = Container(made(tmp_path, kind))
    assert container.names() == sorted(FILES)
    assert dict(container.stream(FILES)) == FILES
    assert container.read("images/a.jpg") == b"\xff\xd8 first"
    assert container.read("x/y/z") == b""


def test_a_stream_gives_only_what_is_wanted_and_archives_in_their_own_order(tmp_path: Path) -> None:
    wanted = {"images/a.jpg", "images/b.jpg"}
    for kind in ("zip", "tar", "tar.gz"):
        assert [name for name, _ in Container(made(tmp_path, kind)).stream(wanted)] == ["images/b.jpg", "images/a.jpg"]
    assert [name for name, _ in Container(made(tmp_path, "folder")).stream(wanted)] == ["images/a.jpg", "images/b.jpg"]
    assert list(Container(made(tmp_path, "zip")).stream(())) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match="nothing"):
        Container(made(tmp_path, kind)).read("images/nothing.jpg")


def test_the_content_decides_the_kind_and_not_the_name(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "set.tar.gz", FILES)
    assert archive_kind(path) == "zip"
    assert Container(path).names() == sorted(FILES)
    path = tar_of(tmp_path / "set.zip", FILES, "w:gz")
    assert archive_kind(path) == "tar"
    assert dict(Container(path).stream(FILES)) == FILES


def test_an_empty_folder_or_archive_holds_no_names(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert Container(tmp_path / "empty").names() == []
    for kind in ("zip", "tar", "tar.gz"):
        assert Container(made(tmp_path, kind, {})).names() == []


def test_a_name_that_stands_twice_counts_once(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "a", b"first")
        add(tar, "a", b"second")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a", b"first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", b"second")
    for path in (tmp_path / "t.tar", tmp_path / "z.zip"):
        container = Container(path)
        assert container.names() == ["a"]
        assert [name for name, _ in container.stream(["a"])] == ["a"]


# --- hostile archives ----------------------------------------------------------------------------------------------

CLIMBING = ("../x", "/abs", "a/../../b", "a/..", "..\\x", "a\\b")


@pytest.mark.parametrize("name", CLIMBING)
def test_paths_that_climb_are_refused_by_name(tmp_path: Path, name: str) -> None:
    for path in (
        tar_of(tmp_path / "t.tar", {"good.jpg": b"x", name: b"y"}),
        tar_of(tmp_path / "t.tar.gz", {"good.jpg": b"x", name: b"y"}, "w:gz"),
        zip_of(tmp_path / "z.zip", {"good.jpg": b"x", name: b"y"}),
    ):
        with pytest.raises(DataError, match="leads out of its folder") as caught:
            Container(path).names()
        assert repr(name) in str(caught.value)
        assert path.name in str(caught.value)


def test_a_name_with_dots_that_does_not_climb_is_good(tmp_path: Path) -> None:
    files = {"./a": b"1", "b/..c": b"2", "d...": b"3"}
    for path in (tar_of(tmp_path / "t.tar", files), zip_of(tmp_path / "z.zip", files)):
        assert Container(path).names() == sorted(files)
        assert dict(Container(path).stream(files)) == files


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_devices_pipes_and_folders_in_a_tar_are_no_files(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "good", b"x")
        member = tarfile.TarInfo("trap")
        member.type, member.linkname = kind, str(tmp_path / "secret") if kind == tarfile.SYMTYPE else "good"
        tar.addfile(member)
    container = Container(tmp_path / "t.tar")
    assert container.names() == ["good"]
    assert list(container.stream(["good", "trap"])) == [("good", b"x")]
    with pytest.raises(DataError, match="holds no trap"):
        container.read("trap")


def test_symbolic_links_in_a_zip_are_no_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("good", b"x")
        link = zipfile.ZipInfo("trap")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder")
    container = Container(tmp_path / "z.zip")
    assert container.names() == ["good"]
    assert list(container.stream(["trap", "folder/"])) == []


def test_links_in_a_folder_of_the_user_s_own_are_followed_but_broken_ones_are_no_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", {"a.jpg": b"x"})
    (folder / "b.jpg").symlink_to(folder / "a.jpg")
    (folder / "c.jpg").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.jpg")
    assert Container(folder).names() == ["a.jpg", "b.jpg"]
    assert Container(folder).read("b.jpg") == b"x"


def test_a_member_larger_than_any_image_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = zip_of(tmp_path / "z.zip", {"good": b"x", "bomb": bytes(LARGEST_MEMBER + 2**20)})
    assert bomb.stat().st_size < 2**20
    container = Container(bomb)
    assert container.read("good") == b"x"
    with pytest.raises(DataError, match=r"bomb in z\.zip has 68,157,440 bytes; .* at most 67,108,864"):
        container.read("bomb")


def test_a_zip_that_declares_less_than_it_holds_does_not_give_more(tmp_path: Path) -> None:
    content = zip_of(tmp_path / "z.zip", {"bomb": bytes(2**22)}).read_bytes()
    (tmp_path / "z.zip").write_bytes(content.replace((2**22).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match="Bad CRC-32"):
        Container(tmp_path / "z.zip").read("bomb")


def test_a_tar_header_that_declares_a_huge_size_is_an_error(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge")
    member.size = LARGEST_MEMBER + 1
    with (tmp_path / "t.tar").open("wb") as stream:
        stream.write(member.tobuf())
        stream.truncate(512 + LARGEST_MEMBER + 512 + 1024)
    container = Container(tmp_path / "t.tar")
    assert container.names() == ["huge"]
    with pytest.raises(DataError, match=r"huge in t\.tar has 67,108,865 bytes"):
        container.read("huge")
    member.size = 2**50
    (tmp_path / "cut.tar").write_bytes(member.tobuf())
    with pytest.raises(DataError, match=r"cut\.tar cannot be read"):
        Container(tmp_path / "cut.tar").names()


def test_a_file_in_a_folder_larger_than_any_image_is_refused(tmp_path: Path) -> None:
    with (folder_of(tmp_path / "set", {"a": b""}) / "a").open("wb") as stream:
        stream.truncate(LARGEST_MEMBER + 1)
    with pytest.raises(DataError, match="a in set has 67,108,865 bytes"):
        Container(tmp_path / "set").read("a")


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("set.zip", b"", "is no zip or tar archive"),
        ("set.zip", b"<!DOCTYPE html><html>quota exceeded</html>", "is a web page, not the data"),
        ("set.zip", b"\n  <html></html>", "is a web page, not the data"),
        ("set.tar.gz", b"a text of some words\n" * 100, "is no zip or tar archive"),
        ("set.tar.gz", gzip.compress(b"a text of some words\n" * 100, mtime=0), "is no zip or tar archive"),
        ("set.tgz", gzip.compress(b"x" * 5000, mtime=0)[:20], "is no zip or tar archive"),
        ("set.zip", b"PK\x03\x04" + bytes(600), "is no zip or tar archive"),
    ],
    ids=["zero bytes", "web page", "web page after spaces", "text", "gzipped text", "cut gzip", "zip without its end"],
)
def test_what_is_no_archive_is_one_sentence_that_names_it(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        Container(tmp_path / name)
    assert str(caught.value).startswith(name)
    assert str(caught.value).endswith("get it again from its source")


def test_an_archive_that_does_not_exist_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        Container(tmp_path / "set.zip")


def test_a_truncated_zip_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = made(tmp_path, "zip").read_bytes()
    for cut in range(1, len(whole), 37):
        (tmp_path / "cut.zip").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"cut\.zip"):
            Container(tmp_path / "cut.zip").names()


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_truncated_tar_is_refused_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    """Also between two members, where Python's own reader sees the end of a good archive."""
    noise = random.Random(0)
    whole = made(tmp_path, kind, {f"{k}.jpg": noise.randbytes(700) for k in range(4)}).read_bytes()
    end = len(whole) if kind == "tar.gz" else 4 * 3 * 512
    for cut in [*range(1, end, 97), *range(512, end, 512)]:
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(DataError, match="cut"):
            list(Container(tmp_path / "cut").stream(["nothing"]))
        with pytest.raises(DataError, match="cut"):
            Container(tmp_path / "cut").names()


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_damaged_header_in_the_middle_of_a_tar_does_not_lose_the_rest_silently(tmp_path: Path, kind: str) -> None:
    plain = bytearray(made(tmp_path, "tar", {"a": b"1", "b": b"2", "c": b"3"}).read_bytes())
    plain[2 * 512 + 148] ^= 0xFF  # in the checksum of the second member's header
    (tmp_path / "bad").write_bytes(gzip.compress(plain) if kind == "tar.gz" else bytes(plain))
    with pytest.raises(DataError, match="cut off or damaged in the middle"):
        Container(tmp_path / "bad").names()


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("how", [*METHODS, "w", "w:gz", "w:bz2", "w:xz"])
def test_archives_damaged_at_random_give_data_errors_and_never_others(tmp_path: Path, how: int | str) -> None:
    noise = random.Random(7)
    files = {f"d/é{k}": bytes(noise.choices(range(30), k=700)) for k in range(4)}
    path = tmp_path / "archive"
    whole = (zip_of(path, files, how) if isinstance(how, int) else tar_of(path, files, how)).read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(noise.choice((1, 1, 3))):
            damaged[noise.randrange(len(damaged))] = noise.randrange(256)
        path.write_bytes(damaged)
        try:
            container = Container(path)
            list(container.stream(container.names()))
        except DataError:
            refused += 1
    assert refused > 20


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(zip_of(tmp_path / "z.zip", {"a": b"x"}).read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "z.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        Container(tmp_path / "z.zip").read("a")


def test_the_signature_moves_when_the_archive_is_replaced_and_only_then(tmp_path: Path) -> None:
    path = made(tmp_path, "zip")
    before = Container(path).signature()
    assert Container(path).signature() == before
    status = path.stat()
    zip_of(path, {**FILES, "more": b"x"})
    longer = Container(path).signature()
    assert longer != before
    made(tmp_path, "zip")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Container(path).signature() == before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert Container(path).signature() != before
    assert Container(path.rename(tmp_path / "other.zip")).signature() != before
