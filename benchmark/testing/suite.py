"""Checking one adapter against the contract: what ``genbias-bench methods check`` and the pytest plug-in call."""

from __future__ import annotations

import functools
import inspect
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.contract.method import Method, MethodCard
from benchmark.contract.registry import listed_methods, load_method, origin_of
from benchmark.contract.tracks import Track
from benchmark.errors import ContractViolation, GenBiasError, UnknownName
from benchmark.testing.checks import Case, judge, nothing_but
from benchmark.testing.imports import import_findings
from benchmark.testing.report import Report
from benchmark.testing.small import BATCH, IMAGES, LEVEL, STEPS, small_task

if TYPE_CHECKING:
    from benchmark.testing.runs import Runner

LIMIT_S = 45.0
"""Seconds of processor time, or of waiting, that one run may take; an adapter has up to six, two at a time."""

_TIERS = ("demo", "core", "extended")


def check_method(name: str, *, overrides: Mapping[str, Any] | None = None, limit: float = LIMIT_S) -> Report:
    """Check an adapter: every check is made and reported, also when others fail, the adapter hangs or crashes.

    Args:
        name: As in ``genbias-bench list methods``.
        overrides: Hyper-parameters.
        limit: Seconds of processor time, or of waiting, that one run may take.

    Raises:
        UnknownName: When there is no such method.
    """
    (report,) = check_methods([name], overrides=overrides, limit=limit)
    return report


def check_methods(
    names: Sequence[str], *, overrides: Mapping[str, Any] | None = None, limit: float = LIMIT_S
) -> Iterator[Report]:
    """Check several adapters one after the other; see :func:`check_method`."""
    known = listed_methods()
    for name in names:
        if name not in known:
            raise UnknownName("method", name, known, "See `genbias-bench list methods`.")
    from benchmark.testing.runs import two_runners

    with two_runners() as runners:
        for name in names:
            yield _check(name, overrides or {}, limit, runners)


def _check(name: str, overrides: Mapping[str, Any], limit: float, runners: tuple[Runner, Runner]) -> Report:
    start, listed = time.monotonic(), listed_methods()[name]
    subject = f"{name} ({listed.package} {listed.version})"
    try:
        method = load_method(name)
        task = small_task(name, overrides)
    except GenBiasError as error:
        at = "imports" if isinstance(error.__cause__, ImportError) else "card"
        checks = nothing_but(at, (str(error),), "the adapter cannot be loaded")
        return Report(subject, checks, time.monotonic() - start)
    files, card, hparams = _files(name, method), method.card, task.cell.hparams
    from benchmark.testing.runs import run_all

    with tempfile.TemporaryDirectory(prefix="genbias-check-") as folder:
        runs = run_all(task, _roots(name, files), Path(folder).resolve(), limit, runners)
    case = Case(
        name=name, track=task.cell.track, stages=card.stages_of(hparams), uses_generator=card.generator_for(hparams),
        budget=task.cell.budget, limit=limit, card=tuple(_card_findings(card)),
        imports=tuple(import_findings(files, listed.package)), runs=runs,
    )  # fmt: skip
    subject = f"{name}@{card.version} ({listed.package} {listed.version})"
    return Report(subject, judge(case), time.monotonic() - start, _notes(task.cut, case))


@functools.cache
def report_of(name: str) -> Report:
    """Return the report on an adapter, made once in a process: every test of a test run asks for it."""
    return check_method(name)


def _notes(cut: Mapping[str, int], case: Case) -> tuple[str, ...]:
    notes = [
        f"on colorized-digits at bias level {LEVEL}: {STEPS} optimiser steps of {BATCH} images, at most {IMAGES} "
        "generated images (a process: as many as there are real ones), one CPU thread"
    ]
    if cut:
        notes.append(f"hyper-parameters cut down: {', '.join(f'{name}={value}' for name, value in cut.items())}")
    if not case.runs.first.outcome.network_blocked:
        notes.append("the system lets no process leave the network, so only what Python asks for was refused")
    notes += [f"the adapter says: {note}" for note in case.runs.first.outcome.notes]
    return tuple(notes)


def _files(name: str, method: Method) -> tuple[Path, ...]:
    """Return the adapter's file and those of its own base classes; of a plug-in all files of its package."""
    module = inspect.getmodule(type(method))
    if not listed_methods()[name].in_tree and module is not None and "." in module.__name__:
        top = Path(str(module.__file__)).parents[module.__name__.count(".") - 1]
        return tuple(sorted(top.rglob("*.py")))
    kinds = [kind for kind in type(method).__mro__ if issubclass(kind, Method) and kind is not Method]
    return tuple(dict.fromkeys(Path(inspect.getfile(kind)) for kind in kinds))


def _roots(name: str, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return what counts as the adapter's own code."""
    if listed_methods()[name].in_tree:
        return (origin_of(name).file.parent,)
    return files


def _card_findings(card: MethodCard) -> list[str]:
    found = [f"`{field}` is empty" for field in ("summary", "source") if not getattr(card, field).strip()]
    if len(card.summary) > 120:
        found.append(f"`summary` has {len(card.summary)} characters; a line of `list methods` has room for 120")
    for field, info in card.hparams.model_fields.items():
        if not info.description:
            found.append(f"hyper-parameter {field!r} has no description")
        if info.is_required():
            found.append(f"hyper-parameter {field!r} has no default")
    unknown = [tier for tier in card.tier_defaults if tier not in _TIERS]
    found += [f"`tier_defaults` names the tier {tier!r}; there are {', '.join(_TIERS)}" for tier in unknown]
    for tier in _TIERS:
        found += _configuration_findings(card, tier)
    return list(dict.fromkeys(found))


def _configuration_findings(card: MethodCard, tier: str) -> list[str]:
    try:
        hparams = card.defaults(tier)
        track, stages = card.track_of(hparams), card.stages_of(hparams)
        card.generator_for(hparams)
    except (ValueError, TypeError, AttributeError, ContractViolation) as error:
        return [f"with the defaults of the {tier} tier: {type(error).__name__}: {error}"]
    found = [] if isinstance(track, Track) else [f"`track` gives {track!r}, which is no Track"]
    if not isinstance(stages, tuple) or not stages or len(set(stages)) != len(stages):
        found.append(f"`stages` gives {stages!r}; it must be a tuple of different names, at least one")
    return found
