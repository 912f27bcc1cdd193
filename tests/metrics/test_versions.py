"""Which metric versions are scored again, and which are refused."""

from __future__ import annotations

import pytest

from benchmark.errors import DamagedFile, NewerSchema
from benchmark.metrics import versions
from benchmark.metrics.registry import METRICS_VERSION
from benchmark.metrics.versions import is_older


def test_numbers_of_this_version_are_compared_and_older_ones_are_not(monkeypatch):
    assert not is_older(METRICS_VERSION, "r")
    monkeypatch.setattr(versions, "METRICS_VERSION", METRICS_VERSION + 1)
    assert is_older(METRICS_VERSION, "r")


def test_a_newer_version_is_refused_with_what_to_do():
    with pytest.raises(NewerSchema, match=rf"r has metrics version {METRICS_VERSION + 1}; .* update genbias-bench"):
        is_older(METRICS_VERSION + 1, "r")


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_never_was_is_refused(version):
    with pytest.raises(DamagedFile, match=rf"r has metrics version {version}, which never was released"):
        is_older(version, "r")
