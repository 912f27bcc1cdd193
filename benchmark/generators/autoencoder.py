"""A convolutional autoencoder with a short latent, trained from random weights; the invertible network works on it.

It reads no labels, so networks under different conditions share it. Lightly regularised (Kingma & Welling 2014): its
posterior's noise keeps the latents of different images from lying in gaps that nothing was decoded from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from benchmark.contract.generation import Invertible
from benchmark.errors import InvalidValue, TrainingDiverged
from benchmark.generators.own import Curve
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.records.files import read_json, write_json
from benchmark.records.store import Store
from benchmark.tasks.lazy import Images, concatenated, sha256_images
from benchmark.training.augment import augmented_copies
from benchmark.training.device import Precision, describe_device
from benchmark.training.features import autocast
from benchmark.training.pixels import Pixels
from benchmark.training.remember import contiguous

KIND = "autoencoder"
CODE_VERSION = 1
"""Moves whenever this module changes what it computes."""

_WEIGHTS, _REPORT = "autoencoder.safetensors", "report.json"
_KL_WEIGHT = 1e-5
_WIDEST, _SMALLEST_MAP, _NORM_GROUPS = 8, 7, 8
_MOST_COPIES, _ENOUGH_IMAGES, _MOST_BYTES = 4, 20_000, 2**30
_WARMUP_SHARE, _GRADIENT_NORM = 0.1, 1.0
_CHECK_EVERY, _ROWS = 25, 20


class Autoencoder(nn.Module):
    """Maps images to ``latent`` numbers and back.

    Feature maps are halved until they are small; their width starts at a quarter of the latent (a multiple of 8) and
    doubles up to eight times that.

    Args:
        image_size: Height and width of the images in pixels.
        latent: Numbers in a latent.
    """

    def __init__(self, image_size: int, latent: int) -> None:
        super().__init__()
        self.image_size = image_size
        sizes = _map_sizes(image_size)
        first = _NORM_GROUPS * max(1, latent // (4 * _NORM_GROUPS))
        widths = [first * min(2**k, _WIDEST) for k in range(len(sizes))]
        shape = (widths[-1], sizes[-1], sizes[-1])
        down = [layer for before, width in zip([3, *widths[:-1]], widths, strict=True)
                for layer in (nn.Conv2d(before, width, 3, 2, 1), *_activation(width))]  # fmt: skip
        self.encoder = nn.Sequential(
            *down, _Residual(widths[-1]), nn.Flatten(), nn.Linear(math.prod(shape), 2 * latent)
        )
        up: list[nn.Module] = [nn.Linear(latent, math.prod(shape)), nn.Unflatten(1, shape), _Residual(widths[-1])]
        for k in reversed(range(len(sizes) - 1)):
            up += [nn.Upsample(sizes[k]), nn.Conv2d(widths[k + 1], widths[k], 3, 1, 1), *_activation(widths[k])]
        # Full resolution costs most, so no convolution works there: the last one makes 2x2 pixels per place.
        self.decoder = nn.Sequential(*up, nn.Conv2d(first, 12, 3, 1, 1), nn.PixelShuffle(2))

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the posterior of pixels in -1..1 [n, 3, h, w], both [n, latent]."""
        mean, log_variance = self.encoder(pixels).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-20, 4))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels, about -1..1, [n, 3, h, w] of latents [n, latent]."""
        return self.decoder(latents)[..., : self.image_size, : self.image_size]


def _map_sizes(image_size: int) -> list[int]:
    """Return height and width of the feature maps, the largest first."""
    sizes = [(image_size + 1) // 2]
    while sizes[-1] > _SMALLEST_MAP:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def _activation(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(_NORM_GROUPS, width), nn.SiLU()


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_activation(width), nn.Conv2d(width, width, 3, 1, 1), *_activation(width), nn.Conv2d(width, width, 3, 1, 1)
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.body(maps)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Return pixels in -1..1 of uint8 images."""
    return images.to(torch.float32) / 127.5 - 1


@dataclass(frozen=True)
class TrainedAutoencoder:
    """An autoencoder as it lies in the store.

    Attributes:
        key: SHA-256 of everything that made it.
        state: Its weights, on the CPU.
        curve: ``step``, ``autoencoder_loss``, and its parts ``reconstruction_error`` (mean square of pixels in -1..1)
            and ``kl_divergence`` (nats per image).
        seconds: How long its training took, also when it was there already.
    """

    key: str
    state: dict[str, torch.Tensor]
    curve: Curve
    seconds: float


