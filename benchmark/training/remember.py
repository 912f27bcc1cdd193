"""Finished trainings in the store, under a hash of everything that changes them, so that a resumed run is quick."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from benchmark.contract.tracks import SelectionRule
from benchmark.errors import DamagedFile
from benchmark.records.canonical import sha256_of
from benchmark.records.files import read_json, write_json
from benchmark.records.store import Store
from benchmark.training.backbones import state_digest
from benchmark.training.device import describe_device
from benchmark.training.loop import Outcome, TrainingConfig

KIND = "trained"
CODE_VERSION = 1
"""Moves whenever the training code changes what it computes."""


def training_key(config: TrainingConfig, *, images: str, validation: str, initial: str, device: torch.device) -> str:
    """Return the hash of everything that changes what a training gives.

    Args:
        config: Recipe, loss and seed.
        images: Digest of the training images.
        validation: Digest of the validation images.
        initial: Digest of the initial weights.
        device: Where it runs.
    """
    return sha256_of(
        {
            "code": CODE_VERSION,
            "config": config.as_dict(),
            "images": images,
            "validation": validation,
            "initial": initial,
            "device": [device.type, *describe_device(device)],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    )


def remembered(store: Store, key: str, train: Callable[[], Outcome]) -> tuple[Outcome, float, bool]:
    """Return a training's outcome from the store, training only when it is missing.

    Returns:
        The outcome, its training time in seconds (also when remembered), and whether it was remembered.
    """

    def build(folder: Path) -> None:
        start = time.perf_counter()
        outcome = train()
        save_outcome(folder, outcome, time.perf_counter() - start)

    folder, built = store.produce(KIND, key, build)
    outcome, seconds = load_outcome(folder)
    return outcome, seconds, not built


def save_outcome(folder: Path, outcome: Outcome, seconds: float) -> None:
    """Write the checkpoints (equal ones once) and the curves."""
    files: dict[str, str] = {}
    rules: dict[str, dict[str, Any]] = {}
    for rule, state in outcome.checkpoints.items():
        digest = state_digest(state)
        if digest not in files:
            files[digest] = f"step-{outcome.steps_at[rule]}.safetensors"
            save_file(contiguous(state), folder / files[digest])
        rules[rule.value] = {"file": files[digest], "step": outcome.steps_at[rule]}
    write_json(folder / "outcome.json", {"rules": rules, "curves": outcome.curves, "seconds": seconds})


def load_outcome(folder: Path) -> tuple[Outcome, float]:
    """Read what :func:`save_outcome` wrote.

    Raises:
        DamagedFile: When it cannot be read.
    """
    content = read_json(folder / "outcome.json")
    outcome = Outcome(curves=content["curves"])
    states: dict[str, dict[str, torch.Tensor]] = {}
    for rule, where in content["rules"].items():
        name = where["file"]
        if name not in states:
            states[name] = load_state(folder / name)
        outcome.checkpoints[SelectionRule(rule)] = states[name]
        outcome.steps_at[SelectionRule(rule)] = where["step"]
    return outcome, float(content["seconds"])


def contiguous(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict in the plain layout that safetensors stores."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Load a state dict.

    Raises:
        DamagedFile: When the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedFile(f"checkpoint {path.name} cannot be read: {error}") from error
