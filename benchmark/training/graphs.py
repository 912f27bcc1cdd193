"""CUDA graphs of a model's passes: on a GPU a small network waits for Python, not for arithmetic."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from benchmark.training.device import Precision


def replayed(model: nn.Module, batch: torch.Tensor, precision: Precision) -> nn.Module:
    """Return a model whose passes in training mode replay recorded kernels; others run as before.

    The kernels are those that would have been launched one by one. Weights and statistics stay as they were.

    Args:
        model: On a CUDA device, in the mode in which it is trained; hooks inside it are not called by a replay.
        batch: Normalised images of the shape and memory format that every later batch has.
        precision: With or without bf16 autocast.
    """
    before = deepcopy(model.state_dict())
    # Gradients are added up on another stream than they were recorded on; torch waits for that, and need not say so.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    # Recording runs the model a few times, which moves the statistics of batch normalisation. Casts must be recorded
    # too, not remembered by autocast.
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
        recorded = torch.cuda.make_graphed_callables(model, (batch,))
    model.load_state_dict(before)
    assert isinstance(recorded, nn.Module)  # a module's passes are replaced in the module
    return recorded
