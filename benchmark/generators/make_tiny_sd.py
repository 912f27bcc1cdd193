"""Trains tiny-sd from scratch on typeset glyphs and saves it as a `StableDiffusionPipeline` folder with its model card.

Run as `python -m benchmark.generators.make_tiny_sd --out DIR`. The card of the folder in this repository,
`tiny_sd/`, says how its own run went.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import InvalidValue
from benchmark.generators.tiny_sd_parts import (
    PROMPT_TOKENS,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    make_vae,
)
from benchmark.generators.typeset import COLOURS, TypesetImages, caption, render_random

log = logging.getLogger("make_tiny_sd")

COLOUR_DROPPED = 0.15
CAPTION_DROPPED = 0.10
UNKNOWN_WORD = 0.03
KL_WEIGHT = 2e-4
EMA_DECAY = 0.998


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, apart from the library versions.

    Attributes:
        seed: seed of images, captions, weights and noise.
        images: how many typeset images are rendered once and reused.
        vae_steps: optimizer steps of the VAE.
        steps: optimizer steps of text encoder and UNet together.
        vae_batch: images per VAE step.
        batch: images per UNet step.
        vae_rate: highest learning rate of the VAE.
        rate: highest learning rate of text encoder and UNet.
    """

    seed: int = 0
    images: int = 48_000
    vae_steps: int = 1_100
    steps: int = 2_800
    vae_batch: int = 32
    batch: int = 64
    vae_rate: float = 1.5e-3
    rate: float = 8e-4


def as_model_input(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 images (n, 32, 32, 3) as float tensor (n, 3, 32, 32) in [-1, 1], channels last in memory."""
    scaled = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return scaled.contiguous(memory_format=torch.channels_last)


def training_caption(rng: np.random.Generator, character: str, colour: str) -> str:
    """The caption of one image in one step: now and then without the colour, empty, or with an unknown word."""
    draw = rng.random()
    if draw < CAPTION_DROPPED:
        return ""
    text = caption(character, None if draw < CAPTION_DROPPED + COLOUR_DROPPED else colour)
    if rng.random() < UNKNOWN_WORD:
        word = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(2, 4)))
        text = text.replace("a ", f"a {word} ", 1)
    return text


def cosine_rate(step: int, steps: int, highest: float, warm_up: int = 100) -> float:
    """Learning rate at `step`: linear warm-up, then a half cosine down to 2 % of the highest."""
    if step < warm_up:
        return highest * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return highest * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


class Checkpoint:
    """One stage's checkpoint file, written every few minutes and replaced atomically."""

    def __init__(self, folder: Path | None, stage: str, recipe: Recipe, minutes: float = 3.0) -> None:
        self._path = None if folder is None else folder / f"{stage}.pt"
        self._recipe = asdict(recipe)
        self._seconds = 60.0 * minutes
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None to start from nothing.

        Raises:
            InvalidValue: if the state belongs to another recipe.
        """
        if self._path is None or not self._path.exists():
            return None
        state: dict[str, Any] = torch.load(self._path, weights_only=True, map_location="cpu")
        if state["recipe"] != self._recipe:
            raise InvalidValue(f"{self._path} was made by another recipe, {state['recipe']}; use another folder")
        return state

    def save(self, state: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
        """Store `state()` if the last save is some minutes old, or at once with `now`."""
        if self._path is None or not (now or time.monotonic() - self._saved > self._seconds):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".unfinished")
        torch.save({**state(), "recipe": self._recipe}, unfinished)
        unfinished.replace(self._path)
        self._saved = time.monotonic()


def fit(
    stage: str,
    modules: nn.ModuleDict,
    loss_of: Callable[[int], Tensor],
    schedule: tuple[int, float, float],
    checkpoint: Checkpoint,
) -> float:
    """Train `modules` with AdamW and an exponential moving average, which is what they hold afterwards.

    Args:
        stage: name for the log.
        modules: what is trained, in place.
        loss_of: loss of the step with the given number; it draws its own batch from that number.
        schedule: steps, highest learning rate, decay of the moving average.
        checkpoint: where the state is kept and resumed from.

    Returns:
        Seconds spent training, resumed runs included.
    """
    steps, highest, decay = schedule
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=highest, betas=(0.9, 0.99), weight_decay=1e-3)
    average = EMAModel(parameters, decay=decay, use_ema_warmup=False)
    first, earlier, begin = 0, 0.0, time.monotonic()
    if (state := checkpoint.load()) is not None:
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        average.to(parameters[0].device)
        first, earlier = state["step"], state["seconds"]

    def state_at(step: int) -> dict[str, Any]:
        return {
            "modules": modules.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
            "step": step,
            "seconds": earlier + time.monotonic() - begin,
        }

    recent = 0.0
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, steps, highest)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.step(parameters)
        recent += loss.item()
        if (step + 1) % 50 == 0:
            log.info("%s step %d/%d loss %.5f, %.0f s", stage, step + 1, steps, recent / 50, time.monotonic() - begin)
            recent = 0.0
        checkpoint.save(partial(state_at, step + 1))
    seconds = earlier + time.monotonic() - begin
    checkpoint.save(partial(state_at, steps), now=True)
    average.copy_to(parameters)
    return seconds


def fit_vae(vae: Any, pool: TypesetImages, wide: TypesetImages, recipe: Recipe, checkpoint: Checkpoint) -> float:
    """Train the VAE on the pool and, for a quarter of each batch, on images of wider geometric variation."""
    device = next(vae.parameters()).device
    quarter = recipe.vae_batch // 4

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, 10, step])
        torch.manual_seed(int(rng.integers(2**31)))
        main = pool.pixels[rng.integers(len(pool), size=recipe.vae_batch - quarter)]
        images = as_model_input(np.concatenate([main, wide.pixels[rng.integers(len(wide), size=quarter)]]), device)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = functional.mse_loss(decoded, images) + 0.2 * functional.l1_loss(decoded, images)
        return error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    modules = nn.ModuleDict({"vae": vae})
    return fit("vae", modules, loss_of, (recipe.vae_steps, recipe.vae_rate, 0.995), checkpoint)


@torch.no_grad()
def encode_pool(vae: Any, pool: TypesetImages) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (n, 4, 8, 8) of the pool's latents; sets the VAE's scaling factor from them."""
    device = next(vae.parameters()).device
    vae.eval()
    means, deviations = [], []
    for start in range(0, len(pool), 256):
        posterior = vae.encode(as_model_input(pool.pixels[start : start + 256], device)).latent_dist
        means.append(posterior.mean)
        deviations.append(posterior.std)
    mean, deviation = torch.cat(means), torch.cat(deviations)
    variance = mean.var() + deviation.square().mean()
    vae.register_to_config(scaling_factor=round(float(variance.rsqrt()), 4))
    log.info("latents: mean %.3f, scaling factor %s", mean.mean().item(), vae.config.scaling_factor)
    return mean, deviation


def fit_unet(pipe: Any, pool: TypesetImages, recipe: Recipe, checkpoint: Checkpoint) -> float:
    """Train text encoder and UNet together to predict v from noised latents and captions."""
    mean, deviation = encode_pool(pipe.vae, pool)
    mean, deviation = mean * pipe.vae.config.scaling_factor, deviation * pipe.vae.config.scaling_factor
    noising = DDPMScheduler.from_config(pipe.scheduler.config, clip_sample=False)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, 20, step])
        torch.manual_seed(int(rng.integers(2**31)))
        rows = rng.integers(len(pool), size=recipe.batch)
        texts = [training_caption(rng, pool.characters[row], COLOURS[pool.colours[row]]) for row in rows]
        latents = torch.addcmul(mean[rows], deviation[rows], torch.randn_like(mean[rows]))
        noise = torch.randn_like(latents)
        times = torch.randint(0, noising.config.num_train_timesteps, (recipe.batch,), device=latents.device)
        noisy = noising.add_noise(latents, noise, times).contiguous(memory_format=torch.channels_last)
        predicted = pipe.unet(noisy, times, encode_text(pipe, texts)).sample
        return functional.mse_loss(predicted, noising.get_velocity(latents, noise, times))

    modules = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    return fit("unet", modules, loss_of, (recipe.steps, recipe.rate, EMA_DECAY), checkpoint)


