"""What `data verify` compares and `data pin` writes: sizes, digests, and the last lines of a card."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import DamagedFile, DataError
from benchmark.progress import Silent
from benchmark.records.files import read_json, write_json
from benchmark.tasks import home
from benchmark.tasks.block import LevelCounts
from benchmark.tasks.card import card_names, cards_folder, load_card, parse_card
from benchmark.tasks.law import DRAWS
from benchmark.tasks.locks import load_lock, lock_path
from benchmark.tasks.manifest import TRAIN
from benchmark.tasks.pinning import (
    agree,
    common,
    level_counts_of,
    pin_task,
    pixel_digests,
    source_digests,
    verify_task,
    with_expected,
)
from benchmark.tasks.spuco import SpuCoAnimals

COUNTS = LevelCounts(
    level="0.9", train=100, aligned=90, conflicting=10, populated_groups=4, smallest_group=3, validation=20,
    validation_conflicting=2, test=40, audit=5, groups=((3, 50), (40, 7)),
)  # fmt: skip


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_sizes_in_which_draws_agree_are_kept_and_the_others_are_null() -> None:
    other = COUNTS.model_copy(update={"smallest_group": 2, "groups": ((2, 50), (40, 8))})
    assert common([COUNTS]) == COUNTS
    assert common([COUNTS] * 5) == COUNTS
    found = common([COUNTS, COUNTS, other])
    assert found == COUNTS.model_copy(update={"smallest_group": None, "groups": None})
    assert common([other, COUNTS]) == found
    # One that is null already stays so.
    assert common([found, COUNTS]) == found


def test_sizes_of_which_a_card_must_always_speak_cannot_differ() -> None:
    with pytest.raises(ValueError, match="train"):
        common([COUNTS, COUNTS.model_copy(update={"train": 99})])


def test_a_card_agrees_with_what_it_leaves_open() -> None:
    open_card = COUNTS.model_copy(update={"smallest_group": None, "groups": None})
    assert agree(open_card, COUNTS)
    assert agree(COUNTS, COUNTS)
    assert not agree(COUNTS, open_card)
    for key in ("train", "aligned", "validation_conflicting", "test", "audit", "smallest_group"):
        assert not agree(COUNTS, COUNTS.model_copy(update={key: 1}))
    assert not agree(COUNTS, COUNTS.model_copy(update={"groups": ((3, 50), (41, 6))}))


def test_sizes_of_a_manifest_are_counted_by_hand(toy: Any) -> None:
    # UTKFace's law: male–young and female–old are aligned; audit 5 %, test and validation 10 % of each group.
    listing = toy.listing_of({(0, 0): 200, (0, 1): 100, (1, 0): 100, (1, 1): 400})
    task = toy.Task(load_card("utkface"), listing)
    found = level_counts_of(task, task.manifest("0.9", 0))
    # Training: 150 of 200 and 300 of 400 aligned; 150/9 = 16.7 and 300/9 = 33.3 conflicting.
    # Validation: 20 and 40 aligned, 20/9 = 2.2 and 40/9 = 4.4 conflicting.
    assert found == LevelCounts(
        level="0.9", train=150 + 300 + 17 + 33, aligned=450, conflicting=50, populated_groups=4, smallest_group=17,
        validation=66, validation_conflicting=6, test=80, audit=40, groups=((150, 17), (33, 300)),
    )  # fmt: skip


def test_an_empty_group_is_not_the_smallest(toy: Any) -> None:
    task = toy.Task(load_card("utkface"), toy.listing_of({(0, 0): 200, (1, 0): 100, (1, 1): 400}))
    found = level_counts_of(task, task.manifest("0.9", 0))
    assert (found.populated_groups, found.smallest_group) == (3, 33)
    assert found.groups == ((150, 0), (33, 300))


@pytest.mark.parametrize(("classes", "stated"), [(10, True), (11, False)])
def test_groups_are_stated_up_to_twenty_of_them(toy: Any, classes: int, stated: bool) -> None:
    card = load_card("utkface")
    label = card.task.label.model_copy(update={"values": tuple(f"class {k}" for k in range(classes))})
    block = card.task.model_copy(update={"label": label, "aligned": ("young",) * classes})
    listing = toy.listing_of({(y, a): 40 for y in range(classes) for a in (0, 1)})
    task = toy.Task(card.model_copy(update={"task": block}), listing)
    assert (level_counts_of(task, task.manifest("0.9", 0)).groups is not None) == stated


# --- the card's last lines -----------------------------------------------------------------------------------------


def text_of(name: str) -> str:
    return (cards_folder() / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", card_names())
def test_a_card_with_its_own_sizes_is_itself(name: str) -> None:
    expected = load_card(name).task.expected
    if expected:
        assert with_expected(text_of(name), expected, Path(f"{name}.md")) == text_of(name)


@pytest.mark.parametrize("name", card_names())
def test_a_card_with_other_sizes_is_the_card_with_them_and_nothing_else_changes(name: str) -> None:
    counts = [
        COUNTS,
        COUNTS.model_copy(update={"level": "balanced", "groups": None, "populated_groups": None}),
        COUNTS.model_copy(update={"level": "0.999", "smallest_group": None, "train": 1_000_000}),
    ]
    before = load_card(name)
    after = parse_card(with_expected(text_of(name), counts, Path(f"{name}.md")), name)
    assert list(after.task.expected) == counts
    assert after.task.model_copy(update={"expected": ()}) == before.task.model_copy(update={"expected": ()})
    assert (after.prose, after.hub) == (before.prose, before.hub)
    again = with_expected(with_expected(text_of(name), counts, Path("x.md")), before.task.expected, Path("x.md"))
    if before.task.expected:
        assert again == text_of(name)


def test_a_card_that_says_more_behind_its_sizes_is_refused_and_loses_nothing() -> None:
    text = text_of("utkface")
    head, mark, prose = text.partition("\n---\n\n")
    for addition in ("\n  superseded_by: utkface-2", "\nconfigs: []", "\n# a remark"):
        with pytest.raises(DataError, match=r"utkface\.md: `expected` must be the last entry of the front matter"):
            with_expected(f"{head}{addition}{mark}{prose}", [COUNTS], Path("utkface.md"))


@pytest.mark.parametrize("text", ["", "# no front matter", "---\ngenbias:\n  expected: []\n", "---\na: 1\n---\n"])
def test_a_text_without_sizes_in_its_front_matter_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"x\.md: `expected` must be the last entry"):
        with_expected(text, [COUNTS], Path("x.md"))


# --- digests -------------------------------------------------------------------------------------------------------


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], SpuCoAnimals]:
    """SpuCo Animals with two training images and one of the others in every group."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))
    seed = 0
    for part, labels, places in (
        ("spuco_birds", ("landbirds", "waterbirds"), ("land", "water")),
        ("spuco_dogs", ("small_dogs", "big_dogs"), ("indoor", "outdoor")),
    ):
        for label in labels:
            for place in places:
                for split in ("train", "train", "val", "test"):
                    seed += 1
                    path = tmp_path / "data" / part / split / label / place / f"{seed}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(jpeg(seed))
    card = load_card("spuco-animals")
    home.accept_terms(card)
    return lambda: SpuCoAnimals(card)


