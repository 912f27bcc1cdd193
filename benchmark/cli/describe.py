"""`describe`: everything about one task, method or generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table, print_text
from benchmark.errors import UnknownName

if TYPE_CHECKING:
    from benchmark.tasks.block import RecipeVariant


def describe(
    name: Annotated[str, typer.Argument(help="A task, a method, or a generator.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Describe a task, a method with its hyper-parameters, or a generator.

    For example:

      genbias-bench describe ffr

      genbias-bench describe colorized-digits --json
    """
    del debug
    from benchmark.contract.registry import listed_methods
    from benchmark.generators.identity import TINY_SD, plug_in_generators
    from benchmark.tasks.card import card_names
    from benchmark.tasks.plugins import plug_in_tasks

    tasks, generators = [*card_names(), *plug_in_tasks()], [TINY_SD, *plug_in_generators()]
    if name.partition("@")[0] in tasks:
        _task(name, json)
    elif name in listed_methods():
        _method(name, json)
    elif name in generators:
        _generator(name, json)
    else:
        raise UnknownName("task, method or generator", name, [*tasks, *listed_methods(), *generators])


def _pairs(content: dict[str, Any]) -> None:
    for key, value in content.items():
        print_text(f"{key}: {value}")


def _task(name: str, json: bool) -> None:
    from benchmark.tasks.catalog import find_card

    card = find_card(name)
    task = card.task
    if json:
        print_json({"id": card.id, "digest": card.digest, **task.model_dump(mode="json")})
        return
    _pairs(
        {
            "task": f"{card.id} ({task.tier} tier, {task.bias_kind} bias)",
            "label": f"{task.label.name}: {', '.join(task.label.values)}",
            "attribute": f"{task.attribute.name}: {', '.join(task.attribute.values)}",
            "aligned": ", ".join(f"{y}-{a}" for y, a in zip(task.label.values, task.aligned, strict=True)),
            "ranking metric": task.ranking_metric,
            "default level": task.default_level,
            "backbone": f"{task.training.backbone} ({task.training.backbone_weights or 'from scratch'})",
            "training": f"{task.training.steps} optimiser steps of {task.training.batch_size} images over all stages",
            **{f"recipe {name}": _recipe(recipe) for name, recipe in task.recipes.items()},
            "generator": task.generator.name,
            "synthetic budget": f"min(USB total, {task.synthetic.per_real} x N)",
            "terms": task.terms,
        }
    )
    columns = tuple(type(task.expected[0]).model_fields) if task.expected else ()
    if columns:
        print_table(columns, [tuple(counts.model_dump().values()) for counts in task.expected], "Sizes by bias level")


def _recipe(recipe: RecipeVariant) -> str:
    return (
        f"{recipe.backbone} ({recipe.backbone_weights or 'from scratch'}) at {recipe.image_size} px, {recipe.steps} "
        f"optimiser steps of {recipe.batch_size} images"
    )


def _method(name: str, json: bool) -> None:
    from benchmark.contract.registry import load_method, origin_of

    method = load_method(name)
    card, origin = method.card, origin_of(name)
    defaults = card.hparams()
    fields = {
        key: {
            "default": getattr(defaults, key),
            "tiers": {tier: values[key] for tier, values in card.tier_defaults.items() if key in values},
            "type": str(info.annotation).replace("typing.", ""),
            "description": info.description or "",
            "tuned": card.space.get(key),
        }
        for key, info in card.hparams.model_fields.items()
    }
    content = {
        "method": card.id,
        "summary": card.summary,
        "source": card.source,
        "track": f"{card.track_of(defaults).value} (default hyper-parameters)",
        "stages": ", ".join(card.stages_of(defaults)),
        "uses generator": card.generator_for(defaults),
        "origin": f"{origin.kind}, {origin.package} {origin.version}",
    }
    if json:
        print_json({**content, "hparams": fields, "citation": card.citation})
        return
    _pairs(content)
    rows = [
        (key, _default(value), value["type"], _tuned(value["tuned"]), value["description"])
        for key, value in fields.items()
    ]
    if rows:
        print_table(("hyper-parameter (--set)", "default", "type", "`tune` searches", "meaning"), rows)


def _tuned(space: tuple[Any, ...] | list[Any] | None) -> str:
    """Return a range or a list of values of a method's space as its card has it."""
    if space is None:
        return "-"
    if isinstance(space, list):
        return " | ".join(map(str, space))
    return f"{space[0]:g} to {space[1]:g}{', in the logarithm' if len(space) > 2 else ''}"


def _default(value: dict[str, Any]) -> str:
    """Return a default, with those of tiers that have their own."""
    tiers = ", ".join(f"{tier}: {default}" for tier, default in value["tiers"].items())
    return f"{value['default']} ({tiers})" if tiers else str(value["default"])


def _generator(name: str, json: bool) -> None:
    from benchmark.generators.identity import list_generators, resolve_generator

    identity = resolve_generator(name, offline=True)
    description = {entry.name: entry.description for entry in list_generators()}[name]
    content = {**identity.as_record(), "description": description}
    if json:
        print_json(content)
    else:
        _pairs(content)
