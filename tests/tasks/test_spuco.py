"""SpuCo Animals in its original folders, made by the tests; and what all tasks over image files share."""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import DataError, NotAvailable
from benchmark.progress import Silent
from benchmark.tasks import home
from benchmark.tasks.card import load_card
from benchmark.tasks.decode import decode
from benchmark.tasks.file_task import drop_duplicates, first_differing
from benchmark.tasks.law import DRAWS, Splitter
from benchmark.tasks.manifest import AUDIT, SPLITS, TEST, TRAIN, VALIDATION, Listing
from benchmark.tasks.pinning import level_counts_of, pin_task, source_digests
from benchmark.tasks.spuco import SpuCoAnimals

CARD = load_card("spuco-animals")
PLACES = {
    "spuco_birds": {"landbirds": ("land", "water"), "waterbirds": ("water", "land")},
    "spuco_dogs": {"small_dogs": ("indoor", "outdoor"), "big_dogs": ("outdoor", "indoor")},
}
LABELS = ("landbirds", "waterbirds", "small_dogs", "big_dogs")
ATTRIBUTES = ("land", "water", "indoor", "outdoor")
OFFICIAL = {TRAIN: (10_000, 500), VALIDATION: (500, 25), TEST: (500, 500)}
SMALL = {"train": (12, 4), "val": (3, 1), "test": (2, 2)}
GREY, HIDDEN_PNG = "spuco_dogs/train/big_dogs/outdoor/3.jpg", "spuco_birds/val/landbirds/land/1.jpg"
SHOUTING, LONG = "spuco_birds/test/waterbirds/water/A B.JPG", "spuco_dogs/test/small_dogs/indoor/n02086_1.jpeg"


