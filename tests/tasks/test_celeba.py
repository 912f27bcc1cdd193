"""CelebA: its original lists and the numbers that the literature publishes; folders, archives and the Hub's copy."""

from __future__ import annotations

import gzip
import io
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import DataError, NotAvailable
from benchmark.tasks import home
from benchmark.tasks.block import LevelCounts
from benchmark.tasks.card import load_card
from benchmark.tasks.celeba import CelebA, read_annotations
from benchmark.tasks.decode import decode
from benchmark.tasks.law import DRAWS, SplitLaw, split
from benchmark.tasks.locks import load_lock, split_key
from benchmark.tasks.manifest import AUDIT, SPLITS, TEST, TRAIN, VALIDATION, Manifest, Rows
from benchmark.tasks.pinning import level_counts_of, pin_task, source_digests

TASKS = ("celeba-blond", "celeba-smiling")
ATTRIBUTES, PARTITION, IDENTITY = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"
IMAGES = "img_align_celeba"
NAMES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young
""".split()  # noqa: SIM905
PUBLISHED = {
    TRAIN: [[71_629, 66_874], [22_880, 1_387]],
    VALIDATION: [[8_535, 8_276], [2_874, 182]],
    TEST: [[9_767, 7_535], [2_480, 180]],
}


def accepted(name: str) -> CelebA:
    """A task whose terms are accepted in the store at hand."""
    home.accept_terms(load_card(name))
    return CelebA(load_card(name))


def table(rows: Rows) -> list[tuple[str, int, int]]:
    return list(zip(rows.ids, rows.y.tolist(), rows.a.tolist(), strict=True))


# --- the whole lists -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, CelebA]]:
    """Both tasks over the real lists of 202,599 images and the 2,000 images that are at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBIAS_DATA", str(real_data))
        patch.setenv("GENBIAS_STORE", str(tmp_path_factory.mktemp("store")))
        yield {name: accepted(name) for name in TASKS}


@pytest.fixture(scope="module")
def blond(tasks: dict[str, CelebA]) -> CelebA:
    return tasks["celeba-blond"]


@pytest.mark.slow
def test_the_lists_name_every_image_and_the_subset_drops_out(blond: CelebA) -> None:
    listing = blond.listing
    assert (len(listing.ids), len(listing.missing)) == (202_599, 200_599)
    assert listing.ids[0] == "000001.jpg"
    assert listing.ids[-1] == "202599.jpg"
    assert listing.complete
    assert not listing.whole


@pytest.mark.slow
def test_native_gives_the_published_group_counts(blond: CelebA) -> None:
    """With nothing cut for auditors the official partition is left as it is."""
    law = SplitLaw(**{**blond.card.law.__dict__, "audit_share": Fraction(0)})
    manifest = split(blond.known_listing(), law, "native", 0)
    assert {name: manifest.counts(name).tolist() for name in PUBLISHED} == PUBLISHED


@pytest.mark.slow
def test_native_and_the_audit_split_are_together_the_published_counts(blond: CelebA) -> None:
    manifest = blond.manifest("native", 0, whole=True)
    # 5 % of 71,629, 66,874, 22,880 and 1,387, rounded half up.
    assert manifest.counts(AUDIT).tolist() == [[3_581, 3_344], [1_144, 69]]
    assert (manifest.counts(TRAIN) + manifest.counts(AUDIT)).tolist() == PUBLISHED[TRAIN]
    assert manifest.counts(VALIDATION).tolist() == PUBLISHED[VALIDATION]
    assert manifest.counts(TEST).tolist() == PUBLISHED[TEST]


