"""Low-rank adapters (LoRA, Hu 2022) of a UNet: files in diffusers' own format, and several at work in one batch.

Files are what `pipe.load_lora_weights` of diffusers and peft read. The forward pass over a stack of adapters is ours:
peft mixes adapters in one batch too, but one after another and not while training, which measured about two thirds of
the speed (``benchmarks/test_generators.py``).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from benchmark.errors import DamagedFile, GeneratorError
from benchmark.records.files import write_bytes
from benchmark.training.backbones import state_digest

TARGETS = ("to_k", "to_q", "to_v", "to_out.0")
"""Projections of the attention layers, as in diffusers' LoRA and DreamBooth examples."""

_PREFIX, _DOWN, _UP = "unet.", ".lora_A.weight", ".lora_B.weight"


def lora_config(rank: int) -> LoraConfig:
    """Return the adapters' configuration in peft's words; the update is not rescaled (alpha = rank)."""
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), init_lora_weights="gaussian")


@dataclass(frozen=True, eq=False)
class Adapter:
    """The weights of one adapter.

    Attributes:
        weights: ``<module>.lora_A.weight`` [rank, in] and ``<module>.lora_B.weight`` [out, rank] per module, float32.
        base: What the base generator is, as :func:`base_of` says it; an adapter fits no other.
    """

    weights: Mapping[str, torch.Tensor]
    base: str

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of names and values: the adapter's address."""
        return state_digest(self.weights)

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return int(next(tensor for name, tensor in self.weights.items() if name.endswith(_DOWN)).shape[0])

    def save(self, folder: Path) -> Path:
        """Write the adapter under its address; `pipe.load_lora_weights(folder, weight_name=…)` reads it too.

        Raises:
            StoreError: When the folder cannot be written or the disk is full.
        """
        file = folder / f"{self.sha256}.safetensors"
        tensors = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in self.weights.items()}
        write_bytes(file, save(tensors, metadata={"base": self.base}))
        return file


def base_of(generator: Mapping[str, str | None]) -> str:
    """Return what an adapter remembers of its base: the generator's name with its commit or content digest."""
    return f"{generator.get('name')}@{generator.get('revision') or generator.get('content_sha256')}"


def load_adapter(file: Path, base: str) -> Adapter:
    """Read an adapter.

    Args:
        file: The file.
        base: What the base generator here is.

    Raises:
        DamagedFile: When it cannot be read, or its weights are not those of its address.
        GeneratorError: When it belongs to another base generator.
    """
    try:
        with safe_open(file, framework="pt") as content:
            made_for = (content.metadata() or {}).get("base", "?")
            weights = {name.removeprefix(_PREFIX): content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DamagedFile(f"adapter {file.name} cannot be read: {error}") from error
    if made_for != base:
        raise GeneratorError(
            f"adapter {file.stem[:12]}… was fine-tuned for {made_for}, but the generator is {base}; fine-tune again"
        )
    adapter = Adapter(weights, base)
    if adapter.sha256 != file.stem:
        raise DamagedFile(f"adapter {file.name} holds other weights than its name says")
    return adapter


def target_layers(unet: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers that adapters change, by name.

    Raises:
        GeneratorError: When the UNet has none.
    """
    found = {
        name: module
        for name, module in unet.named_modules()
        if name.endswith(tuple(f".{target}" for target in TARGETS)) and isinstance(module, nn.Linear)
    }
    if not found:
        raise GeneratorError("this UNet has no attention projections, so there is nothing for an adapter to change")
    return found


def fresh_adapter(unet: nn.Module, rank: int, base: str, seed: int) -> Adapter:
    """Return an adapter that changes nothing yet: A from a normal distribution, B zero (peft's ``gaussian``)."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for name, layer in target_layers(unet).items():
        weights[name + _DOWN] = torch.randn(rank, layer.in_features, generator=generator) / rank
        weights[name + _UP] = torch.zeros(layer.out_features, rank)
    return Adapter(weights, base)


class Stack:
    """Several adapters side by side, so that each image of a batch gets its own.

    Args:
        unet: The UNet that they belong to.
        adapters: The adapters, of one rank.
        device: Where they are wanted.
        dtype: In which type.

    Attributes:
        weights: Name → [adapters, …] tensors; leaf tensors, which may be trained.
    """

    def __init__(
        self, unet: nn.Module, adapters: Sequence[Adapter], *, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._layers = target_layers(unet)
        base, expected = adapters[0].base, {name + end for name in self._layers for end in (_DOWN, _UP)}
        for adapter in adapters:
            if set(adapter.weights) != expected:
                raise GeneratorError(f"an adapter of {adapter.base} does not fit the layers of this UNet")
        if len({adapter.rank for adapter in adapters}) > 1:
            raise GeneratorError("adapters of different rank cannot work in one batch")
        self._base = base
        self.weights = {
            name: torch.stack([adapter.weights[name] for adapter in adapters]).to(device, dtype) for name in expected
        }

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def adapter(self, index: int) -> Adapter:
        """Return a copy of one adapter as it is now."""
        return Adapter({n: w[index].detach().float().cpu().clone() for n, w in self.weights.items()}, self._base)

    @contextlib.contextmanager
    def applied(self, choice: torch.Tensor) -> Iterator[None]:
        """Let the UNet use one adapter per image.

        Args:
            choice: Index of each image's adapter, int64 [n] on the device, -1 for none; a UNet batch that is a
                multiple of n long (guidance puts the unconditional half before the other) repeats it.
        """
        index = choice.clamp(min=0)
        used = (choice >= 0) if bool((choice < 0).any()) else None  # asked once: a GPU has to be waited for
        handles = []
        for name, layer in self._layers.items():
            down, up = self.weights[name + _DOWN], self.weights[name + _UP]
            handles.append(layer.register_forward_hook(_update(down, up, index, used)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _update(
    down: torch.Tensor, up: torch.Tensor, index: torch.Tensor, used: torch.Tensor | None
) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]:
    def hook(_layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0]
        if x.ndim != 3 or x.shape[0] % len(index):
            raise GeneratorError(
                f"an attention layer gets {tuple(x.shape)} for {len(index)} images; adapters cannot follow"
            )
        repeat = x.shape[0] // len(index)
        a, b = down[index], up[index]
        if used is not None:
            b = b * used.to(b.dtype).view(-1, 1, 1)
        a, b = (torch.cat([t] * repeat) if repeat > 1 else t for t in (a, b))
        return output + torch.bmm(torch.bmm(x.to(a.dtype), a.mT), b.mT).to(output.dtype)

    return hook
