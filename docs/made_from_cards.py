"""Pages of tasks and methods, from their cards."""

from __future__ import annotations

import inspect
import re

from benchmark.contract.method import Method
from benchmark.contract.registry import listed_methods, load_method
from benchmark.tasks.block import LevelCounts
from benchmark.tasks.card import DataCard, card_names, load_card

# Path below docs/, name in the navigation, Markdown.
MadePage = tuple[str, str, str]


def task_pages() -> list[MadePage]:
    """Return an index and a page for each task."""
    cards = [load_card(name) for name in card_names()]
    rows = [
        f"| [`{card.id}`]({card.task.name}.md) | {card.task.label.name}, by {card.task.attribute.name} "
        f"| {card.task.tier} | {' '.join(card.task.levels)} | {card.hub['license']} |"
        for card in cards
    ]
    index = [
        "# Tasks", "",
        "A task is a data set with a label, a bias attribute, frozen splits and bias levels. Each page is made from "
        "the task's card, the one place where its facts are stated.", "",
        "| task | label, biased by | tier | bias levels ρ | licence |", "|---|---|---|---|---|", *rows, "",
        "`genbias-bench data list` shows which of them have their data here, `genbias-bench describe NAME` prints a "
        "card. *Tier*: `demo` is for trying things out and has its own table on the board; `core` counts for the "
        "overall score; `extended` has tables only.", "",
    ]  # fmt: skip
    return [
        ("tasks/index.md", "All tasks", "\n".join(index)),
        *((f"tasks/{card.task.name}.md", card.task.name, _task(card)) for card in cards),
    ]


def _task(card: DataCard) -> str:
    task = card.task
    aligned = ", ".join(f"{y} with {a}" for y, a in zip(task.label.values, task.aligned, strict=True))
    facts = {
        "label": f"{task.label.name}: {task.label.description} ({', '.join(task.label.values)})",
        "bias attribute": f"{task.attribute.name}: {task.attribute.description} ({', '.join(task.attribute.values)})",
        "bias-aligned": aligned,
        "kind of bias": task.bias_kind,
        "bias levels ρ": f"{', '.join(task.levels)}; default {task.default_level}",
        "test split": task.test,
        "ranking metric": f"`{task.ranking_metric}`",
        "default training": f"{task.training.backbone} ({task.training.backbone_weights or 'from scratch'}), "
        f"{task.training.steps:,} optimiser steps of {task.training.batch_size} images at {task.pixels.size} px",
        "further recipes": ", ".join(
            f"`{name}` ({recipe.backbone} at {recipe.image_size} px)" for name, recipe in task.recipes.items()
        ),
        "generator": f"`{task.generator.name}`, {task.generator.steps} steps, guidance {task.generator.guidance}",
        "prompts": f"“{task.prompts.class_attribute}”, by class alone “{task.prompts.class_only}”",
        "synthetic budget B": f"min(USB total, {task.synthetic.per_real}·N) kept images",
        "terms of use": task.terms,
        "photographs of people": "yes: nothing made from them leaves your machine" if task.faces else "no",
    }  # fmt: skip
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value]
    prose = re.sub(r"^# .*\n", "", card.prose.strip()).strip()
    run = f"genbias-bench evaluate --method erm --task {task.name} --bias-level {task.default_level}"
    return "\n".join(
        [
            f"# {card.hub['pretty_name']}", "",
            f"`{card.id}`, split version {task.split_version}, {task.tier} tier.", "",
            "| | |", "|---|---|", *rows, "", "```sh", *_data_commands(card), run, "```", "", prose, "",
            *([] if "\n## Sizes" in prose else _sizes(card)),
        ]
    )  # fmt: skip


def _sizes(card: DataCard) -> list[str]:
    """Return the table of a card's sizes, for cards whose prose has none."""
    columns = [name for name in LevelCounts.model_fields if name != "groups"]
    rows = [[getattr(counts, name) for name in columns] for counts in card.task.expected]
    return [
        "## Sizes by bias level", "",
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join("" if value is None else f"{value}" for value in row) + " |" for row in rows), "",
    ]  # fmt: skip


def _data_commands(card: DataCard) -> list[str]:
    if card.task.tier == "demo":
        return []
    accept = " --accept-terms" if card.task.terms_accept else ""
    return [f"genbias-bench data fetch {card.task.name}{accept}"]


def method_pages() -> list[MadePage]:
    """Return an index and a page for each method of the repository; plug-ins of this machine are left out."""
    methods = {name: load_method(name) for name, listed in sorted(listed_methods().items()) if listed.in_tree}
    rows = [f"| [`{method.card.id}`]({name}.md) | {_cell(method.card.summary)} |" for name, method in methods.items()]
    index = [
        "# Methods", "",
        "A method turns biased training data, and perhaps generated data, into a classifier. Each page is made from "
        "the method's card and docstring, which say what of it is its paper's and what is ours.", "",
        "| method | what it does |", "|---|---|", *rows, "",
        "`genbias-bench describe NAME` prints a card with its hyper-parameters.", "",
    ]  # fmt: skip
    return [
        ("methods/index.md", "All methods", "\n".join(index)),
        *((f"methods/{name}.md", name, _method(name, method)) for name, method in methods.items()),
    ]


def _method(name: str, method: Method) -> str:
    card = method.card
    defaults = card.hparams()
    facts = {
        "source": card.source,
        "kind": card.kind + (", never ranked" if card.oracle or card.kind == "process" else ""),
        "track, by default": card.track_of(defaults).value,
        "stages, by default": ", ".join(card.stages_of(defaults)),
        "asks for generated images": "yes" if card.generator_for(defaults) else "no",
        "brings": "; ".join(f"{each.component} (trained on {each.trained_on})" for each in card.external_data),
    }  # fmt: skip
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value]
    fields = card.hparams.model_fields.items()
    options = [
        f"| `{key}` | {_choices(info.annotation)} | {_cell(_default(method, key))} | {_cell(info.description or '')} |"
        for key, info in fields
    ]
    settings = ["## Hyper-parameters", "", "Set with `--set NAME=VALUE`.", "",
                "| name | values | default | meaning |", "|---|---|---|---|", *options, ""]  # fmt: skip
    cite = ["## Citation", "", "```bibtex", card.citation.strip(), "```", ""]
    return "\n".join(
        [
            f"# {name}", "", card.summary, "", "| | |", "|---|---|", *rows, "", "```sh",
            f"genbias-bench evaluate --method {name}", "```", "",
            "## What is whose", "", inspect.cleandoc(type(method).__doc__ or "").replace("``", "`"), "",
            *(settings if options else []), *(cite if card.citation else []),
        ]
    )  # fmt: skip


def _default(method: Method, key: str) -> str:
    value = f"{getattr(method.card.hparams(), key)}"
    tiers = [f"{tier}: {values[key]}" for tier, values in method.card.tier_defaults.items() if key in values]
    return f"`{value}`" + (f" ({'; '.join(tiers)})" if tiers else "") if value else "empty"


def _choices(annotation: object) -> str:
    """Return a type as a reader writes its values: the words of a choice, or the name of a type."""
    words = re.findall(r"'([^']*)'", str(annotation))
    if words and "Literal" in str(annotation):
        return " or ".join(f"`{word}`" for word in words)
    return _cell(getattr(annotation, "__name__", str(annotation)).replace("typing.", ""))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
