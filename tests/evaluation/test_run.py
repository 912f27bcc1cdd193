"""A whole run on real digits: record, predictions, score, failure, isolation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.contract.images import MethodData
from benchmark.contract.method import Hparams, Method, MethodCard, Stage, Tools
from benchmark.contract.oracle import guard
from benchmark.contract.tracks import Track
from benchmark.errors import (
    BudgetExceeded,
    ContractViolation,
    DamagedFile,
    DataError,
    InvalidValue,
    NotApplicable,
    OracleUse,
    StoreError,
    TrainingDiverged,
    UndeclaredGroupLabels,
    UsageError,
)  # fmt: skip
from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.evaluation.fit import fit_stages
from benchmark.evaluation.job import SavedStage, make_job, split_parts
from benchmark.evaluation.run import Evaluation
from benchmark.evaluation.score import score
from benchmark.progress import Silent
from benchmark.records.results import RECORD_FILE, read_record

Run = Callable[..., Evaluation]


def test_a_run_leaves_a_record_whose_metrics_follow_from_its_predictions(run_short: Run) -> None:
    done = run_short("erm")
    record = done.record
    assert record.status == "success"
    assert [stage.name for stage in record.stages] == ["real"]
    assert {c.rule for c in record.ranked_stage.checkpoints} == {"last", "val-average", "val-worst-group"}
    assert {c.rule: c.track for c in record.ranked_stage.checkpoints} == {
        "last": "none", "val-average": "none", "val-worst-group": "val-select",
    }  # fmt: skip
    assert record.budget is not None
    assert (record.budget.steps_used, record.budget.synthetic_kept) == (12, 0)
    assert record.task.pinned == "pinned"
    assert (done.folder / record.artifacts["groups"]).stat().st_size > 5_000
    _, rescored = score(done.folder)
    assert [r.differing for r in rescored] == [[], [], []]


def test_group_results_are_integers_that_give_the_point_metrics(run_short: Run) -> None:
    checkpoint = run_short("erm").record.ranked_stage.checkpoints[0]
    n = [v for row in checkpoint.groups.n for v in row]
    correct = [v for row in checkpoint.groups.correct for v in row]
    assert sum(n) == 3590
    assert checkpoint.metrics["acc_mean"].value == pytest.approx(sum(correct) / sum(n), abs=1e-15)


@pytest.mark.slow
def test_the_same_cell_again_is_reused_and_forced_again_gives_the_same_metrics(run_short: Run) -> None:
    first, again = run_short("erm"), run_short("erm")
    forced = run_short("erm", force=True)
    assert (first.reused, again.reused, forced.reused) == (False, True, False)
    assert again.folder == first.folder
    assert forced.record.run_id == f"{first.record.run_id}-2"
    assert not forced.record.stages[0].remembered
    assert [s.checkpoints for s in forced.record.stages] == [s.checkpoints for s in first.record.stages]
    assert read_record(first.folder) == first.record


def test_other_seeds_and_levels_are_other_cells(short_cell: Callable[..., ResolvedCell]) -> None:
    cells = [short_cell("erm"), short_cell("erm", seed=1), short_cell("erm", level="0.9"), short_cell("copy-augment")]
    assert len({cell.cell_id for cell in cells}) == 4
    assert cells[1].manifest.draw == 1


@pytest.mark.slow
def test_a_killed_run_costs_only_what_was_not_finished(run_short: Run, short_cell: Callable[..., ResolvedCell]) -> None:
    first = run_short("erm")
    for file in first.folder.iterdir():
        file.unlink()
    first.folder.rmdir()
    again = run_short("erm")
    assert again.record.stages[0].remembered
    assert [s.checkpoints for s in again.record.stages] == [s.checkpoints for s in first.record.stages]


@pytest.mark.slow
def test_isolated_fitting_gives_the_same_metrics_and_says_what_it_could_not_isolate(run_short: Run) -> None:
    plain, isolated = run_short("erm", name="-a"), run_short("erm", name="-b", isolated=True)
    metrics = [[c.metrics for c in e.record.ranked_stage.checkpoints] for e in (plain, isolated)]
    assert metrics[0] == metrics[1]
    assert isolated.record.isolation.separate_process
    assert isolated.record.isolation.test_split_absent
    assert any("installed package" in limit for limit in isolated.record.isolation.limits)
    assert not plain.record.isolation.separate_process


@pytest.mark.slow
def test_copies_spend_the_synthetic_budget_on_populated_groups(run_short: Run) -> None:
    record = run_short("copy-augment").record
    assert record.budget is not None
    assert record.budget.synthetic_kept == record.budget.synthetic_allowed == 1980
    mixture = record.stages[0].mixture
    assert mixture is not None
    real, copied = np.array(mixture.real), np.array(mixture.synthetic)
    # Water-filling reaches the 50 conflicting groups with an image; the aligned ones are far above, empty ones stay so.
    assert copied.sum() == 1980
    assert ((copied > 0) == ((real > 0) & (real < 50))).all()
    assert np.ptp((real + copied)[copied > 0]) <= 1
    assert record.method.track == "train"


@pytest.mark.slow
def test_a_damaged_predictions_file_is_refused(run_short: Run) -> None:
    done = run_short("erm")
    file = done.folder / done.record.ranked_stage.checkpoints[0].predictions.file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match=file.name):
        score(done.folder)


def test_a_changed_metric_is_found(run_short: Run) -> None:
    done = run_short("erm")
    path = done.folder / RECORD_FILE
    content = json.loads(path.read_text())
    content["stages"][0]["checkpoints"][0]["metrics"]["acc_mean"]["value"] += 1e-9
    path.write_text(json.dumps(content))
    _, rescored = score(path)
    assert [r.differing for r in rescored if r.rule == "last"] == [["acc_mean"]]


@pytest.mark.slow
def test_a_record_of_another_split_is_refused(run_short: Run) -> None:
    done = run_short("erm")
    path = done.folder / RECORD_FILE
    content = json.loads(path.read_text())
    content["task"]["split_digest"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="another split"):
        score(path)


def test_a_results_folder_that_is_a_file_fails_before_any_work(run_short: Run, tmp_path: Path) -> None:
    (tmp_path / "results-x").write_text("")
    with pytest.raises(StoreError, match="results-x"):
        run_short("erm", name="-x")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("ffrr"), "did you mean 'ffr'"),
        (Request("erm", task="colorised-digits"), "did you mean 'colorized-digits'"),
        (Request("erm", task="colorized-digits@2"), "version 1"),
        (Request("erm", level="0.5"), "offered: balanced, 0.9, 0.95, 0.99"),
        (Request("erm", level="1.5"), "not a share between 0 and 1"),
        (Request("erm", seed=-1), "seed -1"),
        (Request("erm", overrides={"x": 1}), "unknown hyper-parameter of erm 'x'"),
        (Request("ffr", overrides={"synthetic_share": "much"}), "synthetic_share='much'"),
        (Request("ffr", overrides={"synthetic_share": "7"}), "less than 1"),
        (Request("sd-augment", overrides={"prompt": "class", "placebo": "true"}), "no attribute"),
        (Request("erm", generator="tiny-sd"), "no text-to-image generator"),
        (Request("ffr", generator="tiny-sdd"), "did you mean 'tiny-sd'"),
    ],
)
def test_a_request_that_cannot_be_is_one_sentence(request_: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_cell(request_)


# --- adapters that break the contract ------------------------------------------------------------------------------


def fit_adapter(method: type[Method], cell: ResolvedCell, tmp_path: Path) -> list[SavedStage]:
    """Run an adapter of the test's own through the harness's real fitting."""
    own = dataclasses.replace(
        cell, method=method(), hparams=Hparams(), track=method.card.track_of(Hparams()),
        request=dataclasses.replace(cell.request, method=method.card.name),
    )  # fmt: skip
    job = make_job(own, store=tmp_path / "store", device="cpu", precision="float32", threads=1, remember=False)
    stages: list[SavedStage] = []
    (tmp_path / "weights").mkdir()
    fit_stages(own.method, Hparams(), job, split_parts(own), tmp_path / "weights", Silent(), stages.append)
    return stages


def card(name: str, **changes: Any) -> MethodCard:
    defaults = {"version": 1, "summary": "s", "source": "test", "track": Track.NONE, "stages": ("real",)}
    return MethodCard(name=name, **(defaults | changes))


class ReadsGroups(Method):
    """Reads training groups without saying so."""

    card = card("reads-groups")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Read them."""
        assert data.train.a is not None
        yield Stage("real", tools.train(data.train))


