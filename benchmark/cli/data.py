"""`data`: checking and pinning the data of tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table

app = typer.Typer(help="Check and pin the data of tasks.", no_args_is_help=True)

Task = Annotated[str, typer.Argument(help="Which task; see `list tasks`.")]


@app.command("verify")
def verify(task: Task = "colorized-digits", json: Json = False, debug: Debug = False) -> None:
    """Recompute every split and pixel digest of a task and compare it with the locks and the card."""
    del debug
    from benchmark.tasks.catalog import load_task
    from benchmark.tasks.pinning import verify_task

    found = verify_task(load_task(task))
    if json:
        print_json(
            [
                {
                    "task": v.task,
                    "level": v.level,
                    "draw": v.draw,
                    "state": v.state,
                    "digest": v.digest,
                    **v.counts.model_dump(),
                }
                for v in found
            ]
        )
        return
    rows = [
        (v.task, v.level, v.draw, v.state, v.counts.train, v.counts.conflicting, v.counts.smallest_group, v.digest)
        for v in found
    ]
    print_table(("task", "level", "draw", "state", "train", "conflicting", "smallest group", "digest"), rows)


@app.command("pin")
def pin(task: Task, debug: Debug = False) -> None:
    """Write a task's digests into the locks, for a pull request that pins it."""
    del debug
    from benchmark.tasks.catalog import load_task
    from benchmark.tasks.pinning import pin_task

    pin_task(load_task(task))
    verify(task)
