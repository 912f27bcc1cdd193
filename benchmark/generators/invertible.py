"""A conditional invertible network on the latent of an autoencoder (Esser, Rombach, Ommer 2020, arXiv 2012.02516).

It maps what an image shows besides its condition to Gaussian numbers v = τ(z|c) and back. Theirs: the blocks, the loss,
translation and matched samples. Ours: conditions of several factors whose embeddings are added, so that combinations
without an image compose, and batches in which rare combinations weigh more.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from benchmark.contract.generation import Invertible
from benchmark.errors import GeneratorError, InvalidValue
from benchmark.generators.autoencoder import (
    Autoencoder,
    TrainedAutoencoder,
    minimise,
    to_pixels,
    trained_autoencoder,
    with_copies,
)
from benchmark.generators.own import Curve, OwnModel
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.records.files import read_json, write_json
from benchmark.records.store import Store
from benchmark.tasks.lazy import Images
from benchmark.training.backbones import state_digest
from benchmark.training.device import Precision
from benchmark.training.pixels import Pixels
from benchmark.training.remember import contiguous

KIND: Literal["invertible"] = "invertible"
CODE_VERSION = 1
"""Moves whenever this module changes what it computes."""

_WEIGHTS, _REPORT = "invertible.safetensors", "report.json"
_EMBEDDING = 64
_RARITY = 0.5
"""Images of a combination that stands n times are drawn with weight n to the minus this: 0 as they come, 1 evenly.

