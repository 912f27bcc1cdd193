"""UTKFace: the pinned list of its files, splits from names alone, and copies in every form and state."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import DataError, NotAvailable
from benchmark.tasks import home
from benchmark.tasks.card import load_card
from benchmark.tasks.decode import decode
from benchmark.tasks.law import DRAWS
from benchmark.tasks.locks import load_lock, split_key
from benchmark.tasks.manifest import AUDIT, SPLITS, TEST, TRAIN, VALIDATION
from benchmark.tasks.pinning import level_counts_of, source_digests, verify_task
from benchmark.tasks.utkface import UTKFace, label_of

CARD = load_card("utkface")
UNSEEN = "5_0_1_20170117193745507.jpg.chip.jpg"


def accepted() -> UTKFace:
    home.accept_terms(CARD)
    return UTKFace(CARD)


@pytest.fixture(scope="module")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UTKFace]:
    """The task over the real archive, of which one file is absent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBIAS_DATA", str(real_data))
        patch.setenv("GENBIAS_STORE", str(tmp_path_factory.mktemp("store")))
        yield accepted()


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "gender", "expected"),
    [
        (0, 0, (0, 0)), (1, 1, (1, 0)), (5, 0, (0, 0)), (6, 0, None), (19, 1, None), (20, 1, (1, 1)), (50, 0, (0, 1)),
        (51, 0, None), (116, 1, None), (205, 0, None),
    ],
)  # fmt: skip
def test_a_name_says_gender_and_age_group(age: int, gender: int, expected: tuple[int, int] | None) -> None:
    assert label_of(f"{age}_{gender}_3_20170119200211340.jpg.chip.jpg") == expected


@pytest.mark.parametrize(
    "name",
    [
        "39_1_20170116174525125.jpg.chip.jpg",
        "55_0_0_20170116232725357jpg.chip.jpg",
        "24_0_1_20170116220224657 .jpg.chip.jpg",
        "24_2_1_20170116220224657.jpg.chip.jpg",
        "24_1_5_20170116220224657.jpg.chip.jpg",
        "24_1_1_20170116220224657.jpg",
        "-24_1_1_20170116220224657.jpg.chip.jpg",
        "24_1_1_20170116220224657.jpg.chip.jpg.bak",
        "._24_1_1_20170116220224657.jpg.chip.jpg",
        "24_1_1_2017\n.jpg.chip.jpg",
        "",
    ],
)
def test_a_name_of_another_form_has_no_label(name: str) -> None:
    assert label_of(name) is None


def test_the_shipped_list_names_every_file_and_has_digests_of_all_but_one() -> None:
    pinned = UTKFace(CARD).pinned
    assert len(pinned) == 23_708
    assert [name for name, digest in pinned.items() if digest is None] == [UNSEEN]
    assert {len(digest) for digest in pinned.values() if digest is not None} == {32}
    form = re.compile(r"\d+_[01]_[0-4]_\d+\.jpg\.chip\.jpg")
    assert sum(form.fullmatch(name) is None for name in pinned) == 5


def test_no_kept_file_is_malformed_stands_twice_or_contradicts_itself() -> None:
    task = UTKFace(CARD)
    kept = set(task.whole)
    by_digest: dict[bytes, list[str]] = {}
    for name, digest in task.pinned.items():
        if digest is not None and re.fullmatch(r"\d+_[01]_[0-4]_\d+\.jpg\.chip\.jpg", name):
            by_digest.setdefault(digest, []).append(name)
    clusters = [names for names in by_digest.values() if len(names) > 1]
    annotations = [{tuple(name.split("_")[:2]) for name in names} for names in clusters]
    assert len(clusters) == 375
    assert sum(len(each) > 1 for each in annotations) == 224
    for names, each in zip(clusters, annotations, strict=True):
        survivors = kept & set(names)
        if len(each) > 1:
            assert survivors == set()
        elif label_of(names[0]) is not None:
            assert survivors == {min(names)}
    alone = {names[0] for names in by_digest.values() if len(names) == 1} | {UNSEEN}
    assert {name for name in alone if label_of(name) is not None} <= kept
    assert len(kept) == 16_459
    assert list(task.whole) == sorted(kept)


