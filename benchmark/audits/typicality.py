"""Typicality of an image under a condition, by a diffusion model's own losses (Siglidis et al. 2024).

T(x|c) = E over (ε, t) of L(x, ∅) − L(x, c), the same draws for both terms: how much better the model denoises the image
when it is told the condition. Audits look at the most and least typical images of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.errors import GeneratorError, InvalidValue
from benchmark.generators.finetune import moments, native_size
from benchmark.generators.pipelines import TextToImage
from benchmark.tasks.lazy import Images, blocks

DRAWS = 4
EARLIEST, LATEST = 0.1, 0.9
"""Of all times: before, nothing is left to guess, and after, nothing of the image is left."""

_PREDICTIONS = ("epsilon", "v_prediction", "sample")

Request = tuple[int, int | None]
"""What a generator from scratch is asked for: a label, and an attribute unless it is free."""

Condition_contra = TypeVar("Condition_contra", contravariant=True)
Encoded = TypeVar("Encoded")


class Denoiser(Protocol[Condition_contra, Encoded]):
    """A conditional diffusion model as typicality needs it.

    Attributes:
        timesteps: Number T of times, 0 the least noisy.
    """

    timesteps: int

    def encode(self, images: NDArray[np.uint8]) -> Encoded:
        """Bring images [n, h, w, 3] to what noise is added to; done once for all draws."""
        ...

    def noise_shape(self, images: Images) -> tuple[int, ...]:
        """Return the shape of one image's noise."""
        ...

    def losses(
        self, encoded: Encoded, conditions: Sequence[Condition_contra | None], times: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return each image's mean squared error of the predicted noise, float [n].

        Args:
            encoded: The images.
            conditions: One per image; None is no condition.
            times: int64 [n].
            noise: float32 [n, …] on the CPU.
        """
        ...


def typicality(
    denoiser: Denoiser[Condition_contra, Encoded],
    images: Images,
    conditions: Sequence[Condition_contra | None],
    *,
    seed: int,
    draws: int = DRAWS,
    batch: int = 16,
) -> NDArray[np.float32]:
    """Return T(x|c) of each image under its condition.

    All images see the same draws of noise and time. So the typicality of an image depends on no other image of the
    call, images rank under equal noise, and a pool may be passed in parts; but the noise does not average out over
    many images. Times are spread over .1 to .9 of all, one in each of ``draws`` equal parts.

    Args:
        denoiser: The model.
        images: uint8 [n, h, w, 3].
        conditions: One per image; None gives 0.
        seed: Decides the draws.
        draws: Pairs of noise and time per image; each costs two passes of the model.
        batch: Images per pass. A last batch that is not full is padded, since last bits depend on its size.

    Returns:
        float32 [n]; differences of mean squared errors, each near 0..1.

    Raises:
        InvalidValue: For other than one condition per image, no draws or no batch.
        GeneratorError: When a loss is not finite.
    """
    if len(images) != len(conditions):
        raise InvalidValue(f"{len(images)} images and {len(conditions)} conditions; give one, or None, per image")
    if draws < 1 or batch < 1:
        raise InvalidValue(f"typicality with {draws} draws in batches of {batch} makes no sense; use 1 or more of each")
    times, noise = _draws(denoiser.timesteps, denoiser.noise_shape(images), draws, seed)
    result = np.zeros(len(images), dtype=np.float32)
    for start, block in blocks(images, batch):
        padded = np.resize(np.arange(len(block)), batch)
        asked = [conditions[start + int(k)] for k in padded]
        encoded = denoiser.encode(block[padded])
        total = torch.zeros(batch)
        for time, epsilon in zip(times, noise, strict=True):
            many = time.expand(batch), epsilon.expand(batch, *epsilon.shape)
            without = denoiser.losses(encoded, [None] * batch, *many)
            total += (without - denoiser.losses(encoded, asked, *many)).float().cpu()
        result[start : start + len(block)] = (total / draws).numpy()[: len(block)]
    if not np.isfinite(result).all():
        raise GeneratorError(
            f"the generator's loss on image {int(np.flatnonzero(~np.isfinite(result))[0])} is not finite; try float32"
        )
    return result


def _draws(timesteps: int, shape: tuple[int, ...], draws: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return times, int64 [draws], one in each of as many equal parts, and noise, float32 [draws, …]."""
    random = torch.Generator().manual_seed(seed)
    place = (torch.arange(draws) + torch.rand(draws, generator=random)) / draws
    times = ((EARLIEST + (LATEST - EARLIEST) * place) * timesteps).long()
    return times, torch.randn((draws, *shape), generator=random)


class TextToImageDenoiser:
    """A Stable Diffusion pipeline; conditions are prompts, and none is the empty prompt.

    Images are brought to the generator's own size and encoded by the mean of the VAE's posterior. The loss is that of
    the noise, whatever the UNet was trained to predict, so that typicality has one meaning: squared errors of a
    predicted velocity are multiplied by α², those of a predicted image by (α/σ)².

    Args:
        generator: The pipeline.
        adapter: SHA-256 of the fine-tuned weights under which both terms are computed; None for the base.

    Raises:
        GeneratorError: For another kind of pipeline or of prediction.
    """

    def __init__(self, generator: TextToImage, adapter: str | None = None) -> None:
        _check_kind(generator)
        self._generator, self._pipe, self._adapter = generator, generator.pipe, adapter
        self._noise = diffusers.DDPMScheduler.from_config(self._pipe.scheduler.config)
        self._kind = self._noise.config.prediction_type
        self.timesteps = int(self._noise.config.num_train_timesteps)

    def encode(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Return the scaled latents of images, float32 [n, c, h, w] on the generator's device."""
        return moments(self._pipe, images)[0]

    def noise_shape(self, images: Images) -> tuple[int, ...]:  # noqa: ARG002
        """Return the shape of a latent."""
        side = native_size(self._pipe) // self._pipe.vae_scale_factor
        return self._pipe.unet.config.in_channels, side, side

    @torch.inference_mode()
    def losses(
        self, encoded: torch.Tensor, conditions: Sequence[str | None], times: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return each image's mean squared error of the noise, float32 [n]; see :class:`Denoiser`."""
        device, dtype = encoded.device, self._pipe.unet.dtype
        times, noise = times.to(device), noise.to(device)
        noisy = self._noise.add_noise(encoded, noise, times)
        text = torch.cat([self._generator.embed(prompt or "") for prompt in conditions])
        with self._generator.adapted([self._adapter] * len(encoded)):
            predicted = self._pipe.unet(noisy.to(dtype), times, text.to(dtype)).sample.float()
        return (predicted - self._target(encoded, noise, times)).square().flatten(1).mean(dim=1) * self._weight(times)

    def _target(self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        if self._kind == "v_prediction":
            return self._noise.get_velocity(latents, noise, times)
        return latents if self._kind == "sample" else noise

    def _weight(self, times: torch.Tensor) -> torch.Tensor:
        """Return what turns a squared error of the prediction into one of the noise, float32 [n]."""
        signal = self._noise.alphas_cumprod.to(times.device)[times]  # α² = 1 − σ²
        if self._kind == "v_prediction":
            return signal
        return signal / (1 - signal) if self._kind == "sample" else torch.ones_like(signal)


def _check_kind(generator: TextToImage) -> None:
    name, pipe = generator.identity.name, generator.pipe
    if not isinstance(pipe, diffusers.StableDiffusionPipeline):
        raise GeneratorError(
            f"generator {name!r} is a {type(pipe).__name__}; typicality is known for a StableDiffusionPipeline (Stable "
            "Diffusion 1.x, 2.x) only"
        )
    if (kind := generator.pipe.scheduler.config.get("prediction_type", "epsilon")) not in _PREDICTIONS:
        raise GeneratorError(f"generator {name!r} predicts {kind!r}; typicality knows {', '.join(_PREDICTIONS)}")


class ImageLoss(Protocol):
    """What a generator from scratch offers."""

    def denoising_loss(
        self,
        images: NDArray[np.uint8],
        requests: Sequence[Request | None],
        times: torch.Tensor,
        noise: torch.Tensor,
    ) -> NDArray[np.float32]:
        """Return each image's loss under its request, float [n]; None is the model's null condition."""
        ...


class ScratchDenoiser:
    """A diffusion model that was trained from scratch on pixels; conditions are labels, with attributes where it knows.

    Args:
        sampler: The model.
        timesteps: Number of its times.
    """

    def __init__(self, sampler: ImageLoss, timesteps: int = 1000) -> None:
        self._sampler, self.timesteps = sampler, timesteps

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the images: noise is added to their pixels, by the model."""
        return images

    def noise_shape(self, images: Images) -> tuple[int, ...]:
        """Return the shape of an image, channels first."""
        return 3, *images.shape[1:3]

    def losses(
        self,
        encoded: NDArray[np.uint8],
        conditions: Sequence[Request | None],
        times: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Return the model's loss on each image, float [n]; see :class:`Denoiser`."""
        return torch.as_tensor(self._sampler.denoising_loss(encoded, conditions, times, noise))
