"""The contract suite as pytest tests: one for each check of an adapter, all from one report."""

from __future__ import annotations

from typing import ClassVar

import pytest

from benchmark.testing.checks import check_names


def hold(method: str, name: str) -> None:
    """Fail, or skip, where one check of an adapter did not pass; the adapter is checked once in a process."""
    from benchmark.testing.suite import report_of

    check = report_of(method).by_name(name)
    if check.status == "failed":
        pytest.fail("\n".join((f"{check.name}: {check.promise}", *check.findings, check.advice)), pytrace=False)
    if check.status == "not checked":
        pytest.skip("; ".join(check.findings))


class MethodContract:
    """Base of a package's own test of its adapter.

    For example::

        class TestOurs(MethodContract):
            method = "our-package/our-method"
    """

    method: ClassVar[str]

    @pytest.mark.parametrize("check", check_names())
    def test_contract(self, check: str) -> None:
        """Hold one promise of the contract."""
        hold(self.method, check)
