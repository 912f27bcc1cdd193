"""A class- and group-conditional diffusion model trained from random weights on images that a method hands over.

Denoising diffusion (Ho 2020) on diffusers' `UNet2DModel`. Two choices make it learn a thousand small images in a minute
on two cores: it predicts the clean image, which has far fewer degrees of freedom than its noise (Li & He 2025), and its
noise grows with the patch (Hoogeboom 2023). Conditions are dropped now and then, for classifier-free guidance (Ho &
Salimans 2022). `scratch_sampling` draws from the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benchmark.contract.generation import FromScratch
from benchmark.errors import GeneratorError, InvalidValue, StoreError, TrainingDiverged
from benchmark.generators.own import OwnModel
from benchmark.generators.pipelines import no_memory
from benchmark.generators.unfinished import read_unfinished, restore, snapshot, write_unfinished
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.records.files import TEMPORARY_PREFIX, read_json, write_json
from benchmark.records.store import Store
from benchmark.tasks.lazy import Images, sha256_images
from benchmark.training.backbones import state_digest
from benchmark.training.device import Precision, describe_device
from benchmark.training.loop import autocast
from benchmark.training.losses import Batches
from benchmark.training.pixels import Pixels
from benchmark.training.remember import contiguous

KIND: Literal["from-scratch"] = "from-scratch"
WEIGHTS = "model.safetensors"
CODE_VERSION = 1
"""Moves whenever this module changes what it computes."""

TIMES = 1000
Scheduler = Any
"""A scheduler of `diffusers`."""

_REPORT, _UNFINISHED = "report.json", "training.safetensors"
_SAMPLING = ("sampling_steps", "guidance", "sampling_batch")
_DROPPED, _DROPPED_ATTRIBUTE = 0.1, 0.1
"""Share of images whose condition is hidden in training, and of those whose attribute alone is."""
_WARMUP_SHARE, _AVERAGED_SHARE = 0.05, 0.05
_GRADIENT_NORM, _WEIGHT_DECAY = 1.0, 0.01
_EMBEDDING_STD = 0.02
_MOST_GROUPS, _SMALLEST_GROUP = 32, 4  # of group normalisation, and channels in each
_CHECK_EVERY, _MOST_ROWS = 25, 40
_SAVE_SECONDS = 30.0
_LARGEST_WEIGHT = 5.0


def noise_schedule(patch: int) -> Scheduler:
    """Return how noise grows with time: a cosine that ends in pure noise.

    The noise of ``patch`` x ``patch`` pixels averages out where their image is smooth, so there is more of it in larger
    patches: the logarithm of the signal-to-noise ratio is shifted by -2 log(patch) (Hoogeboom 2023).
    """
    angles = np.linspace(0, np.pi / 2, TIMES + 1)
    signal = np.cos(angles) ** 2 / (np.cos(angles) ** 2 + (patch * np.sin(angles)) ** 2)
    return diffusers.DDPMScheduler(
        num_train_timesteps=TIMES,
        trained_betas=np.clip(1 - signal[1:] / signal[:-1], 0, 1).tolist(),
        prediction_type="sample",
        timestep_spacing="trailing",
    )


def weighted_errors(
    predicted: torch.Tensor, images: torch.Tensor, times: torch.Tensor, schedule: Scheduler
) -> torch.Tensor:
    """Return what training minimises of each image, float32 [n].

    The mean squared error of the predicted image times min(SNR + 1, 5): that of the velocity, without the large weights
    of times with little noise (Salimans & Ho 2022; Hang 2023).

    Args:
        predicted: Predicted images [n, 3, h, w].
        images: Clean images [n, 3, h, w].
        times: int64 [n].
        schedule: As :func:`noise_schedule` made it.
    """
    signal = schedule.alphas_cumprod.to(images.device)[times]
    errors = (predicted.float() - images).square().flatten(1).mean(1)
    return errors * (1 / (1 - signal)).clamp(max=_LARGEST_WEIGHT)


class ConditionalUNet(nn.Module):
    """Predicts clean images from noisy ones under a label, and an attribute where the model is conditioned on groups.

    Label and attribute have embeddings of their own, which are added, so that pairs never seen together compose.

    Args:
        how: Widths, patch and condition.
        n_classes: Number of labels; the number itself stands for an unknown label.
        n_attributes: Number of attribute values; the number itself stands for an unknown one.
        image_size: Height and width of the images in pixels.

    Raises:
        InvalidValue: For a size that the network cannot halve as often as its widths ask for.
    """

    def __init__(self, how: FromScratch, *, n_classes: int, n_attributes: int, image_size: int) -> None:
        super().__init__()
        levels = len(how.channels)
        if image_size % (step := how.patch * 2 ** (levels - 1)):
            raise InvalidValue(
                f"generator from scratch: images of {image_size} pixels cannot be divided by {step} (a patch of "
                f"{how.patch}, halved {levels - 1} times); use a smaller patch or fewer channels"
            )
        self.patch = how.patch
        width, common = 3 * how.patch**2, math.gcd(*how.channels)
        most = max(1, min(_MOST_GROUPS, min(how.channels) // _SMALLEST_GROUP))
        self.unet = UNet2DModel(
            sample_size=image_size // how.patch,
            in_channels=width,
            out_channels=width,
            block_out_channels=how.channels,
            layers_per_block=how.layers,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            add_attention=False,
            norm_num_groups=max(n for n in range(1, most + 1) if common % n == 0),
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        depth = 4 * how.channels[0]
        self.label = nn.Embedding(n_classes + 1, depth)
        self.attribute = nn.Embedding(n_attributes + 1, depth) if how.condition == "group" else None
        for embedding in filter(None, (self.label, self.attribute)):
            nn.init.normal_(embedding.weight, std=_EMBEDDING_STD)

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, y: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Return the clean images behind noisy ones [n, 3, h, w] at int64 times, labels and attributes [n]."""
        condition = self.label(y)
        if self.attribute is not None:
            condition = condition + self.attribute(a)
        squares = functional.pixel_unshuffle(noisy, self.patch)
        return functional.pixel_shuffle(self.unet(squares, times, condition).sample, self.patch)


