"""Where a run happened: packages, commit, hardware; without host or user names or absolute paths."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import traceback
from pathlib import Path

from benchmark.records.canonical import sha256_of
from benchmark.records.schema import Environment, Failure

PACKAGES = (
    "genbias-bench", "torch", "torchvision", "diffusers", "transformers", "peft", "datasets", "huggingface_hub",
    "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "safetensors", "pydantic",
)  # fmt: skip
_PATH = re.compile(r"(?<![\w/])(?:file://|[A-Za-z]:|~)?(?:[/\\][\w.@+~-]+)+[/\\](?=[\w.-]+)")
_QUOTED_PATH = re.compile(r"(?<=['\"])(?:[A-Za-z]:|~)?[/\\][^'\"\n]*[/\\](?=[^'\"/\\\n]+['\"])")
_USER_VARIABLES = ("USER", "LOGNAME", "USERNAME")


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change results."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that this code runs from, and whether it has changes; None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def cpu_name() -> str:
    """Return the processor's model name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment(*, device: str, device_kind: str, cpu_capability: str, precision: str, threads: int) -> Environment:
    """Describe where a run happens; ``environment_id`` hashes what can change results."""
    commit, dirty = git_state()
    content = {
        "git_commit": commit,
        "git_dirty": dirty,
        "packages": package_versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "device_kind": device_kind,
        "cpu_capability": cpu_capability,
        "precision": precision,
        "threads": threads,
    }
    return Environment.model_validate({**content, "environment_id": sha256_of(content)})


def scrub(text: str) -> str:
    """Remove folders, the user's name and the host's name from a text that goes into a record."""
    secrets = [platform.node(), *(os.environ.get(name) for name in _USER_VARIABLES)]
    with contextlib.suppress(RuntimeError):
        home = Path.home()
        secrets.append(home.name)
        if home.name:
            text = re.sub(rf"{re.escape(str(home))}(?![\w.-])", "~", text)
    # Quoted paths first: they may hold spaces.
    text = _PATH.sub("…/", _QUOTED_PATH.sub("…/", text))
    for secret in secrets:
        if secret and len(secret) >= 3:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "…", text)
    return text


def failure_of(error: BaseException) -> Failure:
    """Describe an exception for a record."""
    lines = traceback.format_exception(error)
    return Failure(
        kind=type(error).__name__,
        message=scrub(str(error)),
        traceback=[scrub(line.rstrip()) for chunk in lines for line in chunk.splitlines()][-60:],
    )


def peak_memory_bytes() -> int | None:
    """Return this process's largest resident set so far, where the system tells."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
