"""Auditors of the embedded task after a short training: they measure well, are kept, and refuse inside `fit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.audits.auditors import KIND, Auditors, load_auditors
from benchmark.contract.oracle import fitting
from benchmark.errors import InvalidValue, NotAvailable, OracleUse
from benchmark.progress import Silent
from benchmark.records.store import Store
from benchmark.tasks.catalog import load_task
from benchmark.tasks.manifest import AUDIT, TEST, Listing
from benchmark.tasks.task import Task

TASK = load_task("colorized-digits")


class Trainings(Silent):
    """Progress that counts what was begun."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def start(self, name: str, total: int) -> int:
        self.names.append(name)
        return 0


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(folder: Path, steps: int, task: Task = TASK) -> tuple[Auditors, list[str]]:
    progress = Trainings()
    auditors = load_auditors(
        task,
        store=Store(folder),
        recipe=task.card.task.training.model_copy(update={"steps": steps, "batch_size": 32}),
        image_size=32,
        device=torch.device("cpu"),
        precision="float32",
        progress=progress,
    )
    return auditors, progress.names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auditors")


@pytest.fixture(scope="module")
def auditors(folder: Path) -> Auditors:
    return load(folder, steps=50)[0]


@pytest.fixture(scope="module")
def unseen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = TASK.manifest("0.95", 0).splits[TEST].take(np.arange(0, 3590, 7))
    return np.asarray(TASK.images(rows)), rows.y, rows.a


def test_both_answer_digits_they_never_saw_far_above_chance(auditors: Auditors, unseen: tuple) -> None:
    images, y, a = unseen
    assert (auditors.y.answers(images) == y).mean() > 0.6
    assert (auditors.a.answers(images) == a).mean() > 0.9


def test_the_confusion_matrix_counts_a_third_of_the_digits_in_every_colour(auditors: Auditors) -> None:
    # 18 digits a class (17 in one): six are held out, in ten colours.
    for auditor in (auditors.y, auditors.a):
        assert auditor.confusion.shape == (10, 10)
        assert auditor.confusion.sum(axis=1).tolist() == [60] * 10
        assert (auditor.trained_on, auditor.tested_on) == (1190, 600)
        assert np.trace(auditor.confusion) / 600 > 0.6


def test_ten_renderings_of_one_digit_count_once_for_y_but_not_for_a(auditors: Auditors) -> None:
    assert auditors.y.independent.tolist() == [6] * 10
    assert auditors.a.independent.tolist() == [60] * 10


def test_features_are_the_penultimate_ones(auditors: Auditors, unseen: tuple) -> None:
    features = auditors.y.features(unseen[0][:5])
    assert features.shape == (5, 128)
    assert features.dtype == np.float32
    assert (features >= 0).all()  # behind a ReLU


def test_no_images_give_no_answers(auditors: Auditors) -> None:
    nothing = np.empty((0, 32, 32, 3), dtype=np.uint8)
    assert auditors.y.answers(nothing).shape == (0,)
    assert auditors.y.features(nothing).shape == (0, 128)


def unseen_of_another_size_are_refused(auditors: Auditors) -> None:
    with pytest.raises(InvalidValue, match=r"auditor of a knows images of 32 pixels, not \(64, 64\)"):
        auditors.a.answers(np.zeros((1, 64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("ask", [lambda who, images: who.answers(images), lambda who, images: who.features(images)])
def test_an_auditor_refuses_inside_fit_unless_the_method_is_an_oracle(
    auditors: Auditors, unseen: tuple, ask: Callable[..., np.ndarray]
) -> None:
    images = unseen[0][:3]
    for auditor in (auditors.y, auditors.a):
        with fitting("m", oracle=False), pytest.raises(OracleUse, match=f"m asks the auditor of {auditor.of} inside"):
            ask(auditor, images)
        with fitting("m", oracle=True):
            assert len(ask(auditor, images)) == 3


def test_a_second_load_trains_nothing_and_answers_the_same(folder: Path, auditors: Auditors, unseen: tuple) -> None:
    again, trained = load(folder, steps=50)
    assert trained == []
    for first, second in ((auditors.y, again.y), (auditors.a, again.a)):
        assert first.id == second.id
        assert (first.confusion == second.confusion).all()
        assert (first.answers(unseen[0]) == second.answers(unseen[0])).all()


def test_the_auditors_of_y_and_a_and_of_another_recipe_have_ids_of_their_own(
    tmp_path: Path, auditors: Auditors
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    other, trained = load(tmp_path, steps=2)
    assert torch.rand(1) == expected, "the global generator stays as it was"
    assert trained == ["training the auditor of y", "training the auditor of a"]
    assert len({auditors.y.id, auditors.a.id, other.y.id, other.a.id}) == 4


def test_a_damaged_entry_is_made_again(tmp_path: Path, unseen: tuple) -> None:
    first, _ = load(tmp_path, steps=2)
    (weights,) = tmp_path.glob(f"{KIND}/*/y.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again, trained = load(tmp_path, steps=2)
    assert trained == ["training the auditor of y", "training the auditor of a"]
    assert (again.y.answers(unseen[0]) == first.y.answers(unseen[0])).all()


class FewDigits(type(TASK)):  # type: ignore[misc]
    """The first 60 digits: half a dozen a class, of which one is cut for auditors."""

    def list_samples(self) -> Listing:
        whole = super().list_samples()
        return dataclasses.replace(whole, ids=whole.ids[:60], y=whole.y[:60], a=whole.a[:60])


def test_too_few_samples_say_so_instead_of_training(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"holds out 0 samples of digit 'zero' .* at least 2 are needed"):
        load(tmp_path, steps=2, task=FewDigits(TASK.card))
    assert not list(tmp_path.glob(f"{KIND}/*"))


def test_a_task_without_an_audit_split_has_no_auditors(tmp_path: Path) -> None:
    shares = TASK.card.task.shares.model_copy(update={"audit": TASK.card.task.shares.audit * 0})
    card = TASK.card.model_copy(update={"task": TASK.card.task.model_copy(update={"shares": shares})})
    task = type(TASK)(card)
    assert not len(task.manifest("0.95", 0).splits[AUDIT])
    with pytest.raises(NotAvailable, match="colorized-digits has no audit split at hand"):
        load(tmp_path, steps=2, task=task)
