"""`doctor`: whether this machine can run what is about to be asked for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table, say


def doctor(
    store: Annotated[Path | None, typer.Option("--store", help="Folder of pools; default: as `env` shows.")] = None,
    results_dir: Annotated[Path, typer.Option("--results-dir", help="Folder of records.")] = Path("results"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at devices, versions, memory, disk, isolation, extras, credentials and data, and say what to do.

    Exit code 1 when something would make runs fail. Nothing is downloaded or asked over a network. For example:

      genbias-bench doctor
    """
    del debug
    from benchmark.evaluation.health import examine

    found = examine(store, results_dir)
    if json:
        print_json([asdict(each) for each in found])
    else:
        print_table(("what", "state", "found", "what to do"), [tuple(asdict(each).values()) for each in found])
    problems = [each.what for each in found if each.state == "problem"]
    if problems:
        say(f"problems: {', '.join(problems)}")
        raise typer.Exit(1)
