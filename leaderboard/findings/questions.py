"""The questions of the grid as tables: two steps or a mixture, fine-tuned or not, loops, transfer, probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.errors import InvalidValue
from benchmark.records.results import read_record
from benchmark.tasks.card import DEFAULT_RECIPE, DataCard
from leaderboard.charts import arm_label
from leaderboard.findings.arms import Arm, Arms, Place, difference
from leaderboard.findings.hypotheses import RowSpec
from leaderboard.findings.markup import NONE, p_value, percent, points, slope_points, table, with_ends
from leaderboard.findings.quantities import Runs, aligned_share
from leaderboard.models import Estimate, Trajectory
from leaderboard.rows import estimate
from leaderboard.stages import PROBES
from leaderboard.text import safe
from leaderboard.trajectories import PRIMARY, is_process, trajectories

PROBED_LEVEL = "0.95"
NOTHING = "No such run yet."
_TRANSFER = "cinn-transfer"
_KEPT = ("y_kept", "a_reached", "both")
_PROBE_HEADS = ("(A) %", "(G) %", "(A, G) %")


@dataclass(frozen=True)
class Contrast:
    """Two rows whose difference answers a question: first minus second."""

    first: RowSpec
    second: RowSpec

    @property
    def head(self) -> str:
        """Head of its column."""
        return f"{self.first.text} − {self.second.text}"


def _row(method: str, **changed: object) -> RowSpec:
    return RowSpec(method=method, changed=changed)


TWO_STEP = (
    Contrast(_row("ffr"), _row("sd-augment")),
    Contrast(_row("ffr"), _row("sd-augment", balance="add")),
    Contrast(_row("ffr"), _row("ffr", order="reversed")),
    Contrast(_row("ffr"), _row("ffr", balanced=False)),
)
FINE_TUNED = (
    Contrast(_row("lora"), _row("lora", generator="base")),
    Contrast(_row("sd-augment", generator="fine-tuned"), _row("sd-augment")),
    Contrast(_row("ffr", generator="fine-tuned"), _row("ffr")),
)
CLUSTERS = (
    Contrast(_row("clustered-dreambooth"), _row("dreambooth")),
    Contrast(_row("dreambooth"), _row("group-dro")),
    Contrast(_row("clustered-dreambooth"), _row("group-dro")),
)
WORTH = (
    Contrast(_row("sd-augment"), _row("erm")),
    Contrast(_row("sd-augment"), _row("placebo")),
    Contrast(_row("sd-augment"), _row("copy-augment")),
    Contrast(_row("sd-augment"), _row("real-oracle")),
)


def contrasts_table(contrasts: Sequence[Contrast], arms: Arms) -> str:
    """Return differences on the task's ranking metric, in points with 95 % intervals, wherever both rows exist."""
    rows = []
    for place in arms.places:
        cells = [_contrast(each, place, arms) for each in contrasts]
        if set(cells) != {NONE}:
            rows.append([*place_cells(place), *cells])
    return table(("task", "level", *(each.head for each in contrasts)), rows) if rows else NOTHING


def place_cells(place: Place) -> list[str]:
    """Return the cells that say where."""
    recipe = "" if place.recipe == DEFAULT_RECIPE else f", recipe {place.recipe}"
    return [f"`{place.task}`{recipe}", place.level]


def _contrast(contrast: Contrast, place: Place, arms: Arms) -> str:
    found = arms.pair(place, contrast.first, contrast.second)
    if found is None:
        return NONE
    try:
        known = difference(*found, found[0].card.task.ranking_metric)
    except InvalidValue:
        return NONE
    shown = with_ends(Estimate(value=known.difference, low=known.low, high=known.high), points)
    return f"{shown} ({len(found[0].seeds)})"


# --- loops -----------------------------------------------------------------------------------------------------------


def loops(runs: Runs) -> dict[str, list[Trajectory]]:
    """Return the arms of every task's loops, judged as on the board, by task."""
    processes = [scored for scored in runs.scored if is_process(scored)]
    cards: dict[str, DataCard] = {each.split.task.card.id: each.split.task.card for each in processes}
    return {
        name: trajectories([each for each in processes if each.split.task.card.id == name], card)
        for name, card in sorted(cards.items())
    }