# --- splits --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_splits_of_the_whole_data_set_are_the_pinned_ones_with_the_card_s_counts(real: UTKFace) -> None:
    expected = {counts.level: counts for counts in CARD.task.expected}
    found = {}
    for level in CARD.task.levels:
        for draw in DRAWS:
            manifest = real.manifest(level, draw, whole=True)
            assert level_counts_of(real, manifest) == expected[level]
            found[split_key(CARD, level, draw)] = manifest.digest
    assert len(found) == 25
    assert load_lock("splits").entries["utkface"] == found


def test_the_list_and_the_names_have_the_pinned_digests(real: UTKFace) -> None:
    found = source_digests(real)
    assert found == load_lock("sources").entries["utkface"]
    names = "".join(f"{name}\n" for name in sorted(real.pinned))
    assert found["names"] == hashlib.sha256(names.encode()).hexdigest()


def test_one_absent_file_makes_the_copy_partial_and_moves_nothing(real: UTKFace) -> None:
    listing = real.listing
    assert (len(listing.ids), listing.missing, listing.complete) == (16_459, {UNSEEN}, True)
    touched = 0
    for draw in DRAWS:
        here, whole = real.manifest("0.999", draw), real.manifest("0.999", draw, whole=True)
        assert real.pin_state(here) == "partial"
        for name in SPLITS:
            left = [row for row in whole.splits[name].ids if row != UNSEEN]
            assert list(here.splits[name].ids) == left
            touched += len(whole.splits[name]) - len(left)
    assert touched > 0  # the absent file is used in some draw


def test_no_image_is_in_two_splits_and_test_and_audit_are_the_same_in_every_draw(real: UTKFace) -> None:
    manifests = [real.manifest("0.9", draw, whole=True) for draw in DRAWS]
    for manifest in manifests:
        members = Counter(i for name in SPLITS for i in manifest.splits[name].ids)
        assert set(members.values()) == {1}
        assert set(members) <= set(real.listing.ids)
    for name in (TEST, AUDIT):
        assert len({manifest.splits[name].ids for manifest in manifests}) == 1
    assert len({manifest.splits[TRAIN].ids for manifest in manifests}) == len(DRAWS)


def test_the_list_is_known_without_any_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: UTKFace) -> None:
    expected = real.manifest("0.97", 4).digest
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path))
    task = UTKFace(CARD)
    assert task.known_listing().ids == task.whole
    assert task.manifest_without("0.97", 4, frozenset({UNSEEN})).digest == expected
    with pytest.raises(DataError, match="terms of use"):
        task.listing  # noqa: B018


@pytest.mark.slow
def test_every_real_file_is_the_pinned_one_and_verifying_says_partial(real: UTKFace) -> None:
    found = verify_task(real)
    assert {each.state for each in found} == {"partial"}
    pinned = load_lock("splits").entries["utkface"]
    assert {split_key(CARD, each.level, each.draw): each.digest for each in found} == pinned
    prepared = real.prepared(100)
    assert (len(prepared.ids), prepared.converted) == (16_458, {})
    assert dict(zip(prepared.ids, prepared.sha256, strict=True)) == {name: real.pinned[name] for name in prepared.ids}


