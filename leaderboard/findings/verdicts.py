"""Verdicts on the hypotheses, as docs/hypotheses.md says they are reached, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from benchmark.metrics.data import CONFIDENCE
from benchmark.metrics.ranking import holm
from leaderboard.findings.hypotheses import Hypothesis, Kind
from leaderboard.findings.markup import NONE, Show, p_value, points, signed_index, slope_points, table, with_ends
from leaderboard.findings.quantities import Runs, Tested, measure
from leaderboard.models import Estimate

Verdict = Literal["supported here", "contradicted here", "not distinguishable", "not tested"]
SHOW: Mapping[Kind, Show] = {
    "difference": points,
    "slope": slope_points,
    "slope-difference": slope_points,
    "aligned-share": points,
    "rank-correlation": signed_index,
}
_UNITS: Mapping[Kind, str] = {
    "difference": "points",
    "slope": "points per generation",
    "slope-difference": "points per generation",
    "aligned-share": "points",
    "rank-correlation": "ρ",
}
_HEADERS = ("id", "quantity", "verdict", "estimate [95 %]", "p", "p (Holm)", "task, level, seeds", "n", "claim")


class Outcome(BaseModel):
    """What became of a hypothesis."""

    model_config = ConfigDict(frozen=True)

    hypothesis: Hypothesis
    estimate: Estimate | None = Field(description="null where it is not tested")
    p_value: float | None = Field(description="two-sided, of zero")
    adjusted_p_value: float | None = Field(
        description="by Holm over the primary hypotheses of the task; null for others, which enter no family"
    )
    n: int = Field(description="seeds, or rows of a rank correlation")
    verdict: Verdict
    remark: str = Field(description="why it is not tested, or what else there is to say")


def judge_hypotheses(hypotheses: Sequence[Hypothesis], runs: Runs) -> list[Outcome]:
    """Test hypotheses and reach the verdicts, in their order.

    A primary hypothesis whose runs are missing counts as p = 1 in the family of its task.

    Args:
        hypotheses: Any.
        runs: All runs at hand.
    """
    found = {each.id: measure(each, runs) for each in hypotheses}
    adjusted: dict[str, float] = {}
    for task in dict.fromkeys(each.task for each in hypotheses):
        family = [each.id for each in hypotheses if each.task == task and each.primary]
        p_values = [one.p_value if isinstance(one := found[name], Tested) else 1.0 for name in family]
        adjusted |= dict(zip(family, holm(p_values), strict=True))
    return [_outcome(each, found[each.id], adjusted.get(each.id)) for each in hypotheses]


def verdict_of(hypothesis: Hypothesis, value: float, p: float) -> Verdict:
    """Return the verdict on an estimate.

    No test supports that something is zero: a hypothesis that expects it can only be contradicted.

    Args:
        hypothesis: What was expected.
        value: The estimate.
        p: Its p value, after Holm where there is a family.
    """
    if p > 1 - CONFIDENCE:
        return "not distinguishable"
    as_expected = hypothesis.expected == ("greater" if value > 0 else "less")
    return "supported here" if as_expected else "contradicted here"


def verdicts_table(outcomes: Sequence[Outcome]) -> str:
    """Return the table of all hypotheses with their verdicts."""
    return table(_HEADERS, [_line(each) for each in outcomes])


def estimate_text(outcome: Outcome) -> str:
    """Return the estimate with its interval and unit; a dash where nothing was tested."""
    kind = outcome.hypothesis.kind
    shown = with_ends(outcome.estimate, SHOW[kind])
    return shown if outcome.estimate is None else f"{shown} {_UNITS[kind]}"


def verdict_text(outcome: Outcome) -> str:
    """Return the verdict with what there is to say about it."""
    said = [] if outcome.hypothesis.new else ["seen"]
    said += [outcome.remark] if outcome.remark else []
    return outcome.verdict + (f" ({'; '.join(said)})" if said else "")


def counts_text(outcomes: Sequence[Outcome]) -> str:
    """Return how many primary hypotheses have which verdict, by task."""
    lines = []
    for task in dict.fromkeys(each.hypothesis.task for each in outcomes):
        primary = [each.verdict for each in outcomes if each.hypothesis.task == task and each.hypothesis.primary]
        tally = [f"{primary.count(each)} {each}" for each in get_args(Verdict) if each in primary]
        lines.append(f"`{task}`: of {len(primary)} primary hypotheses {', '.join(tally)}.")
    return " ".join(lines)


def _outcome(hypothesis: Hypothesis, found: Tested | str, adjusted: float | None) -> Outcome:
    if isinstance(found, str):
        return Outcome(
            hypothesis=hypothesis, estimate=None, p_value=None, adjusted_p_value=None, n=0, verdict="not tested",
            remark=found,
        )  # fmt: skip
    value, p = found.estimate.value, found.p_value if adjusted is None else adjusted
    assert value is not None
    return Outcome(
        hypothesis=hypothesis, estimate=found.estimate, p_value=found.p_value, adjusted_p_value=adjusted, n=found.n,
        verdict=verdict_of(hypothesis, value, p), remark=found.note,
    )  # fmt: skip


def _line(outcome: Outcome) -> list[str]:
    hypothesis = outcome.hypothesis
    return [
        hypothesis.id,
        hypothesis.quantity,
        verdict_text(outcome),
        estimate_text(outcome),
        p_value(outcome.p_value),
        p_value(outcome.adjusted_p_value),
        hypothesis.place,
        str(outcome.n) if outcome.n else NONE,
        hypothesis.claim,
    ]
