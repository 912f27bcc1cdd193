"""The generations of a process as its record holds them: which stage, which pool, and the share of conflicting images.

The board's trajectories and the picture of a run read records through this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.errors import InvalidValue
from benchmark.records.schema import CheckpointResult, MetricValue, PoolUse, StageResult

PROCESS = "process"
"""Kind of a method that is observed over generations and never ranked."""

_LAST = "last"
_NOT_AUDITED = "no auditor looked at the groups of the pool"
_NO_COUNTS = "there is no pool, and the stage does not say that it was trained on real images alone"


@dataclass(frozen=True, eq=False)
class Generation:
    """One generation of a process.

    Attributes:
        number: 0 is the classifier trained on the real data.
        stage: That generation's classifier.
        pool: The generated images that joined its training set; None where none did.
        real: Without a pool: the real images that it was trained on, [classes][attributes]; None where that is unknown.
    """

    number: int
    stage: StageResult
    pool: PoolUse | None
    real: list[list[int]] | None

    @property
    def checkpoint(self) -> CheckpointResult | None:
        """The checkpoint of rule ``last``: another rule applies to the last stage only."""
        return next((each for each in self.stage.checkpoints if each.rule == _LAST), None)

    @property
    def information_y_a(self) -> MetricValue:
        """I(Y;A) in bits of the images that :meth:`conflicting_share` is about."""
        if self.pool is not None:
            return _null(_NOT_AUDITED) if self.pool.groups is None else self.pool.groups.information_y_a
        mixture = self.stage.mixture
        return _null(_NO_COUNTS) if mixture is None or self.real is None else mixture.information_y_a

    def conflicting_share(self, aligned: Sequence[int]) -> MetricValue:
        """Return the share of bias-conflicting images among those that joined in this generation.

        Of generated images it is the auditor's, corrected; without a pool that of the real images trained on, exact.

        Args:
            aligned: Aligned attribute of each class.
        """
        if self.pool is not None:
            return _null(_NOT_AUDITED) if self.pool.groups is None else self.pool.groups.conflicting
        if self.real is None:
            return _null(_NO_COUNTS)
        total = sum(map(sum, self.real))
        conflicting = total - sum(row[a] for row, a in zip(self.real, aligned, strict=True))
        return MetricValue(value=conflicting / total, interval="none")


def generations_of(
    stages: Sequence[StageResult], pools: Sequence[PoolUse], train_counts: list[list[int]]
) -> list[Generation]:
    """Return the generations of a process in order.

    Args:
        stages: Of the run.
        pools: Of the run; each recipe names the generation whose training set the images join.
        train_counts: Real training images, [classes][attributes]: what generation 0 is trained on.

    Raises:
        InvalidValue: When the stages are not ``generation-0``, ``generation-1`` and so on, or a pool is of none of
            them or not the only one of its generation.
    """
    names = [stage.name for stage in stages]
    if names != [f"generation-{number}" for number in range(len(names))]:
        shown = ", ".join(repr(name[:40]) for name in names[:3])
        raise InvalidValue(f"the stages of a process are generation-0, generation-1 and so on, not {shown}")
    found: dict[int, PoolUse] = {}
    for pool in pools:
        number = pool.recipe.get("generation")
        if type(number) is not int or not 1 <= number < len(names) or number in found:
            raise InvalidValue(
                f"each pool of a process belongs to one generation of 1 to {len(names) - 1}; one says {number!r:.40}"
            )
        found[number] = pool
    return [
        Generation(number, stage, found.get(number), _real(stage, train_counts) if number else train_counts)
        for number, stage in enumerate(stages)
    ]


def _real(stage: StageResult, train_counts: list[list[int]]) -> list[list[int]] | None:
    """Return the images that a later stage was trained on, if it says that they were all real."""
    mixture = stage.mixture
    if mixture is None or any(map(any, mixture.synthetic)) or any(mixture.synthetic_without_attribute):
        return None
    if [len(row) for row in mixture.real] != [len(row) for row in train_counts]:
        return None
    counts = [n for row in mixture.real for n in row]
    return mixture.real if min(counts) >= 0 and max(counts) > 0 else None


def _null(reason: str) -> MetricValue:
    return MetricValue(value=None, interval="none", reason=reason)
