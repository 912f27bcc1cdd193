"""Images on a device: resident or gathered batch by batch, they give the same bits."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.tasks.catalog import load_task
from benchmark.tasks.lazy import LazyImages
from benchmark.training.backbones import fresh_state, state_digest
from benchmark.training.loop import Outcome, TrainingConfig, train_classifier
from benchmark.training.pixels import Pixels
from benchmark.training.specs import backbone_spec

CPU = torch.device("cpu")
ARRAY = np.random.default_rng(0).integers(0, 256, (23, 6, 6, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(ARRAY).permute(0, 3, 1, 2)
ORDER = [torch.tensor(index) for index in ([3, 1, 3], [22, 0], [5], list(range(23)))]


class Large(LazyImages):
    """Images of which there are too many for any device, by their own account."""

    nbytes = 2**50  # type: ignore[assignment]


def lazy(array: NDArray[np.uint8] = ARRAY, kind: type[LazyImages] = LazyImages) -> LazyImages:
    return kind(len(array), array.shape[1], lambda index: array[index])


FORMS = {
    "resident array": lambda: Pixels(ARRAY, CPU),
    "resident lazy": lambda: Pixels(lazy(), CPU),
    "streamed array": lambda: Pixels(ARRAY, CPU, limit=0),
    "streamed lazy": lambda: Pixels(lazy(), CPU, limit=0),
    "streamed large": lambda: Pixels(lazy(kind=Large), CPU),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches_and_slices(form: str) -> None:
    pixels = FORMS[form]()
    assert pixels.resident == form.startswith("resident")
    assert len(pixels) == 23
    for index, (there, batch) in zip(ORDER, pixels.batches(iter(ORDER)), strict=True):
        assert torch.equal(there, index)
        assert torch.equal(batch, EXPECTED[index])
        assert torch.equal(batch, pixels.batch(index))
        assert batch.dtype == torch.uint8
        assert batch.is_contiguous(memory_format=torch.channels_last)
    parts = list(pixels.slices(10))
    assert [len(part) for part in parts] == [10, 10, 3]
    assert torch.equal(torch.cat(parts), EXPECTED)
    assert len(list(pixels.slices(23))) == len(list(pixels.slices(100))) == 1


@pytest.mark.parametrize("limit", [0, ARRAY.nbytes - 1, ARRAY.nbytes])
def test_the_limit_decides_what_stays_resident(limit: int) -> None:
    assert Pixels(ARRAY, CPU, limit=limit).resident == (limit == ARRAY.nbytes)


def test_no_images_and_no_batches_are_possible() -> None:
    for limit in (None, 0):
        empty = Pixels(ARRAY[:0], CPU, limit=limit)
        assert len(empty) == 0
        assert list(empty.slices(4)) == []
        assert list(Pixels(ARRAY, CPU, limit=limit).batches(iter(()))) == []


def test_resident_images_are_a_copy_and_frozen_arrays_are_taken() -> None:
    array = ARRAY.copy()
    array.setflags(write=False)
    for limit in (None, 0):
        pixels = Pixels(array, CPU, limit=limit)
        pixels.batch(torch.tensor([0, 1])).zero_()
        for part in pixels.slices(5):
            assert part.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(pixels.batch(torch.tensor([0, 1])), EXPECTED[:2])
    assert np.array_equal(array, ARRAY)


def test_the_next_batch_is_read_ahead_by_another_thread_and_no_further() -> None:
    read: list[tuple[list[int], bool]] = []
    ahead = threading.Event()

    def reader(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        read.append((index.tolist(), threading.current_thread() is threading.main_thread()))
        if len(read) == 2:
            ahead.set()
        return ARRAY[index]

    batches = Pixels(LazyImages(23, 6, reader), CPU, limit=0).batches(torch.tensor([k]) for k in range(10))
    next(batches)
    assert ahead.wait(10)
    assert read == [([0], False), ([1], False)]
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert [index for index, _ in read] == [[0], [1], [2]]


def test_an_error_of_reading_reaches_whoever_wants_the_batch() -> None:
    def reader(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        if 2 in index:
            raise OSError("the disk is gone")
        return ARRAY[index]

    batches = Pixels(LazyImages(23, 6, reader), CPU, limit=0).batches(torch.tensor([k]) for k in range(4))
    assert torch.equal(next(batches)[1], EXPECTED[:1])
    assert torch.equal(next(batches)[1], EXPECTED[1:2])
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_batches_are_asked_for_one_ahead_of_their_use() -> None:
    asked = []

    def order() -> Iterator[torch.Tensor]:
        for k in range(5):
            asked.append(k)
            yield torch.tensor([k])

    for k, _ in enumerate(Pixels(ARRAY, CPU, limit=0).batches(order())):
        assert asked == list(range(min(k + 2, 5)))


# --- training ------------------------------------------------------------------------------------------------------

SPEC = backbone_spec("small-cnn", 10)
CONFIG = TrainingConfig(
    spec=SPEC, steps=10, batch_size=16, optimiser="adamw", learning_rate=2e-3, weight_decay=0.01, warmup_share=0.1,
    evaluations=2, loss="erm", groups="y,a", freeze_bn=False, seed=5, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    precision="float32",
)  # fmt: skip


def digits(split: str, n: int, kind: type[LazyImages] | None) -> ImageSet:
    task = load_task("colorized-digits")
    rows = task.manifest("0.9", 0).splits[split]
    array, block = task.render(rows)[:n], task.card.task
    return ImageSet(
        images=array if kind is None else lazy(array, kind),
        y=rows.y[:n].copy(),
        synthetic=np.zeros(n, dtype=np.bool_),
        names=GroupNames(block.label.values, block.attribute.values),
        needs=Track.TRAIN if split == "train" else Track.VALIDATION_TRAINS,
        granted=Track.TRAIN,
        _attributes=rows.a[:n].copy(),
    )


def trained(kind: type[LazyImages] | None, config: TrainingConfig) -> Outcome:
    train, validation = digits("train", 96, kind), digits("validation", 64, kind)
    return train_classifier(config, train, validation, fresh_state(SPEC, 0), CPU, lambda n: None)


@pytest.mark.parametrize("loss", ["erm", "group-dro"])
def test_training_gives_the_same_bits_from_memory_and_from_a_stream(loss: str) -> None:
    config = dataclasses.replace(CONFIG, loss=loss)  # type: ignore[arg-type]
    memory, resident, streamed = (trained(kind, config) for kind in (None, LazyImages, Large))
    assert set(memory.checkpoints) == set(SelectionRule)
    for other in (resident, streamed):
        assert other.curves == memory.curves
        assert other.steps_at == memory.steps_at
        for rule, state in memory.checkpoints.items():
            assert state_digest(other.checkpoints[rule]) == state_digest(state)