# --- small copies --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces(real_data: Path) -> dict[str, bytes]:
    """Some real files, held in memory only: four of each group, one too old for the task and one malformed."""
    found: dict[str, bytes] = {}
    room = Counter({(y, a): 4 for y in (0, 1) for a in (0, 1)})
    whole = set(UTKFace(CARD).whole)
    with tarfile.open(real_data / "utkface" / "UTKFace.tar.gz") as tar:
        for member in tar:
            name = Path(member.name).name
            label = label_of(name)
            wanted = label is not None and name in whole and room[label] > 0
            if wanted or name in ("100_0_0_20170112213500903.jpg.chip.jpg", "39_1_20170116174525125.jpg.chip.jpg"):
                stream = tar.extractfile(member)
                assert stream is not None
                found[name] = stream.read()
                if label is not None:
                    room[label] -= 1
    assert len(found) == 18
    return found


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write files in one of the forms in which UTKFace is passed around."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))

    def write(files: dict[str, bytes], form: str = "folder", prefix: str = "UTKFace/") -> Path:
        folder = tmp_path / "data" / "faces"
        folder.mkdir(parents=True, exist_ok=True)
        if form == "folder":
            for name, content in files.items():
                path = folder / "UTKFace" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        elif form == "zip":
            with zipfile.ZipFile(folder / "UTKFace.zip", "w") as archive:
                for name, content in files.items():
                    archive.writestr(prefix + name, content)
        else:
            with tarfile.open(folder / f"UTKFace.{form}", "w:gz" if form.endswith("gz") else "w") as tar:
                for name, content in files.items():
                    member = tarfile.TarInfo(prefix + name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return folder

    return write


def used(files: dict[str, bytes]) -> set[str]:
    return {name for name in files if label_of(name) is not None}


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "tar.gz", "tgz"])
def test_every_form_gives_the_used_images_and_the_same_pixels(
    make: Callable[..., Path], faces: dict[str, bytes], form: str
) -> None:
    make(faces, form)
    task = accepted()
    assert set(task.listing.ids) - task.listing.missing == used(faces)
    prepared = task.prepared(100)
    assert set(prepared.ids) == used(faces)
    for name in sorted(used(faces))[::5]:
        expected = decode(faces[name], 100, crop="none", scaled=True)[0]
        np.testing.assert_array_equal(prepared.images([name])[0], expected)


@pytest.mark.parametrize("prefix", ["", "./UTKFace/", "some/where/else/"])
def test_the_folder_inside_an_archive_may_be_called_anything(
    make: Callable[..., Path], faces: dict[str, bytes], prefix: str
) -> None:
    make(faces, "tar.gz", prefix)
    assert set(accepted().prepared(100).ids) == used(faces)


