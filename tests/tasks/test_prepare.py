"""Preparing images with real threads, processes, kills and full disks: done once, never half, never twice."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DamagedFile, DataError, StoreError
from benchmark.progress import Silent
from benchmark.tasks.decode import decode
from benchmark.tasks.prepare import IMAGES, INDEX, ROWS, Content, Files, Prepared, Recipe, open_prepared, prepare

SIZE = 16
RECIPE = Recipe("toy", SIZE, 3, "none, whole", 1)
Pixels = NDArray[np.uint8]


def image_file(k: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A small image of its own colours."""
    rng = np.random.default_rng(k)
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def images(n: int) -> dict[str, bytes]:
    return {f"{k:04d} é.jpg": image_file(k) for k in range(n)}


def source(contents: Mapping[str, Content], signature: str = "s", absent: frozenset[str] = frozenset()) -> Files:
    def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Content]]:
        for name in reversed(contents):  # a source gives them in its own order  # type: ignore[call-overload]
            if name in wanted - absent:
                yield name, contents[name]

    return Files(tuple(sorted(contents)), stream, signature)


def plain(content: Content) -> tuple[Pixels, str | None]:
    assert isinstance(content, bytes)
    return decode(content, SIZE, crop="none", scaled=False)


class Counting:
    """Decodes, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[Content] = []
        self.threads: set[int] = set()

    def __call__(self, content: Content) -> tuple[Pixels, str | None]:
        self.given.append(content)
        self.threads.add(threading.get_ident())
        return plain(content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "prepared" / "toy"


def built(
    root: Path, files: Files, decoder: Callable[..., tuple[Pixels, str | None]] = plain, workers: int = 2
) -> Prepared:
    return prepare(root, RECIPE, files, decoder, Silent(), workers)


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


def whole(prepared: Prepared, contents: Mapping[str, bytes]) -> None:
    """Every image, its digest and the array's digest are as a loop would make them."""
    assert prepared.ids == tuple(sorted(contents))
    assert prepared.sha256 == tuple(hashlib.sha256(contents[name]).digest() for name in prepared.ids)
    expected = np.stack([plain(contents[name])[0] for name in prepared.ids])
    assert np.array_equal(prepared.open(), expected)
    assert not prepared.open().flags.writeable
    prepared.verify()


# --- one undisturbed build -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 8])
def test_threads_prepare_what_a_loop_would(root: Path, workers: int) -> None:
    contents, counting = images(300), Counting()
    prepared = built(root, source(contents), counting, workers)
    whole(prepared, contents)
    assert len(counting.given) == 300
    # One worker is the caller itself.
    assert (threading.get_ident() in counting.threads) == (workers == 1)
    assert (len(counting.threads) == 1) == (workers == 1)
    assert prepared.converted == {}
    assert left(root) == [prepared.folder.name]
    assert left(prepared.folder) == [IMAGES, INDEX, ROWS]
    assert left(root.parent.parent / "claims") == []


def test_what_is_prepared_is_not_decoded_again(root: Path) -> None:
    contents = images(10)
    first, counting = built(root, source(contents)), Counting()
    again = built(root, source(contents), counting)
    assert counting.given == []
    assert again == first


def test_another_signature_recipe_or_set_of_images_is_prepared_anew(root: Path) -> None:
    contents = images(6)
    built(root, source(contents))
    counting = Counting()
    changed = {**contents, "0001 é.jpg": image_file(99)}
    whole(built(root, source(changed, "t"), counting), changed)
    assert len(counting.given) == 6
    fewer = images(5)
    whole(built(root, source(fewer), counting), fewer)
    assert len(counting.given) == 11
    other = prepare(root, Recipe("toy", SIZE, 3, "none, whole", 2), source(contents), counting, Silent())
    assert len(counting.given) == 17
    assert len(left(root)) == 4
    assert [found.signature for found in open_prepared(root, RECIPE)] == ["s", "t", "s"]
    assert other.folder not in [found.folder for found in open_prepared(root, RECIPE)]


def test_conversions_are_counted_and_warned_of_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = {**images(5), "a.png": image_file(1, "PNG", "RGBA")}
    contents |= {f"grey{k}": image_file(k, mode="L") for k in range(2)}
    with caplog.at_level(logging.WARNING):
        prepared = built(root, source(contents))
        again = built(root, source(contents))
    assert prepared.converted == again.converted == {"RGBA": 1, "grey": 2}
    assert [r.getMessage() for r in caplog.records] == ["toy: converted to RGB: 1 RGBA, 2 grey (the first is a.png)"]


# --- sources that are not whole ------------------------------------------------------------------------------------