def photo(seed: int, size: tuple[int, int] = (90, 70), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return stream.getvalue()


def small() -> dict[str, bytes]:
    """A few images for every group and split, of various sizes; one grey, one a PNG that is called .jpg."""
    files: dict[str, bytes] = {}
    sizes = ((90, 70), (64, 64), (500, 375), (33, 120), (300, 300))
    for part, labels in PLACES.items():
        for label, places in labels.items():
            for split, counts in SMALL.items():
                for place, n in zip(places, counts, strict=True):
                    for k in range(n):
                        seed = len(files)
                        files[f"{part}/{split}/{label}/{place}/{k}.jpg"] = photo(seed, sizes[seed % len(sizes)])
    files[GREY] = photo(9_001, (80, 60), mode="L")
    files[HIDDEN_PNG] = photo(9_002, (80, 60), "PNG")
    files[SHOUTING], files[LONG] = photo(9_003), photo(9_004)
    return files


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    return small()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: dict[str, bytes]) -> Callable[..., Path]:
    """Write SpuCo Animals as two folders or two archives."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))

    def write(files: dict[str, bytes] | None = None, form: str = "folder", prefix: str = "") -> Path:
        folder = tmp_path / "data" / "spuco"
        folder.mkdir(parents=True, exist_ok=True)
        for part in PLACES:
            members = {name: content for name, content in (files or images).items() if name.startswith(part)}
            if form == "folder":
                for name, content in members.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(content)
            elif form == "zip":
                with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
                    for name, content in members.items():
                        archive.writestr(prefix + name, content)
            else:
                with tarfile.open(folder / f"{part}.{form}", "w:gz" if form.endswith("gz") else "w") as tar:
                    for name, content in sorted(members.items(), reverse=True):
                        member = tarfile.TarInfo(prefix + name)
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        return folder

    return write


def accepted() -> SpuCoAnimals:
    home.accept_terms(CARD)
    return SpuCoAnimals(CARD)


def described(name: str) -> tuple[str, int, int]:
    _, split, label, place, _ = name.split("/")
    return {"train": TRAIN, "val": VALIDATION, "test": TEST}[split], LABELS.index(label), ATTRIBUTES.index(place)


def table(listing: Listing) -> dict[str, tuple[str, int, int]]:
    columns = zip(listing.ids, listing.partition or (), listing.y.tolist(), listing.a.tolist(), strict=True)
    return {name: (part, y, a) for name, part, y, a in columns}


# --- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "prefix"), [("folder", ""), ("tar.gz", ""), ("tar.gz", "./"), ("tar", "data/"), ("zip", ""), ("tgz", "")]
)
def test_folders_and_archives_give_the_same_list_and_pixels(
    make: Callable[..., Path], images: dict[str, bytes], form: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(form=form, prefix=prefix)
    task = accepted()
    with caplog.at_level(logging.WARNING):
        prepared = task.prepared(224)
    assert prepared.ids == tuple(sorted(images))
    assert table(task.listing) == {name: described(name) for name in images}
    assert prepared.converted == {"grey": 1}
    assert "spuco-animals: converted to RGB: 1 grey" in caplog.text
    for name in (GREY, HIDDEN_PNG, SHOUTING, LONG, sorted(images)[50]):
        expected = decode(images[name], 224, crop="center-square", scaled=True)[0]
        np.testing.assert_array_equal(prepared.images([name])[0], expected)
    grey = prepared.images([GREY])[0]
    assert (grey == grey[:, :, :1]).all()


def test_the_two_parts_may_have_different_forms(make: Callable[..., Path], images: dict[str, bytes]) -> None:
    folder = make(form="tar.gz")
    (folder / "spuco_dogs.tar.gz").unlink()
    for name, content in images.items():
        if name.startswith("spuco_dogs"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    assert accepted().prepared(224).ids == tuple(sorted(images))


@pytest.mark.parametrize("part", PLACES)
def test_one_part_alone_is_not_the_data_set(make: Callable[..., Path], part: str) -> None:
    shutil.rmtree(make() / part)
    with pytest.raises(NotAvailable, match=r"spuco-animals are not here.*spuco_birds and spuco_dogs, as folders or"):
        accepted().listing  # noqa: B018


def test_files_outside_the_official_folders_are_left_out(make: Callable[..., Path], images: dict[str, bytes]) -> None:
    strangers = {
        name: photo(k)
        for k, name in enumerate(
            (
                "spuco_birds/readme.txt", "spuco_birds/train/landbirds/0.jpg",
                "spuco_birds/train/landbirds/indoor/0.jpg", "spuco_birds/train/small_dogs/indoor/0.jpg",
                "spuco_birds/train/landbirds/land/deeper/0.jpg",
                "spuco_birds/train/landbirds/land/0.txt", "spuco_birds/extra/landbirds/land/0.jpg",
                "spuco_dogs/train/small_dogs/indoor/._0.jpg", "spuco_dogs/train/cats/indoor/0.jpg",
            )
        )
    }  # fmt: skip
    strangers["spuco_dogs/train/small_dogs/indoor/._0.jpg"] = b"\x00\x05\x16\x07 what a Mac puts beside a file"
    make({**images, **strangers})
    assert accepted().prepared(224).ids == tuple(sorted(images))


def test_archives_without_any_image_are_refused(make: Callable[..., Path]) -> None:
    make({"spuco_birds/readme.txt": b"x", "spuco_dogs/readme.txt": b"x"}, form="tar.gz")
    with pytest.raises(DataError, match="the source of spuco-animals holds no image"):
        accepted().listing  # noqa: B018


def test_images_that_cannot_be_decoded_are_named(make: Callable[..., Path], images: dict[str, bytes]) -> None:
    make({**images, GREY: images[GREY][:200], LONG: b""})
    with pytest.raises(DataError, match=rf"2 image\(s\) of spuco-animals cannot be read: {LONG}: .*{GREY}: "):
        accepted().listing  # noqa: B018


# --- groups --------------------------------------------------------------------------------------------------------


def test_birds_have_land_or_water_and_dogs_are_indoors_or_outdoors(make: Callable[..., Path]) -> None:
    make()
    task = accepted()
    allowed = task.card.allowed_groups()
    assert allowed.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert task.card.law.aligned == (0, 1, 2, 3)
    manifest = task.manifest("native", 0)
    for name in SPLITS:
        assert not manifest.counts(name)[~allowed].any()
    # Twelve aligned and four conflicting training images a class: 5 % are .6 and .2 of an image.
    assert manifest.counts(AUDIT).sum(axis=0).tolist() == [1, 1, 1, 1]
    assert manifest.counts(TRAIN).tolist() == [[11, 4, 0, 0], [4, 11, 0, 0], [0, 0, 11, 4], [0, 0, 4, 11]]
    assert manifest.counts(VALIDATION).tolist() == [[3, 1, 0, 0], [1, 3, 0, 0], [0, 0, 3, 1], [0, 0, 1, 3]]
    # One image was added to the test of the waterbirds on water and of the small dogs indoors.
    assert manifest.counts(TEST).tolist() == [[2, 2, 0, 0], [2, 3, 0, 0], [0, 0, 3, 2], [0, 0, 2, 2]]


def test_a_small_copy_is_not_complete_and_cannot_be_pinned(make: Callable[..., Path]) -> None:
    make()
    task = accepted()
    assert not task.listing.complete
    assert task.pin_state(task.manifest("0.97", 0)) == "partial"
    with pytest.raises(DataError, match="spuco-animals@1 is only partly at hand"):
        pin_task(task)


def official() -> dict[str, tuple[str, int, int]]:
    """Every id of a data set with the official numbers, and what it is."""
    folders = {TRAIN: "train", VALIDATION: "val", TEST: "test"}
    found = {}
    for part, labels in PLACES.items():
        for label, places in labels.items():
            for partition, counts in OFFICIAL.items():
                for place, n in zip(places, counts, strict=True):
                    for k in range(n):
                        name = f"{part}/{folders[partition]}/{label}/{place}/{k}.jpg"
                        found[name] = (partition, LABELS.index(label), ATTRIBUTES.index(place))
    return found


@pytest.mark.slow
def test_the_official_numbers_give_the_card_s_counts_in_every_draw() -> None:
    samples = official()
    assert len(samples) == 48_100
    parts, y, a = zip(*samples.values(), strict=True)
    splitter = Splitter(Listing(tuple(samples), np.array(y), np.array(a), parts), CARD.law)
    expected = {counts.level: counts for counts in CARD.task.expected}
    assert set(expected) == set(CARD.task.levels)
    for level in CARD.task.levels:
        for draw in DRAWS:
            assert level_counts_of(SpuCoAnimals(CARD), splitter.split(level, draw)) == expected[level]


def test_only_the_official_numbers_are_complete() -> None:
    """Told by the folders' counts, which a test can have without making 48,100 images."""
    task, samples = SpuCoAnimals(CARD), list(official().values())
    assert task._official_counts(tuple(samples))
    assert not task._official_counts(tuple(samples[1:]))
    assert not task._official_counts((*samples, samples[-1]))
    moved = [(VALIDATION, *samples[0][1:]), *samples[1:]]
    assert not task._official_counts(tuple(moved))
    assert not task._official_counts(())


