"""Backbones: a small CNN for 32×32 digits and torchvision's ResNets, built from a plain specification."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from benchmark.errors import NotAvailable, UnknownName
from benchmark.training.specs import BACKBONES, CIFAR_STEM


class SmallCNN(nn.Module):
    """Four 3×3 convolutions with batch normalisation for 32×32 images; 0.25 M parameters.

    Args:
        n_classes: Size of the last layer.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = 3
        for out, stride in ((32, 2), (64, 2), (128, 2), (128, 1)):
            blocks += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            width = out
        self.backbone = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(width, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images [n, 3, h, w] to logits [n, classes]."""
        logits: torch.Tensor = self.fc(self.backbone(images))
        return logits


def build_backbone(spec: Mapping[str, Any], *, pretrained: bool = True) -> nn.Module:
    """Build a backbone from its specification.

    Args:
        spec: As from :func:`backbone_spec`.
        pretrained: Load the named weights; False when a state dict is loaded right after.

    Raises:
        NotAvailable: When pre-trained weights are neither cached nor reachable.
    """
    name, n_classes = spec["backbone"], int(spec["n_classes"])
    if name == "small-cnn":
        return SmallCNN(n_classes)
    if name not in BACKBONES:
        raise UnknownName("backbone", str(name), BACKBONES)
    import torchvision

    model: nn.Module = torchvision.models.get_model(name.removesuffix(CIFAR_STEM), weights=None)
    if name.endswith(CIFAR_STEM):
        # He et al. 2016, section 4.2: a 3x3 stem without pooling for images of 32 pixels.
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    if pretrained and spec.get("weights"):
        model.load_state_dict(pretrained_state(spec))
    head = model.fc
    assert isinstance(head, nn.Linear)  # every ResNet of torchvision ends so
    model.fc = nn.Linear(head.in_features, n_classes)
    return model


def load_backbone(spec: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build a backbone with given weights, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        model = build_backbone(spec, pretrained=False)
    model.load_state_dict(dict(state))
    return model


def pretrained_state(spec: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
    """Return torchvision's named weights.

    Raises:
        NotAvailable: When they do not exist, or are neither cached nor reachable.
    """
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(spec["backbone"])[spec["weights"]]
        state: Mapping[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, KeyError) as error:
        raise NotAvailable(
            f"weights {spec['weights']!r} of {spec['backbone']} are neither cached nor reachable ({error}). Either "
            "connect once, so that torchvision downloads them; or put the file into "
            f"{torch.hub.get_dir()}/checkpoints; or train from scratch with `--backbone-weights none`, which is "
            "another row on the board"
        ) from error
    return state


def fresh_state(spec: Mapping[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Return the initial weights of a backbone under a seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(build_backbone(spec).state_dict())


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a state dict's names, types and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
