"""Which configurations are tried: the default, then random ones of the space, drawn by Optuna."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.contract.space import Choice, Dimension, Range
from benchmark.errors import NotAvailable
from benchmark.evaluation.tuned import Value

_DIGITS = 3
"""Significant digits of drawn numbers: enough to search with, and short enough to be read and typed."""


def configurations(
    space: Mapping[str, Dimension], default: Mapping[str, Value], seed: int
) -> Iterator[dict[str, Value]]:
    """Yield the default and then, without end, independent draws: the k-th is the same whenever it is asked for.

    Random search, not a model of the values: draws that do not depend on what was found make the expected best-of-k
    curve what it says, and twenty trials are hardly more than other samplers draw at random to begin with.

    Args:
        space: What is searched.
        default: A value for each dimension.
        seed: Of the draws.

    Raises:
        NotAvailable: When Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise NotAvailable("tuning draws its trials with Optuna; install genbias-bench[tune]") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.enqueue_trial(dict(default))
    distributions = {name: _distribution(dimension) for name, dimension in space.items()}
    yield dict(study.ask(distributions).params)
    while True:
        drawn = study.ask(distributions).params
        yield {name: _readable(drawn[name], dimension) for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions as of

    if isinstance(dimension, Choice):
        return of.CategoricalDistribution(dimension.values)
    if dimension.whole:
        return of.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return of.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _readable(value: Any, dimension: Dimension) -> Value:
    if isinstance(dimension, Range) and not dimension.whole:
        return min(max(float(f"{value:.{_DIGITS}g}"), dimension.low), dimension.high)
    found: Value = value
    return found
