"""Fine-tuning, sampling and pools against what the libraries' own examples do, on the bundled generator, in one run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmark.contract.generation import FineTuning
from benchmark.generators.adapters import Adapter, Stack, base_of, fresh_adapter, lora_config
from benchmark.generators.finetune import Subject, fine_tune, native_size
from benchmark.generators.identity import TINY_SD, resolve_generator
from benchmark.generators.pipelines import TextToImage, to_levels
from benchmark.generators.pools import Pool
from benchmark.generators.recipe import PoolRecipe
from benchmark.records.store import Store
from benchmark.tasks.catalog import load_task

ROUNDS = 3
TUNING = FineTuning(steps=50, batch_size=8, learning_rate=1e-3, rank=8)
TOGETHER, UNET_STEPS = 16, 10
IMAGES_PER_GROUP, BATCH = 2, 64
POOL_IMAGES = 512
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes glibc give freed memory back, so that a peak is what is needed: else it varies by half from run to run."""

NO_IMAGES: NDArray[np.uint8] = np.empty((0, 32, 32, 3), dtype=np.uint8)

DIGITS = load_task("colorized-digits")
SAMPLING = DIGITS.card.task.generator
GROUPS = [(y, a) for y in range(10) for a in range(10)]


def load_generator() -> TextToImage:
    return TextToImage.load(resolve_generator(TINY_SD, offline=True), device="cpu")


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def say(benchmark: Any, what: str, **figures: float) -> None:
    """Keep figures with the benchmark's own, and print them."""
    benchmark.extra_info.update(figures)
    sys.stderr.write(f"{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()) + "\n")


# --- fine-tuning -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    """The ten populous groups of the biased training split."""
    rows = DIGITS.manifest("0.95", 0).splits["train"]
    images = np.asarray(DIGITS.images(rows))
    found = []
    for y in range(10):
        own = np.flatnonzero((rows.y == y) & (rows.a == y))
        prompts = (DIGITS.card.prompt(y, y),) * len(own)
        found.append(Subject(f"group {y}-{y}", images[own], prompts, NO_IMAGES, (), f"{y:064x}"))
    return found


def ours(generator: TextToImage, subjects: Sequence[Subject]) -> float:
    """Images a second of fine-tuning all subjects, encoding included."""
    generator.forget_prompts()
    start = time.perf_counter()
    fine_tune(generator, subjects, TUNING, seed=0, precision="float32")
    return len(subjects) * TUNING.steps * TUNING.batch_size / (time.perf_counter() - start)


class InstanceImages(Dataset):  # type: ignore[type-arg]
    """A folder of image files with one prompt; each is opened, transformed and tokenised when it is asked for."""

    def __init__(self, folder: Path, prompt: str, tokenizer: Any, size: int) -> None:
        self.files, self.prompt, self.tokenizer = sorted(folder.iterdir()), prompt, tokenizer
        self.transform = v2.Compose(
            [
                v2.Resize(size),
                v2.RandomCrop(size),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = ImageOps.exif_transpose(Image.open(self.files[index])).convert("RGB")
        tokens = self.tokenizer(
            self.prompt,
            truncation=True,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return self.transform(image), tokens.input_ids[0]


def example(pipe: Any, folders: Sequence[Path], prompts: Sequence[str]) -> float:
    """Images a second of one training after another in the manner of diffusers' `train_dreambooth_lora.py`.

    As there: files are read again whenever they are drawn, and VAE and text encoder run in every step.
    """
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        part.requires_grad_(False)
    start, seen = time.perf_counter(), 0
    for folder, prompt in zip(folders, prompts, strict=True):
        seen += example_of_one(pipe, InstanceImages(folder, prompt, pipe.tokenizer, native_size(pipe)))
    return seen / (time.perf_counter() - start)


def example_of_one(pipe: Any, images: InstanceImages) -> int:
    unet, noising = pipe.unet, DDPMScheduler.from_config(pipe.scheduler.config)
    unet.add_adapter(lora_config(TUNING.rank), "one")
    unet.train()
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=TUNING.learning_rate, weight_decay=0.01)
    loader = DataLoader(images, batch_size=TUNING.batch_size, shuffle=True)
    step, seen = 0, 0
    while step < TUNING.steps:
        for pixels, tokens in loader:
            latents = pipe.vae.encode(pixels).latent_dist.sample() * pipe.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            times = torch.randint(0, noising.config.num_train_timesteps, (len(pixels),))
            noisy = noising.add_noise(latents, noise, times)
            predicted = unet(noisy, times, pipe.text_encoder(tokens)[0]).sample
            loss = functional.mse_loss(predicted, noising.get_velocity(latents, noise, times))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            loss.item()
            step, seen = step + 1, seen + len(pixels)
            if step == TUNING.steps:
                break
    unet.delete_adapters("one")
    return seen


def as_files(subjects: Sequence[Subject], folder: Path) -> list[Path]:
    """Write each subject's images into a folder of its own, as the example wants them."""
    folders = [folder / str(k) for k in range(len(subjects))]
    for subject, own in zip(subjects, folders, strict=True):
        own.mkdir()
        for k, image in enumerate(subject.images):
            Image.fromarray(image).save(own / f"{k:04}.png")
    return folders


def test_fine_tuning_throughput(benchmark, subjects: list[Subject], tmp_path: Path) -> None:
    folders, prompts = as_files(subjects, tmp_path), [subject.prompts[0] for subject in subjects]
    generator, pipe = load_generator(), load_generator().pipe
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    found: list[tuple[float, float, float]] = []
    ours(generator, subjects[:1])
    example(pipe, folders[:1], prompts[:1])

    def measure() -> None:
        # Alternating, so that a busy neighbour slows all.
        together, conventional = ours(generator, subjects), example(pipe, folders, prompts)
        found.append((together, conventional, ours(generator, subjects[:1])))

    benchmark.pedantic(measure, rounds=ROUNDS)
    ratio = median([together / conventional for together, conventional, _ in found])
    say(
        benchmark,
        f"fine-tuning {len(subjects)} adapters, batch {TUNING.batch_size}, {TUNING.steps} steps, images/s",
        ours=median([each[0] for each in found]),
        example=median([each[1] for each in found]),
        ours_one_alone=median([each[2] for each in found]),
        ratio=ratio,
    )
    assert ratio >= 2


def unet_steps(unet: nn.Module, parameters: list[torch.Tensor], applied: Callable[[], Any]) -> float:
    """Images a second of optimiser steps on noise: nothing but the UNet and the adapters in its forward pass."""
    n = TOGETHER * TUNING.batch_size
    config: Any = unet.config
    latents = torch.randn(n, config.in_channels, config.sample_size, config.sample_size)
    text, times = torch.randn(n, 16, config.cross_attention_dim), torch.randint(0, 1000, (n,))
    optimiser = torch.optim.AdamW(parameters, lr=TUNING.learning_rate, fused=True)
    start = time.perf_counter()
    for _ in range(UNET_STEPS):
        with applied():
            functional.mse_loss(unet(latents, times, text).sample, latents).backward()
        optimiser.step()
        optimiser.zero_grad()
    return UNET_STEPS * n / (time.perf_counter() - start)


@contextlib.contextmanager
def mixed_by_peft(unet: nn.Module, names: list[str]) -> Iterator[None]:
    """Let peft choose each image's adapter; for inference it does so itself, in training it has to be told below."""
    hook = functools.partial(_with_names, names)
    layers = [module for module in unet.modules() if isinstance(module, LoraLayer)]
    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_names(names: list[str], _layer: nn.Module, inputs: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    return inputs, {**options, "adapter_names": names}


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_stacked_adapters_against_the_mixed_batch_of_peft(benchmark) -> None:
    """Why the forward pass over several adapters is ours."""
    unet, wrapped = load_generator().pipe.unet.requires_grad_(False), load_generator().pipe.unet
    stack = Stack(
        unet, [fresh_adapter(unet, TUNING.rank, "base", k) for k in range(TOGETHER)], device=torch.device("cpu")
    )
    ours_weights = [weight.requires_grad_() for weight in stack.weights.values()]
    choice = torch.arange(TOGETHER).repeat_interleave(TUNING.batch_size)
    for k in range(TOGETHER):
        wrapped.add_adapter(lora_config(TUNING.rank), f"adapter-{k}")
    wrapped.requires_grad_(False).eval()
    weights = [weight.requires_grad_() for name, weight in wrapped.named_parameters() if "lora_" in name]
    names = [f"adapter-{k}" for k in choice.tolist()]
    found: list[tuple[float, float]] = []

    def measure() -> None:
        found.append(
            (
                unet_steps(unet, ours_weights, lambda: stack.applied(choice)),
                unet_steps(wrapped, weights, lambda: mixed_by_peft(wrapped, names)),
            )
        )

    benchmark.pedantic(measure, rounds=ROUNDS, warmup_rounds=1)
    assert sum(weight.numel() for weight in weights) == sum(weight.numel() for weight in ours_weights)
    ratio = median([stacked / mixed for stacked, mixed in found[1:]])
    say(
        benchmark,
        f"UNet steps on {TOGETHER} adapters × {TUNING.batch_size}, images/s",
        stacked=median([each[0] for each in found[1:]]),
        mixed_by_peft=median([each[1] for each in found[1:]]),
        ratio=ratio,
    )
    assert ratio > 1


# --- sampling --------------------------------------------------------------------------------------------------------


def some_adapters(generator: TextToImage, n: int, folder: Path) -> dict[str, Path]:
    """Write adapters of random weights, large enough to show; as good as trained ones for time and memory."""
    base, files = base_of(generator.identity.as_record()), {}
    for seed in range(n):
        fresh, random = fresh_adapter(generator.pipe.unet, TUNING.rank, base, seed), torch.Generator().manual_seed(seed)
        weights = {
            name: weight if weight.any() else 0.02 * torch.randn(weight.shape, generator=random)
            for name, weight in fresh.weights.items()
        }
        adapter = Adapter(weights, base)
        files[adapter.sha256] = adapter.save(folder)
    return files


def prompts_and_seeds() -> tuple[list[str], list[int]]:
    """What to sample: some images of each group, group by group."""
    prompts = [DIGITS.card.prompt(y, a) for y, a in GROUPS for _ in range(IMAGES_PER_GROUP)]
    return prompts, list(range(len(prompts)))


def mixed(generator: TextToImage, adapters: Sequence[str] | None) -> NDArray[np.uint8]:
    """Sample everything in batches that mix groups, as pools do."""
    prompts, seeds = prompts_and_seeds()
    size = native_size(generator.pipe)
    return generator.sample(
        prompts, [""] * len(prompts), seeds, steps=SAMPLING.steps, guidance=SAMPLING.guidance, height=size,
        width=size, batch_size=BATCH, adapters=adapters,
    )  # fmt: skip


@torch.inference_mode()
def group_by_group(pipe: Any, adapters: Sequence[str] | None, files: dict[str, Path]) -> NDArray[np.uint8]:
    """Sample by one call of the pipeline per group; adapters are loaded once and switched when another is needed."""
    prompts, seeds = prompts_and_seeds()
    images, active = [], None
    for name, file in files.items() if adapters else ():
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    for start in range(0, len(prompts), IMAGES_PER_GROUP):
        own = slice(start, start + IMAGES_PER_GROUP)
        if adapters and adapters[start] != active:
            active = adapters[start]
            pipe.set_adapters(active)
        result = pipe(
            prompt=prompts[own],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[own]],
            num_inference_steps=SAMPLING.steps,
            guidance_scale=SAMPLING.guidance,
            output_type="np",
        )
        images.append(to_levels(result.images))
    if adapters:
        pipe.unload_lora_weights()
    return np.concatenate(images)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("adapters", [0, 10])
def test_sampling_many_groups(benchmark, tmp_path: Path, adapters: int) -> None:
    """Time of the first call: prompts are encoded and adapters are read in it, on both sides."""
    loaded, pipe = load_generator(), load_generator().pipe
    files = some_adapters(loaded, adapters, tmp_path)
    names = list(files)
    chosen = [names[y] for y, _ in GROUPS for _ in range(IMAGES_PER_GROUP)] if adapters else None
    seconds: list[tuple[float, float]] = []
    images: list[NDArray[np.uint8]] = []

    def measure() -> None:
        images.clear()
        start = time.perf_counter()
        images.append(mixed(TextToImage(loaded.pipe, loaded.identity, adapters=files), chosen))
        between = time.perf_counter()
        images.append(group_by_group(pipe, chosen, files))
        seconds.append((between - start, time.perf_counter() - between))

    benchmark.pedantic(measure, rounds=ROUNDS, warmup_rounds=1)
    ratio = median([apart / together for together, apart in seconds[1:]])
    distance = np.abs(images[0].astype(int) - images[1])
    say(
        benchmark,
        f"sampling {len(GROUPS)} groups × {IMAGES_PER_GROUP} with {adapters} adapters, images/s",
        mixed=median([len(images[0]) / each[0] for each in seconds[1:]]),
        group_by_group=median([len(images[0]) / each[1] for each in seconds[1:]]),
        ratio=ratio,
        mean_distance_in_levels=float(distance.mean()),
    )
    # The same images from the same seeds, but for the last bits, which depend on the shape of a batch.
    assert distance.mean() < 0.1
    assert ratio >= 1.5


def own_memory() -> int:
    """Bytes of this process alone: the share of library files that is resident comes and goes as the system likes."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


def sampling_growth(folder: Path, adapters: int) -> int:
    """Bytes by which this process grows at its peak while it samples with so many adapters."""
    generator, stop = load_generator(), threading.Event()
    generator.adapters = {file.stem: file for file in sorted(folder.glob("*.safetensors"))[:adapters]}
    names = list(generator.adapters)
    seen = [own_memory()]

    def watch() -> None:
        while not stop.wait(0.002):
            seen.append(own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        mixed(generator, [names[k % len(names)] for k in range(len(GROUPS) * IMAGES_PER_GROUP)])
    finally:
        stop.set()
        watcher.join()
    return max(seen) - seen[0]


def test_memory_of_sampling_with_many_adapters(benchmark, tmp_path: Path) -> None:
    some_adapters(load_generator(), 10, tmp_path)
    growth: dict[int, int] = {}

    def measure() -> None:
        for adapters in (1, 10):
            command = [sys.executable, __file__, str(tmp_path), str(adapters)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | FREED_AT_ONCE)
            growth[adapters] = int(done.stdout)

    benchmark.pedantic(measure, rounds=1)
    one, ten = growth[1], growth[10]
    say(benchmark, "growth while sampling, MiB", one=one / 2**20, ten=ten / 2**20, ratio=ten / one)
    assert ten <= 1.2 * one


# --- pools -----------------------------------------------------------------------------------------------------------


def test_share_of_a_pool_outside_of_the_pipeline(benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing, hashing, rounding and reading back are to be small beside the diffusion itself."""
    generator, inside = load_generator(), [0.0]
    call = StableDiffusionPipeline.__call__

    @functools.wraps(call)
    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            inside[0] += time.perf_counter() - start

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", timed)
    groups = GROUPS[:64]
    recipe = PoolRecipe(
        task="colorized-digits@1", prompts={(y, a): DIGITS.card.prompt(y, a) for y, a in groups}, negative_prompt="",
        steps=SAMPLING.steps, guidance=SAMPLING.guidance, image_size=32, batch_size=BATCH, **generator.conditions(),
    )  # fmt: skip
    shares, rates = [], []

    def generate(folder: Path, images: int) -> None:
        counts = dict.fromkeys(groups, images // len(groups))
        pool = Pool(Store(folder), recipe)
        inside[0], start = 0.0, time.perf_counter()
        pool.ensure(counts, lambda: generator)
        assert len(pool.read(counts)) == images
        seconds = time.perf_counter() - start
        shares.append(1 - inside[0] / seconds)
        rates.append(images / seconds)

    generate(tmp_path / "first", len(groups))  # imports what shards are written with
    rounds = iter(range(ROUNDS))
    benchmark.pedantic(lambda: generate(tmp_path / str(next(rounds)), POOL_IMAGES), rounds=ROUNDS)
    share, rate = median(shares[1:]), median(rates[1:])
    say(benchmark, f"pool of {POOL_IMAGES} images", images_per_second=rate, share_outside_of_the_pipeline=share)
    assert share <= 0.1


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "cold_bound", "warm_bound"),
    [("lora", 360, 60), ("dreambooth", 360, 60), ("clustered-dreambooth", 600, 60)],
)
def test_methods_with_fine_tuning(benchmark, tmp_path: Path, method: str, cold_bound: float, warm_bound: float) -> None:
    """Cold: nothing is there. Warm: adapters, pools and trained stages are in the store, but no result."""
    seconds: list[float] = []

    def evaluate(results: str) -> None:
        start = time.perf_counter()
        subprocess.run(
            [
                Path(sys.executable).parent / "genbias-bench", "evaluate", "--method", method, "--device", "cpu",
                "--results-dir", str(tmp_path / results), "--store", str(tmp_path / "store"),
            ],
            capture_output=True, check=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)

    def measure() -> None:
        evaluate("cold")
        evaluate("warm")

    benchmark.pedantic(measure, rounds=1)
    cold, warm = seconds
    say(benchmark, f"{method}, seconds", cold=cold, warm=warm)
    assert cold <= cold_bound
    assert warm <= warm_bound


if __name__ == "__main__":
    sys.stdout.write(json.dumps(sampling_growth(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
