"""The pickles of old data sets are read, and nothing that a pickle could do besides holding data is done."""

from __future__ import annotations

import copyreg
import functools
import os
import pickle
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.errors import DataError
from benchmark.tasks.pickles import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN: dict[str, Any] = {
    "text": "é ∑", "bytes": b"\xff\x00a", "no bytes": b"", "int": -3, "large": 10**30, "float": 0.1, "none": None,
    "bools": [True, False], "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "set": {1, 2},
    "list": [[], [1, "a"]], "nested": {"a": {b"b": [1.5]}},
}  # fmt: skip


class Own:
    """A class of this test."""


def refused(content: bytes, said: str | None = None) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_pickle(content, "the file")
    assert str(caught.value).startswith("the file is not the pickle of this data set")


# --- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_read_as_python_itself_reads_them(protocol: int) -> None:
    found = read_pickle(pickle.dumps(PLAIN, protocol), "the file")
    assert found == PLAIN
    assert list(map(type, found.values())) == list(map(type, PLAIN.values()))


ARRAYS = {
    "bytes": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "int64": np.array([-1, 2**62]),
    "float32": np.array([[0.5], [-1e30]], dtype=np.float32),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "no rows": np.zeros((0, 3), dtype=np.float64),
    "bools": np.array([True, False]),
    "big-endian": np.array([1, 2, -3], dtype=">i4"),
    "big-endian floats": np.array([1.5, -2.0], dtype=">f8"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_numbers_are_read_whatever_their_byte_order(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    found = read_pickle(pickle.dumps({"data": array}, protocol), "the file")["data"]
    assert found.dtype == array.dtype or found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(np.asarray(found), array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_of_numpy_become_plain_numbers(protocol: int) -> None:
    values = [np.float32(1.5), np.int64(-7), np.uint8(200), np.array([258], dtype=">i2")[0]]
    found = read_pickle(pickle.dumps(values, protocol), "the file")
    assert found == [1.5, -7, 200, 258]
    assert list(map(type, found)) == [float, int, int, int]


def python_2(core: str) -> bytes:
    """Spell ``{'data': array([[1, 2, 255]], dtype=uint8), 'fine_labels': [19], ...}`` as Python 2 did, by hand."""
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = f"cnumpy.{core}.multiarray\n_reconstruct\n".encode() + b"(cnumpy\nndarray\nK\x00\x85U\x01btR"
    array = empty + b"(K\x01K\x01K\x03\x86" + dtype + b"\x89U\x03\x01\x02\xfftb"
    return b"\x80\x02}(U\x04data" + array + b"U\x0bfine_labels]K\x13aU\x04nameU\x02\xe9a" + b"u."


@pytest.mark.parametrize("core", ["core", "_core"])
def test_a_pickle_of_python_2_is_read_with_its_strings_as_bytes_or_text(core: str) -> None:
    content = python_2(core)
    as_bytes = read_pickle(content, "the file")
    assert as_bytes[b"data"].tolist() == [[1, 2, 255]]
    assert as_bytes[b"data"].dtype == np.uint8
    assert as_bytes[b"fine_labels"] == [19]
    assert as_bytes[b"name"] == b"\xe9a"
    as_text = read_pickle(content, "the file", encoding="latin1")
    assert as_text["data"].tolist() == [[1, 2, 255]]
    assert as_text["name"] == "éa"


def test_reading_leaves_the_types_of_numpy_as_they_are() -> None:
    read_pickle(pickle.dumps(np.array([1], dtype=">i4"), 2), "the file")
    assert np.dtype("i4").isnative
    assert np.array([1], dtype=np.int32).tobytes() == (1).to_bytes(4, sys.byteorder)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        os.system,
        eval,
        getattr,
        __import__,
        open,
        bytearray.fromhex,
        pickle.loads,
        functools.partial(print, 1),
        Own,
        Own(),
    ],
    ids=["system", "eval", "getattr", "import", "open", "method", "loads", "partial", "class", "instance"],
)
def test_a_pickle_that_names_anything_but_data_is_refused(value: Any, protocol: int) -> None:
    refused(pickle.dumps(value, protocol), "it names .*, which data have no use for")


def test_nothing_is_called_or_imported(tmp_path: Path) -> None:
    class Shell:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    for protocol in PROTOCOLS:
        refused(pickle.dumps(Shell(), protocol), r"it names (posix|nt)\.system")
    assert list(tmp_path.iterdir()) == []
    before = set(sys.modules)
    refused(b"cturtledemo.__main__\nmain\n(tR.", "turtledemo")
    refused(b"(iturtledemo.__main__\nmain\n.", "turtledemo")
    refused(b"\x80\x04\x8c\x08builtins\x8c\x0feval.__call__..\x93.", "builtins")
    assert not {name for name in set(sys.modules) - before if name.startswith("turtle")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, 1], dtype=object), np.array(["a"]), np.zeros(2, "i4,f4"), np.zeros(2, "V8"),
        np.array(["2020-01-01"], dtype="M8[D]"), np.array([1j]), np.zeros(2, [("a", "O")]),
    ],
    ids=["objects", "text", "records", "void", "dates", "complex", "records of objects"],
)  # fmt: skip
def test_arrays_of_anything_but_numbers_are_refused(array: Any, protocol: int) -> None:
    refused(pickle.dumps(array, protocol))