def loops_table(found: dict[str, list[Trajectory]]) -> str:
    """Return the slopes of all arms and levels, judged by Holm over the arms and levels of a task."""
    headers = ["task", "level", "arm", "seeds"]
    for quantity in PRIMARY:
        headers += [f"`{quantity}`: points per generation", "p (Holm)", "verdict"]
    rows = [
        [f"`{name}`", arm.level, safe(arm_label(arm)), str(len(arm.seeds)), *_slopes(arm)]
        for name, arms in found.items()
        for arm in arms
    ]
    return table(headers, rows) if rows else NOTHING


def _slopes(arm: Trajectory) -> list[str]:
    cells = []
    for quantity in PRIMARY:
        slope = arm.slopes[quantity]
        shown = with_ends(Estimate(value=slope.value, low=slope.low, high=slope.high), slope_points)
        cells += [shown, p_value(slope.adjusted_p_value), slope.verdict]
    return cells


# --- invertible networks ---------------------------------------------------------------------------------------------


def transfer_table(arms: Arms) -> str:
    """Return what became of images that an invertible network moved to another attribute."""
    headers = (
        "task", "level", "condition", "seeds", "y kept %", "a reached %", "both %", "shown aligned %",
        "asked aligned %",
    )  # fmt: skip
    found = [arm for place in arms.places for arm in arms.at(place) if arm.row.method == _TRANSFER]
    return table(headers, [_transfer(arm) for arm in found]) if found else NOTHING


def _transfer(arm: Arm) -> list[str]:
    records = [read_record(scored.run.file) for scored in arm.runs]
    pools = [record.pools[0].transfer if len(record.pools) == 1 else {} for record in records]
    kept = [
        estimate([found.value if (found := pool.get(name)) else None for pool in pools], ["not recorded"])
        for name in _KEPT
    ]
    shares = [aligned_share(record, arm.card.law.aligned) for record in records]
    shown, asked = (estimate(values, ["not recorded"]) for values in zip(*shares, strict=True))
    condition = ", ".join(f"{name}={value}" for name, value in arm.row.changed.items()) or "label and attribute"
    cells = [with_ends(each, percent) for each in (*kept, shown)]
    return [*place_cells(arm.place), condition, str(len(records)), *cells, with_ends(_point(asked), percent)]


def _point(found: Estimate) -> Estimate:
    return found.model_copy(update={"low": None, "high": None})


# --- probes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probed:
    """A row whose last stage was probed.

    Attributes:
        arm: The row.
        probes: Balanced accuracy by probe, over seeds.
        metric: The task's ranking metric, over seeds.
    """

    arm: Arm
    probes: dict[str, Estimate]
    metric: Estimate


def probed_rows(arms: Arms) -> list[Probed]:
    """Return the rows at level .95 with probes, from the best to the worst by the ranking metric."""
    found = [
        probed for place in arms.places if place.level == PROBED_LEVEL for arm in arms.at(place)
        if (probed := _probed(arm)) is not None
    ]  # fmt: skip
    return sorted(found, key=lambda each: (each.arm.place, -(each.metric.value or 0.0)))


def probes_table(found: Sequence[Probed]) -> str:
    """Return probes' accuracies beside the ranking metric."""
    headers = ("task", "level", "row", "seeds", *_PROBE_HEADS, "ranking metric %")
    rows = [
        [
            *place_cells(each.arm.place),
            each.arm.row.text,
            str(len(each.arm.seeds)),
            *(with_ends(each.probes[name], percent) for name in PROBES),
            with_ends(each.metric, percent),
        ]
        for each in found
    ]
    return table(headers, rows) if rows else NOTHING


def _probed(arm: Arm) -> Probed | None:
    if is_process(arm.runs[0]):
        return None
    stages = [scored.run.record.ranked_stage for scored in arm.runs]
    probes = {}
    for name in PROBES:
        known = [stage.probes.get(name) for stage in stages]
        probes[name] = estimate([None if each is None else each.value for each in known], ["not probed"])
    if any(each.value is None for each in probes.values()):
        return None
    metric = arm.card.task.ranking_metric
    return Probed(arm, probes, estimate(arm.values(metric), [arm.why_undefined(metric)]))
