"""Grid files: what they hold, and each mistake with the line that it stands in."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from benchmark.contract.space import Range
from benchmark.contract.tracks import SelectionRule
from benchmark.errors import InvalidValue, NotAvailable, UsageError
from benchmark.evaluation.cell import resolve_cell
from benchmark.evaluation.tuned import Definition, Hardware, Study, Tried, study_of
from benchmark.records.files import write_json
from benchmark.sweep.grid_file import read_grid

OFFICIAL = sorted((Path(__file__).parents[2] / "leaderboard" / "grids").glob("*.toml"))


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return tmp_path / "grid.toml"


def wrong(grid: Path, text: str) -> str:
    grid.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_grid(grid, offline=True)
    return str(raised.value).removeprefix(str(grid))


@pytest.mark.parametrize("file", OFFICIAL, ids=lambda file: file.name)
def test_official_grids_can_be_read_and_name_each_cell_once(file: Path) -> None:
    found = read_grid(file, offline=True)
    assert len(found.title) > 10
    assert {request.task for request in found.requests} <= {file.stem, "colorized-digits"}
    assert len(found.requests) == len(set(map(repr, found.requests))) >= 60


def test_blocks_are_read_in_their_order_with_defaults(grid: Path) -> None:
    grid.write_text(
        'title = "Two blocks"\n[[cells]] # first\nmethods = "erm"\n\n[[ cells ]]\nmethods = ["ffr"]\nseeds = 3\n'
        'levels = ["0.9"]\nset = { synthetic_share = 0.25, freeze_bn = true }\nsampling = { steps = 4 }\n'
    )
    found = read_grid(grid)
    assert found.title == "Two blocks"
    assert [(r.method, r.level, r.seed) for r in found.requests] == [
        *(("erm", "0.95", seed) for seed in range(5)), ("ffr", "0.9", 3),
    ]  # fmt: skip
    assert (dict(found.requests[-1].overrides), dict(found.requests[-1].sampling)) == (
        {"synthetic_share": 0.25, "freeze_bn": True}, {"steps": 4},
    )  # fmt: skip


def test_a_title_is_the_file_s_name_unless_given_and_tables_may_stand_in_one_line(grid: Path) -> None:
    grid.write_text('cells = [{ methods = "erm", seeds = "0" }, { methods = "ffr", seeds = "1" }]')
    found = read_grid(grid)
    assert found.title == "grid"
    assert [(r.method, r.seed) for r in found.requests] == [("erm", 0), ("ffr", 1)]


def test_offline_reaches_every_cell(grid: Path) -> None:
    grid.write_text('[[cells]]\nmethods = "ffr"\n')
    assert all(request.offline for request in read_grid(grid, offline=True).requests)


HEAD = 'title = "x"\n\n# ffrr, 0.97 and smal in a comment\n[[cells]]\nmethods = ["erm", "ffr"]\n'
"""Five lines without a mistake."""


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (HEAD + '[[cells]]\nmethods = [\n  "erm",\n  "ffrr", # ffrr\n]\n', 9, "unknown method 'ffrr'"),
        (HEAD + 'tasks = "digits"\n', 6, "unknown task 'digits'"),
        (HEAD + 'tasks = "colorized-digits@7"\n', 6, "version 7 is not in this release"),
        (HEAD + 'levels = ["0.9", "0.97"]\n', 6, "no bias level '0.97'"),
        (HEAD + "levels = [0.9]\n", 6, "levels.0 0.9: Input should be a valid string"),
        (HEAD + 'seeds = "0-4"\n[[cells]]\nmethods = "erm"\nseeds = "4-0"\n', 9, "seeds '4-0' cannot be read"),
        (HEAD + "seeds = -1\n", 6, "seeds '-1' cannot be read"),
        (HEAD + "seeds = [0, 1]\n", 6, "seeds"),
        (HEAD + "set = { rank = 2, ranks = 2 }\n", 6, "'ranks'; did you mean 'rank'"),
        (HEAD + "[cells.set]\nrank = 2\nsynthetic_share = 2\n", 8, "ffr: synthetic_share=2: "),
        (HEAD + 'set = { freeze_bn = "maybe" }\n', 6, "ffr: freeze_bn='maybe'"),
        (HEAD + 'recipe = "smal"\n', 6, "unknown recipe of colorized-digits 'smal'"),
        (HEAD + 'backbone_weights = "imagenet"\n', 6, "small-cnn has no pre-trained weights"),
        (HEAD + 'generators = ["tiny-sd", "tinysd"]\n', 6, "'tinysd'"),
        (HEAD + 'clip = "org/clip"\n', 6, "--clip has no use"),
        (HEAD + '[[cells]]\nmethods = "erm"\ngenerators = "tiny-sd"\n', 8, "--generator has no use"),
        (HEAD + "sampling = { stepps = 3 }\n", 6, "unknown sampling setting 'stepps'"),
        (HEAD + "\nsampling = { steps = 0 }\n", 7, "--sampling steps=0"),
        (HEAD + 'method = "erm"\n', 6, "method 'erm': Extra inputs are not permitted"),
        (HEAD + "[[cells]]\nseeds = 1\n", 6, "methods: Field required"),
        (HEAD + "[[cells]]\nmethods = []\n", 7, "methods []: "),
        (HEAD + "[[cells]]\nmethods = 3\n", 7, "methods 3: "),
        (HEAD + '[[cell]]\nmethods = "erm"\n', 6, "unknown entry 'cell'; a grid has title and [[cells]]"),
        ('titel = "x"\n' + HEAD, 1, "unknown entry 'titel'"),
        ('cells = ["erm"]\n', 1, "cells 'erm': Input should be a valid dictionary"),
        ('\ncells = [{ methods = "erm" },\n { methods = "ffrr" }]\n', 3, "unknown method 'ffrr'"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_its_line(grid: Path, text: str, line: int, message: str) -> None:
    said = wrong(grid, text)
    assert said.startswith(f", line {line}: "), said
    assert message in said


def test_of_a_value_that_stands_twice_the_wrong_table_s_line_is_named(grid: Path) -> None:
    block = '[[cells]]\nmethods = "{}"\nset = {{ rank = 2 }}\n'
    said = wrong(grid, block.format("ffr") + block.format("erm"))
    assert said.startswith(", line 6: unknown hyper-parameter of erm 'rank'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " needs a title in quotes and at least one [[cells]] table"),
        ('title = "x"\n', "at least one [[cells]]"),
        ("cells = []\n", "at least one [[cells]]"),
        ('[cells]\nmethods = "erm"\n', "at least one [[cells]]"),
        ('title = 3\n[[cells]]\nmethods = "erm"\n', "needs a title in quotes"),
        ('title = "x"\n[[cells]\n', " is no TOML: "),
        ('title = "x"\ntitle = "y"\n', " is no TOML: "),
        ("x = " + "[" * 2000, " is no TOML: "),
        ("#" * (1 << 20) + "\n", " holds more than 1,048,576 bytes"),
    ],
)
def test_what_is_no_grid_is_said_in_one_sentence(grid: Path, text: str, message: str) -> None:
    assert message in wrong(grid, text)


def test_a_mistake_in_toml_itself_has_its_line(grid: Path) -> None:
    assert "(at line 2, column" in wrong(grid, 'title = "x"\nmethods = erm\n')


def test_what_cannot_be_read_is_named(tmp_path: Path, grid: Path) -> None:
    grid.write_bytes(b'title = "\xff"\n')
    for path in (grid, tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(NotAvailable, match=f"the grid {path} cannot be read"):
            read_grid(path)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(InvalidValue, match="holds more than"):
        read_grid(Path("/dev/zero"))


# --- tuned configurations --------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A finished study of ERM, in a folder beside the grid."""
    definition = Definition(
        task="colorized-digits@1", split_digest="1" * 64, recipe="default", method="erm@1", source_digest="2" * 64,
        generator=None, criterion=SelectionRule.VALIDATION_AVERAGE, trials=1,
        space={"training.learning_rate": Range(low=0.001, high=0.01)}, default={"training.learning_rate": 0.004},
        hardware=Hardware(device="a processor", device_kind="cpu", precision="float32", threads=1),
    )  # fmt: skip
    trial = Tried(
        number=0, cell_id="3" * 64, values={"training.learning_rate": 0.004}, state="finished", value=0.5, steps=12,
        device_seconds=1.0,
    )  # fmt: skip
    found = study_of(definition, 1.0, [trial])
    (tmp_path / "erm").mkdir()
    write_json(tmp_path / "erm" / "tuning.json", found.model_dump(mode="json"))
    return found


