"""Finding methods: in-tree by file name, out of tree by entry point; nothing is imported until it is asked for."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.contract.method import Hparams, Method, MethodCard, Origin
from benchmark.errors import ContractViolation, InvalidValue, UnknownName
from benchmark.records.canonical import sha256_file, sha256_of

ENTRY_POINTS = "genbias_bench.methods"
_CONTRACT = Method.__module__


@dataclass(frozen=True)
class Listed:
    """A method that is known by name; loading it may still fail."""

    name: str
    module: str
    attribute: str | None
    package: str
    version: str

    @property
    def in_tree(self) -> bool:
        """Whether it is part of this distribution."""
        return "/" not in self.name


@functools.cache
def listed_methods() -> dict[str, Listed]:
    """Return every known method by name, without importing one.

    In-tree adapters carry their file's name; plug-ins are named ``package/name``.

    Raises:
        ContractViolation: When two plug-ins of one package have the same name.
    """
    found = {}
    spec = importlib.util.find_spec("methods")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.py")):
            if not path.stem.startswith("_"):
                name = path.stem.replace("_", "-")
                found[name] = Listed(name, f"methods.{path.stem}", None, "genbias-bench", _own_version())
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist else "unknown"
        name = f"{package}/{entry.name}"
        if name in found:
            raise ContractViolation(f"two plug-ins are named {name!r}; uninstall one")
        version = entry.dist.version if entry.dist else "unknown"
        found[name] = Listed(name, entry.module, entry.attr or None, package, version)
    return found


def load_method(name: str) -> Method:
    """Import and return one method.

    Raises:
        UnknownName: With the nearest names.
        ContractViolation: When its module cannot be imported or holds no single adapter of that name.
    """
    known = listed_methods()
    if name not in known:
        raise UnknownName("method", name, known, "See `genbias-bench list methods`.")
    return _load(known[name])


@functools.cache
def _load(listed: Listed) -> Method:
    try:
        module = importlib.import_module(listed.module)
    except Exception as error:  # whatever a stranger's module raises becomes one sentence
        raise ContractViolation(f"method {listed.name!r} cannot be imported from {listed.module}: {error!r}") from error
    if listed.attribute is not None:
        adapter = getattr(module, listed.attribute, None)
        adapters = [adapter] if isinstance(adapter, type) and issubclass(adapter, Method) else []
    else:
        adapters = [
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
        ]
    if len(adapters) != 1:
        raise ContractViolation(f"{listed.module} must hold exactly one Method class, found {len(adapters)}")
    card = getattr(adapters[0], "card", None)
    if not isinstance(card, MethodCard) or card.name != listed.name.rpartition("/")[2]:
        raise ContractViolation(f"the card of {listed.module} must be named {listed.name.rpartition('/')[2]!r}")
    if inspect.isabstract(adapters[0]):
        raise ContractViolation(f"the method of {listed.module} must define fit(data, tools, hparams)")
    return adapters[0]()


def origin_of(name: str) -> Origin:
    """Return where a method's code comes from."""
    file = Path(inspect.getfile(type(load_method(name))))
    listed = listed_methods()[name]
    return Origin("in-tree" if listed.in_tree else "plug-in", listed.package, listed.version, file)


def source_digest(name: str) -> str:
    """Return the SHA-256 of a method's file, and of those of its base classes: when it moves, records are stale."""
    bases = [
        kind for kind in type(load_method(name)).__mro__ if issubclass(kind, Method) and kind.__module__ != _CONTRACT
    ]
    files = list(dict.fromkeys(Path(inspect.getfile(kind)) for kind in bases))
    digests = [sha256_file(file) for file in files]
    return digests[0] if len(digests) == 1 else sha256_of(digests)


def resolve_hparams(method: Method, overrides: dict[str, Any], tier: str = "") -> Hparams:
    """Validate ``--set`` values against the method's model.

    Args:
        method: The adapter.
        overrides: Values as strings or typed.
        tier: The task's tier, whose defaults apply.

    Raises:
        UnknownName: For a hyper-parameter that the method does not have.
        InvalidValue: For a value of the wrong type or out of range.
    """
    model = method.card.hparams
    for name in overrides:
        if name not in model.model_fields:
            raise UnknownName(f"hyper-parameter of {method.card.name}", name, model.model_fields)
    try:
        return model.model_validate({**method.card.tier_defaults.get(tier, {}), **overrides})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "hyper-parameters"
        raise InvalidValue(f"{method.card.name}: {where}={first.get('input')!r}: {first['msg']}") from error


@functools.cache
def _own_version() -> str:
    try:
        return importlib.metadata.version("genbias-bench")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
