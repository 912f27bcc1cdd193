"""`data`: getting, preparing, checking and pinning the data of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import complete
from benchmark.cli.output import Debug, Json, print_json, print_table, print_text, say
from benchmark.cli.progress import progress

if TYPE_CHECKING:
    from benchmark.tasks.task import Task as LoadedTask

app = typer.Typer(help="Get, prepare, check and pin the data of tasks.", no_args_is_help=True)

Task = Annotated[str, typer.Argument(help="Which task; see `list tasks`.", autocompletion=complete.tasks)]


@app.command("list")
def list_(json: Json = False, debug: Debug = False) -> None:
    """Show of every task whether its data are here, what they take on disk, their licence, and what is pinned.

    For example:

      genbias-bench data list
    """
    del debug
    from benchmark.tasks.inventory import inventory

    found = inventory()
    if json:
        print_json([entry.as_dict() for entry in found])
        return
    rows = [
        (entry.task, entry.state, entry.origin or "-", _size(entry.bytes), entry.prepared or "-", entry.terms,
         entry.licence, entry.pinned)
        for entry in found
    ]  # fmt: skip
    print_table(("task", "files", "where", "on disk", "prepared", "terms", "licence", "pinned splits"), rows)


def _size(n: int) -> str:
    return "-" if n == 0 else f"{n / 2**20:,.1f} MiB"


@app.command("fetch")
def fetch(
    task: Task,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Use a copy of your own: a folder in the original layout.")
    ] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Accept the terms of use, which are shown without it.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; look for copies only.")] = False,
    debug: Debug = False,
) -> None:
    """Download a task's data from its sources in order, or register a copy of your own; every file is checked.

    For example:

      genbias-bench data fetch colorized-mnist

      genbias-bench data fetch utkface --from ~/data/utkface --accept-terms
    """
    del debug
    from benchmark.tasks.catalog import load_task
    from benchmark.tasks.fetch import fetch as run
    from benchmark.tasks.file_task import FileTask

    loaded = load_task(task)
    if not isinstance(loaded, FileTask):
        print_text(f"{loaded.card.id} needs no data: an installed package carries them")
        return
    with progress(f"data of {task}") as bars:
        done = run(
            loaded.card, progress=bars, accept=accept_terms, source=from_, matches=loaded.matches, offline=offline
        )
    print_text(f"{loaded.card.id}\t{done.origin}\t{done.folder}")
    if loaded.card.task.faces:
        say("These are photographs of people: no image, pool or model made from them may leave this machine.")
    say(f"next: genbias-bench data prepare {task}")


@app.command("prepare")
def prepare(
    task: Task,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Prepare at the image size of this recipe.")] = None,
    debug: Debug = False,
) -> None:
    """Decode a task's images once into the memory-mapped form that training reads; `evaluate` does so by itself.

    For example:

      genbias-bench data prepare utkface --recipe small
    """
    del debug
    from benchmark.tasks.catalog import load_task

    loaded = load_task(task)
    size = loaded.card.image_size(loaded.card.recipe(recipe))
    _ready(loaded, size)
    listing = loaded.listing
    at_hand = len(listing.ids) - len(listing.missing)
    print_text(f"{loaded.card.id}\t{at_hand} of {len(listing.ids)} samples\t{size} px")


def _ready(task: LoadedTask, size: int | None = None) -> None:
    with progress(f"data of {task.card.task.name}") as bars:
        task.make_ready(size or task.card.task.pixels.size, bars)


@app.command("verify")
def verify(task: Task = "colorized-digits", json: Json = False, debug: Debug = False) -> None:
    """Recompute every split, pixel and source digest of a task and compare it with the locks and the card.

    For example:

      genbias-bench data verify colorized-mnist
    """
    del debug
    from benchmark.tasks.catalog import load_task
    from benchmark.tasks.pinning import verify_task

    with progress(f"data of {task}") as bars:
        found = verify_task(load_task(task), bars)
    if json:
        print_json(
            [
                {
                    "task": v.task,
                    "level": v.level,
                    "draw": v.draw,
                    "state": v.state,
                    "digest": v.digest,
                    **v.counts.model_dump(mode="json"),
                }
                for v in found
            ]
        )
        return
    rows = [
        (v.task, v.level, v.draw, v.state, v.counts.train, v.counts.validation, v.counts.test, v.counts.conflicting,
         v.counts.smallest_group, v.counts.groups or "-", v.digest)
        for v in found
    ]  # fmt: skip
    columns = ("task", "level", "draw", "state", "train", "validation", "test", "conflicting", "smallest group")
    print_table((*columns, "groups", "digest"), rows)


@app.command("pin")
def pin(task: Task, debug: Debug = False) -> None:
    """Write a task's digests into the locks and its sizes into its card, for a pull request that pins it.

    For example:

      genbias-bench data pin cifar20-100
    """
    from benchmark.tasks.catalog import load_task
    from benchmark.tasks.pinning import pin_task

    with progress(f"data of {task}") as bars:
        pin_task(load_task(task), bars)
    load_task.cache_clear()
    verify(task, debug=debug)


@app.command("manifest")
def manifest(
    task: Task,
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    debug: Debug = False,
) -> None:
    """Write which sample is where as Parquet: id, label, attribute, and per level and draw its split.

    For those who want the frozen splits without this package. CelebA's and ImageNet's labels may not be passed on. For
    example:

      genbias-bench data manifest colorized-mnist -o splits.parquet
    """
    del debug
    from benchmark.tasks.catalog import load_task
    from benchmark.tasks.export import write_manifest

    loaded = load_task(task)
    _ready(loaded)
    rows = write_manifest(loaded, output)
    print_text(f"{output}\t{rows} samples")
