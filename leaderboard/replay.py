"""`replay`: one more run of submitted configurations, from the installed code and in isolation (protocol section 9).

Everything that can be refused is refused before anything is trained.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.contract.space import SEED
from benchmark.errors import InvalidValue, NotAvailable, UsageError
from benchmark.evaluation.cell import ResolvedCell, resolve_cell
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.evaluation.score import score
from benchmark.metrics.across_seeds import pooled_deviation
from benchmark.progress import Progress, Silent
from benchmark.records.files import read_json, write_json
from benchmark.records.results import RECORD_FILE, records_of
from benchmark.records.schema import CheckpointResult, Environment, MetricValue, Record
from benchmark.records.store import default_store
from leaderboard.claims import recipe_of
from leaderboard.groups import Scored, group_runs
from leaderboard.load import Problems
from leaderboard.ranks import rank_groups
from leaderboard.reading import read_runs
from leaderboard.remembered import BOARD_CACHE, Remembered
from leaderboard.replayable import Submitted, check_configuration, check_runnable, request_of, submitted_rows
from leaderboard.replayed import (
    REPLAY_FILE,
    Replay,
    RuleVerdict,
    SameSeed,
    differing_metrics,
    judge,
    largest_difference,
    other_conditions,
)
from leaderboard.trajectories import is_process
from leaderboard.verification import VERIFICATION_FILE, read_verifications, record_digest

LEAST_SEEDS = 2
"""Seeds of a row that have a spread."""
_FRESH_SEEDS = 1_000_000


@dataclass(frozen=True)
class Where:
    """Where and with what a replay runs.

    Attributes:
        results: Folder of the replays' records.
        store: Folder of pools and trained stages; None takes :func:`default_store`. Stages are always trained again.
        device: ``auto``, ``cpu``, ``cuda`` …
        threads: CPU threads; None takes those of the run whose seed is repeated, and torch's default for a fresh seed.
        generator: Folder of the generator, where the records name one by its content.
        clip: The same for a CLIP model.
        verification: The file of verification levels; the accepted records lie in ``results`` beside it.
    """

    results: Path = Path("replays")
    store: Path | None = None
    device: str = "auto"
    threads: int | None = None
    generator: str | None = None
    clip: str | None = None
    verification: Path = VERIFICATION_FILE


@dataclass(frozen=True, eq=False)
class Plan:
    """One row with what is to be run.

    Attributes:
        row: The row.
        cell: The run.
        repeated: The submitted run of the same seed; None for a fresh one.
        pooled: By selection rule, the deviation whose double caps the row's own.
        threads: CPU threads; None takes torch's default.
    """

    row: Submitted
    cell: ResolvedCell
    repeated: Scored | None
    pooled: Mapping[str, float | None]
    threads: int | None


def replay(
    records: Sequence[Path],
    where: Where | None = None,
    *,
    seed: int | None = None,
    same_seed: bool = False,
    progress: Progress | None = None,
) -> list[Replay]:
    """Run one seed of each row again and say whether the submitted seeds predict what comes out.

    Each replay is also written beside its record, as ``replay.json``.

    Args:
        records: Records, or folders of them; they are gathered into rows as the board does.
        where: Where and with what.
        seed: Of the replays; None takes one of its own that was not submitted, or the lowest submitted one.
        same_seed: Repeat a submitted seed in place of a fresh one.
        progress: Where to show progress.

    Returns:
        A replay for each row.

    Raises:
        UsageError: Without a finished run, with too few seeds, or with a seed that does not fit.
        NotAvailable: When the method, its code or the generator is not the one that the records name.
        DataError: When the task's card or data are not those of the records.
        GenBiasError: As reading records and running a cell do.
    """
    where, progress = where or Where(), progress or Silent()
    plans = [plan_replay(row, where, seed, same_seed, progress) for row in submitted_rows(records)]
    return [_replay(plan, where, progress) for plan in plans]


def fresh_seed(taken: Collection[int]) -> int:
    """Return a seed that is none of these and that whoever chose them could not foresee."""
    while (seed := secrets.randbelow(_FRESH_SEEDS)) in taken:
        pass
    return seed


def plan_replay(
    row: Submitted, where: Where, seed: int | None = None, same_seed: bool = False, progress: Progress | None = None
) -> Plan:
    """Find out what is to be run for one row; see :func:`replay`, which runs it.

    Raises:
        GenBiasError: When it cannot be run, or could confirm nothing.
    """
    check_runnable(row)
    seeds = {scored.run.record.seed: scored for scored in row.runs}
    chosen = _seed(seeds, row, seed, same_seed)
    repeated = seeds[chosen] if same_seed else None
    cell = resolve_cell(request_of(row, chosen, where.generator, where.clip), progress)
    check_configuration(cell, repeated or row.runs[0], same_seed=same_seed)
    threads = where.threads
    if repeated is not None and threads is None:
        threads = repeated.run.record.environment.threads
    plan = Plan(row, cell, repeated, _ranked_deviations(row, where), threads)
    _check_seeds(plan, where)
    return plan


def _seed(seeds: Mapping[int, Scored], row: Submitted, seed: int | None, same_seed: bool) -> int:
    listed = ", ".join(map(str, seeds))
    if same_seed:
        if seed is not None and seed not in seeds:
            raise UsageError(f"seed {seed} is none of those submitted ({listed}), so it cannot be repeated")
        return min(seeds) if seed is None else seed
    if seed in seeds:
        raise UsageError(f"seed {seed} is one of those submitted ({listed}); give another, or repeat it by --same-seed")
    if len(seeds) < LEAST_SEEDS:
        raise UsageError(
            f"{row.runs[0].run.file} is the only seed of its row; a prediction interval needs at least {LEAST_SEEDS}: "
            "give the row's other records too, or repeat this one by --same-seed"
        )
    return fresh_seed({*seeds, SEED}) if seed is None else seed


def _check_seeds(plan: Plan, where: Where) -> None:
    """Refuse to repeat a lone seed where its answers need not be equal: there would be nothing to hold them against."""
    if plan.repeated is None or len(plan.row.runs) >= LEAST_SEEDS:
        return
    here = environment_here(plan, where)
    if other := other_conditions(plan.repeated.run.record.environment, here):
        raise UsageError(
            f"{plan.repeated.run.file} is the only seed of its row and would not run under the same "
            f"{', '.join(other)}; give the row's other records too, or run it as it was run"
        )


def environment_here(plan: Plan, where: Where) -> Environment:
    """Return the environment that the run would have."""
    from benchmark.evaluation.execution import Execution

    store = where.store or default_store()
    return Execution(
        plan.cell, store, where.device, plan.threads, force=True, isolated=True, progress=Silent()
    ).environment


def _ranked_deviations(row: Submitted, where: Where) -> dict[str, float | None]:
    """Return the pooled deviation of the ranked rows of the same task, level and recipe, by selection rule."""
    task, level = row.runs[0].split.task.card.task.name, row.record.cell.level
    accepted = records_of(where.verification.with_name("results") / task, f"*/{level}-seed*")
    verified, problems = read_verifications(where.verification).by_digest(), Problems()
    table = _table(row.runs[0])
    found: dict[str, float | None] = {}
    with Remembered(default_store() / BOARD_CACHE) as memory:
        read = read_runs(accepted, verified, memory, problems)
        problems.raise_any()
        members = [each for each in read.scored if not is_process(each) and _table(each) == table]
        for rule in row.groups:
            groups = group_runs(members, rule)
            ranks, _ = rank_groups(groups, row.metric, memory, " ".join([*table, rule]))
            ranked = [group.values(row.metric) for group in groups if group.id in ranks]
            found[rule] = pooled_deviation([np.array(values, dtype=np.float64) for values in ranked])
    return found


def _table(scored: Scored) -> tuple[str, str, str]:
    cell = scored.run.record.cell
    return cell.task, cell.level, recipe_of(scored.run.record, scored.split.task.card)


def _replay(plan: Plan, where: Where, progress: Progress) -> Replay:
    done = evaluate_cell(
        plan.cell,
        results=where.results,
        store=where.store or default_store(),
        device=where.device,
        threads=plan.threads,
        force=True,
        isolated=True,
        progress=progress,
    )
    record, submitted = done.record, plan.row.record
    if record.status != "success":
        raise NotAvailable(f"{done.folder} did not finish: {record.skipped_because}")
    same = {} if plan.repeated is None else _same_seed(plan.repeated, done)
    rules = [_verdict(plan, rule, done, same.get(rule)) for rule in plan.row.groups]
    found = Replay(
        task=record.cell.task,
        level=record.cell.level,
        recipe=record.task.recipe,
        method=record.cell.method,
        hparams=record.method.hparams,
        configuration=submitted.method.configuration,
        generator=record.cell.generator,
        records={scored.run.file.parent.name: scored.run.digest for scored in plan.row.runs},
        seed=record.seed,
        draw=record.cell.draw,
        same_seed=plan.repeated is not None,
        run=done.folder.name,
        record=record_digest(read_json(done.folder / RECORD_FILE), str(done.folder)),
        environment=record.environment,
        isolation=record.isolation,
        rules=rules,
        inside=all(rule.inside for rule in rules),
    )
    write_json(done.folder / REPLAY_FILE, found.model_dump(mode="json"))
    return found


def _verdict(plan: Plan, rule: str, done: Evaluation, same: SameSeed | None) -> RuleVerdict:
    replayed = _checkpoint(done.record, rule).metrics[plan.row.metric].value
    if replayed is None:
        raise InvalidValue(f"{done.folder}: {plan.row.metric} is undefined in the replay")
    return judge(rule, plan.row.metric, plan.row.values(rule), replayed, plan.pooled.get(rule), same)


def _same_seed(repeated: Scored, done: Evaluation) -> dict[str, SameSeed]:
    """Compare a replay with the submitted run of its seed, by this version's metrics, under each rule."""
    record, found = score(repeated.run.file)
    conditions = other_conditions(record.environment, done.record.environment)
    same = {}
    for each in found:
        if each.stage == record.ranked_stage.name:
            submitted, replayed = _checkpoint(record, each.rule), _checkpoint(done.record, each.rule)
            same[each.rule] = SameSeed(
                conditions,
                # Where the submitted run kept the arg-max alone, the digest says whether the rest is equal too.
                differing_metrics(each.metrics, _without(replayed.metrics, each.recorded)),
                submitted.predictions.sha256 == replayed.predictions.sha256,
                largest_difference(each.metrics, replayed.metrics),
            )
    return same


def _without(metrics: Mapping[str, MetricValue], names: Collection[str]) -> dict[str, MetricValue]:
    return {name: metric for name, metric in metrics.items() if name not in names}


def _checkpoint(record: Record, rule: str) -> CheckpointResult:
    return next(each for each in record.ranked_stage.checkpoints if each.rule == rule)
