"""Adapters trained side by side are those trained alone, by the very steps that peft would take, through any stop."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from torch.nn import functional

from benchmark.contract.generation import FineTuning
from benchmark.errors import GeneratorError, StoreError, TrainingDiverged
from benchmark.generators import finetune
from benchmark.generators.adapters import Adapter, Stack, base_of, fresh_adapter
from benchmark.generators.finetune import Subject, fine_tune, native_size, subjects_at_once
from benchmark.generators.identity import resolve_generator
from benchmark.generators.pipelines import TextToImage
from benchmark.records.canonical import derive_seed
from benchmark.training.backbones import state_digest

TUNING = FineTuning(steps=3, batch_size=3, learning_rate=1e-2, rank=4)
SAME = 1e-5
"""A thousandth of one step of the optimiser. Adam divides by gradients, so last bits show where those are near zero."""

NO_IMAGES: NDArray[np.uint8] = np.empty((0, 32, 32, 3), dtype=np.uint8)


def some_images(n: int, seed: int) -> NDArray[np.uint8]:
    """Images of a few large patches, so that they survive the encoder."""
    patches = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2)


def subject(seed: int, n: int = 5, *, prompt: str = "a red one", prior: int = 0) -> Subject:
    return Subject(
        f"group {seed}-0",
        some_images(n, seed),
        (prompt,) * n,
        some_images(prior, 100 + seed) if prior else NO_IMAGES,
        ("a blue two",) * prior,
        f"{seed:064x}",
    )


def tune(
    generator: TextToImage, subjects: Sequence[Subject], tuning: FineTuning = TUNING, **options: Any
) -> list[Adapter]:
    return fine_tune(generator, subjects, tuning, **{"seed": 0, "precision": "float32", **options})


def addresses(adapters: Sequence[Adapter]) -> list[str]:
    return [adapter.sha256 for adapter in adapters]


def distance(one: Adapter, other: Adapter) -> float:
    """Root mean square of what lies between the weights of two adapters."""
    assert set(one.weights) == set(other.weights)
    return float(
        torch.cat([(one.weights[name] - other.weights[name]).flatten() for name in one.weights]).square().mean().sqrt()
    )


def load(folder: Path, **options: Any) -> TextToImage:
    return TextToImage.load(resolve_generator(str(folder), offline=True), device="cpu", **options)


@pytest.fixture
def own(small_sd: Path) -> TextToImage:
    """A small generator that the test may change."""
    return load(small_sd)


@pytest.fixture
def exact(own: TextToImage) -> TextToImage:
    """A small generator whose encoder is sure of itself: latents are its means."""
    with torch.no_grad():
        own.pipe.vae.quant_conv.weight[4:] = 0
        own.pipe.vae.quant_conv.bias[4:] = -60
    return own


@torch.no_grad()
def latents_of(generator: TextToImage, images: NDArray[np.uint8]) -> torch.Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return generator.pipe.vae.encode(pixels).latent_dist.mean * generator.pipe.vae.config.scaling_factor


@contextlib.contextmanager
def batches(module: nn.Module) -> Iterator[list[int]]:
    """The size of each batch that goes through a module."""
    sizes: list[int] = []
    handle = module.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    try:
        yield sizes
    finally:
        handle.remove()


@dataclass
class Step:
    """What the UNet got and gave in one step, and the gradient of the loss."""

    noisy: torch.Tensor
    times: torch.Tensor
    text: torch.Tensor
    predicted: torch.Tensor
    gradient: torch.Tensor | None = None

    def target(self, batch_size: int, weight: float = 1.0) -> torch.Tensor:
        """What the prediction was compared with, from the gradient of a mean squared error."""
        assert self.gradient is not None
        return self.predicted - self.gradient * self.predicted[0].numel() * batch_size / (2 * weight)


@contextlib.contextmanager
def steps_of(unet: nn.Module) -> Iterator[list[Step]]:
    seen: list[Step] = []

    def watch(_module: nn.Module, inputs: Any, output: Any) -> None:
        step = Step(*inputs, output.sample.detach())
        seen.append(step)
        output.sample.register_hook(lambda gradient: setattr(step, "gradient", gradient))

    handle = unet.register_forward_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def original(generator: TextToImage, step: Step, target: torch.Tensor) -> torch.Tensor:
    """The clean latents that diffusers' own formula finds when a prediction is the target."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(generator.pipe.scheduler.config, clip_sample=False)
    random = torch.Generator().manual_seed(0)
    parts = zip(target, step.times, step.noisy, strict=True)
    return torch.stack(
        [scheduler.step(t, int(time), noisy, generator=random).pred_original_sample for t, time, noisy in parts]
    )


