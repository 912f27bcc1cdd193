"""The claim ledger: what papers claim, how our setting differs, and what the verdicts say about either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark.errors import DamagedFile
from leaderboard.findings.hypotheses import Hypotheses, read_toml
from leaderboard.findings.markup import NONE, table
from leaderboard.findings.verdicts import Outcome

CLAIMS_FILE = Path(__file__).with_name("claims.toml")
_HEADERS = ("claim", "source", "the paper's claim", "its small-scale analogue here", "hypotheses")
_SUPPORTED, _CONTRADICTED, _UNCLEAR, _UNTESTED = (
    "supported here", "contradicted here", "not distinguishable", "not tested",
)  # fmt: skip


class Claim(BaseModel):
    """One claim, and what stands between it and what was run here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str = Field(description="who claims it; empty for a question of ours")
    claim: str
    theirs: str = Field(default="", description="the paper's setting")
    ours: str
    differences: str = ""
    not_tested: str = Field(
        default="", description="why the paper's own claim is not tested: what stands in for its generator, above all"
    )

    @model_validator(mode="after")
    def _whole(self) -> Claim:
        if self.source and not (self.theirs and self.differences):
            raise ValueError(f"claim {self.id} of a paper needs theirs and differences")
        return self


class Claims(BaseModel):
    """The content of claims.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1]
    claim: tuple[Claim, ...]


def read_claims(hypotheses: Hypotheses, file: Path = CLAIMS_FILE) -> tuple[Claim, ...]:
    """Read the claims that hypotheses are about.

    Raises:
        DamagedFile: When the file is missing or wrong, or does not hold each claim of the hypotheses, and no other,
            once.
    """
    claims = read_toml(file, Claims).claim
    times = Counter(each.id for each in claims)
    wanted = {each.claim for each in hypotheses.hypothesis}
    if wrong := sorted(
        {name for name, number in times.items() if number > 1} | set(times).symmetric_difference(wanted)
    ):
        raise DamagedFile(f"{file} must hold every claim of the hypotheses once, and no other: see {', '.join(wrong)}")
    return claims


def verdict_here(outcomes: Sequence[Outcome]) -> str:
    """Return the verdict on a claim's analogue from the verdicts on its hypotheses.

    Primary hypotheses on new runs decide; where a claim has none, its others do, and the word *seen* says so. All of
    those that were tested supported: supported. One contradicted and none supported: contradicted. Otherwise how many
    are what.

    Args:
        outcomes: Of all hypotheses of the claim.
    """
    deciding = [each for each in outcomes if each.hypothesis.primary and each.hypothesis.new]
    tail = "" if deciding else " (seen)"
    verdicts = Counter[str](each.verdict for each in deciding or outcomes)
    untested = verdicts.pop(_UNTESTED, 0)
    if not verdicts:
        return _UNTESTED
    if len(verdicts) == 1 or not verdicts[_SUPPORTED]:
        word, total = _CONTRADICTED if verdicts[_CONTRADICTED] else next(iter(verdicts)), verdicts.total() + untested
        return word + (f", {verdicts[word]} of {total}" if total > verdicts[word] else "") + tail
    shown = [f"{verdicts[each]} {each}" for each in (_SUPPORTED, _CONTRADICTED, _UNCLEAR) if verdicts[each]]
    return "mixed: " + ", ".join(shown + [f"{untested} {_UNTESTED}"] * (untested > 0)) + tail


def paper_verdict(claim: Claim, here: str) -> str:
    """Return the verdict on the paper's own claim: not tested wherever the claim says why."""
    if not claim.source:
        return NONE
    return _UNTESTED if claim.not_tested else here


def ledger(claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> str:
    """Return the ledger: a table of verdicts, and below it each paper's setting beside ours."""
    rows, about = [], []
    for claim in claims:
        own = [each for each in outcomes if each.hypothesis.claim == claim.id]
        here = verdict_here(own)
        named = ", ".join(f"{each.hypothesis.id} {each.verdict}" for each in own)
        rows.append([f"{claim.claim} (`{claim.id}`)", claim.source or "ours", paper_verdict(claim, here), here, named])
        about.append(_setting(claim))
    return "\n\n".join([table(_HEADERS, rows), *about])


def _setting(claim: Claim) -> str:
    parts = {
        "Theirs": claim.theirs,
        "Ours": claim.ours,
        "Differences": claim.differences,
        "Why the paper's claim is not tested": claim.not_tested,
    }
    return "\n".join([f"**`{claim.id}`**", "", *(f"* {name}: {text}" for name, text in parts.items() if text)])
