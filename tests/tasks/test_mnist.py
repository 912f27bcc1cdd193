"""Colorized MNIST: the real idx files, the Hub's copy, pixels by hand, and files that are something else."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DataError, InvalidValue, NotAvailable
from benchmark.tasks.card import load_card
from benchmark.tasks.law import DRAWS
from benchmark.tasks.locks import load_lock, split_key
from benchmark.tasks.manifest import AUDIT, SPLITS, TEST, TRAIN, VALIDATION, Rows
from benchmark.tasks.mnist import ColorizedMnist, read_idx
from benchmark.tasks.pinning import level_counts_of, source_digests, verify_task

Bytes = NDArray[np.uint8]
FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
HUB = {TRAIN: "mnist/train-00000-of-00001.parquet", TEST: "mnist/test-00000-of-00001.parquet"}


def original(real_data: Path, part: str) -> Bytes:
    """The bytes behind the header of one of the real files."""
    with gzip.open(real_data / "mnist" / f"{FILES[part]}.gz") as stream:
        content = stream.read()
    return np.frombuffer(content, dtype=np.uint8)[16 if "images" in part else 8 :]


@pytest.fixture(scope="module")
def mnist(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ColorizedMnist]:
    """The task over the real files, prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBIAS_DATA", str(real_data))
        patch.setenv("GENBIAS_STORE", str(tmp_path_factory.mktemp("store")))
        task = ColorizedMnist(load_card("colorized-mnist"))
        task.prepared(32)
        yield task


# --- the list, the splits and the locks ----------------------------------------------------------------------------


def test_the_shipped_list_is_that_of_the_label_files(mnist: ColorizedMnist, real_data: Path) -> None:
    listing = mnist.listing
    expected = [f"train-{k:05d}" for k in range(60_000)] + [f"test-{k:05d}" for k in range(10_000)]
    assert list(listing.ids) == expected
    labels = np.concatenate([original(real_data, "train labels"), original(real_data, "test labels")])
    np.testing.assert_array_equal(listing.y, labels)
    assert listing.partition == ("train",) * 60_000 + ("test",) * 10_000
    assert (listing.a == -1).all()
    assert listing.whole


def test_a_split_is_the_pinned_one_with_the_card_s_counts(mnist: ColorizedMnist) -> None:
    manifest = mnist.manifest("0.99", 1)
    assert mnist.pin_state(manifest) == "pinned"
    expected = {counts.level: counts for counts in mnist.card.task.expected}
    assert level_counts_of(mnist, manifest) == expected["0.99"]


@pytest.mark.slow
def test_the_pixels_of_the_audit_and_of_a_training_split_are_the_pinned_ones(mnist: ColorizedMnist) -> None:
    pinned = load_lock("pixels").entries["colorized-mnist"]
    manifest = mnist.manifest("0.99", 1)
    assert mnist.pixel_digest(manifest.splits[AUDIT]) == pinned["audit"]
    assert mnist.pixel_digest(manifest.splits[TRAIN]) == pinned[split_key(mnist.card, "0.99", 1)]


@pytest.mark.slow
def test_every_split_and_pixel_is_the_pinned_one(mnist: ColorizedMnist) -> None:
    levels = mnist.card.task.levels
    found = verify_task(mnist)
    assert [(v.level, v.draw, v.state) for v in found] == [
        (level, draw, "pinned") for level in levels for draw in DRAWS
    ]
    assert len(found) == 30
    keys = {split_key(mnist.card, v.level, v.draw): v.digest for v in found}
    assert load_lock("splits").entries["colorized-mnist"] == keys
    pinned = load_lock("pixels").entries["colorized-mnist"]
    # verify_task has compared every digest that the lock holds; none may be missing or left over.
    assert set(pinned) == {"test", "audit", *keys}


def test_the_list_has_the_pinned_digest_and_rendered_digits_no_digest_of_files(mnist: ColorizedMnist) -> None:
    listing = mnist.listing
    rows = sorted(zip(listing.ids, listing.partition or (), listing.y.tolist(), strict=True))
    text = "".join(f"{name}\t{part}\t{y}\t-1\n" for name, part, y in rows)
    expected = {"samples": hashlib.sha256(text.encode()).hexdigest()}
    assert source_digests(mnist) == expected == load_lock("sources").entries["colorized-mnist"]


def test_the_test_is_crossed_ten_renderings_of_each_of_ten_thousand_digits(mnist: ColorizedMnist) -> None:
    manifest = mnist.manifest("0.99", 1)
    rows = manifest.splits[TEST]
    assert len(rows) == 100_000
    assert sorted(set(rows.sources)) == [f"test-{k:05d}" for k in range(10_000)]
    assert rows.ids[:3] == tuple(f"{rows.sources[0]}/{a}" for a in range(3))
    counts = manifest.counts(TEST)
    # The numbers of test digits per class that MNIST is known for, in every ink.
    assert counts[:, 0].tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (counts == counts[:, :1]).all()
    assert mnist.units(rows)[:11] == rows.sources[:11]