def trained_autoencoder(
    store: Store,
    images: Images,
    how: Invertible,
    *,
    seed: int,
    device: torch.device,
    precision: Precision,
    progress: Callable[[int], None],
) -> TrainedAutoencoder:
    """Return an autoencoder of some images from the store, training it when it is missing.

    Args:
        store: The store.
        images: uint8 [n, size, size, 3].
        how: Latent, and the length of the training.
        seed: Of initial weights, batches, augmentation and noise.
        device: Where to train.
        precision: With or without bf16 autocast.
        progress: Called with the number of steps done since the last call.

    Raises:
        InvalidValue: For images that are not square, or none.
        TrainingDiverged: When the loss is not finite.
    """
    if not len(images) or images.shape[1] != images.shape[2]:
        raise InvalidValue(f"an autoencoder needs square images, at least one, not {images.shape}")
    key = sha256_of(
        {
            "code": CODE_VERSION,
            "how": [how.autoencoder_steps, how.batch_size, how.learning_rate, how.latent],
            "images": [list(images.shape), sha256_images(images)],
            "seed": seed,
            "device": [device.type, *describe_device(device)],
            "precision": precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    )

    def build(folder: Path) -> None:
        begun = time.perf_counter()
        model, curve = _train(images, how, seed, device, precision, progress)
        save_file(contiguous(model.state_dict()), folder / _WEIGHTS)
        write_json(folder / _REPORT, {"curve": curve, "seconds": time.perf_counter() - begun, "images": len(images)})

    folder, built = store.produce(KIND, key, build)
    if not built:
        progress(how.autoencoder_steps)
    report = read_json(folder / _REPORT)
    return TrainedAutoencoder(key, load_file(folder / _WEIGHTS), tuple(report["curve"]), float(report["seconds"]))


def with_copies(images: Images, seed: int) -> Images:
    """Return images, and behind all of them augmented copies where they are few: each image up to four times.

    Args:
        images: uint8 [n, size, size, 3].
        seed: Of the augmentation.

    Returns:
        uint8 [m n, size, size, 3], lazy where the images are.
    """
    copies = min(_MOST_COPIES, _ENOUGH_IMAGES // len(images), _MOST_BYTES // images.nbytes)
    result = images
    for copy in range(copies):
        result = concatenated(result, augmented_copies(images, derive_seed(base=seed, purpose="copies", index=copy)))
    return result


def _train(
    images: Images,
    how: Invertible,
    seed: int,
    device: torch.device,
    precision: Precision,
    progress: Callable[[int], None],
) -> tuple[Autoencoder, Curve]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(base=seed, purpose="autoencoder"))
        model = Autoencoder(images.shape[1], how.latent)
    model = model.to(device).to(memory_format=torch.channels_last)
    random = torch.Generator().manual_seed(derive_seed(base=seed, purpose="autoencoder batches"))
    seen = with_copies(images, seed)
    order = torch.randint(len(seen), (how.autoencoder_steps, how.batch_size), generator=random)
    batches = Pixels(seen, device).batches(iter(order))

    def losses() -> Iterator[dict[str, torch.Tensor]]:
        for _, batch in batches:
            pixels = to_pixels(batch)
            noise = torch.randn((how.batch_size, how.latent), generator=random).to(device)
            with autocast(device, precision):
                mean, deviation = (part.float() for part in model.encode(pixels))
                decoded = model.decode(mean + deviation * noise).float()
            error = functional.mse_loss(decoded, pixels)
            divergence = (0.5 * (mean.square() + deviation.square() - 1) - deviation.log()).sum(1).mean()
            yield {
                "autoencoder_loss": error + _KL_WEIGHT * divergence,
                "reconstruction_error": error,
                "kl_divergence": divergence,
            }

    curve = minimise(
        model.parameters(), losses(), steps=how.autoencoder_steps, learning_rate=how.learning_rate,
        what="the autoencoder", progress=progress,
    )  # fmt: skip
    return model, curve


def minimise(
    parameters: Iterable[nn.Parameter],
    losses: Iterator[dict[str, torch.Tensor]],
    *,
    steps: int,
    learning_rate: float,
    what: str,
    progress: Callable[[int], None],
    first_step: int = 0,
) -> Curve:
    """Take one step of Adam per entry of ``losses``, with warm-up, cosine decay and clipped gradients.

    Args:
        parameters: What is trained, where it asks for gradients.
        losses: Per step named scalars, computed when they are asked for; the first one is minimised.
        steps: How many there are.
        learning_rate: Its peak.
        what: What is trained, for messages.
        progress: Called with the number of steps done since the last call.
        first_step: Where the curve begins to count.

    Returns:
        Means of the losses over the steps since the last row.

    Raises:
        TrainingDiverged: When the first loss or its gradient is not finite.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    device = trained[0].device
    optimiser = torch.optim.Adam(trained, lr=learning_rate, fused=device.type in ("cpu", "cuda"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _factor(step, steps))
    every = max(1, steps // _ROWS)
    curve: list[dict[str, float | int | None]] = []
    sums: dict[str, torch.Tensor] = {}
    since, worst = 0, torch.zeros((), device=device)
    for step, parts in enumerate(losses, 1):
        loss = next(iter(parts.values()))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, _GRADIENT_NORM)
        optimiser.step()
        schedule.step()
        sums = {name: sums.get(name, 0) + part.detach() for name, part in parts.items()}
        since, worst = since + 1, worst + loss.detach() + norm
        if step % _CHECK_EVERY == 0 or step % every == 0 or step == steps:
            _refuse_infinite(float(worst), float(loss.detach()), step, learning_rate, what)
        if step % every == 0 or step == steps:
            curve.append({"step": first_step + step} | {name: float(total) / since for name, total in sums.items()})
            sums, since = {}, 0
        progress(1)
    return tuple(curve)


def _factor(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step."""
    warmup = max(1, round(steps * _WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _refuse_infinite(worst: float, loss: float, step: int, learning_rate: float, what: str) -> None:
    if not math.isfinite(worst):
        found = f"a gradient is not finite (loss {loss:.3g})" if math.isfinite(loss) else f"the loss is {loss}"
        raise TrainingDiverged(
            f"training {what}: {found} at step {step} (learning rate {learning_rate:.2g}); lower the learning rate"
        )
