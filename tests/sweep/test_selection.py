"""From selectors to requests: products in a fixed order, and one sentence for what makes no sense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from benchmark.contract.registry import listed_methods
from benchmark.errors import InvalidValue, UnknownName, UsageError
from benchmark.evaluation.cell import MAX_SEED
from benchmark.sweep.selection import Block, narrowed, parse_seeds, requests_of
from benchmark.tasks.catalog import find_card


def cells(**block: Any) -> list[tuple[str, str, str | None, str | None, int]]:
    return [(r.method, r.task, r.level, r.generator, r.seed) for r in requests_of([Block(**block)])]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-4", (0, 1, 2, 3, 4)), ("3", (3,)), (7, (7,)), ("0,2,5-7", (0, 2, 5, 6, 7)), ("4,1", (4, 1)),
        ("1, 1-2", (1, 2)), ("0-999", tuple(range(1000))), (MAX_SEED, (MAX_SEED,)),
    ],
)  # fmt: skip
def test_seeds_are_numbers_and_ranges_each_once(text: str | int, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "4-0",
        "0-",
        "1.5",
        "0-1000",
        "0-999,2000-2999",
        "0 - 4",
        "1,,2",
        "٣",
        "0-9999999999",
        MAX_SEED + 1,
    ],
)
def test_other_seeds_are_refused(text: str | int) -> None:
    with pytest.raises(InvalidValue, match="give numbers and ranges such as 0-4"):
        parse_seeds(text)


def test_a_method_alone_takes_the_default_task_its_level_and_five_seeds() -> None:
    assert cells(methods="erm") == [("erm", "colorized-digits", "0.95", None, seed) for seed in range(5)]


def test_cells_come_by_task_level_method_generator_and_seed() -> None:
    found = cells(methods=["ffr", "erm"], levels=["0.99", "0.9"], seeds="1,0", generators=["tiny-sd", "org/model"])
    one_level = [("ffr", "tiny-sd", 1), ("ffr", "tiny-sd", 0), ("ffr", "org/model", 1), ("ffr", "org/model", 0)]
    one_level += [("erm", None, 1), ("erm", None, 0)]
    assert [cell[1:3] for cell in found] == [("colorized-digits", level) for level in ("0.99", "0.9") for _ in range(6)]
    assert [(method, generator, seed) for method, _, _, generator, seed in found] == one_level * 2


def test_all_levels_are_the_card_s_and_names_given_twice_count_once() -> None:
    levels = find_card("colorized-digits").task.levels
    assert [cell[2] for cell in cells(methods="erm", levels="all", seeds=0)] == list(levels)
    assert len(cells(methods=["erm", "erm"], levels=["0.9", ".9"], tasks=["colorized-digits"] * 2, seeds=0)) == 1


def test_all_methods_are_those_in_tree_and_others_can_be_added() -> None:
    in_tree = [name for name, method in listed_methods().items() if method.in_tree]
    assert len(in_tree) >= 16
    assert [cell[0] for cell in cells(methods="all", seeds=0)] == in_tree
    assert [cell[0] for cell in cells(methods=["jtt", "all"], seeds=0)] == ["jtt", *(n for n in in_tree if n != "jtt")]


def test_several_blocks_follow_each_other() -> None:
    blocks = [Block(methods=("erm",), seeds="0"), Block(methods=("ffr",), seeds="1")]
    assert [(r.method, r.seed) for r in requests_of(blocks)] == [("erm", 0), ("ffr", 1)]


def test_generators_and_settings_reach_only_methods_that_have_a_use_for_them() -> None:
    block = Block(
        methods=("erm", "ffr", "lora", "cinn-transfer"), seeds="0", generators=("tiny-sd",), sampling={"steps": "4"},
        set={"synthetic_share": "0.25", "rank": "2"},
    )  # fmt: skip
    erm, ffr, lora, cinn = requests_of([block], offline=True)
    assert (erm.generator, erm.overrides, erm.sampling) == (None, {}, {})
    assert (ffr.generator, ffr.overrides) == ("tiny-sd", {"synthetic_share": "0.25", "rank": "2"})
    assert (lora.generator, lora.overrides, lora.sampling) == ("tiny-sd", ffr.overrides, {"steps": "4"})
    assert (cinn.generator, cinn.overrides) == (None, {"synthetic_share": "0.25"})
    assert all(request.offline for request in (erm, ffr, lora, cinn))


def test_a_generator_that_is_an_arm_of_a_method_decides_whether_it_has_a_use() -> None:
    arm = {"methods": ["self-consuming-loop"], "seeds": 0, "generators": ["tiny-sd"]}
    assert [cell[3] for cell in cells(**arm, set={"generator": "base"})] == ["tiny-sd"]
    with pytest.raises(InvalidValue, match="--generator has no use: none of self-consuming-loop asks"):
        cells(**arm)


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        ({"methods": ["erm", "ffrr"]}, UnknownName, "unknown method 'ffrr'; did you mean 'ffr'"),
        ({"methods": ["erm"], "tasks": "digits"}, UnknownName, "unknown task 'digits'"),
        ({"methods": ["erm"], "tasks": "colorized-digits@9"}, UsageError, "version 9 is not in this release"),
        ({"methods": ["erm"], "levels": ["0.9", ".97"]}, InvalidValue, "no bias level '.97'"),
        ({"methods": ["erm"], "seeds": "a"}, InvalidValue, "seeds 'a' cannot be read"),
        ({"methods": ["erm", "ffr"], "set": {"real_los": "erm"}}, UnknownName, "erm, ffr 'real_los'; did you mean"),
        ({"methods": ["ffr"], "set": {"synthetic_share": 2}}, InvalidValue, "ffr: synthetic_share=2: "),
        ({"methods": ["erm", "jtt"], "generators": ["tiny-sd"]}, InvalidValue, "--generator has no use"),
        ({"methods": ["erm"], "sampling": {"steps": 3}}, InvalidValue, "--sampling has no use"),
        ({"methods": ["lora"], "clip": "org/clip"}, InvalidValue, "--clip has no use"),
        ({"methods": ["lora"], "set": {"filter": "clip"}}, InvalidValue, "filter=clip needs a CLIP model"),
        ({"methods": ["lora"], "set": {"filter": "clip"}, "clip": "no"}, UnknownName, "unknown CLIP model 'no'"),
        ({"methods": ["ffr"], "generators": ["tinysd"]}, UnknownName, "did you mean 'tiny-sd'"),
        ({"methods": ["ffr"], "sampling": {"stepps": 3}}, UnknownName, "unknown sampling setting 'stepps'"),
        ({"methods": ["ffr"], "sampling": {"steps": 0}}, InvalidValue, "--sampling steps=0"),
        ({"methods": ["erm"], "recipe": "smal"}, UnknownName, "unknown recipe of colorized-digits 'smal'"),
        ({"methods": ["erm"], "backbone_weights": "imagenet"}, InvalidValue, "small-cnn has no pre-trained weights"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_before_anything_is_planned(
    block: dict[str, Any], error: type[UsageError], message: str
) -> None:
    with pytest.raises(error) as raised:
        cells(**block)
    assert message in str(raised.value)


def test_a_generator_that_is_not_at_hand_is_no_mistake_of_the_selection() -> None:
    block = Block(methods=("ffr",), seeds="0", generators=("nobody/never-downloaded",))
    assert [request.generator for request in requests_of([block], offline=True)] == ["nobody/never-downloaded"]


@pytest.mark.parametrize("block", [{}, {"methods": []}, {"methods": "erm", "tasks": []}, {"methods": "erm", "x": 1}])
def test_a_block_without_methods_or_tasks_or_with_other_entries_is_refused(block: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Block.model_validate(block)


# --- narrowing -------------------------------------------------------------------------------------------------------

GRID = [Block(methods=("erm", "ffr", "self-consuming-loop"), levels=("all",)), Block(methods=("lora",), seeds="7")]


def kept(**selectors: Any) -> set[tuple[str, str | None, int]]:
    return {(r.method, r.level, r.seed) for r in narrowed(requests_of(GRID), **selectors)}


def test_nothing_given_keeps_every_cell() -> None:
    assert narrowed(requests_of(GRID)) == requests_of(GRID)


def test_selectors_narrow_together() -> None:
    assert kept(methods=["erm"], levels=[".9"], seeds="0,3,9") == {("erm", "0.9", 0), ("erm", "0.9", 3)}
    assert kept(tasks=["colorized-digits"], seeds="7") == {("lora", "0.95", 7)}
    assert {cell[0] for cell in kept(methods=["all"], levels=["all"])} == {"erm", "ffr", "lora", "self-consuming-loop"}


def test_a_generator_keeps_the_cells_that_use_it_by_default_too() -> None:
    assert {cell[0] for cell in kept(generators=["tiny-sd"])} == {"ffr", "lora"}
    named = requests_of([Block(methods=("ffr",), generators=("tiny-sd", "nobody/model"), seeds="0")], offline=True)
    assert [r.generator for r in narrowed(named, generators=["nobody/model"])] == ["nobody/model"]


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ({"seeds": "5"}, "leave no cell"),
        ({"methods": ["jtt"]}, "leave no cell"),
        ({"tasks": ["utkface"]}, "leave no cell"),
        ({"generators": ["org/other"]}, "leave no cell"),
        ({"methods": ["jt"]}, "unknown method 'jt'"),
        ({"tasks": ["digits"]}, "unknown task"),
        ({"levels": ["0.97"]}, "no bias level '0.97'"),
        ({"seeds": "x"}, "cannot be read"),
    ],
)
def test_selectors_that_leave_nothing_or_name_nothing_are_refused(selectors: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kept(**selectors)


def test_a_level_that_only_one_task_of_a_grid_has_keeps_that_task() -> None:
    grid = requests_of([Block(methods=("erm",), tasks=("colorized-digits", "utkface"), levels=("all",), seeds="0")])
    only = set(find_card("utkface").task.levels) - set(find_card("colorized-digits").task.levels)
    for level in only:
        assert {request.task for request in narrowed(grid, levels=[level])} == {"utkface"}
