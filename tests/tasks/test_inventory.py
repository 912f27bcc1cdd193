"""What is said of data and what is written of them: `data list`, manifests, shipped listings, and the Hub's Parquet."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DataError, StoreError
from benchmark.progress import Silent
from benchmark.tasks import home
from benchmark.tasks.card import card_names, load_card
from benchmark.tasks.catalog import load_task
from benchmark.tasks.decode import DECODER_VERSION
from benchmark.tasks.export import write_manifest
from benchmark.tasks.hub_parquet import HubSplit, hub_files_present, hub_split
from benchmark.tasks.inventory import Entry, inventory
from benchmark.tasks.law import DRAWS
from benchmark.tasks.listings import listing_path, read_listing
from benchmark.tasks.manifest import Listing, Rows
from benchmark.tasks.prepare import INDEX, Files, Recipe, prepare
from benchmark.tasks.task import Task

HEAVY = ("torch", "diffusers", "transformers", "peft", "datasets", "pandas", "scipy", "sklearn", "fairlearn")
MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own, and no data sets in sight."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("GENBIAS_DATA", raising=False)
    return tmp_path / "store"


def entry(task: str) -> Entry:
    return next(found for found in inventory() if found.task == task)


def prepare_some(task: str, size: int, n: int) -> Path:
    """Prepare ``n`` grey squares as if they were a task's images."""

    def bare(content: Any) -> tuple[NDArray[np.uint8], None]:
        return content, None

    images = {f"{k:04d}": np.full((size, size, 1), k % 256, np.uint8) for k in range(n)}
    files = Files(tuple(images), lambda wanted: [(name, images[name]) for name in wanted], f"{n}")
    root = home.prepared_folder(load_card(task))
    return prepare(root, Recipe(root.name, size, 1, "none", DECODER_VERSION), files, bare, Silent()).folder


# --- data list -----------------------------------------------------------------------------------------------------


def test_without_data_every_task_is_absent_but_the_packaged_one(store: Path) -> None:
    found = inventory()
    assert [each.task.partition("@")[0] for each in found] == card_names()
    for each in found:
        assert each.state == ("package" if each.task == "colorized-digits@1" else "absent")
        assert (each.origin, each.bytes, each.prepared) == (None, 0, "")
        assert each.terms == ("not accepted" if load_card(each.task[:-2]).task.terms_accept else "none")
        json.dumps(each.as_dict())
    assert not store.exists()


def test_data_below_genbias_data_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "data" / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST[:-1]:
        (raw / name).write_bytes(b"")
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))
    assert entry("colorized-mnist@1").state == "absent"
    (raw / MNIST[-1]).write_bytes(b"")
    found = entry("colorized-mnist@1")
    assert (found.state, found.origin, found.bytes) == ("here", "GENBIAS_DATA", 0)
    assert entry("cifar20-100@1").state == "absent"


