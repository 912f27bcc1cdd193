"""Models that only cluster or filter: what they score, what they may read, and that a store trains each once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmark.contract.images import NO_ATTRIBUTE, MethodData
from benchmark.errors import InvalidValue
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import FitJob, make_job, method_data, split_parts
from benchmark.progress import Silent

STEPS = 60
Make = Callable[..., tuple[Auxiliary, MethodData]]


class Counting(Silent):
    """Counts the optimiser steps that were really taken, by what was trained."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[int] = []

    def start(self, name: str, total: int) -> int:
        self.names.append(name)
        self.steps.append(0)
        return len(self.names) - 1

    def advance(self, handle: int, n: int) -> None:
        self.steps[handle] += n


@pytest.fixture(scope="module")
def make(short_cell: Callable[..., ResolvedCell], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The auxiliary models of a method's run, with one store for the module, and the run's data."""
    store, known = tmp_path_factory.mktemp("auxiliary"), {}

    def job_and_data(method: str, seed: int) -> tuple[FitJob, MethodData]:
        cell = short_cell(method, steps=STEPS, seed=seed)
        job = make_job(cell, store=store, device="cpu", precision="float32", threads=1, remember=True)
        return job, method_data(job, split_parts(cell))

    def made(method: str = "lora", progress: Silent | None = None, seed: int = 0) -> tuple[Auxiliary, MethodData]:
        if (method, seed) not in known:
            known[method, seed] = job_and_data(method, seed)
        job, data = known[method, seed]
        return Auxiliary(job, data, progress or Silent()), data

    return made


def own_scores(auxiliary: Auxiliary, data: MethodData, y: Any, a: Any) -> np.ndarray:
    """Scores of the first training images for labels and attributes that they may or may not show."""
    return auxiliary.scores(np.asarray(data.train.images[: len(y)]), y, a, {}, "own")


@pytest.mark.slow
def test_the_own_filter_prefers_images_that_show_what_was_asked_for(make: Make) -> None:
    auxiliary, data = make()
    y, a = data.train.y[:200], data.train.a[:200]
    right = own_scores(auxiliary, data, y, a)
    assert right.shape == (200,)
    assert right.dtype == np.float64
    assert (right >= 0).all()
    assert (right <= 1).all()
    for wrong in (own_scores(auxiliary, data, (y + 1) % 10, a), own_scores(auxiliary, data, y, (a + 1) % 10)):
        assert (right > wrong).mean() > 0.85


def test_without_attributes_to_show_the_label_alone_counts(make: Make) -> None:
    auxiliary, data = make()
    y, a = data.train.y[:50], data.train.a[:50]
    alone = own_scores(auxiliary, data, y, np.full(50, NO_ATTRIBUTE))
    assert (alone >= own_scores(auxiliary, data, y, a)).all()
    assert (own_scores(auxiliary, data, y, np.where(np.arange(50) == 7, NO_ATTRIBUTE, a)) == alone).all()


def test_the_filter_reads_group_labels_only_where_the_method_may(make: Make) -> None:
    names = {}
    for method in ("lora", "ffr"):
        auxiliary, data = make(method)
        own_scores(auxiliary, data, data.train.y[:3], np.zeros(3, dtype=np.int64))
        names[method] = auxiliary.filter_name("own")
    assert names["lora"].startswith("trained on the run's own split: filter of a ")
    assert "filter of y " in names["lora"]
    assert names["ffr"].startswith("trained on the run's own split: filter of y ")
    assert "filter of a" not in names["ffr"]
    # Balanced batches where group labels may be read, plain ones where not: two models.
    assert names["lora"].partition("filter of y ")[2] != names["ffr"].partition("filter of y ")[2]


def test_features_are_those_of_a_classifier_of_the_own_split(make: Make) -> None:
    auxiliary, data = make()
    images = data.train.images[:40]
    features = auxiliary.features(images, "erm")
    assert (features.dtype, features.shape[0], features.ndim) == (np.float32, 40, 2)
    np.testing.assert_array_equal(make()[0].features(images, "erm"), features)
    assert np.linalg.matrix_rank(features - features.mean(0)) > 5
    # What clusters images filters none of them.
    own_scores(auxiliary, data, data.train.y[:3], data.train.a[:3])
    assert "features" not in auxiliary.filter_name("own")


@pytest.mark.slow
def test_each_model_is_trained_once_in_the_life_of_a_store(make: Make) -> None:
    made: list[tuple[Auxiliary, Counting]] = []
    for _ in range(2):
        progress = Counting()
        auxiliary, data = make(progress=progress, seed=1)
        assert (auxiliary.seconds, auxiliary.spent) == (0, 0)
        for _ in range(2):
            own_scores(auxiliary, data, data.train.y[:3], data.train.a[:3])
            auxiliary.features(data.train.images[:3], "erm")
        made.append((auxiliary, progress))
    (first, trained), (second, again) = made
    assert trained.names == ["training the filter of y", "training the filter of a", "training the features"]
    assert (trained.steps, again.steps) == ([STEPS] * 3, [0] * 3)
    # The time of the trainings counts for the method also when they were remembered, but is not spent twice.
    assert second.seconds > 0
    assert second.spent < first.spent


def test_methods_share_the_models_of_a_seed(make: Make) -> None:
    names = {}
    for method, seed in (("lora", 0), ("dreambooth", 0), ("lora", 1)):
        auxiliary, data = make(method, seed=seed)
        own_scores(auxiliary, data, data.train.y[:3], data.train.a[:3])
        names[method, seed] = auxiliary.filter_name("own")
    assert names["lora", 0] == names["dreambooth", 0] != names["lora", 1]


def test_clip_that_was_not_named_is_asked_for_by_the_option(make: Make) -> None:
    auxiliary, data = make()
    for ask in (
        lambda: auxiliary.features(data.train.images[:3], "clip"),
        lambda: auxiliary.scores(data.train.images[:3], data.train.y[:3], data.train.a[:3], {}, "clip"),
    ):
        with pytest.raises(InvalidValue, match=r"lora asks for CLIP, but no model was named; add --clip MODEL"):
            ask()
