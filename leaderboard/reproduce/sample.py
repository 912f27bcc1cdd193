"""Which accepted rows a reproduction makes again: in the order of a hash, as many as fit into a time.

The choice depends on the committed records and the time alone, so nobody can choose what comes out well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmark.errors import UsageError
from benchmark.records.canonical import sha256_of
from benchmark.records.results import read_record, run_folder
from benchmark.records.schema import PoolUse, Record
from leaderboard.replay import LEAST_SEEDS
from leaderboard.replayable import Submitted, submitted_rows

CORES = 2
"""Cores on which the accepted runs of the demo task were made, two at a time; the time is meant on these."""
_ORDER = "genbias-bench reproduce, first order"
_AROUND_SECONDS = 3.0
"""Of a run made again, before and after what its record counts: the committed runs are read, the cell is looked up."""


@dataclass(frozen=True)
class Cost:
    """Seconds that a run takes on the machine of the committed records, if nothing was made before.

    Attributes:
        own: What it shares with no other run.
        shared: What is made once for all runs that need it: fine-tuning and sampling, by pool.
    """

    own: float
    shared: Mapping[str, float]

    @property
    def whole(self) -> float:
        """Seconds of the run alone."""
        return self.own + sum(self.shared.values())


@dataclass(frozen=True, eq=False)
class Candidate:
    """A row that can be held against its own seeds.

    Attributes:
        id: SHA-256 of what identifies the row, and its place in the order.
        row: Its accepted runs.
        seed: The committed seed that is repeated.
        repeated: Cost of repeating it.
        fresh: Cost of a fresh seed; its draw is not known yet, so it is taken to need as much as the repeated one.
    """

    id: str
    row: Submitted
    seed: int
    repeated: Cost
    fresh: Cost

    @property
    def costs(self) -> tuple[Cost, Cost]:
        """Cost of both runs."""
        return self.repeated, self.fresh


@dataclass(frozen=True)
class Wanted:
    """Which rows are looked at.

    Attributes:
        task: Name of the task.
        levels: Bias levels; empty takes all.
        methods: Names of methods; empty takes all.
    """

    task: str = "colorized-digits"
    levels: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


def candidates(accepted: Path, wanted: Wanted) -> list[Candidate]:
    """Read the accepted rows of a task and put those that have enough seeds into the order of their hashes.

    Args:
        accepted: Folder of the accepted records.
        wanted: Which of them.

    Raises:
        UsageError: When there is none.
        GenBiasError: For a record that is not what it says.
    """
    folders = [accepted / run_folder(wanted.task, method) for method in wanted.methods] or [accepted / wanted.task]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"there are no accepted records in {folder}; ask for what is on the board, in a checkout of the "
                "repository: the installed package has none"
            )
    read = [(row, [read_record(scored.run.file) for scored in row.runs]) for row in submitted_rows(folders)]
    # Any of them may have made what others took from the store.
    sampling = _sampling(record for _, records in read for record in records)
    found = [_candidate(row, records, sampling) for row, records in read if _is_wanted(row, wanted)]
    if not found:
        raise UsageError(
            f"no row in {', '.join(map(str, folders))} has {LEAST_SEEDS} seeds or more at the levels asked for"
        )
    return sorted(found, key=lambda each: each.id)


def sample(ordered: Sequence[Candidate], minutes: float | None) -> list[Candidate]:
    """Take rows from the front as long as they fit; one that does not is passed over.

    Args:
        ordered: From :func:`candidates`.
        minutes: Wall time on :data:`CORES` cores, estimated; None takes all.

    Raises:
        UsageError: When not even one fits.
    """
    if minutes is None:
        return list(ordered)
    taken: list[Candidate] = []
    for candidate in ordered:
        if wall_seconds([*taken, candidate], CORES) <= 60 * minutes:
            taken.append(candidate)
    if not taken:
        least = min(wall_seconds([candidate], CORES) for candidate in ordered) / 60
        raise UsageError(
            f"no row fits into {minutes:g} min; the shortest takes about {least:.1f}: give --budget-minutes"
        )
    return taken


def work_seconds(chosen: Iterable[Candidate]) -> float:
    """Return the estimated time of some rows on one core; what their runs share counts once."""
    costs = [cost for candidate in chosen for cost in candidate.costs]
    shared: dict[str, float] = defaultdict(float)
    for cost in costs:
        for pool, seconds in cost.shared.items():
            shared[pool] = max(shared[pool], seconds)
    return sum(cost.own for cost in costs) + sum(shared.values())


def wall_seconds(chosen: Sequence[Candidate], workers: int) -> float:
    """Return the estimated time of some rows with so many runs at a time, each of which needs one core."""
    longest = max((cost.whole for candidate in chosen for cost in candidate.costs), default=0.0)
    return max(work_seconds(chosen) / workers, longest)


def repeated_seed(seeds: Iterable[int]) -> int:
    """Return which committed seed is repeated: the same in every row that has it, so that rows share their images."""
    return min(seeds, key=lambda seed: sha256_of([_ORDER, "seed", seed]))


def _is_wanted(row: Submitted, wanted: Wanted) -> bool:
    return len(row.runs) >= LEAST_SEEDS and (not wanted.levels or row.record.cell.level in wanted.levels)


def _candidate(row: Submitted, records: Sequence[Record], sampling: Mapping[str, float]) -> Candidate:
    seed = repeated_seed(record.seed for record in records)
    own = median(_own_seconds(record) for record in records)
    needed = next(record for record in records if record.seed == seed).pools
    repeated, fresh = {}, {}
    for index, pool in enumerate(needed):
        same_place = [record.pools[index] for record in records if index < len(record.pools)]
        seconds = median(_making_seconds(each, sampling) for each in same_place)
        of_every_seed = len({each.pool_id for each in same_place}) == 1
        repeated[pool.pool_id] = seconds
        fresh[pool.pool_id if of_every_seed else f"{pool.pool_id} of a fresh seed"] = seconds
    return Candidate(sha256_of([_ORDER, row.runs[0].configuration]), row, seed, Cost(own, repeated), Cost(own, fresh))


def _own_seconds(record: Record) -> float:
    """Return the time of a run without its images; stages that it found in the store are trained again."""
    assert record.cost is not None
    remembered = sum(stage.seconds for stage in record.stages if stage.remembered)
    return max(0.0, record.cost.wall_seconds - record.cost.generator_seconds) + remembered + _AROUND_SECONDS


def _making_seconds(pool: PoolUse, sampling: Mapping[str, float]) -> float:
    """Return the time of making a pool, also where the run found it in the store."""
    trained = sum(part.seconds for part in (pool.tuning, pool.own) if part is not None)
    return trained + sampling[pool.pool_id]


def _sampling(records: Iterable[Record]) -> dict[str, float]:
    """Return by pool the time of sampling it: that of the run that did most of it."""
    seconds: dict[str, float] = defaultdict(float)
    for record in records:
        for pool in record.pools:
            seconds[pool.pool_id] = max(seconds[pool.pool_id], pool.seconds)
    return seconds
