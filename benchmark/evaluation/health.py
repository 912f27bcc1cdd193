"""What `genbias-bench doctor` looks at: whether this machine can run what is asked for, and what to do if not.

Nothing is downloaded, and nobody is asked over a network.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from benchmark.contract.registry import listed_methods
from benchmark.errors import GenBiasError
from benchmark.records.files import temporary_folder, write_bytes
from benchmark.records.provenance import cpu_name, git_state
from benchmark.records.store import Store, default_store
from benchmark.tasks.inventory import inventory

PACKAGE = "genbias-bench"
State = Literal["ok", "note", "problem"]

_SCARCE_DISK, _SCARCE_MEMORY = 5 * 2**30, 4 * 2**30
_PROBE_S = 60.0
_EXTRAS = {
    "slurm": ("submitit", "sweep --engine slurm"),
    "ray": ("ray", "sweep --engine ray"),
    "tune": ("optuna", "tune"),
}
_NAMESPACES = "import sys\nfrom benchmark.evaluation.isolated import block_network\nsys.exit(not block_network())\n"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: What it is.
        state: ``ok``; ``note`` for what some verbs lack; ``problem`` for what makes runs fail.
        found: What was found.
        advice: What to do, where something is to be done.
    """

    what: str
    state: State
    found: str
    advice: str = ""


def examine(store: Path | None = None, results: Path = Path("results")) -> list[Finding]:
    """Look at versions, devices, memory, disk, isolation, extras, credentials, plug-ins and data.

    Args:
        store: Folder of pools and trained stages; None takes :func:`default_store`.
        results: Folder of records.
    """
    looks: list[Callable[[], Iterator[Finding]]] = [
        _versions,
        _devices,
        _machine,
        lambda: _folders(store or default_store(), results),
        _isolation,
        _signals,
        _extras,
        _credentials,
        _plugins,
        _data,
    ]
    return [finding for look in looks for finding in look()]


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok", python)
    commit, dirty = git_state()
    where = "an installed package" if commit is None else f"commit {commit[:12]}{' with changes' if dirty else ''}"
    try:
        version, required = importlib.metadata.version(PACKAGE), importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        advice = "run `make install`, or `pip install` it: versions of its libraries cannot be checked"
        yield Finding(PACKAGE, "problem", "not installed, only on the path", advice)
        return
    yield Finding(PACKAGE, "ok", f"{version}, {where}")
    wrong = [text for line in required if (text := _unmet(Requirement(line)))]
    if wrong:
        advice = "run `make install` again, or `pip install -U genbias-bench`"
        yield Finding("libraries", "problem", "; ".join(wrong), advice)
    else:
        yield Finding("libraries", "ok", "all in the declared ranges")


def _unmet(requirement: Requirement) -> str:
    """Return what is wrong with an installed library; nothing for those of extras, and of other systems."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, not {requirement.specifier}"


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "problem", str(error), "install torch again for this system")
        return
    from benchmark.training.device import default_precision, describe_device

    cpu = torch.device("cpu")
    slow = "" if default_precision(cpu) == "bfloat16" else "; no bf16 instructions, so training is in float32"
    yield Finding("CPU", "ok", f"{cpu_name()}, {describe_device(cpu)[1]}, {torch.get_num_threads()} threads{slow}")
    for number in range(torch.cuda.device_count()):
        device = torch.device(f"cuda:{number}")
        free, whole = torch.cuda.mem_get_info(device)
        name = f"{describe_device(device)[0]}, {_gib(free)} of {_gib(whole)} free, {default_precision(device)}"
        yield Finding(f"GPU {number}", "ok", name)
    if not torch.cuda.device_count():
        driver = shutil.which("nvidia-smi")
        advice = "its driver is here, but torch sees no GPU: install a torch built for CUDA" if driver else ""
        yield Finding("GPU", "problem" if driver else "note", "none that torch can use", advice)


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    scarce = memory.available < _SCARCE_MEMORY
    advice = "close something, or run with one worker and one thread" if scarce else ""
    found = f"{_gib(memory.available)} of {_gib(memory.total)} free"
    yield Finding("memory", "problem" if scarce else "ok", found, advice)


def _folders(store: Path, results: Path) -> Iterator[Finding]:
    for what, folder in (("store", store), ("results", results)):
        try:
            there = _nearest(folder)
            if what == "store" and there == folder:
                Store(folder)  # says when another version wrote it
            with temporary_folder(there) as probe:
                write_bytes(probe / "probe", b"")
            free = shutil.disk_usage(there).free
        except (GenBiasError, OSError) as error:
            option = "GENBIAS_STORE" if what == "store" else "--results-dir"
            yield Finding(what, "problem", str(error), f"choose another folder with {option}")
            continue
        scarce = free < _SCARCE_DISK
        advice = "pools and adapters need room: free some, or choose another folder" if scarce else ""
        yield Finding(what, "note" if scarce else "ok", f"{folder}, {_gib(free)} free", advice)


def _nearest(folder: Path) -> Path:
    """Return a folder, or the one in which it would be made: looking makes nothing."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _isolation() -> Iterator[Finding]:
    # In a child: a process that left its namespaces cannot come back.
    try:
        done = subprocess.run([sys.executable, "-c", _NAMESPACES], capture_output=True, timeout=_PROBE_S, check=False)
        allowed = done.returncode == 0
    except (OSError, subprocess.SubprocessError):
        allowed = False
    if allowed:
        yield Finding("isolation", "ok", "`--isolated` can block the network and hide folders")
    else:
        advice = "runs with --isolated still get no test split; their records say what could not be blocked"
        yield Finding("isolation", "note", "this system lets no process leave its namespaces", advice)


def _signals() -> Iterator[Finding]:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        advice = "started by `nohup` or in the background; start it in a terminal, or stop it with SIGTERM"
        yield Finding("Ctrl-C", "note", "this shell's children ignore it", advice)


def _extras() -> Iterator[Finding]:
    for extra, (module, verb) in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            advice = f'`{verb}` needs `pip install "genbias-bench[{extra}]"`'
            yield Finding(f"extra [{extra}]", "note", "not installed", advice)
        else:
            yield Finding(f"extra [{extra}]", "ok", f"{module} {importlib.metadata.version(module)}")
    if shutil.which("sinfo"):
        yield Finding("SLURM", "ok", "its commands are here")


def _credentials() -> Iterator[Finding]:
    from huggingface_hub import get_token

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true"):
        yield Finding("Hugging Face Hub", "note", "HF_HUB_OFFLINE is set: nothing is fetched or pushed")
    if get_token():
        yield Finding("Hugging Face token", "ok", "there is one; it was not tried")
    else:
        advice = "`submit --push` and `leaderboard push` need one: `hf auth login`, or HF_TOKEN"
        yield Finding("Hugging Face token", "note", "none", advice)


def _plugins() -> Iterator[Finding]:
    methods = listed_methods()
    outside = sorted(name for name, each in methods.items() if not each.in_tree)
    yield Finding("methods", "ok", ", ".join([f"{len(methods) - len(outside)} in tree", *outside]))


def _data() -> Iterator[Finding]:
    for entry in inventory():
        here = entry.state in ("package", "here", "prepared only")
        advice = "" if here else f"`genbias-bench data fetch {entry.task.partition('@')[0]}`"
        found = entry.state if not entry.prepared else f"{entry.state}; prepared: {entry.prepared}"
        yield Finding(f"data of {entry.task}", "ok" if here else "note", found, advice)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