def trained_scratch(
    store: Store,
    images: Images,
    y: NDArray[np.int64],
    a: NDArray[np.int64],
    how: FromScratch,
    *,
    n_classes: int,
    n_attributes: int,
    seed: int,
    device: torch.device,
    precision: Precision,
    progress: Callable[[int], None],
) -> OwnModel:
    """Return a conditional diffusion model of some images from the store, training it when it is missing.

    A training that was interrupted goes on from what the store keeps of it, to the same result.

    Args:
        store: The store.
        images: uint8 [n, size, size, 3].
        y: Labels, int64 [n].
        a: Attributes, int64 [n]; -1 where it is not known. Not looked at where the class alone is the condition.
        how: The model and its training.
        n_classes: Number of labels.
        n_attributes: Number of attribute values.
        seed: Of initial weights, batches, noise and times.
        device: Where to train.
        precision: With or without bf16 autocast.
        progress: Called with the number of steps done since the last call.

    Raises:
        InvalidValue: For images, labels or attributes that do not fit each other or the model.
        TrainingDiverged: When the loss or a weight is not finite.
        GeneratorError: When memory does not suffice.
        StoreError: When the store cannot be written.
    """
    group = how.condition == "group"
    attributes = a if group else np.full_like(y, -1)
    _check_images(images, y, attributes, n_classes, n_attributes)
    key = sha256_of(
        {
            "code": CODE_VERSION,
            "how": {name: value for name, value in asdict(how).items() if name not in _SAMPLING},
            "images": _digest(images, y, attributes),
            "n_classes": n_classes,
            "n_attributes": n_attributes if group else None,
            "seed": seed,
            "device": [device.type, *describe_device(device)],
            "precision": precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    )
    unfinished = store.root / KIND / f"{TEMPORARY_PREFIX}unfinished-{key}"

    def build(folder: Path) -> None:
        try:
            training = _Training(
                images, y, attributes, how, n_classes=n_classes, n_attributes=n_attributes, seed=seed, device=device,
                precision=precision, file=unfinished / _UNFINISHED, identity=key,
            )  # fmt: skip
            state = training.run(progress)
        except (RuntimeError, MemoryError) as error:
            if not no_memory(error):
                raise
            raise _too_large(how, images.shape[1], device) from error
        save_file(state, folder / WEIGHTS)
        report = {"curves": training.rows, "seconds": training.seconds, "images": len(y), "sha256": state_digest(state)}
        write_json(folder / _REPORT, report)

    folder, built = store.produce(KIND, key, build)
    shutil.rmtree(unfinished, ignore_errors=True)  # not before it is published: a full disk must not cost the work
    if not built:
        progress(how.steps)
    found = read_json(folder / _REPORT)
    return OwnModel(
        KIND, folder, found["sha256"], int(found["images"]), float(found["seconds"]), tuple(found["curves"])
    )


def _check_images(
    images: Images, y: NDArray[np.int64], a: NDArray[np.int64], n_classes: int, n_attributes: int
) -> None:
    if not len(y) or len(images) != len(y) or len(a) != len(y) or images.shape[1] != images.shape[2]:
        raise InvalidValue(
            f"generator from scratch: images {images.shape}, {len(y)} labels and {len(a)} attributes; give one label "
            "and attribute per image, and square images"
        )
    for name, values, least, n in (("label", y, 0, n_classes), ("attribute", a, -1, n_attributes)):
        if values.min() < least or values.max() >= n:
            raise InvalidValue(
                f"generator from scratch: {name}s span {values.min()}..{values.max()}, allowed are {least}..{n - 1}"
            )


def _digest(images: Images, y: NDArray[np.int64], a: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(sha256_images(images).encode())
    digest.update(np.stack([y, a]).astype("<i8").tobytes())
    return digest.hexdigest()


def _too_large(how: FromScratch, size: int, device: torch.device) -> GeneratorError:
    half = how.batch_size // 2
    less = f"try a batch size of {half}" if half else "use a device with more memory, or a smaller model"
    return GeneratorError(
        f"{device} has not enough memory to train a generator from scratch with batch size {how.batch_size} at "
        f"{size}×{size} pixels; {less}"
    )


class _Training:
    """The state of one training; see :func:`trained_scratch`.

    Attributes:
        rows: The curve so far.
        seconds: Time spent so far, also before an interruption.
    """

    def __init__(
        self,
        images: Images,
        y: NDArray[np.int64],
        a: NDArray[np.int64],
        how: FromScratch,
        *,
        n_classes: int,
        n_attributes: int,
        seed: int,
        device: torch.device,
        precision: Precision,
        file: Path,
        identity: str,
    ) -> None:
        self._images, self._how, self._seed = images, how, seed
        self._device, self._precision = device, precision
        self._unknown = n_classes, n_attributes
        self._y = torch.from_numpy(np.array(y)).to(device)
        self._a = torch.from_numpy(np.where(a < 0, n_attributes, a)).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(base=seed, purpose="weights"))
            network = ConditionalUNet(how, n_classes=n_classes, n_attributes=n_attributes, image_size=images.shape[1])
        # Channels last is slower than the default on CPUs.
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._layout = layout
        self._network = network.to(device).to(memory_format=layout).train()
        self._weights = dict(self._network.named_parameters())
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._optimiser = torch.optim.AdamW(
            list(self._weights.values()),
            lr=how.learning_rate,
            weight_decay=_WEIGHT_DECAY,
            fused=device.type in ("cpu", "cuda"),
        )
        self._noise = noise_schedule(how.patch)
        self._check_every = max(_CHECK_EVERY, math.ceil(how.steps / _MOST_ROWS))
        self._step, self._file, self._identity = 0, file, identity
        self._kept: dict[str, torch.Tensor] = {}
        self._begun = self._saved_at = time.monotonic()
        self._spent_before = 0.0
        self.rows: list[dict[str, float | int | None]] = []

    @property
    def seconds(self) -> float:
        return self._spent_before + time.monotonic() - self._begun

    def run(self, progress: Callable[[int], None]) -> dict[str, torch.Tensor]:
        """Train to the end and return the averaged weights, on the CPU."""
        if self._resume():
            progress(self._step)
        self._keep()
        try:
            self._train(progress)
        except BaseException:
            # An interrupted step may have moved half of the weights: what is saved is the last whole check. That it
            # cannot be saved must not hide why the training ended.
            with contextlib.suppress(StoreError):
                self._save()
            raise
        self._save()
        return contiguous(self._average)

    def _train(self, progress: Callable[[int], None]) -> None:
        steps, size = self._how.steps, self._how.batch_size
        order = islice(Batches(len(self._y), size, None, "erm", self._seed), self._step, steps)
        total, since = torch.zeros((), device=self._device), 0
        for index, batch in Pixels(self._images, self._device).batches(order):
            total, since = total + self._one_step(index, batch), since + 1
            self._step += 1
            progress(1)
            if self._step % self._check_every == 0 or self._step == steps:
                self._check(float(total) / since)
                self._keep()
                total, since = torch.zeros((), device=self._device), 0
                if time.monotonic() - self._saved_at > _SAVE_SECONDS:
                    self._save()

    def _one_step(self, index: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Move the weights by one step and return the loss; all chance comes from the seed and the step."""
        random = torch.Generator(self._device).manual_seed(derive_seed(base=self._seed, step=self._step))
        clean = (batch.to(torch.float32) / 127.5 - 1).contiguous(memory_format=self._layout)
        noise = torch.randn(clean.shape, generator=random, device=self._device)
        times = self._times(len(clean), random)
        noisy = self._noise.add_noise(clean, noise, times)
        with autocast(self._device, self._precision):
            predicted = self._network(noisy, times, *self._conditions(index, random))
        loss = weighted_errors(predicted, clean, times, self._noise).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights.values(), _GRADIENT_NORM)
        for group in self._optimiser.param_groups:
            group["lr"] = self._how.learning_rate * self._factor()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._update_average()
        return loss.detach()

    def _times(self, n: int, random: torch.Generator) -> torch.Tensor:
        """Return times that cover their range evenly, int64 [n]: losses of different times are no chance then."""
        offset = torch.rand((), generator=random, device=self._device)
        shares = (torch.arange(n, device=self._device) / n + offset) % 1
        return (shares * TIMES).long().clamp(max=TIMES - 1)

    def _conditions(self, index: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return labels and attributes of some images, some of them hidden."""
        chance = torch.rand(index.shape, generator=random, device=self._device)
        no_label, no_attribute = self._unknown
        y = self._y[index].masked_fill(chance < _DROPPED, no_label)
        a = self._a[index].masked_fill(chance < _DROPPED + _DROPPED_ATTRIBUTE, no_attribute)
        return y, a

    def _factor(self) -> float:
        """Return the share of the peak learning rate: linear warm-up, then cosine decay."""
        steps = self._how.steps
        warmup = max(1, round(steps * _WARMUP_SHARE))
        if self._step < warmup:
            return (self._step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (self._step - warmup) / max(1, steps - warmup)))

    def _update_average(self) -> None:
        """Move the exponential average of the weights; at the start it forgets faster."""
        decay = min((1 + self._step) / (10 + self._step), 1 - 1 / max(1, self._how.steps * _AVERAGED_SHARE))
        get_ema_multi_avg_fn(decay)(list(self._average.values()), list(self._weights.values()), self._step)

    def _check(self, loss: float) -> None:
        """Note the loss; refuse one that is not finite, and weights: the step after a finite loss may ruin them."""
        weights = torch.stack([torch.isfinite(weight.detach()).all() for weight in self._weights.values()])
        if not (math.isfinite(loss) and bool(weights.all())):
            what = f"a weight is not finite (loss {loss:.3g})" if math.isfinite(loss) else f"the loss is {loss}"
            raise TrainingDiverged(
                f"training a generator from scratch: {what} at step {self._step} (learning rate "
                f"{self._how.learning_rate:.2g}); lower the learning rate. The weights as they were at step "
                f"{int(self._kept['steps'])} are kept in the store"
            )
        self.rows.append({"step": self._step, "training_loss": loss})

    def _keep(self) -> None:
        """Copy what the training would go on from."""
        self._kept = snapshot(self._weights, self._optimiser)
        self._kept |= {f"average.{name}": weight.cpu().clone() for name, weight in self._average.items()}
        self._kept["steps"] = torch.tensor(self._step)
        self._kept["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        rows = [list(row.values()) for row in self.rows]
        self._kept["rows"] = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 2)

    def _save(self) -> None:
        if self._kept:
            write_unfinished(self._file, self._kept, training=self._identity)
            self._saved_at = time.monotonic()

    def _resume(self) -> bool:
        """Go on from the file of an unfinished training, and return whether there was one."""
        kept = read_unfinished(self._file, training=self._identity)
        if kept is None:
            return False
        restore(kept, self._weights, self._optimiser)
        for name, weight in self._average.items():
            weight.copy_(kept[f"average.{name}"])
        self._step, self._spent_before = int(kept["steps"]), float(kept["seconds"])
        self.rows = [{"step": int(step), "training_loss": loss} for step, loss in kept["rows"].tolist()]
        return True
