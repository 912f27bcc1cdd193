"""What may leave the machine (protocol §10), decided on real files of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.predictions import StoredPredictions, write_argmax, write_predictions
from benchmark.records.results import read_record
from benchmark.tasks.card import card_names
from leaderboard.people import may_show_pictures, refuse_private, run_files

PRIVATE = ("celeba-blond", "celeba-smiling", "hard-imagenet", "spuco-animals", "utkface")
SHOWN = ("cifar20-100", "colorized-digits", "colorized-mnist")


@pytest.fixture
def kinds(tmp_path: Path) -> dict[str, Path]:
    """A small file of each kind that a run or the store may hold."""
    files = {
        "adapter": tmp_path / "adapter.safetensors",
        "sheet": tmp_path / "contact_sheet.png",
        "pool": tmp_path / "shard-0.parquet",
        "audit": tmp_path / "audit.html",
        "chart": tmp_path / "groups.png",
        "record": tmp_path / "record.json",
        "predictions": tmp_path / "predictions-real-last.parquet",
    }
    save_file({"unet.to_k.lora_A.weight": np.zeros((2, 4), np.float32)}, files["adapter"])
    Image.new("RGB", (8, 8)).save(files["sheet"])
    Image.new("RGB", (8, 8)).save(files["chart"])
    pq.write_table(pa.table({"index": [0], "png": [files["sheet"].read_bytes()]}), files["pool"])
    files["audit"].write_text('<img src="data:image/png;base64,iVBORw0KGgo=">')
    files["record"].write_text("{}")
    stored = StoredPredictions(np.zeros(3, np.uint8), np.full(3, 0.5, np.float16), "d" * 64)
    write_predictions(files["predictions"], stored, 2)
    return files


def test_every_task_is_decided() -> None:
    assert {name for name in card_names() if not may_show_pictures(name)} == set(PRIVATE)
    assert {name for name in card_names() if may_show_pictures(name)} == set(SHOWN)


def test_a_version_does_not_matter_and_an_unknown_task_shows_nothing() -> None:
    assert may_show_pictures("colorized-digits@7")
    assert not may_show_pictures("utkface@2")
    assert not may_show_pictures("acme-faces@1")


@pytest.mark.parametrize("task", [*PRIVATE, "utkface@1", "acme-faces"])
@pytest.mark.parametrize("kind", ["adapter", "sheet", "pool", "audit"])
def test_pictures_and_what_was_made_from_them_stay(kinds: dict[str, Path], kind: str, task: str) -> None:
    with pytest.raises(UsageError, match=rf"{kinds[kind].name} may not leave this machine.*{task}.*[Pp]rotocol §10"):
        refuse_private([kinds["record"], kinds[kind]], task)


@pytest.mark.parametrize("task", PRIVATE)
def test_numbers_of_every_task_may_leave(kinds: dict[str, Path], task: str) -> None:
    refuse_private([kinds["record"], kinds["predictions"], kinds["chart"]], task)


@pytest.mark.parametrize("task", SHOWN)
def test_everything_of_other_tasks_may_leave(kinds: dict[str, Path], task: str) -> None:
    refuse_private(kinds.values(), task)


def test_labels_alone_are_numbers_whatever_their_file_is_called(tmp_path: Path) -> None:
    write_argmax(tmp_path / "argmax-real-last.parquet", np.zeros(3, np.uint8), rows_digest="d" * 64, sha256="e" * 64)
    (tmp_path / "record.json.gz").touch()
    refuse_private(sorted(tmp_path.iterdir()), "utkface")


def test_a_pool_under_the_name_of_predictions_is_found_out(kinds: dict[str, Path], tmp_path: Path) -> None:
    renamed = kinds["pool"].rename(tmp_path / "predictions-real-best.parquet")
    with pytest.raises(UsageError, match="predictions-real-best"):
        refuse_private([renamed], "utkface")


def test_what_is_no_parquet_is_no_predictions(tmp_path: Path) -> None:
    file = tmp_path / "predictions-x.parquet"
    file.write_bytes(b"\x89PNG")
    with pytest.raises(UsageError, match="predictions-x"):
        refuse_private([file], "utkface")


def test_the_files_of_a_run_are_its_record_and_its_predictions(maker) -> None:
    folder = maker.run("acme/x", 0, stages={"mixed": 0.3})
    (folder / "contact_sheet.png").touch()
    names = [file.name for file in run_files(folder, read_record(folder))]
    assert names[0] == "record.json"
    assert len(names) == 3
    assert {name.partition("-last")[0] for name in names[1:]} == {"predictions-mixed", "predictions-real"}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(b"other"), "SHA-256 differs"),
        (lambda file: file.rename(file.with_suffix(".x")) and file.symlink_to(file.with_suffix(".x")), "no plain file"),
    ],
)
def test_files_that_are_not_what_the_record_names_are_not_published(maker, break_it, message) -> None:
    folder = maker.run("erm", 0)
    break_it(next(folder.glob("predictions-*")))
    with pytest.raises(DamagedFile, match=message):
        run_files(folder, read_record(folder))