def test_a_damaged_store_of_prepared_images_is_named_and_made_again_when_it_is_deleted(
    animals: Callable[[], SpuCoAnimals],
) -> None:
    assert {each.state for each in verify_task(animals())} == {"partial"}
    prepared = animals().prepared(224)
    file = prepared.folder / "images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"{prepared.folder.name} are damaged \(1 of them.*delete the folder"):
        verify_task(animals())
    shutil.rmtree(prepared.folder)
    verify_task(animals())
    assert animals().prepared(224).pixels_sha256 == prepared.pixels_sha256


def test_verifying_gives_every_level_and_draw_its_digest_and_sizes(animals: Callable[[], SpuCoAnimals]) -> None:
    task = animals()
    found = verify_task(task)
    assert [(each.level, each.draw) for each in found] == [(level, d) for level in task.card.task.levels for d in DRAWS]
    for each in found:
        assert each.task == "spuco-animals@1"
        assert each.digest == task.manifest(each.level, each.draw).digest
        assert each.counts == level_counts_of(task, task.manifest(each.level, each.draw))


def test_files_are_pinned_by_one_digest_over_ids_and_digests_where_all_are_here(
    animals: Callable[[], SpuCoAnimals],
) -> None:
    task = animals()
    assert set(source_digests(task)) == {"samples"}
    task.listing = replace(task.listing, complete=True)  # as though these were all
    prepared = task.prepared(224)
    lines = "".join(
        f"{name}\t{hashlib.sha256((Path(os.environ['GENBIAS_DATA']) / name).read_bytes()).hexdigest()}\n"
        for name in prepared.ids
    )
    assert source_digests(task)["files"] == hashlib.sha256(lines.encode()).hexdigest()


def test_the_list_s_digest_depends_on_no_order_and_on_nothing_at_hand(toy: Any) -> None:
    listing = toy.listing_of({(0, 0): 3, (1, 1): 2}, TRAIN)
    task = toy.Task(load_card("utkface"), listing)
    lines = [f"0-0-{k:05d}\ttrain\t0\t0\n" for k in range(3)] + [f"1-1-{k:05d}\ttrain\t1\t1\n" for k in range(2)]
    expected = {"samples": hashlib.sha256("".join(lines).encode()).hexdigest()}
    assert task.list_digests() == expected
    assert toy.Task(task.card, toy.shuffled(listing, 3)).list_digests() == expected
    assert toy.Task(task.card, replace(listing, missing=frozenset({"0-0-00001"}))).list_digests() == expected
    assert toy.Task(task.card, replace(listing, a=1 - listing.a)).list_digests() != expected


def test_only_rendered_pixels_have_digests_and_only_files_have_lists(toy: Any) -> None:
    task = toy.Task(load_card("utkface"), toy.listing_of({(y, a): 40 for y in (0, 1) for a in (0, 1)}))
    assert pixel_digests(task) == {}
    assert source_digests(task) == {}  # such a task lies in a package


# --- pinning -------------------------------------------------------------------------------------------------------


def test_a_part_of_a_data_set_is_not_pinned_and_nothing_is_written(
    animals: Callable[[], SpuCoAnimals], toy: Any
) -> None:
    files = [lock_path(name) for name in ("splits", "pixels", "sources")]
    files += [cards_folder() / f"{name}.md" for name in ("spuco-animals", "utkface")]
    before = [file.read_bytes() for file in files]
    listing = replace(toy.listing_of({(y, a): 40 for y in (0, 1) for a in (0, 1)}), complete=False)
    for task in (animals(), toy.Task(load_card("utkface"), listing)):
        with pytest.raises(DataError, match=r"(spuco-animals|utkface)@1 is only partly at hand"):
            pin_task(task, Silent())
    assert [file.read_bytes() for file in files] == before


PIN = """
import sys
sys.path.insert(0, {root!r})
from benchmark.tasks.card import cards_folder, load_card
from benchmark.tasks.locks import load_lock, lock_path
from benchmark.tasks.pinning import pin_task, verify_task
from benchmark.tasks.{module} import {name}
assert str(cards_folder()).startswith({root!r}), cards_folder()
assert str(lock_path("splits")).startswith({root!r})
task = {name}(load_card({card!r}))
pin_task(task)
print({{each.state for each in verify_task({name}(load_card({card!r})))}})
"""


def pinned_in_a_copy(
    folder: Path, card: str, module: str, name: str, older: dict[str, str] | None = None
) -> tuple[list[bytes], str]:
    """Pin a task from nothing, or beside splits of older versions, in a copy of the package that a test may write.

    Returns:
        The files that were written, and the states that verifying them then gives.
    """
    root = folder / "copy"
    for package in ("benchmark", "data_cards"):
        source = cards_folder().parent / package
        shutil.copytree(source, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    forget(root, card)
    if older is not None:
        path = root / "benchmark" / "tasks" / "splits.lock"
        content = read_json(path)
        content["tasks"][card] = older
        write_json(path, content)
    program = PIN.format(root=str(root), card=card, module=module, name=name)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return pinned_files(root, card), done.stdout.strip()


def pinned_files(root: Path, card: str) -> list[bytes]:
    names = [f"benchmark/tasks/{name}.lock" for name in ("splits", "pixels", "sources")]
    return [(root / name).read_bytes() for name in (*names, f"data_cards/{card}.md")]


def forget(root: Path, card: str) -> None:
    """Take a task out of the locks, and its sizes out of its card."""
    for name in ("splits", "pixels", "sources"):
        path = root / "benchmark" / "tasks" / f"{name}.lock"
        content = read_json(path)
        content["tasks"].pop(card, None)
        write_json(path, content)
    path = root / "data_cards" / f"{card}.md"
    head, mark, rest = path.read_text().partition("\n  expected:")
    path.write_text(f"{head}{mark} []\n---\n{rest.partition(chr(10) + '---' + chr(10))[2]}")


@pytest.mark.slow
def test_pinning_from_nothing_writes_what_is_committed(tmp_path: Path) -> None:
    written, states = pinned_in_a_copy(tmp_path, "colorized-digits", "digits", "ColorizedDigits")
    assert states == "{'pinned'}"
    assert written == pinned_files(cards_folder().parent, "colorized-digits")


@pytest.mark.slow
def test_pinning_a_copy_that_lacks_images_but_has_the_whole_list_writes_what_is_committed(
    tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(real_data))
    home.accept_terms(load_card("celeba-smiling"))
    written, states = pinned_in_a_copy(tmp_path, "celeba-smiling", "celeba", "CelebA")
    assert states == "{'partial'}"
    assert written == pinned_files(cards_folder().parent, "celeba-smiling")


@pytest.mark.slow
def test_splits_of_an_older_version_stay_pinned(tmp_path: Path) -> None:
    older = {"split-0/0.95/draw-0": "a" * 64}
    pinned_in_a_copy(tmp_path, "colorized-digits", "digits", "ColorizedDigits", older)
    entries = read_json(tmp_path / "copy" / "benchmark" / "tasks" / "splits.lock")["tasks"]["colorized-digits"]
    assert entries == {**load_lock("splits").entries["colorized-digits"], **older}