# --- several at once -----------------------------------------------------------------------------------------------


def test_several_adapters_at_once_are_those_trained_one_by_one(small_generator: TextToImage) -> None:
    # Enough images, fewer than a batch, a single one, and with images to hold on to beside those without.
    subjects = [subject(1, 7), subject(2, 2, prompt="a two"), subject(3, 1), subject(4, prior=5), subject(5, prior=1)]
    tuning = dataclasses.replace(TUNING, prior_weight=0.5, prior_images=5)
    with batches(small_generator.pipe.unet) as sizes:
        together = tune(small_generator, subjects, tuning)
    assert sizes == [7 * 3] * 3
    alone = [tune(small_generator, [one], tuning)[0] for one in subjects]
    assert max(distance(a, b) for a, b in zip(together, alone, strict=True)) < SAME
    assert min(distance(a, b) for a, b in zip(together[1:], together, strict=False)) > 0.01
    moved = [float(w.abs().max()) for adapter in together for name, w in adapter.weights.items() if "lora_B" in name]
    assert min(moved) > 0.01


def test_one_subject_may_stand_among_others_in_any_place(small_generator: TextToImage) -> None:
    subjects = [subject(1), subject(2, prior=3), subject(3)]
    tuning = dataclasses.replace(TUNING, prior_weight=1.0, prior_images=3)
    forwards, backwards = tune(small_generator, subjects, tuning), tune(small_generator, subjects[::-1], tuning)
    assert max(distance(a, b) for a, b in zip(forwards, backwards[::-1], strict=True)) < SAME


