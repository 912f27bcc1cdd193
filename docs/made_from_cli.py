"""Pages of commands, from the command line's own parser: the words are those of `--help`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

# Path below docs/, name in the navigation, Markdown.
MadePage = tuple[str, str, str]
_COMMAND = "genbias-bench"


def command_pages() -> list[MadePage]:
    """Return an index and a page for each verb."""
    from benchmark.cli.main import app

    root = typer.main.get_command(app)
    verbs = sorted(root.commands.items())  # type: ignore[attr-defined]
    rows = [f"| [`{name}`]({name}.md) | {_first_sentence(verb)} |" for name, verb in verbs if not verb.hidden]
    index = [
        "# Commands", "",
        "What `genbias-bench --help` and the help of each verb print, made from the program itself.", "",
        "| verb | what it does |", "|---|---|", *rows, "",
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. `--json`, where there is one, prints one JSON "
        "document on standard output; what is not the result goes to standard error. `--debug` shows an error's whole "
        "traceback.", "",
    ]  # fmt: skip
    pages = [("commands/index.md", "All commands", "\n".join(index))]
    for name, verb in verbs:
        if not verb.hidden:
            parts = [part for words, command in _leaves((name,), verb) for part in _section(words, command)]
            pages.append((f"commands/{name}.md", name, "\n".join([f"# {_COMMAND} {name}", "", *parts])))
    return pages


def _leaves(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, below in sorted(command.commands.items()):
        yield from _leaves((*words, name), below)


def _section(words: tuple[str, ...], command: Any) -> list[str]:
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    shown = " ".join([_COMMAND, *words, *(_argument(a) for a in arguments), *(["[OPTIONS]"] if options else [])])
    heading = [f"## {' '.join(words)}", ""] if len(words) > 1 else []
    return [
        *heading, "```text", shown, "```", "", *_prose(inspect.cleandoc(command.help or "")), "",
        *_table(("argument", "meaning"), [(f"`{_argument(a)}`", a.help or "") for a in arguments]),
        *_table(("option", "meaning", "default"), [(_flags(o), o.help or "", _default(o)) for o in options]),
    ]  # fmt: skip


def _argument(argument: Any) -> str:
    several = get_origin(argument.type_descriptor.annotation) is list
    name = (argument.metavar or argument.name.upper()) + ("..." if several else "")
    return name if argument.required else f"[{name}]"


def _prose(text: str) -> list[str]:
    """Return help as Markdown: what is indented there are commands."""
    lines = []
    for line in text.splitlines():
        lines += ["```sh", line.strip(), "```"] if line.startswith("  ") else [line]
    # Commands that stand apart by empty lines become one block.
    return "\n".join(lines).replace("```\n\n```sh\n", "").splitlines()


def _flags(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {option.metavar or _value(option.type_descriptor.annotation)}"
    return names + value


def _value(annotation: Any) -> str:
    """Return how a value is written: the words of a choice, or what kind it is."""
    if get_origin(annotation) is list:
        return _value(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(annotation, "TEXT")


def _default(option: Any) -> str:
    if option.required:
        return "must be given"
    if option.is_flag or option.default is None or callable(option.default) or option.default == ():
        return ""
    return f"`{option.default}`"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    escaped = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    lines = [" | ".join(columns), " | ".join("---" for _ in columns), *(" | ".join(row) for row in escaped)]
    return [*(f"| {line} |" for line in lines), ""]


def _first_sentence(command: Any) -> str:
    text = " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")
