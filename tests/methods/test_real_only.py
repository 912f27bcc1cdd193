"""The methods that use real images alone, for real: losses, the last layer, repeated mistakes, and the oracle."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.contract.registry import load_method
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import make_job, method_data, split_parts
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.evaluation.score import score
from benchmark.evaluation.tools import HarnessTools
from benchmark.progress import Silent
from benchmark.records.canonical import sha256_of
from benchmark.records.results import record_text
from benchmark.records.schema import Record
from leaderboard.build import collect_board

Run = Callable[..., Evaluation]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results and store of the module."""
    root = tmp_path_factory.mktemp("real-only")
    return root / "results", root / "store"


@pytest.fixture
def run(folders: tuple[Path, Path], short_cell: Callable[..., ResolvedCell]) -> Run:
    """Run a method briefly, or a cell as it is."""

    def short(
        method: str | ResolvedCell,
        *,
        force: bool = False,
        isolated: bool = False,
        synthetic: int = 110,
        results: str = "",
        **overrides: Any,
    ) -> Evaluation:
        cell = short_cell(method, overrides=overrides, synthetic=synthetic) if isinstance(method, str) else method
        return evaluate_cell(
            named_by_what_it_is(cell), results=folders[0] / results, store=folders[1], device="cpu", threads=1,
            force=force, isolated=isolated, progress=Silent(),
        )  # fmt: skip

    return short


def named_by_what_it_is(cell: ResolvedCell) -> ResolvedCell:
    """Give a shortened cell the identity of its own recipe and budget, as the board expects of a record."""
    budget = {"synthetic": cell.budget.synthetic, "sampled": cell.budget.sampled, "steps": cell.budget.steps}
    what = cell.cell.model_copy(update={"budget": budget, "training": cell.recipe.model_dump(mode="json")})
    return dataclasses.replace(cell, cell=what, cell_id=sha256_of(what.model_dump(mode="json")))