def test_fetched_files_count_and_copies_of_the_user_s_own_do_not(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for folder in (tmp_path / "own", home.fetched_folder(load_card("colorized-mnist"))):
        folder.mkdir(parents=True, exist_ok=True)
        for name in MNIST:
            (folder / name).write_bytes(bytes(1000))
    assert (entry("colorized-mnist@1").origin, entry("colorized-mnist@1").bytes) == ("fetched", 4000)
    home.remember_location(load_card("colorized-mnist"), tmp_path / "own")
    found = entry("colorized-mnist@1")
    assert (found.state, found.origin) == ("here", "named by --from")
    assert 4000 < found.bytes < 4500


def test_prepared_sizes_are_shown_with_the_most_images_of_each() -> None:
    folders = [prepare_some("colorized-mnist", 32, 20), prepare_some("colorized-mnist", 32, 1_200)]
    prepare_some("colorized-mnist", 16, 3)
    found = entry("colorized-mnist@1")
    assert found.state == "prepared only"
    assert found.prepared == "16 px (3 images), 32 px (1,200 images)"
    assert found.bytes > 1_200 * 32 * 32
    (folders[1] / INDEX).write_text('{"recipe": 3}')
    assert entry("colorized-mnist@1").prepared == "16 px (3 images), 32 px (20 images)"


def test_tasks_over_one_data_set_share_what_is_prepared_and_accepted() -> None:
    prepare_some("celeba-blond", 64, 2)
    home.accept_terms(load_card("celeba-blond"))
    for task in ("celeba-blond@1", "celeba-smiling@1"):
        found = entry(task)
        assert (found.prepared, found.terms, found.state) == ("64 px (2 images)", "accepted", "prepared only")


@pytest.mark.parametrize("note", ["{", "{}", "[]"])
def test_a_damaged_note_of_one_data_set_does_not_hide_the_others(note: str) -> None:
    folder = home.fetched_folder(load_card("colorized-mnist"))
    folder.mkdir(parents=True)
    (folder / home.LOCATION).write_text(note)
    assert len(inventory()) == len(card_names())
    assert entry("colorized-mnist@1").state == "absent"


def test_the_list_imports_nothing_heavy(store: Path) -> None:
    program = (
        "import sys\n"
        "from benchmark.tasks.inventory import inventory\n"
        "assert len(inventory()) > 5\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    prepare_some("colorized-mnist", 32, 2)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- manifests -----------------------------------------------------------------------------------------------------


class Faces(Task):
    """A few samples under UTKFace's card."""

    def __init__(self, listing: Listing) -> None:
        super().__init__(load_card("utkface"))
        self.samples = listing

    def list_samples(self) -> Listing:
        return self.samples

    def render(self, rows: Rows) -> NDArray[np.uint8]:
        raise AssertionError("a manifest needs no pixels")


def test_a_manifest_has_a_row_per_sample_and_a_split_per_level_and_draw(tmp_path: Path, toy: Any) -> None:
    listing = toy.shuffled(toy.listing_of({(0, 0): 90, (0, 1): 120, (1, 0): 150, (1, 1): 80}), 3)
    task = Faces(listing)
    assert write_manifest(task, tmp_path / "new" / "m.parquet") == 440
    table = pq.read_table(tmp_path / "new" / "m.parquet")
    assert table.schema.metadata[b"task"] == b"utkface@1"
    names = task.card.task
    assert table.column_names == ["id", "y", "a"] + [f"split {level} draw {d}" for level in names.levels for d in DRAWS]
    rows = {row["id"]: row for row in table.to_pylist()}
    assert list(rows) == list(listing.ids)
    for k in (0, 17, 439):
        row = rows[listing.ids[k]]
        assert row["y"] == names.label.values[listing.y[k]]
        assert row["a"] == names.attribute.values[listing.a[k]]
    for level in names.levels:
        manifest = task.manifest(level, 2)
        where = {name: split for split, part in manifest.splits.items() for name in part.ids}
        assert {name: row[f"split {level} draw 2"] for name, row in rows.items()} == {n: where.get(n) for n in rows}


def test_a_manifest_of_partial_data_is_that_of_the_whole(tmp_path: Path, toy: Any) -> None:
    listing = toy.listing_of({(y, a): 80 for y in (0, 1) for a in (0, 1)})
    partial = Listing(listing.ids, listing.y, listing.a, missing=frozenset(listing.ids[::7]))
    write_manifest(Faces(listing), tmp_path / "whole")
    write_manifest(Faces(partial), tmp_path / "partial")
    assert pq.read_table(tmp_path / "partial").equals(pq.read_table(tmp_path / "whole"))


def test_a_rendered_attribute_has_a_column_per_level_and_draw_and_crossed_samples_say_so(tmp_path: Path) -> None:
    task = load_task("colorized-digits")
    assert write_manifest(task, tmp_path / "m.parquet") == 1797
    table = pq.read_table(tmp_path / "m.parquet")
    assert "a" not in table.column_names
    split = dict(zip(table["id"].to_pylist(), table["split 0.95 draw 1"].to_pylist(), strict=True))
    ink = dict(zip(table["id"].to_pylist(), table["a 0.95 draw 1"].to_pylist(), strict=True))
    manifest, values = task.manifest("0.95", 1), task.card.task.attribute.values
    for name in ("train", "validation"):
        part = manifest.splits[name]
        assert {split[i] for i in part.sources} == {name}
        assert [ink[i] for i in part.sources] == [values[a] for a in part.a]
    for name in ("test", "audit"):
        assert {(split[i], ink[i]) for i in manifest.splits[name].sources} == {(name, "crossed")}
    assert list(split.values()).count(None) == 1797 - len({i for p in manifest.splits.values() for i in p.sources})


def test_a_manifest_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        write_manifest(load_task("colorized-digits"), tmp_path / "file" / "m.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot"):
        write_manifest(load_task("colorized-digits"), tmp_path / "folder")


# --- shipped listings ----------------------------------------------------------------------------------------------


def test_the_shipped_listings_hold_names_and_labels_and_no_images() -> None:
    digits = read_listing("colorized-mnist", ("id", "y"))
    assert (len(digits["id"]), len(set(digits["id"]))) == (70_000, 70_000)
    assert (digits["id"][0], digits["id"][-1]) == ("train-00000", "test-09999")
    assert digits["y"][:5] == [5, 0, 4, 1, 9]  # the first digits of MNIST
    for path in listing_path("utkface").parent.iterdir():
        types = [str(kind) for kind in pq.read_schema(path).types]
        assert not any("struct" in kind or "list" in kind for kind in types)


def test_a_listing_that_is_missing_or_lacks_a_column_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"the listing nothing\.parquet of this installation cannot be read"):
        read_listing("nothing", ("id",))
    with pytest.raises(DataError, match=r"the listing utkface\.parquet of this installation cannot be read"):
        read_listing("utkface", ("shoe size",))


# --- the Hub's Parquet ---------------------------------------------------------------------------------------------


def png(value: int, shape: tuple[int, int] = (4, 6), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, shape[::-1], value if mode == "L" else (value,) * 3).save(stream, "PNG")
    return stream.getvalue()


def hub_file(path: Path, images: Sequence[bytes | None], labels: Sequence[int], **options: Any) -> Path:
    cells = [None if image is None else {"bytes": image, "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, type=kind), "label": pa.array(labels)}), path, **options)
    return path


def test_two_files_are_one_split_in_their_order(tmp_path: Path) -> None:
    values = list(range(250))
    files = [
        hub_file(tmp_path / "b", [png(v) for v in values[:150]], values[:150], row_group_size=40),
        hub_file(tmp_path / "a", [png(v) for v in values[150:]], values[150:]),
    ]
    split = hub_split(files, image="image", columns=("label",))
    assert (split.rows, split.values) == (250, {"label": values})
    for _ in range(2):  # it can be gone through again
        assert [int(HubSplit.pixels(image, (4, 6))[0, 0]) for image in split.images()] == values
    assert hub_split(files, image="image", columns=()).rows == 250


def test_a_folder_has_the_files_only_with_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    names = ("deep/0.parquet", "1.parquet")
    (tmp_path / names[0]).write_text("")
    assert not hub_files_present(tmp_path, names)
    (tmp_path / names[1]).write_text("")
    assert hub_files_present(tmp_path, names)


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    path = hub_file(tmp_path / "a.parquet", [png(1)], [1])
    with pytest.raises(DataError, match=r"a\.parquet has no column 'coarse'; it has image, label"):
        hub_split([path], image="image", columns=("label", "coarse"))
    with pytest.raises(DataError, match=r"has no column 'img'"):
        hub_split([path], image="img", columns=("label",))


def test_a_damaged_file_is_a_data_error_when_opened_or_when_read(tmp_path: Path) -> None:
    path = hub_file(tmp_path / "a.parquet", [png(v) for v in range(50)], range(50), compression="none")
    whole = path.read_bytes()
    for content in (b"", whole[:-1], whole[: len(whole) // 2], b"<html></html>"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet .*; get it again"):
            hub_split([path], image="image", columns=("label",))
    with pytest.raises(DataError, match="nothing cannot be read as Parquet"):
        hub_split([tmp_path / "nothing"], image="image", columns=())
    path.write_bytes(whole)
    split = hub_split([path], image="image", columns=("label",))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        list(split.images())


def test_a_row_without_an_image_is_a_data_error(tmp_path: Path) -> None:
    split = hub_split([hub_file(tmp_path / "a", [png(1), None], [1, 2])], image="image", columns=())
    images = split.images()
    assert next(images) == png(1)
    with pytest.raises(DataError, match="a holds a row without an image"):
        next(images)
    pq.write_table(pa.table({"image": ["a path and no bytes"]}), tmp_path / "b")
    with pytest.raises(DataError, match="b holds a row without an image"):
        list(hub_split([tmp_path / "b"], image="image", columns=()).images())


def test_a_small_file_that_says_it_holds_millions_of_rows_is_refused_unread(tmp_path: Path) -> None:
    path = hub_file(tmp_path / "a", [None] * 1_000_001, np.zeros(1_000_001, np.int64), compression="zstd")
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match="a says that it holds 1,000,001 rows"):
        hub_split([path], image="image", columns=("label",))


@pytest.mark.parametrize("content", [b"", b"text", png(3)[:40], png(3, (6, 4)), png(3, (9_600, 9_600))], ids=len)
def test_what_is_no_image_of_the_known_shape_is_a_data_error(content: bytes) -> None:
    with pytest.raises(DataError, match="an image of the Parquet file"):
        HubSplit.pixels(content, (4, 6))


def test_an_image_that_declares_gigabytes_is_refused() -> None:
    content = bytearray(png(3))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="exceeds limit"):
        HubSplit.pixels(bytes(content), (4, 6))
