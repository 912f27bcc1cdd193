"""Choosing a device and a precision, and describing them for the record."""

from __future__ import annotations

from typing import Literal

import torch

from benchmark.errors import InvalidValue, NotAvailable
from benchmark.records.provenance import cpu_name

Precision = Literal["float32", "bfloat16"]
DEVICE_KINDS = ("cpu", "cuda", "mps")


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device of a ``--device`` value; ``auto`` takes a GPU where there is one.

    Raises:
        InvalidValue: For a name that is no device.
        NotAvailable: For a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidValue(f"{name!r} is no device; use auto, cpu, cuda, cuda:0 or mps") from error
    if device.type not in DEVICE_KINDS:
        raise InvalidValue(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:0 or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise NotAvailable(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise NotAvailable("device 'mps' is not here; use cpu")
    return device


def default_precision(device: torch.device) -> Precision:
    """Return bfloat16 where the hardware computes in it, else float32 (emulation would halve the speed)."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type == "cpu" and _cpu_has_bfloat16():
        return "bfloat16"
    return "float32"


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    if "AVX512" not in capabilities:
        return False
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    flags = info.read_text(errors="replace") if info.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def describe_device(device: torch.device) -> tuple[str, str]:
    """Return the device's model name and the CPU capability that torch uses."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return name, torch.backends.cpu.get_cpu_capability()


def peak_device_memory(device: torch.device) -> int | None:
    """Return the most device memory torch held so far, in bytes; None on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
