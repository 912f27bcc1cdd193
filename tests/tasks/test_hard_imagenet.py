"""Hard ImageNet in its original layout, made by the tests: masks and ranks beside a copy of ImageNet."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import DataError, NotAvailable
from benchmark.progress import Silent
from benchmark.tasks import home
from benchmark.tasks.ablations import VIEWS, ablate, decode_mask
from benchmark.tasks.card import load_card
from benchmark.tasks.decode import decode
from benchmark.tasks.hard_imagenet import STRONG, WEAK, HardImageNet
from benchmark.tasks.law import DRAWS
from benchmark.tasks.levels import round_half_up
from benchmark.tasks.manifest import AUDIT, SPLITS, TEST, TRAIN, VALIDATION

CARD = load_card("hard-imagenet")
CODES = CARD.task.label.codes or ()
INDEX = {100 + 7 * k: code for k, code in enumerate(CODES)}  # ImageNet's own numbers, in the data set's order
RANKED, VALIDATED = 30, 2


def photo(seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def mask(width: int = 48, height: int = 40, mode: str = "RGB", kind: str = "PNG") -> bytes:
    """An object in the lower right quarter of the middle."""
    covered = np.zeros((height, width), dtype=np.uint8)
    covered[height // 2 : 3 * height // 4, width // 2 : 5 * width // 8] = 255
    stream = io.BytesIO()
    Image.fromarray(covered).convert(mode).save(stream, kind)
    return stream.getvalue()


def train_name(y: int, k: int) -> str:
    # The ranks are in no order of names.
    return f"{CODES[y]}_{(k * 7919 + y) % 10_007}.JPEG"


def val_name(y: int, k: int) -> str:
    return f"ILSVRC2012_val_{y:05d}{k:03d}.JPEG"


def ranks(n: int = RANKED) -> dict[int, list[str]]:
    """Training paths of each class, weakest cue first."""
    return {
        index: [f"train/{code}/{train_name(y, k)}" for k in range(n)] for y, (index, code) in enumerate(INDEX.items())
    }


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def dump(path: Path, content: Any) -> None:
    write(path, pickle.dumps(content, protocol=2))


def layout(folder: Path, n: int = RANKED, imagenet: str = "imagenet") -> Path:
    """The whole layout: ``hardImageNet/{train,val,meta}`` beside ``imagenet/{train,val}/<wnid>/``."""
    masks, images = folder / "hardImageNet", folder / imagenet
    for y, code in enumerate(CODES):
        for k in range(n):
            write(images / "train" / code / train_name(y, k), photo(1_000 * y + k))
        write(masks / "train" / f"{code}_{train_name(y, 0)}", mask())
        for k in range(VALIDATED):
            write(images / "val" / code / val_name(y, k), photo(50_000 + 10 * y + k))
            write(masks / "val" / f"{code}_{val_name(y, k)}", mask())
        # A validation image that nobody has masked.
        write(images / "val" / code / val_name(y, 9), photo(60_000 + y))
    dump(masks / "meta" / "idx_to_wnid.pkl", {**INDEX, 3: "n00000003"})
    dump(masks / "meta" / "hard_imagenet_idx.pkl", list(INDEX))
    dump(masks / "meta" / "paths_by_rank.pkl", ranks(n))
    return folder


def accepted() -> HardImageNet:
    home.accept_terms(CARD)
    return HardImageNet(CARD)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HardImageNet]:
    """The task over the layout, ready."""
    root = tmp_path_factory.mktemp("hard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBIAS_STORE", str(root / "store"))
        patch.setenv("GENBIAS_DATA", str(layout(root / "data")))
        found = accepted()
        found.make_ready(224, Silent())
        yield found


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A layout of the test's own with six ranked images a class, to be changed before it is looked at."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))
    return layout(tmp_path / "data" / "hard", 6)


# --- thirds --------------------------------------------------------------------------------------------------------


def test_the_first_third_of_a_ranking_is_weak_the_last_is_strong_and_the_middle_unused(task: HardImageNet) -> None:
    listing = task.listing
    found = dict(zip(listing.ids, zip(listing.y.tolist(), listing.a.tolist(), strict=True), strict=True))
    expected = {}
    for y, paths in enumerate(ranks().values()):
        expected |= dict.fromkeys(paths[:10], (y, WEAK)) | dict.fromkeys(paths[20:], (y, STRONG))
    assert found == expected
    assert CARD.task.attribute.values[STRONG] == "strong"
    assert listing.whole


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 29, 31])
def test_thirds_are_rounded_and_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))
    folder = layout(tmp_path / "data", 1)
    dump(folder / "hardImageNet" / "meta" / "paths_by_rank.pkl", ranks(n))
    third = min(round_half_up(Fraction(n, 3)), n // 2)
    expected = {path for paths in ranks(n).values() for path in paths[:third] + paths[n - third :]}
    found = accepted().listing
    assert set(found.ids) == expected
    assert (found.a == WEAK).sum() == (found.a == STRONG).sum() == 15 * third


def test_twenty_per_cent_of_each_third_are_the_test_at_every_level_and_draw(task: HardImageNet) -> None:
    tests, audits = set(), set()
    for level in CARD.task.levels:
        for draw in DRAWS:
            manifest = task.manifest(level, draw)
            # Ten images a third: two for the test, one (half of one, rounded up) for auditors.
            assert manifest.counts(TEST).tolist() == [[2, 2]] * 15
            assert manifest.counts(AUDIT).tolist() == [[1, 1]] * 15
            tests.add(manifest.splits[TEST].ids)
            audits.add(manifest.splits[AUDIT].ids)
            members = [i for name in SPLITS for i in manifest.splits[name].ids]
            assert len(members) == len(set(members))
            assert all(name.startswith("train/") for name in members)
    assert len(tests) == len(audits) == 1


def test_strong_is_the_aligned_value_of_every_class(task: HardImageNet) -> None:
    manifest = task.manifest("0.9", 0)
    # Of ten in a third, two and one are cut and one is for validation: six are strong, and one weak is the least.
    assert manifest.counts(TRAIN)[:, STRONG].tolist() == [6] * 15
    assert manifest.counts(TRAIN)[:, WEAK].tolist() == [1] * 15
    assert manifest.counts(VALIDATION)[:, STRONG].tolist() == [1] * 15
    assert task.pin_state(manifest) == "unpinned"


def test_images_of_the_splits_are_those_of_imagenet_s_folders(task: HardImageNet) -> None:
    rows = task.manifest("0.9", 0).splits[TEST]
    images = task.images(rows)
    root = Path(os.environ["GENBIAS_DATA"]) / "imagenet"
    for k in (0, 17, len(rows) - 1):
        content = (root / rows.ids[k]).read_bytes()
        np.testing.assert_array_equal(images[k], decode(content, 224, crop="center-square", scaled=True)[0])


# --- the ranking's own forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["meta/paths_by_rank2.pkl", "paths_by_rank2.pkl", "meta/paths_by_rank.pkl", "paths_by_rank.pkl"]
)
def test_the_ranking_is_found_under_its_names(small: Path, place: str) -> None:
    masks = small / "hardImageNet"
    (masks / "meta" / "paths_by_rank.pkl").rename(masks / place)
    assert len(accepted().listing.ids) == 15 * 4


def test_of_two_rankings_that_of_the_official_loader_counts(small: Path) -> None:
    turned = {index: paths[::-1] for index, paths in ranks(6).items()}
    dump(small / "hardImageNet" / "paths_by_rank2.pkl", turned)
    listing = accepted().listing
    first = ranks(6)[100][0]
    assert listing.a[listing.ids.index(first)] == STRONG


def test_pickles_of_python_2_and_numbers_of_numpy_are_read(small: Path) -> None:
    meta = small / "hardImageNet" / "meta"
    dump(meta / "hard_imagenet_idx.pkl", np.array(list(INDEX)))
    write(meta / "idx_to_wnid.pkl", pickle.dumps({np.int64(k): code for k, code in INDEX.items()}))
    # Protocol 0 as Python 2 wrote it: lines of text, strings in quotes.
    text = pickle.dumps(ranks(6), protocol=0)
    write(meta / "paths_by_rank.pkl", text.replace(b"\nV", b"\nS'").replace(b".JPEG\n", b".JPEG'\n"))
    assert b"S'train/" in (meta / "paths_by_rank.pkl").read_bytes()
    assert len(accepted().listing.ids) == 15 * 4


WRONG: dict[str, tuple[str, Callable[[], Any], str]] = {
    "another order": (
        "hard_imagenet_idx",
        lambda: [107, 100, *list(INDEX)[2:]],
        rf"list the classes {CODES[1]}, {CODES[0]}, .*; the card has {CODES[0]}, {CODES[1]}",
    ),
    "a class less": ("hard_imagenet_idx", lambda: list(INDEX)[:14], r"list the classes .*; the card has"),
    "an unknown class": ("hard_imagenet_idx", lambda: [999, *list(INDEX)[1:]], r"no WordNet id for class 999"),
    "classes as words": ("hard_imagenet_idx", lambda: ["dog sled"] * 15, r"Hard ImageNet"),
    "classes in a dictionary": ("hard_imagenet_idx", lambda: INDEX, r"holds a dict, expected list"),
    "names in a list": ("idx_to_wnid", lambda: list(CODES), r"idx_to_wnid\.pkl .* holds a list, expected dict"),
    "a list of paths": ("paths_by_rank", lambda: ["train/a/b"], r"paths_by_rank\.pkl.* holds a list, expected dict"),
    "a class without ranks": ("paths_by_rank", lambda: {k: v for k, v in ranks(6).items() if k != 107}, r"is empty or"),
    "an empty class": ("paths_by_rank", lambda: {**ranks(6), 107: []}, rf"is empty or repeats .* class {CODES[1]}"),
    "an image twice": ("paths_by_rank", lambda: {**ranks(6), 100: ranks(6)[100] * 2}, r"repeats an image for class"),
    "ranks that are no list": ("paths_by_rank", lambda: {**ranks(6), 100: 7}, r"Hard ImageNet"),
    **{
        f"the path {path}": (
            "paths_by_rank", lambda path=path: {**ranks(6), 100: [*ranks(6)[100], path]}, r"holds .* under class n032"
        )
        for path in (
            f"train/{CODES[0]}/..", f"train/{CODES[0]}/../../../etc/passwd", f"train/{CODES[1]}/x.JPEG",
            f"val/{CODES[0]}/x.JPEG", f"../train/{CODES[0]}/x.JPEG", f"{CODES[0]}/x.JPEG",
            f"train/../{CODES[0]}/x.JPEG", "",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_metadata_that_are_not_the_original_are_refused_with_the_reason(small: Path, what: str) -> None:
    name, content, said = WRONG[what]
    dump(small / "hardImageNet" / "meta" / f"{name}.pkl", content())
    with pytest.raises(DataError, match=said):
        accepted().listing  # noqa: B018


class MakesFolder:
    """What a stranger's pickle does when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("name", ["idx_to_wnid", "hard_imagenet_idx", "paths_by_rank"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(small: Path, tmp_path: Path, name: str) -> None:
    dump(small / "hardImageNet" / "meta" / f"{name}.pkl", {1: MakesFolder(tmp_path / "harm")})
    with pytest.raises(DataError, match=rf"{name}\.pkl of Hard ImageNet is not the pickle .*posix\.mkdir"):
        accepted().listing  # noqa: B018
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("idx_to_wnid", r"without meta/idx_to_wnid\.pkl"),
        ("hard_imagenet_idx", r"without meta/hard_imagenet_idx\.pkl"),
        ("paths_by_rank", r"without meta/paths_by_rank2\.pkl"),
    ],
)
def test_metadata_that_are_not_there_are_named(small: Path, lost: str, said: str) -> None:
    (small / "hardImageNet" / "meta" / f"{lost}.pkl").unlink()
    with pytest.raises(DataError, match=said):
        accepted().listing  # noqa: B018


