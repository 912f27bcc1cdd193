"""What installed packages bring, by entry point: methods, tasks and generators, listed without importing anything.

A plug-in is named ``package/name``. One that cannot be used carries its problem and is no obstacle to the others.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

from benchmark.errors import DataError, GenBiasError
from benchmark.tasks.card import DataCard, parse_card

Kind = Literal["method", "task", "generator"]
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Listed:
    """Something that is known by name; loading it may still fail.

    Attributes:
        name: What it is called: ``package/name`` for a plug-in.
        module: Its module.
        attribute: What of the module is meant; None where the module itself is.
        package: The distribution that brings it.
        version: That distribution's version.
        problem: Why it cannot be loaded, as far as names tell; empty where they tell nothing.
    """

    name: str
    module: str
    attribute: str | None
    package: str
    version: str
    problem: str = ""

    @property
    def in_tree(self) -> bool:
        """Whether it is part of this distribution."""
        return "/" not in self.name


def add(found: dict[str, Listed], listed: Listed, kind: Kind) -> None:
    """Add something under its name, with a problem where that is no name or is taken."""
    known, name = found.get(listed.name), listed.name.removeprefix(f"{listed.package}/")
    if known is not None:
        modules = f"{known.module} and {listed.module}"
        listed = replace(listed, problem=f"two {kind}s are named {listed.name!r}, in {modules}; rename one")
    elif not _NAME.fullmatch(name):
        where = f"{kind} name {name!r} of {listed.package} {listed.version}, in {listed.module},"
        listed = replace(listed, problem=f"{where} must be lower-case letters, digits and hyphens")
    found[listed.name] = listed


def plug_ins(kind: Kind) -> dict[str, Listed]:
    """Return every plug-in of the entry points ``genbias_bench.<kind>s`` by name."""
    found: dict[str, Listed] = {}
    for entry in importlib.metadata.entry_points(group=f"genbias_bench.{kind}s"):
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")
        module, _, attribute = (part.strip() for part in entry.value.partition(":"))
        add(found, Listed(f"{package}/{entry.name}", module, attribute or None, package, version), kind)
    return found


def module_path(listed: Listed) -> Path:
    """Return a module's file, or the folder of a package, without importing it.

    Raises:
        DataError: When there is none.
    """
    top, *rest = listed.module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is not None and not rest and spec.origin is not None and not spec.submodule_search_locations:
        return Path(spec.origin)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder).joinpath(*rest)
        if path.is_dir():
            return path
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
    raise DataError(
        f"{listed.name}: {listed.package} {listed.version} names the module {listed.module}, which is not there"
    )


def imported(listed: Listed, error_class: Callable[[str], GenBiasError], kind: Kind) -> ModuleType:
    """Import a module; whatever a stranger's raises becomes one sentence with file and line.

    Raises:
        GenBiasError: Of the class given.
    """
    if listed.problem:
        raise error_class(listed.problem)
    try:
        return importlib.import_module(listed.module)
    except (Exception, SystemExit) as error:
        advice = "; install it, or the extra of its package that brings it" if isinstance(error, ImportError) else ""
        said = said_by(error, listed.module)
        message = f"{kind} {listed.name!r} cannot be imported from {listed.module}: {said}{advice}"
        raise error_class(message) from error


def said_by(error: BaseException, module: str) -> str:
    """Return an exception in one line, after file and line of the module that it comes from where those are known."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {text}"
    endings = (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).as_posix().endswith(endings)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {text}" if frames else text


# --- tasks ---------------------------------------------------------------------------------------------------------


@functools.cache
def plug_in_tasks() -> dict[str, Listed]:
    """Return the tasks of installed packages by name.

    The entry point ``name = "package.module:Class"`` names the :class:`~benchmark.tasks.task.Task`; its card lies
    beside the module as ``name.md``. No lock of ours pins its splits, so its rows are listed and never ranked.
    """
    return plug_ins("task")


@functools.cache
def plug_in_card(name: str) -> DataCard:
    """Return the card of a plug-in's task, named ``package/name``; nothing is imported.

    Raises:
        DataError: When it is missing or wrong.
    """
    listed = plug_in_tasks()[name]
    if listed.problem:
        raise DataError(listed.problem)
    path = module_path(listed)
    own_name = name.removeprefix(f"{listed.package}/")
    file = (path if path.is_dir() else path.parent) / f"{own_name}.md"
    if not file.is_file():
        raise DataError(f"task {name!r}: {listed.package} {listed.version} has no data card {file}")
    card = parse_card(file.read_text(encoding="utf-8"), str(file))
    source = f"{listed.module}:{listed.attribute}"
    for what, found, wanted in (("name", card.task.name, own_name), ("source_module", card.task.source_module, source)):
        if found != wanted:
            raise DataError(f"data card {file}: {what} is {found!r} and must be {wanted!r}, as its entry point says")
    # Under its full name no task of ours, and no other package's, shares its identities.
    return card.model_copy(update={"task": card.task.model_copy(update={"name": name})})
