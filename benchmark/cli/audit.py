"""`audit`: what a generator, a pool or a training mixture shows of a task, as JSON and as a page for people."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import complete
from benchmark.cli.evaluate import interrupt, parse_assignments
from benchmark.cli.generated import percent_with_interval
from benchmark.cli.output import Debug, Json, percent, print_json, print_table, print_text, say

if TYPE_CHECKING:
    from benchmark.audits.report import Report, Sample
    from benchmark.records.schema import MetricValue


def audit(
    generator: Annotated[
        str | None,
        typer.Option(
            "--generator",
            "-g",
            help="tiny-sd, a folder or Hub id of a text-to-image generator, from-scratch, or invertible.",
        ),
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="ID", help="A pool of the store, by the start of its id.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="A run, whose generated training images are audited.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="Which task; default: the record's, or colorized-digits. See `list tasks`.",
            autocompletion=complete.tasks,
        ),
    ] = None,
    bias_level: Annotated[
        str | None,
        typer.Option("--bias-level", "-b", help="Training data to hold images against; default: the card's level."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", "--draw", "-s", help="Draw of the training data (seed % 5), and training seed.")
    ] = 0,
    images: Annotated[
        int, typer.Option("--images", "-n", help="Images to generate; of a pool, at most so many are looked at.")
    ] = 2000,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Fine-tune the generator on the training data first, per class.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="How the generator is trained: adapter_steps with --fine-tune, generator_steps from scratch, "
            "network_steps of the invertible network …; repeatable.",
        ),
    ] = None,
    sampling: Annotated[
        list[str] | None,
        typer.Option(
            "--sampling",
            metavar="NAME=VALUE",
            help="scheduler, steps, guidance or batch_size of a text-to-image generator.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="One of the task's training recipes: it says how large images are.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the report; default: audit-NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that lies in the folder.")] = False,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of pools and trained models; default: GENBIAS_STORE or the user's cache."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all cores.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the Hub.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Audit what generated images show of a task: groups against the training data, fidelity, copies, quality.

    Half of a text-to-image generator's images are asked for by class alone, so that its own bias shows; half by class
    and attribute. A pool or a run is audited as it is. The report is written as report.json and report.html.

    For example:

      genbias-bench audit --generator tiny-sd

      genbias-bench audit --generator tiny-sd --fine-tune --bias-level .95 --out tuned

      genbias-bench audit --generator from-scratch --images 1000 --set generator_steps=1200

      genbias-bench audit --generator invertible --bias-level .9

      genbias-bench audit --pool 3f2a --task colorized-digits

      genbias-bench audit --record results/colorized-digits/ffr/0.95-seed0-1a2b3c4d5e6f
    """
    del debug  # main() reads it
    from benchmark.cli.progress import progress
    from benchmark.evaluation.subjects import AuditRequest, check_folder, default_folder, resolve_subject
    from benchmark.records.store import default_store

    signal.signal(signal.SIGTERM, interrupt)
    request = AuditRequest(
        generator=generator,
        pool=pool,
        record=record,
        task=task,
        level=bias_level,
        seed=seed,
        images=images,
        fine_tune=fine_tune,
        settings=parse_assignments(set_ or [], "--set", "adapter_steps=200"),
        sampling=parse_assignments(sampling or [], "--sampling", "steps=30"),
        recipe=recipe,
        offline=offline,
    )
    where = store or default_store()
    with progress(f"audit of {generator or pool or record}") as bars:
        subject = resolve_subject(request, where, bars)
        folder = out or default_folder(subject)
        check_folder(folder, force=force)
        from benchmark.evaluation.generator_audit import audit_subject

        done = audit_subject(
            subject, out=folder, store=where, device=device, threads=threads, force=force, progress=bars
        )
    if json:
        print_json(done.report.model_dump(mode="json"))
    else:
        _show(done.report)
        print_text(f"report\t{done.json}")
        print_text(f"page\t{done.page}")
    if done.report.task.faces:
        say("the page shows people: it is for this machine only (protocol section 10)")


def _show(report: Report) -> None:
    task = report.task
    print_text(
        f"{report.subject.name} against the training data of {task.id}, bias level {task.level}, draw {task.draw}: "
        f"{percent(report.training.conflicting)} % of them are bias-conflicting"
    )
    columns = (
        "asked for by", "images", f"{task.label} shown %", f"{task.attribute} shown %", "conflicting %", "training %",
        "verdict", "near copies %", "FID", "KID",
    )  # fmt: skip
    print_table(columns, [_row(sample) for sample in report.samples], "Generated images")
    if (transfer := report.transfer) is not None:
        moved = transfer.overall
        cells = [percent_with_interval(metric) for metric in (moved.y_kept, moved.a_reached, moved.both)]
        heads = ("images", f"{task.label} kept %", f"{task.attribute} reached %", "both %")
        print_table(heads, [(moved.images, *cells)], f"Moved to another {task.attribute}")
    if (matched := report.matched) is not None:
        rows = [(c.name, percent_with_interval(c.conflicting)) for c in matched.conditions]
        print_table(("training data", "conflicting %"), rows, f"Matched samples: {matched.codes} latent codes")
    for note in report.notes:
        say(f"note: {note}")


def _row(sample: Sample) -> tuple[object, ...]:
    judged = sample.conflicting
    return (
        sample.asked_by,
        sample.images,
        percent_with_interval(sample.fidelity.y),
        percent_with_interval(sample.fidelity.a),
        percent_with_interval(judged.generated),
        percent(judged.training),
        judged.verdict,
        percent_with_interval(sample.memorised_share),
        _figures(sample.fid),
        _figures(sample.kid),
    )


def _figures(metric: MetricValue) -> str:
    return "-" if metric.value is None else f"{metric.value:.4g}"
