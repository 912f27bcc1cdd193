"""Which cells a grid holds: selectors, from the command line or a file, become requests (torch-free)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from benchmark.contract.registry import listed_methods, load_method, resolve_hparams
from benchmark.errors import DamagedFile, GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.evaluation.cell import CLIP, MAX_SEED, Request, check_clip
from benchmark.evaluation.tuned import Study, read_study
from benchmark.generators.clip_identity import resolve_clip
from benchmark.generators.identity import resolve_generator
from benchmark.generators.sampling import sampling_of
from benchmark.tasks.card import DataCard
from benchmark.tasks.catalog import DEFAULT_TASK, find_card
from benchmark.tasks.levels import normalise_level
from benchmark.training.specs import backbone_spec, named_weights

ALL = "all"
"""Every method, or every bias level of a task."""

DEFAULT_SEEDS = "0-4"
"""Five seeds, one per draw: fewer are shown and not ranked (protocol §7)."""

_MOST_SEEDS = 1000
_NOT_HERE = (NotAvailable, GeneratorError)
"""What blocks cells on this machine, but is no mistake of the selection."""
_SEEDS = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)


def parse_seeds(text: str | int) -> tuple[int, ...]:
    """Read seeds such as ``0-4``, ``3`` or ``0,2,5-7``.

    Raises:
        InvalidValue: For anything else, a range that runs backwards, seeds that are too large or more than a thousand.
    """
    seeds: dict[int, None] = {}
    for part in str(text).split(","):
        match = _SEEDS.fullmatch(part.strip())
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
        if not last <= MAX_SEED or last < first or last - first >= _MOST_SEEDS or len(seeds) >= _MOST_SEEDS:
            raise InvalidValue(
                f"seeds {str(text)!r} cannot be read: give numbers and ranges such as 0-4 or 0,2,5-7, at most "
                f"{_MOST_SEEDS} of them, up to {MAX_SEED}"
            )
        seeds |= dict.fromkeys(range(first, last + 1))
    return tuple(seeds)


def _listed(value: Any) -> Any:
    """Take one word for a list of one."""
    return [value] if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Block(BaseModel):
    """One block of a grid: the product of its lists.

    Attributes:
        methods: Names, or ``all``.
        tasks: Names, with or without version.
        levels: Bias levels, or ``all``; empty takes each task's default.
        seeds: Such as ``0-4``.
        generators: Names, folders or Hub ids, for the methods that use a generator; empty takes each card's default.
        set: Hyper-parameters, for the methods that have them.
        recipe: One of the tasks' training recipes.
        backbone_weights: ``none``, ``imagenet`` or torchvision's name.
        clip: CLIP model, for the methods whose hyper-parameters ask for one.
        sampling: How generators are sampled, for the methods that use one.
        tuned: File of a tuning study, whose choice is run; ``methods`` and ``tasks`` then name what it tuned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: Words = Field(min_length=1)
    tasks: Words = Field(default=(DEFAULT_TASK,), min_length=1)
    levels: Words = ()
    seeds: str | int = DEFAULT_SEEDS
    generators: Words = ()
    set: Mapping[str, Any] = Field(default_factory=dict)
    recipe: str | None = None
    backbone_weights: str | None = None
    clip: str | None = None
    sampling: Mapping[str, Any] = Field(default_factory=dict)
    tuned: str | None = None


def tuned_blocks(
    files: Iterable[Path], *, levels: Sequence[str], seeds: str | None, generators: Sequence[str]
) -> list[Block]:
    """Return a block for the choice of each tuning study.

    Raises:
        DamagedFile: For a file that is none.
    """
    blocks = []
    for file in files:
        study = read_study(file)
        blocks.append(
            Block(
                methods=(study.method,), tasks=(study.task,), levels=tuple(levels),
                seeds=DEFAULT_SEEDS if seeds is None else seeds, generators=tuple(generators), tuned=str(file),
            )
        )  # fmt: skip
    return blocks


def requests_of(blocks: Iterable[Block], *, offline: bool = False) -> list[Request]:
    """Return the cells of some blocks, in their order: task, level, method, generator, seed.

    Raises:
        UsageError: For unknown names, levels or hyper-parameters, and options that no selected method has a use for.
    """
    return [request for block in blocks for request in _requests(block, offline)]


def _requests(block: Block, offline: bool) -> list[Request]:
    seeds = parse_seeds(block.seeds)
    cards = [find_card(task) for task in dict.fromkeys(block.tasks)]
    methods = _methods(block.methods)
    used: set[str] = set()
    found: list[Request] = []
    for card in cards:
        _check_recipe(block, card)
        configured = [(method, *_configuration(block, method, card, used, offline)) for method in methods]
        for level in _levels(block.levels, card):
            for method, generators, overrides, clip, sampling in configured:
                found += [
                    Request(
                        method=method, task=card.task.name, level=level, seed=seed, generator=generator,
                        overrides=overrides, offline=offline, recipe=block.recipe,
                        backbone_weights=block.backbone_weights, clip=clip, sampling=sampling,
                    )
                    for generator in generators
                    for seed in seeds
                ]  # fmt: skip
    _check_used(block, methods, used)
    return found if block.tuned is None else _tuned(block.tuned, block, found)