def test_references_to_outside_objects_are_refused() -> None:
    refused(b"Pthe id\n.", "the outside object 'the id'")
    refused(b"\x80\x02K\x07Q.", "the outside object 7")


@pytest.mark.parametrize("cached", [False, True])
def test_extension_codes_are_refused_also_when_another_reader_has_resolved_them(cached: bool) -> None:
    content = b"\x80\x02\x82\x4d."
    copyreg.add_extension("posix", "system", 0x4D)
    try:
        if cached:
            assert pickle.loads(content) is os.system
        refused(content)
    finally:
        copyreg.remove_extension("posix", "system", 0x4D)


# A pickle may call what it may name: these make an array whose content is taken for pointers, or for gigabytes.
HOSTILE = {
    "array over a buffer of pointers": b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00OC\x08AAAAAAAAtR.",
    "array of objects": b"cnumpy\nndarray\n(K\x03\x85X\x01\x00\x00\x00OtR.",
    "array of terabytes": b"cnumpy\nndarray\n((I99999999999999\ntX\x02\x00\x00\x00u1tR.",
    "state without its bytes": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
        b"(K\x01(I9999999999\ntcnumpy\ndtype\n(X\x02\x00\x00\x00u1tR\x89C\x02abtb."
    ),
    "state of a builtin": b"c__builtin__\nset\n}X\x01\x00\x00\x00aK\x01sb.",
    "state of a stand-in": b"c_codecs\nencode\n(N}X\x0c\x00\x00\x00__defaults__)stb.",
    "many bytes": b"c__builtin__\nbytes\n(I9999999999999\ntR.",
    "many set members": b"c__builtin__\nrange\n(I9999999999999\ntR.",
    "encoding of a stranger": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x06\x00\x00\x00base64tR.",
    "dtype of objects": b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",
    "dtype of records": b"cnumpy\ndtype\n(X\x05\x00\x00\x00i4,i4tR.",
    "scalar of nothing": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00u1tRC\x00tR.",
    "bytes that are not there": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00abc.",
    "nothing on the stack": b"\x80\x02.",
    "memo that was never set": b"\x80\x02h\x05.",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_in_little_memory(name: str) -> None:
    """In a process of its own, since what is tested may kill it."""
    program = textwrap.dedent(f"""
        import resource
        from benchmark.errors import DataError
        from benchmark.tasks.pickles import read_pickle
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            print("read", repr(read_pickle({HOSTILE[name]!r}, "the file"))[:200])
        except DataError:
            print("refused", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**15)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused 0\n"), done.stdout + done.stderr


def test_a_large_memo_number_takes_no_memory() -> None:
    program = textwrap.dedent("""
        import resource
        from benchmark.tasks.pickles import read_pickle
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert read_pickle(b"Nr\\xff\\xff\\xff\\x03.", "the file") is None
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**15)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_deep_nesting_is_read_or_refused_and_ends() -> None:
    deep = read_pickle(b"]" * 100_000 + b"a" * 99_999 + b".", "the file")
    for _ in range(99_999):
        (deep,) = deep
    assert deep == []


def test_shared_parts_stay_shared() -> None:
    """A billion laughs: forty lists that hold the one before twice are forty lists and not a trillion."""
    value: list[Any] = ["ha"]
    for _ in range(40):
        value = [value, value]
    found = read_pickle(pickle.dumps(value, 2), "the file")
    for _ in range(40):
        assert found[0] is found[1]
        found = found[0]
    assert found == ["ha"]


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a pickle", b"<html></html>", b"\x80\x7fN.", b"\0" * 100])
def test_what_is_no_pickle_is_one_sentence(content: bytes) -> None:
    refused(content, "get it again from its source")


def test_a_truncated_pickle_is_refused_wherever_it_is_cut() -> None:
    for protocol in PROTOCOLS:
        content = pickle.dumps({**PLAIN, "data": ARRAYS["bytes"]}, protocol)
        for cut in range(len(content)):
            refused(content[:cut])


def test_pickles_damaged_at_random_are_read_or_refused_and_nothing_else() -> None:
    noise = random.Random(5)
    content = pickle.dumps({**PLAIN, "data": ARRAYS["bytes"], "float": ARRAYS["float32"]}, 2)
    read = 0
    for _ in range(2_000):
        damaged = bytearray(content)
        damaged[noise.randrange(len(damaged))] = noise.randrange(256)
        try:
            read_pickle(bytes(damaged), "the file")
            read += 1
        except DataError:
            pass
    assert 100 < read < 1_900