def test_a_source_without_images_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match="the source of toy holds no image"):
        built(root, source({}))
    assert not root.exists()


def test_an_unreadable_image_is_named_and_the_others_are_kept(root: Path) -> None:
    contents = images(200)
    damaged = {**contents, "0007 é.jpg": b"", "0150 é.jpg": contents["0150 é.jpg"][:300]}
    with pytest.raises(DataError) as caught:
        built(root, source(damaged))
    message = str(caught.value)
    assert message.startswith(
        "2 image(s) of toy cannot be read: 0007 é.jpg: the file is empty; 0150 é.jpg: it cannot be"
    )
    assert list(open_prepared(root, RECIPE)) == []
    with pytest.raises(
        DataError, match=r"8 image\(s\) .* 0004 é\.jpg: the file is empty; and 3 more\. Get these files"
    ):
        built(root, source(dict.fromkeys(images(8), b"")))
    counting = Counting()
    whole(built(root, source(contents), counting), contents)
    assert sorted(map(len, counting.given)) == sorted([len(contents["0007 é.jpg"]), len(contents["0150 é.jpg"])])


def test_a_source_that_lists_an_image_and_does_not_give_it_is_an_error_with_the_number(root: Path) -> None:
    contents = images(9)
    with pytest.raises(DataError, match=r"lists 2 image\(s\) that it does not give, such as 0003 é\.jpg"):
        built(root, source(contents, absent=frozenset({"0003 é.jpg", "0008 é.jpg"})))
    whole(built(root, source(contents)), contents)


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\u2028b.jpg", "a\udcff.jpg", "a\x85.jpg"])
def test_names_that_no_data_set_has_are_refused(root: Path, name: str) -> None:
    with pytest.raises(DataError, match="holds an image called") as caught:
        built(root, source({"a": image_file(0), name: image_file(1)}))
    assert repr(name) in str(caught.value)


# --- interruptions -------------------------------------------------------------------------------------------------


def interrupted(root: Path, contents: Mapping[str, bytes], after: int, error: BaseException) -> Path:
    """Build until so many images were given, then raise in the main thread; returns the unfinished folder."""

    def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Content]]:
        for k, name in enumerate(sorted(wanted)):
            if k == after:
                raise error
            yield name, contents[name]

    with pytest.raises(type(error)):
        built(root, Files(tuple(sorted(contents)), stream, "s"), workers=1)
    (work,) = root.glob(".work-*")
    return work


def test_after_control_c_what_was_done_is_kept(root: Path) -> None:
    contents = images(1500)
    work = interrupted(root, contents, 1400, KeyboardInterrupt())
    done = (work / "journal").read_text().count("\n")
    assert done >= 128
    assert left(root.parent.parent / "claims") == []
    assert list(open_prepared(root, RECIPE)) == []
    counting = Counting()
    whole(built(root, source(contents), counting), contents)
    assert len(counting.given) == 1500 - done


def test_a_torn_or_damaged_line_of_the_journal_costs_only_its_image(root: Path) -> None:
    contents = images(1100)
    work = interrupted(root, contents, 1000, ValueError("stop"))
    journal = work / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 128
    lines[5] = b"z" * 64 + " - 0005 é.jpg\n".encode()
    lines[6] = b"\xff\xfe\0garbage\n"
    lines[7] = b"\n"
    journal.write_bytes(b"".join(lines)[:-20])
    counting = Counting()
    whole(built(root, source(contents), counting), contents)
    assert len(counting.given) == 1100 - len(lines) + 4


def test_an_unfinished_array_of_another_size_is_begun_anew(root: Path) -> None:
    contents = images(300)
    work = interrupted(root, contents, 299, ValueError("stop"))
    (work / IMAGES).write_bytes((work / IMAGES).read_bytes()[:500])
    whole(built(root, source(contents)), contents)


PROGRAM = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from test_prepare import RECIPE, Silent, images, plain, prepare, source
    def slow(content):
        time.sleep({pause})
        with open({log!r}, "ab", buffering=0) as stream:
            stream.write(b".")
        return plain(content)
    print("ready", flush=True)
    prepared = prepare(Path({root!r}), RECIPE, source(images({n})), slow, Silent(), 2)
    print(prepared.pixels_sha256)
