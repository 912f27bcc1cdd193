"""The invertible network inverts exactly, its determinant is the true one, its conditions add, its training repeats."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.contract.generation import Invertible
from benchmark.errors import GeneratorError, InvalidValue, TrainingDiverged
from benchmark.generators import autoencoder, invertible
from benchmark.generators.autoencoder import Autoencoder, with_copies
from benchmark.generators.invertible import InvertibleNetwork, trained_invertible
from benchmark.generators.own import OwnModel
from benchmark.records.store import Store
from benchmark.tasks.lazy import LazyImages
from benchmark.training.backbones import state_digest

SIZE = 16
SIZES = (3, 2)
CPU = torch.device("cpu")
HOW = Invertible(autoencoder_steps=4, steps=4, batch_size=8, learning_rate=1e-3, latent=8, blocks=2, width=16)
DEEP = dataclasses.replace(HOW, autoencoder_steps=20, steps=30, blocks=20, learning_rate=3e-3)
"""The default number of blocks."""

FACTORS: NDArray[np.int64] = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [2, 1]] * 3)
EVERY = np.array([[y, a] for y in range(SIZES[0]) for a in range(SIZES[1])])


def patches(n: int, seed: int = 0) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2)


IMAGES = patches(len(FACTORS))
Train = Callable[..., OwnModel]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    def run(how: Invertible = HOW, factors: NDArray[np.int64] = FACTORS, **options: Any) -> OwnModel:
        settings: dict[str, Any] = {
            "sizes": SIZES, "seed": 0, "device": CPU, "precision": "float32", "progress": lambda _: None,
            "images": IMAGES, "store": "store",
        }  # fmt: skip
        settings |= options
        return trained_invertible(
            Store(tmp_path / settings.pop("store")), settings.pop("images"), factors, settings.pop("sizes"), how,
            **settings,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> InvertibleNetwork:
    """A trained network of the default number of blocks."""
    model = trained_invertible(
        Store(tmp_path_factory.mktemp("store")), IMAGES, FACTORS, SIZES, DEEP, seed=0, device=CPU,
        precision="float32", progress=lambda _: None,
    )  # fmt: skip
    return InvertibleNetwork.load(model, DEEP, SIZES, SIZE, CPU)


def numbers(n: int, seed: int = 0, latent: int = HOW.latent) -> torch.Tensor:
    return torch.randn((n, latent), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_inversion_is_exact_under_every_condition_at_the_default_depth(
    deep: InvertibleNetwork, dtype: torch.dtype, most: float
) -> None:
    network = InvertibleNetwork(DEEP, SIZES, SIZE)
    network.load_state_dict(deep.state_dict())
    network.to(dtype).eval()
    z = 2 * numbers(len(EVERY)).to(dtype)
    with torch.no_grad():
        v, log_det = network(z, EVERY)
        assert v.dtype == dtype
        assert (network.inverse(v, EVERY) - z).abs().max() < most
        back, _ = network(network.inverse(z, EVERY), EVERY)
        assert (back - z).abs().max() < most
    # It is no identity that is inverted, and conditions matter.
    assert (v - z).abs().mean() > 0.1
    assert log_det.unique().numel() == len(EVERY)
    same = z[:1].expand(len(EVERY), -1)
    assert (network(same, EVERY)[0].std(0) > 1e-3).all()


def test_the_logarithm_of_the_determinant_is_that_of_the_jacobian(train: Train) -> None:
    network = InvertibleNetwork.load(train(), HOW, SIZES, SIZE, CPU).double()
    for k, z in enumerate(numbers(len(EVERY)).double()):
        condition = EVERY[k : k + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x, c=condition: network(x[None], c)[0][0], z)
        _, log_det = network(z[None], condition)
        sign, expected = torch.linalg.slogdet(jacobian)
        assert sign.abs() == 1
        assert log_det.item() == pytest.approx(expected.item(), abs=1e-9)


def test_embeddings_add_so_that_a_pair_without_an_image_composes(deep: InvertibleNetwork) -> None:
    assert not (FACTORS == [1, 1]).all(1).any()
    seen = deep.condition(np.array([[1, 0], [0, 1], [0, 0]]))
    unseen = deep.condition(np.array([[1, 1]]))[0]
    assert torch.allclose(unseen, seen[0] + seen[1] - seen[2], atol=1e-5)
    label, attribute = (table.weight for table in deep.embeddings)
    assert torch.equal(unseen, label[1] + attribute[1])


def test_conditions_may_be_arrays_also_read_only_ones_or_tensors(deep: InvertibleNetwork) -> None:
    frozen = EVERY.copy()
    frozen.setflags(write=False)
    assert torch.equal(deep.condition(frozen), deep.condition(torch.from_numpy(EVERY)))


def test_a_translation_to_the_own_condition_is_the_reconstruction(deep: InvertibleNetwork) -> None:
    reconstructed = deep.decode(deep.encode(IMAGES))
    moved = deep.translate(IMAGES, FACTORS, FACTORS)
    assert moved.dtype == np.uint8
    assert moved.shape == IMAGES.shape
    assert np.abs(moved.astype(int) - reconstructed).max() <= 1
    others = FACTORS[:, :1], 1 - FACTORS[:, 1:]
    assert np.abs(deep.translate(IMAGES, FACTORS, np.hstack(others)).astype(int) - reconstructed).max() > 5


def test_noise_moves_a_translation_and_the_same_v_gives_the_same_image(deep: InvertibleNetwork) -> None:
    plain = deep.translate(IMAGES, FACTORS, FACTORS)
    noisy = deep.translate(IMAGES, FACTORS, FACTORS, noise=numbers(len(IMAGES)))
    assert not np.array_equal(plain, noisy)
    v, _ = deep(deep.encode(IMAGES), FACTORS)
    assert np.array_equal(deep.matched(v, FACTORS), plain)
    assert np.array_equal(deep.matched(v + numbers(len(IMAGES)), FACTORS), noisy)


def test_latents_that_are_not_finite_are_refused(deep: InvertibleNetwork) -> None:
    with pytest.raises(GeneratorError, match="NaN or infinite"):
        deep.matched(torch.full((1, HOW.latent), torch.nan), EVERY[:1])


def test_the_latents_of_the_training_images_are_standardised(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "_MOST_COPIES", 0)
    network = InvertibleNetwork.load(train(), HOW, SIZES, SIZE, CPU)
    mean, deviation = network.posterior(IMAGES)
    z = network.encode(IMAGES)
    assert z.mean(0).abs().max() < 1e-5
    noise = (deviation / network.scale).square().mean(0)
    assert torch.allclose(z.var(0, correction=0) + noise, torch.ones(HOW.latent), atol=1e-4)
    assert torch.allclose(z * network.scale + network.mean, mean, atol=1e-5)


def test_training_repeats_and_another_seed_differs(train: Train) -> None:
    first, again, other = train(), train(store="second"), train(seed=1)
    assert first.sha256 == again.sha256
    assert first.curves == again.curves
    assert other.sha256 != first.sha256
    weights = InvertibleNetwork.load(first, HOW, SIZES, SIZE, CPU).state_dict()
    assert first.sha256 == state_digest(weights)
    assert first.as_record() == {"name": "invertible", "revision": None, "content_sha256": first.sha256}


def test_training_learns(train: Train) -> None:
    model = train(DEEP)
    reconstruction = [row["reconstruction_error"] for row in model.curves if "reconstruction_error" in row]
    likelihood = [row["network_loss"] for row in model.curves if "network_loss" in row]
    assert reconstruction[-1] < 0.9 * reconstruction[0]
    assert likelihood[-1] < likelihood[0] - 0.1
    assert [row["step"] for row in model.curves] == sorted({row["step"] for row in model.curves})
    assert model.curves[-1]["step"] == DEEP.autoencoder_steps + DEEP.steps


def test_a_finished_training_is_taken_from_the_store(train: Train, tmp_path: Path) -> None:
    first = train()
    done: list[int] = []
    second = train(progress=done.append)
    assert second == first
    assert done == [HOW.autoencoder_steps, HOW.steps]
    # The condition is said by the factors, and the autoencoder does not see them.
    assert train(dataclasses.replace(HOW, condition="attribute")) == first
    other = train(factors=FACTORS[:, 1:], sizes=SIZES[1:])
    assert other.sha256 != first.sha256
    assert len(list((tmp_path / "store" / autoencoder.KIND).iterdir())) == 1
    assert len(list((tmp_path / "store" / invertible.KIND).iterdir())) == 2


def test_an_interrupted_training_goes_on_behind_the_autoencoder_to_the_same_result(train: Train) -> None:
    done: list[int] = []

    def interrupt(n: int) -> None:
        done.append(n)
        if len(done) == HOW.autoencoder_steps + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(progress=interrupt)
    resumed: list[int] = []
    model = train(progress=resumed.append)
    assert resumed == [HOW.autoencoder_steps, *[1] * HOW.steps]
    assert model.sha256 == train(store="undisturbed").sha256


def test_global_random_states_are_left_as_they_were(train: Train) -> None:
    np.random.seed(123)
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()
    InvertibleNetwork.load(train(), HOW, SIZES, SIZE, CPU)
    for one, other in zip(numpy_before, np.random.get_state(), strict=True):
        assert np.array_equal(one, other)
    assert torch.equal(torch_before, torch.get_rng_state())


def test_images_may_be_read_when_they_are_asked_for(train: Train) -> None:
    lazy = LazyImages(len(IMAGES), SIZE, lambda positions: IMAGES[positions])
    assert train(images=lazy, store="lazy").sha256 == train().sha256


def test_few_images_get_copies_and_many_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    several = with_copies(IMAGES, seed=0)
    assert several.shape == (5 * len(IMAGES), SIZE, SIZE, 3)
    assert np.array_equal(several[: len(IMAGES)], IMAGES)
    assert not np.array_equal(several[len(IMAGES) : 2 * len(IMAGES)], several[2 * len(IMAGES) : 3 * len(IMAGES)])
    monkeypatch.setattr(autoencoder, "_ENOUGH_IMAGES", 2 * len(IMAGES))
    assert len(with_copies(IMAGES, seed=0)) == 3 * len(IMAGES)
    monkeypatch.setattr(autoencoder, "_MOST_BYTES", IMAGES.nbytes - 1)
    assert with_copies(IMAGES, seed=0) is IMAGES


def test_rare_combinations_are_drawn_more_often_than_they_stand() -> None:
    weights = invertible._weights(np.array([[0, 0]] * 9 + [[1, 0]] * 4 + [[1, 1]]))
    assert weights.tolist() == pytest.approx([1 / 3] * 9 + [1 / 2] * 4 + [1])


@pytest.mark.parametrize("size", [5, 16, 28, 33, 64])
def test_the_autoencoder_gives_back_the_size_of_its_images(size: int) -> None:
    model = Autoencoder(size, 8)
    mean, deviation = model.encode(torch.zeros(2, 3, size, size))
    assert mean.shape == deviation.shape == (2, 8)
    assert bool((deviation > 0).all())
    assert model.decode(mean).shape == (2, 3, size, size)


def test_a_diverged_training_says_which_where_and_at_what_rate(train: Train, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDiverged, match=r"training the autoencoder: the loss is nan at step \d+ \(learning rate 1e\+20\)"
    ):
        train(dataclasses.replace(HOW, autoencoder_steps=50, learning_rate=1e20))
    # One step that is too large shows only when something is computed with the weights that it left.
    with pytest.raises(TrainingDiverged, match=r"training the invertible network: the loss is nan at step"):
        train(dataclasses.replace(HOW, autoencoder_steps=1, learning_rate=1e20))
    assert not [path for path in tmp_path.glob("store/invertible/*") if not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("images", "factors", "said"),
    [
        (IMAGES, FACTORS[:-1], "do not fit"),
        (IMAGES, FACTORS[:, :1], "do not fit"),
        (IMAGES, FACTORS - 1, r"span \[-1, -1\] to \[1, 0\]"),
        (IMAGES, FACTORS + 1, r"allowed are 0 to \[2, 1\]"),
        (IMAGES[:, :8], FACTORS, "square"),
        (IMAGES[:0], FACTORS[:0], "at least one"),
    ],
)
def test_images_and_conditions_that_do_not_fit_are_refused(
    train: Train, images: NDArray[np.uint8], factors: NDArray[np.int64], said: str
) -> None:
    with pytest.raises(InvalidValue, match=said):
        train(images=images, factors=factors)


def test_compiling_the_library_anew_warns_of_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    invertible._freia()
    for name in [name for name in sys.modules if name.split(".")[0] == "FrEIA"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    framework, modules = invertible._freia()
    assert list(tmp_path.rglob("coupling_layers*.pyc"))
    assert framework.SequenceINN.__name__ == "SequenceINN"
    assert modules.ActNorm.__name__ == "ActNorm"