# --- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ILSVRC2012", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_is_found_under_its_usual_names(small: Path, name: str) -> None:
    (small / name).parent.mkdir(parents=True, exist_ok=True)
    (small / "imagenet").rename(small / name)
    assert accepted().listing.whole


def test_images_that_are_not_here_are_missing_and_move_no_other(small: Path) -> None:
    layout(small, 12)
    whole = accepted().manifest("0.9", 1)
    # One from the training split and one from the test, of classes that keep others.
    lost = {whole.splits[TRAIN].ids[0], whole.splits[TEST].ids[-1]}
    for name in lost:
        (small / "imagenet" / name).unlink()
    task = accepted()
    assert task.listing.missing == lost
    assert task.listing.complete
    here = task.manifest("0.9", 1)
    for name in SPLITS:
        assert list(here.splits[name].ids) == [i for i in whole.splits[name].ids if i not in lost]
    assert task.manifest("0.9", 1, whole=True).digest == whole.digest
    assert task.pin_state(here) == "partial"


def test_without_any_of_the_images_their_number_is_said(small: Path) -> None:
    for y, code in enumerate(CODES):
        shutil.rmtree(small / "imagenet" / "train" / code)
        for k in range(VALIDATED):
            (small / "imagenet" / "val" / code / val_name(y, k)).unlink()
    with pytest.raises(DataError, match=r"none of Hard ImageNet's 90 images lies in imagenet/train and imagenet/val"):
        accepted().listing  # noqa: B018


