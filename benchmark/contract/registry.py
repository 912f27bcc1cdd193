"""Finding methods: in-tree by file name, out of tree by entry point; nothing is imported until it is asked for."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.contract.method import Hparams, Method, MethodCard, Origin
from benchmark.errors import ContractViolation, InvalidValue, UnknownName
from benchmark.records.canonical import sha256_hex, sha256_of
from benchmark.tasks.plugins import Listed, add, imported, plug_ins, said_by

_CONTRACT = Method.__module__


@functools.cache
def listed_methods() -> dict[str, Listed]:
    """Return every known method by name, without importing one.

    In-tree adapters carry their file's name; plug-ins are named ``package/name``. One that cannot be used carries its
    problem and is no obstacle to the others.
    """
    found: dict[str, Listed] = {}
    spec = importlib.util.find_spec("methods")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.py")):
            if not path.stem.startswith("_"):
                name = path.stem.replace("_", "-")
                add(found, Listed(name, f"methods.{path.stem}", None, "genbias-bench", _own_version()), "method")
    return found | plug_ins("method")


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
    module = imported(listed, ContractViolation, "method")
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
        raise ContractViolation(
            f"{module.__file__}: {listed.module} must hold exactly one Method class, found {len(adapters)}"
        )
    place = f"{inspect.getfile(adapters[0])}, line {inspect.getsourcelines(adapters[0])[1]}: "
    card = getattr(adapters[0], "card", None)
    if not isinstance(card, MethodCard) or card.name != listed.name.rpartition("/")[2]:
        raise ContractViolation(f"{place}the card of {listed.module} must be named {listed.name.rpartition('/')[2]!r}")
    if inspect.isabstract(adapters[0]):
        raise ContractViolation(f"{place}the method of {listed.module} must define fit(data, tools, hparams)")
    try:
        method = adapters[0]()
        card.generator_for(card.defaults(""))
    except Exception as error:
        raise ContractViolation(
            f"{place}method {listed.name!r} cannot be made: {said_by(error, listed.module)}"
        ) from error
    return method


def origin_of(name: str) -> Origin:
    """Return where a method's code comes from."""
    file = Path(inspect.getfile(type(load_method(name))))
    listed = listed_methods()[name]
    return Origin("in-tree" if listed.in_tree else "plug-in", listed.package, listed.version, file)


def source_digest(name: str) -> str:
    """Return the SHA-256 of a method's file, and of those of its base classes: when it moves, records are stale.

    What the card says is tuned changes no run, so it is left out; see :func:`without_space`.
    """
    bases = [
        kind for kind in type(load_method(name)).__mro__ if issubclass(kind, Method) and kind.__module__ != _CONTRACT
    ]
    files = list(dict.fromkeys(Path(inspect.getfile(kind)) for kind in bases))
    digests = [sha256_hex(without_space(file.read_bytes())) for file in files]
    return digests[0] if len(digests) == 1 else sha256_of(digests)


def without_space(source: bytes) -> bytes:
    """Return a method's source without the lines of its card's ``space=``.

    Only a literal that shares its lines with nothing else goes: nothing that runs can hide there.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # an extension module
        return source
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == MethodCard.__name__:
            for keyword in node.keywords:
                if keyword.arg == "space" and _alone(keyword, lines) and _literal(keyword.value):
                    last = keyword.end_lineno or keyword.lineno
                    lines[keyword.lineno - 1 : last] = [b""] * (last - keyword.lineno + 1)
    return b"".join(lines)


def _alone(keyword: ast.keyword, lines: list[bytes]) -> bool:
    before = lines[keyword.lineno - 1][: keyword.col_offset]
    after = lines[(keyword.end_lineno or keyword.lineno) - 1][keyword.end_col_offset or 0 :]
    return not before.strip() and after.strip() in (b"", b",")


def _literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


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
