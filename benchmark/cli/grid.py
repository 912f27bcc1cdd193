"""Options that `plan` and `sweep` share: which cells, and where their records are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import complete
from benchmark.cli.evaluate import parse_assignments
from benchmark.errors import InvalidValue

if TYPE_CHECKING:
    from benchmark.evaluation.cell import Request

Grid = Annotated[
    Path | None,
    typer.Option(
        "--grid", metavar="FILE", help="A TOML file of cells, such as leaderboard/grids/colorized-digits.toml."
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method", "-m", help="A method, or `all`; repeatable. See `list methods`.", autocompletion=complete.methods
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", "-t", help="A task; repeatable. Default: colorized-digits.", autocompletion=complete.tasks),
]
Levels = Annotated[
    list[str] | None,
    typer.Option(
        "--bias-level",
        "-b",
        help="A bias level, or `all`; repeatable. Default: each card's.",
        autocompletion=complete.levels,
    ),
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Such as 0-4 (the default) or 0,2,5-7.")]
Generators = Annotated[
    list[str] | None,
    typer.Option("--generator", "-g", help="Name, folder or Hub id, for methods that use one; repeatable."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Hyper-parameter, for the methods that have it; repeatable."),
]
Sampling = Annotated[
    list[str] | None,
    typer.Option("--sampling", metavar="NAME=VALUE", help="scheduler, steps, guidance or batch_size of generators."),
]
Recipe = Annotated[str | None, typer.Option("--recipe", help="One of the tasks' training recipes, such as `small`.")]
Weights = Annotated[
    str | None, typer.Option("--backbone-weights", help="none, imagenet, or torchvision's name; default: the recipe's.")
]
Clip = Annotated[str | None, typer.Option("--clip", help="CLIP model, for methods that ask for one.")]
Tuned = Annotated[
    list[Path] | None,
    typer.Option("--tuned", metavar="FILE", help="A tuning.json: run what the study chose; repeatable."),
]
Results = Annotated[Path, typer.Option("--results-dir", help="Folder of the records.")]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of pools and trained stages; default: GENBIAS_STORE or the user's cache."),
]
Isolated = Annotated[
    bool, typer.Option("--isolated", help="Fit in processes without test split; only such records count as done.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the Hub.")]
Stale = Annotated[bool, typer.Option("--stale", help="Run stale cells again too: their code or card has moved.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", help="Cells at once; default: one per GPU, or per core as memory allows."),
]


def check_numbers(**numbers: int | None) -> None:
    """Refuse numbers below 1.

    Raises:
        InvalidValue: With the option's name.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise InvalidValue(f"{value} {name} make no sense; use 1 or more")


def requests_from(
    grid: Path | None,
    *,
    methods: list[str] | None,
    tasks: list[str] | None,
    levels: list[str] | None,
    seeds: str | None,
    generators: list[str] | None,
    set_: list[str] | None,
    sampling: list[str] | None,
    recipe: str | None,
    weights: str | None,
    clip: str | None,
    tuned: list[Path] | None,
    offline: bool,
) -> list[Request]:
    """Return the cells that the options name; with a file, selectors narrow it.

    Raises:
        UsageError: For options that contradict each other, or name what does not exist.
    """
    from benchmark.sweep.grid_file import read_grid
    from benchmark.sweep.selection import DEFAULT_SEEDS, Block, narrowed, requests_of, tuned_blocks
    from benchmark.tasks.catalog import DEFAULT_TASK

    settings = {
        "--set": set_, "--sampling": sampling, "--recipe": recipe, "--backbone-weights": weights, "--clip": clip,
    }  # fmt: skip
    if tuned:
        if methods or tasks or grid:
            raise InvalidValue("--tuned contradicts --method, --task and --grid: a study names its method and task")
        for option, value in settings.items():
            if value:
                raise InvalidValue(f"{option} contradicts --tuned, whose study says how its cells are configured")
        return requests_of(
            tuned_blocks(tuned, levels=levels or (), seeds=seeds, generators=generators or ()), offline=offline
        )
    if grid is None:
        if not methods:
            raise InvalidValue("name at least one --method (or `--method all`), or a file with --grid or --tuned")
        block = Block(
            methods=tuple(methods),
            tasks=tuple(tasks or [DEFAULT_TASK]),
            levels=tuple(levels or ()),
            seeds=DEFAULT_SEEDS if seeds is None else seeds,
            generators=tuple(generators or ()),
            set=parse_assignments(set_ or []),
            recipe=recipe,
            backbone_weights=weights,
            clip=clip,
            sampling=parse_assignments(sampling or [], "--sampling", "steps=30"),
        )
        return requests_of([block], offline=offline)
    for option, value in settings.items():
        if value:
            raise InvalidValue(f"{option} contradicts --grid, whose file says how its cells are configured")
    return narrowed(
        read_grid(grid, offline=offline).requests, methods=methods, tasks=tasks, levels=levels, seeds=seeds,
        generators=generators,
    )  # fmt: skip