@pytest.mark.parametrize("lost", ["hardImageNet", "imagenet", "imagenet/val", "imagenet/train"])
def test_masks_without_imagenet_or_the_reverse_are_not_the_data_set(small: Path, lost: str) -> None:
    shutil.rmtree(small / lost)
    with pytest.raises(NotAvailable, match=r"hard-imagenet are not here.*hardImageNet \(folder or zip"):
        accepted().listing  # noqa: B018


def test_of_equal_files_the_smallest_id_is_kept_and_none_where_the_thirds_disagree(small: Path) -> None:
    root = small / "imagenet"
    weak, strong = sorted(ranks(6)[100][:2]), sorted(ranks(6)[107][4:])
    (root / weak[1]).write_bytes((root / weak[0]).read_bytes())
    contradictory = strong[0], ranks(6)[107][0]
    (root / contradictory[1]).write_bytes((root / contradictory[0]).read_bytes())
    everything = {path for paths in ranks(6).values() for path in paths[:2] + paths[4:]}
    assert set(accepted().listing.ids) == everything - {weak[1], *contradictory}


def test_nothing_is_read_before_the_terms_are_accepted(small: Path, tmp_path: Path) -> None:
    task = HardImageNet(CARD)
    for ask in (lambda: task.listing, lambda: task.make_ready(64, Silent()), task.ids_at_hand):
        with pytest.raises(DataError, match=r"hard-imagenet have terms.*--accept-terms"):
            ask()
    assert not (tmp_path / "store").exists()