def test_a_block_runs_what_a_study_chose_at_its_levels(grid: Path, study: Study) -> None:
    grid.write_text('[[cells]]\nmethods = "erm"\ntuned = "erm/tuning.json"\nlevels = ["0.9", "0.99"]\nseeds = "0-1"\n')
    found = read_grid(grid).requests
    assert [(request.level, request.seed) for request in found] == [("0.9", 0), ("0.9", 1), ("0.99", 0), ("0.99", 1)]
    assert {request.configuration and request.configuration.study for request in found} == {study.chosen().study}
    assert resolve_cell(found[0]).cell.training["learning_rate"] == 0.004
    assert resolve_cell(pickle.loads(pickle.dumps(found[0]))).cell_id == resolve_cell(found[0]).cell_id


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (HEAD + 'tuned = "erm/tuning.json"\n', 6, "is a study of erm on colorized-digits, not of ffr on"),
        ('[[cells]]\nmethods = "erm"\ntuned = "gone.json"\n', 3, "gone.json cannot be read"),
        ('[[cells]]\nmethods = "erm"\ntuned = 3\n', 3, "tuned 3: Input should be a valid string"),
        ('[[cells]]\nmethods = "erm"\nrecipe = "small"\ntuned = "erm"\n', 3, "unknown recipe"),
        ('[[cells]]\nmethods = "erm"\ntasks = "colorized-mnist"\ntuned = "erm"\n', 4, "not of erm on colorized-mnist"),
    ],
)
def test_a_mistake_about_a_study_is_said_with_its_line(
    grid: Path, study: Study, text: str, line: int, message: str
) -> None:
    said = wrong(grid, text)
    assert message in said
    assert said.startswith(f", line {line}: ")