def test_more_adapters_than_fit_at_once_are_trained_in_parts(
    small_generator: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [subject(k) for k in range(5)]
    together = tune(small_generator, subjects)
    monkeypatch.setattr(finetune, "_MOST_AT_ONCE", 6)
    assert subjects_at_once(small_generator.pipe, TUNING) == 2
    with batches(small_generator.pipe.unet) as sizes:
        parts = tune(small_generator, subjects)
    assert sizes == [6] * 6 + [3] * 3
    assert max(distance(a, b) for a, b in zip(parts, together, strict=True)) < SAME


def test_how_many_fit_at_once_depends_on_size_and_batch(small_generator: TextToImage, own: TextToImage) -> None:
    assert native_size(small_generator.pipe) == 32
    assert subjects_at_once(small_generator.pipe, dataclasses.replace(TUNING, batch_size=8)) == 16
    assert subjects_at_once(small_generator.pipe, dataclasses.replace(TUNING, batch_size=1000)) == 1
    prior = dataclasses.replace(TUNING, batch_size=8, prior_weight=1.0, prior_images=5)
    assert subjects_at_once(small_generator.pipe, prior) == 8
    own.pipe.unet.register_to_config(sample_size=128)
    assert native_size(own.pipe) == 512
    assert subjects_at_once(own.pipe, dataclasses.replace(TUNING, batch_size=4)) == 4


def test_the_seed_changes_everything_and_the_same_seed_nothing(small_generator: TextToImage) -> None:
    before = torch.random.get_rng_state()
    first, same, other = (tune(small_generator, [subject(1)], seed=seed)[0] for seed in (0, 0, 1))
    assert first.sha256 == same.sha256
    assert distance(first, other) > 0.1
    assert torch.equal(torch.random.get_rng_state(), before)


# --- the steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_the_one_from_which_diffusers_finds_the_image(exact: TextToImage, kind: str) -> None:
    native = exact.pipe.scheduler
    exact.pipe.scheduler = type(native).from_config(native.config, prediction_type=kind)
    one = subject(1, 1, prompt="a red one", prior=1)
    tuning = dataclasses.replace(TUNING, steps=2, prior_weight=0.25, prior_images=1)
    with steps_of(exact.pipe.unet) as seen:
        tune(exact, [one], tuning)
    for step in seen:
        halves = Step(step.noisy[:3], step.times[:3], step.text[:3], step.predicted[:3]), step.target(3)[:3]
        latents = latents_of(exact, one.images).expand(3, -1, -1, -1)
        torch.testing.assert_close(original(exact, *halves), latents, rtol=0, atol=2e-3)
        halves = Step(step.noisy[3:], step.times[3:], step.text[3:], step.predicted[3:]), step.target(3, 0.25)[3:]
        latents = latents_of(exact, one.prior_images).expand(3, -1, -1, -1)
        torch.testing.assert_close(original(exact, *halves), latents, rtol=0, atol=2e-3)
        assert torch.equal(step.text[:3], exact.embed("a red one").expand(3, -1, -1))
        assert torch.equal(step.text[3:], exact.embed("a blue two").expand(3, -1, -1))
    times = torch.cat([step.times for step in seen])
    assert len(times.unique()) > 6
    assert int(times.max()) < 1000


def test_a_generator_that_predicts_something_else_is_refused(own: TextToImage) -> None:
    native = own.pipe.scheduler
    own.pipe.scheduler = type(native).from_config(native.config, prediction_type="flow_prediction")
    with pytest.raises(GeneratorError, match="'small-sd' predicts 'flow_prediction'; fine-tuning knows epsilon"):
        tune(own, [subject(1)])


def test_a_training_is_the_one_that_peft_and_diffusers_do(
    small_generator: TextToImage, own: TextToImage, tmp_path: Path
) -> None:
    tuning = dataclasses.replace(TUNING, prior_weight=1e3, prior_images=3)  # heavy enough for clipping
    with steps_of(small_generator.pipe.unet) as seen:
        (ours,) = tune(small_generator, [subject(1, prior=3)], tuning)
    unet, base = own.pipe.unet, base_of(own.identity.as_record())
    start = fresh_adapter(unet, 4, base, derive_seed(base=0, subject=subject(1).digest))
    own.pipe.load_lora_weights(str(tmp_path), weight_name=start.save(tmp_path).name, adapter_name="theirs")
    parameters = [parameter.requires_grad_() for name, parameter in unet.named_parameters() if ".lora_" in name]
    optimiser = torch.optim.AdamW(parameters, lr=tuning.learning_rate, weight_decay=0.01)
    norms = []
    for step in seen:
        target = torch.cat([step.target(3)[:3], step.target(3, 1e3)[3:]])
        predicted = unet(step.noisy, step.times, step.text).sample
        loss = functional.mse_loss(predicted[:3], target[:3]) + 1e3 * functional.mse_loss(predicted[3:], target[3:])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        optimiser.step()
        optimiser.zero_grad()
    theirs = Adapter(get_peft_model_state_dict(unet, adapter_name="theirs"), base)
    assert max(norms) > 1
    assert distance(ours, theirs) < SAME
    assert distance(ours, start) > 0.01


def test_a_huge_gradient_is_clipped_and_leaves_the_neighbours_alone(small_generator: TextToImage) -> None:
    calm, wild = subject(1), subject(2, prior=3)
    tuning = dataclasses.replace(TUNING, prior_weight=1e6, prior_images=3)
    beside, _ = tune(small_generator, [calm, wild], tuning)
    assert distance(beside, tune(small_generator, [calm], tuning)[0]) < SAME


def test_every_image_is_seen_once_before_any_is_seen_again(exact: TextToImage) -> None:
    one = subject(1, 6)
    with steps_of(exact.pipe.unet) as seen:
        tune(exact, [one], dataclasses.replace(TUNING, steps=4))
    found = torch.cat([original(exact, step, step.target(3)) for step in seen])
    nearest = torch.cdist(found.flatten(1), latents_of(exact, one.images).flatten(1)).argmin(dim=1).tolist()
    assert sorted(nearest[:6]) == sorted(nearest[6:]) == list(range(6))
    assert nearest[:6] != nearest[6:]


def test_each_image_goes_with_its_own_prompt(exact: TextToImage) -> None:
    prompts = ("a red one", "a blue one", "a one")
    one = dataclasses.replace(subject(1, 3), prompts=prompts)
    with steps_of(exact.pipe.unet) as seen:
        tune(exact, [one], dataclasses.replace(TUNING, steps=2))
    for step in seen:
        found = original(exact, step, step.target(3))
        nearest = torch.cdist(found.flatten(1), latents_of(exact, one.images).flatten(1)).argmin(dim=1).tolist()
        assert torch.equal(step.text, torch.cat([exact.embed(prompts[k]) for k in nearest]))


def test_prior_images_count_for_nothing_without_a_weight(small_generator: TextToImage) -> None:
    with batches(small_generator.pipe.unet) as sizes:
        with_images = tune(small_generator, [subject(1, prior=4)])
    assert sizes == [3] * 3
    assert addresses(with_images) == addresses(tune(small_generator, [subject(1)]))
    weighted = dataclasses.replace(TUNING, prior_weight=1.0, prior_images=4)
    assert distance(with_images[0], tune(small_generator, [subject(1, prior=4)], weighted)[0]) > 1e-3


def test_images_and_prompts_are_encoded_once_and_only_those_that_are_used(own: TextToImage) -> None:
    subjects = [subject(1, 40), subject(2, 3, prompt="a two"), subject(3, 4, prompt="a two", prior=30)]
    tuning = dataclasses.replace(TUNING, prior_weight=1.0, prior_images=30)
    with batches(own.pipe.vae.encoder) as images, batches(own.pipe.unet) as steps:
        prompts: list[int] = []
        own.pipe.text_encoder.register_forward_pre_hook(lambda *_: prompts.append(1))
        tune(own, subjects, tuning)
    assert sum(images) == 9 + 3 + 4 + 9  # three steps draw nine images
    assert len(prompts) == 3
    assert len(steps) == 3


def test_images_of_another_size_are_encoded_at_the_generators_own(small_generator: TextToImage) -> None:
    one = subject(1, 3)
    small = dataclasses.replace(one, images=one.images[:, ::4, ::4])
    with steps_of(small_generator.pipe.unet) as seen:
        (adapter,) = tune(small_generator, [small])
    assert seen[0].noisy.shape == (3, 4, 8, 8)
    assert distance(adapter, tune(small_generator, [one])[0]) > 0


def test_prompts_that_were_sampled_before_can_be_trained_on_and_sampled_again(own: TextToImage, tmp_path: Path) -> None:
    options = {"steps": 2, "guidance": 2.0, "height": 32, "width": 32, "batch_size": 2}
    before = own.sample(["a red one"] * 2, [""] * 2, [1, 2], **options)
    (adapter,) = tune(own, [subject(1)], dataclasses.replace(TUNING, learning_rate=0.1))
    own.adapters[adapter.sha256] = adapter.save(tmp_path)
    np.testing.assert_array_equal(own.sample(["a red one"] * 2, [""] * 2, [1, 2], **options), before)
    after = own.sample(["a red one"] * 2, [""] * 2, [1, 2], adapters=[adapter.sha256, None], **options)
    assert (after[0] != before[0]).any()
    np.testing.assert_array_equal(after[1], before[1])


def test_the_base_stays_as_it_is(own: TextToImage) -> None:
    parts = {name: getattr(own.pipe, name) for name in ("unet", "vae", "text_encoder")}
    before = {name: state_digest(part.state_dict()) for name, part in parts.items()}
    names = {name: list(part.state_dict()) for name, part in parts.items()}
    tune(own, [subject(1, prior=2), subject(2)], dataclasses.replace(TUNING, prior_weight=1.0, prior_images=2))
    assert {name: state_digest(part.state_dict()) for name, part in parts.items()} == before
    assert {name: list(part.state_dict()) for name, part in parts.items()} == names
    assert all(parameter.grad is None for part in parts.values() for parameter in part.parameters())
    assert not any(module._forward_hooks for module in own.pipe.unet.modules())


@pytest.mark.parametrize("size", [32, pytest.param(256, marks=pytest.mark.slow)])
def test_a_large_unet_recomputes_activations_and_gives_the_same(
    own: TextToImage, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.pipe.unet.register_to_config(sample_size=size // 4)
    assert native_size(own.pipe) == size
    block, short = own.pipe.unet.up_blocks[0].attentions[0].transformer_blocks[0], dataclasses.replace(TUNING, steps=2)
    if size < 256:
        monkeypatch.setattr(finetune, "_CHECKPOINTING_FROM", size)
    with batches(block) as recomputed:
        (large,) = tune(own, [subject(1)], short)
    assert not own.pipe.unet.is_gradient_checkpointing
    monkeypatch.setattr(finetune, "_CHECKPOINTING_FROM", size + 1)
    with batches(block) as kept:
        (plain,) = tune(own, [subject(1)], short)
    assert (recomputed, kept) == ([3] * 4, [3] * 2)
    assert distance(large, plain) < SAME


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_half_precision_trains_much_the_same(small_sd: Path, small_generator: TextToImage, weights: str) -> None:
    (half,) = tune(load(small_sd, precision=weights), [subject(1)], precision="bfloat16")
    (full,) = tune(small_generator, [subject(1)])
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in half.weights.values())
    changes = [torch.cat([w.flatten() for n, w in a.weights.items() if "lora_B" in n]) for a in (half, full)]
    assert float(functional.cosine_similarity(*changes, dim=0)) > 0.9


# --- interruptions ----------------------------------------------------------------------------------------------------

LONG = dataclasses.replace(TUNING, steps=4)


class Stopping:
    """Counts steps, and interrupts after some calls."""

    def __init__(self, after: int | None = None) -> None:
        self.calls: list[int] = []
        self._after = after

    def __call__(self, steps: int) -> None:
        self.calls.append(steps)
        if len(self.calls) == self._after:
            raise KeyboardInterrupt


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check, and keep, every second step."""
    monkeypatch.setattr(finetune, "_CHECK_EVERY", 2)


@pytest.fixture
def in_parts(often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train at most two adapters at once."""
    monkeypatch.setattr(finetune, "_MOST_AT_ONCE", 6)


THREE = [subject(k) for k in range(3)]


@pytest.fixture(scope="module")
def three(small_generator: TextToImage) -> list[str]:
    """Three adapters of a training that nobody interrupted: one part of two, one of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "_MOST_AT_ONCE", 6)
        return addresses(tune(small_generator, THREE, LONG))


@pytest.fixture(scope="module")
def single(small_generator: TextToImage) -> str:
    """One adapter of a training that nobody interrupted."""
    return tune(small_generator, [subject(1)])[0].sha256


@pytest.mark.parametrize(
    ("after", "progress", "again"),
    [
        (1, [0] + [2] * 4 + [1] * 4, 8),  # before anything was kept
        (3, [4] + [2] * 2 + [1] * 4, 6),  # two steps of the first part are kept
        (5, [8, 0] + [1] * 4, 4),  # nothing of the first part is done again
        (8, [8, 2] + [1] * 2, 2),  # the very last step is done, but not kept yet
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_adapters(
    in_parts: None,
    small_generator: TextToImage,
    three: list[str],
    tmp_path: Path,
    after: int,
    progress: list[int],
    again: int,
) -> None:
    unet, folder = small_generator.pipe.unet, tmp_path / "unfinished"
    with pytest.raises(KeyboardInterrupt):
        tune(small_generator, THREE, LONG, unfinished=folder, progress=Stopping(after))
    assert not any(module._forward_hooks for module in unet.modules())
    counted = Stopping()
    with batches(unet) as sizes:
        adapters = tune(small_generator, THREE, LONG, unfinished=folder, progress=counted)
    assert addresses(adapters) == three
    assert counted.calls == progress
    assert len(sizes) == again


def test_a_training_may_be_interrupted_again_and_again(
    in_parts: None, small_generator: TextToImage, three: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(small_generator, THREE, LONG, unfinished=tmp_path, progress=Stopping(5))
    assert addresses(tune(small_generator, THREE, LONG, unfinished=tmp_path)) == three


def test_finished_parts_are_not_even_encoded_again(
    in_parts: None, small_generator: TextToImage, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(small_generator, THREE, LONG, unfinished=tmp_path, progress=Stopping(5))
    with batches(small_generator.pipe.vae.encoder) as images, pytest.raises(KeyboardInterrupt):
        tune(small_generator, THREE, LONG, unfinished=tmp_path, progress=Stopping(3))
    assert sum(images) == 5


def test_what_lies_on_disk_in_the_midst_of_a_training_is_enough_to_go_on_from(
    often: None, small_generator: TextToImage, single: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9: no handler runs, there is only what was saved from time to time."""
    monkeypatch.setattr(finetune, "_SAVE_SECONDS", 0.0)
    seen: list[int] = []

    def copy_in_the_third_step(_: int) -> None:
        seen.append(1)
        if len(seen) == 3:
            shutil.copytree(tmp_path / "unfinished", tmp_path / "killed")

    tune(small_generator, [subject(1)], unfinished=tmp_path / "unfinished", progress=copy_in_the_third_step)
    assert [file.suffix for file in (tmp_path / "killed").iterdir()] == [".safetensors"]
    counted = Stopping()
    (adapter,) = tune(small_generator, [subject(1)], unfinished=tmp_path / "killed", progress=counted)
    assert adapter.sha256 == single
    assert counted.calls == [2, 1]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 64
    file.write_bytes(content)


def replace_by_text(file: Path) -> None:
    file.write_text("not weights")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, replace_by_text, Path.unlink])
