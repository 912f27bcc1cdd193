"""Whole runs on tasks whose images lie in files: partial copies, further views, recipes, weights, streaming."""

from __future__ import annotations

import dataclasses
import io
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.errors import DamagedFile, DataError, InvalidValue, NotAvailable, UnknownName
from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.evaluation.score import score
from benchmark.metrics.ablations import ACCURACIES
from benchmark.progress import Silent
from benchmark.tasks import home
from benchmark.tasks.ablations import VIEWS
from benchmark.tasks.card import load_card
from benchmark.tasks.catalog import load_task

Run = Callable[..., Evaluation]
BIRDS = {"landbirds": ("land", "water"), "waterbirds": ("water", "land")}
DOGS = {"small_dogs": ("indoor", "outdoor"), "big_dogs": ("outdoor", "indoor")}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of data sets of the test's own; tasks remember where their data are, so none is kept."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    load_task.cache_clear()
    yield tmp_path / "data"
    load_task.cache_clear()


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Run:
    """Run a cell with a few optimiser steps."""

    def short(method: str, task: str, *, isolated: bool = False, steps: int = 4, **options: Any) -> Evaluation:
        home.accept_terms(load_card(task))
        cell = resolve_cell(Request(method, task=task, **options))
        recipe = cell.recipe.model_copy(update={"steps": steps, "evaluations": 1, "batch_size": 8})
        budget = dataclasses.replace(cell.budget, steps=steps, synthetic=min(4, cell.budget.synthetic))
        cell = dataclasses.replace(cell, recipe=recipe, budget=budget)
        return evaluate_cell(
            cell, results=tmp_path / "results", store=tmp_path / "store", device="cpu", threads=1, force=False,
            isolated=isolated, progress=Silent(),
        )  # fmt: skip

    return short


def jpeg(seed: int, size: tuple[int, int] = (72, 80)) -> bytes:
    """A real JPEG of smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def spuco(folder: Path) -> None:
    """SpuCo Animals in its original folders, a few images a group."""
    seed = 0
    for part, groups in (("spuco_birds", BIRDS), ("spuco_dogs", DOGS)):
        for label, (common, rare) in groups.items():
            for split, sizes in (("train", (60, 12)), ("val", (8, 2)), ("test", (4, 4))):
                for place, n in zip((common, rare), sizes, strict=True):
                    for k in range(n):
                        seed += 1
                        write(folder / part / split / label / place / f"{k}.jpg", jpeg(seed))


def hard_imagenet(folder: Path) -> None:
    """Hard ImageNet in its original layout: masks and ranks beside ImageNet's folders."""
    codes = load_card("hard-imagenet").task.label.codes or ()
    masks, images = folder / "hardImageNet", folder / "imagenet"
    ranks = {}
    for y, code in enumerate(codes):
        names = [f"{code}_{k}.JPEG" for k in range(30)]
        ranks[100 + y] = [f"train/{code}/{name}" for name in names]
        for k, name in enumerate(names):
            write(images / "train" / code / name, jpeg(1000 * y + k))
        for k in range(2):
            name = f"ILSVRC2012_val_{y:05d}{k:03d}.JPEG"
            write(images / "val" / code / name, jpeg(50_000 + 10 * y + k))
            covered = np.zeros((80, 72), dtype=np.uint8)
            covered[20:50, 16:44] = 255
            stream = io.BytesIO()
            Image.fromarray(covered).save(stream, "PNG")
            write(masks / "val" / f"{code}_{name}", stream.getvalue())
    for name, content in (
        ("idx_to_wnid", {100 + y: code for y, code in enumerate(codes)}),
        ("hard_imagenet_idx", [100 + y for y in range(len(codes))]),
        ("paths_by_rank", ranks),
    ):
        write(masks / "meta" / f"{name}.pkl", pickle.dumps(content, protocol=2))


# --- tasks whose data a test can make in the original layout ---------------------------------------------------------


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_hard_imagenet_answers_its_ablated_views_and_computes_their_metrics(
    run: Run, data: Path, isolated: bool
) -> None:
    hard_imagenet(data)
    done = run("erm", "hard-imagenet", level="0.9", recipe="small", isolated=isolated)
    record = done.record
    assert record.task.pinned == "unpinned"
    assert record.task.image_size == 64
    for checkpoint in record.ranked_stage.checkpoints:
        assert set(checkpoint.views) == set(VIEWS)
        assert {file.rows for file in checkpoint.views.values()} == {30}
        for name in (*ACCURACIES, "rfs"):
            assert checkpoint.metrics[name].value is not None
        assert checkpoint.metrics["bias_retained"].value is None
    assert set(record.task.prepared_sha256) == {"train", "validation", "test", *VIEWS}
    _, rescored = score(done.folder)
    assert [each.differing for each in rescored] == [[] for _ in rescored]
    # A view's answers are checked like the test's: another file in its place is refused.
    clean, tiled = (record.ranked_stage.checkpoints[0].views[name].file for name in ("clean", "tiled"))
    shutil.copy(done.folder / tiled, done.folder / clean)
    with pytest.raises(DamagedFile, match=rf"{clean} is missing or not the file that the record names"):
        score(done.folder)


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_spuco_animals_runs_on_its_own_folders_with_two_families(run: Run, data: Path, isolated: bool) -> None:
    spuco(data)
    record = run("erm", "spuco-animals", recipe="small", level="native", isolated=isolated).record
    assert record.task.pinned == "partial"
    # 5 % of 60 and of 12 are cut for auditors.
    assert record.task.train_counts == [[57, 11, 0, 0], [11, 57, 0, 0], [0, 0, 57, 11], [0, 0, 11, 57]]
    assert record.task.test_rows == 32
    checkpoint = record.ranked_stage.checkpoints[0]
    assert np.array(checkpoint.groups.n)[0].tolist() == [4, 4, 0, 0]
    assert checkpoint.metrics["acc_worst_group"].value is not None
    assert record.method.external_data == []
    if isolated:
        assert record.isolation.limits == [] or "hide" in record.isolation.limits[0]