Measured on colorized-digits at .95: the label stays and the colour is reached in .92 of the moved images, .83 at 0.
"""
_FIRST_BATCH = 1024
_TOGETHER_BYTES = 8 * 2**20

Factors = NDArray[np.int64] | torch.Tensor
"""Conditions, int64 [n, factors]: the value of each factor."""


class InvertibleNetwork(nn.Module):
    """An autoencoder and the network on its standardised latents z.

    Computes in float32 (couplings divide by small numbers), or in float64 after ``double()``; not under autocast.

    Args:
        how: Latent, blocks, width and depth.
        sizes: Number of values of each factor of the condition.
        image_size: Height and width of the images in pixels.
        seed: Of initial weights and shuffles.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, how: Invertible, sizes: tuple[int, ...], image_size: int, *, seed: int = 0) -> None:
        super().__init__()
        with _seeded(seed):
            self.autoencoder = Autoencoder(image_size, how.latent)
            self.embeddings = nn.ModuleList(nn.Embedding(size, _EMBEDDING) for size in sizes)
            self.blocks = _blocks(how, seed)
        self.register_buffer("mean", torch.zeros(how.latent))
        self.register_buffer("scale", torch.ones(how.latent))

    @classmethod
    def load(
        cls, model: OwnModel, how: Invertible, sizes: tuple[int, ...], image_size: int, device: torch.device
    ) -> InvertibleNetwork:
        """Load a trained network.

        Args:
            model: As :func:`trained_invertible` returned it.
            how: As it was trained.
            sizes: As it was trained.
            image_size: Height and width of its images in pixels.
            device: Where to compute.
        """
        assert model.folder is not None  # no trained network is without files
        network = cls(how, sizes, image_size)
        network.load_state_dict(load_file(model.folder / _WEIGHTS))
        return network.to(device).eval()

    def forward(self, z: torch.Tensor, factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
        """Return v [n, latent] and the logarithm of the determinant of its Jacobian [n], of z [n, latent]."""
        v, log_det = self.blocks(z, [self.condition(factors)])
        return v, log_det

    def inverse(self, v: torch.Tensor, factors: Factors) -> torch.Tensor:
        """Return z [n, latent] of v [n, latent]."""
        z, _ = self.blocks(v, [self.condition(factors)], rev=True)
        return z

    def condition(self, factors: Factors) -> torch.Tensor:
        """Return the sum of the factors' embeddings, [n, width of an embedding]."""
        values = (torch.from_numpy(np.array(factors)) if isinstance(factors, np.ndarray) else factors).to(
            self.mean.device
        )
        return torch.stack([table(values[:, k]) for k, table in enumerate(self.embeddings)]).sum(0)

    @torch.no_grad()
    def encode(self, images: Images) -> torch.Tensor:
        """Return the standardised latents z [n, latent] of uint8 images [n, h, w, 3]; no noise of the posterior."""
        mean, _ = self.posterior(images)
        return (mean - self.mean) / self.scale

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> NDArray[np.uint8]:
        """Return images, uint8 [n, h, w, 3], of standardised latents z [n, latent]; levels are rounded half up.

        Raises:
            GeneratorError: For latents that are not finite.
        """
        if not bool(torch.isfinite(z).all()):
            raise GeneratorError("the invertible network made NaN or infinite latents; train it at a lower rate")
        parts = (z * self.scale + self.mean).split(self._together)
        levels = [((self.autoencoder.decode(part).clamp(-1, 1) + 1) * 127.5 + 0.5).byte() for part in parts]
        return torch.cat(levels).permute(0, 2, 3, 1).cpu().contiguous().numpy()

    @torch.no_grad()
    def posterior(self, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
        """Return means and standard deviations of the latents before they are standardised, [n, latent]."""
        parts = Pixels(images, self.mean.device, limit=0).slices(self._together)
        encoded = [self.autoencoder.encode(to_pixels(part).to(self.mean.dtype)) for part in parts]
        mean, deviation = (torch.cat([pair[k] for pair in encoded]) for k in range(2))
        return mean, deviation

    @property
    def _together(self) -> int:
        """Images that the autoencoder looks at together."""
        return max(1, _TOGETHER_BYTES // (12 * self.autoencoder.image_size**2))

    @torch.no_grad()
    def translate(
        self, images: Images, source: Factors, target: Factors, *, noise: torch.Tensor | None = None
    ) -> NDArray[np.uint8]:
        """Move images to other conditions: x' = D(τ⁻¹(τ(E(x)|c_source)|c_target)).

        Args:
            images: uint8 [n, h, w, 3].
            source: Their conditions.
            target: The conditions that are asked for.
            noise: Added to v, [n, latent].

        Returns:
            uint8 [n, h, w, 3].
        """
        v, _ = self(self.encode(images), source)
        return self.matched(v if noise is None else v + noise.to(v), target)

    @torch.no_grad()
    def matched(self, v: torch.Tensor, factors: Factors) -> NDArray[np.uint8]:
        """Return images, uint8 [n, h, w, 3], of v [n, latent]: the same v under every condition are matched samples."""
        return self.decode(self.inverse(v.to(self.mean), factors))


def _blocks(how: Invertible, seed: int) -> Any:
    framework, modules = _freia()
    blocks = framework.SequenceINN(how.latent)
    for k in range(how.blocks):
        blocks.append(modules.ActNorm)
        blocks.append(modules.GLOWCouplingBlock, cond=0, cond_shape=(_EMBEDDING,), subnet_constructor=_subnet_of(how))
        blocks.append(modules.PermuteRandom, seed=derive_seed(base=seed, purpose="shuffle", index=k) % 2**32)
    return blocks


def _subnet_of(how: Invertible) -> Callable[[int, int], nn.Module]:
    def subnet(inputs: int, outputs: int) -> nn.Module:
        widths = [inputs, *[how.width] * how.depth]
        hidden = [layer for one, other in itertools.pairwise(widths) for layer in (nn.Linear(one, other), nn.ReLU())]
        last = nn.Linear(how.width, outputs)
        # A block begins as the identity: twenty random ones would make the first losses astronomic.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(*hidden, last)

    return subnet


def _freia() -> tuple[Any, Any]:
    """Import FrEIA's two halves."""
    with warnings.catch_warnings():
        # 0.2 has invalid escape sequences, of which Python warns whenever it compiles the files.
        warnings.simplefilter("ignore")
        from FrEIA import framework, modules
    return framework, modules


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch inside, and leave its global generator and numpy's, which FrEIA seeds, as they were."""
    before = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(before)


def trained_invertible(
    store: Store,
    images: Images,
    factors: NDArray[np.int64],
    sizes: tuple[int, ...],
    how: Invertible,
    *,
    seed: int,
    device: torch.device,
    precision: Precision,
    progress: Callable[[int], None],
) -> OwnModel:
    """Return an autoencoder and a conditional invertible network from the store, training what is missing.

    The autoencoder is an entry of its own: after an interruption the training goes on behind it, to the same result.

    Args:
        store: The store.
        images: uint8 [n, size, size, 3].
        factors: Condition of each image, int64 [n, factors]: label and attribute, the attribute alone, a data set, …
        sizes: Number of values of each factor.
        how: Both models and their training. ``how.condition`` is not looked at: ``factors`` says it.
        seed: Of initial weights, shuffles, batches, augmentation and noise.
        device: Where to train.
        precision: With or without bf16 autocast in the training of the autoencoder; the network is float32 always.
        progress: Called with the number of steps done since the last call, of ``autoencoder_steps + steps`` in all.

    Returns:
        The model; the steps of its curve count through both trainings, the autoencoder's first.

    Raises:
        InvalidValue: For images or conditions that do not fit each other or the sizes.
        TrainingDiverged: When a loss is not finite.
    """
    _check(images, factors, sizes)
    common: dict[str, Any] = {"seed": seed, "device": device, "progress": progress}
    autoencoder = trained_autoencoder(store, images, how, precision=precision, **common)
    key = sha256_of(
        {
            "code": CODE_VERSION,
            "autoencoder": autoencoder.key,  # with it images, seed, device and versions
            "how": {name: value for name, value in asdict(how).items() if name != "condition"},
            "factors": hashlib.sha256(np.ascontiguousarray(factors, dtype="<i8").data).hexdigest(),
            "sizes": sizes,
            "FrEIA": metadata.version("FrEIA"),
        }
    )

    def build(folder: Path) -> None:
        begun = time.perf_counter()
        state, curve = _train(images, factors, sizes, how, autoencoder, **common)
        save_file(state, folder / _WEIGHTS)
        report = {
            "curve": [*autoencoder.curve, *curve],
            "seconds": autoencoder.seconds + time.perf_counter() - begun,
            "images": len(images),
            "sha256": state_digest(state),
        }
        write_json(folder / _REPORT, report)

    folder, built = store.produce(KIND, key, build)
    if not built:
        progress(how.steps)
    found = read_json(folder / _REPORT)
    return OwnModel(KIND, folder, found["sha256"], int(found["images"]), float(found["seconds"]), tuple(found["curve"]))


def _check(images: Images, factors: NDArray[np.int64], sizes: tuple[int, ...]) -> None:
    if factors.shape != (len(images), len(sizes)) or not sizes:
        raise InvalidValue(
            f"invertible network: {len(images)} images, conditions {factors.shape} and {len(sizes)} factors do not fit "
            "each other; give each image one value per factor"
        )
    if len(factors) and ((factors < 0) | (factors >= np.array(sizes))).any():
        raise InvalidValue(
            f"invertible network: conditions span {factors.min(0).tolist()} to {factors.max(0).tolist()}, allowed are "
            f"0 to {[size - 1 for size in sizes]}"
        )


def _train(
    images: Images,
    factors: NDArray[np.int64],
    sizes: tuple[int, ...],
    how: Invertible,
    autoencoder: TrainedAutoencoder,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[int], None],
) -> tuple[dict[str, torch.Tensor], Curve]:
    """Train the network on latents of a finished autoencoder; returns the weights of both, on the CPU."""
    network = InvertibleNetwork(how, sizes, images.shape[1], seed=derive_seed(base=seed, purpose="network"))
    network.autoencoder.load_state_dict(autoencoder.state)
    network.to(device).autoencoder.requires_grad_(False)
    mean, deviation = network.posterior(with_copies(images, seed))
    network.mean.copy_(mean.mean(0))
    network.scale.copy_((mean.var(0, correction=0) + deviation.square().mean(0)).sqrt())
    conditions = torch.from_numpy(np.tile(factors, (len(mean) // len(images), 1))).to(device)
    random = torch.Generator().manual_seed(derive_seed(base=seed, purpose="network batches"))
    weights = _weights(factors).repeat(len(mean) // len(images))

    def draw(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw latents of some images from their posteriors, standardised, and return them with their conditions."""
        noise, where = torch.randn((len(index), how.latent), generator=random).to(device), index.to(device)
        latents = mean[where] + deviation[where] * noise
        return (latents - network.mean) / network.scale, conditions[where]

    def losses() -> Iterator[dict[str, torch.Tensor]]:
        order = torch.multinomial(weights, how.steps * how.batch_size, replacement=True, generator=random)
        for index in order.split(how.batch_size):
            v, log_det = network(*draw(index))
            yield {"network_loss": (0.5 * v.square().sum(1) - log_det).mean() / how.latent}

    with torch.no_grad():
        # ActNorm sets itself by the first batch that it sees, so that one should be large.
        network(*draw(torch.multinomial(weights, _FIRST_BATCH, replacement=True, generator=random)))
    curve = minimise(
        network.parameters(), losses(), steps=how.steps, learning_rate=how.learning_rate,
        what="the invertible network", progress=progress, first_step=how.autoencoder_steps,
    )  # fmt: skip
    return contiguous(network.state_dict()), curve


def _weights(factors: NDArray[np.int64]) -> torch.Tensor:
    """Return how often each image is to be drawn, float64 [n], not normalised."""
    _, which, counts = np.unique(factors, axis=0, return_inverse=True, return_counts=True)
    return torch.from_numpy(counts.astype(np.float64)[which.ravel()] ** -_RARITY)