@pytest.mark.slow
def test_a_bias_level_leaves_the_test_alone_and_keeps_its_share_exactly(blond: CelebA) -> None:
    at_95, at_99 = (blond.manifest(level, 1, whole=True) for level in ("0.95", "0.99"))
    # Blond: 21,736 aligned need 1,144 conflicting at .95 and 219.6 at .99; not blond: 63,530 need 3,343.7 and 641.7.
    assert at_95.counts(TRAIN).tolist() == [[3_344, 63_530], [21_736, 1_144]]
    assert at_99.counts(TRAIN).tolist() == [[642, 63_530], [21_736, 220]]
    assert at_95.splits[TEST].ids == at_99.splits[TEST].ids
    assert at_95.splits[AUDIT].ids == at_99.splits[AUDIT].ids
    assert set(at_99.splits[TRAIN].ids) < set(at_95.splits[TRAIN].ids)


@pytest.mark.slow
def test_the_aligned_groups_of_smiling_are_cut_to_ffr_s_sizes_at_every_level(tasks: dict[str, CelebA]) -> None:
    smiling = tasks["celeba-smiling"]
    aligned = {}
    for level in smiling.card.task.levels:
        manifest = smiling.manifest(level, 2, whole=True)
        counts, rows = manifest.counts(TRAIN), manifest.splits[TRAIN]
        assert (counts[0, 1], counts[1, 0]) == (5_335, 7_797)
        aligned[level] = {i for i, y, a in table(rows) if (y, a) in ((0, 1), (1, 0))}
        # Validation is not cut.
        assert (
            manifest.counts(VALIDATION)[1, 0]
            == (np.array(smiling.listing.partition) == VALIDATION)[
                (smiling.listing.y == 1) & (smiling.listing.a == 0)
            ].sum()
        )
    assert len({frozenset(ids) for ids in aligned.values()}) == 1


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("place", [0, -1])
def test_the_whole_split_is_the_pinned_one_and_has_the_card_s_counts(
    tasks: dict[str, CelebA], name: str, place: int
) -> None:
    task = tasks[name]
    pinned_and_counted(task, task.card.task.levels[place], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("draw", DRAWS)
def test_all_whole_splits_are_the_pinned_ones_and_have_the_card_s_counts(
    tasks: dict[str, CelebA], name: str, draw: int
) -> None:
    task = tasks[name]
    assert len(load_lock("splits").entries[name]) == 5 * len(task.card.task.levels) == 25
    for level in task.card.task.levels:
        pinned_and_counted(task, level, draw)


def pinned_and_counted(task: CelebA, level: str, draw: int) -> None:
    manifest = task.manifest(level, draw, whole=True)
    pinned = load_lock("splits").entries[task.card.task.name]
    assert manifest.digest == pinned[split_key(task.card, level, draw)]
    expected: dict[str, LevelCounts] = {counts.level: counts for counts in task.card.task.expected}
    assert level_counts_of(task, manifest) == expected[level]


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_no_image_at_hand_moves_because_others_are_missing(tasks: dict[str, CelebA], name: str) -> None:
    task = tasks[name]
    at_hand = set(task.listing.ids) - task.listing.missing
    for level, draw in (("0.95", 0), ("0.99", 0)):
        here, whole = task.manifest(level, draw), task.manifest(level, draw, whole=True)
        for split_name in SPLITS:
            kept = [row for row in table(whole.splits[split_name]) if row[0] in at_hand]
            assert table(here.splits[split_name]) == kept
        assert 0 < len(here.splits[TRAIN]) < 2_000
        assert task.pin_state(here) == "partial"


@pytest.mark.slow
def test_a_split_that_lacks_what_is_missing_here_is_made_from_the_lists_alone(blond: CelebA) -> None:
    missing = blond.listing.missing
    assert blond.manifest_without("0.95", 0, missing).digest == blond.manifest("0.95", 0).digest


def test_without_the_list_of_identities_every_image_is_a_unit(blond: CelebA) -> None:
    rows = blond.manifest("0.95", 0).splits[TEST]
    assert blond.resampling_unit == "sample"
    assert blond.units(rows) == rows.sources


def test_the_images_of_the_archive_are_prepared_from_their_central_square(blond: CelebA, real_data: Path) -> None:
    rows = blond.manifest("0.95", 0).splits[TEST]
    images = blond.images(rows)
    assert images.shape == (214, 96, 96, 3)
    with zipfile.ZipFile(real_data / "celeba" / f"{IMAGES}.zip") as archive:
        content = archive.read(f"{IMAGES}/{rows.ids[7]}")
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (178, 218)
        square = image.convert("RGB").crop((0, 20, 178, 198)).resize((96, 96), Image.Resampling.BILINEAR)
    # Pillow decodes with other upsampling of colours than we ask of libjpeg, so pixels are near and not equal.
    assert np.abs(images[7].astype(int) - np.asarray(square)).mean() < 2
    np.testing.assert_array_equal(images[7], decode(content, 96, crop="center-square", scaled=False)[0])
    assert blond.prepared(96).converted == {}


def test_both_tasks_share_the_prepared_images(tasks: dict[str, CelebA]) -> None:
    assert tasks["celeba-blond"].prepared(96).folder == tasks["celeba-smiling"].prepared(96).folder


def test_a_list_that_is_not_whole_cannot_be_pinned(make: Callable[..., Path]) -> None:
    make()
    with pytest.raises(DataError, match=r"celeba-blond@1 is only partly at hand, so it cannot be pinned"):
        pin_task(accepted("celeba-blond"))


@pytest.mark.parametrize("name", TASKS)
def test_the_list_has_the_pinned_digest_whatever_images_are_at_hand(tasks: dict[str, CelebA], name: str) -> None:
    assert source_digests(tasks[name]) == load_lock("sources").entries[name]


# --- a folder in the original format -------------------------------------------------------------------------------

PARTS = "000000000000111122222222"  # twelve training images, four for validation, eight for the test


def values_of(k: int) -> dict[str, int]:
    """Annotations by which every group is populated in every part."""
    return {"Blond_Hair": k % 2, "Male": k // 2 % 2, "Smiling": k // 4 % 2}


def names_of(n: int) -> list[str]:
    return [f"{k + 1:06d}.jpg" for k in range(n)]


def attribute_list(n: int = len(PARTS), said: int | None = None, end: str = "\n") -> str:
    """The list as CelebA writes it: the number of images, the names with a space at the end, words of fixed width."""
    lines = [str(n if said is None else said), " ".join(NAMES) + " "]
    for k, name in enumerate(names_of(n)):
        words = [1 if values_of(k).get(column, 0) else -1 for column in NAMES]
        lines.append(name + "".join(f"{word:>3}" for word in words))
    return end.join(lines) + end


def pairs(values: Sequence[str | int], end: str = "\n") -> str:
    return end.join(f"{name} {value}" for name, value in zip(names_of(len(values)), values, strict=True)) + end


def photo(k: int, size: tuple[int, int] = (178, 218)) -> bytes:
    pixels = np.random.default_rng(k).integers(0, 256, (11, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
    return stream.getvalue()


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    return {name: photo(k) for k, name in enumerate(names_of(len(PARTS)))}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: dict[str, bytes]) -> Callable[..., Path]:
    """Write a small CelebA; whatever is not asked for is as in the original."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))

    def write(
        attributes: str | bytes | None = None,
        partition: str | bytes | None = None,
        identity: str | None = None,
        images: Sequence[str] | None = None,
        *,
        form: str = "folder",
        lists: tuple[str, str] = ("", ""),
        suffix: str = "",
    ) -> Path:
        folder = tmp_path / "data" / "celeba"
        anno, evaluation = (folder / name for name in lists)
        for parent in (anno, evaluation):
            parent.mkdir(parents=True, exist_ok=True)
        written = {
            anno / ATTRIBUTES: attribute_list() if attributes is None else attributes,
            evaluation / PARTITION: pairs(PARTS) if partition is None else partition,
        }
        if identity is not None:
            written[anno / IDENTITY] = identity
        for path, text in written.items():
            content = text if isinstance(text, bytes) else text.encode()
            path.with_name(path.name + suffix).write_bytes(gzip.compress(content) if suffix else content)
        chosen = {name: photos.get(name, photos["000001.jpg"]) for name in (photos if images is None else images)}
        place = folder / "Img" if lists[0] else folder
        place.mkdir(exist_ok=True)
        if form == "folder":
            (place / IMAGES).mkdir()
            for name, content in chosen.items():
                (place / IMAGES / name).write_bytes(content)
        else:
            with zipfile.ZipFile(place / f"{IMAGES}.zip", "w") as archive:
                archive.mkdir(IMAGES)
                for name, content in chosen.items():
                    archive.writestr(f"{IMAGES}/{name}", content)
        return folder

    return write


def expected_listing() -> list[tuple[str, int, int, str]]:
    parts = {"0": TRAIN, "1": VALIDATION, "2": TEST}
    return [
        (name, values_of(k)["Blond_Hair"], values_of(k)["Male"], parts[PARTS[k]])
        for k, name in enumerate(names_of(len(PARTS)))
    ]


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("lists", [("", ""), ("Anno", "Eval"), ("Anno", "Anno")])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_original_layouts_give_one_listing_and_the_same_pixels(
    make: Callable[..., Path], photos: dict[str, bytes], form: str, lists: tuple[str, str], suffix: str
) -> None:
    make(form=form, lists=lists, suffix=suffix)
    task = accepted("celeba-blond")
    listing = task.listing
    found = zip(listing.ids, listing.y.tolist(), listing.a.tolist(), listing.partition or (), strict=True)
    assert list(found) == expected_listing()
    assert listing.missing == frozenset()
    assert not listing.complete  # the data set has 202,599
    images = task.prepared(96).images(["000009.jpg"])
    np.testing.assert_array_equal(images[0], decode(photos["000009.jpg"], 96, crop="center-square", scaled=False)[0])


def test_the_label_is_the_one_that_the_card_names(make: Callable[..., Path]) -> None:
    make()
    listing = accepted("celeba-smiling").listing
    assert listing.y.tolist() == [values_of(k)["Smiling"] for k in range(len(PARTS))]
    assert listing.a.tolist() == [values_of(k)["Male"] for k in range(len(PARTS))]


def test_a_small_copy_is_partial_and_its_splits_follow_the_official_partition(make: Callable[..., Path]) -> None:
    make()
    task = accepted("celeba-blond")
    manifest: Manifest = task.manifest("native", 0)
    assert {name: len(manifest.splits[name]) for name in SPLITS} == {TRAIN: 12, VALIDATION: 4, TEST: 8, AUDIT: 0}
    assert task.pin_state(manifest) == "partial"


def test_lists_with_the_line_ends_of_windows_are_the_same_lists(make: Callable[..., Path]) -> None:
    make(attribute_list(end="\r\n"), pairs(PARTS, end="\r\n"), pairs([7] * len(PARTS), end="\r\n"))
    task = accepted("celeba-blond")
    assert [row[0] for row in expected_listing()] == list(task.listing.ids)
    assert set(task.annotations.identity or ()) == {"7"}


def test_a_list_that_is_packed_under_its_plain_name_is_read(make: Callable[..., Path]) -> None:
    make(gzip.compress(attribute_list().encode()), gzip.compress(pairs(PARTS).encode()))
    assert len(accepted("celeba-blond").listing.ids) == len(PARTS)


def test_the_lists_may_name_the_images_in_different_orders(make: Callable[..., Path]) -> None:
    make(partition="\n".join(reversed(pairs(PARTS).splitlines())))
    listing = accepted("celeba-blond").listing
    assert listing.partition == tuple(row[3] for row in expected_listing())


# --- identities ----------------------------------------------------------------------------------------------------


def test_identities_are_the_resampling_units_where_they_are_known(make: Callable[..., Path]) -> None:
    make(identity=pairs([2880 + k // 3 for k in range(len(PARTS))]), lists=("Anno", "Eval"))
    task = accepted("celeba-blond")
    assert task.resampling_unit == "identity"
    rows = task.manifest("native", 0).splits[TEST]
    assert list(task.units(rows)) == [str(2880 + (int(name[:6]) - 1) // 3) for name in rows.ids]
    assert len(set(task.units(rows))) < len(rows)


def test_a_list_of_identities_that_lacks_images_is_refused(make: Callable[..., Path]) -> None:
    make(identity=pairs([1] * (len(PARTS) - 2)))
    with pytest.raises(DataError, match=r"identity_CelebA\.txt lacks 2 of the 24 images, such as 000023\.jpg"):
        accepted("celeba-blond").listing  # noqa: B018


# --- what is wrong with the lists ----------------------------------------------------------------------------------


def changed(old: str, new: str, text: str | None = None) -> str:
    text = attribute_list() if text is None else text
    assert old in text
    return text.replace(old, new, 1)


WRONG = {
    "says more than it lists": (attribute_list(said=25), None, r"says 25 images and lists 24"),
    "cut off": (attribute_list()[:-200], None, r"says 24 images and lists 23|line \d+: \d+ words, expected 41"),
    "a row cut off": ("\n".join(attribute_list().splitlines()[:-1]) + "\n000024.jpg -1 -1\n", None, r"26: 3 words"),
    "no count": ("\n".join(attribute_list().splitlines()[1:]), None, r"does not begin with the number of images"),
    "empty": ("", None, r"does not begin with the number of images"),
    "a web page": ("<!DOCTYPE html>\n<html>\n<body>\n</body>\n", None, r"does not begin with the number of images"),
    "another column": (changed("Blond_Hair", "Fair_Hair"), None, r"has no column 'Blond_Hair'"),
    "zero": (
        "\n".join([*attribute_list().splitlines()[:-1], "000024.jpg" + "  0" * 40]), None,
        r"holds the value '0'; attributes are 1 or -1",
    ),
    "an image twice": (changed("000002.jpg", "000001.jpg"), None, r"lists an image twice"),
    "not text": (b"\xff\xfe\x00\x01" * 40, None, r"list_attr_celeba\.txt cannot be read"),
    "cut gzip": (gzip.compress(attribute_list().encode())[:-30], None, r"list_attr_celeba\.txt cannot be read"),
    "an empty line inside": (changed("\n000003", "\n\n000003", attribute_list(said=25)), None, r"line 5: 0 words"),
    "partition 3": (None, pairs("3" + PARTS[1:]), r"list_eval_partition\.txt holds the partition '3'; there are 0, 1"),
    "partition lacks": (None, pairs(PARTS[:-3]), r"lacks 3 of the 24 images, such as 000022\.jpg"),
    "partition of three words": (None, changed(" 0", " 0 0", pairs(PARTS)), r"line 1: expected an image and a value"),
    "empty partition": (None, "", r"lacks 24 of the 24 images"),
    "other names": (None, pairs(PARTS).replace(".jpg", ".png"), r"lacks 24 of the 24 images, such as 000001\.jpg"),
    "an image in two partitions": (None, pairs(PARTS) + "000001.jpg 2\n", r"list_eval_partition\.txt.*000001\.jpg"),
    "an image of no attributes": (None, pairs(PARTS + "0"), r"list_eval_partition\.txt.*000025\.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_list_that_is_not_the_original_is_refused_with_the_reason(make: Callable[..., Path], what: str) -> None:
    attributes, partition, said = WRONG[what]
    folder = make(attributes, partition)
    with pytest.raises(DataError, match=said):
        read_annotations(folder, ("Blond_Hair", "Male"))
    with pytest.raises(DataError, match=said):
        accepted("celeba-blond").listing  # noqa: B018


# --- images --------------------------------------------------------------------------------------------------------


def test_images_that_are_listed_and_not_here_are_missing(make: Callable[..., Path]) -> None:
    make(images=names_of(20))
    task = accepted("celeba-blond")
    assert task.listing.missing == frozenset(names_of(24)[20:])
    assert len(task.manifest("native", 0).splits[TEST]) == 4
    assert len(task.manifest("native", 0, whole=True).splits[TEST]) == 8


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_an_image_without_an_annotation_is_refused_by_name(make: Callable[..., Path], form: str) -> None:
    make(images=[*names_of(24), "202600.jpg", "300000.jpg"], form=form)
    with pytest.raises(DataError, match=r"2 image\(s\) have no annotation, such as 202600\.jpg"):
        accepted("celeba-blond").listing  # noqa: B018


def test_files_that_are_no_images_are_left_out(make: Callable[..., Path]) -> None:
    folder = make()
    for name in ("readme.txt", ".DS_Store", "._000001.jpg"):
        (folder / IMAGES / name).write_bytes(b"x")
    assert accepted("celeba-blond").listing.missing == frozenset()


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_are_kept(
    make: Callable[..., Path], photos: dict[str, bytes]
) -> None:
    folder = make()
    (folder / IMAGES / "000005.jpg").write_bytes(photos["000005.jpg"][:500])
    task = accepted("celeba-blond")
    with pytest.raises(DataError, match=r"1 image\(s\) of celeba cannot be read: 000005\.jpg"):
        task.prepared(96)


def test_images_that_come_later_are_seen(make: Callable[..., Path], photos: dict[str, bytes]) -> None:
    folder = make(images=names_of(20))
    accepted("celeba-blond").prepared(96)
    (folder / IMAGES / "000021.jpg").write_bytes(photos["000021.jpg"])
    task = accepted("celeba-blond")
    assert task.listing.missing == frozenset(names_of(24)[21:])
    assert len(task.prepared(96).ids) == 21


def test_grey_images_are_converted_and_counted(make: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = make()
    Image.new("L", (178, 218), 90).save(folder / IMAGES / "000004.jpg")
    task = accepted("celeba-blond")
    with caplog.at_level(logging.WARNING):
        assert task.prepared(96).converted == {"grey": 1}
    assert "celeba: converted to RGB: 1 grey (the first is 000004.jpg)" in caplog.text
    assert (task.prepared(96).images(["000004.jpg"])[0] == 90).all()


def test_a_web_page_in_place_of_the_archive_is_called_so(make: Callable[..., Path]) -> None:
    folder = make(form="zip")
    (folder / f"{IMAGES}.zip").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(DataError, match=r"img_align_celeba\.zip is a web page"):
        accepted("celeba-blond").listing  # noqa: B018


# --- terms and places ----------------------------------------------------------------------------------------------


def test_nothing_is_read_before_the_terms_are_accepted(make: Callable[..., Path], tmp_path: Path) -> None:
    make()
    task = CelebA(load_card("celeba-blond"))
    for ask in (lambda: task.listing, lambda: task.annotations, lambda: task.prepared(96), task.ids_at_hand):
        with pytest.raises(DataError, match=r"celeba-blond have terms.*non-commercial research.*--accept-terms"):
            ask()
    assert not (tmp_path / "store" / "data" / "prepared").exists()
    # They are the data set's, so that accepting them for one task is enough.
    home.accept_terms(load_card("celeba-smiling"))
    assert len(CelebA(load_card("celeba-blond")).listing.ids) == 24


@pytest.mark.parametrize("lost", [ATTRIBUTES, PARTITION, IMAGES])
def test_a_folder_without_lists_or_images_is_not_celeba(make: Callable[..., Path], lost: str) -> None:
    folder = make()
    (folder / lost).rename(folder / "elsewhere")
    with pytest.raises(NotAvailable, match=r"the data of celeba-blond are not here.*--from FOLDER"):
        accepted("celeba-blond").listing  # noqa: B018
