"""tiny-sd as committed: a small float16 Stable Diffusion folder that loads offline and draws what its prompt says."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from benchmark.errors import InvalidValue
from benchmark.generators import make_tiny_sd, tiny_sd_quality
from benchmark.generators.tiny_sd_parts import make_tokenizer
from benchmark.generators.tiny_sd_quality import Rate
from benchmark.generators.typeset import COLOURS, DIGIT_WORDS, PALETTE

FOLDER = Path(make_tiny_sd.__file__).parent / "tiny_sd"


def load(**options: Any) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model gains little from a second thread, and loses much where other processes use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return load()


def test_the_folder_is_small_and_holds_only_float16_safetensors() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]

    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}
    assert {path.parent.name for path in weights} == {"text_encoder", "unet", "vae"}
    for path in weights:
        with safe_open(path, framework="pt") as tensors:
            types = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert types == {"F16"}


def test_parts_are_one_precision_and_few_parameters(pipe: StableDiffusionPipeline) -> None:
    parts = (pipe.text_encoder, pipe.unet, pipe.vae)

    assert {part.dtype for part in parts} == {torch.float32}
    assert sum(p.numel() for part in parts for p in part.parameters()) <= 4_500_000
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_caption_words_are_whole_tokens_and_any_prompt_can_be_spelled(pipe: StableDiffusionPipeline) -> None:
    for word in (*COLOURS, *DIGIT_WORDS, "letter"):
        assert pipe.tokenizer.tokenize(word) == [f"{word}</w>"]

    assert pipe.tokenizer.tokenize("a sks red seven") == ["a</w>", "s", "k", "s</w>", "red</w>", "seven</w>"]
    assert pipe.tokenizer.unk_token_id not in pipe.tokenizer("Grüße, 漢字 & 42 🙂!", add_special_tokens=False).input_ids
    assert pipe.tokenizer.get_vocab() == make_tokenizer().get_vocab()


def test_a_long_or_foreign_prompt_is_cut_and_still_draws(pipe: StableDiffusionPipeline) -> None:
    prompts = ["a photograph of an elephant reading the newspaper in Osaka", "", "漢字 🙂"]

    images = tiny_sd_quality.sample(pipe, prompts, seed=0, steps=2)

    assert images.shape == (3, 32, 32, 3)


def test_images_are_finite_and_do_not_depend_on_their_batch(pipe: StableDiffusionPipeline) -> None:
    prompts = ["a red seven", "a blue two", "a green four"]

    together = tiny_sd_quality.sample(pipe, prompts, seed=1, steps=4)
    apart = tiny_sd_quality.sample(pipe, prompts, seed=1, steps=4, batch=1)

    assert together.shape == (3, 32, 32, 3)
    assert together.max() > 100
    assert np.abs(together.astype(int) - apart.astype(int)).max() <= 2


def test_ink_has_the_colour_of_the_prompt_on_black(pipe: StableDiffusionPipeline) -> None:
    prompts = [f"a {colour} {word}" for colour in COLOURS for word in ("three", "eight")]
    images = tiny_sd_quality.sample(pipe, prompts, seed=2).astype(float)

    ink = np.array([image[image.max(axis=2) > 0.8 * image.max()].mean(axis=0) for image in images])
    references = np.array(list(PALETTE.values()), dtype=float)
    nearest = np.linalg.norm(ink[:, None] - references[None], axis=2).argmin(axis=1)

    assert (nearest == np.repeat(np.arange(len(COLOURS)), 2)).mean() >= 0.9
    assert images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean() < 15


def test_the_vae_keeps_unit_latents(pipe: StableDiffusionPipeline) -> None:
    images = tiny_sd_quality.render_random(200, seed=9).pixels
    inputs = make_tiny_sd.as_model_input(images, torch.device("cpu"))

    with torch.no_grad():
        latents = pipe.vae.encode(inputs).latent_dist.mode() * pipe.vae.config.scaling_factor
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample

    assert 0.85 < latents.std().item() < 1.15
    assert (decoded - inputs).square().mean().item() < 0.02


def test_model_index_names_stock_classes_only() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())

    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["requires_safety_checker"] is False
    assert {library for library, _ in (v for v in index.values() if isinstance(v, list))} == {
        None,
        "diffusers",
        "transformers",
    }


def test_a_rate_has_a_wilson_interval() -> None:
    low, high = Rate(90, 100).interval

    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
    assert Rate(100, 100).interval[1] == pytest.approx(1.0)
    assert str(Rate(90, 100)) == "90.00 % (82.56 to 94.48, n = 100)"


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [make_tiny_sd.cosine_rate(step, 1000, 1e-3) for step in (0, 99, 550, 1000)]

    assert rates == pytest.approx([1e-5, 1e-3, 0.51e-3, 2e-5])
    assert math.isfinite(make_tiny_sd.cosine_rate(5, 5, 1e-3))


@pytest.mark.slow
def test_training_resumes_and_saves_a_pipeline_that_loads(tmp_path: Path) -> None:
    recipe = make_tiny_sd.Recipe(images=64, vae_steps=3, steps=3, vae_batch=8, batch=8)
    device = torch.device("cpu")

    first, _ = make_tiny_sd.train(recipe, tmp_path / "checkpoints", device)
    resumed, _ = make_tiny_sd.train(recipe, tmp_path / "checkpoints", device)
    make_tiny_sd.save(first, tmp_path / "model")

    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    assert {loaded.text_encoder.dtype, loaded.unet.dtype, loaded.vae.dtype} == {torch.float32}
    weights, again = loaded.unet.state_dict(), resumed.unet.state_dict()
    assert all(torch.allclose(weights[name], again[name], atol=1e-3) for name in weights)
    with pytest.raises(InvalidValue, match="another recipe"):
        make_tiny_sd.train(replace(recipe, steps=4), tmp_path / "checkpoints", device)


@pytest.mark.slow
def test_a_reader_of_typeset_digits_reads_what_the_prompt_asked_for(pipe: StableDiffusionPipeline) -> None:
    quality = tiny_sd_quality.measure(pipe, count=2_000)

    assert quality.rendered.digit.value >= 0.98
    assert quality.rendered.colour.value >= 0.99
    assert quality.drawn.digit.count == 2_000
    assert quality.drawn.digit.value >= 0.90
    assert quality.drawn.colour.value >= 0.95
