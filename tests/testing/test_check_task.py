"""`tasks check`: a sound task passes, each fault is found, and absent data are said to be absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import benchmark.testing.tasks
from benchmark.cli import tasks as cli
from benchmark.tasks.card import DataCard, cards_folder, parse_card
from benchmark.tasks.manifest import Listing, Rows
from benchmark.tasks.task import Task
from benchmark.testing.tasks import check_task

PER_GROUP = 60


class Spots(Task):
    """Four groups of images that are computed."""

    def list_samples(self) -> Listing:
        groups = np.repeat(np.array([(y, a) for y in range(2) for a in range(2)]), PER_GROUP, axis=0)
        return Listing(tuple(f"spot-{k:03d}" for k in range(len(groups))), groups[:, 0], groups[:, 1])

    def render(self, rows: Rows) -> NDArray[np.uint8]:
        size = self.card.task.pixels.size
        images = np.zeros((len(rows), size, size, 3), dtype=np.uint8)
        images[:, :4] = (40 * rows.y + 90 * rows.a + 50)[:, None, None, None]
        return images


class Restless(Spots):
    calls = 0

    def list_samples(self) -> Listing:
        Restless.calls += 1
        found = super().list_samples()
        return Listing(tuple(f"{name}-{Restless.calls}" for name in found.ids), found.y, found.a)


class Blank(Spots):
    def render(self, rows: Rows) -> NDArray[np.uint8]:
        return np.zeros_like(super().render(rows))


class Small(Spots):
    def render(self, rows: Rows) -> NDArray[np.uint8]:
        return super().render(rows)[:, :16]


class Flickering(Spots):
    def render(self, rows: Rows) -> NDArray[np.uint8]:
        images = super().render(rows)
        images[:, 10:] = np.random.default_rng().integers(0, 255, images[:, 10:].shape)
        return images


def card_of(old: str = "", new: str = "") -> DataCard:
    text = (Path(__file__).parent / "plug_in" / "src" / "their_bench" / "spots.md").read_text()
    assert old in text
    return parse_card(text.replace(old, new) if old else text, "spots.md")


def failed_checks(
    monkeypatch: pytest.MonkeyPatch, source: type[Task], card: DataCard | None = None
) -> dict[str, tuple[str, ...]]:
    card = card or card_of()
    monkeypatch.setattr(benchmark.testing.tasks, "find_card", lambda _: card)
    task = source(card)
    monkeypatch.setattr(benchmark.testing.tasks, "load_task", lambda _: task)
    return {check.name: check.findings for check in check_task("spots").failed}


def test_the_embedded_task_passes_every_check() -> None:
    report = check_task("colorized-digits")
    assert report.passed, report.markdown()
    assert {check.status for check in report.checks} == {"passed"}


def test_data_that_are_not_here_leave_the_rest_to_be_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path))
    monkeypatch.delenv("GENBIAS_DATA", raising=False)
    report = check_task("cifar20-100")
    assert report.passed, report.markdown()
    unchecked = {check.name: check.findings for check in report.checks if check.status == "not checked"}
    assert set(unchecked) == {"listing", "levels", "split-law", "order", "groups", "digests", "images"}
    assert set(unchecked.values()) == {("the data are not here; `genbias-bench data fetch cifar20-100` gets them",)}


def test_the_command_writes_a_report_and_exits_by_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["check", "colorized-digits", "--report", str(tmp_path / "report.md")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report.md").read_text().startswith("# Passed: colorized-digits@1 (genbias-bench)")


@pytest.mark.parametrize(
    ("source", "check", "finding"),
    [
        (Restless, "listing", "two listings differ in `ids`"),
        (Blank, "images", "has one colour only"),
        (Small, "images", r"is uint8 [16, 32, 3], not uint8 [32, 32, 3]"),
        (Flickering, "images", "decoding the same image twice gives other pixels"),
    ],
)
def test_a_faulty_source_is_found(
    monkeypatch: pytest.MonkeyPatch, source: type[Task], check: str, finding: str
) -> None:
    found = failed_checks(monkeypatch, source)
    assert finding in " ".join(found[check])
    assert set(found) <= {check, "groups", "digests"}


@pytest.mark.parametrize(
    ("old", "new", "check", "finding"),
    [
        ("pretty_name: Spots\n", "", "card", "the front matter has no `pretty_name`"),
        ("## Known problems", "## Anything", "card", "no section on known problems"),
        ('"a {y} spot on {a} ground"', '"a {y} spot"', "card", "two groups of class 'dark' have one prompt"),
        ('terms: "CC0."', 'terms: " "', "licence", "`terms` says nothing"),
        ("faces: false", "faces: true", "licence", "photographs of people need `terms_accept: true`"),
        (", licence: CC0", "", "licence", "source 'spots.py' has no licence"),
        ("train: 66", "train: 67", "groups", "the card expects"),
    ],
)
def test_a_faulty_card_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str, check: str, finding: str) -> None:
    found = failed_checks(monkeypatch, Spots, card_of(old, new))
    assert finding in " ".join(found[check])


def test_an_order_that_tells_the_groups_is_found() -> None:
    y = np.zeros(200, dtype=np.int64)
    first, mixed = np.arange(200) < 40, np.random.default_rng(0).permutation(200) < 40
    assert benchmark.testing.tasks._place_score(y, first) < -9
    assert abs(benchmark.testing.tasks._place_score(y, mixed)) < 3


def test_every_card_of_ours_passes_what_needs_no_data() -> None:
    from benchmark.tasks.card import load_card

    for name in sorted(p.stem for p in cards_folder().glob("*.md") if p.stem != "README"):
        case = benchmark.testing.tasks._Case(load_card(name))
        assert benchmark.testing.tasks._card(case) + benchmark.testing.tasks._licence(case) == [], name