def test_training_validation_and_audit_divide_the_training_digits(mnist: ColorizedMnist) -> None:
    manifest = mnist.manifest("0.99", 1)
    sources = [set(manifest.splits[name].sources) for name in SPLITS]
    assert sum(map(len, sources)) == len(set().union(*sources)) == 70_000
    assert [len(manifest.splits[name]) for name in (TRAIN, VALIDATION, AUDIT)] == [51_000, 6_000, 30_000]


# --- pixels --------------------------------------------------------------------------------------------------------


def rows_of(mnist: ColorizedMnist, ids: list[str], inks: list[int]) -> Rows:
    where = {name: k for k, name in enumerate(mnist.listing.ids)}
    return Rows(tuple(ids), tuple(ids), mnist.listing.y[[where[i] for i in ids]], np.array(inks, dtype=np.int64))


def test_one_digit_by_hand(mnist: ColorizedMnist, real_data: Path) -> None:
    scan = original(real_data, "test images")[: 28 * 28].reshape(28, 28)
    assert scan[7, 6] == 84  # the first test digit is a seven; its bar begins here
    offsets = [byte % 33 - 16 for byte in hashlib.sha256(b"colorized-mnist/ink/test-00000").digest()[:3]]
    ink = [min(max(c + o, 0), 255) for c, o in zip((30, 180, 50), offsets, strict=True)]  # green
    found = mnist.images(rows_of(mnist, ["test-00000"], [3]))[0]
    assert found.shape == (32, 32, 3)
    # Two black pixels are added on every side, so that scan pixel (7, 6) stands at (9, 8).
    assert found[9, 8].tolist() == [int(Fraction(84 * value, 255) + Fraction(1, 2)) for value in ink]
    exact = np.pad(scan, 2)[:, :, None].astype(int) * np.array(ink) / 255
    np.testing.assert_array_equal(found, np.floor(exact + 0.5).astype(np.uint8))


def test_digits_are_read_in_the_order_asked_for_each_in_its_ink(mnist: ColorizedMnist) -> None:
    rows = rows_of(mnist, ["train-59999", "test-00007", "train-00000", "test-00007"], [0, 9, 4, 9])
    together = np.asarray(mnist.images(rows))
    for k in range(4):
        np.testing.assert_array_equal(together[k], mnist.images(rows.take([k]))[0])
    np.testing.assert_array_equal(together[1], together[3])
    np.testing.assert_array_equal(mnist.render(rows), together)


def test_digits_have_one_size_only(mnist: ColorizedMnist) -> None:
    rows = rows_of(mnist, ["test-00000"], [0])
    assert mnist.images(rows, 32).shape == (1, 32, 32, 3)
    with pytest.raises(InvalidValue, match="colorized-mnist has images of 32 pixels only, not 64"):
        mnist.images(rows, 64)


def test_what_was_prepared_is_one_grey_channel_of_all_digits(mnist: ColorizedMnist, real_data: Path) -> None:
    prepared = mnist.prepared(32)
    grey = prepared.open()
    assert grey.shape == (70_000, 32, 32, 1)
    ours = grey[prepared.rows(["train-00000", "train-59999"]), 2:-2, 2:-2, 0]
    scans = original(real_data, "train images").reshape(-1, 28, 28)
    np.testing.assert_array_equal(ours, scans[[0, -1]])
    assert prepared.sha256[prepared.ids.index("train-59999")] == hashlib.sha256(scans[-1].tobytes()).digest()
    assert grey[:, :2].max() == grey[:, :, -2:].max() == 0


# --- other layouts -------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Link the real files into a folder of the test's own, under other names or with some replaced."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))

    def write(below: str = "", replaced: dict[str, bytes | str] | None = None, plain: bool = False) -> Path:
        folder = tmp_path / "data" / "mnist" / below
        folder.mkdir(parents=True)
        for part, name in FILES.items():
            source = real_data / "mnist" / f"{name}.gz"
            content = (replaced or {}).get(part)
            if isinstance(content, str):
                source, content = real_data / "mnist" / f"{FILES[content]}.gz", None
            if content is not None:
                (folder / f"{name}.gz").write_bytes(content)
            elif plain:
                with gzip.open(source) as packed, (folder / name).open("wb") as stream:
                    shutil.copyfileobj(packed, stream)
            else:
                (folder / f"{name}.gz").symlink_to(source)
        return tmp_path / "data" / "mnist"

    return write


