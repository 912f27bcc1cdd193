"""What `evaluate` prints about generated images: pools, their groups, transfer, generations, and probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.cli.output import interval, percent, print_table, print_text, say

if TYPE_CHECKING:
    from benchmark.records.schema import MetricValue, PoolUse, Record


def show_generated(record: Record) -> None:
    """Print everything that a record says about generated images; nothing where there are none."""
    if record.pools:
        _show_pools(record)
        print_text()
    if any(pool.groups for pool in record.pools):
        _show_groups(record)
        print_text()
    if any(pool.transfer for pool in record.pools):
        _show_transfer(record)
        print_text()
    if any(stage.probes for stage in record.stages):
        _show_probes(record)
        print_text()


def _show_pools(record: Record) -> None:
    rows = []
    for pool in record.pools:
        fidelity = [percent_with_interval(pool.label_fidelity.get(name)) for name in ("y", "a")]
        distances = [_figures(pool.quality.get(name)) for name in ("fid", "kid")]
        memorised = percent_with_interval(pool.quality.get("memorised_share"))
        kept = f"{pool.kept} of {pool.sampled}"
        filtered = "none" if pool.filter is None else pool.filter.kind
        rows.append((pool.pool_id[:12], *_tuning(pool), filtered, kept, *fidelity, memorised, *distances))
    columns = (
        "pool", "fine-tuning", "adapters", "filter", "kept", "y shown %", "a shown %", "memorised %", "FID", "KID",
    )  # fmt: skip
    print_table(columns, rows, "Generated images")
    _say_why_not([found for pool in record.pools for found in (*pool.label_fidelity.values(), *pool.quality.values())])


def _show_groups(record: Record) -> None:
    """Print a line per pool about its groups; of a loop, also what generation it is for."""
    rows = []
    for pool in record.pools:
        if (groups := pool.groups) is None:
            continue
        raw = percent(groups.conflicting_raw.value)
        bits = _figures(groups.information_y_a)
        changed = "-" if pool.labels is None else pool.labels.changed
        generation = pool.recipe.get("generation") or "-"
        share = percent_with_interval(groups.conflicting)
        rows.append((pool.pool_id[:12], generation, _kind(pool), share, raw, bits, len(groups.absent), changed))
    columns = (
        "pool", "for generation", "generator", "conflicting %", "uncorrected %", "I(Y;A) bits", "groups not seen",
        "labels changed",
    )  # fmt: skip
    print_table(columns, rows, "Groups of generated images, by the auditor of the attribute")
    classes = zip(record.task.train_counts, record.task.realised_rho, strict=True)
    aligned = sum(sum(counts) * (rho or 0.0) for counts, rho in classes)
    say(f"in the training data {percent(1 - aligned / record.task.n_train)} % of the images are conflicting")


def _show_transfer(record: Record) -> None:
    names = ("y_kept", "a_reached", "both")
    rows = [
        (pool.pool_id[:12], *(percent_with_interval(pool.transfer.get(name)) for name in names),
         *(percent_with_interval(pool.transfer.get(f"{name}_raw")) for name in names))
        for pool in record.pools
        if pool.transfer
    ]  # fmt: skip
    shown = ("label kept %", "attribute reached %", "both %")
    print_table(("pool", *shown, *(f"{name} uncorrected" for name in shown)), rows, "Moved images, by the auditors")


def _kind(pool: PoolUse) -> str:
    if pool.own is not None:
        return pool.own.kind
    return "text-to-image" if pool.tuning is None else f"text-to-image, {pool.tuning.kind}"


def _show_probes(record: Record) -> None:
    rows = []
    for stage in record.stages:
        cells = []
        for name in ("a", "g", "ag"):
            chance = stage.probes.get(f"{name}_chance")
            cells += [percent_with_interval(stage.probes.get(name)), percent(None if chance is None else chance.value)]
        rows.append((stage.name, *cells))
    columns = ("stage", "attribute %", "chance %", "real or generated %", "chance %", "both %", "chance %")
    print_table(columns, rows, "Probes: balanced accuracy on frozen features")
    _say_why_not([found for stage in record.stages for found in stage.probes.values()])


def _tuning(pool: PoolUse) -> tuple[str, int]:
    if pool.tuning is None:
        return "as it is", 0
    return pool.tuning.kind, len({use.sha256 for uses in pool.tuning.adapters.values() for use in uses})


def percent_with_interval(metric: MetricValue | None) -> str:
    """Show a share as a percentage with its interval; undefined as a dash."""
    if metric is None:
        return percent(None)
    return f"{percent(metric.value)} {interval(metric.low, metric.high)}".strip()


def _figures(metric: MetricValue | None) -> str:
    return "-" if metric is None or metric.value is None else f"{metric.value:.4g}"


def _say_why_not(metrics: list[MetricValue]) -> None:
    for reason in sorted({metric.reason for metric in metrics if metric.value is None and metric.reason}):
        say(f"not measured: {reason}")
