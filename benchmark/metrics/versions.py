"""Numbers of other metric versions: older ones are computed again from the predictions, newer ones are not understood.

Called by whoever reads the metrics of a record: the board, `score` and `replay`.
"""

from __future__ import annotations

from benchmark.errors import DamagedFile, NewerSchema
from benchmark.metrics.registry import METRICS_VERSION


def is_older(version: int, origin: str) -> bool:
    """Return whether a record's numbers are those of an older version, so that they are not to be compared with ours.

    Args:
        version: The record's ``metrics_version``.
        origin: What to call the record in errors.

    Raises:
        NewerSchema: For a version that this release does not know yet.
        DamagedFile: For one that never was.
    """
    if version > METRICS_VERSION:
        raise NewerSchema(
            f"{origin} has metrics version {version}; this version computes {METRICS_VERSION}: update genbias-bench"
        )
    if version < 1:
        raise DamagedFile(f"{origin} has metrics version {version}, which never was released")
    return version < METRICS_VERSION


def rescored(version: int) -> str:
    """Say that what is shown of records of an older version was computed by this one."""
    return f"recorded by metrics version {version}, scored again by metrics version {METRICS_VERSION}"
