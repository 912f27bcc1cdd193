"""`leaderboard accept`: for maintainers, from finished runs to accepted records and their verification levels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table, say


def accept(
    paths: Annotated[list[Path], typer.Argument(help="Finished runs: records, or folders of them.")],
    level: Annotated[
        Literal["recomputed", "replayed", "maintained"], typer.Option("--level", help="What is said about all of them.")
    ],
    commit: Annotated[
        str | None,
        typer.Option("--commit", metavar="SHA", help="Merged commit that was run; --level replayed has its replay's."),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Anything to remember about the decision.")] = "",
    replay: Annotated[
        list[Path] | None,
        typer.Option("--replay", metavar="FILE", help="replay.json of exactly these records; repeatable."),
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Raise the number of the board's release.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy verified runs into leaderboard/results and write what is said about them into verification.json.

    They take the place of accepted runs of the same row and seed. All or nothing; after an interruption make the same
    call again. For maintainers, in a checkout. For example:

      genbias-bench leaderboard accept results/colorized-digits/erm --level maintained --commit $(git rev-parse HEAD)

      genbias-bench leaderboard accept submission --level replayed --replay replays/…/replay.json --release
    """
    del debug  # main() reads it
    from leaderboard.accept import accept as run

    done = run(paths, level, commit=commit, note=note, replays=replay or (), raise_release=release)
    if json:
        print_json(asdict(done))
        return
    rows = [(name, f"accepted as {done.level}") for name in done.runs] + [(name, "removed") for name in done.removed]
    print_table(("run", "what"), rows, "leaderboard/results")
    say(f"release {done.release}; leaderboard/ holds {done.bytes:,} bytes")
    say("next: genbias-bench leaderboard build")
