"""Provenance says where a run happened, and neither who ran it nor in which folder."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.records.canonical import sha256_of
from benchmark.records.provenance import (
    cpu_name,
    environment,
    failure_of,
    git_state,
    package_versions,
    peak_memory_bytes,
    scrub,
)

HERE = {"device": "cpu", "device_kind": "cpu", "cpu_capability": "AVX2", "precision": "float32", "threads": 1}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cannot write /mnt/disk/results/record.json; x", "cannot write …/record.json; x"),
        ('  File "/opt/venv/lib/python3.11/json/decoder.py", line 3', '  File "…/decoder.py", line 3'),
        ("No such file: '/mnt/my disk/some data/x.png'", "No such file: '…/x.png'"),
        ('"C:\\Users\\someone\\run\\x.txt"', '"…/x.txt"'),
        ("D:\\data\\x.txt is missing", "…/x.txt is missing"),
        ("file:///srv/data/x.txt", "…/x.txt"),
        ("PATH=/a/b/c:/d/e/f", "PATH=…/c:…/f"),
        ("https://huggingface.co/owner/name/tree", "https://huggingface.co/owner/name/tree"),
        ("a/b and 3/4 of colorized-digits/erm/x", "a/b and 3/4 of colorized-digits/erm/x"),
        ("the loss is NaN", "the loss is NaN"),
    ],
)
def test_folders_are_removed_and_the_rest_stays(text: str, clean: str) -> None:
    assert scrub(text) == clean


@pytest.mark.parametrize("variable", ["USER", "LOGNAME", "USERNAME"])
def test_the_user_s_name_is_removed_as_a_word(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "marla")
    assert scrub("marla ran /scratch/marla, not marlability") == "… ran …/…, not marlability"


@pytest.mark.parametrize("home", ["/home/marla", "/home/Marla Singer"])
def test_the_home_folder_is_removed_whatever_stands_behind_it(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    for text in (home, f"{home}/x.txt", f"{home}/runs/now/x.txt", f"'{home}/runs/x.txt'", f"{home}/runs, {home}: y"):
        found = scrub(text)
        assert "arla" not in found
        assert "home" not in found
    assert scrub(f"cannot read {home}/x.txt") == "cannot read ~/x.txt"
    assert scrub(f"cannot read {home}/a/b/x.txt") == "cannot read …/x.txt"


def test_the_host_s_name_is_removed() -> None:
    code = """
import platform, sys
platform.node = lambda: "gpu-node-17"
from benchmark.records.provenance import scrub
sys.stdout.write(scrub("lost gpu-node-17!"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "lost …!"


def test_a_failure_keeps_its_kind_and_lines_without_folders(tmp_path: Path) -> None:
    try:
        raise FileNotFoundError(f"no {tmp_path / 'data' / 'x.png'}")
    except FileNotFoundError as error:
        failure = failure_of(error)
    assert failure.kind == "FileNotFoundError"
    assert failure.message == "no …/x.png"
    assert any("…/test_provenance.py" in line for line in failure.traceback)
    text = "\n".join(failure.traceback)
    for folder in (tmp_path, Path(__file__).parent):
        assert str(folder) not in text
        assert str(folder.parent) not in text


def test_a_long_traceback_keeps_its_end() -> None:
    def fall(depth: int) -> None:
        if depth == 0:
            raise RuntimeError("the bottom")
        [fall, len][depth % 1](depth - 1)

    try:
        fall(200)
    except RuntimeError as error:
        failure = failure_of(error)
    assert len(failure.traceback) <= 60
    assert failure.traceback[-1] == "RuntimeError: the bottom"


# --- environments --------------------------------------------------------------------------------------------------


def test_equal_places_have_equal_ids_and_what_changes_results_changes_them() -> None:
    base = environment(**HERE)
    assert environment(**HERE) == base
    content = base.model_dump()
    assert content.pop("environment_id") == base.environment_id == sha256_of(content)
    others = [
        {"device": "H200"},
        {"device_kind": "cuda"},
        {"cpu_capability": "AVX512"},
        {"precision": "bfloat16"},
        {"threads": 2},
    ]
    ids = {environment(**{**HERE, **other}).environment_id for other in others}
    assert len(ids | {base.environment_id}) == 6


def test_an_environment_names_neither_host_nor_folder() -> None:
    text = environment(**HERE).model_dump_json()
    assert f'"{platform.node()}"' not in text
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text


def test_an_environment_names_the_packages_that_change_results() -> None:
    found = package_versions()
    assert {"torch", "numpy", "pyarrow", "scikit-learn"} <= set(found)
    assert all(version[0].isdigit() for version in found.values())


def test_the_commit_is_that_of_the_checkout_or_nothing() -> None:
    commit, dirty = git_state()
    if (Path(__file__).parents[2] / ".git").exists():
        head = subprocess.run(
            ["git", "-C", str(Path(__file__).parents[2]), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert commit == (head.stdout.strip() or None)
        assert isinstance(dirty, bool) == (commit is not None)
    else:
        assert (commit, dirty) == (None, None)


def test_hardware_is_named_and_memory_measured() -> None:
    assert cpu_name()
    peak = peak_memory_bytes()
    assert peak is None or 10**7 < peak < 10**12