def encode_text(pipe: Any, texts: Sequence[str]) -> Tensor:
    """Text embeddings (n, 16, 96) of the captions, as the pipeline computes them."""
    tokens = pipe.tokenizer(
        list(texts), padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
    )
    embeddings: Tensor = pipe.text_encoder(tokens.input_ids.to(pipe.device))[0]
    return embeddings


def train(recipe: Recipe, checkpoints: Path | None, device: torch.device) -> tuple[StableDiffusionPipeline, float]:
    """Train every part from nothing.

    Args:
        recipe: seed, sizes and learning rates.
        checkpoints: folder to save to and resume from, or None.
        device: where to train.

    Returns:
        The float32 pipeline, and the seconds spent in optimizer steps.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = make_tokenizer()
    pipe: Any = StableDiffusionPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=make_unet(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(device)
    for part in (pipe.vae, pipe.unet):
        part.to(memory_format=torch.channels_last)
    log.info("rendering %d images", recipe.images)
    pool = render_random(recipe.images, recipe.seed)
    wide = render_random(recipe.images // 4, recipe.seed + 1, digit_share=0.5, spread=2.0)
    seconds = fit_vae(pipe.vae.train(), pool, wide, recipe, Checkpoint(checkpoints, "vae", recipe))
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.train()
    seconds += fit_unet(pipe, pool, recipe, Checkpoint(checkpoints, "unet", recipe))
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.eval()
    return pipe, seconds


def save(pipe: Any, folder: Path) -> None:
    """Save the pipeline as float16 safetensors; the pipeline itself becomes float16.

    Without a `dtype`, diffusers loads its parts in float32 but transformers loads the text encoder in the type that its
    configuration names, so that file names float32: the pipeline then loads in one type, whatever the caller asks for.
    """
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script; the defaults are the sizes of the folder in this repository."""
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished pipeline")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.steps, help="steps of text encoder and UNet")
    parser.add_argument("--vae-steps", type=int, default=default.vae_steps)
    parser.add_argument("--images", type=int, default=default.images, help="images rendered for training")
    parser.add_argument("--checkpoint-dir", type=Path, default=None, help="save to and resume from this folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, measure and write the card."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    recipe = Recipe(seed=options.seed, images=options.images, vae_steps=options.vae_steps, steps=options.steps)
    pipe, seconds = train(recipe, options.checkpoint_dir, torch.device(options.device))
    save(pipe, options.out)
    log.info("saved %s after %.0f s of training", options.out, seconds)
    from benchmark.generators.tiny_sd_card import write_card

    write_card(options.out, asdict(recipe), seconds)


if __name__ == "__main__":
    main()
