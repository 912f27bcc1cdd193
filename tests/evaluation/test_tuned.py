"""Studies as files: what follows from their trials, what they choose, and that no other file passes for one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.contract.space import Choice, Range
from benchmark.contract.tracks import SelectionRule
from benchmark.errors import DamagedFile, InvalidValue
from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.evaluation.tuned import Definition, Hardware, Study, Tried, expected_best, read_study, study_of
from benchmark.records.canonical import sha256_of
from benchmark.records.files import read_json, write_json

# --- the expected best ---------------------------------------------------------------------------------------------


def test_the_expected_best_is_the_mean_over_every_order_of_what_was_drawn() -> None:
    first, drawn = 0.7, [0.9, 0.4, 0.6, 0.8, 0.4]
    orders = [[first, *order] for order in itertools.permutations(drawn)]
    by_hand = np.mean([np.minimum.accumulate(order) for order in orders], axis=0)
    found = expected_best([first, *drawn])
    assert found == pytest.approx(by_hand.tolist(), abs=1e-12)
    assert (found[0], found[-1]) == (first, min(drawn))


def test_the_expected_best_of_twenty_is_that_of_random_orders() -> None:
    random = np.random.default_rng(0)
    values = random.exponential(size=20).tolist()
    orders = [[values[0], *random.permutation(values[1:])] for _ in range(20_000)]
    by_chance = np.minimum.accumulate(np.array(orders), axis=1).mean(axis=0)
    assert expected_best(values) == pytest.approx(by_chance.tolist(), abs=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], [0.5]),
        ([0.5, None], [0.5, 0.5]),
        ([None, 0.5, 0.3], [0.5, 0.4, 0.3]),
        ([None, None], []),
        ([], []),
    ],
)
def test_what_diverged_counts_as_the_worst_that_finished(values: list[float | None], expected: list[float]) -> None:
    assert expected_best(values) == pytest.approx(expected)


# --- studies -------------------------------------------------------------------------------------------------------

SPACE = {
    "training.learning_rate": Range(low=0.0002, high=0.02, log=True),
    "upweight": Range(low=5, high=100, whole=True),
    "loss": Choice(values=("erm", "resampling")),
}


def define(**changes: Any) -> Definition:
    fields: dict[str, Any] = {
        "task": "colorized-digits@1", "split_digest": "1" * 64, "recipe": "default", "method": "jtt@1",
        "source_digest": "2" * 64, "generator": None, "criterion": SelectionRule.VALIDATION_AVERAGE, "space": SPACE,
        "default": {"training.learning_rate": 0.001, "upweight": 10, "loss": "resampling"}, "trials": 3,
        "hardware": Hardware(device="a processor", device_kind="cpu", precision="float32", threads=1),
    }  # fmt: skip
    return Definition(**(fields | changes))


def study(*values: float | None, **changes: Any) -> Study:
    trials = [
        Tried(
            number=number, cell_id=f"{number:064x}",
            values={"training.learning_rate": 0.001 * (number + 1), "upweight": 10 + number, "loss": "resampling"},
            state="diverged" if value is None else "finished", value=value, steps=12, device_seconds=2.5,
        )
        for number, value in enumerate(values)
    ]  # fmt: skip
    return study_of(define(**{"trials": len(values)} | changes), 1.5, trials)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tuning.json"
    write_json(path, study(0.5, 0.3, 0.3).model_dump(mode="json"))
    return path


def test_the_first_of_the_best_is_chosen_and_named_by_the_study_s_content(file: Path) -> None:
    found = read_study(file)
    assert found == read_study(file.parent) == study(0.5, 0.3, 0.3)
    assert (found.winner, found.device_seconds, found.method, found.task) == (1, 7.5, "jtt", "colorized-digits")
    chosen = found.chosen()
    assert (dict(chosen.hparams), dict(chosen.training)) == (
        {"upweight": 11, "loss": "resampling"}, {"learning_rate": 0.002},
    )  # fmt: skip
    assert chosen.chosen is not None
    assert chosen.study == chosen.chosen.study == sha256_of(read_json(file))
    assert (chosen.chosen.trial, chosen.chosen.trials, chosen.chosen.criterion) == (1, 3, "val-average")
    assert chosen.chosen.expected_best == pytest.approx([0.5, 0.3, 0.3])


def test_a_study_is_named_by_what_defines_it_and_not_by_how_far_it_is() -> None:
    assert study(0.5, trials=3).study == study(0.5, 0.3, trials=3).study == define().digest
    wider = {**SPACE, "upweight": Range(low=1, high=900, whole=True)}
    other = {"trials": 4}, {"recipe": "small"}, {"method": "jtt@2"}, {"space": wider}
    assert len({define(**change).digest for change in other} | {define().digest}) == 5


@pytest.mark.parametrize(("changes", "recipe"), [({}, None), ({"recipe": "small"}, "small")])
def test_a_request_gets_the_choice_and_the_recipe_that_it_was_tuned_under(changes: Any, recipe: str | None) -> None:
    found = study(0.5, 0.3, **changes)
    request = found.tuned(Request("jtt", level="0.9", seed=2))
    assert (request.configuration, request.recipe, request.is_trial) == (found.chosen(), recipe, False)


def test_a_choice_runs_at_every_level() -> None:
    values = {"training.learning_rate": 0.002, "upweight": 11}
    space = {name: SPACE[name] for name in values}
    trials = [trial.model_copy(update={"values": values}) for trial in study(0.5, 0.3).trials]
    found = study_of(define(space=space, default=values, trials=2), 1.0, trials)
    cells = [resolve_cell(found.tuned(Request("jtt", level=level, seed=1))) for level in ("0.9", "0.99")]
    assert {cell.cell.tuning for cell in cells} == {found.chosen().study}
    assert [cell.cell.training["learning_rate"] for cell in cells] == [0.002, 0.002]


@pytest.mark.parametrize(
    ("values", "message"),
    [((0.5,), "it has not ended; give `tune` the same command"), ((None, None), "every trial diverged")],
)
def test_a_study_that_chose_nothing_says_why(values: Any, message: str) -> None:
    with pytest.raises(InvalidValue, match=f"the study of jtt@1 chose nothing: {message}"):
        study(*values, trials=2).chosen()


def test_device_time_is_spent_in_runs_of_erm() -> None:
    # Twenty runs of 1.5 s, and 2.5 s a trial; a trial that was begun counts.
    assert [study(*[0.5] * n, trials=20).ended for n in (1, 11, 12)] == [None, None, "device time"]
    assert (study(0.5, trials=1).ended, study(*[0.5] * 12, trials=12).ended) == ("trials", "trials")
    assert study(*[0.5] * 12, trials=20).share_used == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(winner=0), "winner does not follow"),
        (lambda c: c["trials"][2].update(value=0.1), "does not follow"),
        (lambda c: c["expected_best"].reverse(), "expected_best does not follow"),
        (lambda c: c.update(study="0" * 64), "study does not follow"),
        (lambda c: c["definition"].update(trials=4), "study does not follow"),
        (lambda c: c["trials"][1]["values"].update(upweight=1000), "trial 1 is not one of its space"),
        (lambda c: c["trials"][1]["values"].update(momentum=0.5), "trial 1 is not one of its space"),
        (lambda c: c.update(ended=None), "ended does not follow"),
        (lambda c: c["trials"][0]["values"].update(upweight=11), "trial 0 is not the default"),
        (lambda c: c["trials"][1].update(state="diverged"), "trial 1 has a value exactly if it finished"),
        (lambda c: c["definition"].update(trials=21), "trials"),
        (lambda c: c["definition"].update(level="0.9"), "level"),
        (lambda c: c["definition"].update(seed=0), "seed"),
        (lambda c: c.update(mood="good"), "mood: Extra inputs"),
        (lambda c: c.update(trials="none"), "trials"),
    ],
)
def test_a_file_that_was_changed_is_no_study(file: Path, change: Any, message: str) -> None:
    content = read_json(file)
    change(content)
    write_json(file, content)
    with pytest.raises(DamagedFile, match=rf"tuning.json is no tuning study: .*{message}"):
        read_study(file)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="cannot be read"):
        read_study(tmp_path / "tuning.json")
