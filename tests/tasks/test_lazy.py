"""Images behind a function that reads some of them: indexed like an array, and read no more than asked for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.errors import DataError, InvalidValue
from benchmark.progress import Silent
from benchmark.tasks.lazy import BLOCK, LazyImages, blocks, concatenated, in_memory, sha256_images
from benchmark.tasks.prepare import Content, Files, Prepared, Recipe, prepare

N, SIZE = 10, 4
ARRAY = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)


class Source:
    """Reads images, and remembers which."""

    def __init__(self, array: NDArray[np.uint8] = ARRAY) -> None:
        self.array, self.read = array, list[list[int]]()
        self.images = LazyImages(len(array), array.shape[1], self)

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert index.dtype == np.int64
        assert ((index >= 0) & (index < len(self.array))).all()
        self.read.append(index.tolist())
        return self.array[index]


INDICES: list[Any] = [
    0, -1, 9, np.int32(3), slice(None), slice(2, 5), slice(-3, None), slice(8, 100), slice(None, None, -2), slice(5, 5),
    [], [3], [3, 1, 3, -1], np.array([0, 9]), np.array([-10, -1], dtype=np.int16), np.array([2], dtype=np.uint8),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_gives_what_an_array_gives_and_reads_once(index: Any) -> None:
    source = Source()
    expected = ARRAY[np.asarray(index, dtype=np.int64) if isinstance(index, list) else index]
    found = source.images[index]
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    assert np.array_equal(found, expected)
    assert len(source.read) == 1
    assert len(source.read[0]) == (1 if expected.ndim == 3 else len(expected))


@pytest.mark.parametrize("index", [10, -11, [0, 10], np.array([-11]), np.array([2**40])], ids=str)
def test_an_index_outside_is_an_index_error(index: Any) -> None:
    with pytest.raises(IndexError, match="outside the 10 images"):
        Source().images[index]
    with pytest.raises(IndexError, match="outside the 10 images"):
        Source().images.take(np.atleast_1d(index))


NO_INDICES = [np.zeros(N, dtype=np.bool_), [True, False], [0.5], np.array([1.0]), np.array([[0, 1]]), ["a"]]


@pytest.mark.parametrize("index", NO_INDICES, ids=lambda index: str(np.asarray(index).dtype))
def test_masks_and_what_is_no_integer_are_refused_in_indexing_and_in_views(index: Any) -> None:
    source = Source()
    with pytest.raises(InvalidValue, match=r"for a mask use np\.flatnonzero\(mask\)"):
        source.images[index]
    with pytest.raises(InvalidValue, match=r"for a mask use np\.flatnonzero\(mask\)"):
        source.images.take(index)
    assert source.read == []


def test_shape_length_and_bytes_are_those_of_the_array_and_read_nothing() -> None:
    source = Source()
    images = source.images
    assert (images.shape, images.ndim, images.dtype) == (ARRAY.shape, 4, np.uint8)
    assert (len(images), images.nbytes) == (N, ARRAY.nbytes)
    assert source.read == []


def test_going_through_ends_after_the_last_image() -> None:
    assert np.array_equal(np.stack(list(Source().images)), ARRAY)  # type: ignore[call-overload]


def test_views_of_views_compose_and_read_nothing_until_asked() -> None:
    source = Source()
    view = source.images.take([9, 3, -4, 3]).take(np.array([2, 0, -1]))
    assert len(view) == 3
    assert view.shape == (3, SIZE, SIZE, 3)
    assert source.read == []
    assert np.array_equal(view[1:], ARRAY[[9, 3]])
    assert source.read == [[9, 3]]
    assert len(view.take([])) == 0
    with pytest.raises(IndexError):
        view[3]


def test_as_an_array_everything_is_read_in_blocks() -> None:
    many = np.random.default_rng(1).integers(0, 256, (BLOCK * 2 + 5, 2, 2, 3), dtype=np.uint8)
    source = Source(many)
    assert np.array_equal(np.asarray(source.images), many)
    assert [len(index) for index in source.read] == [BLOCK, BLOCK, 5]
    assert np.asarray(source.images, dtype=np.float32).dtype == np.float32
    assert [start for start, _ in blocks(source.images)] == [0, BLOCK, 2 * BLOCK]
    with pytest.raises(ValueError, match="always a copy"):
        np.asarray(source.images, copy=False)


def test_the_digest_is_that_of_the_array_s_bytes_also_in_another_memory_order() -> None:
    expected = hashlib.sha256(ARRAY.tobytes()).hexdigest()
    assert sha256_images(ARRAY) == sha256_images(Source().images) == expected
    assert sha256_images(np.asfortranarray(ARRAY)) == expected
    assert sha256_images(ARRAY[:0]) == hashlib.sha256().hexdigest()
    assert sha256_images(Source().images.take(np.arange(N)[::-1])) != expected


@pytest.mark.parametrize("lazy", [(True, False), (False, True), (True, True)], ids=str)
def test_two_sets_one_after_the_other_are_read_from_where_they_are(lazy: tuple[bool, bool]) -> None:
    first, second = Source(ARRAY[:6]), Source(ARRAY[6:])
    parts = [source.images if is_lazy else source.array for source, is_lazy in zip((first, second), lazy, strict=True)]
    both = concatenated(*parts)
    assert isinstance(both, LazyImages)
    assert (first.read, second.read) == ([], [])
    assert np.array_equal(np.asarray(both), ARRAY)
    assert np.array_equal(both[[8, 0, -1, 5, 6]], ARRAY[[8, 0, -1, 5, 6]])
    assert np.array_equal(both[np.array([7])], ARRAY[[7]])
    assert sha256_images(both) == sha256_images(ARRAY)
    assert np.array_equal(concatenated(both, both)[[19, 9, 3]], ARRAY[[9, 9, 3]])


def test_two_arrays_stay_an_array_and_unlike_images_are_not_mixed() -> None:
    both = concatenated(ARRAY[:6], ARRAY[6:])
    assert isinstance(both, np.ndarray)
    assert np.array_equal(both, ARRAY)
    with pytest.raises(InvalidValue, match=r"\(4, 4, 3\) and of \(2, 2, 3\) cannot be mixed"):
        concatenated(Source().images, ARRAY[:, :2, :2])


def test_what_fits_is_taken_into_memory_and_the_rest_is_left() -> None:
    source = Source()
    assert in_memory(source.images, ARRAY.nbytes - 1) is source.images
    assert source.read == []
    taken = in_memory(source.images, ARRAY.nbytes)
    assert isinstance(taken, np.ndarray)
    assert np.array_equal(taken, ARRAY)
    assert in_memory(ARRAY, ARRAY.nbytes) is ARRAY


# --- over prepared files -------------------------------------------------------------------------------------------


def prepared(root: Path, array: NDArray[np.uint8], channels: int = 3) -> Prepared:
    ids = tuple(f"s{k}" for k in range(len(array)))

    def stream(wanted: frozenset[str]) -> Iterator[tuple[str, Content]]:
        yield from ((name, array[int(name[1:])]) for name in wanted)

    def bare(content: Content) -> tuple[NDArray[np.uint8], str | None]:
        assert isinstance(content, np.ndarray)
        return content.reshape(SIZE, SIZE, channels), None

    recipe = Recipe("toy", SIZE, channels, "none", 1)
    return prepare(root / "prepared" / "toy", recipe, Files(ids, stream, "s"), bare, Silent())


def test_prepared_images_are_given_in_the_order_asked_for(tmp_path: Path) -> None:
    found = prepared(tmp_path, ARRAY)
    wanted = ["s3", "s1", "s3", "s9"]
    assert found.rows(wanted).tolist() == [3, 1, 3, 9]
    images = found.images(wanted)
    assert np.array_equal(np.asarray(images), ARRAY[[3, 1, 3, 9]])
    assert np.array_equal(images[2], ARRAY[3])
    assert type(images[1:]) is np.ndarray
    assert len(found.images([])) == 0
    with pytest.raises(DataError, match=r"image s10 was not prepared"):
        found.images(["s1", "s10"])


def test_bare_grey_pixels_are_prepared_with_one_channel(tmp_path: Path) -> None:
    scans = np.ascontiguousarray(ARRAY[:, :, :, 0])
    found = prepared(tmp_path, scans, channels=1)
    assert np.array_equal(found.open(), scans[:, :, :, None])
    assert found.sha256[1] == hashlib.sha256(scans[1].tobytes()).digest()


@pytest.mark.slow
def test_preparing_and_hashing_take_no_more_memory_for_more_images(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import re, sys
        from pathlib import Path
        import numpy as np
        from benchmark.progress import Silent
        from benchmark.tasks.prepare import Files, Recipe, prepare
        n, root = int(sys.argv[1]), Path(sys.argv[2])
        image = np.arange(96 * 96 * 3, dtype=np.uint32).astype(np.uint8).reshape(96, 96, 3)
        ids = tuple(f"{k:06d}" for k in range(n))
        def stream(wanted):
            return ((name, image + np.uint8(k % 200)) for k, name in enumerate(ids))
        done = prepare(root, Recipe("toy", 96, 3, "none", 1), Files(ids, stream, "s"), lambda x: (x, None), Silent(), 2)
        assert done.open().nbytes == n * 96 * 96 * 3
        done.verify()
        # Not getrusage: a program inherits the peak of the one that started it, which would hide its own.
        print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
    """)

    def peak(n: int) -> float:
        command = [sys.executable, "-c", program, str(n), str(tmp_path / str(n) / "prepared" / "toy")]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak(1_500), peak(6_000)
    assert large - small < 40  # MiB, where the images take 119 MiB more
