"""Pools of real images that an invertible network moved to another attribute: which is made from which, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.contract.generation import Invertible
from benchmark.errors import GeneratorError, InvalidValue
from benchmark.generators.invertible import InvertibleNetwork
from benchmark.generators.own import OwnModel
from benchmark.generators.pools import Counts
from benchmark.generators.recipe import NATIVE, GroupKey, sorted_groups
from benchmark.tasks.lazy import Images
from benchmark.training.device import Precision

REUSE_NOISE = 0.3
"""Standard deviation of the noise in v where one image is moved to the same group again, so that no two are equal."""

Source = tuple[int, float]
"""Position of the real image, and standard deviation of the noise in v."""


def turns(counts: Counts) -> dict[GroupKey, range]:
    """Say which turns each group of a plan takes among the images of its class: one group after the other.

    Args:
        counts: How many images of each group (y, a).
    """
    result: dict[GroupKey, range] = {}
    used: dict[int, int] = {}
    for group in sorted_groups({group: n for group, n in counts.items() if n}):
        start = used.get(group.y, 0)
        used[group.y] = start + counts[group]
        result[group] = range(start, used[group.y])
    return result


def transfer_sources(y: NDArray[np.int64], a: NDArray[np.int64], counts: Counts) -> dict[tuple[GroupKey, int], Source]:
    """Say from which real image every image of a plan is made (our protocol).

    Images of the group's class under other attributes are used in turn, those of the class's larger groups first, then
    in array order. The groups of a class take turns one after the other, so they use different images while there are
    enough. A class whose images all have the attribute that is asked for lends those.

    Args:
        y: Labels of the real images, int64 [n].
        a: Their attributes, int64 [n].
        counts: How many images of each group (y, a).

    Returns:
        (group, index of the image in it) → its source.

    Raises:
        InvalidValue: For a group without attribute, or of a class without image.
    """
    result: dict[tuple[GroupKey, int], Source] = {}
    for group, taken in turns(counts).items():
        pool = _pool(y, a, group)
        for index, turn in enumerate(taken):
            result[group, index] = int(pool[turn % len(pool)]), REUSE_NOISE if index >= len(pool) else 0.0
    return result


def _pool(y: NDArray[np.int64], a: NDArray[np.int64], group: GroupKey) -> NDArray[np.int64]:
    """Return the positions of the images that a group is made from, in the order of use."""
    if group.a is None:
        raise InvalidValue(f"class {group.y}: images are moved to an attribute, so the plan must name one")
    of_class = np.flatnonzero(y == group.y)
    if not len(of_class):
        raise InvalidValue(f"no real image of class {group.y} is there to be moved to attribute {group.a}")
    others = of_class[a[of_class] != group.a]
    if not len(others):
        return of_class
    _, which, sizes = np.unique(a[others], return_inverse=True, return_counts=True)
    # Of equally large groups the one with the smaller attribute comes first, whole.
    return others[np.lexsort((which, -sizes[which]))]


class TransferSampler:
    """Moves real images to the groups of a pool; what a seed stands for is said beforehand.

    Args:
        network: The trained network.
        model: Its identity.
        sources: Real images, uint8 [n, h, w, 3].
        source_factors: Their conditions, int64 [n, factors].
        of_seed: Seed → position of the source, condition of the target, standard deviation of the noise in v.
        precision: What the pool's recipe calls it; the network computes in float32 whatever it is.
    """

    def __init__(
        self,
        network: InvertibleNetwork,
        model: OwnModel,
        *,
        sources: Images,
        source_factors: NDArray[np.int64],
        of_seed: Mapping[int, tuple[int, tuple[int, ...], float]],
        precision: Precision = "float32",
    ) -> None:
        self._network, self._model, self._precision = network, model, precision
        self._sources, self._factors, self._of_seed = sources, source_factors, of_seed

    @classmethod
    def load(
        cls,
        model: OwnModel,
        how: Invertible,
        sizes: tuple[int, ...],
        *,
        sources: Images,
        source_factors: NDArray[np.int64],
        of_seed: Mapping[int, tuple[int, tuple[int, ...], float]],
        device: torch.device,
        precision: Precision = "float32",
    ) -> TransferSampler:
        """Load a trained network for sampling; see the class and :meth:`InvertibleNetwork.load`."""
        network = InvertibleNetwork.load(model, how, sizes, sources.shape[1], device)
        return cls(network, model, sources=sources, source_factors=source_factors, of_seed=of_seed, precision=precision)

    def conditions(self) -> dict[str, Any]:
        """Return what was loaded and how, in the words of a pool's recipe."""
        return {
            "generator": self._model.as_record(),
            "scheduler": NATIVE,
            "precision": self._precision,
            "device_kind": self._network.mean.device.type,
        }

    def sample(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        height: int,
        width: int,
        batch_size: int,
        resize: str,
        adapters: Sequence[str | None] | None,
    ) -> NDArray[np.uint8]:
        """Make one image, uint8 [height, width, 3], per seed; prompts and the rest are a diffusion model's.

        Raises:
            InvalidValue: For another size than the sources have.
            GeneratorError: For a seed that stands for nothing, and for images with NaN or infinite values.
        """
        del prompts, negative_prompts, steps, guidance, resize, adapters
        if (height, width) != self._sources.shape[1:3]:
            raise InvalidValue(f"images of {self._sources.shape[1:3]} pixels cannot be moved at {height}×{width}")
        images = np.empty((len(seeds), height, width, 3), dtype=np.uint8)
        for start in range(0, len(seeds), batch_size):
            chosen = list(seeds[start : start + batch_size])
            # Last bits depend on the shape of a batch, so every batch has the same.
            made = self._moved(chosen + [chosen[0]] * (batch_size - len(chosen)))
            images[start : start + len(chosen)] = made[: len(chosen)]
        return images

    @torch.inference_mode()
    def _moved(self, seeds: list[int]) -> NDArray[np.uint8]:
        network = self._network
        if strangers := [seed for seed in seeds if seed not in self._of_seed]:
            raise GeneratorError(f"seed {strangers[0]} stands for no image that was to be moved; plan it first")
        positions, targets, deviations = zip(*(self._of_seed[seed] for seed in seeds), strict=True)
        where = np.array(positions, dtype=np.int64)
        noise = torch.stack(
            [sd * torch.randn(network.mean.shape, generator=torch.Generator().manual_seed(seed))
             for seed, sd in zip(seeds, deviations, strict=True)]
        )  # fmt: skip
        with torch.autocast(network.mean.device.type, enabled=False):
            return network.translate(
                self._sources[where],
                self._factors[where],
                np.array(targets, dtype=np.int64),
                noise=noise,
            )