def mixture(record: Record, stage: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated images of a stage, [classes, attributes]."""
    found = record.stages[stage].mixture
    assert found is not None
    return np.array(found.real), np.array(found.synthetic)


def check(done: Evaluation, stages: list[str], track: str) -> Record:
    """What every success has: stages, all steps, the track, and metrics that follow from the predictions."""
    record = done.record
    assert record.status == "success"
    assert [stage.name for stage in record.stages] == stages
    assert (record.method.track, record.method.configuration) == (track, "default")
    assert record.budget is not None
    assert record.budget.steps_used == record.budget.steps_allowed == 12
    assert [each.differing for each in score(done.folder)[1]] == [[]] * (len(stages) + 2)
    assert record_text(record) == (done.folder / "record.json").read_text(encoding="utf-8")
    return record


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["resampling", "reweighting", "group-dro"])
def test_a_method_named_after_a_loss_trains_with_it(
    run: Run, short_cell: Callable[..., ResolvedCell], folders: tuple[Path, Path], loss: Any
) -> None:
    record = check(run(loss), ["real"], "train")
    real, generated = mixture(record, 0)
    assert (real.tolist(), generated.sum()) == (record.task.train_counts, 0)
    assert (record.pools, record.auditors, record.ranked_stage.probes) == ([], {}, {})
    cell, precision = short_cell(loss), record.environment.precision
    job = make_job(cell, store=folders[1], device="cpu", precision=precision, threads=1, remember=False)
    data = method_data(job, split_parts(cell))
    # The same seed under the method's name: equal weights if and only if the loss is the same.
    weights = {name: HarnessTools(job, data, Silent()).train(data.train, loss=name).digest for name in ("erm", loss)}
    assert record.ranked_stage.checkpoints[0].weights_sha256 == weights[loss] != weights["erm"]


@pytest.mark.slow
def test_dfr_refits_the_last_layer_on_validation_images_without_a_step(run: Run) -> None:
    record = check(run("dfr"), ["real", "last-layer"], "val-train")
    assert [stage.steps for stage in record.stages] == [12, 0]
    assert mixture(record, 0)[0].tolist() == record.task.train_counts
    assert mixture(record, 1)[0].tolist() == record.task.validation_counts
    # The fit itself has chosen, so every rule stands for the same answers, all with the track of the fit.
    checkpoints = record.ranked_stage.checkpoints
    assert [(c.rule, c.track) for c in checkpoints] == [
        ("last", "val-train"), ("val-average", "val-train"), ("val-worst-group", "val-train"),
    ]  # fmt: skip
    assert len({c.weights_sha256 for c in checkpoints}) == len({c.predictions.file for c in checkpoints}) == 1
    assert checkpoints[0].weights_sha256 != record.stages[0].checkpoints[0].weights_sha256
    assert any(re.match(r"the last layer was fitted on 269 images with C = ", note) for note in record.notes)


def with_validation_share(cell: ResolvedCell, share: str) -> ResolvedCell:
    """The same cell of a task that cuts another share for validation; a split of its own, so no lock pins it."""
    block = cell.task.card.task
    shares = block.shares.model_copy(update={"validation": Fraction(share)})
    card = cell.task.card.model_copy(update={"task": block.model_copy(update={"shares": shares, "split_version": 99})})
    task = type(cell.task)(card)
    return dataclasses.replace(cell, task=task, manifest=task.manifest(cell.manifest.level, cell.manifest.draw))


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("level", "share", "reason"),
    [
        # At .99 no validation image conflicts with the bias.
        ("0.99", None, "no class has validation images in two groups"),
        # Two images of each class, in two inks.
        ("balanced", "0.01", "no group has two validation images"),
    ],
)
def test_dfr_without_validation_images_to_fit_on_is_skipped_with_the_reason(
    run: Run, short_cell: Callable[..., ResolvedCell], level: str, share: str | None, reason: str, isolated: bool
) -> None:
    cell = short_cell("dfr", level=level)
    cell = cell if share is None else with_validation_share(cell, share)
    record = run(cell, force=True, results=f"skipped-{isolated}", isolated=isolated).record
    assert record.status == "skipped"
    assert reason in str(record.skipped_because)
    assert (record.stages, record.failure) == ([], None)


def test_jtt_repeats_what_was_wrong_and_trains_afresh(run: Run) -> None:
    record = check(run("jtt"), ["identification", "real"], "none")
    assert [stage.steps for stage in record.stages] == [3, 9]
    first, second = mixture(record, 0)[0], mixture(record, 1)[0]
    assert first.tolist() == record.task.train_counts
    (note,) = record.notes
    wrong = int(note.split()[0])
    assert 0 < wrong < 990
    # The demo tier's ten: nine further copies of each mistake.
    assert record.method.hparams["upweight"] == 10
    assert (second - first).sum() == 9 * wrong
    assert ((second - first) % 9 == 0).all()
    assert (second >= first).all()


@pytest.mark.slow
def test_jtt_repeats_as_often_as_it_is_told(run: Run) -> None:
    record = run("jtt", upweight="3", identification_share="0.5").record
    assert record.method.configuration == "changed"
    assert record.method.hparams_changed == {"upweight": 3, "identification_share": 0.5}
    assert [stage.steps for stage in record.stages] == [6, 6]
    added = mixture(record, 1)[0].sum() - mixture(record, 0)[0].sum()
    assert added == 2 * int(record.notes[0].split()[0])


@pytest.mark.slow
def test_the_oracle_fills_the_small_groups_with_further_real_images_and_is_not_ranked(
    run: Run, folders: tuple[Path, Path]
) -> None:
    done = run("real-oracle")
    record = check(done, ["mixed"], "train")
    assert record.method.oracle
    assert record.budget is not None
    assert (record.budget.synthetic_kept, record.budget.sampled) == (110, 110)
    real, further = mixture(record, 0)
    assert real.tolist() == record.task.train_counts
    assert (further.sum(), np.diag(further).sum()) == (110, 0)
    assert np.ptp((real + further)[further > 0]) <= 1
    assert (record.notes, record.pools) == ([], [])
    assert set(record.task.prepared_sha256) == {"train", "validation", "test", "reserve"}
    (section,) = collect_board([done.folder]).tasks
    rows = [row for rule in section.rules for table in rule.tables for row in table.rows]
    assert {row.method for row in rows} == {"real-oracle@1"}
    for row in rows:
        assert row.oracle
        assert row.rank is None
        assert any("oracle, it uses what no method has" in reason for reason in row.not_ranked)


@pytest.mark.slow
def test_an_oracle_that_finds_too_few_images_says_how_many(run: Run, short_cell: Callable[..., ResolvedCell]) -> None:
    record = run("real-oracle", synthetic=10_000).record
    assert record.budget is not None
    real, further = mixture(record, 0)
    # All of a class's digits in every ink, but for the ink that each one has: that would be a copy.
    left_out = real.sum(axis=1, keepdims=True) - real
    wanted = short_cell("real-oracle", synthetic=10_000).budget
    assert (further <= left_out).all()
    assert record.budget.synthetic_kept == further.sum() == left_out.sum() < wanted.synthetic
    assert record.notes == [f"only {further.sum()} of B = 10000 further real images exist"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["real-oracle", "dfr"])
def test_an_isolated_run_gives_the_same_answers(run: Run, method: str) -> None:
    plain, isolated = run(method).record, run(method, isolated=True, force=True).record
    assert [stage.checkpoints for stage in isolated.stages] == [stage.checkpoints for stage in plain.stages]
    assert (isolated.notes, isolated.budget) == (plain.notes, plain.budget)
    assert isolated.isolation.separate_process


def test_controls_and_mitigations_say_what_they_are() -> None:
    kinds = {name: load_method(name).card.kind for name in ("real-oracle", "placebo", "copy-augment", "jtt", "dfr")}
    assert kinds == {
        "real-oracle": "control", "placebo": "control", "copy-augment": "control", "jtt": "mitigation",
        "dfr": "mitigation",
    }  # fmt: skip