@pytest.mark.slow
def test_generated_images_come_at_the_recipe_s_size(run: Run, data: Path) -> None:
    spuco(data)
    record = run("sd-augment", "spuco-animals", recipe="small", level="native", generator="tiny-sd").record
    assert record.pools[0].recipe["image_size"] == 64
    mixture = record.stages[0].mixture
    assert mixture is not None
    assert np.array(mixture.synthetic).sum() == 4


# --- partial copies of real data -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_celeba_subset_runs_and_says_that_it_is_partial(
    run: Run, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBIAS_DATA", str(real_data))
    record = run("erm", "celeba-blond", recipe="small", level="0.95").record
    assert record.task.pinned == "partial"
    assert record.task.missing_samples is None  # 200,599 are too many to name
    assert record.task.resampling_unit == "sample"
    assert record.task.test_rows == 214


@pytest.mark.slow
def test_the_cifar_subset_runs_and_says_that_it_is_partial(
    run: Run, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBIAS_DATA", str(real_data))
    record = run("erm", "cifar20-100", level="0.9").record
    assert (record.task.pinned, record.task.test_rows, record.cell.backbone) == ("partial", 2000, "resnet18-cifar")


@pytest.mark.slow
def test_a_record_of_utkface_names_what_it_lacked_and_is_checked_without_the_images(
    run: Run, real_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENBIAS_DATA", str(real_data))
    done = run("erm", "utkface", recipe="small", level="0.99")
    assert done.record.task.pinned == "partial"
    assert done.record.task.missing_samples == ["5_0_1_20170117193745507.jpg.chip.jpg"]
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "nothing"))
    shutil.rmtree(tmp_path / "store")
    load_task.cache_clear()
    _, rescored = score(done.folder)
    assert [each.differing for each in rescored] == [[] for _ in rescored]


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_terms_must_be_accepted_before_anything_is_read(data: Path) -> None:
    spuco(data)
    with pytest.raises(DataError, match=r"terms of use .* must be accepted first.*--accept-terms"):
        resolve_cell(Request("erm", task="spuco-animals", recipe="small"))
    assert not (data.parent / "store" / "data" / "prepared").exists()


def test_data_that_are_nowhere_are_asked_for_with_the_layout(data: Path) -> None:
    home.accept_terms(load_card("utkface"))
    with pytest.raises(NotAvailable, match=r"utkface are not here\. .*data fetch utkface --from FOLDER.*UTKFace"):
        resolve_cell(Request("erm", task="utkface", recipe="small"))


def test_a_recipe_that_the_card_does_not_have_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown recipe of utkface 'smal'; did you mean 'small'"):
        resolve_cell(Request("erm", task="utkface", recipe="smal"))


def test_weights_that_a_backbone_does_not_have_are_refused() -> None:
    with pytest.raises(InvalidValue, match="small-cnn has no pre-trained weights"):
        resolve_cell(Request("erm", backbone_weights="imagenet"))


def test_pretrained_weights_that_are_not_here_say_how_to_get_them_or_do_without(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    # No address answers there: the download fails at once, with or without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    spuco(data)
    with pytest.raises(NotAvailable, match=r"IMAGENET1K_V1.*neither cached nor reachable.*--backbone-weights none"):
        resolve_cell(Request("erm", task="spuco-animals", backbone_weights="imagenet"))


@pytest.mark.slow
def test_pretrained_weights_at_hand_are_used_and_named(run: Run, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Real ResNet-18 weights by torchvision's file name; their values are random, which the name's hash forbids."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"]
    file = tmp_path / "torch" / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1]
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), file)
    spuco(data)
    record = run("erm", "spuco-animals", recipe="small", level="native", backbone_weights="imagenet").record
    assert record.cell.training["backbone_weights"] == "IMAGENET1K_V1"
    assert record.cell.backbone_weights != "none"
    assert [part.component for part in record.method.external_data] == ["backbone resnet18 IMAGENET1K_V1"]
    plain = run("erm", "spuco-animals", recipe="small", level="native").record
    assert (plain.cell.backbone_weights, plain.method.external_data) == ("none", [])
    assert plain.cell_id != record.cell_id
