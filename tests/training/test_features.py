"""What the last layer sees of real digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.errors import NotAvailable
from benchmark.tasks.catalog import load_task
from benchmark.tasks.lazy import LazyImages
from benchmark.training.backbones import SmallCNN, build_backbone, fresh_state, load_backbone, state_digest
from benchmark.training.features import Normaliser, features_of, last_layer, penultimate
from benchmark.training.pixels import Pixels
from benchmark.training.specs import backbone_spec

CPU = torch.device("cpu")
SPEC = backbone_spec("small-cnn", 10)
HALF = (0.5, 0.5, 0.5)


def small_cnn() -> SmallCNN:
    model = load_backbone(SPEC, fresh_state(SPEC, 0))
    assert isinstance(model, SmallCNN)
    return model


def digits(n: int = 24) -> np.ndarray:
    task = load_task("colorized-digits")
    return task.render(task.manifest("0.9", 0).splits["train"])[:n]


def features(model: nn.Module, images: np.ndarray | LazyImages, precision: str = "float32") -> np.ndarray:
    return penultimate(model, images, mean=HALF, std=HALF, device=CPU, precision=precision)  # type: ignore[arg-type]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean(1)).mean(1)


def test_the_last_layer_maps_the_features_to_the_logits() -> None:
    model, images = small_cnn(), digits()
    seen = features(model, images)
    assert seen.dtype == np.float32
    assert seen.shape == (24, 128)
    normalised = torch.from_numpy((images / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        np.testing.assert_allclose(seen, model.backbone(normalised), atol=1e-5)
        np.testing.assert_allclose(model.fc(torch.from_numpy(seen)), model(normalised), atol=1e-5)


def test_features_of_an_image_depend_on_no_other_image_and_leave_the_model_as_it_was() -> None:
    model, images = small_cnn().train(), digits()
    before = state_digest(model.state_dict())
    np.testing.assert_allclose(features(model, images)[5:6], features(model, images[5:6]), atol=1e-6)
    assert state_digest(model.state_dict()) == before
    assert not model.training
    assert not model.fc._forward_pre_hooks


def test_images_that_are_read_when_asked_for_give_the_same_features() -> None:
    images = digits()
    lazy = LazyImages(len(images), 32, lambda index: images[index])
    assert np.array_equal(features(small_cnn(), lazy), features(small_cnn(), images))


def test_half_precision_gives_single_precision_numbers_near_the_exact_ones() -> None:
    exact, rounded = features(small_cnn(), digits()), features(small_cnn(), digits(), "bfloat16")
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def test_no_image_has_no_features_of_the_right_width() -> None:
    assert features(small_cnn(), digits(0)).shape == (0, 128)


def test_features_can_be_trained_on() -> None:
    model = small_cnn()
    seen = features_of(model, Pixels(digits(), CPU), Normaliser(HALF, HALF, CPU), CPU, "float32")
    model.fc(seen).sum().backward()
    assert model.fc.weight.grad is not None
    np.testing.assert_allclose(model.fc.weight.grad[0], seen.sum(0), rtol=1e-5)


def test_every_backbone_has_a_last_layer() -> None:
    assert last_layer(build_backbone(backbone_spec("resnet18", 7))).out_features == 7
    assert features(build_backbone(backbone_spec("resnet18", 7)), digits(2)).shape == (2, 512)


def test_a_module_without_a_linear_last_layer_is_refused_by_name() -> None:
    with pytest.raises(NotAvailable, match="Sequential has no linear layer `fc`"):
        features(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), digits(2))
    convolution = small_cnn()
    convolution.fc = nn.Conv2d(1, 1, 1)  # type: ignore[assignment]
    with pytest.raises(NotAvailable, match="SmallCNN has no linear layer"):
        features(convolution, digits(2))


def test_a_last_layer_that_sees_no_single_vector_per_image_is_refused() -> None:
    with pytest.raises(NotAvailable, match="not applied once to one vector"):
        features(Tokens(), digits(2))