class ReadsValidationGroups(Method):
    """Reads validation groups without saying so."""

    card = card("reads-validation")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Read them through counts."""
        assert data.validation.group_counts is not None
        yield Stage("real", tools.train(data.train))


class WrongStage(Method):
    """Yields a stage that it did not declare."""

    card = card("wrong-stage")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Yield another name."""
        yield Stage("fake", tools.train(data.train))


class NoStage(Method):
    """Yields nothing."""

    card = card("no-stage")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Yield nothing."""
        yield from ()


class TooManySteps(Method):
    """Trains twice with all the steps."""

    card = card("too-many-steps")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Train twice."""
        model = tools.train(data.train, share=1.0)
        yield Stage("real", tools.train(data.train, init=model, share=0.5))


class TooManyImages(Method):
    """Asks for more copies than the budget."""

    card = card("too-many-images", track=Track.TRAIN)

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Ask twice for all of B."""
        plan = tools.budget.fill(data.train, populated_only=True)
        images = tools.copies(data.train, plan=plan) + tools.copies(data.train, plan=plan)
        yield Stage("real", tools.train(images))


class GeneratesUndeclared(Method):
    """Generates without uses_generator."""

    card = card("generates-undeclared")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Ask for images."""
        yield Stage("real", tools.train(tools.synthesize(data, plan=tools.budget.balanced())))


