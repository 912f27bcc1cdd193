"""The prose of the data cards: no table, list or count in it may differ from the front matter or from the code."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmark.tasks.block import LevelCounts
from benchmark.tasks.card import DataCard, card_names, load_card
from benchmark.tasks.celeba import read_annotations
from benchmark.tasks.croissant import prose_sections
from benchmark.tasks.file_task import drop_duplicates
from benchmark.tasks.law import DRAWS, SplitLaw, Splitter
from benchmark.tasks.listings import read_listing
from benchmark.tasks.manifest import TEST, TRAIN
from benchmark.tasks.utkface import LISTING, UTKFace, label_of

HEADINGS = (
    "What it is",
    "How it is made",
    "Known problems",
    "Intended and prohibited uses",
    "Ethical considerations",
    "Citation",
)
DATA_HEADINGS = ("How to get the data", "Sizes")
BY_DRAW = "by draw"
FIELDS = {
    "training": "train",
    "training, aligned": "aligned",
    "training, conflicting": "conflicting",
    "populated groups": "populated_groups",
    "smallest group": "smallest_group",
    "validation": "validation",
    "validation, conflicting": "validation_conflicting",
    "test": "test",
    "audit": "audit",
}
ALWAYS = {"training", "validation", "validation, conflicting", "test", "audit"}
FETCHED = [name for name in card_names() if load_card(name).task.tier != "demo"]
FACES = [name for name in card_names() if load_card(name).task.faces]
MALFORMED = {
    "39_1_20170116174525125.jpg.chip.jpg": "lack a field",
    "61_1_20170109142408075.jpg.chip.jpg": "lack a field",
    "61_1_20170109150557335.jpg.chip.jpg": "lack a field",
    "55_0_0_20170116232725357jpg.chip.jpg": "lacks a dot",
    "24_0_1_20170116220224657 .jpg.chip.jpg": "has a space",
}


def flat(text: str) -> str:
    """Text as one line, as a reader sees it."""
    return " ".join(text.split())


def table_of(section: str) -> dict[str, dict[str, str]]:
    """The first table of a section: cell by row and column."""
    lines = re.findall(r"^\|(.*)\|$", section, flags=re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    if not rows:
        return {}
    header, rule, *body = rows
    assert all(set(cell) <= set("-:") for cell in rule)
    assert len({row[0] for row in body}) == len(body), "a row stands twice"
    assert all(len(row) == len(header) for row in body)
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}


def number(cell: str) -> int | None:
    if cell == BY_DRAW:
        return None
    assert re.fullmatch(r"\d{1,3}(,\d{3})*", cell), f"{cell!r} is not a count with its thousands apart"
    return int(cell.replace(",", ""))


def groups_of(card: DataCard) -> dict[str, tuple[int, int]]:
    """The comparable groups by their names in a table."""
    task, allowed = card.task, card.allowed_groups()
    return {
        f"{label}, {value}": (y, a)
        for y, label in enumerate(task.label.values)
        for a, value in enumerate(task.attribute.values)
        if allowed[y, a]
    }


# --- every card ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", card_names())
def test_a_card_has_its_sections_in_order_and_none_is_empty(name: str) -> None:
    card = load_card(name)
    sections = prose_sections(card)
    wanted = (*HEADINGS, *DATA_HEADINGS) if name in FETCHED else HEADINGS
    assert set(wanted) <= set(sections)
    assert all(sections.values())
    order = [heading for heading in sections if heading in HEADINGS]
    assert order == list(HEADINGS)
    assert card.prose.lstrip().startswith(f"# {card.hub['pretty_name']}\n")


@pytest.mark.parametrize("name", FETCHED)
def test_the_lines_of_a_card_s_prose_fit_a_page(name: str) -> None:
    assert [line for line in load_card(name).prose.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", FETCHED)
def test_the_table_of_sizes_is_what_the_front_matter_expects(name: str) -> None:
    card = load_card(name)
    expected: dict[str, LevelCounts] = {counts.level: counts for counts in card.task.expected}
    section = prose_sections(card)["Sizes"]
    table = table_of(section)
    if not expected:
        assert table == {}
        assert "not known" in section
        return
    few = all(counts.groups is not None for counts in expected.values())
    groups = groups_of(card)
    if few:
        assert set(table) == ALWAYS | set(groups)
    else:
        assert set(table) == set(FIELDS)
    for row, cells in table.items():
        assert list(cells) == list(card.task.levels), row
        for level, cell in cells.items():
            counts = expected[level]
            if row in FIELDS:
                assert number(cell) == getattr(counts, FIELDS[row]), (row, level)
            else:
                y, a = groups[row]
                assert counts.groups is not None
                assert number(cell) == counts.groups[y][a], (row, level)


@pytest.mark.parametrize("name", [name for name in FETCHED if load_card(name).task.expected])
def test_the_counts_of_the_front_matter_add_up(name: str) -> None:
    card = load_card(name)
    for counts in card.task.expected:
        assert counts.aligned + counts.conflicting == counts.train
        if counts.groups is None:
            continue
        allowed = set(groups_of(card).values())
        cells = {(y, a): n for y, row in enumerate(counts.groups) for a, n in enumerate(row)}
        assert sum(cells.values()) == counts.train
        assert all(n == 0 for group, n in cells.items() if group not in allowed)
        assert counts.aligned == sum(cells[y, a] for y, a in enumerate(card.law.aligned))


@pytest.mark.parametrize("name", FETCHED)
def test_a_card_tells_how_to_get_the_data(name: str) -> None:
    card = load_card(name)
    section = prose_sections(card)["How to get the data"]
    assert f"genbias-bench data fetch {name}" in section
    assert f"data fetch {name} --from FOLDER" in section
    assert "GENBIAS_DATA" in section
    assert ("--accept-terms" in section) == card.task.terms_accept
    assert "MiB" in section


@pytest.mark.parametrize(
    ("name", "images", "channels"),
    [
        ("colorized-mnist", 70_000, 1),
        ("cifar20-100", 60_000, 3),
        ("celeba-blond", 202_599, 3),
        ("celeba-smiling", 202_599, 3),
        ("utkface", 16_459, 3),
        ("spuco-animals", 48_100, 3),
    ],
)
def test_the_size_on_disk_is_that_of_the_prepared_array(name: str, images: int, channels: int) -> None:
    task = load_card(name).task
    section = flat(prose_sections(load_card(name))["How to get the data"])
    mebibytes = images * task.pixels.size**2 * channels / 2**20
    shown = f"{mebibytes:,.1f}" if mebibytes < 100 else f"{mebibytes:,.0f}"
    assert f"{images:,} × {task.pixels.size}² × {channels} bytes = {shown} MiB" in section
    if "small" in task.recipes and task.recipes["small"].image_size != task.pixels.size:
        side = task.recipes["small"].image_size
        assert f"{images * side**2 * channels / 2**20:,.0f} MiB at the {side} pixels" in section


# --- faces ---------------------------------------------------------------------------------------------------------


def test_the_tasks_with_faces_are_the_three_that_are_known() -> None:
    assert FACES == ["celeba-blond", "celeba-smiling", "utkface"]


@pytest.mark.parametrize("name", FACES)
def test_a_card_with_faces_says_whose_annotations_they_are_what_is_prohibited_and_whom_to_write_to(name: str) -> None:
    sections = prose_sections(load_card(name))
    ethics, uses = flat(sections["Ethical considerations"]), flat(sections["Intended and prohibited uses"])
    assert re.search(r"third[- ]party('s binary)? annotations", ethics)
    assert "not anyone's gender" in ethics
    assert "an issue on the project's repository, titled `takedown`" in ethics
    assert "the data set's own owners" in ethics
    assert "No image of a face, real or generated, and no pool, adapter or generator trained on them leaves" in ethics
    prohibited = uses.partition("**Prohibited:**")[2]
    assert "recognising the gender, age or identity of people" in prohibited
    assert "deployment" in prohibited
    assert load_card(name).task.terms_accept


def test_no_adapter_is_fine_tuned_on_small_children() -> None:
    made = flat(prose_sections(load_card("utkface"))["How it is made"])
    assert "No text-to-image adapter is fine-tuned on images of the age group up to 5" in made


# --- CelebA --------------------------------------------------------------------------------------------------------


def test_the_two_celeba_cards_have_the_same_sources_and_terms() -> None:
    blond, smiling = load_card("celeba-blond"), load_card("celeba-smiling")
    assert blond.task.sources == smiling.task.sources
    assert blond.task.terms == smiling.task.terms
    assert blond.task.data_set == smiling.task.data_set
    assert blond.task.pixels == smiling.task.pixels
    assert blond.hub["license_name"] == smiling.hub["license_name"]


def test_ours_and_the_audit_split_are_celeba_s_official_training_counts() -> None:
    card = load_card("celeba-blond")
    table = table_of(prose_sections(card)["How it compares with published counts"])
    native = next(counts for counts in card.task.expected if counts.level == "native")
    assert native.groups is not None
    columns = list(next(iter(table.values())))
    cells = {row: dict(zip(columns, map(number, values.values()), strict=True)) for row, values in table.items()}
    official = {row: [values[c] for c in columns if c.startswith("official")] for row, values in cells.items()}
    assert official == {
        "not blond, female": [71_629, 8_535, 9_767],
        "not blond, male": [66_874, 8_276, 7_535],
        "blond, female": [22_880, 2_874, 2_480],
        "blond, male": [1_387, 182, 180],
    }
    for row, (y, a) in groups_of(card).items():
        assert cells[row]["ours, `native`"] == native.groups[y][a]
        assert native.groups[y][a] + (cells[row]["audit"] or 0) == cells[row]["official training"]
    assert sum(values["audit"] or 0 for values in cells.values()) == native.audit


@pytest.mark.slow
def test_the_shares_and_test_groups_of_smiling_are_those_of_celeba_s_lists(real_data: Path) -> None:
    lists = read_annotations(real_data / "celeba", ("Smiling", "Male"))
    smiling, male, part = lists.values["Smiling"], lists.values["Male"], np.array(lists.partition)
    sections = prose_sections(load_card("celeba-smiling"))
    female = [100 * np.mean(~male[(part == TRAIN) & (smiling == value)]) for value in (True, False)]
    what = flat(sections["What it is"])
    assert f"{female[0]:.0f} % of the smiling faces and {female[1]:.0f} % of the others are annotated female" in what
    sizes = flat(sections["Sizes"])
    for group, (y, a) in groups_of(load_card("celeba-smiling")).items():
        n = int(((part == TEST) & (smiling == bool(y)) & (male == bool(a))).sum())
        assert f"{n:,} *{group}*" in sizes


# --- comparisons with FFR ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["celeba-smiling", "utkface"])
def test_the_counts_beside_ffr_s_are_ours_and_both_keep_the_ratio(name: str) -> None:
    card = load_card(name)
    table = table_of(prose_sections(card)["How it compares with published counts"])
    expected = {counts.level: counts for counts in card.task.expected}
    ffr_aligned = {"celeba-smiling": (5335, 7797), "utkface": (934, 5731)}[name]
    checked = 0
    for row, cells in table.items():
        group, _, whose = row.partition(": ")
        y, a = groups_of(card)[group]
        for level, cell in cells.items():
            counts, found = expected[level].groups, number(cell)
            assert counts is not None
            assert found is not None
            if whose == "ours":
                assert found == counts[y][a], (row, level)
            elif a == card.law.aligned[y]:
                assert found == ffr_aligned[y], (row, level)
            else:
                per_thousand = round(1000 * float(level))
                exact = ffr_aligned[y] * (1000 - per_thousand) / per_thousand
                assert abs(found - exact) <= 1, (row, level)
            checked += 1
    assert checked == len(table) * len(card.task.levels)


def test_spuco_s_conflicting_groups_stand_beside_ffr_s() -> None:
    card = load_card("spuco-animals")
    table = table_of(prose_sections(card)["How it compares with published counts"])
    assert {level: number(cell) for level, cell in table["FFR"].items()} == {
        "native": 500, "0.97": 310, "0.99": 102, "0.999": 11,
    }  # fmt: skip
    assert {level: number(cell) for level, cell in table["ours"].items()} == {
        counts.level: counts.smallest_group for counts in card.task.expected
    }
    made = flat(prose_sections(card)["How it is made"])
    native = card.task.expected[0]
    assert f"ρ = {native.aligned / native.train:.3f}".replace("0.", ".") in made


# --- CIFAR ---------------------------------------------------------------------------------------------------------


def test_the_aligned_fine_class_is_the_first_of_its_superclass_in_hash_order() -> None:
    card = load_card("cifar20-100")
    task = card.task
    prefix = "cifar20-100/1/fixed/"
    assert f"`{prefix}<fine class>`" in prose_sections(card)["How it is made"]
    assert task.class_family == {label: k for k, label in enumerate(task.label.values)}
    first = [
        min(family, key=lambda fine: hashlib.sha256(f"{prefix}{fine}".encode()).hexdigest())
        for family in task.attribute_family
    ]
    assert list(task.aligned) == first
    assert [len(family) for family in task.attribute_family] == [5] * 20


# --- UTKFace -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def utkface() -> UTKFace:
    """The task, of which only the shipped listing is asked."""
    return UTKFace(load_card("utkface"))


@pytest.fixture(scope="module")
def made() -> str:
    return flat(prose_sections(load_card("utkface"))["How it is made"])


def test_utkface_s_malformed_names_are_those_that_the_card_lists(made: str) -> None:
    columns = read_listing(LISTING, ("name",))
    well_formed = re.compile(r"^\d+_[01]_[0-4]_\d+\.jpg\.chip\.jpg$")
    assert {name for name in columns["name"] if not well_formed.match(name)} == set(MALFORMED)
    clauses = made.partition("**Malformed names.**")[2].partition("**Duplicates.**")[0].split(";")
    for name, why in MALFORMED.items():
        assert label_of(name) is None
        # The three that lack a field share one clause.
        assert any(f"`{name}`" in clause and why in clause for clause in clauses), name


def test_utkface_s_duplicates_are_as_many_as_the_card_says(utkface: UTKFace, made: str) -> None:
    digests = {name: digest for name, digest in utkface.pinned.items() if digest is not None}
    annotated: dict[str, tuple[int, int]] = {}
    for name in utkface.pinned:
        if name not in MALFORMED:
            age, gender, *_ = name.split("_")
            annotated[name] = (int(gender), int(age))
    sizes = Counter(digest for name, digest in digests.items() if name in annotated)
    clusters: dict[bytes, list[str]] = {digest: [] for digest, n in sizes.items() if n > 1}
    for name in annotated:
        if digests.get(name) in clusters:
            clusters[digests[name]].append(name)
    differing = [names for names in clusters.values() if len({annotated[name] for name in names}) > 1]
    assert (len(clusters), len(differing)) == (375, 224)
    copies, contradictory = drop_duplicates(tuple(annotated), digests, annotated)
    assert contradictory == {name for names in differing for name in names}
    in_groups = {name for name in annotated if label_of(name) is not None}
    assert (
        f"the other {len(annotated):,} names, of all ages, are {len(clusters)} clusters of byte-identical files" in made
    )
    assert f"In {len(differing)} of them" in made
    assert f"all their {len(contradictory)} files are dropped" in made
    assert f"{len(copies)} copies are dropped" in made
    gone = (len(contradictory & in_groups), len(copies & in_groups))
    assert f"Of the {len(in_groups):,} images in the two age groups {gone[0]} and {gone[1]} go that way" in made
    assert f"{len(utkface.whole):,} stay" in made
    assert len(utkface.whole) == len(in_groups) - sum(gone)


def test_the_one_file_of_utkface_that_was_never_seen_is_named(utkface: UTKFace) -> None:
    unseen = [name for name, digest in utkface.pinned.items() if digest is None]
    assert unseen == ["5_0_1_20170117193745507.jpg.chip.jpg"]
    assert unseen[0] in utkface.whole
    assert f"`{unseen[0]}`, was never seen by us" in flat(prose_sections(load_card("utkface"))["Known problems"])
    checks = flat(prose_sections(load_card("utkface"))["How to get the data"])
    n = len(utkface.pinned)
    assert f"names of all {n:,} files and the SHA-256 of {n - 1:,} of them" in checks


def test_utkface_s_sizes_follow_from_the_shipped_names(utkface: UTKFace, made: str) -> None:
    law: SplitLaw = utkface.card.law
    splitter = Splitter(utkface.known_listing(), law)
    for counts in utkface.card.task.expected:
        for draw in DRAWS:
            manifest = splitter.split(counts.level, draw)
            assert tuple(map(tuple, manifest.counts(TRAIN).tolist())) == counts.groups
            assert len(manifest.splits[TEST]) == counts.test
    (male_young, male_old), (female_young, female_old) = splitter.split("0.9", 0).counts(TEST).tolist()
    assert f"{male_young} *male, young*, {male_old} *male, old*, {female_young} *female, young*, {female_old}" in made
