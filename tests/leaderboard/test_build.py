"""`leaderboard build`: where it reads, where it writes, what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmark.errors import DamagedFile, StoreError, UsageError
from leaderboard import build
from leaderboard.build import build_board
from leaderboard.markdown import render_markdown


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    root = tmp_path / "clone"
    (root / "leaderboard").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    monkeypatch.setattr(build, "__file__", str(root / "leaderboard" / "build.py"))
    return root


def test_a_given_output_is_replaced(maker, tmp_path):
    maker.run("erm", 0)
    target = tmp_path / "new" / "BOARD.md"
    for _ in range(2):
        board = build_board([maker.results], target, verification=maker.verification)
        assert target.read_text() == render_markdown(board)
        assert board.written_to == str(target)
        assert str(tmp_path) not in board.model_dump_json()
    assert [path.name for path in target.parent.iterdir()] == ["BOARD.md"]


def test_a_checkout_has_defaults(checkout, maker):
    board = build_board(verification=maker.verification)
    assert board.runs == 0
    maker.run("erm", 0)
    maker.results.rename(checkout / "leaderboard" / "results")
    assert build_board(verification=maker.verification).runs == 1
    assert "erm@1" in (checkout / "LEADERBOARD.md").read_text()


def test_an_installation_says_what_to_name(checkout, maker, tmp_path):
    (checkout / "pyproject.toml").unlink()
    with pytest.raises(UsageError, match="no checkout of genbias-bench, so there is no default: name an output file"):
        build_board([maker.results])
    with pytest.raises(UsageError, match="name folders of records"):
        build_board(None, tmp_path / "L.md", verification=maker.verification)


def test_a_damaged_record_leaves_the_old_board(maker, tmp_path):
    target = tmp_path / "L.md"
    target.write_text("old")
    folder = maker.run("erm", 0)
    (folder / "record.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"record.json cannot be read as JSON"):
        build_board([maker.results], target, verification=maker.verification)
    assert target.read_text() == "old"


def test_a_folder_that_is_a_file_is_said(maker, tmp_path):
    maker.run("erm", 0)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        build_board([maker.results], tmp_path / "file" / "L.md", verification=maker.verification)


def test_no_torch_is_imported(maker, tmp_path):
    maker.run("erm", 0)
    code = (
        "import sys; from pathlib import Path; import leaderboard; assert 'numpy' not in sys.modules; "
        "from leaderboard.build import build_board; "
        f"build_board([Path({str(maker.results)!r})], Path({str(tmp_path / 'L.md')!r})); "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