def test_a_damaged_file_of_unfinished_work_is_as_good_as_none(
    often: None, small_generator: TextToImage, single: str, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(small_generator, [subject(1)], unfinished=tmp_path, progress=Stopping(3))
    (file,) = tmp_path.iterdir()
    damage(file)
    counted = Stopping()
    (adapter,) = tune(small_generator, [subject(1)], unfinished=tmp_path, progress=counted)
    assert adapter.sha256 == single
    assert counted.calls == [1] * 3


@pytest.mark.parametrize(
    ("number", "change", "options"),
    [
        (1, {}, {"seed": 1}),
        (2, {}, {}),
        (1, {"learning_rate": 2e-2}, {}),
        (1, {"rank": 1}, {}),
        (1, {"steps": 4}, {}),
        (1, {}, {"precision": "bfloat16"}),
    ],
)
def test_the_unfinished_work_of_another_training_is_not_gone_on_with(
    often: None,
    small_generator: TextToImage,
    single: str,
    tmp_path: Path,
    number: int,
    change: dict[str, Any],
    options: dict[str, Any],
) -> None:
    other = dataclasses.replace(TUNING, **change)
    with pytest.raises(KeyboardInterrupt):
        tune(small_generator, [subject(number)], other, unfinished=tmp_path, progress=Stopping(3), **options)
    counted = Stopping()
    (adapter,) = tune(small_generator, [subject(1)], unfinished=tmp_path, progress=counted)
    assert adapter.sha256 == single
    assert counted.calls == [1] * 3


def test_a_folder_that_cannot_be_written_is_said_so_unless_something_else_ended_the_training(
    small_generator: TextToImage, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        tune(small_generator, [subject(1)], unfinished=tmp_path / "file" / "unfinished")
    with pytest.raises(KeyboardInterrupt):
        tune(small_generator, [subject(1)], unfinished=tmp_path / "file" / "unfinished", progress=Stopping(2))


# --- failures ------------------------------------------------------------------------------------------------------


def kept_weights(folder: Path) -> tuple[int, list[torch.Tensor]]:
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, framework="pt") as content:
        kept = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    return int(kept.pop("steps")), list(kept.values())


def test_a_learning_rate_that_is_too_high_is_named(often: None, small_generator: TextToImage, tmp_path: Path) -> None:
    wild = dataclasses.replace(LONG, learning_rate=1e6)
    with pytest.raises(
        TrainingDiverged,
        match=r"on group 1-0: the loss is nan at step [24] \(learning rate 1e\+06\); lower the learning rate",
    ):
        tune(small_generator, [subject(1)], wild, unfinished=tmp_path)
    step, kept = kept_weights(tmp_path)
    assert step < 4
    assert all(tensor.isfinite().all() for tensor in kept)
    assert not any(module._forward_hooks for module in small_generator.pipe.unet.modules())


def test_the_one_subject_that_diverged_is_named(own: TextToImage) -> None:
    tokens = own.pipe.tokenizer(["z"]).input_ids[0][1:-1]
    with torch.no_grad():
        own.pipe.text_encoder.get_input_embeddings().weight[tokens] = float("nan")
    with pytest.raises(
        TrainingDiverged, match=r"on group 2-0: the loss is nan at step 3 \(learning rate 0.01\)"
    ) as raised:
        tune(own, [subject(1), subject(2, prompt="z"), subject(3)])
    assert "kept" not in str(raised.value)  # there is no folder to keep anything in


def test_images_that_cannot_be_encoded_are_found(own: TextToImage) -> None:
    with torch.no_grad():
        own.pipe.vae.encoder.conv_in.bias[0] = float("inf")
    with pytest.raises(TrainingDiverged, match="on group 1-0: the loss is nan at step 3"):
        tune(own, [subject(1)])


def test_a_last_step_that_ruins_the_weights_is_found_although_its_loss_was_fine(
    small_generator: TextToImage, tmp_path: Path
) -> None:
    def overflow(_module: nn.Module, _inputs: Any, output: Any) -> None:
        output.sample.register_hook(lambda gradient: gradient * float("inf"))

    handle = small_generator.pipe.unet.register_forward_hook(overflow)
    try:
        with pytest.raises(TrainingDiverged, match=r"on group 1-0: a weight is not finite \(loss .*\) at step 1 "):
            tune(small_generator, [subject(1)], dataclasses.replace(TUNING, steps=1), unfinished=tmp_path)
    finally:
        handle.remove()
    step, kept = kept_weights(tmp_path)
    assert step == 0
    assert all(tensor.isfinite().all() for tensor in kept)


@contextlib.contextmanager
def memory_for(unet: nn.Module, images: int) -> Iterator[None]:
    """A real failure of the allocator, inside a real forward pass, for batches above a size."""

    def allocate(_module: nn.Module, inputs: Any) -> None:
        if len(inputs[0]) > images:
            torch.empty(2**60, dtype=torch.uint8)

    handle = unet.register_forward_pre_hook(allocate)
    try:
        yield
    finally:
        handle.remove()


def test_too_little_memory_for_all_trains_fewer_at_once(
    small_generator: TextToImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subjects = [subject(k) for k in range(5)]
    expected, unet = tune(small_generator, subjects), small_generator.pipe.unet
    with batches(unet) as sizes, memory_for(unet, 6):
        adapters = tune(small_generator, subjects, unfinished=tmp_path)
    assert sizes == [15] + [6] * 6 + [3] * 3
    assert "not enough memory to train 5 adapters at once; trying 2" in caplog.text
    assert max(distance(a, b) for a, b in zip(adapters, expected, strict=True)) < SAME


@pytest.mark.parametrize(("batch_size", "advice"), [(4, "try a batch size of 2"), (1, "use a device with more memory")])
def test_too_little_memory_for_one_suggests_a_smaller_batch(
    small_generator: TextToImage, batch_size: int, advice: str
) -> None:
    tuning = dataclasses.replace(TUNING, batch_size=batch_size)
    with (
        memory_for(small_generator.pipe.unet, 0),
        pytest.raises(
            GeneratorError,
            match=f"not enough memory to fine-tune one adapter with batch size {batch_size} .*; {advice}",
        ),
    ):
        tune(small_generator, [subject(1), subject(2), subject(3)], tuning)


def test_another_error_is_not_taken_for_a_lack_of_memory(small_generator: TextToImage) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("something else")

    handle = small_generator.pipe.unet.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="something else"):
            tune(small_generator, [subject(1)])
    finally:
        handle.remove()


def test_a_pipeline_with_further_text_encoders_is_refused(small_generator: TextToImage) -> None:
    from diffusers import StableDiffusionXLPipeline

    parts = {
        name: getattr(small_generator.pipe, name) for name in ("vae", "unet", "scheduler", "text_encoder", "tokenizer")
    }
    xl = StableDiffusionXLPipeline(text_encoder_2=parts["text_encoder"], tokenizer_2=parts["tokenizer"], **parts)
    with pytest.raises(GeneratorError, match="'small-sd' is a StableDiffusionXLPipeline; fine-tuning works on"):
        tune(TextToImage(xl, small_generator.identity), [subject(1)])


# --- what it is for ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fine_tuning_moves_a_real_generator_towards_a_group_it_has_never_seen(tmp_path: Path) -> None:
    """tiny-sd knows typeset digits; the adapter learns handwritten sevens, and is judged on sevens held out from it."""
    from diffusers import DDPMScheduler

    from benchmark.tasks.catalog import load_task

    task = load_task("colorized-digits")
    splits, prompt = task.manifest("0.95", 0).splits, task.card.prompt(7, 7)
    seen, held = (
        np.asarray(task.images(rows))[(rows.y == 7) & (rows.a == 7)] for rows in (splits["train"], splits["test"])
    )
    generator = TextToImage.load(resolve_generator("tiny-sd", offline=True), device="cpu")
    sevens = Subject("group 7-7", seen, (prompt,) * len(seen), NO_IMAGES, (), "7" * 64)
    tuning = FineTuning(steps=20, batch_size=8, learning_rate=2e-3, rank=8)
    (adapter,) = tune(generator, [sevens], tuning)

    scheduler = DDPMScheduler.from_config(generator.pipe.scheduler.config)
    assert scheduler.config.prediction_type == "v_prediction"
    latents, times = latents_of(generator, held[:16]), torch.linspace(20, 980, 16).long()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    target, noisy = scheduler.get_velocity(latents, noise, times), scheduler.add_noise(latents, noise, times)
    text, losses = generator.embed(prompt).expand(16, -1, -1), []
    stack = Stack(generator.pipe.unet, [adapter], device=torch.device("cpu"))
    for choice in (-1, 0):
        with stack.applied(torch.full((16,), choice)), torch.no_grad():
            losses.append(float(functional.mse_loss(generator.pipe.unet(noisy, times, text).sample, target)))
    assert losses[1] < 0.85 * losses[0]

    generator.adapters[adapter.sha256] = adapter.save(tmp_path)
    options = {"steps": 8, "guidance": 2.0, "height": 32, "width": 32, "batch_size": 8}
    drawn = [
        generator.sample([prompt] * 8, [""] * 8, range(8), adapters=[name] * 8, **options).astype(float)
        for name in (None, adapter.sha256)
    ]
    base, tuned = (float(np.abs(images - held.mean(axis=0)).mean()) for images in drawn)
    assert tuned < 0.95 * base
