"""Drawing from a conditional diffusion model that was trained from scratch, one seed per image.

`pools.Pool` calls :meth:`ScratchSampler.sample`; typicality reads :meth:`ScratchSampler.denoising_loss`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.contract.generation import FromScratch
from benchmark.errors import GeneratorError, InvalidValue
from benchmark.generators.own import OwnModel
from benchmark.generators.pipelines import no_memory, to_levels
from benchmark.generators.scratch import TIMES, WEIGHTS, ConditionalUNet, noise_schedule, weighted_errors
from benchmark.training.device import Precision
from benchmark.training.loop import autocast
from benchmark.training.remember import load_state

Request = tuple[int, int | None]
"""Label and attribute; None is any attribute."""


class ScratchSampler:
    """A trained model behind the interface of pools; see :class:`benchmark.generators.pools.Sampler`.

    Args:
        model: The model.
        network: Its network, on the device.
        how: How it was trained and is sampled.
        requests: What each prompt asks for.
        unknown: Numbers that stand for an unknown label and an unknown attribute.
        image_size: Height and width of its images in pixels.
        device: Where to compute.
        precision: With or without bf16 autocast.
    """

    def __init__(
        self,
        model: OwnModel,
        network: ConditionalUNet,
        how: FromScratch,
        requests: Mapping[str, Request],
        *,
        unknown: tuple[int, int],
        image_size: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self._model, self._network, self._how, self._requests = model, network, how, dict(requests)
        self._unknown, self._size = unknown, image_size
        self._device, self._precision = device, precision

    @classmethod
    def load(
        cls,
        model: OwnModel,
        how: FromScratch,
        requests: Mapping[str, Request],
        *,
        n_classes: int,
        n_attributes: int,
        image_size: int,
        device: torch.device,
        precision: Precision,
    ) -> ScratchSampler:
        """Load a model from the store.

        Args:
            model: As `scratch.trained_scratch` returned it.
            how: As it was trained.
            requests: What each prompt asks for.
            n_classes: Number of labels.
            n_attributes: Number of attribute values.
            image_size: Height and width of its training images in pixels.
            device: Where to compute.
            precision: With or without bf16 autocast.

        Raises:
            InvalidValue: For a model of another kind.
            DamagedFile: When its file cannot be read.
            GeneratorError: When the weights belong to another network.
        """
        if model.kind != "from-scratch" or model.folder is None:
            raise InvalidValue(f"a model of kind {model.kind!r} is no diffusion model from scratch")
        with torch.random.fork_rng(devices=[]):
            network = ConditionalUNet(how, n_classes=n_classes, n_attributes=n_attributes, image_size=image_size)
        try:
            network.load_state_dict(load_state(model.folder / WEIGHTS))
        except RuntimeError as error:
            raise GeneratorError(
                f"the weights {model.sha256[:12]}… are not those of a network with {n_classes} labels, {n_attributes} "
                f"attributes and {how}"
            ) from error
        network.to(device).eval().requires_grad_(False)
        if device.type == "cuda":
            network.to(memory_format=torch.channels_last)
        return cls(
            model, network, how, requests, unknown=(n_classes, n_attributes), image_size=image_size, device=device,
            precision=precision,
        )  # fmt: skip

    def conditions(self) -> dict[str, Any]:
        """Return what was loaded and how, in the words of a pool's recipe."""
        return {
            "generator": self._model.as_record(),
            "scheduler": "DDIMScheduler",
            "precision": self._precision,
            "device_kind": self._device.type,
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
        resize: str = "lanczos",
        adapters: Sequence[str | None] | None = None,
    ) -> NDArray[np.uint8]:
        """Make one image per prompt and seed, by deterministic DDIM (Song 2021).

        A last batch that is not full is padded: an image's last bits depend on the shape of its batch, but not on its
        place or neighbours in it.

        Args:
            prompts: What to show; each is one of the requests.
            negative_prompts: Empty, one per prompt.
            seeds: One per image, below 2**63, for a generator on the CPU.
            steps: Denoising steps.
            guidance: Classifier-free guidance scale; 1 is none.
            height: The model's own, in pixels.
            width: The model's own, in pixels.
            batch_size: Images per forward pass; with guidance a pass holds each twice.
            resize: Nothing is resized.
            adapters: None for every image.

        Returns:
            uint8 [n, height, width, 3]; levels are rounded half up.

        Raises:
            InvalidValue: For what the model does not know, and another size than its own.
            GeneratorError: For images with NaN or infinite values, and when memory does not suffice.
        """
        del resize
        if (height, width) != (self._size, self._size):
            raise InvalidValue(f"this generator makes images of {self._size} pixels, not {height}×{width}")
        if not len(prompts) == len(negative_prompts) == len(seeds):
            raise InvalidValue(f"{len(prompts)} prompts, {len(negative_prompts)} negative ones and {len(seeds)} seeds")
        if steps > TIMES:
            raise InvalidValue(f"{steps} denoising steps are more than the {TIMES} times of a training; use fewer")
        if any(negative_prompts) or any(adapters or ()):
            raise InvalidValue("a generator from scratch has neither negative prompts nor adapters; leave them empty")
        if stranger := next((prompt for prompt in prompts if prompt not in self._requests), None):
            raise InvalidValue(f"this generator has no request {stranger!r}")
        wanted = [self._requests[prompt] for prompt in prompts]
        images = np.empty((len(prompts), height, width, 3), dtype=np.uint8)
        for start in range(0, len(prompts), batch_size):
            chosen = list(range(start, min(start + batch_size, len(prompts))))
            padded = chosen + [chosen[0]] * (batch_size - len(chosen))
            values, finite = self._denoise([wanted[k] for k in padded], [seeds[k] for k in padded], steps, guidance)
            for k, ok in zip(chosen, finite, strict=False):
                if not ok:
                    raise GeneratorError(
                        f"the generator from scratch made NaN or infinite values for {prompts[k]!r} with seed "
                        f"{seeds[k]} in {self._precision}; try float32 or less guidance"
                    )
            images[start : start + len(chosen)] = to_levels(values[: len(chosen)])
        return images

    def denoising_loss(
        self,
        images: NDArray[np.uint8],
        requests: Sequence[Request | None],
        times: torch.Tensor,
        noise: torch.Tensor,
    ) -> NDArray[np.float32]:
        """Return the loss of each noised image under a condition, as training weighs it, float32 [n].

        It is the mean squared error of the predicted image, times a weight that depends on the time alone; see
        :func:`benchmark.generators.scratch.weighted_errors`.

        Args:
            images: uint8 [n, size, size, 3].
            requests: Condition of each image; None is no condition.
            times: int64 [n] in 0..999.
            noise: float32 [n, 3, size, size], standard normal.

        Raises:
            InvalidValue: For images of another size, what the model does not know, or sequences of other lengths.
            GeneratorError: When memory does not suffice.
        """
        n = len(images)
        if images.shape[1:] != (self._size, self._size, 3):
            raise InvalidValue(f"this generator knows images of {self._size} pixels, not {images.shape[1:]}")
        if not n == len(requests) == len(times) == len(noise):
            raise InvalidValue(f"{n} images, {len(requests)} requests, {len(times)} times and {len(noise)} noises")
        if n and not 0 <= int(times.min()) <= int(times.max()) < TIMES:
            raise InvalidValue(f"times span {int(times.min())}..{int(times.max())}, allowed are 0..{TIMES - 1}")
        found = np.empty(n, dtype=np.float32)
        for start in range(0, n, self._how.sampling_batch):
            part = slice(start, start + self._how.sampling_batch)
            found[part] = self._losses(images[part], requests[part], times[part], noise[part])
        return found

    @torch.inference_mode()
    def _losses(
        self, images: NDArray[np.uint8], requests: Sequence[Request | None], times: torch.Tensor, noise: torch.Tensor
    ) -> NDArray[np.float32]:
        y, a = self._numbers(requests)
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
        clean = pixels.to(self._device, torch.float32) / 127.5 - 1
        times, schedule = times.to(self._device), noise_schedule(self._how.patch)
        noisy = schedule.add_noise(clean, noise.to(self._device), times)
        errors: NDArray[np.float32] = (
            weighted_errors(self._predict(noisy, times, y, a), clean, times, schedule).cpu().numpy()
        )
        return errors

    @torch.inference_mode()
    def _denoise(
        self, wanted: Sequence[Request], seeds: Sequence[int], steps: int, guidance: float
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Return values in [0, 1], float32 [n, h, w, 3], and which images are finite."""
        scheduler = diffusers.DDIMScheduler.from_config(noise_schedule(self._how.patch).config)
        scheduler.set_timesteps(steps)
        shape = (3, self._size, self._size)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        images = torch.stack(noise).to(self._device)
        y, a = self._numbers(wanted if guidance == 1 else [*wanted, *[None] * len(wanted)])
        finite = torch.ones(len(images), dtype=torch.bool, device=self._device)
        for time in scheduler.timesteps.tolist():
            twice = images if guidance == 1 else torch.cat([images, images])
            times = torch.full((len(twice),), time, device=self._device)
            predicted = self._predict(twice, times, y, a)
            if guidance != 1:
                with_condition, without = predicted.chunk(2)
                predicted = without + guidance * (with_condition - without)
            finite &= predicted.isfinite().flatten(1).all(dim=1)  # the scheduler clips infinite values
            images = scheduler.step(predicted, time, images).prev_sample
        return (images.permute(0, 2, 3, 1) / 2 + 0.5).cpu().numpy(), finite.tolist()

    def _predict(self, noisy: torch.Tensor, times: torch.Tensor, y: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        try:
            with autocast(self._device, self._precision):
                predicted: torch.Tensor = self._network(noisy, times, y, a)
        except (RuntimeError, MemoryError) as error:
            if not no_memory(error):
                raise
            less = f"try a batch size of {len(noisy) // 2}" if len(noisy) > 1 else "use a device with more memory"
            raise GeneratorError(
                f"{self._device} has not enough memory for {len(noisy)} images at once with a generator from scratch; "
                f"{less}"
            ) from error
        return predicted.float()

    def _numbers(self, requests: Sequence[Request | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return labels and attributes as the network knows them, int64 [n]."""
        no_label, no_attribute = self._unknown
        labels, attributes = [], []
        for request in requests:
            y, a = (None, None) if request is None else request
            if a is not None and self._how.condition == "class":
                raise InvalidValue(f"this generator is conditioned on the class alone; it knows no group ({y}, {a})")
            if not (y is None or 0 <= y < no_label) or not (a is None or 0 <= a < no_attribute):
                raise InvalidValue(
                    f"this generator knows {no_label} labels and {no_attribute} attributes, not {request}"
                )
            labels.append(no_label if y is None else y)
            attributes.append(no_attribute if a is None else a)
        return torch.tensor(labels, device=self._device), torch.tensor(attributes, device=self._device)
