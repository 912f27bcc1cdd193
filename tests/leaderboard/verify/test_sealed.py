"""Predictions files of strangers are decoded in a child process with limits, and what they ask for stays there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import DamagedFile
from benchmark.records.predictions import write_predictions
from leaderboard.sealed import SealedReader

DIGEST = "ab" * 32
ROWS = 3590
HUGE = 20_000_000
MEMORY = 64 * 2**20
METADATA = {"genbias.rows_digest": DIGEST, "genbias.format": "1"}

# A page of zeros needs four bytes for each label, and compresses to next to nothing.
WRITE = f"""
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
columns = {{"label": np.zeros({HUGE}, np.uint8), "top_probability": np.zeros({HUGE}, np.float16)}}
table = pa.table(columns).replace_schema_metadata({METADATA!r})
pq.write_table(table, sys.argv[1], compression="zstd", use_dictionary=sys.argv[2] == "dictionary",
               data_page_size=2**30, row_group_size={HUGE}, write_batch_size={HUGE}, max_rows_per_page={HUGE},
               write_statistics=False, store_schema=True)
"""
READ = f"""
import json, resource, sys
from pathlib import Path
from benchmark.errors import DamagedFile
from leaderboard.sealed import SealedReader
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with SealedReader(memory={MEMORY}) as reader:
    try:
        reader.read(data, "the bomb", rows=int(sys.argv[2]), rows_digest={DIGEST!r})
        reason = ""
    except DamagedFile as error:
        reason = str(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({{"reason": reason, "grown_kib": grown, "child_kib": child}}))
