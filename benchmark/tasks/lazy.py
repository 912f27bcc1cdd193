"""Images that are read when they are asked for, so that memory does not grow with the data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InvalidValue

ByteArray = NDArray[np.uint8]
BLOCK = 512
"""Images that are read at a time when all of them are passed through."""


class LazyImages:
    """uint8 images [n, height, width, 3] behind a function that reads some of them; indexed like an array.

    Indexing with a slice or with integers reads and returns an array; :meth:`take` returns a view that reads nothing.

    Args:
        n: Number of images.
        size: Height and width in pixels.
        read: Returns the images at some positions, int64 [k] in 0..n-1, as uint8 [k, size, size, 3].
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, n: int, size: int, read: Callable[[NDArray[np.int64]], ByteArray]) -> None:
        self._n, self._size, self._read = n, size, read

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of images, height, width, channels."""
        return self._n, self._size, self._size, 3

    @property
    def nbytes(self) -> int:
        """Bytes that all images take in memory."""
        return self._n * self._size**2 * 3

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.integer[Any]]) -> ByteArray:
        if isinstance(index, int | np.integer):
            image: ByteArray = self._read(self._positions(np.array([index])))[0]
            return image
        if isinstance(index, slice):
            return self._read(np.arange(*index.indices(self._n), dtype=np.int64))
        return self._read(self._positions(np.asarray(index)))

    def _positions(self, index: NDArray[Any]) -> NDArray[np.int64]:
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise InvalidValue("images are indexed by a slice or by integers; for a mask use np.flatnonzero(mask)")
        positions: NDArray[np.int64] = index.astype(np.int64)
        if positions.size and (positions.min() < -self._n or positions.max() >= self._n):
            raise IndexError(f"an index lies outside the {self._n} images")
        return np.where(positions < 0, positions + self._n, positions)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything, as ``np.asarray(images)`` does."""
        if copy is False:
            raise ValueError("these images are not in memory, so an array of them is always a copy")
        whole = np.empty(self.shape, dtype=np.uint8)
        for start, block in blocks(self):
            whole[start : start + len(block)] = block
        return whole if dtype is None else whole.astype(dtype)

    def take(self, index: NDArray[np.integer[Any]] | Sequence[int]) -> LazyImages:
        """Return a view of some images, in the order given; nothing is read."""
        chosen = self._positions(np.asarray(index))
        return LazyImages(len(chosen), self._size, lambda positions: self._read(chosen[positions]))


Images = NDArray[np.uint8] | LazyImages
"""uint8 [n, height, width, 3], in memory or not."""


def blocks(images: Images, size: int = BLOCK) -> Iterator[tuple[int, ByteArray]]:
    """Yield all images in order as (position of the first, array of at most ``size``)."""
    for start in range(0, len(images), size):
        yield start, images[start : start + size]


def concatenated(first: Images, second: Images) -> Images:
    """Return two sets of images one after the other; lazily unless both are in memory."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])
    if first.shape[1:] != second.shape[1:]:
        raise InvalidValue(f"images of {first.shape[1:]} and of {second.shape[1:]} cannot be mixed")
    split = len(first)

    def read(positions: NDArray[np.int64]) -> ByteArray:
        result = np.empty((len(positions), *first.shape[1:]), dtype=np.uint8)
        early = positions < split
        result[early] = first[positions[early]]
        result[~early] = second[positions[~early] - split]
        return result

    return LazyImages(split + len(second), first.shape[1], read)


def sha256_images(images: Images) -> str:
    """Return the SHA-256 of all pixels in order, read in blocks; equal to that of the array in C order."""
    digest = hashlib.sha256()
    for _, block in blocks(images):
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def in_memory(images: Images, limit: int) -> Images:
    """Return an array when the images take at most ``limit`` bytes, else what was given."""
    return np.asarray(images) if images.nbytes <= limit else images
