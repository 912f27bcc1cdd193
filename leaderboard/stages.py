"""The stages of each method at a task's default level: where on its way a bias went, or came.

Accuracies are recomputed from the predictions, or as recorded where an accepted run keeps those of the ranked stage
alone (:mod:`benchmark.records.kept`). What a stage's training mixture and its features tell about label,
attribute and source stands in the records alone and is taken from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.contract.tracks import SelectionRule
from benchmark.records.schema import MetricValue, StageResult
from leaderboard.answers import Answers
from leaderboard.claims import changed_settings
from leaderboard.groups import Group
from leaderboard.models import Estimate, Extent, Span, StageRow, StageSummary
from leaderboard.rows import estimate, generator_label, span

STAGE_METRICS = ("acc_group_mean", "acc_conflicting")
BY_STAGE = ("acc_worst_group", "acc_group_mean", "acc_aligned", "acc_conflicting", "gap", "bias_retained")
"""What the page shows of each stage."""
INFORMATION = ("information_y_a", "information_y_ag")
PROBES = ("a", "g", "ag")
NO_MIXTURE = "the method did not say what the stage was trained on"
NOT_PROBED = "without generated images there is no probe"
_LAST = SelectionRule.LAST.value


def stage_rows(groups: Sequence[Group], order: Sequence[str]) -> list[StageRow]:
    """Summarise the stages of every row.

    Args:
        groups: The rows of the default level under rule ``last``.
        order: Their ids as the table has them.
    """
    position = {name: place for place, name in enumerate(order)}
    rows = []
    for group in sorted(groups, key=lambda each: position[each.id]):
        record = group.first.run.record
        rows.append(
            StageRow(
                method=record.cell.method,
                changed=changed_settings(record, group.first.split.task.card),
                configuration=record.method.configuration,
                generator=generator_label(group.first),
                verification=group.first.run.level,
                seeds=len(group.runs),
                stages=stage_summaries(group),
            )
        )
    return rows


def stage_summaries(group: Group, metrics: Sequence[str] = STAGE_METRICS) -> list[StageSummary]:
    """Summarise the stages of one row over its seeds, each at its last step.

    Args:
        group: The seeds.
        metrics: Metrics that are averaged.
    """
    names = [stage.name for stage in group.first.run.record.stages]
    same = [scored for scored in group.runs if [stage.name for stage in scored.run.record.stages] == names]
    summaries = []
    for position, name in enumerate(names):
        stages = [scored.run.record.stages[position] for scored in same]
        answers = [scored.answers[position, _LAST] for scored in same if (position, _LAST) in scored.answers]
        summaries.append(
            StageSummary(
                name=name,
                steps=span(stage.steps for stage in stages),
                real=_images(stages, real=True),
                generated=_images(stages, real=False),
                metrics={metric: _averaged(answers, metric) for metric in metrics},
                information={each: _information(stages, each) for each in INFORMATION},
                probes={each: _probe(stages, each) for each in PROBES} if any(s.probes for s in stages) else {},
                chance=_chance(stages),
            )
        )
    return summaries


def _averaged(answers: Sequence[Answers], metric: str) -> Estimate:
    reasons = [each.reasons[metric] for each in answers if metric in each.reasons]
    return estimate([each.values[metric] for each in answers] or [None], reasons or ["no checkpoint `last`"])


def _images(stages: Sequence[StageResult], *, real: bool) -> Span | None:
    numbers = []
    for stage in stages:
        if stage.mixture is None:
            return None
        table = stage.mixture.real if real else stage.mixture.synthetic
        numbers.append(sum(map(sum, table)) + (0 if real else sum(stage.mixture.synthetic_without_attribute)))
    return span(numbers)


def _information(stages: Sequence[StageResult], name: str) -> Estimate:
    return _recorded([None if each.mixture is None else getattr(each.mixture, name) for each in stages], NO_MIXTURE)


def _probe(stages: Sequence[StageResult], name: str) -> Estimate:
    return _recorded([each.probes.get(name) for each in stages], NOT_PROBED)


def _recorded(found: Sequence[MetricValue | None], absent: str) -> Estimate:
    reasons = [absent if each is None else each.reason or "" for each in found if each is None or each.value is None]
    return estimate([None if each is None else each.value for each in found], reasons)


def _chance(stages: Sequence[StageResult]) -> dict[str, Extent]:
    known = {}
    for name in PROBES:
        found = [stage.probes.get(f"{name}_chance") for stage in stages]
        values = [each.value for each in found if each is not None and each.value is not None]
        if values:
            known[name] = Extent(low=min(values), high=max(values))
    return known
