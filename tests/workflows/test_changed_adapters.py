"""Which adapters a pull request touches, from names that a stranger chose."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / ".github" / "scripts" / "changed_adapters.py"

HOSTILE = [
    b"methods/../evil.py", b"methods/a/../../b.py", b"/methods/erm.py", b"methods/sub/erm.py", b"methods//erm.py",
    b"methods/$(id).py", b"methods/`id`.py", b"methods/a;id.py", b"methods/a b.py", b"methods/a\nb.py",
    b"methods/a.py\n", b"adapters=[]\nmethods/x.py", b"methods/-rf.py", b"methods/--help.py", b"methods/a\"b.py",
    b"methods/${{ secrets.X }}.py", b"methods/\xff\xfe.py", "methods/ｅｒｍ.py".encode(),
    "methods/e\u202erm.py".encode(),
    b"methods/_fine_tuned.py", b"methods/__init__.py", b"methods/.py", b"methods/Erm.py", b"methods/erm.pyc",
    b"methods/a__b.py", b"methods/a_.py", b"methods/1a.py", b"xmethods/erm.py", b"methods/erm.py.sh",
    b"methods/" + b"a" * 61 + b".py", b"methods/\x1b[2J.py", b"",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_no_adapter(script: Callable[[str], ModuleType], name: bytes) -> None:
    assert script("changed_adapters").changed_adapters(name + b"\0methods/ffr.py\0") == ["ffr"]


def test_adapters_are_named_as_the_registry_names_them(script: Callable[[str], ModuleType]) -> None:
    names = b"methods/sd_augment.py\0README.md\0methods/erm.py\0methods/sd_augment.py\0tests/methods/test_erm.py\0"
    assert script("changed_adapters").changed_adapters(names) == ["erm", "sd-augment"]


def test_every_adapter_of_the_repository_is_found(script: Callable[[str], ModuleType]) -> None:
    from benchmark.contract.registry import listed_methods

    in_tree = {name for name, listed in listed_methods().items() if listed.in_tree}
    for name in in_tree:
        file = f"methods/{name.replace('-', '_')}.py\0".encode()
        assert script("changed_adapters").changed_adapters(file) == [name]


def test_the_output_is_one_line_of_json_for_the_matrix() -> None:
    done = subprocess.run([sys.executable, SCRIPT], input=b"\0".join(HOSTILE), capture_output=True, check=True)
    assert done.stdout == b"adapters=[]\n"
    names = b"".join(b"methods/m%d.py\0" % i for i in range(20))
    done = subprocess.run([sys.executable, SCRIPT], input=names, capture_output=True, check=True)
    (line,) = done.stdout.decode().splitlines()
    assert len(json.loads(line.removeprefix("adapters="))) == 20


def test_too_many_adapters_are_refused() -> None:
    names = b"".join(b"methods/m%d.py\0" % i for i in range(21))
    done = subprocess.run([sys.executable, SCRIPT], input=names, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"21 adapters in one pull request; at most 20" in done.stderr
