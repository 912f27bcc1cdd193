"""Adapters are files that diffusers reads, and several at work in one batch do what each does alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from torch import nn

from benchmark.errors import DamagedFile, GeneratorError, StoreError
from benchmark.generators.adapters import (
    Adapter,
    Stack,
    base_of,
    fresh_adapter,
    load_adapter,
    lora_config,
    target_layers,
)
from benchmark.generators.identity import resolve_generator
from benchmark.generators.pipelines import TextToImage

CPU = torch.device("cpu")
BASE = "small-sd@0000"


def random_adapter(unet: nn.Module, seed: int, rank: int = 4, base: str = BASE) -> Adapter:
    """An adapter that changes much."""
    random = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(unet, rank, base, seed)
    return Adapter({name: torch.randn(w.shape, generator=random) / 3 for name, w in fresh.weights.items()}, base)


@pytest.fixture(scope="module")
def unet(small_generator: TextToImage) -> nn.Module:
    return small_generator.pipe.unet


@pytest.fixture(scope="module")
def adapters(unet: nn.Module) -> list[Adapter]:
    return [random_adapter(unet, seed) for seed in (1, 2, 3)]


def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, times and text embeddings of n images."""
    random = torch.Generator().manual_seed(0)
    times = torch.arange(n) * 100 + 50
    return torch.randn(n, 4, 8, 8, generator=random), times, torch.randn(n, 24, 16, generator=random)


@torch.no_grad()
def predict(unet: nn.Module, n: int = 4) -> torch.Tensor:
    return unet(*inputs(n)).sample


def hooks(unet: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules())


@pytest.fixture(scope="module")
def alone(small_sd: Path, adapters: list[Adapter], tmp_path_factory: pytest.TempPathFactory) -> dict[int, torch.Tensor]:
    """What diffusers and peft predict with each adapter, and (-1) without."""
    pipe = TextToImage.load(resolve_generator(str(small_sd), offline=True), device="cpu").pipe
    folder = tmp_path_factory.mktemp("adapters")
    predicted = {-1: predict(pipe.unet)}
    for k, adapter in enumerate(adapters):
        pipe.load_lora_weights(str(folder), weight_name=adapter.save(folder).name)
        predicted[k] = predict(pipe.unet)
        pipe.unload_lora_weights()
    assert torch.equal(predict(pipe.unet), predicted[-1])
    return predicted


def test_one_adapter_predicts_what_diffusers_predicts_with_its_file(
    unet: nn.Module, adapters: list[Adapter], alone: dict[int, torch.Tensor]
) -> None:
    stack = Stack(unet, adapters, device=CPU)
    for k in range(3):
        with stack.applied(torch.full((4,), k)):
            predicted = predict(unet)
        torch.testing.assert_close(predicted, alone[k], rtol=1e-5, atol=1e-5)
        assert (alone[k] - alone[-1]).abs().mean() > 0.05


def test_each_image_of_a_batch_has_its_own_adapter_or_none(
    unet: nn.Module, adapters: list[Adapter], alone: dict[int, torch.Tensor]
) -> None:
    stack = Stack(unet, adapters, device=CPU)
    for choice in ([2, 0, -1, 1], [-1, 1, 0, 0], [0, -1, 2, -1]):
        with stack.applied(torch.tensor(choice)):
            predicted = predict(unet)
        for image, k in enumerate(choice):
            torch.testing.assert_close(predicted[image], alone[k][image], rtol=1e-5, atol=1e-5)


def test_an_image_without_adapter_is_the_base_models_to_the_last_bit(unet: nn.Module, adapters: list[Adapter]) -> None:
    base = predict(unet)
    with Stack(unet, adapters, device=CPU).applied(torch.tensor([-1, 2, -1, 0])):
        predicted = predict(unet)
    assert torch.equal(predicted[[0, 2]], base[[0, 2]])


def test_the_neighbours_adapters_do_not_change_an_image(unet: nn.Module, adapters: list[Adapter]) -> None:
    results = []
    for company, choice in (([0, 1], [0, 1, 1, 1]), ([0], [0, 0, 0, 0]), ([2, 0], [1, -1, 0, -1])):
        stack = Stack(unet, [adapters[k] for k in company], device=CPU)
        with stack.applied(torch.tensor(choice)):
            results.append(predict(unet)[0])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_both_halves_of_a_guided_batch_are_adapted(unet: nn.Module, adapters: list[Adapter]) -> None:
    stack, twice = Stack(unet, adapters, device=CPU), [torch.cat([part, part]) for part in inputs(2)]
    with stack.applied(torch.tensor([1, -1])), torch.no_grad():
        predicted = unet(*twice).sample
    assert torch.equal(predicted[:2], predicted[2:])
    with stack.applied(torch.tensor([1, -1, 1, -1])), torch.no_grad():
        assert torch.equal(unet(*twice).sample, predicted)


def test_nothing_stays_on_the_model_also_after_an_interruption(unet: nn.Module, adapters: list[Adapter]) -> None:
    before, stack = predict(unet), Stack(unet, adapters, device=CPU)

    def interrupted() -> None:
        with stack.applied(torch.tensor([0, 1, 2, 0])):
            assert hooks(unet) == len(target_layers(unet))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with (
        pytest.raises(GeneratorError, match=r"for 3 images; adapters cannot follow"),
        stack.applied(torch.tensor([0] * 3)),
    ):
        predict(unet)
    assert hooks(unet) == 0
    assert torch.equal(predict(unet), before)


