"""Time and memory of `verify` on a record with 100,000 test images.

The record is an accepted one of colorized-mnist, held against the rest of the board. Bands of calibration errors are
not resampled at this size (`--intervals` does it). Bounds are for two free cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "tests" / "leaderboard"))
from whole_runs import whole_run

ACCEPTED = Path(__file__).parents[1] / "leaderboard" / "results" / "colorized-mnist" / "erm"
BOUND_S = 2.0


def run(folder: Path, store: Path) -> dict[str, Any]:
    """Verify in a process of its own, whose time and memory are only what that needs."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], check=True, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GENBIAS_STORE": str(store)},
    ).stdout  # fmt: skip
    return json.loads(done) | {"process_s": time.perf_counter() - start}


@pytest.mark.skipif("GENBIAS_DATA" not in os.environ, reason="GENBIAS_DATA names no folder with MNIST")
def test_a_record_of_a_hundred_thousand_predictions(benchmark: Any, tmp_path: Path) -> None:
    """First with nothing remembered; then, the fastest of three, with the split and the board of earlier builds."""
    accepted = sorted(ACCEPTED.iterdir())[0]
    folder = whole_run(accepted, tmp_path / accepted.name)
    found: dict[str, dict[str, Any]] = {}

    def measure() -> None:
        found["first"] = run(folder, tmp_path)
        # Other processes may share the machine, so the fastest counts.
        found["later"] = min((run(folder, tmp_path) for _ in range(3)), key=lambda each: each["verify_s"])

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info.update(found)
    sys.stderr.write(json.dumps(found, indent=1) + "\n")
    assert found["later"]["ok"]
    assert found["later"]["rows"] == 100_000
    assert found["later"]["verify_s"] <= BOUND_S


def report(folder: Path) -> dict[str, Any]:
    """Verify here and say what it took."""
    start = time.perf_counter()
    from benchmark.records.provenance import peak_memory_bytes
    from benchmark.records.results import read_record
    from leaderboard.verify import verify

    imported = time.perf_counter()
    found = verify(folder)
    return {
        "import_s": imported - start,
        "verify_s": time.perf_counter() - imported,
        "cpu_s": time.process_time(),
        "peak_mib": (peak_memory_bytes() or 0) / 2**20,
        "ok": found.ok,
        "rows": read_record(folder).task.test_rows,
        "files": len({c.predictions.file for stage in read_record(folder).stages for c in stage.checkpoints}),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report(Path(sys.argv[1]))) + "\n")
