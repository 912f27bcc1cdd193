"""Files that a training goes on from after it was interrupted: sealed, so that damage and foreign files are found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from benchmark.errors import StoreError
from benchmark.records.files import make_folder, write_bytes
from benchmark.training.backbones import state_digest
from benchmark.training.remember import contiguous

_WEIGHT = "weight"
_STATE = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each weight
_TRIES = 20


def snapshot(weights: Mapping[str, torch.Tensor], optimiser: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Copy weights, and what their optimiser keeps of them, to the CPU.

    Args:
        weights: By name.
        optimiser: Theirs.
    """
    kept = {}
    for name, weight in weights.items():
        kept[f"{_WEIGHT}.{name}"] = weight.detach().cpu().clone()
        for key, value in optimiser.state[weight].items():
            kept[f"{key}.{name}"] = value.detach().cpu().clone()
    return kept


@torch.no_grad()
def restore(
    kept: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], optimiser: torch.optim.AdamW
) -> None:
    """Put weights and their optimiser back into the state of a snapshot.

    Args:
        kept: The snapshot; other entries are left alone.
        weights: By name, in the optimiser's order.
        optimiser: Theirs.
    """
    for name, weight in weights.items():
        weight.copy_(kept[f"{_WEIGHT}.{name}"])
    state = {
        position: {key: kept[f"{key}.{name}"] for key in _STATE if f"{key}.{name}" in kept}
        for position, name in enumerate(weights)
    }
    if any(state.values()):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for weight in weights.values():
        for key, value in optimiser.state[weight].items():
            if value.shape == weight.shape:
                # Files hold the plain layout; a fused step wants that of the weight.
                optimiser.state[weight][key] = torch.empty_like(weight).copy_(value)


def write_unfinished(file: Path, kept: Mapping[str, torch.Tensor], *, training: str) -> None:
    """Replace the file of an unfinished training.

    Args:
        file: Where; its folder is made.
        kept: What to go on from.
        training: Identity of the training.

    Raises:
        StoreError: When it cannot be written.
    """
    content = save(contiguous(kept), metadata=_seal(kept, training))
    for more in reversed(range(_TRIES)):
        try:
            make_folder(file.parent)
            write_bytes(file, content)
            return
        except StoreError as error:
            # A process that finished the same training removes the folder, perhaps in this moment.
            if not more or not isinstance(error.__cause__, FileNotFoundError | FileExistsError):
                raise


def read_unfinished(file: Path, *, training: str) -> dict[str, torch.Tensor] | None:
    """Return what a training goes on from; a file that is missing, damaged or another training's is as good as none.

    Args:
        file: As :func:`write_unfinished` wrote it.
        training: Identity of the training.
    """
    try:
        with safe_open(file, framework="pt") as content:
            seal = content.metadata() or {}
            kept = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return kept if seal == _seal(kept, training) else None


def _seal(kept: Mapping[str, torch.Tensor], training: str) -> dict[str, str]:
    return {"training": training, "sha256": state_digest(kept)}
