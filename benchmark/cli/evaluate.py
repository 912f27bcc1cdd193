"""`evaluate`: one method on one task at one bias level with one seed, from data to a record."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli import complete
from benchmark.cli.generated import percent_with_interval, show_generated
from benchmark.cli.output import Debug, Json, interval, percent, print_json, print_table, print_text, say
from benchmark.errors import InvalidValue

if TYPE_CHECKING:
    from benchmark.evaluation.run import Evaluation
    from benchmark.records.schema import CheckpointResult, Record

_MANY_GROUPS = 20


def evaluate(
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="Which method; see `list methods`.",
            show_default=False,
            autocompletion=complete.methods,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="Which task; see `list tasks`. Default: colorized-digits.",
            autocompletion=complete.tasks,
        ),
    ] = None,
    bias_level: Annotated[
        str | None,
        typer.Option(
            "--bias-level",
            "-b",
            help="Share of bias-aligned training samples, or `balanced`; default: the card's.",
            autocompletion=complete.levels,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Training seed; it also chooses draw seed % 5.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Hyper-parameter of the method; repeatable.")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option("--generator", "-g", help="Name, folder or Hub id (org/name[@revision]); default: the card's."),
    ] = None,
    sampling: Annotated[
        list[str] | None,
        typer.Option(
            "--sampling",
            metavar="NAME=VALUE",
            help="scheduler, steps, guidance or batch_size of the generator; default: the card's, or the generator's.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="One of the task's training recipes, such as `small`; see `describe TASK`."),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option("--backbone-weights", help="none, imagenet, or torchvision's name; default: the recipe's."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option("--clip", help="CLIP model (folder or Hub id) for features=clip or filter=clip."),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option("--tuned", metavar="FILE", help="Run what a study of `tune` chose, by its tuning.json."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all cores.")] = None,
    results_dir: Annotated[Path, typer.Option("--results-dir", help="Folder of the records.")] = Path("results"),
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of pools and trained stages; default: GENBIAS_STORE or the user's cache."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run again although this cell is done; the old record stays.")
    ] = False,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Fit in a process without test split and, where possible, network.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the Hub.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate one method and write a record that anyone can recompute.

    For example:

      genbias-bench evaluate --method ffr

      genbias-bench evaluate --method sd-augment --bias-level .99 --seed 3 --set balance=add

      genbias-bench evaluate --method clustered-dreambooth --set clusters=3 --set filter=own

      genbias-bench evaluate --method erm --task utkface --recipe small

      genbias-bench evaluate --tuned results/tuning/colorized-digits/jtt/study-0123456789ab --bias-level .99
    """
    del debug  # main() reads it
    from benchmark.cli.progress import progress
    from benchmark.evaluation.run import evaluate as run

    method, task = _of_study(tuned, method, task)
    signal.signal(signal.SIGTERM, interrupt)
    overrides = parse_assignments(set_ or [])
    with progress(f"{method} on {task}") as bars:
        done = run(
            method,
            task=task,
            level=bias_level,
            seed=seed,
            generator=generator,
            overrides=overrides,
            results=results_dir,
            store=store,
            device=device,
            threads=threads,
            force=force,
            isolated=isolated,
            offline=offline,
            recipe=recipe,
            backbone_weights=backbone_weights,
            clip=clip,
            sampling=parse_assignments(sampling or [], "--sampling", "steps=30"),
            tuned=tuned,
            progress=bars,
        )
    if json:
        print_json(done.record.model_dump(mode="json"))
    else:
        _show(done, results_dir)


