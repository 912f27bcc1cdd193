"""Hypotheses are tested as docs/hypotheses.md says: by which runs, with which sign, in which family."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress, spearmanr, ttest_1samp, ttest_ind

from benchmark.contract.registry import load_method
from benchmark.errors import DamagedFile
from benchmark.records.results import read_record, record_files
from benchmark.records.schema import GroupAudit, PoolUse, Record
from leaderboard.findings.arms import Arms
from leaderboard.findings.hypotheses import Hypothesis, hypotheses_table, read_hypotheses
from leaderboard.findings.quantities import CONFLICTING, Runs, aligned_share
from leaderboard.findings.verdicts import Outcome, judge_hypotheses, verdict_of
from leaderboard.load import Problems, find_records
from leaderboard.reading import read_runs
from leaderboard.remembered import Remembered
from leaderboard.verification import read_verifications

ROOT = Path(__file__).parents[2]
ACCEPTED = ROOT / "leaderboard" / "results" / "colorized-digits"
SEEDS = tuple(range(5))


def hypothesis(name: str = "H", **fields: Any) -> Hypothesis:
    """Return a difference of two rows, or what the fields make of it."""
    content: dict[str, Any] = {
        "id": name, "claim": "claim", "kind": "difference", "task": "colorized-digits", "level": "0.95",
        "seeds": "0-4", "first": {"method": "ffr"}, "second": {"method": "sd-augment"}, "expected": "greater",
        "primary": True, "new": True,
    }  # fmt: skip
    return Hypothesis.model_validate(content | fields)


@functools.cache
def defaults(method: str) -> dict[str, Any]:
    return load_method(method).card.defaults("demo").model_dump(mode="json")


@pytest.fixture
def row(maker) -> Callable[..., list[Path]]:
    """Publish the seeds of a row of a method of ours, with its defaults but for ``changed``."""

    def publish(method: str, conflicting: float, changed: dict[str, Any] | None = None, **keywords: Any) -> list[Path]:
        return maker.row(method, conflicting, hparams=defaults(method) | (changed or {}), **keywords)

    return publish


@pytest.fixture
def judged(maker) -> Callable[..., list[Outcome]]:
    """Judge hypotheses on what was published."""

    def judge(*hypotheses: Hypothesis, folders: list[Path] | None = None) -> list[Outcome]:
        problems, verified = Problems(), maker.verification if folders is None else None
        entries = read_verifications(verified) if verified else read_verifications()
        with Remembered(None) as memory:
            read = read_runs(find_records(folders or [maker.results]), entries.by_digest(), memory, problems)
            problems.raise_any()
            return judge_hypotheses(hypotheses, Runs(read.scored, Arms(read.scored), memory))

    return judge


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_table_of_the_page_is_made_from_the_file():
    page = (ROOT / "docs" / "hypotheses.md").read_text(encoding="utf-8")
    assert f"-->\n{hypotheses_table(read_hypotheses())}\n<!--" in page


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ('kind = "slope"', "needs metric"),
        ('kind = "guess"', "Input should be"),
        ('seeds = "five"', "valid tuple"),
        ('surprise = "x"', "Extra inputs"),
    ],
)
def test_a_hypothesis_that_says_too_little_or_too_much_is_refused(tmp_path, changed, said):
    lines = {
        "id": '"X"', "claim": '"c"', "kind": '"difference"', "task": '"t"', "level": '"0.9"', "seeds": '"0-4"',
        "first": '{ method = "a" }', "second": '{ method = "b" }', "expected": '"less"', "primary": "true",
        "new": "true",
    }  # fmt: skip
    name, _, value = changed.partition(" = ")
    lines[name] = value
    body = "\n".join(f"{key} = {text}" for key, text in lines.items())
    (tmp_path / "h.toml").write_text(f"format_version = 1\nwritten_at_release = 1\n\n[[hypothesis]]\n{body}\n")
    with pytest.raises(DamagedFile, match=said):
        read_hypotheses(tmp_path / "h.toml")


# --- differences, families and verdicts ------------------------------------------------------------------------------


def test_a_difference_has_the_sign_of_the_claim_the_other_one_or_none(row, judged):
    row("ffr", 0.7)
    row("sd-augment", 0.5)
    row("lora", 0.5)
    same = {"first": {"method": "lora"}, "second": {"method": "sd-augment"}}
    found = judged(hypothesis("A"), hypothesis("B", expected="less"), hypothesis("C", **same))
    assert [each.verdict for each in found] == ["supported here", "contradicted here", "not distinguishable"]
    estimate = found[0].estimate
    assert estimate.value == pytest.approx(0.2, abs=0.02)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.low > 0


def test_only_the_seeds_that_are_named_count(row, judged):
    row("ffr", 0.7)
    row("ffr", 0.4, seeds=(5, 6, 7, 8, 9))
    row("sd-augment", 0.5, seeds=10)
    early, late = judged(hypothesis("A"), hypothesis("B", seeds="5-9"))
    assert (early.verdict, late.verdict) == ("supported here", "contradicted here")
    assert (early.n, late.n) == (5, 5)


def test_settings_make_another_row_and_a_tuned_one_is_no_default(row, judged, made):
    row("ffr", 0.7)
    row("ffr", 0.3, {"order": "reversed"}, configuration="changed")
    row("sd-augment", 0.5, **made.tuned)
    reverse = {"second": {"method": "ffr", "set": {"order": "reversed"}}}
    found = judged(hypothesis("A", **reverse), hypothesis("B"))
    assert found[0].estimate.value == pytest.approx(0.4, abs=0.02)
    assert found[1].verdict == "not tested"
    assert found[1].remark == "missing: `sd-augment` seeds 0–4"


def test_what_is_missing_is_named_and_counts_as_p_1_in_the_family_of_its_task(row, judged):
    row("ffr", 0.54)
    row("sd-augment", 0.5)
    row("lora", 0.5, seeds=4)
    missing = hypothesis("C", first={"method": "lora"})
    seen = hypothesis("S", primary=False, new=False)
    elsewhere = hypothesis("M", task="colorized-mnist")
    alone, *_ = judged(hypothesis("A"))
    family = judged(hypothesis("A"), missing, hypothesis("D", first={"method": "dreambooth"}), seen, elsewhere)
    assert alone.adjusted_p_value == alone.p_value == family[0].p_value
    assert family[0].adjusted_p_value == pytest.approx(3 * alone.p_value)
    assert (family[1].verdict, family[1].remark) == ("not tested", "missing: `lora` seed 4")
    assert family[3].adjusted_p_value is None
    assert family[3].p_value == alone.p_value
    assert family[4].verdict == "not tested"


@pytest.mark.parametrize(
    ("expected", "value", "p", "verdict"),
    [
        ("greater", 1.0, 0.05, "supported here"),
        ("greater", 1.0, 0.051, "not distinguishable"),
        ("greater", -1.0, 0.01, "contradicted here"),
        ("less", -1.0, 0.01, "supported here"),
        ("less", 1.0, 0.01, "contradicted here"),
        ("none", 1.0, 0.01, "contradicted here"),
        ("none", -1.0, 0.01, "contradicted here"),
        ("none", 0.0, 0.9, "not distinguishable"),
    ],
)
def test_a_verdict_follows_from_sign_and_p(expected, value, p, verdict):
    assert verdict_of(hypothesis(expected=expected), value, p) == verdict


# --- loops -----------------------------------------------------------------------------------------------------------


def recorded_slopes(**changed: Any) -> list[float]:
    """Return the slopes of acc_conflicting of the accepted loops at level .9, as their records say."""
    slopes = {}
    for file in record_files(ACCEPTED / "self-consuming-loop"):
        record = read_record(file)
        if record.task.level == "0.9" and record.method.hparams_changed == changed:
            values = [
                next(c for c in stage.checkpoints if c.rule == "last").metrics["acc_conflicting"].value
                for stage in record.stages
            ]
            slopes[record.seed] = linregress(range(len(values)), values).slope
    return [slopes[seed] for seed in SEEDS]


def test_slopes_and_their_differences_are_those_of_the_seeds(judged):
    loop = {"level": "0.9", "metric": "acc_conflicting", "expected": "less"}
    own, replaced = {"method": "self-consuming-loop"}, {"method": "self-consuming-loop", "set": {"mixture": "replace"}}
    slope, difference = judged(
        hypothesis("A", kind="slope", first=own, second=None, **loop),
        hypothesis("B", kind="slope-difference", first=replaced, second=own, **loop),
        folders=[ACCEPTED / "self-consuming-loop"],
    )
    accumulate, replace = recorded_slopes(), recorded_slopes(mixture="replace")
    welch = ttest_ind(replace, accumulate, equal_var=False)
    assert slope.estimate.value == pytest.approx(np.mean(accumulate))
    assert difference.estimate.value == pytest.approx(np.mean(replace) - np.mean(accumulate))
    assert difference.p_value == pytest.approx(welch.pvalue)
    assert (difference.estimate.low, difference.estimate.high) == pytest.approx(tuple(welch.confidence_interval()))
    assert (slope.verdict, difference.verdict) == ("supported here", "supported here")


# --- shares of aligned images ----------------------------------------------------------------------------------------


def moved_pool(made: Any, conflicting: float | None) -> dict[str, Any]:
    """Return a pool of moved images, asked for in equal shares of all hundred groups."""
    audit = GroupAudit.model_validate(
        {"conflicting": made.metric(0.9), "conflicting_raw": made.metric(0.9), "information_y_a": made.metric(0.0)}
        | {name: [[0.01] * 10] * 10 for name in ("asked", "raw", "corrected", "low", "high")}
        | {name: [[None] * 10] * 10 for name in ("precision", "recall", "density", "coverage")}
        | {"absent": [], "extractor": "features", "neighbours": 5}
    )
    transfer = {} if conflicting is None else {CONFLICTING: made.metric(conflicting)}
    return made.pool(990) | {"groups": audit.model_dump(mode="json"), "transfer": transfer}


def moves(made: Any, shares: dict[int, float | None]) -> Callable[[dict[str, Any]], None]:
    """Return what puts a pool into the record of each seed."""

    def change(content: dict[str, Any]) -> None:
        content["pools"] = [moved_pool(made, shares[content["seed"]])]

    return change


def test_the_aligned_share_is_what_is_shown_beyond_what_was_asked(row, judged, made):
    conflicting: dict[int, float | None] = {0: 0.08, 1: 0.09, 2: 0.1, 3: 0.07, 4: 0.08}
    row("cinn-transfer", 0.5, change=moves(made, conflicting))
    fields = {"kind": "aligned-share", "first": {"method": "cinn-transfer"}, "second": None}
    (found,) = judged(hypothesis("A", **fields))
    beyond = [1 - share - 0.1 for share in conflicting.values() if share is not None]
    assert found.verdict == "supported here"
    assert found.estimate.value == pytest.approx(np.mean(beyond))
    assert found.p_value == pytest.approx(ttest_1samp(beyond, 0).pvalue)


def test_without_what_the_images_show_the_aligned_share_is_not_tested(row, judged, made):
    row("cinn-transfer", 0.5, change=moves(made, dict.fromkeys(SEEDS)))
    fields = {"kind": "aligned-share", "first": {"method": "cinn-transfer"}, "second": None}
    (found,) = judged(hypothesis("A", **fields))
    assert (found.verdict, found.p_value) == ("not tested", None)
    assert "which class" in found.remark


def test_the_card_says_which_groups_are_aligned(maker, made):
    record: Record = read_record(maker.run())
    pool = PoolUse.model_validate(moved_pool(made, 0.3))
    table = [[0.1 if a == 3 else 0.0 for a in range(10)] for _ in range(10)]
    assert pool.groups is not None
    pool = pool.model_copy(update={"groups": pool.groups.model_copy(update={"asked": table})})
    shown, asked = aligned_share(record.model_copy(update={"pools": [pool]}), [3] * 10)
    assert (shown, asked) == (pytest.approx(0.7), pytest.approx(1.0))
    assert aligned_share(record, [3] * 10) == (None, None)


# --- probes ----------------------------------------------------------------------------------------------------------


def test_ranks_are_correlated_over_ranked_rows_that_were_probed(row, judged, made):
    rows = {
        "ffr": (0.8, 0.5),
        "sd-augment": (0.6, 0.6),
        "lora": (0.7, 0.65),
        "dreambooth": (0.4, 0.8),
        "jtt": (0.3, 0.9),
    }

    def probed(value: float) -> Callable[[dict[str, Any]], None]:
        return lambda content: content["stages"][-1].update(probes=made.probes(0.5, 0.5, value))

    for method, (quality, probe) in rows.items():
        row(method, quality, change=probed(probe))
    row("placebo", 0.9, change=probed(0.99), verified=None)
    row("erm", 0.2)
    fields = {"kind": "rank-correlation", "first": None, "second": None, "probe": "ag", "expected": "less"}
    (found,) = judged(hypothesis("A", **fields))
    qualities, probes = zip(*rows.values(), strict=True)
    assert found.n == len(rows)
    assert found.estimate.value == pytest.approx(spearmanr(probes, qualities).statistic)
    # Of the 120 orders of five rows, p counts those at least as far from none.
    assert 0 < found.p_value < 0.1
    assert found.estimate.low < found.estimate.value < found.estimate.high
