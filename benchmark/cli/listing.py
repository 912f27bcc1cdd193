"""`list`: the tasks, methods and generators that can be named."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table, say
from benchmark.errors import GenBiasError

app = typer.Typer(help="List tasks, methods or generators.", no_args_is_help=True)


@app.command("tasks")
def tasks(json: Json = False, debug: Debug = False) -> None:
    """List the tasks with their bias levels; of plug-ins the cards are read, no code.

    For example:

      genbias-bench list tasks
    """
    del debug
    from benchmark.tasks.card import card_names
    from benchmark.tasks.catalog import find_card
    from benchmark.tasks.plugins import plug_in_tasks

    cards, broken = [], []
    for name in [*card_names(), *sorted(plug_in_tasks())]:
        try:
            cards.append(find_card(name))
        except GenBiasError as error:
            broken.append(str(error))
    if json:
        print_json(
            [
                {
                    "name": card.task.name,
                    "version": card.task.version,
                    "tier": card.task.tier,
                    "label": card.task.label.name,
                    "attribute": card.task.attribute.name,
                    "levels": list(card.task.levels),
                    "default_level": card.task.default_level,
                }
                for card in cards
            ]
        )
    else:
        rows = [
            (card.id, card.task.tier, card.task.label.name, card.task.attribute.name, " ".join(card.task.levels))
            for card in cards
        ]
        print_table(("task", "tier", "label", "bias attribute", "bias levels"), rows)
    _warn(broken)


def _warn(broken: list[str]) -> None:
    for message in broken:
        say(f"warning: {message}")


@app.command("methods")
def methods(
    load: Annotated[
        bool,
        typer.Option("--load", help="Import plug-ins too: shows what they do, and what is wrong with broken ones."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the methods; plug-ins are named, and imported with --load only.

    For example:

      genbias-bench list methods --load
    """
    del debug
    from benchmark.contract.registry import listed_methods, load_method

    rows, broken = [], []
    for name, listed in sorted(listed_methods().items()):
        row: dict[str, object] = {
            "name": name,
            "version": None,
            "summary": f"plug-in of {listed.package} {listed.version}",
        }
        if listed.problem or listed.in_tree or load:
            try:
                card = load_method(name).card
                uses = card.generator_for(card.defaults(""))
                row |= {"version": card.version, "summary": card.summary, "uses_generator": uses}
            except GenBiasError as error:
                broken.append(str(error))
                continue
        rows.append(row)
    if json:
        print_json(rows)
    else:
        print_table(
            ("method", "version", "what it does"), [(r["name"], r["version"] or "-", r["summary"]) for r in rows]
        )
    _warn(broken)


@app.command("generators")
def generators(json: Json = False, debug: Debug = False) -> None:
    """List what can be given as --generator.

    For example:

      genbias-bench list generators
    """
    del debug
    from benchmark.generators.identity import list_generators

    found = list_generators()
    if json:
        print_json([{"name": entry.name, "description": entry.description} for entry in found])
    else:
        print_table(("generator", "what it is"), [(entry.name, entry.description) for entry in found])
