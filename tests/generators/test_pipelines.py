"""A loaded pipeline makes the same image for the same seed, whatever else is in the batch, adapters included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.errors import DamagedFile, GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.generators.adapters import Adapter, base_of, fresh_adapter
from benchmark.generators.identity import GeneratorIdentity, resolve_generator
from benchmark.generators.pipelines import TextToImage, check_tunable, load_pipeline, resize_images, to_levels

PROMPTS = ["a red seven", "a blue one", "a green letter", "a red seven", "a pink four", "a white nine"]
SEEDS = [11, 12, 13, 14, 15, 2**63 - 1]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def sample(generator: TextToImage, chosen: list[int], *, batch_size: int = 4, **options: Any) -> NDArray[np.uint8]:
    return generator.sample(
        [PROMPTS[k] for k in chosen],
        [options.pop("negative", "")] * len(chosen),
        [SEEDS[k] for k in chosen],
        batch_size=batch_size,
        **{"steps": 2, "guidance": 3.0, "height": 32, "width": 32, **options},
    )


@pytest.fixture(scope="module")
def six(small_generator: TextToImage) -> NDArray[np.uint8]:
    return sample(small_generator, [0, 1, 2, 3, 4, 5])


@pytest.fixture
def copy(small_sd: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_sd, tmp_path / "copy")


def test_images_are_uint8_and_differ_by_seed(six: NDArray[np.uint8]) -> None:
    assert six.shape == (6, 32, 32, 3)
    assert six.dtype == np.uint8
    assert (six[0] != six[3]).any()  # one prompt, two seeds


def test_an_image_depends_neither_on_order_nor_on_neighbours(
    small_generator: TextToImage, six: NDArray[np.uint8]
) -> None:
    for chosen in ([5, 4, 3, 2, 1, 0], [3], [2, 0, 2], [4, 1, 0, 5, 3]):
        np.testing.assert_array_equal(sample(small_generator, chosen), six[chosen])


def test_another_batch_size_moves_at_most_one_level(small_generator: TextToImage, six: NDArray[np.uint8]) -> None:
    for batch_size in (1, 3):
        other = sample(small_generator, [0, 1, 2, 3, 4, 5], batch_size=batch_size)
        assert np.abs(other.astype(int) - six).max() <= 1


def test_a_prompt_encoded_alone_and_reused_gives_what_the_pipeline_itself_gives(
    small_generator: TextToImage, six: NDArray[np.uint8]
) -> None:
    result = small_generator.pipe(
        PROMPTS[:4],
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS[:4]],
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="np",
    )
    assert np.abs(to_levels(result.images).astype(int) - six[:4]).max() <= 1


def test_prompt_negative_prompt_guidance_and_steps_matter(small_generator: TextToImage, six: NDArray[np.uint8]) -> None:
    for options in ({"negative": "a blue one"}, {"guidance": 1.0}, {"steps": 3}):
        assert (sample(small_generator, [0], **options)[0] != six[0]).any()


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler"])
def test_the_scheduler_can_be_replaced(small_sd: Path, scheduler: str) -> None:
    generator = TextToImage.load(resolve_generator(str(small_sd), offline=True), device="cpu", scheduler=scheduler)
    assert type(generator.pipe.scheduler).__name__ == scheduler
    assert generator.pipe.scheduler.config.beta_schedule == "scaled_linear"
    assert sample(generator, [0]).shape == (1, 32, 32, 3)


def test_the_conditions_are_those_of_a_recipe(small_generator: TextToImage) -> None:
    conditions = small_generator.conditions()
    assert conditions["generator"]["name"] == "small-sd"
    assert conditions["scheduler"] == "native"
    assert conditions["device_kind"] == "cpu"
    assert not small_generator.has_safety_checker


def test_unknown_names_are_refused(small_sd: Path) -> None:
    identity = resolve_generator(str(small_sd), offline=True)
    with pytest.raises(UnknownName, match="did you mean 'DDIMScheduler'"):
        TextToImage.load(identity, device="cpu", scheduler="DDIM")
    with pytest.raises(UnknownName, match="unknown precision 'float16'; did you mean"):
        TextToImage.load(identity, device="cpu", precision="float16")
    with pytest.raises(InvalidValue, match="not a device"):
        TextToImage.load(identity, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_said_to_be_missing(small_sd: Path) -> None:
    with pytest.raises(NotAvailable, match="finds no CUDA device"):
        load_pipeline(resolve_generator(str(small_sd), offline=True), device="cuda", dtype=torch.float32)


def test_levels_are_rounded_half_up_and_clipped() -> None:
    values = np.array([-1, 0, 0.5 / 255, 0.49 / 255, 1.5 / 255, 1, 2], dtype=np.float32)
    assert to_levels(values).tolist() == [0, 0, 1, 0, 2, 255, 255]


def test_images_of_another_size_are_resized_by_the_named_filter(
    small_generator: TextToImage, six: NDArray[np.uint8]
) -> None:
    small = sample(small_generator, [0, 1], height=16, width=16, resize="box")
    means = six[:2].reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - means).max() <= 1  # Pillow rounds after each of its two passes
    with pytest.raises(UnknownName, match="unknown resize filter 'cubic'"):
        resize_images(six, 16, 16, "cubic")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_with_prompt_and_seed(copy: Path, value: float) -> None:
    generator = TextToImage.load(resolve_generator(str(copy), offline=True), device="cpu")
    with torch.no_grad():
        generator.pipe.vae.decoder.conv_out.bias[0] = value
    with pytest.raises(GeneratorError, match=r"NaN or infinite values for the prompt 'a blue one' with seed 12"):
        sample(generator, [1, 0])


def test_too_little_memory_suggests_a_smaller_batch(copy: Path) -> None:
    generator = TextToImage.load(resolve_generator(str(copy), offline=True), device="cpu")
    # A real failure of the allocator, inside a real forward pass.
    generator.pipe.unet.register_forward_pre_hook(lambda *_: torch.empty(2**60, dtype=torch.uint8) and None)
    with pytest.raises(GeneratorError, match=r"not enough memory for 4 images at once .* try a batch size of 2"):
        sample(generator, [0])


def test_lengths_must_agree(small_generator: TextToImage) -> None:
    with pytest.raises(InvalidValue, match="2 prompts, 1 negative ones and 2 seeds"):
        small_generator.sample(PROMPTS[:2], [""], SEEDS[:2], steps=1, guidance=1.0, height=32, width=32, batch_size=2)


def drop_a_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    weights.pop(sorted(weights)[3])
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(("part", "file"), [("unet", WEIGHTS), ("text_encoder", "model.safetensors")])
def test_missing_weights_are_never_filled_with_random_ones(copy: Path, part: str, file: str) -> None:
    drop_a_tensor(copy / part / file)
    with pytest.raises(GeneratorError, match=r"weights.* are missing"):
        load_pipeline(resolve_generator(str(copy), offline=True), device="cpu", dtype=torch.float32)


def test_damaged_weights_are_one_sentence_without_the_path(copy: Path) -> None:
    weights = copy / "unet" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GeneratorError, match="generator 'copy' cannot be loaded") as raised:
        load_pipeline(resolve_generator(str(copy), offline=True), device="cpu", dtype=torch.float32)
    assert str(copy) not in str(raised.value)


def test_a_class_without_text_to_image_is_refused_on_loading_too(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "DDPMPipeline"}))
    identity = GeneratorIdentity("local", "copy", None, "0" * 64, str(copy))
    with pytest.raises(GeneratorError, match="cannot be loaded"):
        load_pipeline(identity, device="cpu", dtype=torch.float32)


def random_adapter(generator: TextToImage, seed: int) -> Adapter:
    """An adapter that changes much."""
    base, random = base_of(generator.identity.as_record()), torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(generator.pipe.unet, 4, base, seed)
    return Adapter({name: torch.randn(w.shape, generator=random) / 3 for name, w in fresh.weights.items()}, base)


@pytest.fixture(scope="module")
def adapted(small_generator: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    """The small generator with three adapters at hand."""
    folder = tmp_path_factory.mktemp("adapters")
    files = {adapter.sha256: adapter.save(folder) for adapter in (random_adapter(small_generator, k) for k in range(3))}
    return TextToImage(small_generator.pipe, small_generator.identity, adapters=files)


def test_each_image_is_the_one_that_diffusers_makes_with_its_adapter(
    adapted: TextToImage, small_sd: Path, six: NDArray[np.uint8]
) -> None:
    names = list(adapted.adapters)
    mixed = sample(adapted, [0, 1, 2, 3], adapters=[names[2], None, names[0], names[1]])
    theirs = TextToImage.load(resolve_generator(str(small_sd), offline=True), device="cpu")
    for image, name in enumerate((names[2], None, names[0], names[1])):
        if name is not None:
            file = adapted.adapters[name]
            theirs.pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        alone = sample(theirs, [0, 1, 2, 3])
        theirs.pipe.unload_lora_weights()
        assert np.abs(mixed[image].astype(int) - alone[image]).max() <= 1
        assert (mixed[image] == six[image]).all() == (name is None)


def test_an_adapted_image_depends_neither_on_order_nor_on_neighbours(adapted: TextToImage) -> None:
    a, b, c = adapted.adapters
    cycle = [a, b, None, c, a, None]
    images = sample(adapted, [0, 1, 2, 3, 4, 5], adapters=cycle)
    for chosen in ([5, 4, 3, 2, 1, 0], [3], [0, 4], [2, 5], [1, 0, 1, 3, 2]):
        np.testing.assert_array_equal(sample(adapted, chosen, adapters=[cycle[k] for k in chosen]), images[chosen])


def test_no_adapters_and_none_for_every_image_are_the_generator_as_it_is(
    adapted: TextToImage, six: NDArray[np.uint8]
) -> None:
    np.testing.assert_array_equal(sample(adapted, [0, 1, 2, 3, 4, 5]), six)
    np.testing.assert_array_equal(sample(adapted, [0, 1, 2, 3, 4, 5], adapters=[None] * 6), six)


def test_adapters_work_without_guidance_and_with_a_negative_prompt(adapted: TextToImage) -> None:
    a = next(iter(adapted.adapters))
    for options in ({"guidance": 1.0}, {"negative": "a blue one"}):
        images = sample(adapted, [0, 0], adapters=[a, None], **options)
        assert (images[0] != images[1]).any()
        np.testing.assert_array_equal(images[1], sample(adapted, [0], **options)[0])


def test_adapters_must_be_as_many_as_images(adapted: TextToImage) -> None:
    for n in (1, 3):
        with pytest.raises(InvalidValue, match=f"2 prompts and {n} adapters"):
            sample(adapted, [0, 1], adapters=[None] * n)


def test_an_adapter_that_is_not_there_is_said_to_be_missing(adapted: TextToImage, six: NDArray[np.uint8]) -> None:
    with pytest.raises(NotAvailable, match=r"adapter 111111111111… is not in the store; run the same command again"):
        sample(adapted, [0], adapters=["1" * 64])
    np.testing.assert_array_equal(sample(adapted, [0]), six[:1])


def test_an_adapter_of_another_generator_or_a_damaged_one_is_refused(
    small_generator: TextToImage, tmp_path: Path
) -> None:
    ours = random_adapter(small_generator, 0)
    other = Adapter(ours.weights, "other-sd@2222")
    file = other.save(tmp_path)
    generator = TextToImage(small_generator.pipe, small_generator.identity, adapters={other.sha256: file})
    with pytest.raises(GeneratorError, match="was fine-tuned for other-sd@2222, but the generator is small-sd@"):
        sample(generator, [0], adapters=[other.sha256])
    file.write_bytes(ours.save(tmp_path).read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=f"adapter {file.name} cannot be read"):
        sample(generator, [0], adapters=[other.sha256])


def test_a_failure_while_an_adapter_is_at_work_leaves_none_behind(copy: Path, tmp_path: Path) -> None:
    generator = TextToImage.load(resolve_generator(str(copy), offline=True), device="cpu")
    adapter = random_adapter(generator, 0)
    generator.adapters[adapter.sha256] = adapter.save(tmp_path)
    before = sample(generator, [0])
    calls: list[int] = []

    def stop_at_the_second_step(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    handle = generator.pipe.unet.register_forward_pre_hook(stop_at_the_second_step)
    with pytest.raises(KeyboardInterrupt):
        sample(generator, [0], adapters=[adapter.sha256])
    handle.remove()
    np.testing.assert_array_equal(sample(generator, [0]), before)


@pytest.fixture
def small_sdxl(small_generator: TextToImage) -> TextToImage:
    """A StableDiffusionXLPipeline of random weights: two text encoders, and times and sizes as conditions."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    pipe = small_generator.pipe
    second = CLIPTextModelWithProjection(pipe.text_encoder.config).eval()
    unet = UNet2DConditionModel.from_config(
        {
            **pipe.unet.config,
            "cross_attention_dim": 32,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        }
    ).eval()
    parts = {"text_encoder_2": second, "tokenizer_2": pipe.tokenizer, "unet": unet}
    xl = StableDiffusionXLPipeline(
        vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, scheduler=pipe.scheduler, **parts
    )
    xl.set_progress_bar_config(disable=True)
    return TextToImage(xl, GeneratorIdentity("local", "small-sdxl", None, "0" * 64, "small-sdxl"))


def test_pipelines_with_other_conditions_sample_but_are_not_fine_tuned(
    small_sdxl: TextToImage, small_generator: TextToImage
) -> None:
    check_tunable(small_generator.pipe, "small-sd")
    assert sample(small_sdxl, [0, 1]).shape == (2, 32, 32, 3)
    refused = r"generator 'small-sdxl' is a StableDiffusionXLPipeline; fine-tuning works on a StableDiffusionPipeline"
    with pytest.raises(GeneratorError, match=refused):
        check_tunable(small_sdxl.pipe, "small-sdxl")
    with pytest.raises(GeneratorError, match=refused):
        sample(small_sdxl, [0], adapters=["1" * 64])
