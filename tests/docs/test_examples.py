"""The documents' other examples: adapters, grids, error messages, pages that are made from the code."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

ROOT = Path(__file__).parents[2]
Blocks = Callable[[str, str], list[str]]
DOCS = ROOT / "docs"


def made(name: str) -> ModuleType:
    """Load one of the modules that make pages; they are written for the builder's own environment."""
    pytest.importorskip("mkdocs", reason="the documentation's builder is part of the development environment only")
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", ["docs/add-a-method.md", "CONTRIBUTING.md"])
def test_the_example_of_an_adapter_is_an_adapter(file: str, blocks: Blocks) -> None:
    from genbias_bench import Method, Track

    (code,) = [code for code in blocks(file, "python") if "HalfHalf(Method)" in code]
    module = ModuleType("half_half")
    sys.modules["half_half"] = module  # pydantic looks annotations up there
    exec(compile(code, file, "exec"), vars(module))
    adapter = module.HalfHalf()
    assert isinstance(adapter, Method)
    assert (adapter.card.id, adapter.card.track_of(adapter.card.hparams())) == ("half-half@1", Track.TRAIN)
    assert len(code.splitlines()) < 40


def test_the_example_of_a_grid_is_a_grid(tmp_path: Path, blocks: Blocks) -> None:
    from benchmark.sweep.grid_file import read_grid

    (code,) = blocks("docs/grids.md", "toml")
    (tmp_path / "grid.toml").write_text(code)
    assert read_grid(tmp_path / "grid.toml").title == "Does balance help?"


def test_the_example_of_a_plug_in_names_the_entry_points_that_are_read(blocks: Blocks) -> None:
    from benchmark.tasks.plugins import Kind

    (code,) = blocks("docs/plug-ins.md", "toml")
    named = tomllib.loads(code)["project"]["entry-points"]
    assert set(named) == {f"genbias_bench.{kind}s" for kind in get_args(Kind)}


def test_the_example_of_the_python_api_names_arguments_that_there_are() -> None:
    import inspect

    import genbias_bench

    (code,) = re.findall(r"```python\n(.*?)```", made("made_from_code").api_page(), re.DOTALL)
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and _called(node) == "evaluate"]
    given = {keyword.arg for keyword in call.keywords}
    assert given <= set(inspect.signature(genbias_bench.evaluate).parameters)


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def templates() -> Iterator[str]:
    """Yield the text of every string in the code, with … for what is put in."""
    for package in ("benchmark", "leaderboard", "methods"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_error_messages_are_those_of_the_code() -> None:
    known = "\n".join(_bare(text) for text in templates())
    rows = re.findall(r"^\| (`+.+`) \| .+ \|$", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 40
    # `unknown …` is put together from parts that the code names one by one.
    missing = [row for row in rows if _bare(row) not in known and "unknown …" not in row]
    assert missing == []


def _bare(text: str) -> str:
    """Return a message without the marks of code, and with one … for what is put in side by side."""
    return re.sub(r"(?:… ?)+", "… ", re.sub(r"[`\s]+", " ", text)).strip(" …")


def test_every_task_method_verb_and_public_name_has_its_place(verbs: dict[str, Any]) -> None:
    import genbias_bench
    from benchmark.contract.registry import listed_methods
    from benchmark.tasks.card import card_names

    cards = made("made_from_cards")
    tasks = {path: text for path, _, text in cards.task_pages()}
    assert set(tasks) == {"tasks/index.md"} | {f"tasks/{name}.md" for name in card_names()}
    methods = {path: text for path, _, text in cards.method_pages()}
    in_tree = {name for name, listed in listed_methods().items() if listed.in_tree}
    assert set(methods) == {"methods/index.md"} | {f"methods/{name}.md" for name in in_tree}
    pages = {path: text for path, _, text in made("made_from_cli").command_pages()}
    for verb, command in verbs.items():
        page = pages[f"commands/{verb.split()[0]}.md"]
        assert f"genbias-bench {verb}" in page
        assert all(f"`{name}`" in page for option in command.params if option.name != "help" for name in option.opts[:1]
                   if name.startswith("-"))  # fmt: skip
    api = made("made_from_code").api_page()
    assert all(f".{name}\n" in api for name in genbias_bench.__all__)


def test_pages_made_from_cards_say_what_the_cards_say() -> None:
    cards = made("made_from_cards")
    pages = {path: text for path, _, text in (*cards.task_pages(), *cards.method_pages())}
    assert "| 0.95 | 990 | 940 | 50 |" in pages["tasks/colorized-digits.md"]
    assert "genbias-bench data fetch utkface --accept-terms" in pages["tasks/utkface.md"]
    assert (
        "| `synthetic_share` | float | `0.5` | share of all optimiser steps on generated images |"
        in pages["methods/ffr.md"]
    )
    assert "`100`" not in pages["methods/lora.md"]
    assert "| `adapter_steps` | int | `500` (demo: 100) |" in pages["methods/lora.md"]
    assert all("# Metrics" not in text for text in pages.values())
