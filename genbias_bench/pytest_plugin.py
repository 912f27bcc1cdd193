"""The pytest plug-in: ``pytest --genbias-method NAME`` adds the contract suite of an adapter to a test run.

It is loaded in every test run of an environment that has genbias-bench, so it imports nothing until it is asked.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("genbias-bench").addoption(
        "--genbias-method",
        action="append",
        default=[],
        metavar="NAME",
        help="check this method against the contract, as `genbias-bench methods check` does; repeatable",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one test for each check of the methods asked for."""
    methods = config.getoption("--genbias-method")
    if not methods:
        return
    from benchmark.testing.checks import check_names

    for method in methods:
        items += [
            ContractItem.from_parent(session, name=f"{method}[{check}]", method=method, check=check)
            for check in check_names()
        ]


class ContractItem(pytest.Item):
    """One check of one method."""

    def __init__(self, *, method: str, check: str, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._method, self._check = method, check

    def runtest(self) -> None:
        """Hold the promise."""
        from benchmark.testing.contract import hold

        hold(self._method, self._check)

    def reportinfo(self) -> tuple[str, None, str]:
        """Say which check it is; there is no file."""
        return "genbias-bench", None, self.name
