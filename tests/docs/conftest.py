"""Commands as they stand in the documents and workflows, and the command line's own parser to hold them against."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r"^[ ]*(<!-- not run: (?P<reason>.+?) -->\n)?[ ]*```(?P<language>\w+)\n(?P<code>.*?)^[ ]*```$", re.M | re.S
)
_CALL = re.compile(r"^(?:\.venv/bin/)?genbias-bench ")


@dataclass(frozen=True)
class Command:
    """One command of a document.

    Attributes:
        file: The document, below the repository's root.
        text: The command.
        reason: Why the document says that it is not run; empty where it is.
    """

    file: str
    text: str
    reason: str = ""

    @property
    def words(self) -> list[str]:
        """The words behind the program's name."""
        return shlex.split(self.text, comments=True)[1:]

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Parsed:
    """What the command line makes of a command: the verb, and its arguments by name."""

    verb: str
    arguments: dict[str, Any]


def documents() -> list[Path]:
    """Return every document that shows commands."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fences(file: Path, language: str) -> Iterator[tuple[str, str]]:
    """Yield the code blocks of one language, each with the reason why it is not run."""
    for match in _FENCE.finditer(file.read_text(encoding="utf-8")):
        if match["language"] == language:
            yield match["code"], match["reason"] or ""


def commands() -> list[Command]:
    """Return every command of the documents' shell blocks and of the workflows' steps."""
    found = []
    for file in documents():
        for code, reason in fences(file, "sh"):
            found += [Command(file.name, line, reason) for line in _lines(code)]
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        steps = re.sub(r"^\s*(- )?run: (?!\|)", "", file.read_text(encoding="utf-8"), flags=re.M)
        found += [Command(file.name, line, "a workflow's") for line in _lines(steps)]
    return found


def _lines(code: str) -> Iterator[str]:
    for line in code.replace("\\\n", " ").splitlines():
        if _CALL.match(line.strip()):
            yield " ".join(line.split())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test each command, each evaluation or each document in turn."""
    every = commands()
    turns = {
        "command": every,
        "evaluation": [each for each in every if each.words[0] == "evaluate"],
        "document": documents(),
    }
    for name, values in turns.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values, ids=lambda value: value.name if isinstance(value, Path) else str(value))


@pytest.fixture(scope="session")
def every_command() -> list[Command]:
    """Every command of the documents and workflows."""
    return commands()


@pytest.fixture(scope="session")
def blocks() -> Callable[[str, str], list[str]]:
    """Return the code blocks of one language in a document."""

    def read(document: str, language: str) -> list[str]:
        return [code for code, _ in fences(ROOT / document, language)]

    return read


@pytest.fixture
def verbs() -> dict[str, Any]:
    """Every command of the command line by its verb, such as ``data fetch``."""
    from benchmark.cli.main import app

    return dict(leaves("", typer.main.get_command(app)))


@pytest.fixture(scope="session")
def parse() -> Callable[[list[str]], Parsed]:
    """Parse words as the command line does, with every verb replaced by one that only says what it was given."""
    from benchmark.cli.main import app

    root, seen = typer.main.get_command(app), []
    for verb, command in leaves("", root):
        command.callback = lambda verb=verb, **arguments: seen.append(Parsed(verb, arguments))

    def parsed(words: list[str]) -> Parsed:
        root(words, standalone_mode=False)
        return seen.pop()

    return parsed


def leaves(verb: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command with its verb, such as ``data fetch``."""
    if not hasattr(command, "commands"):
        yield verb, command
        return
    for name, below in command.commands.items():
        yield from leaves(f"{verb} {name}".strip(), below)
