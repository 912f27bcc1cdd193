"""Every command of README, CONTRIBUTING, docs and workflows is one that there is; the cheap ones are run."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import DataError, NotAvailable

ROOT = Path(__file__).parents[2]
Parse = Callable[[list[str]], Any]
Blocks = Callable[[str, str], list[str]]
_CHEAP = ("list", "describe", "plan", "data list", "env", "tasks check", "methods check")
_NAMES_OF_EXAMPLES = {"half-half", "acme-bias/my-method"}


def test_there_are_commands_to_check(every_command: list[Any]) -> None:
    assert len({each.text for each in every_command}) > 60
    assert {"README.md", "quickstart.md", "papers.md", "publish.yml"} <= {each.file for each in every_command}


def test_a_command_parses(command: Any, parse: Parse) -> None:
    parse(command.words)


def test_what_is_no_command_does_not_parse(parse: Parse) -> None:
    for words in (
        ["evaluate", "--metod", "erm"],
        ["evalute"],
        ["data", "fetsch", "utkface"],
        ["evaluate", "--seed", "x"],
    ):
        with pytest.raises(Exception, match=r"No such|valid integer"):
            parse(words)


def test_an_evaluation_names_a_cell_that_there_is(evaluation: Any, parse: Parse) -> None:
    from benchmark.cli.evaluate import parse_assignments
    from benchmark.evaluation.cell import Request, resolve_cell

    given = parse(evaluation.words).arguments
    if given["method"] in _NAMES_OF_EXAMPLES:
        return
    # A generator, or CLIP, that is not here cannot be resolved; everything else is held against card and method.
    request = Request(
        given["method"], task=given["task"] or "colorized-digits", level=given["bias_level"], seed=given["seed"],
        overrides=parse_assignments(given["set_"] or []), recipe=given["recipe"], offline=True,
        backbone_weights="none", clip=given["clip"],
    )  # fmt: skip
    with contextlib.suppress(NotAvailable, DataError):  # the data, or a model of the Hub, are not here
        resolve_cell(request)


def test_commands_in_running_text_have_verbs_and_options_that_there_are(document: Path, verbs: dict[str, Any]) -> None:
    groups = {verb.split()[0] for verb in verbs}
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for call in re.findall(r"`genbias-bench ([^`]+)`", text):
        words = call.split()
        verb = next((v for v in (" ".join(words[:2]), words[0]) if v in verbs), None)
        if verb is None:
            assert words[0] in groups | {"--help"}, call
            continue
        options = {name for option in verbs[verb].params for name in (*option.opts, *option.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options | {"--help"}, call


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GENBIAS_STORE": str(folder / "store"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "benchmark.cli.main", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_cheap_commands_run(tmp_path: Path, parse: Parse, blocks: Blocks, every_command: list[Any]) -> None:
    (tmp_path / "leaderboard").symlink_to(ROOT / "leaderboard")
    (tmp_path / "my.toml").write_text(blocks("docs/grids.md", "toml")[0])
    ran = set()
    for command in (each for each in every_command if not each.reason):
        verb = parse(command.words).verb
        # A dry run of `sweep` plans what it would run, whatever the engine.
        words = [*command.words, *(["--dry-run"] if verb == "sweep" else [])]
        if (verb in _CHEAP or verb == "sweep") and tuple(words) not in ran:
            ran.add(tuple(words))
            done = run(words, tmp_path)
            assert done.returncode == 0, (str(command), done.stderr)
    assert len(ran) > 10


@pytest.mark.slow
def test_the_path_from_a_run_to_a_submission_runs_as_written(tmp_path: Path, every_command: list[Any]) -> None:
    """The documents' commands in their order, with the folder that `evaluate` named put where they say one."""
    path = [
        "genbias-bench evaluate --method erm",
        "genbias-bench leaderboard build results --output my-board.md",
        "genbias-bench score results/colorized-digits/erm/0.95-seed0-1a2b3c4d5e6f",
        'genbias-bench submit --method erm --author "A. Author" --out submission',
        "genbias-bench verify submission --report report.md",
    ]
    assert set(path) <= {each.text for each in every_command}
    for text in path:
        words = shlex.split(text)[1:]
        made = sorted((tmp_path / "results").glob("colorized-digits/erm/*"))
        if words[0] == "score":
            words[1] = str(made[0])
        done = run(words, tmp_path)
        assert done.returncode == 0, (text, done.stderr)
    assert (tmp_path / "my-board.md").read_text().startswith("# Leaderboard")
    assert "erm@1" in (tmp_path / "submission" / "submission.json").read_text()