def _tuned(file: str, block: Block, requests: Sequence[Request]) -> list[Request]:
    """Return requests with what a study chose.

    Raises:
        InvalidValue: When it chose nothing, or tuned something else than the block names.
    """
    try:
        study: Study = read_study(Path(file))
    except DamagedFile as error:
        raise InvalidValue(f"--tuned {error}") from error
    for request in requests:
        if (request.method, request.task) != (study.method, study.task):
            asked = f"{request.method} on {request.task}"
            raise InvalidValue(f"--tuned {file} is a study of {study.method} on {study.task}, not of {asked}")
    for option, given in (("--set", block.set), ("--sampling", block.sampling), ("--clip", block.clip)):
        if given:
            raise InvalidValue(f"{option} contradicts --tuned, whose study says how its cells are configured")
    return [study.tuned(request) for request in requests]


def _check_recipe(block: Block, card: DataCard) -> None:
    """Refuse a recipe that the task does not have, and weights that its backbone cannot have."""
    recipe = card.recipe(block.recipe)
    weights = named_weights(block.backbone_weights, recipe.backbone_weights)
    try:
        backbone_spec(recipe.backbone, len(card.task.label.values), weights)
    except InvalidValue as error:
        raise InvalidValue(f"--backbone-weights {block.backbone_weights}: {error}") from error


def _configuration(
    block: Block, method: str, card: DataCard, used: set[str], offline: bool
) -> tuple[tuple[str | None, ...], dict[str, Any], str | None, Mapping[str, Any]]:
    """Return what of a block concerns one method on one task, and add to ``used`` what did."""
    adapter = load_method(method)
    overrides = {name: value for name, value in block.set.items() if name in adapter.card.hparams.model_fields}
    hparams = resolve_hparams(adapter, overrides, card.task.tier)
    used |= {f"--set {name}" for name in overrides}
    generators: tuple[str | None, ...] = (None,)
    sampling: Mapping[str, Any] = {}
    if adapter.card.generator_for(hparams):
        used |= {"--generator", "--sampling"}
        generators, sampling = block.generators or (None,), block.sampling
        for generator in generators:
            with contextlib.suppress(*_NOT_HERE):
                name = generator or card.task.generator.name
                identity = resolve_generator(name, offline=offline)
                sampling_of(identity.name, card.task.generator, sampling)
    clip = None
    if CLIP in hparams.model_dump().values():
        used.add("--clip")
        clip = block.clip
        check_clip(Request(method, clip=clip), hparams)
        with contextlib.suppress(*_NOT_HERE):
            resolve_clip(block.clip or "", offline=offline)
    return generators, overrides, clip, sampling


def _check_used(block: Block, methods: Sequence[str], used: set[str]) -> None:
    """Refuse what no selected method has a use for."""
    named = ", ".join(methods)
    for name in block.set:
        if f"--set {name}" not in used:
            known = {field for method in methods for field in load_method(method).card.hparams.model_fields}
            raise UnknownName(f"hyper-parameter of {named}", name, known)
    given = {"--generator": block.generators, "--sampling": block.sampling, "--clip": block.clip}
    for option, value in given.items():
        if value and option not in used:
            raise InvalidValue(f"{option} has no use: none of {named} asks for it with these hyper-parameters")


def _methods(names: Sequence[str]) -> list[str]:
    known = listed_methods()
    in_tree = [name for name, method in known.items() if method.in_tree]
    chosen: list[str] = []
    for name in names:
        if name not in known and name != ALL:
            raise UnknownName("method", name, [*known, ALL], "See `genbias-bench list methods`.")
        chosen += in_tree if name == ALL else [name]
    return list(dict.fromkeys(chosen))


def _levels(levels: Sequence[str], card: DataCard) -> list[str]:
    if ALL in levels:
        return list(card.task.levels)
    return list(dict.fromkeys(card.check_level(level) for level in levels or (None,)))


def narrowed(
    requests: Iterable[Request],
    *,
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    levels: Sequence[str] | None = None,
    seeds: str | None = None,
    generators: Sequence[str] | None = None,
) -> list[Request]:
    """Return the requests that every given selector admits.

    A generator also admits the cells that use it as their task's default; a bias level admits those of the tasks that
    have it.

    Raises:
        UsageError: For unknown names, or when none is left.
    """
    kept = list(requests)
    if methods:
        known = set(_methods(methods))
        kept = [request for request in kept if request.method in known]
    if tasks:
        names = {find_card(task).task.name for task in tasks}
        kept = [request for request in kept if request.task in names]
    if levels:
        kept = _at_levels(kept, levels)
    if seeds is not None:
        numbers = set(parse_seeds(seeds))
        kept = [request for request in kept if request.seed in numbers]
    if generators:
        kept = [request for request in kept if _generator(request) in generators]
    if not kept:
        raise InvalidValue("these selectors leave no cell of the grid; drop one of them")
    return kept


def _at_levels(requests: Sequence[Request], levels: Sequence[str]) -> list[Request]:
    cards = {request.task: find_card(request.task) for request in requests}
    admitted: set[tuple[str, str | None]] = set()
    for level in levels:
        offering = [card for card in cards.values() if level == ALL or normalise_level(level) in card.task.levels]
        # Where no task has it, the first one says what there is.
        for card in offering or list(cards.values())[:1]:
            admitted |= {(card.task.name, offered) for offered in _levels([level], card)}
    return [request for request in requests if (request.task, request.level) in admitted]


def _generator(request: Request) -> str | None:
    """Return the generator of a cell, given or its task's default; None for a method that asks for none."""
    card, adapter = find_card(request.task), load_method(request.method)
    hparams = resolve_hparams(adapter, dict(request.overrides), card.task.tier)
    return request.generator or card.task.generator.name if adapter.card.generator_for(hparams) else None
