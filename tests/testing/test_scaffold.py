"""`methods new` writes an adapter that reads like one, and never over anything."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.errors import InvalidValue, StoreError
from benchmark.testing.scaffold import new_method

ROOT = Path(__file__).parents[2]


def useful_lines(source: str) -> int:
    """Count the lines of code: no blank ones, comments, docstrings or imports."""
    tree = ast.parse(source)
    lines: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not text and not isinstance(node, ast.Import | ast.ImportFrom):
            header = isinstance(node, ast.ClassDef | ast.FunctionDef)
            lines.update(range(node.lineno, (node.lineno if header else node.end_lineno or 0) + 1))
    return len([k for k in lines if not source.splitlines()[k - 1].strip().startswith("#")])


def test_a_project_holds_an_adapter_an_entry_point_and_its_own_test(tmp_path: Path) -> None:
    made = new_method("half-half", tmp_path / "ours")
    assert made.method == "genbias-half-half/half-half"
    assert made.install == f"pip install -e {tmp_path / 'ours'}"
    assert sorted(str(file.relative_to(tmp_path / "ours")) for file in made.files) == [
        "README.md", "pyproject.toml", "src/genbias_half_half/__init__.py", "src/genbias_half_half/adapter.py",
        "tests/test_contract.py",
    ]  # fmt: skip
    assert 'half-half = "genbias_half_half.adapter:HalfHalf"' in (tmp_path / "ours" / "pyproject.toml").read_text()
    adapter = (tmp_path / "ours" / "src" / "genbias_half_half" / "adapter.py").read_text()
    assert useful_lines(adapter) <= 25
    assert max(len(line) for line in adapter.splitlines()) <= 120
    assert not [file for file in tmp_path.iterdir() if file.name != "ours"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="exists and is not an empty folder; nothing was written"):
        new_method("half-half", tmp_path)
    with pytest.raises(StoreError, match="exists and is not an empty folder"):
        new_method("half-half", tmp_path / "mine.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert new_method("half-half", tmp_path / "empty").files[0].is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/b", "lower-case words"), ("../up", "lower-case words"), ("HalfHalf", "lower-case words"),
        ("half_half", "lower-case words"), ("", "lower-case words"), ("-x", "lower-case words"),
        ("x" * 41, "at most 40"), ("3d", "the first a letter"), ("a--b", "lower-case"), ("a\n", "lower-case words"),
        ("class", "reserved"), ("tiny-sd", "reserved"), ("colorized-digits", "reserved"),
        ("ffr", "there is a method 'ffr' already"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        new_method(name, tmp_path / "new")
    assert not list(tmp_path.iterdir())


IN_TREE = """
import json, sys
sys.path[:0] = [sys.argv[1]]
from benchmark.contract.registry import listed_methods, load_method
from benchmark.errors import GenBiasError
from benchmark.testing.scaffold import new_method
made = new_method("half-half")
said = [made.method, [str(file) for file in made.files], load_method("half-half").card.id]
listed_methods.cache_clear()
for attempt in ("half-half", "half"):
    try:
        new_method(attempt)
    except GenBiasError as error:
        said.append(str(error))
sys.stdout.write(json.dumps(said))
"""


def in_tree(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", IN_TREE, str(folder)], capture_output=True, text=True, check=False)


def test_in_tree_it_is_one_file_that_the_registry_finds(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    for file in ("methods/__init__.py", "methods/erm.py", "pyproject.toml"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    (tmp_path / "methods" / "half.py").write_text("mine")
    done = in_tree(tmp_path)
    assert done.returncode == 0, done.stderr
    method, files, card, again, taken = json.loads(done.stdout)
    assert (method, files, card) == ("half-half", [str(tmp_path / "methods" / "half_half.py")], "half-half@1")
    assert "there is a method 'half-half' already" in again
    assert "there is a method 'half' already" in taken
    assert (tmp_path / "methods" / "half.py").read_text() == "mine"


def test_an_installed_wheel_has_no_place_for_in_tree_methods(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").write_text("")
    assert "`genbias-bench methods new half-half --package FOLDER`" in in_tree(tmp_path).stderr
