"""A diffusion model from scratch is the same through any stop, is stored once, and shows what it is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmark.contract.generation import FromScratch
from benchmark.errors import DamagedFile, GeneratorError, InvalidValue, StoreError, TrainingDiverged
from benchmark.generators import scratch
from benchmark.generators.own import OwnModel
from benchmark.generators.pools import Pool
from benchmark.generators.recipe import PoolRecipe
from benchmark.generators.scratch import TIMES, ConditionalUNet, noise_schedule, trained_scratch, weighted_errors
from benchmark.generators.scratch_sampling import Request, ScratchSampler
from benchmark.records.store import Store
from benchmark.tasks.lazy import LazyImages
from benchmark.training.backbones import state_digest

CPU = torch.device("cpu")
CLASSES, ATTRIBUTES, SIZE = 2, 3, 8
HOW = FromScratch(
    steps=6, batch_size=4, learning_rate=1e-2, channels=(8, 16), patch=2, condition="group", sampling_steps=3,
    sampling_batch=4,
)  # fmt: skip
REQUESTS: dict[str, Request] = {f"{y}": (y, None) for y in range(CLASSES)} | {
    f"{y}{a}": (y, a) for y in range(CLASSES) for a in range(ATTRIBUTES)
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model only waits for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn(y: NDArray[np.int64], a: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The left or the right half is lit (label), in red, green or blue (attribute)."""
    images = np.zeros((len(y), SIZE, SIZE, 3), dtype=np.uint8)
    for image, label, attribute in zip(images, y, a, strict=True):
        image[:, slice(0, 4) if label == 0 else slice(4, 8), attribute] = 255
    return images


Y = np.array([0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1], dtype=np.int64)
A = np.array([0, 1, 2, 0, 1, 2, 0, 0, 0, 2, 2], dtype=np.int64)
IMAGES = drawn(Y, A)


def train(store: Store | Path, how: FromScratch = HOW, **options: Any) -> OwnModel:
    arguments: dict[str, Any] = {
        "images": IMAGES, "y": Y, "a": A, "how": how, "n_classes": CLASSES, "n_attributes": ATTRIBUTES, "seed": 0,
        "device": CPU, "precision": "float32", "progress": lambda _: None,
    }  # fmt: skip
    return trained_scratch(store if isinstance(store, Store) else Store(store), **(arguments | options))


def sampler(model: OwnModel, how: FromScratch = HOW, **options: Any) -> ScratchSampler:
    arguments: dict[str, Any] = {
        "n_classes": CLASSES, "n_attributes": ATTRIBUTES, "image_size": SIZE, "device": CPU, "precision": "float32",
    }  # fmt: skip
    return ScratchSampler.load(model, how, REQUESTS, **(arguments | options))


def sample(source: ScratchSampler, prompts: list[str], seeds: list[int] | None = None, **options: Any) -> Any:
    arguments = {"steps": 3, "guidance": 1.0, "height": SIZE, "width": SIZE, "batch_size": 4}
    return source.sample(prompts, [""] * len(prompts), seeds or list(range(len(prompts))), **(arguments | options))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OwnModel:
    """A model that nobody interrupted."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("store"))


@contextlib.contextmanager
def batches(allow: int = 10**9) -> Iterator[list[int]]:
    """The batch of each forward pass of a network; larger ones than allowed meet a real failure of the allocator."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, ConditionalUNet):
            sizes.append(len(inputs[0]))
            if len(inputs[0]) > allow:
                torch.empty(2**60, dtype=torch.uint8)

    handle = register_module_forward_pre_hook(note)
    try:
        yield sizes
    finally:
        handle.remove()


class Stopping:
    """Counts the steps of a training, and interrupts it."""

    def __init__(self, after: int = 0) -> None:
        self.calls: list[int] = []
        self._after = after

    def __call__(self, steps: int) -> None:
        self.calls.append(steps)
        if len(self.calls) == self._after:
            raise KeyboardInterrupt


# --- training ------------------------------------------------------------------------------------------------------


def test_a_model_is_stored_with_its_report(model: OwnModel) -> None:
    assert model.kind == "from-scratch"
    assert model.images == len(Y)
    assert model.seconds > 0
    assert [row["step"] for row in model.curves] == [6]
    assert model.folder is not None
    assert model.sha256 == state_digest(load_file(model.folder / scratch.WEIGHTS))
    assert model.as_record() == {"name": "from-scratch", "revision": None, "content_sha256": model.sha256}