def test_a_ranking_that_comes_later_is_taken_with_all_its_images(small: Path) -> None:
    assert accepted().listing.whole
    # The middle two of six change places with the first two.
    other = {index: [*paths[2:4], *paths[:2], *paths[4:]] for index, paths in ranks(6).items()}
    dump(small / "hardImageNet" / "meta" / "paths_by_rank2.pkl", other)
    listing = accepted().listing
    assert set(other[100][:2]) <= set(listing.ids)
    assert listing.missing == frozenset()


def test_a_listing_needs_no_other_size_than_the_one_that_is_ready(small: Path) -> None:
    task = accepted()
    task.make_ready(64, Silent())
    assert task.listing.whole
    assert len(task.views(64)["clean"].rows) == 30
    assert task.find_prepared(224) is None


# --- ablated views -------------------------------------------------------------------------------------------------


def test_the_views_are_the_validation_images_that_have_a_mask_ten_times(task: HardImageNet) -> None:
    views = task.views(224)
    assert tuple(views) == VIEWS
    assert len(views) == 10
    expected = sorted(f"val/{code}/{val_name(y, k)}" for y, code in enumerate(CODES) for k in range(VALIDATED))
    for view in views.values():
        assert list(view.rows.ids) == list(view.rows.sources) == expected
        assert view.rows.y.tolist() == [CODES.index(name.split("/")[1]) for name in expected]
        assert set(view.rows.a.tolist()) == {-1}
        assert view.images.shape == (30, 224, 224, 3)
    assert not set(expected) & {i for name in SPLITS for i in task.manifest("balanced", 0).splits[name].ids}


def test_every_view_is_its_image_ablated_with_its_own_mask(task: HardImageNet) -> None:
    views, root = task.views(224), Path(os.environ["GENBIAS_DATA"])
    covered = decode_mask(mask(), 224, "center-square")[0][:, :, 0] > 0
    assert 0 < covered.sum() < 224 * 224
    for k in (0, 29):
        name = views["clean"].rows.ids[k]
        image = decode((root / "imagenet" / name).read_bytes(), 224, crop="center-square", scaled=True)[0]
        for view, found in views.items():
            np.testing.assert_array_equal(found.images[k], ablate(view, image, covered, name))
    np.testing.assert_array_equal(np.asarray(views["clean"].images), task.render(views["clean"].rows))
    assert views["tiled"].images[:0].shape == (0, 224, 224, 3)
    np.testing.assert_array_equal(views["noise-background-1"].images[[3, 1]][1], views["noise-background-1"].images[1])