def test_torchvision_s_folder_of_unpacked_files_is_read(make: Callable[..., Path], mnist: ColorizedMnist) -> None:
    folder = make("MNIST/raw", plain=True)
    task = ColorizedMnist(mnist.card)
    assert task.place is not None
    assert task.place.folder == folder
    files = task.files(folder)
    assert files.ids == tuple(sorted(mnist.listing.ids))
    read = dict(files.stream(frozenset({"train-00003", "test-09999"})))
    assert set(read) == {"train-00003", "test-09999"}
    prepared = mnist.prepared(32)
    for name, scan in read.items():
        decoded, converted = task.decoder(32)(scan)
        np.testing.assert_array_equal(decoded, prepared.open()[prepared.rows([name])[0]])
        assert converted is None


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_the_files_are_found_where_they_usually_lie_and_by_both_spellings(
    make: Callable[..., Path], mnist: ColorizedMnist, below: str
) -> None:
    folder = make(below)
    for file in sorted((folder / below).iterdir())[:2]:
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    task = ColorizedMnist(mnist.card)
    assert task.matches(folder)
    assert task.place is not None
    assert len(task.signature(task.place.folder)) == 64


def test_three_of_the_four_files_are_not_mnist(make: Callable[..., Path], mnist: ColorizedMnist) -> None:
    folder = make()
    (folder / f"{FILES['test labels']}.gz").unlink()
    task = ColorizedMnist(mnist.card)
    assert not task.matches(folder)
    with pytest.raises(NotAvailable, match=r"the data of colorized-mnist are not here"):
        task.prepared(32)
    # The list ships with the package, so that splits are known without the files.
    assert task.manifest("0.99", 0).digest == mnist.manifest("0.99", 0).digest


def test_prepared_digits_serve_when_the_files_are_gone(
    mnist: ColorizedMnist, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = rows_of(mnist, ["test-00000"], [3])
    expected = mnist.images(rows)[0]
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path))
    task = ColorizedMnist(mnist.card)
    assert task.place is None
    np.testing.assert_array_equal(task.images(rows)[0], expected)


# --- files that are something else ---------------------------------------------------------------------------------


def idx(values: Bytes, magic: int) -> bytes:
    header = np.array([magic, *values.shape], dtype=">u4").tobytes()
    return gzip.compress(header + values.tobytes(), compresslevel=1)


def test_labels_that_differ_are_an_error_that_lists_the_first_of_them(
    make: Callable[..., Path], real_data: Path, mnist: ColorizedMnist
) -> None:
    labels = original(real_data, "test labels").copy()
    where = [3, 77, 500, 501, 502, 9_000, 9_999]
    labels[where] = (labels[where] + 1) % 10
    make(replaced={"test labels": idx(labels, 0x801)})
    message = (
        r"the labels of MNIST: 7 sample\(s\) differ from the pinned ones: test-00003, test-00077, test-00500, "
        r"test-00501, test-00502 and 2 more"
    )
    with pytest.raises(DataError, match=message):
        ColorizedMnist(mnist.card).prepared(32)


def test_labels_in_another_order_are_refused(make: Callable[..., Path], real_data: Path, mnist: ColorizedMnist) -> None:
    make(replaced={"train labels": idx(original(real_data, "train labels")[::-1].copy(), 0x801)})
    with pytest.raises(DataError, match=r"5\d,\d{3}|5\d{4} sample\(s\) differ"):
        ColorizedMnist(mnist.card).prepared(32)


