"""Typicality: exact on a model of known losses, and higher for the prompt that tiny-sd drew than for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.audits.typicality import ScratchDenoiser, TextToImageDenoiser, typicality
from benchmark.errors import GeneratorError, InvalidValue
from benchmark.generators.adapters import Adapter, base_of, fresh_adapter
from benchmark.generators.identity import resolve_generator
from benchmark.generators.pipelines import TextToImage

PROMPTS = ("a red seven", "a blue two", "a green four", "a yellow nine")
PER_PROMPT = 6


class Greys:
    """The perfect denoiser of images that are all of one grey, 60 for label 0 and 180 for label 1.

    It predicts the image: the grey of the label, or without a request the mean of both. Its loss is the squared error
    of the noise that follows.
    """

    def __init__(self, first: float = 60.0) -> None:
        self.grey = {0: first, 1: 180.0, None: 120.0}
        self.calls: list[tuple[list[Any], torch.Tensor, torch.Tensor]] = []

    def denoising_loss(
        self,
        images: NDArray[np.uint8],
        requests: Sequence[tuple[int, int | None] | None],
        times: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        self.calls.append((list(requests), times, noise))
        clean = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        signal = (1 - times / 1000).view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        guess = torch.tensor([self.grey[None if request is None else request[0]] for request in requests])
        predicted = (noisy - signal.sqrt() * guess.view(-1, 1, 1, 1)) / (1 - signal).sqrt()
        return (predicted - noise).square().flatten(1).mean(dim=1)


def grey(*levels: int) -> NDArray[np.uint8]:
    return np.array(levels, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)


# --- a model of known losses ---------------------------------------------------------------------------------------


def test_typicality_is_the_mean_difference_of_the_two_losses() -> None:
    model = Greys()
    images, requests = grey(60, 60, 180, 120), [(0, None), (1, None), (1, 1), (0, 1)]
    found = typicality(ScratchDenoiser(model), images, requests, seed=3, draws=5, batch=4)
    times = torch.stack([times[0] for _, times, _ in model.calls[::2]]).double() / 1000
    factor = float(((1 - times) / times).mean())
    # |x - mean|² - |x - grey of the label|².
    assert found == pytest.approx([3600 * factor, (3600 - 14400) * factor, 3600 * factor, -3600 * factor], rel=1e-4)
    assert found.dtype == np.float32


def test_both_terms_and_all_images_see_the_same_draws_and_times_are_spread() -> None:
    model = Greys()
    typicality(ScratchDenoiser(model), grey(60, 180, 60), [(0, None), (1, None), (0, None)], seed=0, draws=4, batch=2)
    assert [requests for requests, _, _ in model.calls[:2]] == [[None, None], [(0, None), (1, None)]]
    assert len(model.calls) == 2 * 2 * 4
    for k, (_, times, noise) in enumerate(model.calls):
        _, first_times, first_noise = model.calls[k // 2 * 2 % 8]
        assert torch.equal(times, first_times)
        assert torch.equal(noise, first_noise)
        assert torch.equal(noise[0], noise[1])
    drawn = [int(times[0]) for _, times, _ in model.calls[:8:2]]
    for part, time in enumerate(drawn):
        assert 100 + 200 * part <= time < 300 + 200 * part
    assert noise.shape == (2, 3, 8, 8)
    assert noise.std() == pytest.approx(1, abs=0.2)


def test_another_seed_draws_anew_and_more_draws_come_closer_together() -> None:
    def spread(draws: int) -> float:
        found = [
            typicality(ScratchDenoiser(Greys()), grey(60), [(0, None)], seed=seed, draws=draws) for seed in range(20)
        ]
        return float(np.std(found))

    assert 0 < spread(16) < spread(1) / 3


def test_no_condition_no_images_and_what_makes_no_sense() -> None:
    denoiser = ScratchDenoiser(Greys())
    assert typicality(denoiser, grey(60, 61), [None, None], seed=0).tolist() == [0, 0]
    assert typicality(denoiser, grey(60)[:0], [], seed=0).shape == (0,)
    with pytest.raises(InvalidValue, match="2 images and 1 conditions"):
        typicality(denoiser, grey(60, 61), [None], seed=0)
    with pytest.raises(InvalidValue, match="0 draws"):
        typicality(denoiser, grey(60), [None], seed=0, draws=0)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    broken, requests = Greys(float("nan")), [(1, None), (0, None), (1, None)]
    with pytest.raises(GeneratorError, match="loss on image 1 is not finite"):
        typicality(ScratchDenoiser(broken), grey(60, 60, 60), requests, seed=0)


# --- tiny-sd -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator() -> Iterator[TextToImage]:
    """One thread, because so small a model only waits for a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TextToImage.load(resolve_generator("tiny-sd", offline=True), device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawn(generator: TextToImage) -> NDArray[np.uint8]:
    """Images of each prompt in turn."""
    n = PER_PROMPT * len(PROMPTS)
    return generator.sample(
        [PROMPTS[k % len(PROMPTS)] for k in range(n)], [""] * n, list(range(n)), steps=6, guidance=2.0, height=32,
        width=32, batch_size=n,
    )  # fmt: skip


def test_images_are_more_typical_of_the_prompt_that_drew_them(generator: TextToImage, drawn: NDArray[np.uint8]) -> None:
    n, denoiser = len(drawn), TextToImageDenoiser(generator)
    own = np.arange(n) % len(PROMPTS)
    table = np.stack(
        [typicality(denoiser, drawn, [prompt] * n, seed=0, draws=2, batch=n) for prompt in PROMPTS], axis=1
    )
    assert (table.argmax(axis=1) == own).mean() >= 0.95
    assert table[np.arange(n), own].mean() > 0, "the prompt helps"
    assert table.sum() < table[np.arange(n), own].sum(), "others mislead"


def test_an_image_depends_neither_on_its_neighbours_nor_on_the_batch(
    generator: TextToImage, drawn: NDArray[np.uint8]
) -> None:
    denoiser, prompts = TextToImageDenoiser(generator), [PROMPTS[k % 4] for k in range(6)]
    whole = typicality(denoiser, drawn[:6], prompts, seed=1, draws=1, batch=4)
    assert (typicality(denoiser, drawn[:6], prompts, seed=1, draws=1, batch=4) == whole).all()
    chosen = [5, 2, 0]
    part = typicality(denoiser, drawn[chosen], [prompts[k] for k in chosen], seed=1, draws=1, batch=4)
    assert (part == whole[chosen]).all()
    assert typicality(denoiser, drawn[:6], prompts, seed=1, draws=1, batch=3) == pytest.approx(whole, abs=1e-5)
    assert (typicality(denoiser, drawn[:6], prompts, seed=2, draws=1, batch=4) != whole).all()


def test_the_empty_prompt_is_no_condition(generator: TextToImage, drawn: NDArray[np.uint8]) -> None:
    found = typicality(TextToImageDenoiser(generator), drawn[:3], ["", None, PROMPTS[2]], seed=0, draws=1, batch=3)
    assert found[:2].tolist() == [0, 0]
    assert found[2] != 0


def test_images_of_another_size_are_brought_to_the_generators_own(
    generator: TextToImage, drawn: NDArray[np.uint8]
) -> None:
    denoiser, large = TextToImageDenoiser(generator), drawn[:2].repeat(2, axis=1).repeat(2, axis=2)
    small = typicality(denoiser, drawn[:2], PROMPTS[:2], seed=0, draws=1, batch=2)
    assert typicality(denoiser, large, PROMPTS[:2], seed=0, draws=1, batch=2) == pytest.approx(small, abs=0.02)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_the_noise_whatever_is_predicted(
    generator: TextToImage, drawn: NDArray[np.uint8], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = generator.pipe
    monkeypatch.setattr(
        pipe, "scheduler", diffusers.DDPMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    )
    denoiser = TextToImageDenoiser(generator)
    latents = denoiser.encode(drawn[:2])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([150, 850])
    signal = pipe.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    noisy = alpha * latents + sigma * noise
    with torch.inference_mode():
        predicted = pipe.unet(noisy, times, torch.cat([generator.embed(PROMPTS[0])] * 2)).sample
    epsilon = {
        "epsilon": predicted,
        "v_prediction": alpha * predicted + sigma * noisy,
        "sample": (noisy - alpha * predicted) / sigma,
    }[kind]
    expected = (epsilon - noise).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(denoiser.losses(latents, [PROMPTS[0]] * 2, times, noise), expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_speaks_in_both_terms(generator: TextToImage, drawn: NDArray[np.uint8], tmp_path: Path) -> None:
    base = base_of(generator.identity.as_record())
    idle = fresh_adapter(generator.pipe.unet, 2, base, seed=0)
    busy = Adapter(
        {name: torch.full_like(w, 0.05) if ".lora_B" in name else w for name, w in idle.weights.items()}, base
    )
    files = {adapter.sha256: adapter.save(tmp_path) for adapter in (idle, busy)}
    tuned = TextToImage(generator.pipe, generator.identity, adapters=files)

    def found(adapter: str | None, prompt: str) -> NDArray[np.float32]:
        denoiser = TextToImageDenoiser(tuned, adapter)
        return typicality(denoiser, drawn[:2], [prompt] * 2, seed=0, draws=1, batch=2)

    assert (found(idle.sha256, PROMPTS[0]) == found(None, PROMPTS[0])).all()
    assert (found(busy.sha256, PROMPTS[0]) != found(None, PROMPTS[0])).all()
    assert found(busy.sha256, "").tolist() == [0, 0]


def test_other_pipelines_and_predictions_are_refused(generator: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = generator.pipe
    other = diffusers.DDPMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    other.register_to_config(prediction_type="flow")
    monkeypatch.setattr(pipe, "scheduler", other)
    with pytest.raises(GeneratorError, match="'tiny-sd' predicts 'flow'; typicality knows epsilon"):
        TextToImageDenoiser(generator)
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                                 up_block_types=("UpBlock2D",), norm_num_groups=4)  # fmt: skip
    unconditional = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    with pytest.raises(GeneratorError, match="'tiny-sd' is a DDPMPipeline; typicality is known for"):
        TextToImageDenoiser(TextToImage(unconditional, generator.identity))