def test_masks_of_other_sizes_modes_and_formats_are_read(small: Path) -> None:
    forms = [
        mask(48, 40, "L"), mask(48, 40, "1"), mask(48, 40, "RGBA"), mask(96, 80, "P"), mask(480, 400, "L"),
        mask(48, 40, "L", "JPEG"), mask(224, 224, "RGB"), mask(50, 40, "LA"),
    ]  # fmt: skip
    names = [f"{code}_{val_name(y, k)}" for y, code in enumerate(CODES) for k in range(VALIDATED)]
    for name, content in zip(names, forms, strict=False):
        write(small / "hardImageNet" / "val" / name, content)
    task = accepted()
    task.make_ready(64, Silent())
    views = task.views(64)
    for k in range(len(forms)):
        code, _, file = names[k].partition("_")
        row = views["object-grey"].rows.ids.index(f"val/{code}/{file}")
        grey = (views["object-grey"].images[row] == 128).all(axis=2)
        # The quarter's share of the central square: an eighth of the width and a quarter of the height.
        assert 0.02 < grey.mean() < 0.08


def test_a_mask_without_its_image_and_an_image_without_its_mask_are_left_out(small: Path) -> None:
    (small / "hardImageNet" / "val" / f"{CODES[0]}_{val_name(0, 0)}").unlink()
    (small / "imagenet" / "val" / CODES[1] / val_name(1, 1)).unlink()
    write(small / "hardImageNet" / "val" / f"n99999999_{val_name(0, 0)}", mask())  # of no class of the task
    write(small / "hardImageNet" / "val" / "readme.txt", b"x")
    task = accepted()
    task.make_ready(64, Silent())
    ids = task.views(64)["clean"].rows.ids
    assert len(ids) == 28
    assert f"val/{CODES[0]}/{val_name(0, 0)}" not in ids
    assert f"val/{CODES[1]}/{val_name(1, 1)}" not in ids


def test_a_mask_that_comes_later_adds_its_image(small: Path) -> None:
    task = accepted()
    task.make_ready(64, Silent())
    write(small / "hardImageNet" / "val" / f"{CODES[4]}_{val_name(4, 9)}", mask())
    later = accepted()
    later.make_ready(64, Silent())
    assert f"val/{CODES[4]}/{val_name(4, 9)}" in later.views(64)["clean"].rows.ids


def test_a_mask_that_cannot_be_read_is_named(small: Path) -> None:
    write(small / "hardImageNet" / "val" / f"{CODES[2]}_{val_name(2, 0)}", mask()[:50])
    with pytest.raises(DataError, match=rf"1 image\(s\) of hard-imagenet-masks cannot be read: val/{CODES[2]}/"):
        accepted().make_ready(64, Silent())


@pytest.mark.parametrize("prefix", ["hardImageNet/", "", "./hardImageNet/"])
def test_masks_and_ranks_may_stay_in_their_zip(small: Path, prefix: str) -> None:
    folder = accepted()
    folder.make_ready(64, Silent())
    expected = folder.manifest("0.9", 2).digest, folder.views(64)["tiled"].images[7]
    with zipfile.ZipFile(small / "hardImageNet.zip", "w") as archive:
        for path in sorted((small / "hardImageNet").rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(small / "hardImageNet").as_posix())
        archive.writestr(f"__MACOSX/hardImageNet/val/._{CODES[0]}_{val_name(0, 0)}", b"x")
    shutil.rmtree(small / "hardImageNet")
    packed = accepted()
    packed.make_ready(64, Silent())
    assert packed.manifest("0.9", 2).digest == expected[0]
    np.testing.assert_array_equal(packed.views(64)["tiled"].images[7], expected[1])


def test_a_damaged_zip_is_refused_by_name(small: Path) -> None:
    shutil.rmtree(small / "hardImageNet")
    write(small / "hardImageNet.zip", b"<html>Sign in to Box</html>")
    with pytest.raises(DataError, match=r"hardImageNet\.zip is a web page"):
        accepted().listing  # noqa: B018
