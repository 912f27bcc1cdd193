"""Images per second of sampling and fine-tuning a generator as large as Stable Diffusion 1.5; JSON, one line a case.

The weights are random and made on the device: speed and memory depend on shapes alone. `--tiny` runs the same cases in
miniature on a CPU, to see that the script works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from benchmark.contract.generation import FineTuning
from benchmark.generators.adapters import Adapter, base_of, fresh_adapter
from benchmark.generators.finetune import Subject, fine_tune, native_size
from benchmark.generators.identity import GeneratorIdentity
from benchmark.generators.pipelines import TextToImage
from benchmark.training.device import describe_device, peak_device_memory, resolve_device

PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s of the data sheets; the first name that a card's own contains counts."""

GUIDANCE, REPEATS = 7.5, 2
ADAPTERS, RANK = 4, 16
PROMPTS = ("a photo of a dog", "a photo of a cat", "a portrait of a woman", "a portrait of a man")


@dataclass(frozen=True)
class Size:
    """A pipeline's shapes, and how long to run it."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    steps: int
    batches: tuple[int, ...]
    training_batch: int
    warm_up_steps: int
    training_steps: int


SD15 = Size(
    unet={
        "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
        "cross_attention_dim": 768, "attention_head_dim": 8,
    },
    vae={
        "sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    text={
        "hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    steps=20, batches=(1, 8, 16), training_batch=4, warm_up_steps=3, training_steps=10,
)  # fmt: skip
TINY = Size(
    unet={
        "sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "cross_attention_dim": 16,
        "attention_head_dim": 4, "norm_num_groups": 8, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    vae={
        "sample_size": 64, "block_out_channels": (8, 8, 8), "layers_per_block": 1, "latent_channels": 4,
        "norm_num_groups": 4, "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
    text={
        "hidden_size": 16, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    steps=2, batches=(1, 4), training_batch=2, warm_up_steps=1, training_steps=2,
)  # fmt: skip


def build(size: Size, device: torch.device, dtype: torch.dtype) -> TextToImage:
    """Return a generator of random weights, made where it is used and laid out as loaded ones are."""
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: k for k, token in enumerate(tokens)}, merges=[], model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(tokens), max_position_embeddings=77, hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **size.text,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        parts = {
            "unet": UNet2DConditionModel(**size.unet).to(dtype).eval(),
            "vae": AutoencoderKL(**size.vae).to(dtype).eval(),
            "text_encoder": CLIPTextModel(text).to(dtype).eval(),
        }
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipe: Any = StableDiffusionPipeline(
        **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    precision = "bfloat16" if dtype == torch.bfloat16 else "float32"
    return TextToImage(pipe, GeneratorIdentity("local", "random", None, "0" * 64, ""), precision=precision)


def unet_flops(size: Size, batch: int) -> int:
    """Return the floating-point operations of one forward pass of the UNet, counted on shapes alone."""
    config, dtype = size.unet, torch.bfloat16
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet = UNet2DConditionModel(**config).to(dtype)
        latents = torch.empty(batch, 4, config["sample_size"], config["sample_size"], dtype=dtype)
        unet(latents, torch.tensor(1), torch.empty(batch, 77, config["cross_attention_dim"], dtype=dtype))
    return int(counter.get_total_flops())


class Bench:
    """One generator on one device, measured case by case."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device = size, device
        self.card = describe_device(device)[0]
        self.peak = next((peak for name, peak in PEAKS.items() if name in self.card), None)
        self.generator = build(size, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.failed = False

    def case(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure one case and print its line; a failure is a line too, so that it costs no other case."""
        try:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self.device)
            found = measure() | {"peak_memory_bytes": peak_device_memory(self.device)}
        except Exception as error:
            self.failed, found = True, {"error": f"{type(error).__name__}: {error}"[:500]}
            traceback.print_exc()
        line = {"case": name, "card": self.card, "torch": torch.__version__, **found}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def fraction_of_peak(self, flops: float, seconds: float) -> float | None:
        return flops / seconds / self.peak if self.peak else None

    # --- sampling ----------------------------------------------------------------------------------------------------

    def sampling(self, batch: int, adapters: list[str] | None = None) -> dict[str, Any]:
        """Time `sample`, from prompts to pixels; the first call is apart, since it prepares and perhaps compiles."""
        pixels = native_size(self.generator.pipe)
        prompts = [PROMPTS[k % len(PROMPTS)] for k in range(batch)]

        def seconds() -> float:
            start = time.perf_counter()
            self.generator.sample(
                prompts, [""] * batch, range(batch), steps=self.size.steps, guidance=GUIDANCE, height=pixels,
                width=pixels, batch_size=batch, adapters=adapters,
            )  # fmt: skip
            return time.perf_counter() - start

        first = seconds()
        later = min(seconds() for _ in range(REPEATS))
        flops = self.size.steps * unet_flops(self.size, 2 * batch)
        return {
            "batch": batch, "pixels": pixels, "steps": self.size.steps, "images_per_second": batch / later,
            "seconds": later, "first_call_seconds": first, "unet_flops": flops,
            "unet_share_of_peak": self.fraction_of_peak(flops, later),
        }  # fmt: skip

    def with_adapters(self, batch: int) -> dict[str, Any]:
        """The same with several adapters mixed in the batch, read from files in the first call."""
        unet, base = self.generator.pipe.unet, base_of(self.generator.identity.as_record())
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(ADAPTERS):
                fresh, random = fresh_adapter(unet, RANK, base, seed), torch.Generator().manual_seed(seed)
                weights = {
                    name: weight if weight.any() else 0.01 * torch.randn(weight.shape, generator=random)
                    for name, weight in fresh.weights.items()
                }
                adapter = Adapter(weights, base)
                self.generator.adapters[adapter.sha256] = adapter.save(Path(folder))
            names = list(self.generator.adapters)
            return self.sampling(batch, [names[k % len(names)] for k in range(batch)]) | {"adapters": ADAPTERS}

    def channels_last(self, batch: int) -> dict[str, Any]:
        """The same with the UNet's weights in channels-last layout."""
        unet = self.generator.pipe.unet
        unet.to(memory_format=torch.channels_last)
        try:
            return self.sampling(batch)
        finally:
            unet.to(memory_format=torch.contiguous_format)

    def compiled(self, batch: int) -> dict[str, Any]:
        """The same with a compiled UNet; it has no adapters, whose hooks a compiled module does not look at."""
        unet = self.generator.pipe.unet
        self.generator.pipe.unet = torch.compile(unet)
        try:
            found = self.sampling(batch)
        finally:
            self.generator.pipe.unet = unet
        return found | {"compile_seconds": found["first_call_seconds"] - found["seconds"]}

    # --- fine-tuning -------------------------------------------------------------------------------------------------

    def fine_tuning(self) -> dict[str, Any]:
        """Time the optimiser steps of several adapters; what goes before, encoding above all, is apart."""
        batch, warm_up, steps = self.size.training_batch, self.size.warm_up_steps, self.size.training_steps
        tuning = FineTuning(steps=warm_up + steps, batch_size=batch, learning_rate=1e-4, rank=RANK)
        marks: list[float] = []
        done = 0

        def progress(n: int) -> None:
            nonlocal done
            done += n
            if done in (ADAPTERS * warm_up, ADAPTERS * tuning.steps):
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                marks.append(time.perf_counter())

        start = time.perf_counter()
        subjects = list(self.subjects(16))
        precision = "bfloat16" if self.device.type == "cuda" else "float32"
        fine_tune(self.generator, subjects, tuning, seed=0, precision=precision, progress=progress)
        before, after = marks
        images, seconds = ADAPTERS * batch * steps, after - before
        # The base is frozen: backward costs one more pass, for activations alone, and recomputing them another.
        passes = unet_flops(self.size, ADAPTERS * batch) * steps
        executed = 3 if native_size(self.generator.pipe) >= 256 else 2
        return {
            "adapters": ADAPTERS, "rank": RANK, "batch": batch, "steps": steps, "images_per_second": images / seconds,
            "seconds": seconds, "seconds_before": before - start, "unet_flops": 2 * passes,
            "unet_share_of_peak": self.fraction_of_peak(2 * passes, seconds),
            "unet_share_of_peak_with_recomputation": self.fraction_of_peak(executed * passes, seconds),
        }  # fmt: skip

    def subjects(self, images: int) -> Iterator[Subject]:
        pixels, rng = native_size(self.generator.pipe), np.random.default_rng(0)
        for k, prompt in enumerate(PROMPTS[:ADAPTERS]):
            own = rng.integers(0, 256, (images, pixels, pixels, 3), dtype=np.uint8)
            yield Subject(f"group {k}-0", own, (prompt,) * images, own[:0], (), f"{k:064x}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="the same cases in miniature, for a CPU")
    parser.add_argument("--device", default=None, help="default: cuda, or cpu with --tiny")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()  # says of every cast what the sizes here do not need
    device = resolve_device(options.device or ("cpu" if options.tiny else "cuda"))
    bench = Bench(TINY if options.tiny else SD15, device)
    largest = bench.size.batches[-1]
    for batch in bench.size.batches:
        bench.case("sampling", lambda batch=batch: bench.sampling(batch))
    bench.case("fine-tuning", bench.fine_tuning)
    bench.case("sampling, adapters mixed", lambda: bench.with_adapters(largest))
    bench.case("sampling, unet channels-last", lambda: bench.channels_last(largest))
    bench.case("sampling, unet compiled", lambda: bench.compiled(largest))
    sys.exit(bench.failed)


if __name__ == "__main__":
    main()
