"""The contract suite bites: each wrong adapter is caught by the check that is there for it, and by no other."""

from __future__ import annotations

import re

import pytest

from benchmark.testing.checks import check_names
from benchmark.testing.report import Report
from benchmark.testing.suite import check_method, check_methods

WHOLE = [
    ("unseeded", {"same-seed"}, "two runs with seed 0"),
    ("one-seed", {"other-seed"}, "seeds 0 and 5 give the same weights"),
    ("reads-private", {"groups"}, "group labels that track 'none' may not read"),
    ("knows-places", {"groups"}, "by their place in the frozen split"),
    ("reads-test-split", {"data"}, "line 18: opens .*digits.csv.gz, which holds the test split"),
    ("asks-the-task", {"data"}, "line 15: opens .*digits.csv.gz"),
    ("too-few-steps", {"budgets"}, "spends 6 optimiser steps; every method of a task spends 12"),
    ("own-steps", {"budgets"}, "takes 13 optimiser steps in a loop of its own"),
    ("nan-logits", {"answers"}, "not finite"),
    ("seven-classes", {"answers"}, r"shape \[32, 7\], not \[32, 10\]"),
    ("looks-aside", {"answers"}, "differently when others stand beside it"),
    ("sets-seed", {"state"}, "line 1.: changes the global random state of torch"),
    ("sets-defaults", {"state"}, "torch's default dtype from torch.float32 to torch.float64"),
    ("leaves-file", {"files"}, "best_model.txt behind"),
    ("leaves-process", {"state"}, "leaves sleep running"),
    ("asks-network", {"offline"}, "line 1.: asks for the network"),
    ("keeps-progress", {"resumes"}, "a killed and resumed run differs"),
    ("changes-weights", {"inputs"}, "changes the weights of a classifier"),
    ("changes-images", {"inputs"}, "changes the images"),
    ("silent-card", {"card"}, "'strength' has no description"),
    ("uses-internals", {"imports"}, "which is internal"),
]
"""Adapters whose `fit` comes to its end: only watching or comparing runs shows what is wrong."""

ENDED = [
    ("reads-attribute", {"groups"}, "line 1.: UndeclaredGroupLabels"),
    ("asks-auditor", {"auditors"}, "line 1.: OracleUse"),
    ("too-many-steps", {"budgets"}, "line 1.: BudgetExceeded"),
    ("too-many-images", {"budgets"}, "line 1.: BudgetExceeded"),
    ("wrong-stage", {"stages"}, "yields stage 'fake'"),
    ("no-stage", {"stages"}, "yields 0 stages"),
    ("returns-nothing", {"stages"}, "fit returns a NoneType"),
    ("raises", {"runs"}, "line 1.: ValueError: the moon is in the wrong phase"),
    ("exits", {"runs"}, "exit code 3 and no exception"),
    ("crashes", {"runs"}, "exit code -11 and no exception, .*line 1."),
    ("needs-extra-late", {"imports"}, "line 1.: imports a_package_that_nobody_has, which is not installed"),
]
"""Adapters whose `fit` does not."""

UNLOADED = [
    ("needs-extra", {"imports"}, "wrong_needs_extra.py, line 3: ModuleNotFoundError: No module named 'a_pack"),
    ("syntax", {"card"}, "wrong_syntax.py, line 3: SyntaxError"),
]
"""Adapters that cannot even be loaded."""


def hold(report: Report, checks: set[str], finding: str) -> None:
    assert tuple(check.name for check in report.checks) == check_names()
    assert {check.name for check in report.failed} == checks, report.markdown()
    assert all(check.advice for check in report.failed)
    assert not report.passed
    assert re.search(finding, report.markdown()), report.markdown()


@pytest.fixture(scope="module")
def reports(wrong_methods: str) -> dict[str, Report]:
    """Check all that neither hang nor fail to load, in one go."""
    names = [name for name, *_ in (*WHOLE, *ENDED)]
    found = check_methods([f"{wrong_methods}/{name}" for name in names])
    return dict(zip(names, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checks", "finding"), [*WHOLE, *ENDED], ids=[name for name, *_ in (*WHOLE, *ENDED)])
def test_a_wrong_adapter_is_caught_for_its_own_reason(
    reports: dict[str, Report], name: str, checks: set[str], finding: str
) -> None:
    hold(reports[name], checks, finding)


@pytest.mark.slow
def test_an_adapter_that_hangs_is_ended_and_its_line_named(wrong_methods: str) -> None:
    report = check_method(f"{wrong_methods}/hangs", limit=4.0)
    hold(report, {"time"}, "ended after 4 s, at .*wrong_hangs.py, line 1.")


@pytest.mark.parametrize(("name", "checks", "finding"), UNLOADED)
def test_an_adapter_that_cannot_be_loaded_is_told_with_file_and_line(
    wrong_methods: str, name: str, checks: set[str], finding: str
) -> None:
    hold(check_method(f"{wrong_methods}/{name}"), checks, finding)
