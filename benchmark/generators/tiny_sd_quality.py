"""Measures tiny-sd: a small classifier trained only on freshly rendered typeset digits reads what was drawn.

Called by `tiny_sd_card` for the numbers in the model card, and by the tests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmark.generators.typeset import COLOURS, DIGIT_WORDS, caption, render_random

RECOMMENDED_STEPS = 8
"""Sampling steps at which the card's numbers were measured."""

RECOMMENDED_GUIDANCE = 2.5
"""Classifier-free guidance scale at which the card's numbers were measured."""


@dataclass(frozen=True)
class Rate:
    """A share of images, with its 95 % Wilson interval.

    Attributes:
        hits: images counted as right.
        count: images looked at.
    """

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % Wilson score interval."""
        z = 1.959964
        centre = (self.value + z * z / (2 * self.count)) / (1 + z * z / self.count)
        spread = z * math.sqrt(self.value * (1 - self.value) / self.count + (z / (2 * self.count)) ** 2)
        half = spread / (1 + z * z / self.count)
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f} % ({100 * low:.2f} to {100 * high:.2f}, n = {self.count:,})"


@dataclass(frozen=True)
class Reading:
    """How often the classifier reads the intended digit, colour, and both.

    Attributes:
        digit: share of images whose digit is read as intended.
        colour: share of images whose colour is read as intended.
        both: share of images with both right.
    """

    digit: Rate
    colour: Rate
    both: Rate


class TypesetReader(nn.Module):
    """A convolutional network with one head for the digit and one for the colour, over (n, 3, 32, 32) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(96 * 16, 128), nn.ReLU())
        self.digit_head = nn.Linear(128, len(DIGIT_WORDS))
        self.colour_head = nn.Linear(128, len(COLOURS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the digit (n, 10) and of the colour (n, 10)."""
        features = self.body(images)
        return self.digit_head(features), self.colour_head(features)


def _as_unit(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0


def train_reader(seed: int, count: int = 12_000, epochs: int = 4, batch: int = 100) -> TypesetReader:
    """Train a reader on `count` freshly rendered typeset digits, with a little pixel noise, and on nothing else.

    Args:
        seed: seed of images, weights and order; use one that made no training image of the generator.
        count: rendered digits.
        epochs: passes over them.
        batch: digits in an optimizer step.
    """
    torch.manual_seed(seed)
    images = render_random(count, seed, digit_share=1.0)
    pixels, digits, colours = _as_unit(images.pixels), torch.from_numpy(images.digits), torch.from_numpy(images.colours)
    reader = TypesetReader().train()
    steps = epochs * (count // batch)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        if step % (count // batch) == 0:
            order = torch.randperm(count)
        rows = order[(step * batch) % count :][:batch]
        noisy = pixels[rows] + 0.03 * torch.randn_like(pixels[rows])
        digit, colour = reader(noisy)
        loss = functional.cross_entropy(digit, digits[rows]) + functional.cross_entropy(colour, colours[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


@torch.no_grad()
def read(
    reader: TypesetReader, pixels: NDArray[np.uint8], digits: NDArray[np.int64], colours: NDArray[np.int64]
) -> Reading:
    """Compare what the reader sees in uint8 images (n, 32, 32, 3) with the intended digits and colours, each (n,)."""
    seen_digits, seen_colours = [], []
    for start in range(0, len(pixels), 500):
        digit, colour = reader(_as_unit(pixels[start : start + 500]))
        seen_digits.append(digit.argmax(dim=1).numpy())
        seen_colours.append(colour.argmax(dim=1).numpy())
    digit_right = np.concatenate(seen_digits) == digits
    colour_right = np.concatenate(seen_colours) == colours
    rates = [Rate(int(right.sum()), len(pixels)) for right in (digit_right, colour_right, digit_right & colour_right)]
    return Reading(*rates)


def sample(
    pipe: Any,
    prompts: Sequence[str],
    seed: int,
    *,
    steps: int = RECOMMENDED_STEPS,
    guidance: float = RECOMMENDED_GUIDANCE,
    batch: int = 100,
) -> NDArray[np.uint8]:
    """Draw one image per prompt; image i depends on its prompt, the settings and (seed, i) alone.

    Args:
        pipe: a `StableDiffusionPipeline`.
        prompts: one prompt per image.
        seed: seed of the starting noise.
        steps: sampling steps.
        guidance: classifier-free guidance scale.
        batch: prompts in one call of the pipeline.

    Returns:
        uint8 images (n, 32, 32, 3).
    """
    drawn = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        seeds = np.random.SeedSequence(seed).spawn(len(prompts))[start : start + len(part)]
        generators = [torch.Generator().manual_seed(int(s.generate_state(1, np.uint64)[0]) >> 1) for s in seeds]
        images = pipe(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        drawn.append(np.rint(255.0 * images).astype(np.uint8))
    return np.concatenate(drawn)


@dataclass(frozen=True)
class Quality:
    """What `measure` found.

    Attributes:
        rendered: the reader on held-out rendered digits.
        drawn: the reader on the generator's images.
        seconds_per_thousand: wall seconds for 1,000 images.
    """

    rendered: Reading
    drawn: Reading
    seconds_per_thousand: float


def digit_prompts(count: int) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Prompts of `count` coloured digits, all 100 pairs equally often, with the intended digits and colours."""
    digits = np.arange(count, dtype=np.int64) % len(DIGIT_WORDS)
    colours = np.arange(count, dtype=np.int64) // len(DIGIT_WORDS) % len(COLOURS)
    return [caption(str(d), COLOURS[c]) for d, c in zip(digits, colours, strict=True)], digits, colours


def measure(pipe: Any, count: int = 2_000, seed: int = 1_000_003) -> Quality:
    """Draw `count` digits at the recommended settings and let a freshly trained reader read them.

    Args:
        pipe: tiny-sd as a `StableDiffusionPipeline`, in the precision to measure.
        count: images to draw; all 100 pairs of digit and colour equally often.
        seed: seed of the reader, of its images and of the starting noise.
    """
    reader = train_reader(seed)
    fresh = render_random(count, seed + 1, digit_share=1.0)
    prompts, digits, colours = digit_prompts(count)
    begin = time.perf_counter()
    pixels = sample(pipe, prompts, seed)
    seconds = (time.perf_counter() - begin) * 1000 / count
    rendered = read(reader, fresh.pixels, fresh.digits, fresh.colours)
    return Quality(rendered, read(reader, pixels, digits, colours), seconds)
