"""Data cards: what is in the repository is complete, and what is damaged is refused by name."""

from __future__ import annotations

from fractions import Fraction

import pytest

from benchmark.errors import DataError, UnknownName, UsageError
from benchmark.tasks.card import card_names, cards_folder, load_card, parse_card
from benchmark.tasks.catalog import find_card, load_task

TEXT = (cards_folder() / "colorized-digits.md").read_text(encoding="utf-8")


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) >= 1
    return TEXT.replace(old, new, 1)


def test_every_card_in_the_repository_can_be_read_and_has_its_file_s_name() -> None:
    assert "colorized-digits" in card_names()
    for name in card_names():
        card = load_card(name)
        assert card.task.name == name
        assert card.hub["license"]
        # Hard ImageNet's class sizes are in its metadata only, which nobody here has seen.
        known = set() if name == "hard-imagenet" else set(card.task.levels)
        assert {counts.level for counts in card.task.expected} == known
        assert card.prose.lstrip().startswith("# ")


def test_a_card_gives_its_law_with_exact_shares() -> None:
    law = load_card("colorized-digits").law
    assert (law.audit_share, law.test_share, law.validation_share) == (Fraction(1, 10), Fraction(1, 5), Fraction(3, 20))
    assert law.aligned == tuple(range(10))
    assert law.attribute == "rendered"


def test_prompts_name_label_and_attribute() -> None:
    card = load_card("colorized-digits")
    assert card.prompt(7, 0) == "a red seven"
    assert card.prompt(7, None) == "a seven"
    override = parse_card(
        changed('  negative: ""', '  negative: ""\n    overrides: {"seven red": "a special seven"}'), "x"
    )
    assert override.prompt(7, 0) == "a special seven"
    assert override.prompt(7, 1) == "a orange seven"


def test_the_digest_covers_the_block_and_not_the_prose() -> None:
    digest = parse_card(TEXT, "x").digest
    assert parse_card(TEXT + "\nMore prose.\n", "x").digest == digest
    assert parse_card(changed("pretty_name: Colorized Digits", "pretty_name: Digits"), "x").digest == digest
    assert parse_card(changed("ink_jitter: 16", "ink_jitter: 15"), "x").digest != digest


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("  split_version: 1\n", "", "split_version"),
        ("  training:\n    backbone: small-cnn\n", "  training:\n", r"training\.backbone"),
        ("  tier: demo\n", "  tier: demo\n  colour: red\n", "colour"),
        ("    ink_jitter: 16\n", "    ink_jitter: 16\n    gamma: 2\n", r"pixels\.gamma"),
        ('levels: [balanced, "0.9",', 'levels: [balanced, ".9",', r"level '\.9' is not in its normal spelling '0\.9'"),
        ('levels: [balanced, "0.9",', 'levels: [balanced, "1.9",', r"bias level '1\.9'"),
        ('default_level: "0.95"', 'default_level: "0.97"', r"default_level '0\.97'"),
        ("  aligned: [red,", "  aligned: [crimson,", "`aligned`"),
        ("  aligned: [red,", "  aligned: [red, red,", "`aligned`"),
        ("  attribute_family: [[red, ", "  attribute_family: [[", "`attribute_family`"),
        ("      red: [230, 25, 25]\n", "", "palette"),
        ("values: [zero, one,", "values: [one, one,", "'digit' stands twice"),
        ('audit: "0.10"', 'audit: "ten"', r"shares\.audit"),
        ('audit: "0.10"', 'audit: "1/0"', r"shares\.audit"),
        ('audit: "0.10"', 'audit: "-0.1"', r"shares\.audit"),
        ('audit: "0.10"', 'audit: "0.65"', "nothing for training"),
        ("  positive_class: null\n", "  positive_class: null\n  aligned_cap: {ten: 5}\n", "`aligned_cap`"),
        ("mean: [0.5, 0.5, 0.5]", "mean: [.nan, 0.5, 0.5]", "JSON compliant"),
        ("  version: 1\n", "  version: 0\n", "version"),
        ("ranking_metric: acc_conflicting", "ranking_metric: accuracy", "ranking_metric"),
        ("test: crossed", "test: random", "test"),
        ("genbias:\n", "genbias: 3\nrest:\n", "genbias: Input should be"),
    ],
)  # fmt: skip
def test_a_damaged_card_is_refused_and_the_field_named(old: str, new: str, named: str) -> None:
    with pytest.raises(DataError, match=rf"data card colorized\.md: .*{named}"):
        parse_card(changed(old, new), "colorized.md")


def test_an_optional_field_may_be_absent() -> None:
    assert parse_card(changed("  positive_class: null\n", ""), "x").task.positive_class is None


@pytest.mark.parametrize(
    "text",
    ["", "# A title\n\nProse.\n", "---\n---\n", "---\nlicense: mit\n---\nProse\n", "---\n- a\n- b\n---\n", TEXT[:2000]],
)
def test_a_card_without_our_front_matter_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"card x\.md has no YAML front matter with a `genbias:` block"):
        parse_card(text, "x.md")


def test_front_matter_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(DataError, match="not YAML"):
        parse_card("---\na: [1\n---\n", "x.md")


def test_a_card_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(DataError, match=r"no data card nothing\.md; there are .*colorized-digits"):
        load_card("nothing")


# --- finding tasks -------------------------------------------------------------------------------------------------


def test_a_task_is_found_by_name_and_by_name_and_version() -> None:
    assert find_card("colorized-digits").id == "colorized-digits@1"
    assert find_card("colorized-digits@1") is find_card("colorized-digits")


@pytest.mark.parametrize(
    "name", ["colorised-digits", "colorized_digits", "digits", "colorized-digits@", "Colorized-Digits"]
)
def test_an_unknown_task_comes_with_the_nearest_names(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find_card(name)
    assert "did you mean 'colorized-digits'" in str(caught.value)
    assert "genbias-bench list tasks" in str(caught.value)
    assert caught.value.exit_code == 2
    assert "colorized-digits" in caught.value.known


def test_a_name_like_none_at_all_still_lists_what_there_is() -> None:
    with pytest.raises(UnknownName, match=r"unknown task 'zzzz'\. Known: .*colorized-digits"):
        load_task("zzzz")


@pytest.mark.parametrize("name", ["", "../colorized-digits", "/etc/passwd", "colorized-digits@1@1"])
def test_a_name_that_is_a_path_or_nothing_is_unknown(name: str) -> None:
    with pytest.raises(UnknownName):
        find_card(name)


def test_a_version_that_this_release_does_not_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="'colorized-digits' is at version 1; version 2"):
        find_card("colorized-digits@2")