SWAPPED: dict[str, tuple[dict[str, bytes | str], str]] = {
    "labels for images": ({"train images": "train labels"}, r"train-images-idx3-ubyte\.gz is not MNIST's file of im"),
    "images for labels": ({"test labels": "test images"}, r"t10k-labels-idx1-ubyte\.gz is not MNIST's file of labels"),
    "test for training": ({"train images": "test images"}, r"expected \(60000, 28, 28\) .*00 00 08 03 00 00 27 10"),
    "training for test": ({"test labels": "train labels"}, r"expected \(10000,\) values.*60,008 bytes"),
    "a web page": ({"test images": b"<!DOCTYPE html><html>Not found"}, r"is not MNIST's file of images.*3c 21 44 4f"),
    "a packed web page": ({"test labels": gzip.compress(b"<html>")}, r"is not MNIST's file of labels"),
    "nothing": ({"test images": b""}, r"found 0 bytes"),
    "cut": ({"test labels": gzip.compress(bytes(4_000))[:-9]}, r"t10k-labels-idx1-ubyte\.gz cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", SWAPPED)
def test_a_file_in_another_s_place_is_refused_by_name(
    make: Callable[..., Path], mnist: ColorizedMnist, what: str
) -> None:
    replaced, said = SWAPPED[what]
    make(replaced=replaced)
    with pytest.raises(DataError, match=said):
        ColorizedMnist(mnist.card).prepared(32)


LABELS = np.array([3, 1, 4], dtype=np.uint8)
GOOD = gzip.decompress(idx(LABELS, 0x801))


def test_an_idx_file_is_read_packed_or_not_whatever_it_is_called(tmp_path: Path) -> None:
    for name, content in (("a.gz", GOOD), ("b", gzip.compress(GOOD)), ("c.gz", gzip.compress(GOOD)), ("d", GOOD)):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_idx(tmp_path / name, "labels", (3,)), LABELS)
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "e").write_bytes(idx(images, 0x803))
    np.testing.assert_array_equal(read_idx(tmp_path / "e", "images", (2, 3, 4)), images)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:4],
        GOOD[:-1],
        GOOD + b"\0",
        GOOD.replace(b"\x08\x01", b"\x08\x03"),
        GOOD.replace(b"\x08\x01", b"\x09\x01"),
        GOOD[:4] + b"\0\0\0\4" + GOOD[8:],
        b"\x01\x08\0\0\3\0\0\0" + GOOD[8:],
        gzip.compress(GOOD, mtime=0)[:-1],
        gzip.compress(GOOD, mtime=0)[:-8] + bytes(8),
        b"\x1f\x8b",
        gzip.compress(GOOD, mtime=0) + gzip.compress(b"\1", mtime=0),
    ],
)  # fmt: skip
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(DataError, match=r"labels (is not MNIST's|cannot be read).*get it again from its source"):
        read_idx(tmp_path / "labels", "labels", (3,))


def test_an_idx_file_that_unpacks_to_far_more_than_it_should_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(gzip.compress(bytes(2**27)))
    with pytest.raises(DataError, match=r"found 67,108,864 bytes"):
        read_idx(tmp_path / "labels", "labels", (3,))


# --- the Hub's copy ------------------------------------------------------------------------------------------------


def png(scan: Bytes) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scan).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def parquet(path: Path, scans: Bytes, labels: Bytes | list[int | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": png(scan), "path": None} for scan in scans])
    pq.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.slow
def test_the_hub_s_copy_gives_the_same_pixels(hub: Path, real_data: Path, mnist: ColorizedMnist) -> None:
    for part, path in HUB.items():
        scans = original(real_data, f"{part} images").reshape(-1, 28, 28)
        parquet(hub / path, scans, original(real_data, f"{part} labels"))
    ours = ColorizedMnist(mnist.card).prepared(32)
    assert ours.folder != mnist.prepared(32).folder
    assert (ours.ids, ours.sha256) == (mnist.prepared(32).ids, mnist.prepared(32).sha256)
    assert ours.pixels_sha256 == mnist.prepared(32).pixels_sha256


def test_a_part_of_the_hub_s_copy_is_refused_with_both_counts(
    hub: Path, real_data: Path, mnist: ColorizedMnist
) -> None:
    for part, path in HUB.items():
        scans = original(real_data, f"{part} images").reshape(-1, 28, 28)[:100]
        parquet(hub / path, scans, original(real_data, f"{part} labels")[:100])
    with pytest.raises(DataError, match=r"mnist/train-00000-of-00001\.parquet holds 100 rows, MNIST's has 60,000"):
        ColorizedMnist(mnist.card).prepared(32)


def test_hub_images_of_another_size_and_hub_files_of_another_data_set_are_refused(
    hub: Path, real_data: Path, mnist: ColorizedMnist
) -> None:
    wide = np.zeros((1, 28, 32), dtype=np.uint8)
    images = pa.array([{"bytes": png(wide[0]), "path": None}] * 60_000)
    labels = pa.array(original(real_data, "train labels"))
    for path in HUB.values():
        (hub / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": images, "label": labels}), hub / path)
    with pytest.raises(DataError, match=r"has shape \(28, 32\), expected \(28, 28\)"):
        ColorizedMnist(mnist.card).prepared(32)
    pq.write_table(pa.table({"image": images, "digit": labels}), hub / HUB[TRAIN])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet has no column 'label'"):
        ColorizedMnist(mnist.card).prepared(32)
    (hub / HUB[TRAIN]).write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet cannot be read as Parquet"):
        ColorizedMnist(mnist.card).prepared(32)


@pytest.mark.parametrize("label", [None, 300, -1, 10])
def test_a_hub_label_that_is_no_digit_is_refused(
    hub: Path, real_data: Path, mnist: ColorizedMnist, label: int | None
) -> None:
    for part, path in HUB.items():
        labels: list[int | None] = original(real_data, f"{part} labels").tolist()
        labels[5] = label
        (hub / path).parent.mkdir(parents=True, exist_ok=True)
        images = pa.array([{"bytes": b"x", "path": None}] * len(labels))
        pq.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), hub / path)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet.* label"):
        ColorizedMnist(mnist.card).files(hub)