def test_the_same_seed_gives_the_same_model_and_another_one_another(model: OwnModel, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    assert train(tmp_path).sha256 == model.sha256
    assert train(tmp_path, seed=1).sha256 != model.sha256
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_that_are_read_when_asked_for_give_the_same_model(
    model: OwnModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.training.pixels._CPU_LIMIT", 0)
    lazy = LazyImages(len(Y), SIZE, lambda positions: IMAGES[positions])
    assert train(tmp_path, images=lazy).sha256 == model.sha256


def test_a_stored_model_returns_at_once_whatever_is_sampled_from_it(tmp_path: Path) -> None:
    store, counted = Store(tmp_path), Stopping()
    first = train(store)
    other = dataclasses.replace(HOW, sampling_steps=9, guidance=2.0, sampling_batch=7)
    with batches() as sizes:
        assert train(store, other, progress=counted) == first
    assert sizes == []
    assert counted.calls == [6]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"precision": "bfloat16"},
        {"images": 255 - IMAGES},
        {"y": 1 - Y},
        {"a": A[::-1].copy()},
        {"n_classes": 3},
        {"n_attributes": 4},
        {"how": dataclasses.replace(HOW, steps=5)},
        {"how": dataclasses.replace(HOW, learning_rate=2e-2)},
        {"how": dataclasses.replace(HOW, condition="class")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_a_training_makes_another_entry(
    model: OwnModel, tmp_path: Path, change: dict[str, Any]
) -> None:
    other = train(tmp_path, **change)
    assert model.folder is not None
    assert other.folder is not None
    assert other.folder.name != model.folder.name
    assert other.sha256 != model.sha256


def test_a_model_of_classes_does_not_look_at_attributes(tmp_path: Path) -> None:
    store, how = Store(tmp_path), dataclasses.replace(HOW, condition="class")
    first = train(store, how)
    assert train(store, how, a=np.full_like(A, -1), n_attributes=1) == first


def test_images_without_an_attribute_belong_to_no_value(tmp_path: Path) -> None:
    some = np.where(np.arange(len(A)) % 2, A, -1)
    assert train(tmp_path, a=some).sha256 != train(tmp_path).sha256


def test_both_precisions_train(tmp_path: Path) -> None:
    assert len(train(tmp_path, precision="bfloat16").curves) == 1


def test_small_sets_have_small_batches(tmp_path: Path) -> None:
    with batches() as sizes:
        train(tmp_path, images=IMAGES[:3], y=Y[:3], a=A[:3])
    assert sizes == [3] * 6


def test_the_loss_falls_and_is_logged(tmp_path: Path) -> None:
    curve = train(tmp_path, dataclasses.replace(HOW, steps=60, batch_size=8)).curves
    assert [row["step"] for row in curve] == [25, 50, 60]
    losses = [float(row["training_loss"] or 0) for row in curve]
    assert losses[2] < 0.7 * losses[0]


def test_the_noise_ends_in_noise_alone_and_grows_with_the_patch() -> None:
    signal, patched = (noise_schedule(patch).alphas_cumprod.double() for patch in (1, 4))
    assert float(signal[-1]) == float(patched[-1]) == 0
    assert float(patched[0]) > 0.999
    middle = slice(100, 900)
    shift = (signal / (1 - signal)).log()[middle] - (patched / (1 - patched)).log()[middle]
    torch.testing.assert_close(shift, torch.full_like(shift, 2 * np.log(4)), rtol=0, atol=1e-2)


def test_an_error_weighs_as_that_of_the_velocity_up_to_five() -> None:
    schedule, times = noise_schedule(1), torch.tensor([999, 600, 10])
    clean, predicted = torch.zeros(3, 3, 2, 2), torch.full((3, 3, 2, 2), 0.5)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy, velocity = schedule.add_noise(clean, noise, times), schedule.get_velocity(clean, noise, times)
    signal = schedule.alphas_cumprod[times].view(3, 1, 1, 1)
    implied = (signal.sqrt() * noisy - predicted) / (1 - signal).sqrt()
    of_velocity = (implied - velocity).square().flatten(1).mean(1)
    weighted = weighted_errors(predicted, clean, times, schedule)
    torch.testing.assert_close(weighted[:2], of_velocity[:2])
    torch.testing.assert_close(weighted[2], torch.tensor(5 * 0.25))
    assert float(of_velocity[2]) > 5


# --- interruptions -------------------------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check, and keep, every second step."""
    monkeypatch.setattr(scratch, "_CHECK_EVERY", 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> OwnModel:
    """The model with a row of its curve for every second step."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "_CHECK_EVERY", 2)
        return train(tmp_path_factory.mktemp("store"))


def unfinished(store: Path) -> list[Path]:
    return list((store / scratch.KIND).glob(".tmp-unfinished-*"))


@pytest.mark.parametrize(
    ("after", "progress"),
    [
        (1, [0] + [1] * 6),  # before anything was kept
        (3, [2] + [1] * 4),  # two steps are kept
        (6, [4] + [1] * 2),  # the very last step is done, but not kept yet
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_model(
    often: None, whole: OwnModel, tmp_path: Path, after: int, progress: list[int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=Stopping(after))
    assert len(unfinished(tmp_path)) == 1
    counted = Stopping()
    with batches() as sizes:
        found = train(tmp_path, progress=counted)
    assert counted.calls == progress
    assert len(sizes) == len(progress) - 1
    assert (found.sha256, found.curves) == (whole.sha256, whole.curves)
    assert unfinished(tmp_path) == []


def test_a_training_may_be_interrupted_again_and_again(often: None, whole: OwnModel, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, progress=Stopping(4))
    assert train(tmp_path).sha256 == whole.sha256


def test_what_lies_on_disk_in_the_midst_of_a_training_is_enough_to_go_on_from(
    often: None, whole: OwnModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9: no handler runs, there is only what was saved from time to time."""
    monkeypatch.setattr(scratch, "_SAVE_SECONDS", 0.0)
    killed, steps = tmp_path / "killed", 0

    def copy_in_the_fifth_step(_: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            shutil.copytree(unfinished(tmp_path / "running")[0], killed / scratch.KIND / unfinished_name())

    def unfinished_name() -> str:
        return unfinished(tmp_path / "running")[0].name

    train(tmp_path / "running", progress=copy_in_the_fifth_step)
    counted = Stopping()
    found = train(killed, progress=counted)
    assert counted.calls == [4, 1, 1]
    assert (found.sha256, found.curves) == (whole.sha256, whole.curves)


def test_a_damaged_file_is_as_good_as_none(often: None, whole: OwnModel, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=Stopping(5))
    (file,) = unfinished(tmp_path)[0].iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    counted = Stopping()
    assert train(tmp_path, progress=counted).sha256 == whole.sha256
    assert counted.calls == [1] * 6


def test_a_store_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / scratch.KIND).write_text("in the way")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        train(store)


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_learning_rate_that_is_too_high_is_named(often: None, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDiverged,
        match=r"from scratch: the loss is (nan|inf) at step \d \(learning rate 1e\+18\); lower the learning rate",
    ):
        train(tmp_path, dataclasses.replace(HOW, learning_rate=1e18))
    (file,) = unfinished(tmp_path)[0].iterdir()
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(file).values())


def test_a_last_step_that_ruins_the_weights_is_found_although_its_loss_was_fine(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"a weight is not finite \(loss .*\) at step 1 "):
        train(tmp_path, dataclasses.replace(HOW, steps=1, learning_rate=1e39))


@pytest.mark.parametrize(("batch_size", "advice"), [(4, "try a batch size of 2"), (1, "use a device with more memory")])
def test_too_little_memory_suggests_a_smaller_batch(tmp_path: Path, batch_size: int, advice: str) -> None:
    how = dataclasses.replace(HOW, batch_size=batch_size)
    with (
        batches(allow=0),
        pytest.raises(
            GeneratorError, match=f"cpu has not enough memory .* batch size {batch_size} at 8×8 pixels; {advice}"
        ),
    ):
        train(tmp_path, how)


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        train(tmp_path, progress=fail)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[:, :7, :7]}, r"images of 7 pixels cannot be divided by 4 \(a patch of 2, halved 1 times\)"),
        ({"images": IMAGES[:, :4]}, "square images"),
        ({"images": IMAGES[:3]}, "give one label and attribute per image"),
        ({"y": Y[:3]}, "give one label and attribute per image"),
        ({"a": A[:3]}, "give one label and attribute per image"),
        ({"images": IMAGES[:0], "y": Y[:0], "a": A[:0]}, "0 labels"),
        ({"y": Y + 1}, r"labels span 1\.\.2, allowed are 0\.\.1"),
        ({"y": Y - 1}, r"labels span -1\.\.0, allowed are 0\.\.1"),
        ({"a": A - 2}, r"attributes span -2\.\.0, allowed are -1\.\.2"),
        ({"a": A + 1}, r"attributes span 1\.\.3, allowed are -1\.\.2"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        train(tmp_path, **change)


@pytest.mark.parametrize("channels", [(8,), (7, 9), (12, 18), (32, 64, 64)])
def test_any_widths_make_a_network(channels: tuple[int, ...]) -> None:
    how = dataclasses.replace(HOW, channels=channels, patch=1, layers=2)
    network = ConditionalUNet(how, n_classes=2, n_attributes=3, image_size=8)
    image, number = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    assert network(image, number, number, number).shape == image.shape


# --- sampling ------------------------------------------------------------------------------------------------------


def test_images_depend_on_seed_and_request_and_on_nothing_beside_them(model: OwnModel) -> None:
    source = sampler(model)
    together = sample(source, ["00", "12", "1", "01", "0"])
    assert together.shape == (5, SIZE, SIZE, 3)
    assert together.dtype == np.uint8
    for k, prompt in enumerate(["00", "12", "1", "01", "0"]):
        alone = sample(source, [prompt], [k]).astype(int)
        assert int(np.abs(alone[0] - together[k]).max()) <= 1
    assert not np.array_equal(sample(source, ["00"], [0]), sample(source, ["00"], [1]))
    assert not np.array_equal(sample(source, ["00"], [0]), sample(source, ["12"], [0]))
    assert not np.array_equal(sample(source, ["00"], [0]), sample(source, ["0"], [0]))


def test_every_pass_has_one_shape_and_guidance_doubles_it(model: OwnModel) -> None:
    source, prompts = sampler(model), ["00"] * 5
    with batches() as sizes:
        sample(source, prompts)
    assert sizes == [4] * 6
    with batches() as sizes:
        sample(source, prompts, guidance=2.0)
    assert sizes == [8] * 6


def test_without_guidance_scale_nothing_is_asked_for(model: OwnModel) -> None:
    source = sampler(model)
    free = [sample(source, [prompt], [0], guidance=0.0).astype(int) for prompt in ("00", "12")]
    assert int(np.abs(free[0] - free[1]).max()) <= 1
    near, far = (sample(source, ["00"], [0], guidance=scale).astype(int) for scale in (1.001, 4.0))
    plain = sample(source, ["00"], [0]).astype(int)
    assert int(np.abs(near - plain).max()) <= 1
    assert int(np.abs(far - plain).max()) > 1


def test_a_pool_takes_the_sampler(model: OwnModel, tmp_path: Path) -> None:
    source = sampler(model)
    recipe = PoolRecipe(
        task="drawn@1", generator=model.as_record(), prompts={group: text for text, group in REQUESTS.items()},
        negative_prompt="", scheduler="DDIMScheduler", steps=3, guidance=1.0, image_size=SIZE, batch_size=4,
    )  # fmt: skip
    pool, counts = Pool(Store(tmp_path), recipe), {(0, None): 2, (1, 2): 3}
    pool.ensure(counts, lambda: source)
    images = pool.read(counts)
    assert images.y.tolist() == [0, 0, 1, 1, 1]
    assert images.a.tolist() == [-1, -1, 2, 2, 2]


def test_a_model_of_classes_refuses_groups(tmp_path: Path) -> None:
    how = dataclasses.replace(HOW, condition="class")
    source = sampler(train(tmp_path, how), how)
    assert sample(source, ["0", "1"]).shape == (2, SIZE, SIZE, 3)
    with pytest.raises(InvalidValue, match=r"conditioned on the class alone; it knows no group \(0, 1\)"):
        sample(source, ["01"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 16}, "makes images of 8 pixels, not 16×8"),
        ({"steps": TIMES + 1}, "1001 denoising steps are more than the 1000 times"),
        ({"adapters": ["some"]}, "neither negative prompts nor adapters"),
    ],
)
def test_what_cannot_be_sampled_is_refused(model: OwnModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        sample(sampler(model), ["00"], **options)


def test_unknown_requests_are_refused(model: OwnModel) -> None:
    source, rest = sampler(model), {"steps": 1, "guidance": 1.0, "height": SIZE, "width": SIZE, "batch_size": 1}
    with pytest.raises(InvalidValue, match="no request 'a cat'"):
        sample(source, ["a cat"])
    with pytest.raises(InvalidValue, match="neither negative prompts nor adapters"):
        source.sample(["00"], ["ugly"], [0], **rest)
    with pytest.raises(InvalidValue, match="1 prompts, 1 negative ones and 2 seeds"):
        source.sample(["00"], [""], [0, 1], **rest)
    beyond = ScratchSampler.load(
        model, HOW, {"x": (2, 0)}, n_classes=2, n_attributes=3, image_size=SIZE, device=CPU, precision="float32"
    )
    with pytest.raises(InvalidValue, match=r"knows 2 labels and 3 attributes, not \(2, 0\)"):
        sample(beyond, ["x"])


def test_values_that_are_not_finite_are_named(model: OwnModel) -> None:
    for value in (float("nan"), float("inf")):
        source = sampler(model)
        with torch.no_grad():
            source._network.label.weight[1] = value
        assert sample(source, ["00"]).shape == (1, SIZE, SIZE, 3)
        with pytest.raises(GeneratorError, match=r"NaN or infinite values for '12' with seed 1 in float32"):
            sample(source, ["00", "12"])


def test_too_little_memory_for_sampling_suggests_a_smaller_batch(model: OwnModel) -> None:
    with batches(allow=2), pytest.raises(GeneratorError, match=r"for 4 images at once .* try a batch size of 2"):
        sample(sampler(model), ["00"])


def test_a_model_of_another_kind_or_shape_is_refused(model: OwnModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="a model of kind 'bootstrap' is no diffusion model"):
        sampler(OwnModel("bootstrap", None, "0" * 64, 1, 0.0, ()))
    with pytest.raises(GeneratorError, match="are not those of a network with 5 labels"):
        sampler(model, n_classes=5)
    with pytest.raises(DamagedFile, match="cannot be read"):
        sampler(dataclasses.replace(model, folder=tmp_path))


# --- the loss of given images --------------------------------------------------------------------------------------


def times_and_noise(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, TIMES, (n,), generator=random), torch.randn((n, 3, SIZE, SIZE), generator=random)


def test_the_loss_of_an_image_does_not_depend_on_the_others(model: OwnModel) -> None:
    source, (times, noise) = sampler(model), times_and_noise(11)
    requests: list[Request | None] = [None, (0, None), (1, 2)] * 3 + [None, (1, 0)]
    losses = source.denoising_loss(IMAGES, requests, times, noise)
    assert losses.shape == (11,)
    assert losses.dtype == np.float32
    for k in range(11):
        alone = source.denoising_loss(IMAGES[k : k + 1], requests[k : k + 1], times[k : k + 1], noise[k : k + 1])
        np.testing.assert_allclose(alone[0], losses[k], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, r, t, n: (i[:, :4], r, t, n), "knows images of 8 pixels"),
        (lambda i, r, t, n: (i, r[:2], t, n), "11 images, 2 requests, 11 times and 11 noises"),
        (lambda i, r, t, n: (i, r, t + TIMES, n), r"times span \d+\.\.\d+, allowed are 0\.\.999"),
    ],
)
def test_losses_of_what_does_not_fit_are_refused(
    model: OwnModel, change: Callable[..., tuple[Any, ...]], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        sampler(model).denoising_loss(*change(IMAGES, [None] * 11, *times_and_noise(11)))


# --- what it is for ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trained_model_shows_what_it_is_asked_for_and_keeps_the_shares_of_what_it_is_not(tmp_path: Path) -> None:
    groups = [(label, attribute) for label in range(CLASSES) for attribute in range(ATTRIBUTES)]
    copies = [20, 5, 5, 5, 20, 5]
    y, a = (np.repeat(np.array(values, dtype=np.int64), copies) for values in zip(*groups, strict=True))
    how = FromScratch(
        steps=400, batch_size=32, learning_rate=3e-3, channels=(16, 32), patch=2, condition="group", sampling_batch=32
    )
    source = sampler(train(tmp_path, how, images=drawn(y, a), y=y, a=a), how)

    for label, attribute in groups:
        images = sample(source, [f"{label}{attribute}"] * 32, steps=8, batch_size=32).astype(int)
        template = drawn(np.array([label]), np.array([attribute])).astype(int)
        assert (np.abs(images - template).mean(axis=(1, 2, 3)) < 25).mean() >= 0.9
    lit = sample(source, ["0"] * 96, steps=8, batch_size=32)[:, :, :4].astype(int).mean(axis=(1, 2))
    assert (lit.max(axis=1) > 200).mean() > 0.9
    shares = np.bincount(lit.argmax(axis=1), minlength=3) / 96
    np.testing.assert_allclose(shares, [2 / 3, 1 / 6, 1 / 6], atol=0.15)

    times, noise = torch.full((6,), 600), torch.randn((6, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    images = drawn(*(np.array(values, dtype=np.int64) for values in zip(*groups, strict=True)))
    own, wrong = (
        source.denoising_loss(images, requests, times, noise)
        for requests in (groups, [(1 - label, (a + 1) % 3) for label, a in groups])
    )
    assert (own < 0.5 * wrong).all()
