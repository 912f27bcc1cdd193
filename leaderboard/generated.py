"""What the records of a row say about its generated images: who made them, how true they are, what they cost.

The images themselves never leave the machine that made them, so nothing here can be recomputed from a submission; only
the accuracy of a classifier trained on them alone follows from stored predictions, where these are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmark.contract.tracks import SelectionRule
from benchmark.errors import DamagedFile
from benchmark.records.schema import MetricValue, PoolUse, Record
from leaderboard.claims import changed_settings
from leaderboard.groups import Group, Scored
from leaderboard.load import Run
from leaderboard.models import Estimate, GeneratedRow, Measurement, Table
from leaderboard.rows import estimate, generator_label, span

FIDELITY = ("y", "a", "y_raw", "a_raw")
QUALITY = ("memorised_share", "fid", "kid")
_SHARES = (*FIDELITY, "memorised_share")
_ACCURACY = "acc_group_mean"
_LAST = SelectionRule.LAST.value

_LARGEST = 1e12
"""Of distances, numbers of images and seconds: far beyond what can be, and far from where sums overflow."""
_ROUNDING = 1e-9

_NOT_MEASURED = "not measured when the run was made"
_NOTHING_KEPT = "no generated image was kept"
_NEVER_ALONE = "no classifier was trained on generated images only"
_NO_CHECKPOINT = "no checkpoint `last`"


def generated_rows(table: Table, groups: Sequence[Group]) -> list[GeneratedRow]:
    """Summarise the generated images of a table's rows.

    Args:
        table: A table under rule ``last``; its rows give the order.
        groups: The runs behind it.

    Returns:
        One entry for each row with a run that used generated images.
    """
    by_id = {group.id: group for group in groups}
    rows = [(table, by_id[row.id]) for row in table.rows]
    return [_row(table, group) for table, group in rows if any(scored.run.record.pools for scored in group.runs)]


def check_measurements(run: Run) -> None:
    """Refuse measurements that cannot be: the board shows them as recorded.

    Raises:
        DamagedFile: For a share outside of 0 to 1, more information than the labels hold, more images kept than
            sampled, or an absurd number.
    """
    record = run.record
    for name, found, low, high in _bounded(record):
        for value in (found.value, found.low, found.high):
            _check(run, name, value, low, high)
    for pool in record.pools:
        _check(run, "sampled images", pool.sampled, 0, _LARGEST)
        _check(run, "kept images", pool.kept, 0, pool.sampled)
        _check(run, "seconds of sampling", pool.seconds, 0, _LARGEST)
        _check(run, "seconds of fine-tuning", pool.tuning.seconds if pool.tuning else 0, 0, _LARGEST)
    if record.cost is not None:
        _check(run, "auxiliary seconds", record.cost.auxiliary_seconds, 0, _LARGEST)


def _bounded(record: Record) -> Iterator[tuple[str, MetricValue, float, float]]:
    """Yield every measurement that the board takes from a record, with the least and the largest possible value."""
    for stage in record.stages:
        for name, found in stage.probes.items():
            yield f"probe {name} of stage {stage.name}", found, 0, 1
        if (mixture := stage.mixture) is not None:
            bits = math.log2(max(len(mixture.real), 1))
            yield f"information_y_a of stage {stage.name}", mixture.information_y_a, 0, bits
            yield f"information_y_ag of stage {stage.name}", mixture.information_y_ag, 0, bits
    for pool in record.pools:
        for name in (*FIDELITY, *QUALITY):
            lowest = -_LARGEST if name == "kid" else 0
            yield name, _found(pool, name), lowest, 1 if name in _SHARES else _LARGEST


def _check(run: Run, name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low - _ROUNDING <= value <= high + _ROUNDING:
        # The text is cut: a whole number in JSON may have thousands of digits.
        raise DamagedFile(f"{run.file}: {name} is {value!r:.16}, outside of {low:.6g} to {high:.6g}")


def _row(table: Table, group: Group) -> GeneratedRow:
    first = group.first
    records = [scored.run.record for scored in group.runs]
    runs = [record.pools for record in records]
    pools = [pool for used in runs for pool in used]
    return GeneratedRow(
        row=group.id,
        level=table.level,
        recipe=table.recipe,
        method=first.run.record.cell.method,
        changed=changed_settings(first.run.record, first.split.task.card),
        configuration=first.run.record.method.configuration,
        generator=generator_label(first),
        verification=first.run.level,
        seeds=len(records),
        tuning=sorted({pool.tuning.kind if pool.tuning else None for pool in pools}, key=_none_first),
        adapters=span(len(_adapters(used)) for used in runs),
        base_groups=span(_base_groups(used) for used in runs),
        filters=sorted({pool.filter.kind if pool.filter else None for pool in pools}, key=_none_first),
        filter_models=sorted({pool.filter.model for pool in pools if pool.filter}),
        kept=span(sum(pool.kept for pool in used) for used in runs),
        sampled=span(sum(pool.sampled for pool in used) for used in runs),
        measures={name: _measurement(runs, name) for name in (*FIDELITY, *QUALITY)},
        measured_on={name: sorted(_measured_on(pools, name)) for name in QUALITY},
        generated_only=_generated_only(group),
        tuning_seconds=_mean([_tuning_seconds(used) for used in runs]),
        sampling_seconds=_mean([sum(pool.seconds for pool in used) for used in runs]),
        auxiliary_seconds=_mean([record.cost.auxiliary_seconds if record.cost else 0.0 for record in records]),
    )


def _none_first(kind: str | None) -> tuple[bool, str]:
    return kind is not None, kind or ""


def _adapters(pools: Sequence[PoolUse]) -> set[str]:
    return {use.sha256 for pool in pools if pool.tuning for uses in pool.tuning.adapters.values() for use in uses}


def _base_groups(pools: Sequence[PoolUse]) -> int:
    return len({group for pool in pools if pool.tuning for group, uses in pool.tuning.adapters.items() if not uses})


def _tuning_seconds(pools: Sequence[PoolUse]) -> float:
    """Sum the time of fine-tuning; two pools of a run that share their adapters share its time."""
    seconds = {tuple(sorted(_adapters([pool]))): pool.tuning.seconds for pool in pools if pool.tuning}
    return sum(seconds.values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- measurements -----------------------------------------------------------------------------------------------------


def _measurement(runs: Sequence[Sequence[PoolUse]], name: str) -> Measurement:
    """Average one measurement over runs.

    Runs that used the very same images report the very same measurement; a t interval would then say that it is
    exact, so the measurement keeps its own interval.
    """
    values, reasons = zip(*(_of_run(pools, name) for pools in runs), strict=True)
    found = estimate(values, [reason for reason in reasons if reason])
    if found.value is None or len(set(values)) > 1:
        return Measurement(**found.model_dump())
    recorded = {(own.value, own.low, own.high) for pools in runs if len(pools) == 1 for own in [_found(pools[0], name)]}
    if len(recorded) == 1 and all(len(pools) == 1 for pools in runs):
        value, low, high = recorded.pop()
        return Measurement(value=value, low=low, high=high, own_interval=low is not None and high is not None)
    return Measurement(value=values[0], reason="no interval: all runs report the same value")


def _of_run(pools: Sequence[PoolUse], name: str) -> tuple[float | None, str]:
    """Return one measurement of a run, the mean over its pools weighted by kept images, or why there is none."""
    kept = sum(pool.kept for pool in pools)
    used = [pool for pool in pools if pool.kept]
    total = 0.0
    for pool in used:
        found = _found(pool, name)
        if found.value is None:
            return None, found.reason or _NOT_MEASURED
        total += pool.kept / kept * found.value
    return (total, "") if used else (None, _NOTHING_KEPT)


def _found(pool: PoolUse, name: str) -> MetricValue:
    """Return what a pool's record says; older minor versions of the schema knew less."""
    known = pool.quality if name in QUALITY else pool.label_fidelity
    return known.get(name) or MetricValue(value=None, interval="none", reason=_NOT_MEASURED)


def _measured_on(pools: Sequence[PoolUse], name: str) -> set[str]:
    found = [_found(pool, name) for pool in pools if pool.kept]
    texts = {each.reason if each.interval == "none" else each.interval for each in found if each.value is not None}
    return {text for text in texts if text}


def _generated_only(group: Group) -> Estimate:
    values, reasons = zip(*(_accuracy_alone(scored) for scored in group.runs), strict=True)
    return estimate(values, [reason for reason in reasons if reason])


def _accuracy_alone(scored: Scored) -> tuple[float | None, str]:
    """Return the accuracy of the last stage before which, and in which, no real image was trained on.

    A later stage on generated images only would start from weights that have seen real ones.
    """
    position = None
    for k, stage in enumerate(scored.run.record.stages):
        mixture = stage.mixture
        if mixture is None or any(map(any, mixture.real)):
            break
        if any(map(any, mixture.synthetic)) or any(mixture.synthetic_without_attribute):
            position = k
    if position is None:
        return None, _NEVER_ALONE
    answers = scored.answers.get((position, _LAST))
    return (answers.values[_ACCURACY], "") if answers is not None else (None, _NO_CHECKPOINT)
