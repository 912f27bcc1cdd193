"""Invertible transfer, for real with a tiny network: balanced images, both ways of using them, and the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmark.evaluation.run import Evaluation

TINY = {"autoencoder_steps": 2, "network_steps": 2, "latent": 8, "blocks": 2, "width": 8, "depth": 1}

Run = Callable[..., Evaluation]


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ({}, ["synthetic", "real"]),
        pytest.param({"use": "mix"}, ["mixed"], marks=pytest.mark.slow),
        pytest.param({"condition": "attribute"}, ["synthetic", "real"], marks=pytest.mark.slow),
    ],
)
def test_the_record_says_what_was_kept_and_what_was_reached(
    run_short: Run, overrides: dict[str, Any], stages: list[str]
) -> None:
    record = run_short("cinn-transfer", level="0.9", overrides={**TINY, **overrides}, synthetic=100).record
    assert record.status == "success"
    assert [stage.name for stage in record.stages] == stages
    (pool,) = record.pools
    assert pool.kept == record.budget.synthetic_kept == 100  # type: ignore[union-attr]
    names = {name + end for name in ("y_kept", "a_reached", "both") for end in ("", "_raw")}
    assert set(pool.transfer) == names | {"conflicting_shown"}
    both, kept = pool.transfer["both_raw"].value, pool.transfer["y_kept_raw"].value
    assert both is not None
    assert kept is not None
    assert both <= kept
    assert pool.groups is not None
    assert pool.own is not None
    assert pool.own.images == record.task.n_train
    assert record.method.track == "train"
    assert record.cell.generator is None
