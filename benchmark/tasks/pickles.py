"""Reading the pickles that old data sets ship, without letting them run anything.

Only plain containers and byte or number arrays are allowed; every other global that a pickle names is refused before
it is looked up, so nothing of a stranger's choice is ever imported or called.
"""

from __future__ import annotations

import codecs
import io
import pickle
from typing import Any

import numpy as np

from benchmark.errors import DataError

_LARGEST = 512 * 2**20
_KINDS = "buif"


def _empty_array(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray[Any, Any]:
    """Stand in for numpy's ``_reconstruct``: always an empty array, which the pickle's state then fills."""
    del kind, shape, code
    return np.ndarray.__new__(np.ndarray, (0,), np.dtype("u1"))


def _plain_dtype(name: str | bytes, *flags: Any) -> np.dtype[Any]:
    """Stand in for ``numpy.dtype``: numbers only, no objects, no records."""
    del flags
    dtype: np.dtype[Any] = np.dtype(name.decode() if isinstance(name, bytes) else name)
    if dtype.kind not in _KINDS or dtype.names is not None:
        raise pickle.UnpicklingError(f"arrays of {dtype} are not plain numbers")
    return dtype


def _scalar(dtype: np.dtype[Any], content: bytes | str) -> Any:
    """Stand in for numpy's ``scalar``."""
    raw = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype=dtype, count=1)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 spells bytes."""
    if codecs.lookup(encoding).name not in ("iso8859-1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode(encoding)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _empty_array), ("scalar", _scalar))
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _plain_dtype,
    # Python 2 and 3 name the plain containers so where a protocol spells them as globals.
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): frozenset for module in ("builtins", "__builtin__")},
    **{(module, "list"): list for module in ("builtins", "__builtin__")},
    **{(module, "dict"): dict for module in ("builtins", "__builtin__")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an allowed global."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which data have no use for") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to outside objects."""
        raise pickle.UnpicklingError(f"it refers to the outside object {pid!r}")


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
