"""Starting a new method: a commented adapter in the tree, or an installable project with an entry point and a test."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmark.contract.registry import listed_methods
from benchmark.errors import InvalidValue, NotAvailable, StoreError
from benchmark.generators.identity import TINY_SD
from benchmark.records.files import make_folder, publish_folder, storage_error, temporary_folder, write_text
from benchmark.tasks.card import card_names

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class NewMethod:
    """What was written.

    Attributes:
        method: The name for ``--method``.
        files: The new files.
        install: How to install it, or empty where that is not needed.
    """

    method: str
    files: tuple[Path, ...]
    install: str


def new_method(name: str, package: Path | None = None) -> NewMethod:
    """Write a new method that runs as it is; nothing that exists is overwritten.

    Args:
        name: Its name on the board.
        package: Folder of a new installable project; None writes into this checkout's ``methods``.

    Raises:
        InvalidValue: For a name that cannot be used or is taken.
        NotAvailable: When there is no checkout to write into.
        StoreError: When a file or folder is in the way.
    """
    _check_name(name)
    words = {
        "name": name,
        "class_name": "".join(word.capitalize() for word in name.split("-")),
        "distribution": f"genbias-{name}",
        "module": f"genbias_{name.replace('-', '_')}",
    }
    return _in_tree(name, words) if package is None else _project(package, words)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise InvalidValue(
            f"method name {name!r} must be lower-case words of letters and digits joined by hyphens, at most "
            f"{_LONGEST} characters, the first a letter; such as half-half"
        )
    if name in listed_methods():
        raise InvalidValue(f"there is a method {name!r} already; choose another name")
    if keyword.iskeyword(name) or name in (*card_names(), TINY_SD):
        raise InvalidValue(f"{name!r} is reserved: a word of Python, a task or a generator; choose another name")


def _in_tree(name: str, words: dict[str, str]) -> NewMethod:
    spec = importlib.util.find_spec("methods")
    folder = Path(next(iter(spec.submodule_search_locations or ("",)))) if spec else Path()
    if not (folder.parent / "pyproject.toml").is_file():
        raise NotAvailable(
            "this is no checkout of genbias-bench, so there is no folder for in-tree methods; "
            f"`genbias-bench methods new {name} --package FOLDER` writes an installable project"
        )
    file = folder / f"{name.replace('-', '_')}.py"
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(_filled("adapter", words))
    except FileExistsError as error:
        raise StoreError(f"{file} exists; nothing was written") from error
    except OSError as error:
        raise storage_error(file, error) from error
    listed_methods.cache_clear()
    return NewMethod(name, (file,), "")


def _project(folder: Path, words: dict[str, str]) -> NewMethod:
    target = folder.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} exists and is not an empty folder; nothing was written")
    source = Path("src") / words["module"]
    content = {
        Path("pyproject.toml"): "pyproject",
        Path("README.md"): "readme",
        source / "__init__.py": "init",
        source / "adapter.py": "adapter",
        Path("tests/test_contract.py"): "test_contract",
    }
    with temporary_folder(target.parent) as fresh:
        for path, template in content.items():
            make_folder((fresh / path).parent)
            write_text(fresh / path, _filled(template, words))
        if target.is_dir():
            target.rmdir()  # it is empty
        if not publish_folder(fresh, target):
            raise StoreError(f"{target} appeared meanwhile; nothing was written")
    return NewMethod(
        f"{words['distribution']}/{words['name']}", tuple(target / path for path in content), f"pip install -e {folder}"
    )


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)
