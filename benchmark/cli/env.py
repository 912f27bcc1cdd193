"""`env`: where runs would happen, as a record would describe it."""

from __future__ import annotations

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table


def env(
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:1 or mps."),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show versions, device, precision, and where the store is.

    For example:

      genbias-bench env --json
    """
    del debug
    import torch

    from benchmark.records.provenance import environment
    from benchmark.records.store import default_store
    from benchmark.training.device import default_precision, describe_device, resolve_device

    chosen = resolve_device(device)
    name, capability = describe_device(chosen)
    found = environment(
        device=name,
        device_kind=chosen.type,
        cpu_capability=capability,
        precision=default_precision(chosen),
        threads=torch.get_num_threads(),
    ).model_dump(mode="json")
    found["store"] = str(default_store())
    if json:
        print_json(found)
        return
    packages = found.pop("packages")
    print_table(
        ("what", "value"), [*found.items(), *((f"package {name}", version) for name, version in packages.items())]
    )