def test_the_layers_initial_weights_and_names_are_pefts(small_sd: Path) -> None:
    pipe = TextToImage.load(resolve_generator(str(small_sd), offline=True), device="cpu").pipe
    fresh = fresh_adapter(pipe.unet, 3, BASE, seed=0)
    layers, before = list(target_layers(pipe.unet)), predict(pipe.unet)
    pipe.unet.add_adapter(lora_config(3))
    theirs = get_peft_model_state_dict(pipe.unet, adapter_name="default")
    assert {name: w.shape for name, w in theirs.items()} == {name: w.shape for name, w in fresh.weights.items()}
    assert len(fresh.weights) == 2 * len(layers) == 2 * 4 * 2 * 4  # four projections, two attentions, four blocks
    for name, ours in fresh.weights.items():
        assert bool((ours == 0).all()) == bool((theirs[name] == 0).all()) == name.endswith("lora_B.weight")
    spread = torch.cat([w.flatten() for name, w in fresh.weights.items() if "lora_A" in name]).std()
    assert float(spread) == pytest.approx(1 / 3, rel=0.1)
    assert torch.equal(predict(pipe.unet), before)


def test_an_adapter_that_was_never_trained_changes_nothing(unet: nn.Module) -> None:
    base = predict(unet)
    with Stack(unet, [fresh_adapter(unet, 4, BASE, seed=0)], device=CPU).applied(torch.zeros(4, dtype=torch.int64)):
        assert torch.equal(predict(unet), base)


def test_initial_weights_depend_on_the_seed_alone(unet: nn.Module) -> None:
    first, same, other = (fresh_adapter(unet, 4, BASE, seed).sha256 for seed in (5, 5, 6))
    assert first == same != other


def test_a_saved_adapter_is_read_back_with_its_address(
    unet: nn.Module, adapters: list[Adapter], tmp_path: Path
) -> None:
    file = adapters[0].save(tmp_path)
    assert file.name == f"{adapters[0].sha256}.safetensors"
    again = load_adapter(file, BASE)
    assert again.sha256 == adapters[0].sha256
    assert (again.rank, again.base) == (4, BASE)
    with safe_open(file, framework="pt") as content:
        assert all(name.startswith("unet.") for name in content.keys())  # noqa: SIM118
    stack = Stack(unet, adapters, device=CPU)
    assert [stack.adapter(k).sha256 for k in range(len(stack))] == [adapter.sha256 for adapter in adapters]


def test_a_base_is_its_name_with_commit_or_content() -> None:
    assert base_of({"name": "org/sd", "revision": "abc", "content_sha256": None}) == "org/sd@abc"
    assert base_of({"name": "tiny-sd", "revision": None, "content_sha256": "12"}) == "tiny-sd@12"


def test_an_adapter_of_another_base_is_refused(adapters: list[Adapter], tmp_path: Path) -> None:
    file = adapters[0].save(tmp_path)
    with pytest.raises(GeneratorError, match=r"was fine-tuned for small-sd@0000, but the generator is small-sd@1111"):
        load_adapter(file, "small-sd@1111")


def test_an_adapter_without_a_base_is_refused(adapters: list[Adapter], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / f"{adapters[0].sha256}.safetensors"
    save_file(dict(adapters[0].weights), file)
    with pytest.raises(GeneratorError, match="was fine-tuned for \\?"):
        load_adapter(file, BASE)


def test_a_damaged_adapter_is_refused(adapters: list[Adapter], tmp_path: Path) -> None:
    file = adapters[0].save(tmp_path)
    whole = file.read_bytes()
    for content in (b"", whole[:10], whole[: len(whole) // 2], b"\xff" * 100, json.dumps({"a": 1}).encode()):
        file.write_bytes(content)
        with pytest.raises(DamagedFile, match=f"adapter {file.name} cannot be read"):
            load_adapter(file, BASE)
    file.unlink()
    with pytest.raises(DamagedFile, match="cannot be read: No such file"):
        load_adapter(file, BASE)


def test_weights_that_are_not_those_of_the_name_are_refused(adapters: list[Adapter], tmp_path: Path) -> None:
    file = adapters[0].save(tmp_path)
    flipped = bytearray(file.read_bytes())
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(DamagedFile, match="holds other weights than its name says"):
        load_adapter(file, BASE)
    renamed = adapters[1].save(tmp_path).rename(tmp_path / f"{adapters[2].sha256}.safetensors")
    with pytest.raises(DamagedFile, match="holds other weights than its name says"):
        load_adapter(renamed, BASE)


def test_adapters_that_do_not_belong_together_are_refused(unet: nn.Module, adapters: list[Adapter]) -> None:
    with pytest.raises(GeneratorError, match="different rank"):
        Stack(unet, [adapters[0], random_adapter(unet, 1, rank=2)], device=CPU)
    some = Adapter(dict(list(adapters[0].weights.items())[:-1]), "other-sd@1")
    with pytest.raises(GeneratorError, match="an adapter of other-sd@1 does not fit the layers of this UNet"):
        Stack(unet, [adapters[0], some], device=CPU)


def test_a_unet_without_attention_has_nothing_to_adapt() -> None:
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
    )
    with pytest.raises(GeneratorError, match="no attention projections"):
        target_layers(plain)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(adapters: list[Adapter], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        with pytest.raises(StoreError, match="no space left"):
            adapters[0].save(disk)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_stack_may_be_kept_in_the_precision_of_the_model(unet: nn.Module, adapters: list[Adapter]) -> None:
    exact, rounded = (Stack(unet, adapters, device=CPU, dtype=kind) for kind in (torch.float32, torch.bfloat16))
    results: list[torch.Tensor] = []
    for stack in (exact, rounded):
        with stack.applied(torch.tensor([0, 1, 2, -1])):
            results.append(predict(unet))
    assert results[1].dtype == torch.float32
    assert 0 < (results[0] - results[1]).abs().max() < 0.1
    assert torch.equal(results[0][3], results[1][3])
