"""Reading the pickles that old data sets ship, without letting them run anything.

Only plain containers and byte or number arrays are allowed; every other global that a pickle names is refused before
it is looked up, so nothing of a stranger's choice is ever imported or called.
"""

from __future__ import annotations

import codecs
import io
import pickle
from typing import Any, ClassVar

import numpy as np

from benchmark.errors import DataError

_LARGEST = 512 * 2**20
_KINDS = "buif"


class _Dtype:
    """Stand in for ``numpy.dtype``: numbers only, no objects, no records; the pickle's state chooses the byte order."""

    def __init__(self, name: str | bytes, *flags: Any) -> None:
        del flags
        self.plain: np.dtype[Any] = np.dtype(name.decode() if isinstance(name, bytes) else name)
        if self.plain.kind not in _KINDS or self.plain.names is not None:
            raise pickle.UnpicklingError(f"arrays of {self.plain} are not plain numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.plain = self.plain.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """Stand in for an array; numpy itself compares the size of its content with its shape."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        super().__setstate__((1, shape, dtype.plain, fortran, content))


def _ndarray(*arguments: Any) -> Any:
    """Stand in for ``numpy.ndarray``, which pickles name and never call: its buffers can hold pointers."""
    del arguments
    raise pickle.UnpicklingError("it makes an array otherwise than numpy does")


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    """Stand in for numpy's ``_reconstruct``: always an empty array, which the pickle's state then fills."""
    del kind, shape, code
    return np.ndarray.__new__(_Array, (0,), np.dtype("u1"))


def _from_buffer(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray[Any, Any]:
    """Stand in for numpy's ``_frombuffer``, by which protocol 5 spells arrays."""
    return np.frombuffer(content, dtype=dtype.plain).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    """Stand in for numpy's ``scalar``."""
    raw = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype=dtype.plain, count=1)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 spells bytes."""
    if codecs.lookup(encoding).name not in ("iso8859-1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode(encoding)


def _empty_bytes() -> bytes:
    """Stand in for ``bytes``, by which old protocols spell no bytes at all; with a number it would make so many."""
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _empty_array), ("scalar", _scalar))
    },
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Dtype,
    # Python 2 and 3 name the plain containers so where a protocol spells them as globals.
    **{(module, "bytes"): _empty_bytes for module in ("builtins", "__builtin__")},
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): frozenset for module in ("builtins", "__builtin__")},
    **{(module, "list"): list for module in ("builtins", "__builtin__")},
    **{(module, "dict"): dict for module in ("builtins", "__builtin__")},
}


class _Unpickler(pickle._Unpickler):
    """The one in Python: that in C takes classes from a cache unasked, and gigabytes for one memo number."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an allowed global."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which data have no use for") from None

    def get_extension(self, code: int) -> None:
        """Refuse codes of this process's own classes."""
        raise pickle.UnpicklingError(f"it names the extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to outside objects."""
        raise pickle.UnpicklingError(f"it refers to the outside object {pid!r}")

    def load_build(self) -> None:
        """Give a state to arrays and their types, and to nothing else."""
        if not isinstance(self.stack[-2], _Array | _Dtype):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("it gives a state to something that has none")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


def read_pickle(content: bytes, origin: str, *, encoding: str = "bytes") -> Any:
    """Load a pickle that holds plain containers, strings, numbers and arrays of numbers.

    Args:
        content: The pickle.
        origin: What to call it in errors.
        encoding: How strings of Python 2 are read; ``bytes`` leaves them as bytes.

    Raises:
        DataError: When it is damaged or names anything else.
    """
    if len(content) > _LARGEST:
        raise DataError(f"{origin} has {len(content):,} bytes; the data set's own is smaller")
    try:
        return _Unpickler(io.BytesIO(content), encoding=encoding).load()
    except Exception as error:  # a damaged pickle raises anything at all
        raise DataError(
            f"{origin} is not the pickle of this data set: {error}; get it again from its source"
        ) from error
