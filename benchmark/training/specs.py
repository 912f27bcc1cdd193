"""Plain specifications of backbones, so that cells can be identified without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.errors import InvalidValue, UnknownName

BACKBONES = ("small-cnn", "resnet18", "resnet18-cifar", "resnet50")
CIFAR_STEM = "-cifar"
FROM_SCRATCH = "none"
IMAGENET = "imagenet"
_IMAGENET_WEIGHTS = "IMAGENET1K_V1"


def backbone_spec(name: str, n_classes: int, weights: str | None = None) -> dict[str, Any]:
    """Return the plain specification of a backbone.

    Raises:
        UnknownName: For a backbone that does not exist.
        InvalidValue: For weights that the backbone does not have.
    """
    if name not in BACKBONES:
        raise UnknownName("backbone", name, BACKBONES)
    if weights is not None and (name == "small-cnn" or name.endswith(CIFAR_STEM)):
        raise InvalidValue(f"{name} has no pre-trained weights {weights!r}; use `{FROM_SCRATCH}`")
    return {"backbone": name, "n_classes": n_classes, "weights": weights}


def named_weights(text: str | None, default: str | None) -> str | None:
    """Return torchvision's name of the weights that a user asks for.

    Args:
        text: ``none``, ``imagenet``, torchvision's own name, or None for the recipe's.
        default: The recipe's.
    """
    if text is None:
        return default
    return {FROM_SCRATCH: None, IMAGENET: _IMAGENET_WEIGHTS}.get(text.lower(), text)


def weights_identity(spec: Mapping[str, Any]) -> str:
    """Return what identifies the initial backbone weights in a cell: their SHA-256, or ``none`` from scratch.

    Raises:
        NotAvailable: When named pre-trained weights are neither cached nor reachable.
    """
    if not spec.get("weights"):
        return FROM_SCRATCH
    from benchmark.training.backbones import pretrained_state, state_digest

    return state_digest(pretrained_state(spec))
