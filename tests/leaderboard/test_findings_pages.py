"""The pages of the findings: the ledger's rule, what stands in the tables, what is written and what is compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.cli.leaderboard import app
from benchmark.contract.registry import load_method
from benchmark.errors import DamagedFile, UsageError
from leaderboard import blocks
from leaderboard.findings.arms import Arms, Place
from leaderboard.findings.bias import against_erm
from leaderboard.findings.cost import cost_tables
from leaderboard.findings.hypotheses import Hypothesis, RowSpec, read_hypotheses
from leaderboard.findings.ledger import Claim, ledger, paper_verdict, read_claims, verdict_here
from leaderboard.findings.markup import points, table, with_ends
from leaderboard.findings.questions import TWO_STEP, contrasts_table
from leaderboard.findings.verdicts import Outcome
from leaderboard.findings.write import FINDINGS_PAGE, HYPOTHESES_PAGE, write_findings
from leaderboard.groups import Scored
from leaderboard.load import Problems, find_records
from leaderboard.models import Estimate
from leaderboard.reading import read_runs
from leaderboard.remembered import Remembered
from leaderboard.verification import read_verifications

ROOT = Path(__file__).parents[2]
PLACE = Place("colorized-digits", "default", "0.95")


def outcome(verdict: str, *, primary: bool = True, new: bool = True) -> Outcome:
    asked = Hypothesis.model_validate(
        {
            "id": "H", "claim": "c", "kind": "difference", "task": "t", "level": "0.9", "seeds": "0-4",
            "first": {"method": "a"}, "second": {"method": "b"}, "expected": "less", "primary": primary, "new": new,
        }
    )  # fmt: skip
    return Outcome.model_validate(
        {
            "hypothesis": asked, "estimate": None, "p_value": None, "adjusted_p_value": None, "n": 0,
            "verdict": verdict, "remark": "",
        }
    )  # fmt: skip


@pytest.fixture
def row(maker):
    """Publish the seeds of a row of a method of ours, with its defaults."""

    def publish(method: str, conflicting: float, **keywords: Any) -> list[Path]:
        defaults = load_method(method).card.defaults("demo").model_dump(mode="json")
        return maker.row(method, conflicting, hparams=defaults, **keywords)

    return publish


def scored(maker) -> list[Scored]:
    problems = Problems()
    entries = read_verifications(maker.verification).by_digest()
    with Remembered(None) as memory:
        read = read_runs(find_records([maker.results]), entries, memory, problems)
    problems.raise_any()
    return read.scored


# --- blocks, tables, numbers -----------------------------------------------------------------------------------------


def test_only_the_block_of_that_name_is_replaced():
    page = "\n".join(["# T", blocks.framed("a", "old"), "between", blocks.framed("b", "kept"), ""])
    new = blocks.replace_block(page, "a", blocks.framed("a", "new\n\nlonger"), "page.md")
    assert new == page.replace("old", "new\n\nlonger")


@pytest.mark.parametrize("page", ["", "{start}", "{end}{start}", "{start}{end}{start}", "{start}{end}{end}"])
def test_a_page_without_one_pair_of_comments_is_refused(page):
    start, end = blocks.comments("a")
    with pytest.raises(DamagedFile, match=r"page\.md must hold .* once each, in this order"):
        blocks.replace_block(page.format(start=start, end=end), "a", "", "page.md")


def test_cells_are_not_padded_and_a_difference_of_nothing_has_no_sign():
    assert table(("a", "b"), [["1", "–"]]) == "| a | b |\n|---|---|\n| 1 | – |"
    assert [points(value) for value in (0.0123, -0.0123, 0.0004, -0.0004)] == ["+1.2", "-1.2", "0.0", "0.0"]
    assert with_ends(Estimate(value=0.1, low=-0.05, high=0.25), points) == "+10.0 [-5.0, +25.0]"
    assert with_ends(Estimate(value=None), points) == "–"


# --- the ledger ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["supported here", "supported here"], "supported here"),
        (["supported here", "not tested"], "supported here, 1 of 2"),
        (["not tested", "not tested"], "not tested"),
        (["not distinguishable"], "not distinguishable"),
        (["contradicted here", "not distinguishable"], "contradicted here, 1 of 2"),
        (
            ["supported here", "not distinguishable", "not tested"],
            "mixed: 1 supported here, 1 not distinguishable, 1 not tested",
        ),
        (["supported here", "contradicted here"], "mixed: 1 supported here, 1 contradicted here"),
    ],
)
def test_the_verdict_on_a_claim_follows_from_those_on_its_hypotheses(verdicts: Sequence[str], said: str):
    others = [outcome("contradicted here", primary=False), outcome("contradicted here", new=False)]
    assert verdict_here([outcome(verdict) for verdict in verdicts] + others) == said


def test_where_nothing_primary_is_new_the_rest_decides_and_is_said_to_be_seen():
    assert verdict_here([outcome("supported here", primary=False, new=False)]) == "supported here (seen)"


def test_a_papers_claim_is_not_tested_where_something_stands_in_for_its_generator():
    fields = {"id": "c", "claim": "It helps.", "ours": "this"}
    paper = fields | {"source": "A 2020", "theirs": "that", "differences": "all"}
    assert paper_verdict(Claim.model_validate(paper), "supported here") == "supported here"
    assert (
        paper_verdict(Claim.model_validate(paper | {"not_tested": "a small generator"}), "supported here")
        == "not tested"
    )
    assert paper_verdict(Claim.model_validate(fields | {"source": ""}), "supported here") == "–"
    with pytest.raises(ValueError, match="needs theirs and differences"):
        Claim.model_validate(fields | {"source": "A 2020"})


def test_the_ledger_holds_every_claim_once_with_its_setting():
    hypotheses = read_hypotheses()
    claims = read_claims(hypotheses)
    text = ledger(claims, [])
    for claim in claims:
        assert text.count(f"(`{claim.id}`)") == text.count(f"**`{claim.id}`**") == 1
    assert {each.claim for each in hypotheses.hypothesis} == {each.id for each in claims}


def test_a_claim_that_no_hypothesis_names_is_refused(tmp_path):
    source = (ROOT / "leaderboard" / "findings" / "claims.toml").read_text(encoding="utf-8")
    (tmp_path / "claims.toml").write_text(source.replace('id = "qraitem-order"', 'id = "nobody"'))
    with pytest.raises(DamagedFile, match="nobody, qraitem-order"):
        read_claims(read_hypotheses(), tmp_path / "claims.toml")


# --- tables ----------------------------------------------------------------------------------------------------------


def test_rows_are_compared_on_the_seeds_that_both_have(maker, row):
    row("ffr", 0.7, seeds=7)
    row("sd-augment", 0.5)
    text = contrasts_table(TWO_STEP, Arms(scored(maker)))
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert cells[:2] == ["`colorized-digits`", "0.95"]
    assert cells[2].startswith("+2")
    assert cells[2].endswith("] (5)")
    assert cells[3:] == ["–"] * 3


def test_every_row_stands_beside_plain_training(maker, row):
    row("erm", 0.5)
    row("ffr", 0.8)
    row("placebo", 0.2)
    found = against_erm(PLACE, Arms(scored(maker)))
    assert [(each.arm.row, each.bias) for each in found] == [
        (RowSpec(method="ffr"), "less"),
        (RowSpec(method="placebo"), "more"),
    ]
    change = found[0].change
    assert change["acc_conflicting"].value == pytest.approx(0.3, abs=0.02)
    assert change["gap"].value == pytest.approx(-change["acc_conflicting"].value)
    assert change["acc_aligned"].value == 0
    assert change["bias_retained"].high < 0


def test_costs_tell_runs_that_made_their_images_from_those_that_found_them(maker, made):
    def took(seconds: float, wall: float) -> Any:
        def change(content: dict[str, Any]) -> None:
            content["pools"] = [made.pool(990, seconds=seconds)]
            spent = {"generator_seconds": seconds + 2 * (seconds > 1), "wall_seconds": wall}
            content["cost"] = content["cost"] | spent

        return change

    maker.run("ffr", 0, change=took(40.0, 100.0))
    maker.run("ffr", 1, change=took(0.1, 50.0))
    maker.run("erm", 0)
    lines = cost_tables(scored(maker)).splitlines()
    assert lines[0] == "**`colorized-digits`.** 3 runs, 0.0 h of wall time in all, on a processor, 1 thread."
    assert lines[-2] == "| `erm` | 1 | 10 | 0.0 | 0.0 | 0.0 | 12 | 0.00 | – | – |"
    assert lines[-1].startswith("| `ffr`")
    assert lines[-1].endswith("| 2 | 10 | 1.0 | 20 | 0.0 | 75 | 0.04 | 100 (1) | 50 (1) |")


# --- the command -----------------------------------------------------------------------------------------------------


def test_what_was_written_is_what_the_records_give_until_it_is_changed(maker, row, tmp_path):
    row("erm", 0.5)
    row("ffr", 0.8)
    row("sd-augment", 0.6, verified=None)
    docs = tmp_path / "docs"
    done = write_findings([maker.results], docs, verification=maker.verification)
    assert {file.name for file in done.files} == {
        FINDINGS_PAGE, HYPOTHESES_PAGE, "levels-colorized-digits.svg",
    }  # fmt: skip
    page = (docs / FINDINGS_PAGE).read_text(encoding="utf-8")
    assert "15 runs: 15 of `colorized-digits`. **A draft: nobody has verified all of them (5 self-reported).**" in page
    assert "![" in page
    assert "(figures/levels-colorized-digits.svg)" in page

    def check() -> list[str]:
        found = write_findings([maker.results], docs, check=True, verification=maker.verification)
        return [file.name for file in found.files]

    assert check() == []
    (docs / FINDINGS_PAGE).write_text(page.replace("# Findings", "# Findings\n\nIn words."), encoding="utf-8")
    assert check() == []
    (docs / FINDINGS_PAGE).write_text(page.replace("15 runs", "16 runs"), encoding="utf-8")
    shutil.rmtree(docs / "figures")
    assert check() == [FINDINGS_PAGE, "levels-colorized-digits.svg"]


def test_figures_are_the_same_every_time_and_lie_on_white(maker, row, tmp_path):
    row("erm", 0.5)
    row("ffr", 0.8, level="0.9")
    drawn = [
        write_findings([maker.results], tmp_path / name, verification=maker.verification).findings.figures
        for name in "ab"
    ]
    assert drawn[0] == drawn[1]
    (svg,) = drawn[0].values()
    assert b"fill: #ffffff" in svg
    assert (tmp_path / "a" / "figures" / "levels-colorized-digits.svg").read_bytes() == svg


def test_of_the_accepted_records_only_those_that_maintainers_stand_behind_count(maker, row, tmp_path, monkeypatch):
    row("erm", 0.5)
    row("ffr", 0.8, verified="recomputed")
    root = tmp_path / "clone"
    (root / "leaderboard").mkdir(parents=True)
    maker.results.rename(root / "leaderboard" / "results")
    shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("figures"))
    monkeypatch.setattr("leaderboard.findings.write.checkout", lambda missing: root)
    entries = maker.results.parent / "verification.json"
    entries.write_text(json.dumps({"format_version": 1, "release": 1, "entries": maker.entries}))
    done = write_findings(verification=entries)
    assert done.findings.blocks["runs"] == "5 runs: 5 of `colorized-digits`."
    assert (root / "docs" / FINDINGS_PAGE) in done.files


def test_the_command_says_what_differs_and_exits_with_1(maker, row, tmp_path):
    row("erm", 0.5)
    arguments = ["findings", str(maker.results), "--docs", str(tmp_path / "docs")]
    written = CliRunner().invoke(app, [*arguments, "--json"])
    assert written.exit_code == 0, written.output
    assert "5 of the runs nobody has verified" in written.stderr
    outcomes = json.loads(written.stdout)
    assert {each["verdict"] for each in outcomes} == {"not tested"}
    assert len(outcomes) == len(read_hypotheses().hypothesis)
    assert CliRunner().invoke(app, [*arguments, "--check"]).exit_code == 0
    (tmp_path / "docs" / "figures" / "levels-colorized-digits.svg").unlink()
    checked = CliRunner().invoke(app, [*arguments, "--check"])
    assert isinstance(checked.exception, DamagedFile)
    assert "levels-colorized-digits.svg" in str(checked.exception)


def test_records_of_ones_own_need_a_folder_of_ones_own(tmp_path):
    refused = CliRunner().invoke(app, ["findings", str(tmp_path)])
    assert isinstance(refused.exception, UsageError)
    with pytest.raises(UsageError, match="docs/ itself is made from leaderboard/results only"):
        write_findings([tmp_path])


@pytest.mark.slow
def test_the_committed_pages_hold_what_the_accepted_records_give():
    assert write_findings(check=True).files == []
