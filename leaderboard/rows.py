"""Groups of runs become rows and tables: averages over seeds, the recovered gap, data, cost and remarks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from benchmark.contract.space import LEVEL
from benchmark.metrics.across_seeds import mean_over_seeds, worst_group_of_mean
from benchmark.metrics.data import Metric
from benchmark.metrics.recovery import recovered_gap_across_seeds
from benchmark.metrics.versions import is_older, rescored
from benchmark.records.schema import ExternalData
from benchmark.tasks.card import DataCard
from leaderboard.answers import populated_accuracies
from leaderboard.claims import changed_settings, stale_reasons
from leaderboard.groups import Group, Scored, standard_recipe
from leaderboard.models import RANKING_LEVELS, Data, Estimate, RankInterval, Row, RowCost, Span, Table
from leaderboard.ranks import rank_groups
from leaderboard.remembered import Remembered

BASELINE, CEILING = "erm", "real-oracle"
_REFERENCE = "the method is one of the two that the gap lies between"


def build_table(
    level: str, recipe: str, card: DataCard, groups: Sequence[Group], memory: Remembered, place: str
) -> Table:
    """Build the table of one task, level, training recipe and rule, which ``place`` names."""
    metric = groups[0].first.split.labels.ranking_metric
    ranks, reasons = rank_groups(groups, metric, memory, place)
    gaps = _recovered_gaps(groups, metric)
    rows = [_row(group, ranks.get(group.id), reasons[group.id], gaps[group.id]) for group in groups]
    rows.sort(key=lambda row: _position(row, metric))
    repeated = sum(group.repeated for group in groups)
    return Table(level=level, recipe=recipe, recipe_summary=recipe_summary(card, recipe), rows=rows, repeated=repeated)


def recipe_summary(card: DataCard, name: str) -> str:
    """Return a recipe in words."""
    recipe = card.recipe(name)
    weights = f"pre-trained ({recipe.backbone_weights})" if recipe.backbone_weights else "from scratch"
    return f"{recipe.backbone} {weights} at {card.image_size(recipe)} px"


def _position(row: Row, metric: str) -> tuple[bool, bool, float, str, str]:
    """Order by the ranking metric; what is not ranked stands below, so that no unverified number heads a table."""
    value = row.metrics[metric].value
    return row.rank is None, value is None, -(value or 0.0), row.method, row.id


def estimate(values: Sequence[float | None], reasons: Iterable[str] = ()) -> Estimate:
    """Average a metric over seeds; null when a seed has no value."""
    missing = sum(value is None for value in values)
    if missing:
        reason = next(iter(sorted(set(reasons))), "undefined")
        return Estimate(value=None, reason=reason if missing == len(values) else f"{missing} seed(s): {reason}")
    return _estimate(mean_over_seeds(np.array(values, dtype=np.float64)))


def _estimate(metric: Metric) -> Estimate:
    return Estimate(value=metric.value, low=metric.low, high=metric.high, reason=metric.reason)


def _metrics(group: Group, gap: Estimate) -> dict[str, Estimate]:
    answers = group.answers
    found = {
        name: estimate(group.values(name), (each.reasons[name] for each in answers if name in each.reasons))
        for name in answers[0].values
    }
    found["worst_group_of_mean"] = _estimate(worst_group_of_mean(*populated_accuracies(answers)))
    return found | {"recovered_gap": gap}


def _recovered_gaps(groups: Sequence[Group], metric: str) -> dict[str, Estimate]:
    baseline, ceiling = _reference(groups, BASELINE), _reference(groups, CEILING)
    missing = [name for name, found in ((BASELINE, baseline), (CEILING, ceiling)) if found is None]
    if baseline is None or ceiling is None:
        return {group.id: Estimate(value=None, reason=f"no row of {' and '.join(missing)} here") for group in groups}
    budgets = [scored.run.record.budget for scored in ceiling.runs]
    if any(budget is None or budget.synthetic_kept < budget.synthetic_allowed for budget in budgets):
        short = Estimate(value=None, reason=f"{CEILING} had fewer real images than the budget B")
        return {group.id: short for group in groups}
    return {group.id: _recovered_gap(group, baseline, ceiling, metric) for group in groups}


def _recovered_gap(group: Group, baseline: Group, ceiling: Group, metric: str) -> Estimate:
    if group.first.run.record.method.name in (BASELINE, CEILING):
        return Estimate(value=None, reason=_REFERENCE)
    arms = [each.values(metric) for each in (group, baseline, ceiling)]
    if any(value is None for arm in arms for value in arm):
        return Estimate(value=None, reason=f"{metric} is undefined for a seed")
    method, erm, oracle = (np.array(arm, dtype=np.float64) for arm in arms)
    return _estimate(recovered_gap_across_seeds(method, erm, oracle))


def _reference(groups: Sequence[Group], name: str) -> Group | None:
    """Return the default row of a reference method: the best verified, then that with most seeds."""
    order = ("self-reported", "recomputed", *RANKING_LEVELS)
    rows = [
        group
        for group in groups
        if group.first.run.record.method.name == name
        and group.first.run.record.method.configuration == "default"
        and standard_recipe(group.first)
    ]
    return max(rows, key=lambda g: (order.index(g.first.run.level), len(g.runs), g.id), default=None)


def _row(group: Group, place: RankInterval | None, reasons: list[str], gap: Estimate) -> Row:
    record, card = group.first.run.record, group.first.split.task.card
    records = [scored.run.record for scored in group.runs]
    return Row(
        id=group.id,
        method=record.cell.method,
        configuration=record.method.configuration,
        changed=changed_settings(record, card),
        hparams=record.method.hparams,
        generator=generator_label(group.first),
        track=group.track.value,
        seeds=[each.seed for each in records],
        draws=sorted({each.cell.draw for each in records}),
        runs=[each.run_id for each in records],
        verification=group.first.run.level,
        rank=place,
        not_ranked=reasons,
        metrics=_metrics(group, gap),
        data=_data(group),
        cost=_cost(group),
        external_data=sorted({external_text(part) for each in records for part in each.method.external_data}),
        oracle=record.method.oracle,
        stale=sorted({reason for each in records for reason in stale_reasons(each, card)}),
        remarks=_remarks(group),
    )


def external_text(part: ExternalData) -> str:
    """Return one line on a pre-trained component, and whether it may hold the task's images."""
    known = {True: "may hold the task's images", False: "holds none of the task's images", None: "contents not known"}
    return f"{part.component}: {part.trained_on} ({known[part.may_contain_task_images]})"


