"""Fine-tuning a text-to-image generator: several low-rank adapters at once over one frozen base (protocol §5).

The base, its VAE and its text encoder are frozen, so latents and text embeddings are computed once. Each optimiser
step runs the UNet once on the batches of all adapters; each adapter sees its own images only, so the result is that of
training them one by one, at a multiple of the speed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmark.contract.generation import FineTuning
from benchmark.errors import GeneratorError, StoreError, TrainingDiverged
from benchmark.generators.adapters import Adapter, Stack, base_of, fresh_adapter
from benchmark.generators.pipelines import Pipeline, TextToImage, check_tunable, no_memory
from benchmark.generators.unfinished import read_unfinished, restore, snapshot, write_unfinished
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.training.device import Precision
from benchmark.training.loop import autocast

CODE_VERSION = 1
"""Moves whenever this module changes what it computes."""

_MOST_AT_ONCE, _AT_512 = 128, 16
_CHECK_EVERY = 25
_SAVE_SECONDS = 30.0
_GRADIENT_NORM, _WEIGHT_DECAY = 1.0, 0.01  # of diffusers' examples
_ENCODE_BATCH, _ENCODE_PIXELS = 16, 16 * 256**2
_CHECKPOINTING_FROM = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Subject:
    """What one adapter is trained on.

    Attributes:
        name: Such as ``group 3-7``, ``cluster 0 of group 3-7``, ``class 3``.
        images: uint8 [n, height, width, 3].
        prompts: One per image.
        prior_images: Images of the unchanged generator, uint8 [m, height, width, 3]; m may be 0.
        prior_prompts: One per prior image.
        digest: SHA-256 of all of that.
    """

    name: str
    images: NDArray[np.uint8]
    prompts: tuple[str, ...]
    prior_images: NDArray[np.uint8]
    prior_prompts: tuple[str, ...]
    digest: str


def subjects_at_once(pipe: Pipeline, tuning: FineTuning) -> int:
    """Return how many adapters are trained together: as many as make a good batch at the generator's own size."""
    size = native_size(pipe)
    most = min(_MOST_AT_ONCE, max(1, round(_AT_512 * (512 / size) ** 2)))
    per_adapter = tuning.batch_size * (2 if tuning.prior_weight else 1)
    return max(1, most // per_adapter)


def native_size(pipe: Pipeline) -> int:
    """Return height and width of the generator's own images in pixels."""
    return int(pipe.unet.config.sample_size * pipe.vae_scale_factor)


def fine_tune(
    generator: TextToImage,
    subjects: Sequence[Subject],
    tuning: FineTuning,
    *,
    seed: int,
    precision: Precision,
    unfinished: Path | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Adapter]:
    """Train one adapter per subject, as many at once as make a good batch and fit into memory.

    Args:
        generator: The base; its weights stay as they are.
        subjects: What to train on.
        tuning: How.
        seed: Of initial weights, batches, noise and times.
        precision: With or without bf16 autocast.
        unfinished: Folder that holds the work so far: written now and then, read at the start, the caller's to
            remove. A training that goes on from it gives the same result as one that was never interrupted.
        progress: Called with the number of steps done since the last call, each adapter counting its own.

    Raises:
        GeneratorError: For a generator that cannot be fine-tuned, or when memory does not suffice for one adapter.
        TrainingDiverged: When a loss or weight is not finite; ``unfinished`` holds the last weights before that.
        StoreError: When ``unfinished`` cannot be written.
    """
    check_tunable(generator.pipe, generator.identity.name)
    adapters: list[Adapter] = []
    at_once = min(subjects_at_once(generator.pipe, tuning), len(subjects))
    with _frozen(generator.pipe):
        while (start := len(adapters)) < len(subjects):
            part = subjects[start : start + at_once]
            file = unfinished and unfinished / f"{start}-{len(part)}.safetensors"
            try:
                # Not given a name: a training that failed must free its memory before the next one begins.
                adapters += _Training(generator, part, tuning, seed=seed, precision=precision, unfinished=file).run(
                    progress
                )
            except (RuntimeError, MemoryError) as error:
                if not no_memory(error):
                    raise
                if len(part) == 1:
                    raise _too_large(generator.pipe, tuning) from error
                at_once = len(part) // 2
                logger.warning("not enough memory to train %d adapters at once; trying %d", len(part), at_once)
    return adapters


def _too_large(pipe: Pipeline, tuning: FineTuning) -> GeneratorError:
    size, half = native_size(pipe), tuning.batch_size // 2
    less = f"try a batch size of {half}" if half else "use a device with more memory, or a smaller generator"
    return GeneratorError(
        f"{pipe.device} has not enough memory to fine-tune one adapter with batch size {tuning.batch_size} at "
        f"{size}×{size} pixels; {less}"
    )


@contextlib.contextmanager
def _frozen(pipe: Pipeline) -> Iterator[None]:
    """Freeze the base; large UNets recompute activations instead of keeping them."""
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
        part.eval()
    recompute = native_size(pipe) >= _CHECKPOINTING_FROM
    if recompute:
        pipe.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if recompute:
            pipe.unet.disable_gradient_checkpointing()


class _Encoded:
    """The latents and text embeddings of some images, computed once; only of images that a batch will draw."""

    def __init__(
        self, generator: TextToImage, images: NDArray[np.uint8], prompts: Sequence[str], *, draws: int, seed: int
    ) -> None:
        self._order = _epochs(len(images), draws, seed)
        used = torch.unique(self._order)
        self._position = torch.full((len(images),), -1, dtype=torch.int64)
        self._position[used] = torch.arange(len(used))
        together = max(1, min(_ENCODE_BATCH, _ENCODE_PIXELS // native_size(generator.pipe) ** 2))
        encoded = [moments(generator.pipe, images[part.numpy()]) for part in used.split(together)]
        self._mean, self._std = (torch.cat([pair[k] for pair in encoded]) for k in range(2))
        texts = sorted({prompts[int(k)] for k in used})
        self._text_of = torch.tensor([texts.index(prompts[int(k)]) for k in used], dtype=torch.int64)
        self._embeddings = torch.cat([generator.embed(text) for text in texts]).float()

    def batch(self, step: int, size: int, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents [size, …], drawn from the VAE's posterior, and embeddings of the images of one step."""
        index = self._position[self._order[step * size : (step + 1) * size]]
        device = self._mean.device
        epsilon = torch.randn((size, *self._mean.shape[1:]), generator=noise).to(device)
        where = index.to(device)
        latents = self._mean[where] + self._std[where] * epsilon
        return latents, self._embeddings[self._text_of[index].to(device)]


def _epochs(n: int, draws: int, seed: int) -> torch.Tensor:
    """Return indices in shuffled epochs, int64 [draws]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(math.ceil(draws / n))])[:draws]


@torch.no_grad()
def moments(pipe: Pipeline, images: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of the scaled latents of some images, float32, on the generator's device."""
    size = native_size(pipe)
    pixels = (
        torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(pipe.device, torch.float32) / 127.5 - 1
    )
    if pixels.shape[-2:] != (size, size):
        pixels = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    posterior = pipe.vae.encode(pixels.to(pipe.vae.dtype)).latent_dist
    scale = pipe.vae.config.scaling_factor
    return posterior.mean.float() * scale, posterior.std.float() * scale


class _Training:
    """The state of one training of several adapters."""

    def __init__(
        self,
        generator: TextToImage,
        subjects: Sequence[Subject],
        tuning: FineTuning,
        *,
        seed: int,
        precision: Precision,
        unfinished: Path | None,
    ) -> None:
        pipe = generator.pipe
        self._generator, self._pipe, self._device = generator, pipe, pipe.device  # asking a pipeline takes 4 ms
        self._subjects, self._tuning, self._precision = subjects, tuning, precision
        self._seeds = [derive_seed(base=seed, subject=subject.digest) for subject in subjects]
        base = base_of(generator.identity.as_record())
        fresh = [fresh_adapter(pipe.unet, tuning.rank, base, each) for each in self._seeds]
        self._stack = Stack(pipe.unet, fresh, device=self._device)
        self._parameters = {name: weight.requires_grad_() for name, weight in sorted(self._stack.weights.items())}
        self._optimiser = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=tuning.learning_rate,
            weight_decay=_WEIGHT_DECAY,
            fused=self._device.type in ("cpu", "cuda"),
        )
        self._noise = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
        self._step, self._file = 0, unfinished
        self._identity = sha256_of(
            {"code": CODE_VERSION, "base": base, "seeds": self._seeds, "how": asdict(tuning), "precision": precision}
        )
        self._saved_at = time.monotonic()
        self._kept: dict[str, torch.Tensor] = {}

    def run(self, progress: Callable[[int], None]) -> list[Adapter]:
        """Train to the end and return the adapters."""
        if self._file is not None and self._resume(self._file):
            progress(self._step * len(self._subjects))
        if self._step < self._tuning.steps:
            self._encode()
        self._keep()
        try:
            while self._step < self._tuning.steps:
                losses = self._one_step()
                self._step += 1
                progress(len(self._subjects))
                if self._step % _CHECK_EVERY == 0 or self._step == self._tuning.steps:
                    self._check(losses)
                    self._keep()
                    if time.monotonic() - self._saved_at > _SAVE_SECONDS:
                        self._save()
        except BaseException:
            # An interrupted step may have moved half of the weights: what is saved is the last whole check. That it
            # cannot be saved must not hide why the training ended.
            with contextlib.suppress(StoreError):
                self._save()
            raise
        self._save()
        return [self._stack.adapter(k) for k in range(len(self._subjects))]

    def _encode(self) -> None:
        """Encode what batches are made of: real images first, in the adapters' order, then prior preservation's."""
        generator, tuning, subjects = self._generator, self._tuning, self._subjects
        draws = tuning.steps * tuning.batch_size
        self._sources = [
            (k, _Encoded(generator, s.images, s.prompts, draws=draws, seed=self._seeds[k]))
            for k, s in enumerate(subjects)
        ]
        self._sources += [
            (k, _Encoded(generator, s.prior_images, s.prior_prompts, draws=draws, seed=self._seeds[k] + 1))
            for k, s in enumerate(subjects)
            if tuning.prior_weight and len(s.prior_images)
        ]
        self._owner = torch.tensor([k for k, _ in self._sources], device=self._device)
        priors = len(self._sources) - len(subjects)
        self._weight = torch.tensor([1.0] * len(subjects) + [tuning.prior_weight] * priors, device=self._device)

    def _one_step(self) -> torch.Tensor:
        """Move all adapters by one step; returns their losses, [adapters]."""
        size, device = self._tuning.batch_size, self._device
        parts = [self._inputs(position) for position in range(len(self._sources))]
        latents, text, noise, times = (torch.cat([part[k] for part in parts]) for k in range(4))
        noisy, dtype = self._noise.add_noise(latents, noise, times), self._pipe.unet.dtype
        with self._stack.applied(self._owner.repeat_interleave(size)), autocast(device, self._precision):
            predicted = self._pipe.unet(noisy.to(dtype), times, text.to(dtype)).sample.float()
            error = functional.mse_loss(predicted, self._target(latents, noise, times), reduction="none")
            each = error.flatten(1).mean(1).view(len(self._sources), size).mean(1) * self._weight
            losses = torch.zeros(len(self._subjects), device=device).index_add(0, self._owner, each)
            losses.sum().backward()
        self._clip()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return losses.detach()

    def _inputs(self, position: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return latents, embeddings, noise and times of one batch; its own seed makes it independent of the others."""
        subject, source = self._sources[position]
        prior = position >= len(self._subjects)
        random = torch.Generator().manual_seed(derive_seed(base=self._seeds[subject], step=self._step, prior=prior))
        size, device = self._tuning.batch_size, self._device
        latents, text = source.batch(self._step, size, random)
        noise = torch.randn(latents.shape, generator=random).to(device)
        times = torch.randint(0, self._noise.config.num_train_timesteps, (size,), generator=random).to(device)
        return latents, text, noise, times

    def _target(self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        kind = self._noise.config.prediction_type
        if kind == "v_prediction":
            return self._noise.get_velocity(latents, noise, times)
        if kind == "sample":
            return latents
        if kind != "epsilon":
            raise GeneratorError(
                f"generator {self._generator.identity.name!r} predicts {kind!r}; fine-tuning knows epsilon, "
                "v_prediction and sample"
            )
        return noise

    def _clip(self) -> None:
        """Clip each adapter's gradient by its own norm, as if it were trained alone."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        factor = (_GRADIENT_NORM / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))

    def _check(self, losses: torch.Tensor) -> None:
        """Refuse a loss that is not finite, and weights: the step after a finite loss may have ruined them."""
        finite = torch.isfinite(losses)
        for parameter in self._parameters.values():
            finite &= torch.isfinite(parameter.detach()).flatten(1).all(dim=1)
        bad = torch.nonzero(~finite).flatten().tolist()
        if bad:
            loss, good = float(losses[bad[0]]), int(self._kept["steps"])
            what = f"a weight is not finite (loss {loss:.3g})" if math.isfinite(loss) else f"the loss is {loss}"
            kept = f". The adapters as they were at step {good} are kept in the store" if self._file else ""
            raise TrainingDiverged(
                f"fine-tuning the generator on {self._subjects[bad[0]].name}: {what} at step {self._step} (learning "
                f"rate {self._tuning.learning_rate:.2g}); lower the learning rate{kept}"
            )

    def _keep(self) -> None:
        """Copy what the training would go on from."""
        self._kept = snapshot(self._parameters, self._optimiser) | {"steps": torch.tensor(self._step)}

    def _save(self) -> None:
        if self._file is None or not self._kept:
            return
        write_unfinished(self._file, self._kept, training=self._identity)
        self._saved_at = time.monotonic()

    def _resume(self, file: Path) -> bool:
        """Go on from a file, and return whether there was one."""
        kept = read_unfinished(file, training=self._identity)
        if kept is None:
            return False
        restore(kept, self._parameters, self._optimiser)
        self._step = int(kept["steps"])
        return True