# --- duplicates ----------------------------------------------------------------------------------------------------


def test_of_equal_files_the_smallest_id_is_kept_also_across_splits(
    make: Callable[..., Path], images: dict[str, bytes]
) -> None:
    within = "spuco_birds/train/landbirds/land/0.jpg", "spuco_birds/train/landbirds/land/00.jpg"
    across = "spuco_dogs/test/big_dogs/outdoor/0.jpg", "spuco_dogs/train/big_dogs/outdoor/zz.jpg"
    val = "spuco_dogs/train/big_dogs/outdoor/5.jpg", "spuco_dogs/val/big_dogs/outdoor/9.jpg"
    make({**images, within[1]: images[within[0]], across[1]: images[across[0]], val[1]: images[val[0]]})
    task = accepted()
    assert set(images) == set(task.listing.ids)
    assert set(task.prepared(224).ids) == {*images, within[1], across[1], val[1]}


@pytest.mark.parametrize(
    "other",
    [
        "spuco_birds/train/landbirds/water/x.jpg",  # another background
        "spuco_birds/test/waterbirds/land/x.jpg",  # another label, in another split
        "spuco_dogs/val/small_dogs/indoor/x.jpg",  # another family
    ],
)
def test_equal_files_whose_groups_disagree_are_all_dropped(
    make: Callable[..., Path], images: dict[str, bytes], other: str
) -> None:
    one = "spuco_birds/train/landbirds/land/7.jpg"
    twin = "spuco_birds/train/landbirds/land/8.jpg"
    make({**images, other: images[one], twin: images[one]})
    assert set(accepted().listing.ids) == set(images) - {one, twin}


def test_duplicates_are_found_by_hand() -> None:
    digests = {"a": b"1", "b": b"1", "c": b"2", "d": b"2", "e": b"2", "f": b"3"}
    labels = {"a": (0, 0), "b": (0, 0), "c": (1, 0), "d": (1, 1), "e": (1, 0), "f": (0, 0), "g": (0, 0), "h": (0, 0)}
    assert drop_duplicates(tuple("hgfedcba"), digests, labels) == ({"b"}, {"c", "d", "e"})
    # Only what is looked at counts.
    assert drop_duplicates(("b", "c", "f"), digests, labels) == (set(), set())
    assert drop_duplicates((), digests, labels) == (set(), set())


def test_descriptions_that_differ_are_counted_and_the_first_are_named() -> None:
    first_differing({"a": 1, "b": 2}, {"b": 2, "a": 1}, "labels")
    with pytest.raises(DataError, match=r"^labels: 3 sample\(s\) differ from the pinned ones: a, b, c$"):
        first_differing({"a": 1, "b": 2}, {"b": 3, "c": 1}, "labels")
    with pytest.raises(DataError, match=r"7 sample\(s\) differ from the pinned ones: 0, 1 and 5 more"):
        first_differing(dict.fromkeys("0123456"), dict.fromkeys("0123456", 1), "labels", most=2)


