"""What a training goes on from is exactly where it was, and nobody else's."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from benchmark.errors import StoreError
from benchmark.generators.unfinished import read_unfinished, restore, snapshot, write_unfinished

Training = tuple[dict[str, torch.Tensor], torch.optim.AdamW]


def begun(seed: int) -> Training:
    random = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(3, 2, generator=random, requires_grad=True) for name in ("b", "a.weight")}
    # As on a GPU, where convolutions are trained in this layout, which files cannot hold.
    kernel = torch.randn(4, 3, 3, 3, generator=random).contiguous(memory_format=torch.channels_last)
    weights["kernel"] = kernel.requires_grad_()
    return weights, torch.optim.AdamW(list(weights.values()), lr=0.1, fused=True)


def step(training: Training) -> None:
    weights, optimiser = training
    sum((weight**3).sum() for weight in weights.values()).backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("before", [0, 2])
def test_a_training_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path: Path, before: int) -> None:
    one, other = begun(0), begun(1)
    for _ in range(before):
        step(one)
    write_unfinished(tmp_path / "new" / "file", snapshot(*one) | {"steps": torch.tensor(before)}, training="mine")
    kept = read_unfinished(tmp_path / "new" / "file", training="mine")
    assert kept is not None
    assert int(kept["steps"]) == before
    restore(kept, *other)
    for _ in range(2):
        step(one)
        step(other)
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    if before:
        assert other[1].state[other[0]["kernel"]]["exp_avg"].stride() == other[0]["kernel"].stride()


def test_a_snapshot_does_not_move_with_the_weights() -> None:
    training = begun(0)
    step(training)
    kept = snapshot(*training)
    copies = {name: value.clone() for name, value in kept.items()}
    step(training)
    assert all(torch.equal(kept[name], copies[name]) for name in kept)
    assert not torch.equal(kept["weight.b"], training[0]["b"])


def test_a_missing_a_damaged_and_a_foreign_file_are_as_good_as_none(tmp_path: Path) -> None:
    file, kept = tmp_path / "file", snapshot(*begun(0))
    assert read_unfinished(file, training="mine") is None
    write_unfinished(file, kept, training="mine")
    assert read_unfinished(file, training="another's") is None
    content = file.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], b""):
        file.write_bytes(damaged)
        assert read_unfinished(file, training="mine") is None


def test_a_process_that_removes_the_folder_stops_no_other_that_still_trains(tmp_path: Path) -> None:
    kept, done = snapshot(*begun(0)), threading.Event()

    def remove() -> None:
        while not done.is_set():
            shutil.rmtree(tmp_path / "unfinished", ignore_errors=True)
            time.sleep(0.003)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(40):
            write_unfinished(tmp_path / "unfinished" / "file", kept, training="mine")
    finally:
        done.set()
        remover.join()
    write_unfinished(tmp_path / "unfinished" / "file", kept, training="mine")
    assert read_unfinished(tmp_path / "unfinished" / "file", training="mine") is not None


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        write_unfinished(tmp_path / "file" / "unfinished", snapshot(*begun(0)), training="mine")
