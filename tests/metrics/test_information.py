"""Information in training mixtures equals the golden values computed from the authors' counts (references.md)."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import InvalidValue
from benchmark.metrics.information import information_y_a, information_y_ag, mutual_information

REAL = {
    # [y][a]: CelebA-HQ smiling by (female, male); UTKFace gender (male, female) by age (old, young).
    "celeba-hq .999": [[6, 5335], [7797, 8]],
    "utkface .95": [[50, 934], [5731, 302]],
    "utkface .999": [[1, 934], [5731, 6]],
}
GOLDEN = {
    # arm: I(Y;A), I(Y;(A,G)) in bits
    "celeba-hq .999": {"real": (0.963, 0.963), "usb": (0, 0.734), "asb": (0.129, 0.412), "ffr": (0, 0)},
    "utkface .95": {"real": (0.384, 0.384), "usb": (0, 0.494), "asb": (0.042, 0.210), "ffr": (0, 0)},
    "utkface .999": {"real": (0.575, 0.575), "usb": (0, 0.541), "asb": (0.048, 0.256), "ffr": (0, 0)},
}


def mixture(real: list[list[int]], arm: str) -> np.ndarray:
    """Real and synthetic counts of an arm, as Qraitem 2024's code makes them."""
    counts = np.array(real)
    fill = counts.max() - counts
    evenly = np.full(counts.shape, fill.sum() // counts.size)
    synthetic = {"real": np.zeros_like(counts), "usb": fill, "asb": evenly, "ffr": evenly}[arm]
    return np.stack([np.zeros_like(counts) if arm == "ffr" else counts, synthetic], axis=2)


@pytest.mark.parametrize("level", GOLDEN)
@pytest.mark.parametrize("arm", ["real", "usb", "asb", "ffr"])
def test_golden_values_of_the_papers_arms(level, arm):
    counts = mixture(REAL[level], arm)
    found = information_y_a(counts).value, information_y_ag(counts).value
    assert found == pytest.approx(GOLDEN[level][arm], abs=0.0005)


def test_a_deterministic_attribute_tells_everything_about_the_label():
    assert mutual_information(np.array([[5, 0], [0, 5]])) == 1.0
    assert mutual_information(np.eye(8, dtype=int)) == 3.0


def test_independence_is_exactly_zero_and_never_negative():
    assert mutual_information(np.outer([3, 7, 11], [2, 5, 9])) == 0.0


def test_images_without_an_attribute_leave_the_information_unknown():
    found = information_y_ag(np.ones((2, 2, 2), dtype=int), synthetic_without_attribute=12)
    assert found.value is None
    assert "12 generated images" in found.reason


def test_an_empty_mixture_is_null_and_an_empty_table_an_error():
    assert information_y_a(np.zeros((2, 2, 2), dtype=int)).value is None
    with pytest.raises(InvalidValue, match="non-negative"):
        mutual_information(np.array([[1, -1], [2, 3]]))
