"""`replay`: one more seed of submitted runs, made here from the installed code, and whether it confirms them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.evaluate import interrupt
from benchmark.cli.output import Debug, Json, print_json, print_text, say

OUTSIDE = 1


def replay(
    records: Annotated[list[Path], typer.Argument(help="Records, or folders of them; gathered into rows.")],
    seed: Annotated[
        int | None,
        typer.Option("--seed", "-s", help="Seed of the replay; default: a random one that was not submitted."),
    ] = None,
    same_seed: Annotated[
        bool, typer.Option("--same-seed", help="Repeat a submitted seed (--seed, or the lowest) and compare with it.")
    ] = False,
    generator: Annotated[
        str | None,
        typer.Option("--generator", "-g", help="Folder of the generator, where the records name one by its content."),
    ] = None,
    clip: Annotated[
        str | None, typer.Option("--clip", help="Folder of the CLIP model, where the records name one by its content.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads; default: all cores, with --same-seed those of the submitted run."),
    ] = None,
    results_dir: Annotated[Path, typer.Option("--results-dir", help="Folder of the replays' records.")] = Path(
        "replays"
    ),
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of pools and adapters; default: GENBIAS_STORE or the user's cache."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a further seed of submitted runs in isolation and say whether it lies where they predict it.

    For each selection rule the ranking metric of the replay is held against the 95 % prediction interval of the
    submitted seeds (t with S - 1 degrees of freedom, s capped at twice the pooled s of the ranked rows). With
    --same-seed, on a CPU with the same threads, precision and capability, every metric must be equal to 1e-6.

    Exit code 0 inside, 1 outside. Each replay is also written as replay.json beside its record. For example:

      genbias-bench replay submission/colorized-digits/erm --threads 1

      genbias-bench replay results/colorized-digits/erm/0.95-seed0-b489c2f00c97 --same-seed
    """
    del debug  # main() reads it
    from benchmark.cli.progress import progress
    from benchmark.records.results import run_folder
    from leaderboard.replay import Where
    from leaderboard.replay import replay as run
    from leaderboard.replayed import REPLAY_FILE, render_replay

    signal.signal(signal.SIGTERM, interrupt)
    where = Where(results=results_dir, store=store, device=device, threads=threads, generator=generator, clip=clip)
    with progress("replay") as bars:
        found = run(records, where, seed=seed, same_seed=same_seed, progress=bars)
    if json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        print_text("\n\n".join(render_replay(each) for each in found))
    for each in found:
        task, method = (name.rpartition("@")[0] for name in (each.task, each.method))
        say(f"replay\t{results_dir / run_folder(task, method) / each.run / REPLAY_FILE}")
    if not all(each.inside for each in found):
        raise typer.Exit(OUTSIDE)