def _of_study(tuned: Path | None, method: str | None, task: str | None) -> tuple[str, str]:
    """Return method and task as given, else the study's, else the default task."""
    from benchmark.evaluation.tuned import read_study
    from benchmark.tasks.catalog import DEFAULT_TASK

    if tuned is not None:
        study = read_study(tuned)
        return method or study.method, task or study.task
    if method is None:
        raise InvalidValue("name a --method (see `genbias-bench list methods`), or a study with --tuned")
    return method, task or DEFAULT_TASK


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Let SIGTERM end a run as Ctrl-C does, so that nothing is left half-done."""
    del frame
    raise KeyboardInterrupt(f"signal {signum}")


def parse_assignments(
    assignments: list[str], option: str = "--set", example: str = "real_loss=group-dro"
) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` words.

    Raises:
        InvalidValue: For a word without ``=``, or a name given twice.
    """
    parsed: dict[str, Any] = {}
    for word in assignments:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise InvalidValue(f"{option} {word!r} is not NAME=VALUE, such as {option} {example}")
        if name in parsed:
            raise InvalidValue(f"{option} {name} is given twice")
        parsed[name] = value
    return parsed


def _show(done: Evaluation, results: Path) -> None:
    from benchmark.records.results import record_file

    record = done.record
    if done.reused:
        say("this cell was done before; here is its record (--force runs it again)")
    if record.status == "skipped":
        print_text(f"skipped: {record.skipped_because}")
        return
    task = record.task
    print_text(
        f"{record.method.name}@{record.method.version} on {task.name}@{task.version}, bias level {task.level}, "
        f"seed {record.seed}, recipe {task.recipe}: N = {task.n_train}, smallest group {task.smallest_group} "
        f"({task.populated_groups} groups populated)"
    )
    ranked = record.ranked_stage.checkpoints[0]
    _show_groups(record, ranked)
    print_text()
    _show_stages(record)
    print_text()
    show_generated(record)
    folder = _relative(done.folder)
    print_text(f"record\t{folder / record_file(done.folder).name}")
    for kind, file in sorted(record.artifacts.items()):
        print_text(f"{kind}\t{folder / file}")
    say(f"next: genbias-bench score {folder}   recomputes every metric from the stored predictions")
    say(f"      genbias-bench leaderboard build {_relative(results)} -o my-board.md   compares your records")


def _relative(path: Path) -> Path:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path.resolve()


def _show_groups(record: Record, ranked: CheckpointResult) -> None:
    task, groups = record.task, ranked.groups
    populated = sum(n > 0 for row in groups.n for n in row)
    if sys.stdout.isatty() and populated > _MANY_GROUPS:
        _show_matrix(record, ranked)
        return
    rows = [
        (label, attribute, task.train_counts[y][a], groups.n[y][a], percent(groups.correct[y][a] / groups.n[y][a]),
         interval(groups.low[y][a], groups.high[y][a]))
        for y, label in enumerate(task.labels)
        for a, attribute in enumerate(task.attributes)
        if groups.n[y][a]
    ]  # fmt: skip
    print_table(
        ("label", "attribute", "train n", "test n", "accuracy %", "95 % interval"), rows, "Test accuracy by group"
    )


def _show_matrix(record: Record, ranked: CheckpointResult) -> None:
    task, groups = record.task, ranked.groups
    rows = []
    for y, label in enumerate(task.labels):
        shares = [c / n if n else None for c, n in zip(groups.correct[y], groups.n[y], strict=True)]
        widest = max(
            (
                h - low
                for low, h in zip(groups.low[y], groups.high[y], strict=True)
                if low is not None and h is not None
            ),
            default=0.0,
        )
        rows.append((label, *(percent(s) for s in shares), f"±{50 * widest:.0f}"))
    print_table((r"label \ attribute", *task.attributes, "widest interval"), rows, "Test accuracy by group, %")


def _show_stages(record: Record) -> None:
    shown = ("acc_conflicting", "acc_aligned", "acc_group_mean", "bias_retained", "flip_rate")
    rows = []
    for stage in record.stages:
        for checkpoint in stage.checkpoints:
            cells = [percent_with_interval(checkpoint.metrics[name]) for name in shown]
            rows.append((stage.name, checkpoint.rule, checkpoint.track, checkpoint.step, *cells))
    print_table(("stage", "rule", "track", "step", *(f"{name} %" for name in shown)), rows, "Stages")