def generator_label(scored: Scored) -> str | None:
    """Return a generator's name with the start of its revision or content digest; None where there is none."""
    generator = scored.run.record.cell.generator
    if generator is None:
        return None
    identity = generator.get("revision") or generator.get("content_sha256") or "?"
    return f"{generator.get('name')}@{str(identity)[:7]}"


def span(values: Iterable[int]) -> Span:
    """Return the smallest and the largest of some whole numbers."""
    numbers = list(values)
    return Span(low=min(numbers), high=max(numbers))


def _data(group: Group) -> Data:
    counts = [scored.split.train_counts for scored in group.runs]
    return Data(
        n_train=span(int(table.sum()) for table in counts),
        smallest_group=span(int(table[table > 0].min()) for table in counts),
        populated_groups=span(int((table > 0).sum()) for table in counts),
        synthetic_budget=span(scored.run.record.cell.budget["synthetic"] for scored in group.runs),
        steps=group.first.run.record.cell.budget["steps"],
    )


def _cost(group: Group) -> RowCost:
    costs = [scored.run.record.cost for scored in group.runs]
    devices: dict[str, set[str]] = defaultdict(set)
    for scored in group.runs:
        devices[scored.run.record.environment.device_kind].add(scored.run.record.environment.device)
    return RowCost(
        training_seconds=float(np.mean([cost.training_seconds for cost in costs if cost is not None])),
        generator_seconds=float(np.mean([cost.generator_seconds for cost in costs if cost is not None])),
        devices={kind: sorted(names) for kind, names in sorted(devices.items())},
    )


def _remarks(group: Group) -> list[str]:
    records = [scored.run.record for scored in group.runs]
    remarks = []
    pools = {tuple(pool.pool_id for pool in record.pools) for record in records if record.pools}
    if pools and (len(pools) < len(records) or len(records) == 1):
        remarks.append("its seeds share one pool of generated images, whose variance is not in the interval")
    elif any(pool.tuning for record in records for pool in record.pools):
        remarks.append("its draws have adapters of their own, all fine-tuned with one seed")
    if (tuning := group.first.run.record.method.tuning) is not None:
        remarks.append(
            f"trial {tuning.trial} of the {tuning.trials} of its study (0 is the default) did best by "
            f"{tuning.criterion} on the validation split of bias level {LEVEL}, draw 0"
        )
    if any(record.method.origin == "plug-in" for record in records):
        packages = sorted({f"{record.method.package} {record.method.package_version}" for record in records})
        remarks.append(f"plug-in from {', '.join(packages)}")
    if len({(record.environment.device_kind, record.environment.precision) for record in records}) > 1:
        remarks.append("its seeds ran on different kinds of device or in different precisions")
    older = {record.metrics_version for record in records if is_older(record.metrics_version, record.run_id)}
    return remarks + [rescored(version) for version in sorted(older)]
