"""Parquet files of strangers are decoded in a child process with limits, never in the process that asks.

A file of a few hundred bytes can ask for gigabytes, and a damaged one can make the library end its process. The child
has a limit on memory, processor time and wall-clock time, may write no file and leaves no core; it answers with plain
numbers through a pipe, of which exactly as many are read as there are test rows.
Run as ``python -m leaderboard.sealed``.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

import numpy as np

from benchmark.errors import DamagedFile
from benchmark.records.predictions import StoredPredictions, check_rows, parse_predictions

MEMORY_BYTES = 256 * 2**20
"""What decoding may take beyond what the libraries themselves take."""
SECONDS = 20.0
"""Wall-clock time of one file, the start of the process included; a process gets ten times as much processor time."""
_PROCESSES = 5
"""Processes that a caller's files may break before the rest is refused unread."""

_ASK, _ANSWER = struct.Struct("<QQ"), struct.Struct("<BQ")  # rows, bytes; width of a label (0: refused), bytes
_PASSED = ("LD_LIBRARY_PATH",)
_LONGEST = 2_000
_DIGEST = 64


class SealedReader:
    """Reads predictions files in a child process, which is replaced when a file breaks it.

    Args:
        memory: Bytes that decoding may take.
        seconds: Wall-clock time of one file.
    """

    def __init__(self, memory: int = MEMORY_BYTES, seconds: float = SECONDS) -> None:
        self._memory, self._seconds = memory, seconds
        self._started = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SealedReader:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        self._end()

    def read(self, data: bytes, origin: str, *, rows: int, rows_digest: str) -> StoredPredictions:
        """Return the predictions that a file holds.

        Args:
            data: The file's content.
            origin: What to call it in errors.
            rows: Rows of the test split.
            rows_digest: Digest of these rows.

        Raises:
            DamagedFile: When it is not of the exact schema, answers other rows, or needs more than the limits.
        """
        self.start()
        process = self._process
        if process is None:
            raise DamagedFile(f"{origin} is not read: {_PROCESSES} files before it broke the process that reads them")
        clock = threading.Timer(self._seconds, process.kill)
        clock.start()
        try:
            width, body = _ask(process, data, rows)
        except (OSError, EOFError):
            self._end()
            raise DamagedFile(
                f"{origin} cannot be read within {self._memory // 2**20} MiB of memory and {self._seconds:.0f} s; "
                "predictions are a few bytes a row"
            ) from None
        finally:
            clock.cancel()
        if width == 0:
            raise DamagedFile(f"{origin} {body.decode(errors='replace')}")
        label = np.frombuffer(body, f"<u{width}", rows)
        top = np.frombuffer(body, "<f2", rows, offset=rows * width)
        stored = StoredPredictions(label, top, body[-_DIGEST:].decode(errors="replace").strip())
        check_rows(stored.rows_digest, origin, rows_digest)
        return stored

    def start(self) -> None:
        """Start the child, where none is running: it loads its libraries while the caller does other things."""
        if self._process is not None or self._started == _PROCESSES:
            return
        self._started += 1
        # -P: a folder of a submission may be the working directory, and nothing in it is to be imported.
        command = [sys.executable, "-P", "-m", "leaderboard.sealed", str(self._memory), str(self._seconds)]
        paths = os.pathsep.join(path for path in sys.path if path)
        # No token of the caller's goes there, and threads or heaps of libraries take no address space.
        environment = {"PYTHONPATH": paths} | {name: os.environ[name] for name in _PASSED if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what could not be sent to it
                    if stream is not None:
                        stream.close()
            process.wait()


def _ask(process: subprocess.Popen[bytes], data: bytes, rows: int) -> tuple[int, bytes]:
    """Send a file and return the width of a label with the answer's bytes, or 0 with why it was refused."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(_ASK.pack(rows, len(data)) + data)
    process.stdin.flush()
    width, size = _ANSWER.unpack(_exactly(process.stdout, _ANSWER.size))
    most = _LONGEST if width == 0 else rows * (width + 2) + _DIGEST
    if width > 2 or size > most or (width and size != most):
        raise EOFError("no answer of ours")
    return width, _exactly(process.stdout, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) != size:
        raise EOFError("the process ended")
    return found


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer one file after the other, until there are no more."""
    while asked := source.read(_ASK.size):
        rows, size = _ASK.unpack(asked)
        width, body = _decoded(_exactly(source, size), rows)
        sink.write(_ANSWER.pack(width, len(body)) + body)
        sink.flush()


def _decoded(data: bytes, rows: int) -> tuple[int, bytes]:
    origin = "the file"
    try:
        stored = parse_predictions(io.BytesIO(data), origin, rows)
    except (DamagedFile, MemoryError) as error:
        short = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
        reason = "asks for more memory than predictions may take" if short else str(error).removeprefix(f"{origin} ")
        return 0, reason.encode(errors="replace")[:_LONGEST]
    width = stored.label.dtype.itemsize
    digest = stored.rows_digest.encode(errors="replace")[:_DIGEST].ljust(_DIGEST)
    return width, stored.label.astype(f"<u{width}").tobytes() + stored.top_probability.astype("<f2").tobytes() + digest


def _limit(memory: int, seconds: float) -> None:
    """Limit this process: libraries are loaded by now, so what is added is what decoding takes."""
    import resource

    # Memory that is in use is known only where the system tells; elsewhere the libraries' size is a guess.
    status = Path("/proc/self/statm")
    used = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 2**30
    for kind, most in (
        (resource.RLIMIT_AS, used + memory),
        (resource.RLIMIT_CPU, int(10 * seconds) + 1),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (most, most))


def _main() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.set_memory_pool(pa.system_memory_pool())  # others reserve address space in advance
    del pq
    _limit(int(sys.argv[1]), float(sys.argv[2]))
    _serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    _main()