"""


def run(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True).stdout


def varint(number, length=None):
    """Encode a number as Thrift does, in more bytes than it needs where a length is asked for."""
    zigzag, parts = number * 2, []
    while zigzag or not parts or (length and len(parts) < length):
        parts.append(zigzag & 0x7F)
        zigzag >>= 7
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """Files that hold twenty million rows: as a few runs of one value, and as pages that say that they hold few."""
    folder = tmp_path_factory.mktemp("bombs")
    runs, pages = folder / "runs.parquet", folder / "pages.parquet"
    run(WRITE, str(runs), "dictionary")
    run(WRITE, str(pages), "plain")
    honest = varint(HUGE)
    lying = pages.read_bytes().replace(honest, varint(ROWS, len(honest)))
    (folder / "lying.parquet").write_bytes(lying)
    return folder


@pytest.fixture(scope="module")
def reader():
    with SealedReader() as opened:
        yield opened


def parquet(columns=None, metadata=None, **options):
    table = pa.table(
        columns or {"label": np.zeros(5, np.uint8), "top_probability": np.full(5, 0.5, np.float16)}
    ).replace_schema_metadata(METADATA if metadata is None else metadata)
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def with_columns(**columns):
    honest = {"label": np.zeros(5, np.uint8), "top_probability": np.full(5, 0.5, np.float16)}
    return parquet(honest | columns)


def test_what_the_child_reads_is_what_was_written(reader, stored_like, tmp_path):
    stored = stored_like(ROWS)
    label = np.arange(ROWS) % 300
    for classes, kind in ((10, np.uint8), (300, np.uint16)):
        answers = replace(stored, label=(label % classes).astype(kind))
        write_predictions(tmp_path / "p", answers, classes)
        found = reader.read((tmp_path / "p").read_bytes(), "p", rows=ROWS, rows_digest=DIGEST)
        assert found.label.dtype == kind
        assert np.array_equal(found.label, answers.label)
        assert np.array_equal(found.top_probability, answers.top_probability)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read as Parquet"),
        (b"PAR1" + bytes(100) + b"PAR1", "cannot be read as Parquet"),
        (b"\x80\x04\x95" + bytes(100), "cannot be read as Parquet"),
        (parquet()[:-20], "cannot be read as Parquet"),
        (b"PAR2" + parquet()[4:-4] + b"PAR2", "cannot be read as Parquet"),
        (with_columns(extra=np.zeros(5)), r"expected label \(uint8 or uint16\) and top_probability"),
        (with_columns(label=pa.array([[0]] * 5, pa.list_(pa.uint8()))), "expected label"),
        (with_columns(label=pa.array([{"label": 0}] * 5)), "expected label"),
        (with_columns(label=np.zeros(5, np.int64)), "expected label"),
        (with_columns(label=pa.array(["0"] * 5)), "expected label"),
        (with_columns(label=pa.array(["0"] * 5).dictionary_encode()), "expected label"),
        (with_columns(top_probability=np.zeros(5)), "expected label"),
        (with_columns(label=pa.array([None] * 5, pa.uint8())), "has missing answers"),
        (with_columns(top_probability=np.full(5, np.nan, np.float16)), "has top probabilities outside of 0 to 1"),
        (with_columns(top_probability=np.full(5, np.inf, np.float16)), "has top probabilities outside of 0 to 1"),
        (with_columns(top_probability=np.full(5, 1.5, np.float16)), "has top probabilities outside of 0 to 1"),
        (with_columns(top_probability=np.full(5, -0.5, np.float16)), "has top probabilities outside of 0 to 1"),
        (parquet({"label": np.zeros(6, np.uint8), "top_probability": np.zeros(6, np.float16)}), "holds 6 rows, the"),
        (parquet(metadata=METADATA | {"genbias.rows_digest": "cd" * 32}), "answers other test rows"),
        (parquet(metadata=METADATA | {"genbias.format": "9"}), "does not say format 1"),
        (parquet().replace(varint(5), varint(4)), "cannot be read|holds .* rows"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_exact_form_is_refused_with_a_reason(reader, data, reason):
    with pytest.raises(DamagedFile, match=rf"^acme\.parquet .*{reason}"):
        reader.read(data, "acme.parquet", rows=5, rows_digest=DIGEST)


def test_a_dictionary_of_few_rows_is_no_harm(reader):
    found = reader.read(parquet(use_dictionary=True), "p", rows=5, rows_digest=DIGEST)
    assert found.label.tolist() == [0] * 5


def test_a_small_file_of_many_rows_is_refused_unread(reader, bombs):
    data = (bombs / "runs.parquet").read_bytes()
    assert len(data) < 2_000
    start = time.perf_counter()
    with pytest.raises(DamagedFile, match="holds 20000000 rows, the test split has 3590"):
        reader.read(data, "the bomb", rows=ROWS, rows_digest=DIGEST)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(("name", "rows"), [("runs", HUGE), ("lying", ROWS)])
def test_what_a_bomb_asks_for_is_refused_in_the_child_and_never_reaches_the_parent(bombs, name, rows):
    bomb = bombs / f"{name}.parquet"
    assert bomb.stat().st_size < 64_000
    found = json.loads(run(READ, str(bomb), str(rows)))
    assert found["reason"] == "the bomb asks for more memory than predictions may take"
    assert found["grown_kib"] < 20_000
    assert found["child_kib"] < 400_000


def test_a_child_that_takes_too_long_is_ended_and_after_a_few_nothing_is_read():
    with SealedReader(seconds=0.001) as reader:
        for _ in range(5):
            with pytest.raises(DamagedFile, match="p cannot be read within 256 MiB of memory and 0 s"):
                reader.read(parquet(), "p", rows=5, rows_digest=DIGEST)
        with pytest.raises(DamagedFile, match="p is not read: 5 files before it broke the process that reads them"):
            reader.read(parquet(), "p", rows=5, rows_digest=DIGEST)


def test_nothing_in_the_working_directory_is_imported_by_the_child(tmp_path, monkeypatch):
    for name in ("numpy", "pyarrow", "leaderboard"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    with SealedReader() as reader:
        reader.read(parquet(), "p", rows=5, rows_digest=DIGEST)
    assert not Path("ran").exists()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="the system does not tell limits")
def test_the_child_gets_no_secrets_and_its_limits(reader, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with SealedReader() as opened:
        opened.read(parquet(), "p", rows=5, rows_digest=DIGEST)
        child = next(pid for pid in _children() if b"leaderboard.sealed" in Path(f"/proc/{pid}/cmdline").read_bytes())
        environment = Path(f"/proc/{child}/environ").read_bytes()
        limits = Path(f"/proc/{child}/limits").read_text()
    assert b"hf_secret" not in environment
    rows = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()[1:]}
    assert (rows["Max core file size"], rows["Max file size"]) == ("0", "0")
    assert rows["Max address space"].isdigit()
    assert rows["Max cpu time"].isdigit()


def _children():
    """Return this process's children, the youngest first."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sorted(pids, key=int, reverse=True)
