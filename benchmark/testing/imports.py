"""What an adapter's files import: nothing internal, nothing that is not installed, nothing that nobody declares."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_OURS = "genbias-bench"
_PUBLIC = "genbias_bench"
_INTERNAL = ("benchmark", "leaderboard", "data_cards", "methods")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def import_findings(files: tuple[Path, ...], package: str) -> list[str]:
    """Return what is wrong with the imports of an adapter's files, each with file and line.

    Args:
        files: Its Python files.
        package: The distribution that they belong to.
    """
    own = {_PUBLIC, *(file.stem for file in files), *(file.parent.name for file in files)}
    providers = importlib.metadata.packages_distributions()
    declared = _declared(_OURS) | _declared(package) | {_canonical(package)}
    found = []
    for file in files:
        for name, line, guarded in _imports(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or (top in own and top not in _INTERNAL) or _shared_part(name, package):
                continue
            if problem := _problem(name, providers, declared, guarded=guarded):
                found.append(f"{file}, line {line}: imports {name}, {problem}")
    return found


def _problem(name: str, providers: Mapping[str, list[str]], declared: set[str], *, guarded: bool) -> str:
    top = name.partition(".")[0]
    if top in _INTERNAL:
        return "which is internal and may change in any release; everything public is in genbias_bench"
    if top not in providers and importlib.util.find_spec(top) is None:
        return "" if guarded else f"which is not installed; {_where_from(top)}"
    distributions = {_canonical(name) for name in providers.get(top, [])}
    if distributions and not distributions & declared:
        return f"which {' or '.join(sorted(distributions))} provides and the package's dependencies do not name"
    return ""


def _where_from(top: str) -> str:
    """Say how a missing package gets here."""
    extra = next((extra for name, extra in _requirements(_OURS) if name == _canonical(top) and extra), None)
    if extra is not None:
        return f"pip install '{_OURS}[{extra}]' brings it: say so in the card's summary, or import it where it is used"
    return "name it among the package's dependencies and install it"


def _shared_part(name: str, package: str) -> bool:
    """Say whether an in-tree adapter imports what in-tree adapters share."""
    return package == _OURS and name.startswith("methods._")


def _imports(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Yield the absolute imports of a module: name, line, and whether an ImportError is caught."""
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.Try) and any(_catches_import(handler) for handler in block.handlers)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in guarded
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno, id(node) in guarded


def _catches_import(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or "ImportError" in ast.dump(handler.type) or "ModuleNotFound" in ast.dump(handler.type)


def _declared(package: str) -> set[str]:
    return {name for name, extra in _requirements(package) if extra is None}


def _requirements(package: str) -> Iterator[tuple[str, str | None]]:
    """Yield what a distribution requires, with the extra that asks for it."""
    try:
        requirements = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        if match := _NAME.match(requirement):
            extra = _EXTRA.search(requirement)
            yield _canonical(match[0]), extra[1] if extra else None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
