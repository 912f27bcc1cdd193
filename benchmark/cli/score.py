"""`score`: recompute every metric of a record from its stored predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.output import Debug, Json, interval, percent, print_json, print_table, say
from benchmark.errors import DamagedFile

if TYPE_CHECKING:
    from benchmark.evaluation.score import Rescored
    from benchmark.records.schema import Record


def score(
    record: Annotated[Path, typer.Argument(help="A record.json (.gz), or the folder that holds it.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Recompute every metric from the predictions and compare with the record, bit for bit.

    Under other versions of numpy or scipy than the record's, last bits of intervals differ: then to 1e-9.

    A record of an older metrics version is scored again by this one, and only its group counts are compared.

    Of an accepted record on a large test split only the arg-max of the ranked stage is kept: what needs more is named.

    Exit code 1 when anything differs. Test labels are public, so equality shows that the arithmetic is right, not that
    the answers were come by honestly. For example:

      genbias-bench score results/colorized-digits/erm/0.95-seed0-b489c2f00c97
    """
    del debug
    from benchmark.evaluation.score import score as recompute
    from benchmark.evaluation.scoring import rounding_against
    from benchmark.metrics.versions import is_older, rescored

    content, results = recompute(record)
    differing = [f"{r.stage}/{r.rule}: {', '.join(r.differing)}" for r in results if r.differing]
    if json:
        print_json(
            [
                {
                    "stage": r.stage,
                    "rule": r.rule,
                    "equal": not r.differing,
                    "differing": r.differing,
                    "recorded": r.recorded,
                    "metrics": {name: metric.model_dump(mode="json") for name, metric in r.metrics.items()},
                }
                for r in results
            ]
        )
    else:
        rows = [
            (r.stage, r.rule, name, percent(metric.value), interval(metric.low, metric.high), metric.reason or "")
            for r in results
            for name, metric in r.metrics.items()
        ]
        print_table(("stage", "rule", "metric", "%", "95 % interval", "why undefined"), rows)
    if differing:
        raise DamagedFile(f"{record} does not follow from its predictions: {'; '.join(differing)}")
    if kept := _only_kept(content, results):
        say(kept)
    if is_older(content.metrics_version, content.run_id):
        again = rescored(content.metrics_version)
        say(f"{len(results)} checkpoints of {content.run_id}: {again}; only group counts were compared")
        return
    rounding = rounding_against(content)
    how = (
        f"equal to the record to {rounding:g} (it names other versions of numpy or scipy)"
        if rounding
        else "bit-equal to the record"
    )
    every = "every other metric" if any(r.recorded for r in results) else "every metric"
    say(f"{len(results)} checkpoints of {content.run_id}: {every} is {how}")


def _only_kept(record: Record, results: Sequence[Rescored]) -> str:
    """Say what stands as recorded, because only the arg-max of some checkpoints was kept; empty where nothing does."""
    recomputed = {(r.stage, r.rule) for r in results}
    checkpoints = [(stage.name, each.rule) for stage in record.stages for each in stage.checkpoints]
    gone = [f"{stage}/{rule}" for stage, rule in checkpoints if (stage, rule) not in recomputed]
    names = sorted({name for r in results for name in r.recorded})
    parts = [f"{', '.join(names)} (they need the probabilities)"] if names else []
    parts += [f"all of {', '.join(gone)}"] if gone else []
    return f"only the arg-max was kept; as recorded: {'; '.join(parts)}" if parts else ""
