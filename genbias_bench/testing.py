"""Public: the contract suite for the tests of packages that bring adapters; needs pytest."""

from __future__ import annotations

from benchmark.testing.contract import MethodContract

__all__ = ["MethodContract"]
