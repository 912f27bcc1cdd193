"""`tune`: search a method's space on validation images by the protocol's rules, and run what it chose."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import complete
from benchmark.cli.evaluate import interrupt
from benchmark.cli.output import Debug, Json, interval, percent, print_json, print_table, print_text, say

if TYPE_CHECKING:
    from benchmark.evaluation.run import Evaluation
    from benchmark.evaluation.tuned import Study


def tune(
    method: Annotated[
        str, typer.Option("--method", "-m", help="Which method; see `list methods`.", autocompletion=complete.methods)
    ],
    task: Annotated[
        str, typer.Option("--task", "-t", help="Which task; see `list tasks`.", autocompletion=complete.tasks)
    ] = "colorized-digits",
    trials: Annotated[int, typer.Option("--trials", help="Configurations to try, at most 20, the default first.")] = 20,
    generator: Annotated[
        str | None, typer.Option("--generator", "-g", help="Name, folder or Hub id; default: the card's.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="One of the task's training recipes, such as `small`.")
    ] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun/--no-rerun", help="Run what was chosen on fresh seeds, as a `tuned` row.")
    ] = True,
    seeds: Annotated[str, typer.Option("--seeds", help="Those seeds.")] = "0-4",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all cores.")] = None,
    results_dir: Annotated[Path, typer.Option("--results-dir", help="Folder of the records.")] = Path("results"),
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of pools and trained stages; default: GENBIAS_STORE or the user's cache."),
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Fit in processes without test split and, where possible, network.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the Hub.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Search a method's hyper-parameters, learning rate and weight decay; run the best as a row of its own.

    The rules are the same for every method, controls included: at bias level .95 and draw 0, at most 20 configurations
    and 20 times the device time of one ERM run, judged by cross-entropy on validation images: their mean for methods
    that read no group labels, else the worst group's. Trials never see the test split and are never ranked. Give the
    same command again to go on.

    For example:

      genbias-bench tune --method jtt

      genbias-bench tune --method group-dro --task colorized-mnist --trials 10 --no-rerun

    One configuration serves all levels: `sweep --tuned FILE --bias-level all` runs it there.
    """
    del debug  # main() reads it
    from benchmark.cli.grid import check_numbers
    from benchmark.cli.progress import progress
    from benchmark.evaluation.cell import Request
    from benchmark.evaluation.run import evaluate
    from benchmark.records.store import default_store
    from benchmark.sweep.selection import parse_seeds
    from benchmark.tuning.study import Place
    from benchmark.tuning.study import tune as search

    check_numbers(threads=threads)
    numbers = parse_seeds(seeds) if rerun else ()
    signal.signal(signal.SIGTERM, interrupt)
    request = Request(method, task=task, generator=generator, recipe=recipe, offline=offline)
    place = store or default_store()
    runs = []
    with progress(f"tuning {method} on {task}") as bars:
        where = Place(
            results_dir, place, device, threads, isolated=isolated, progress=bars,
            on_trial=lambda study: bars.message(_trial_line(study)),
        )  # fmt: skip
        study, file = search(request, trials, where)
        for seed in numbers:
            runs.append(
                evaluate(
                    method, task=task, level=study.definition.level, seed=seed, generator=generator, tuned=file,
                    results=results_dir, store=place, device=device, threads=threads, isolated=isolated,
                    offline=offline, progress=bars,
                )
            )  # fmt: skip
    if json:
        folders = [str(run.folder) for run in runs]
        print_json({"file": str(file), "study": study.model_dump(mode="json"), "runs": folders})
        return
    _show(study, file, runs)


def _trial_line(study: Study) -> str:
    trial = study.trials[-1]
    value = "training diverged" if trial.value is None else f"cross-entropy {trial.value:.4f}"
    return f"trial {trial.number}: {value}; {percent(study.share_used)} % of the device time used"


def _show(study: Study, file: Path, runs: list[Evaluation]) -> None:
    definition = study.definition
    names = list(definition.space)
    curve = [f"{value:.4f}" for value in study.expected_best] or ["-"] * len(study.trials)
    rows = [
        (
            f"{trial.number}{' *' if trial.number == study.winner else ''}",
            *(trial.values[name] for name in names),
            "diverged" if trial.value is None else f"{trial.value:.4f}",
            f"{trial.device_seconds:.1f}",
            best,
        )
        for trial, best in zip(study.trials, curve, strict=True)
    ]
    title = f"{definition.method} on {definition.task}, {definition.criterion}; expected best of the first trials"
    print_table(("trial", *names, "cross-entropy", "device s", "expected best"), rows, title)
    limit = definition.erm_runs * study.erm_seconds
    print_text(
        f"ended by {study.ended}: {len(study.trials)} of {definition.trials} trials, {study.device_seconds:.1f} of "
        f"{limit:.1f} device seconds ({definition.erm_runs} runs of ERM)"
    )
    print_text(f"study\t{file}")
    if runs:
        print_text()
        _show_runs(runs)
    say(f"next: genbias-bench sweep --tuned {file} --bias-level all   runs the choice at every level")


def _show_runs(runs: list[Evaluation]) -> None:
    rows = []
    for run in runs:
        record = run.record
        metric = record.task.ranking_metric
        for checkpoint in record.ranked_stage.checkpoints:
            found = checkpoint.metrics[metric]
            rows.append((record.seed, checkpoint.rule, metric, percent(found.value), interval(found.low, found.high)))
    print_table(("seed", "rule", "metric", "%", "95 % interval"), rows, "The tuned configuration on fresh seeds")
