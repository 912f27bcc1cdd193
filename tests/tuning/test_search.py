"""What is tried: the default, then draws that are the same whenever they are asked for."""

from __future__ import annotations

import builtins
import itertools
from typing import Any

import numpy as np
import pytest

from benchmark.contract.space import Choice, Dimension, Range
from benchmark.errors import NotAvailable
from benchmark.evaluation.tuned import Value
from benchmark.tuning.search import configurations

SPACE: dict[str, Dimension] = {
    "rate": Range(low=1e-4, high=1e-2, log=True), "share": Range(low=0.25, high=0.9),
    "times": Range(low=5, high=100, log=True, whole=True), "loss": Choice(values=("erm", "resampling", "group-dro")),
    "frozen": Choice(values=(False, True)),
}  # fmt: skip
DEFAULT: dict[str, Value] = {"rate": 2e-3, "share": 0.75, "times": 10, "loss": "erm", "frozen": False}


def first(n: int, seed: int = 0) -> list[dict[str, Value]]:
    return list(itertools.islice(configurations(SPACE, DEFAULT, seed), n))


def test_the_default_is_tried_first_and_the_draws_lie_in_the_space() -> None:
    found = first(200)
    assert found[0] == DEFAULT
    assert all(SPACE[name].holds(value) for each in found for name, value in each.items())
    assert {each["loss"] for each in found} == {"erm", "resampling", "group-dro"}
    assert {each["frozen"] for each in found} == {False, True}
    rates, shares = (np.array([each[name] for each in found[1:]], dtype=float) for name in ("rate", "share"))
    # Evenly in the logarithm: half lies below the geometric mean; evenly otherwise.
    assert 0.4 < float((rates < 1e-3).mean()) < 0.6
    assert 0.4 < float((shares < 0.575).mean()) < 0.6


def test_a_trial_follows_from_its_number() -> None:
    assert first(20)[:5] == first(5)
    assert first(5, seed=1)[1:] != first(5)[1:]


def test_drawn_numbers_can_be_typed() -> None:
    for each in first(20)[1:]:
        assert each["rate"] == float(f"{each['rate']:.3g}")
        assert isinstance(each["times"], int)


def test_without_optuna_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(NotAvailable, match=r"install genbias-bench\[tune\]"):
        next(configurations(SPACE, DEFAULT, 0))
