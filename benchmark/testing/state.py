"""The global state of a process that an adapter must leave as it was: what the harness does next depends on it."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading

import numpy as np
import torch

_LIBRARIES = ("KMP_", "OMP_", "TF_", "TORCHINDUCTOR_", "CUDA_MODULE", "JOBLIB_", "LOKY_", "TOKENIZERS_")
"""Prefixes of environment variables that libraries add when they are imported."""


def global_state() -> dict[str, str]:
    """Return what must not change, by the name that people know it under."""
    state = {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's default device": str(torch.get_default_device()),
        "torch's number of threads": str(torch.get_num_threads()),
        "torch's gradient mode": str(torch.is_grad_enabled()),
        "torch's deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "torch's matmul precision": torch.get_float32_matmul_precision(),
        "cuDNN's flags": str((torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)),
        "the global random state of torch": _digest(torch.get_rng_state().numpy().tobytes()),
        "the global random state of NumPy": _digest(repr(np.random.get_state(legacy=False)).encode()),
        "the global random state of Python": _digest(repr(random.getstate()).encode()),
        "NumPy's handling of floating-point errors": str(np.geterr()),
        "the working folder": str(os.getcwd()),  # noqa: PTH109
        "sys.path": os.pathsep.join(sys.path),
        "running threads": ", ".join(sorted(t.name for t in threading.enumerate() if not t.daemon)),
    }
    for name, value in os.environ.items():
        if not name.startswith(_LIBRARIES):
            state[f"the environment variable {name}"] = value
    return state


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return sentences on what is different."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "not set"), after.get(name, "not set")
        if old != new:
            found.append(f"changes {name}" if _long(old, new) else f"changes {name} from {old} to {new}")
    return found


def _long(old: str, new: str) -> bool:
    return max(len(old), len(new)) > 60 or len(old) == len(new) == 64


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