# --- what tasks over image files share -----------------------------------------------------------------------------


def test_images_come_in_the_order_of_the_rows_and_at_the_sizes_of_the_recipes(
    make: Callable[..., Path], images: dict[str, bytes]
) -> None:
    make()
    task = accepted()
    assert task.sizes() == (224, 64)
    rows = task.manifest("native", 0).splits[TEST]
    found = task.images(rows, 64)
    assert found.shape == (len(rows), 64, 64, 3)
    for k in (0, 5, len(rows) - 1):
        expected = decode(images[rows.ids[k]], 64, crop="center-square", scaled=True)[0]
        np.testing.assert_array_equal(found[k], expected)
    np.testing.assert_array_equal(np.asarray(task.images(rows)), task.render(rows))
    assert task.prepared(64).folder.name.startswith("64px-")
    assert task.recipe(64).as_dict() != task.recipe(224).as_dict()


def test_what_was_prepared_serves_when_the_files_are_gone(make: Callable[..., Path], images: dict[str, bytes]) -> None:
    folder = make()
    expected = accepted().manifest("native", 0).digest
    shutil.rmtree(folder)
    task = accepted()
    assert task.place is None
    assert task.manifest("native", 0).digest == expected
    assert task.prepared(224).images([LONG]).shape == (1, 224, 224, 3)
    with pytest.raises(NotAvailable, match="are not here"):
        task.prepared(64)  # another size would need the files


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_images_that_come_later_are_seen(make: Callable[..., Path], images: dict[str, bytes], form: str) -> None:
    make({name: content for name, content in images.items() if name not in (LONG, GREY)}, form=form)
    assert set(accepted().listing.ids) == set(images) - {LONG, GREY}
    make(form=form)
    assert set(accepted().listing.ids) == set(images)


def test_another_copy_is_prepared_anew_and_the_first_is_still_good(
    make: Callable[..., Path], images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(form="zip")
    first = accepted().prepared(64)
    other = tmp_path / "other"
    other.mkdir()
    for part in PLACES:
        with zipfile.ZipFile(other / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in images.items():
                if name.startswith(part):
                    archive.writestr(name, photo(77) if name == LONG else content)
    monkeypatch.setenv("GENBIAS_DATA", str(other))
    second = accepted().prepared(64)
    assert second.folder != first.folder
    assert second.sha256 != first.sha256
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))
    again = accepted()
    assert again.find_prepared(64) == first


def test_the_folders_to_hide_from_a_training_process_are_those_of_the_data(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make()
    assert accepted().data_folders() == (home.data_home().resolve(), folder.resolve())
    shutil.rmtree(folder)
    assert accepted().data_folders() == (home.data_home().resolve(),)


def test_one_digest_over_the_files_is_what_could_be_pinned(make: Callable[..., Path], images: dict[str, bytes]) -> None:
    make()
    task = accepted()
    # Not whole, so that only the list has a digest.
    assert set(source_digests(task)) == {"samples"}
    rows = sorted(table(task.listing).items())
    lines = "".join(f"{name}\t{part}\t{y}\t{a}\n" for name, (part, y, a) in rows)
    assert source_digests(task)["samples"] == hashlib.sha256(lines.encode()).hexdigest()


def test_nothing_is_read_before_the_terms_are_accepted(make: Callable[..., Path], tmp_path: Path) -> None:
    make()
    task = SpuCoAnimals(CARD)
    for ask in (lambda: task.listing, lambda: task.prepared(64), task.ids_at_hand):
        with pytest.raises(DataError, match=r"spuco-animals have terms.*curated from ImageNet.*--accept-terms"):
            ask()
    assert not (tmp_path / "store").exists()


def test_a_listing_needs_no_other_size_than_the_one_that_is_ready(
    make: Callable[..., Path], images: dict[str, bytes]
) -> None:
    make()
    task = accepted()
    task.make_ready(64, Silent())
    assert set(task.listing.ids) == set(images)
    assert task.images(task.manifest("native", 0).splits[TEST], 64).shape[1:] == (64, 64, 3)
    assert accepted().ids_at_hand() == frozenset(images)
    # At the card's own size the real data set would take seven gigabytes.
    assert task.find_prepared(224) is None
    assert [folder.name[:4] for folder in home.prepared_folder(CARD).iterdir()] == ["64px"]