def test_the_folder_itself_may_be_named(
    make: Callable[..., Path], faces: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(faces)
    monkeypatch.setenv("GENBIAS_DATA", str(folder / "UTKFace"))
    assert set(accepted().prepared(100).ids) == used(faces)


def test_of_a_copy_further_down_the_one_nearest_to_the_root_counts(
    make: Callable[..., Path], faces: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """A popular archive holds the folder a second time, and cuts of the same faces under other names."""
    deeper = {f"utkface_aligned_cropped/UTKFace/{name}": b"another file" for name in faces}
    other = {f"crop_part1/{name.removesuffix('.chip.jpg')}": b"a cut" for name in faces}
    make({**deeper, **{f"UTKFace/{name}": content for name, content in faces.items()}, **other}, "zip", "")
    task = accepted()
    with caplog.at_level(logging.WARNING):
        prepared = task.prepared(100)
    assert dict(zip(prepared.ids, prepared.sha256, strict=True)) == {
        name: hashlib.sha256(faces[name]).digest() for name in used(faces)
    }
    assert [record.getMessage() for record in caplog.records if "not of UTKFace" in record.getMessage()] == [
        f"18 file(s) are not of UTKFace and are left out: {', '.join(sorted(Path(n).name for n in other)[:5])}"
    ]


def test_files_that_utkface_does_not_have_are_counted_in_one_warning_and_left_out(
    make: Callable[..., Path], faces: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    strangers = {f"30_1_2_2099010100000000{k}.jpg.chip.jpg": b"x" for k in range(7)}
    make({**faces, **strangers, "readme.txt": b"x", ".DS_Store": b"x"})
    task = accepted()
    with caplog.at_level(logging.WARNING):
        assert set(task.prepared(100).ids) == used(faces)
    shown = ", ".join(sorted(strangers)[:5])
    assert [record.getMessage() for record in caplog.records] == [
        f"7 file(s) are not of UTKFace and are left out: {shown}"
    ]


def test_nothing_is_said_where_only_used_files_lie(
    make: Callable[..., Path], faces: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    make(faces)
    with caplog.at_level(logging.WARNING):
        accepted().prepared(100)
    assert caplog.records == []


def test_a_file_that_is_not_the_original_is_refused_by_name(make: Callable[..., Path], faces: dict[str, bytes]) -> None:
    name = min(used(faces))
    stream = io.BytesIO()
    Image.open(io.BytesIO(faces[name])).save(stream, "JPEG", quality=80)
    make({**faces, name: stream.getvalue()})
    with pytest.raises(
        DataError, match=rf"1 file\(s\) of UTKFace are not the originals .*such as {re.escape(name)}; get them again"
    ):
        accepted().prepared(100)
    # What was prepared from it is not taken up by a later call either.
    with pytest.raises(DataError, match="are not the originals"):
        accepted().prepared(100)


def test_a_file_that_was_put_right_in_its_place_is_read_again(
    make: Callable[..., Path], faces: dict[str, bytes]
) -> None:
    name = min(used(faces))
    other = faces[max(used(faces))]
    folder = make({**faces, name: other})
    with pytest.raises(DataError, match="are not the originals"):
        accepted().prepared(100)
    with (folder / "UTKFace" / name).open("r+b") as stream:  # as `cp` does, so that the folder itself does not change
        stream.write(faces[name])
        stream.truncate()
    assert set(accepted().prepared(100).ids) == used(faces)


def test_at_most_five_of_many_differing_files_are_named(make: Callable[..., Path], faces: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (200, 200)).save(stream, "JPEG")
    make(dict.fromkeys(faces, stream.getvalue()))
    with pytest.raises(DataError, match=r"16 file\(s\) of UTKFace are not the originals") as caught:
        accepted().prepared(100)
    assert str(caught.value).count(".chip.jpg") == 5


def test_the_file_that_was_never_seen_may_hold_anything(make: Callable[..., Path], faces: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (200, 200), (9, 8, 7)).save(stream, "JPEG")
    make({**faces, UNSEEN: stream.getvalue()})
    task = accepted()
    assert UNSEEN in task.prepared(100).ids
    assert UNSEEN not in task.listing.missing


def test_unused_files_are_not_read(make: Callable[..., Path], faces: dict[str, bytes]) -> None:
    unused = dict.fromkeys(set(faces) - used(faces), b"neither a face nor an image")
    make({**faces, **unused})
    assert set(accepted().prepared(100).ids) == used(faces)


def test_a_small_copy_keeps_its_images_where_the_whole_data_set_has_them(
    make: Callable[..., Path], faces: dict[str, bytes], real: UTKFace
) -> None:
    make(faces)
    task = accepted()
    here, whole = task.manifest("0.9", 0), real.manifest("0.9", 0, whole=True)
    assert task.manifest("0.9", 0, whole=True).digest == whole.digest
    for name in (TRAIN, VALIDATION, TEST, AUDIT):
        assert list(here.splits[name].ids) == [i for i in whole.splits[name].ids if i in faces]
    assert task.pin_state(here) == "partial"


# --- nothing of it -------------------------------------------------------------------------------------------------


def test_nothing_here_is_not_available_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path))
    task = accepted()
    for ask in (lambda: task.listing, lambda: task.prepared(100), task.ids_at_hand):
        with pytest.raises(NotAvailable, match=r"utkface are not here.*--from FOLDER.*UTKFace\.tar\.gz"):
            ask()


def test_a_web_page_in_place_of_the_archive_is_called_so(make: Callable[..., Path]) -> None:
    folder = make({}, "tar.gz")
    (folder / "UTKFace.tar.gz").write_bytes(b"<html>Google Drive - Virus scan warning</html>")
    with pytest.raises(DataError, match=r"UTKFace\.tar\.gz is a web page"):
        accepted().listing  # noqa: B018


def test_an_archive_without_a_used_image_is_refused(make: Callable[..., Path]) -> None:
    make({"readme.txt": b"x"}, "zip")
    with pytest.raises(DataError, match=r"the source of utkface holds no image"):
        accepted().prepared(100)


def test_nothing_is_read_before_the_terms_are_accepted(
    make: Callable[..., Path], faces: dict[str, bytes], tmp_path: Path
) -> None:
    make(faces)
    task = UTKFace(CARD)
    for ask in (lambda: task.listing, lambda: task.prepared(100), task.ids_at_hand):
        with pytest.raises(DataError, match=r"utkface have terms.*non-commercial research.*--accept-terms"):
            ask()
    assert not (tmp_path / "store").exists()