"""


def start(root: Path, n: int, pause: float, log: Path) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    code = textwrap.dedent(PROGRAM).format(here=here, root=str(root), n=n, pause=pause, log=str(log))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_in_the_middle_the_build_goes_on_where_it_was(root: Path, tmp_path: Path) -> None:
    n = 700
    process = start(root, n, 0.002, tmp_path / "log")
    while not any(path.stat().st_size for path in root.glob(".work-*/journal")):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (claim,) = (root.parent.parent / "claims").iterdir()
    claim.unlink()  # it would expire by itself; see the tests of the store
    (work,) = root.glob(".work-*")
    done = (work / "journal").read_bytes().count(b"\n")
    assert 128 <= done < n
    assert list(open_prepared(root, RECIPE)) == []
    counting, contents = Counting(), images(n)
    prepared = built(root, source(contents), counting)
    assert len(counting.given) == n - done
    whole(prepared, contents)
    undisturbed = built(tmp_path / "other" / "prepared" / "toy", source(contents))
    assert (prepared.folder / IMAGES).read_bytes() == (undisturbed.folder / IMAGES).read_bytes()
    assert (prepared.pixels_sha256, prepared.sha256) == (undisturbed.pixels_sha256, undisturbed.sha256)
    assert (prepared.folder / ROWS).read_bytes() == (undisturbed.folder / ROWS).read_bytes()


@pytest.mark.slow
def test_two_processes_prepare_the_same_images_once(root: Path, tmp_path: Path) -> None:
    processes = [start(root, 200, 0.001, tmp_path / "log") for _ in range(2)]
    digests = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(digests) == 1
    assert (tmp_path / "log").stat().st_size == 200
    (prepared,) = open_prepared(root, RECIPE)
    whole(prepared, images(200))


# --- damage --------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def without(path: Path, field: str) -> None:
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != field}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "index cut": lambda folder: cut(folder / INDEX),
    "index without a field": lambda folder: without(folder / INDEX, "pixels_sha256"),
    "images cut": lambda folder: cut(folder / IMAGES),
    "images gone": lambda folder: (folder / IMAGES).unlink(),
    "rows cut": lambda folder: cut(folder / ROWS),
    "rows gone": lambda folder: (folder / ROWS).unlink(),
    "a row less": lambda folder: pq.write_table(pq.read_table(folder / ROWS).slice(1), folder / ROWS),
    "rows without digests": lambda folder: pq.write_table(pa.table({"id": list("abcd")}), folder / ROWS),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_store_is_passed_over_with_a_warning_and_made_again(
    root: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    contents = images(4)
    folder = built(root, source(contents)).folder
    DAMAGE[how](folder)
    with caplog.at_level(logging.WARNING):
        assert list(open_prepared(root, RECIPE)) == []
    assert caplog.text.count("it is passed over") == 1
    whole(built(root, source(contents), counting := Counting()), contents)
    assert len(counting.given) == 4
    assert left(root) == [folder.name]


def test_a_flipped_bit_is_found_by_comparing_digests(root: Path) -> None:
    prepared = built(root, source(images(4)))
    content = bytearray((prepared.folder / IMAGES).read_bytes())
    content[-100] ^= 1
    (prepared.folder / IMAGES).write_bytes(content)
    (found,) = open_prepared(root, RECIPE)
    with pytest.raises(DamagedFile, match=r"are damaged \(1 of them, such as .*\); delete the folder"):
        found.verify()


def test_a_file_where_a_folder_should_be_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    (tmp_path / "data" / "prepared" / "toy").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        built(tmp_path / "data" / "prepared" / "toy", source(images(2)))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        built(tmp_path / "file" / "prepared" / "toy", source(images(2)))


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 80 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_little_space_is_told_before_anything_is_decoded(disk: Path) -> None:
    (disk / "filler").write_bytes(bytes(30 * 2**20))
    counting = Counting()
    with pytest.raises(StoreError, match=r"no space left .* take 0 MiB, 50 MiB are free; free some"):
        built(disk / "prepared" / "toy", source(images(3)), counting)
    assert counting.given == []
    (disk / "filler").unlink()
    whole(built(disk / "prepared" / "toy", source(images(3))), images(3))


def test_a_disk_that_fills_up_underway_is_a_store_error_and_the_build_goes_on_later(disk: Path) -> None:
    root, contents, given = disk / "prepared" / "toy", images(2000), Counting()

    def fill(content: Content) -> tuple[Pixels, str | None]:
        if len(given.given) == 1000:
            with pytest.raises(OSError, match="No space left"):
                (disk / "filler").write_bytes(bytes(80 * 2**20))
        return given(content)

    with pytest.raises(StoreError, match=r"no space left|is the disk full"):
        built(root, source(contents), fill, workers=1)
    assert not list(root.glob(f"*/{INDEX}"))
    (disk / "filler").unlink()
    whole(built(root, source(contents), counting := Counting()), contents)
    assert len(counting.given) < 1500