class AsksAnAuditor(Method):
    """Asks an auditor, as every auditor would be asked."""

    card = card("asks-an-auditor")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Ask before training."""
        guard("y")
        yield Stage("real", tools.train(data.train))


class DeclaredOracle(AsksAnAuditor):
    """Asks too, but says so on its card."""

    card = card("declared-oracle", oracle=True)


class CannotRun(Method):
    """Does not apply to any cell."""

    card = card("cannot-run")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Say so."""
        raise NotApplicable("there are no conflicting validation images")
        yield Stage("real", tools.train(data.train))


class OwnModule(Method):
    """Yields a module of its own."""

    card = card("own-module")

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """A linear classifier that was never trained."""
        yield Stage("real", self.build({"classes": 10}), spec={"classes": 10})

    def build(self, spec: Any) -> torch.nn.Module:
        """Build it."""
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, spec["classes"]))


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (ReadsGroups, UndeclaredGroupLabels, "training split but its card declares track 'none'"),
        (ReadsValidationGroups, UndeclaredGroupLabels, "validation split"),
        (WrongStage, ContractViolation, "yields stage 'fake' where its card declares 'real'"),
        (NoStage, ContractViolation, "yields 0 stages"),
        (TooManySteps, BudgetExceeded, "exceed the budget of 12"),
        (TooManyImages, BudgetExceeded, "exceed B = 1980"),
        (GeneratesUndeclared, InvalidValue, "uses_generator=False"),
        (AsksAnAuditor, OracleUse, "asks-an-auditor asks the auditor of y inside fit"),
        (CannotRun, NotApplicable, "no conflicting validation images"),
    ],
)
def test_a_broken_adapter_is_stopped_for_its_own_reason(
    method: type[Method],
    error: type[Exception],
    message: str,
    short_cell: Callable[..., ResolvedCell],
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        fit_adapter(method, short_cell("erm"), tmp_path)


def test_an_auditor_answers_a_declared_oracle_and_whoever_measures(
    short_cell: Callable[..., ResolvedCell], tmp_path: Path
) -> None:
    assert len(fit_adapter(DeclaredOracle, short_cell("erm"), tmp_path)) == 1
    guard("y")


def test_an_adapter_may_bring_its_own_module(short_cell: Callable[..., ResolvedCell], tmp_path: Path) -> None:
    (stage,) = fit_adapter(OwnModule, short_cell("erm"), tmp_path)
    assert stage.own_module
    assert [c.rule.value for c in stage.checkpoints] == ["last"]
    assert (tmp_path / "weights" / stage.checkpoints[0].file).stat().st_size > 100_000


@pytest.mark.slow
def test_a_success_whose_predictions_are_gone_is_made_again(run_short: Run) -> None:
    first = run_short("erm")
    (first.folder / first.record.ranked_stage.checkpoints[0].predictions.file).unlink()
    again = run_short("erm")
    assert not again.reused
    assert again.folder != first.folder
    assert [s.checkpoints for s in again.record.stages] == [s.checkpoints for s in first.record.stages]


@pytest.mark.slow
def test_an_isolated_run_is_not_answered_with_one_that_was_not(run_short: Run) -> None:
    from benchmark.records.results import find_success, run_folder

    done = run_short("erm")
    results, prefix = done.folder.parents[2], run_folder("colorized-digits", "erm")
    assert find_success(results, done.record.cell_id, prefix) == done.folder
    assert find_success(results, done.record.cell_id, prefix, isolated=True) is None


@pytest.mark.slow
def test_a_damaged_checkpoint_in_the_store_is_set_aside_and_trained_again(
    run_short: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_short("erm")
    (file, *_) = sorted((tmp_path / "store" / "trained").rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 0xFF
    file.write_bytes(content)
    shutil.rmtree(first.folder)
    again = run_short("erm")
    assert not again.record.stages[0].remembered
    assert "does not match its digest" in caplog.text
    assert [s.checkpoints for s in again.record.stages] == [s.checkpoints for s in first.record.stages]


def test_an_error_is_kept_as_a_record_and_not_taken_for_a_result(
    run_short: Run, short_cell: Callable[..., ResolvedCell], tmp_path: Path
) -> None:
    cell = short_cell("erm")
    recipe = cell.recipe.model_copy(update={"learning_rate": 1e30, "optimiser": "sgd"})
    broken = dataclasses.replace(cell, recipe=recipe)
    with pytest.raises(TrainingDiverged, match="learning rate"):
        run_short(broken)
    (path,) = (tmp_path / "results").rglob(RECORD_FILE)
    record = read_record(path)
    assert record.status == "error"
    assert record.failure is not None
    assert record.failure.kind == "TrainingDiverged"
    assert not any(str(tmp_path) in line for line in record.failure.traceback)
    assert run_short(cell).record.status == "success"
