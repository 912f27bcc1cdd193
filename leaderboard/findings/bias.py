"""Every row against plain training: how much of the training bias is left, and whether that is less or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.errors import InvalidValue
from leaderboard.findings.arms import Arm, Arms, Place, difference, welch
from leaderboard.findings.hypotheses import RowSpec
from leaderboard.findings.markup import index, percent, points, signed_index, table, with_ends
from leaderboard.findings.questions import NOTHING, place_cells
from leaderboard.models import Estimate
from leaderboard.rows import BASELINE, estimate
from leaderboard.trajectories import is_process

CONFLICTING, ALIGNED, RETAINED, GAP = "acc_conflicting", "acc_aligned", "bias_retained", "gap"
_HEADERS = (
    "row", "track", "seeds", "`bias_retained`", "Δ `bias_retained`", "Δ `acc_conflicting`", "Δ `acc_aligned`",
    "Δ `gap`", "bias, against `erm`",
)  # fmt: skip


@dataclass(frozen=True)
class AgainstErm:
    """One row beside plain training on the same seeds.

    Attributes:
        arm: The row, on those seeds.
        retained: Its own ``bias_retained``.
        change: Differences to ``erm`` by metric.
    """

    arm: Arm
    retained: Estimate
    change: dict[str, Estimate]

    @property
    def bias(self) -> str:
        """Whether less or more of the bias is left, as far as the 95 % interval can tell."""
        found = self.change[RETAINED]
        if found.value is None:
            return "undefined"
        if found.low is None or found.high is None or found.low <= 0 <= found.high:
            return "not distinguishable"
        return "less" if found.high < 0 else "more"


def against_erm(place: Place, arms: Arms) -> list[AgainstErm]:
    """Compare every row of a place with ``erm``, from the largest gain in ``acc_conflicting`` to the smallest."""
    baseline, rows = RowSpec(method=BASELINE), []
    for arm in arms.at(place):
        pair = None if arm.row == baseline or is_process(arm.runs[0]) else arms.pair(place, arm.row, baseline)
        if pair is not None:
            rows.append(_row(*pair))
    return sorted(rows, key=lambda row: -(row.change[CONFLICTING].value or 0.0))


def bias_tables(arms: Arms) -> str:
    """Return a table for each task and level, each below a line that says what ``erm`` itself does there."""
    parts = []
    for place in arms.places:
        rows = against_erm(place, arms)
        erm = arms.find(place, RowSpec(method=BASELINE))
        if rows and erm is not None:
            parts += [_about(place, erm), table(_HEADERS, [_line(row) for row in rows])]
    return "\n\n".join(parts) or NOTHING


def _about(place: Place, erm: Arm) -> str:
    task, level = place_cells(place)
    shown = {CONFLICTING: percent, RETAINED: index, GAP: percent}
    values = ", ".join(f"`{name}` {with_ends(_own(erm, name), show)}" for name, show in shown.items())
    partial = "" if erm.runs[0].split.pinned == "pinned" else f" The split is {erm.runs[0].split.pinned}: not ranked."
    return f"**{task}, level {level}.** `erm`: {values}.{partial}"


def _own(arm: Arm, metric: str) -> Estimate:
    return estimate(arm.values(metric), [arm.why_undefined(metric)])


def _row(arm: Arm, erm: Arm) -> AgainstErm:
    change = {metric: _compared(arm, erm, metric) for metric in (CONFLICTING, ALIGNED, GAP)}
    return AgainstErm(arm, _own(arm, RETAINED), change | {RETAINED: _apart(arm, erm)})


def _compared(arm: Arm, erm: Arm, metric: str) -> Estimate:
    try:
        found = difference(arm, erm, metric)
    except InvalidValue as reason:
        return Estimate(value=None, reason=str(reason))
    return Estimate(value=found.difference, low=found.low, high=found.high)


def _apart(arm: Arm, erm: Arm) -> Estimate:
    """Return the difference in ``bias_retained``, which is no average of answers: over seeds, by Welch."""
    first, second = ([value for value in each.values(RETAINED) if value is not None] for each in (arm, erm))
    if len(first) < len(arm.seeds) or len(second) < len(erm.seeds):
        return Estimate(value=None, reason=arm.why_undefined(RETAINED))
    return welch(first, second)[0]


def _line(row: AgainstErm) -> Sequence[str]:
    return [
        row.arm.row.text,
        row.arm.track.value,
        str(len(row.arm.seeds)),
        with_ends(row.retained, index),
        with_ends(row.change[RETAINED], signed_index),
        with_ends(row.change[CONFLICTING], points),
        with_ends(row.change[ALIGNED], points),
        with_ends(row.change[GAP], points),
        row.bias,
    ]
