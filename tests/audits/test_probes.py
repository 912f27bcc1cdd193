"""Linear probes on features of known content: what is in them is found, what is not stays at chance."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.audits.probes import _checked, _matched, probe_metrics
from benchmark.errors import InvalidValue
from benchmark.metrics.data import Metric

N_VALUES = 4


def features(rng: np.random.Generator, a: np.ndarray, *, of_a: float, of_g: float, width: int = 16) -> np.ndarray:
    """Noise, with the attribute in the first directions and the source in the last."""
    noise = rng.normal(size=(len(a), width))
    noise[np.arange(len(a)), a] += of_a
    noise[:, -1] += of_g
    return noise.astype(np.float32)


def probe(
    *, of_a: float = 4.0, of_g: float = 0.0, known: bool = True, n: int = 400, m: int = 400, seed: int = 0
) -> dict[str, Metric]:
    rng = np.random.default_rng(7)
    real_a, fake_a = np.arange(n) % N_VALUES, np.arange(m) % N_VALUES
    return probe_metrics(
        features(rng, real_a, of_a=of_a, of_g=0),
        real_a,
        features(rng, fake_a, of_a=of_a, of_g=of_g),
        fake_a if known else np.full(m, -1),
        units=[f"image-{k}" for k in range(n)],
        seed=seed,
        extractor="features of the test",
    )


def value(metric: Metric) -> float:
    assert metric.value is not None, metric.reason
    return metric.value


def test_an_attribute_and_a_source_in_the_features_are_found() -> None:
    found = probe(of_a=4, of_g=4)
    assert value(found["a"]) > 0.9
    assert value(found["g"]) > 0.9
    assert value(found["ag"]) > 0.85


def test_what_is_not_in_the_features_stays_at_chance() -> None:
    found = probe(of_a=0, of_g=0)
    for name, chance in (("a", 1 / 4), ("g", 1 / 2), ("ag", 1 / 8)):
        assert found[f"{name}_chance"].value == chance
        assert found[f"{name}_chance"].interval == "none"
        low, high = found[name].low, found[name].high
        assert low is not None
        assert high is not None
        assert low <= chance <= high


def test_the_source_does_not_leak_through_the_attribute() -> None:
    """Nearly all generated images show one value; with equal numbers per value G still is at chance."""
    rng = np.random.default_rng(1)
    real_a, fake_a = np.arange(800) % N_VALUES, np.where(np.arange(800) < 740, 0, np.arange(800) % N_VALUES)
    real, fake = (features(rng, a, of_a=6, of_g=0) for a in (real_a, fake_a))
    units = np.arange(800)
    found = probe_metrics(real, real_a, fake, fake_a, units=units, seed=0, extractor="x")
    assert value(found["g"]) == pytest.approx(0.5, abs=0.12)
    unknown = probe_metrics(real, real_a, fake, np.full(800, -1), units=units, seed=0, extractor="x")
    assert value(unknown["g"]) > 0.75, "without attributes it does leak, as the docstring says"


def test_equal_numbers_of_real_and_generated_images_within_every_value() -> None:
    real_a, fake_a = np.repeat([0, 1, 2], [3000, 3000, 5]), np.repeat([0, 1, 2, -1], [2500, 700, 50, 9])
    blank = [np.zeros((len(a), 1)) for a in (real_a, fake_a)]
    data = _checked(blank[0], real_a, blank[1], fake_a, np.arange(len(real_a)))
    chosen, known = _matched(data, np.random.default_rng(0))
    assert known
    for source in (False, True):
        counts = np.bincount(data.a[chosen][data.generated[chosen] == source])
        assert counts.tolist() == [1295, 700, 5]


def test_generated_images_of_unknown_attribute_leave_a_to_the_real_ones_and_ag_null() -> None:
    found = probe(known=False, of_g=4)
    assert value(found["a"]) > 0.9
    assert value(found["g"]) > 0.9
    assert "attribute of the generated images is unknown" in (found["ag"].reason or "")
    assert found["ag_chance"].value is None


def test_without_generated_images_only_the_attribute_is_probed() -> None:
    found = probe(m=0)
    assert value(found["a"]) > 0.9
    assert found["g"].value is None
    assert found["ag"].value is None


def test_one_value_alone_is_null_with_the_reason() -> None:
    rng = np.random.default_rng(0)
    real = features(rng, np.zeros(50, dtype=np.int64), of_a=0, of_g=0)
    zeros = np.zeros(50, dtype=np.int64)
    found = probe_metrics(real, zeros, real, zeros, units=np.arange(50), seed=0, extractor="x")
    assert found["a"].reason == "1 values have images in both halves; a probe needs 2 (x)"
    assert found["g_chance"].value == 0.5


def test_renderings_of_one_digit_stay_in_one_half() -> None:
    """Features that only identify the digit say nothing of a label that is a coin tossed per digit."""
    rng = np.random.default_rng(2)
    digit = np.repeat(np.arange(60), 10)
    label = rng.permutation(np.arange(60) % 2)[digit]
    identity = rng.normal(size=(60, 100))[digit].astype(np.float32)
    nothing = np.empty((0, 100), dtype=np.float32)
    none = np.empty(0, dtype=np.int64)
    found = probe_metrics(identity, label, nothing, none, units=digit, seed=0, extractor="x")
    assert value(found["a"]) < 0.75
    apart = probe_metrics(identity, label, nothing, none, units=np.arange(600), seed=0, extractor="x")
    assert value(apart["a"]) > 0.95


def test_the_interval_says_how_and_on_what_and_a_perfect_probe_is_not_certain() -> None:
    found = probe(of_a=3)["a"]
    assert found.interval == "cluster-bootstrap of the scored half, on features of the test"
    perfect = probe(of_a=60)["a"]
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low is not None
    assert 0.95 < perfect.low < 1


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert probe(of_a=1, of_g=1) == probe(of_a=1, of_g=1)
    assert probe(of_a=1, of_g=1) != probe(of_a=1, of_g=1, seed=1)


def test_features_that_are_not_finite_are_null() -> None:
    broken = np.full((10, 3), np.nan)
    labels = np.arange(10) % 2
    found = probe_metrics(broken, labels, broken, labels, units=labels, seed=0, extractor="x")
    assert {metric.reason for metric in found.values()} == {"some features are not finite (x)"}


def test_lengths_must_agree() -> None:
    with pytest.raises(InvalidValue, match="10 real images have 9 attributes"):
        probe_metrics(np.zeros((10, 2)), np.zeros(9, dtype=np.int64), np.zeros((1, 2)), np.zeros(1, dtype=np.int64),
                      units=np.arange(10), seed=0, extractor="x")  # fmt: skip
