"""What is measured about generated images after a run: by real auditors, and null with a reason where they cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchmark.evaluation.answer
import benchmark.evaluation.audit
from benchmark.audits.auditors import Auditors, load_auditors
from benchmark.contract.images import MethodData
from benchmark.contract.method import Hparams, Method, MethodCard, Stage, Tools
from benchmark.contract.tracks import Track
from benchmark.errors import NotAvailable, OracleUse, TrainingDiverged
from benchmark.evaluation.audit import Audit, Findings
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.fit import fit_stages
from benchmark.evaluation.job import FitReport, make_job, split_parts
from benchmark.evaluation.run import Evaluation, evaluate_cell
from benchmark.evaluation.score import score
from benchmark.evaluation.used import used_images
from benchmark.progress import Silent
from benchmark.records.schema import MetricValue
from benchmark.records.store import Store
from benchmark.tasks.manifest import AUDIT
from benchmark.training.device import Precision

pytestmark = pytest.mark.slow

IMAGES = 130
STEPS = 60
Cell = Callable[..., ResolvedCell]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module, so that each image is sampled once and auditors are trained once."""
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def ffr(short_cell: Cell) -> ResolvedCell:
    """A cell with few images, quickly sampled."""
    return quick(short_cell("ffr", synthetic=IMAGES))


def quick(cell: ResolvedCell) -> ResolvedCell:
    return dataclasses.replace(cell, sampling=cell.sampling.model_copy(update={"steps": 2}))


def evaluate(cell: ResolvedCell, root: Path, results: str) -> Evaluation:
    return evaluate_cell(
        cell, results=root / results, store=root / "store", device="cpu", threads=1, force=False, isolated=False,
        progress=Silent(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(root: Path, short_cell: Cell) -> Evaluation:
    """A run that is long enough for its auditors to tell digits and inks apart."""
    return evaluate(quick(short_cell("ffr", synthetic=IMAGES, steps=STEPS)), root, "measured")


def auditors_of(cell: ResolvedCell, store: Store, precision: Precision) -> Auditors:
    return load_auditors(
        cell.task, store=store, recipe=cell.recipe, image_size=cell.image_size, device=torch.device("cpu"),
        precision=precision, progress=Silent(),
    )  # fmt: skip


def look_at(cell: ResolvedCell, root: Path, weights: Path) -> Findings:
    """Fit a cell and measure what it left, without the rest of a run."""
    job = make_job(cell, store=root / "store", device="cpu", precision="float32", threads=1, remember=True)
    parts = split_parts(cell)
    report = fit_stages(cell.method, cell.hparams, job, parts, weights, Silent(), lambda _: None)
    return Audit(cell, job, parts["train"], Silent()).look(report, weights)


# --- what a record says ----------------------------------------------------------------------------------------------


def test_label_fidelity_is_what_the_auditors_answer(measured: Evaluation, root: Path, short_cell: Cell) -> None:
    (pool,) = measured.record.pools
    store, precision = Store(root / "store"), measured.record.environment.precision
    auditors, images = auditors_of(short_cell("ffr", steps=STEPS), store, precision), used_images(store, pool)
    assert len(images) == pool.kept == IMAGES
    assert set(pool.label_fidelity) == {"y", "y_raw", "a", "a_raw"}
    for auditor, asked in ((auditors.y, images.y), (auditors.a, images.a)):
        answered = float((auditor.answers(images.images) == asked).mean())
        assert pool.label_fidelity[f"{auditor.of}_raw"].value == pytest.approx(answered, abs=1e-12)
        corrected = pool.label_fidelity[auditor.of]
        assert corrected.value is not None
        assert corrected.low is not None
        assert corrected.high is not None
        assert 0 <= corrected.low <= corrected.value <= corrected.high <= 1
        recorded = measured.record.auditors[auditor.of]
        assert (recorded.id, recorded.confusion) == (auditor.id, auditor.confusion.tolist())
        assert recorded.tested_on == auditor.confusion.sum()
    # Inks are easily told apart, so few images of another ink pass as the one that was asked for.
    assert np.trace(auditors.a.confusion) > 0.9 * auditors.a.confusion.sum()


def test_auditors_saw_the_audit_split_alone(measured: Evaluation, short_cell: Cell) -> None:
    rows = short_cell("ffr").manifest.splits[AUDIT]
    for info in measured.record.auditors.values():
        assert 0 < info.trained_on < len(rows)
        assert 0 < info.tested_on <= len(rows) - info.trained_on


def test_quality_names_what_it_is_measured_on(measured: Evaluation) -> None:
    quality = measured.record.pools[0].quality
    assert set(quality) == {"memorised_share", "fid", "kid"}
    for name, on in (("memorised_share", "990 training images"), ("fid", "auditor of y"), ("kid", "auditor of y")):
        assert quality[name].value is not None
        assert on in f"{quality[name].interval} {quality[name].reason}"
    assert quality["memorised_share"].value == 0
    assert (quality["fid"].value or 0) > 0


def test_every_stage_is_probed(measured: Evaluation) -> None:
    for stage in measured.record.stages:
        assert set(stage.probes) == {"a", "g", "ag", "a_chance", "g_chance", "ag_chance"}
        for name, chance in (("a", 0.1), ("g", 0.5), ("ag", 0.05)):
            value = stage.probes[name].value
            assert value is not None
            assert chance < value <= 1
            assert stage.probes[f"{name}_chance"].value == pytest.approx(chance)
            assert f"stage {stage.name}" in f"{stage.probes[name].interval} {stage.probes[name].reason}"
    # Typeset and handwritten digits differ at a glance.
    assert measured.record.stages[0].probes["g"].value == pytest.approx(1, abs=0.1)


def test_measuring_leaves_what_is_scored_alone(measured: Evaluation) -> None:
    assert [each.differing for each in score(measured.folder)[1]] == [[]] * 4


def test_images_by_class_alone_show_no_attribute_that_was_asked_for(
    root: Path, short_cell: Cell, tmp_path: Path
) -> None:
    overrides = {"prompt": "class", "balance": "add"}
    findings = look_at(quick(short_cell("sd-augment", overrides=overrides, synthetic=60)), root, tmp_path)
    fidelity = findings.pools[0].label_fidelity
    for name in ("a", "a_raw"):
        assert (fidelity[name].value, fidelity[name].reason) == (None, "images were asked for by class alone")
    assert fidelity["y_raw"].value is not None
    probes = findings.probes["mixed"]
    assert probes["a"].value is not None
    assert (probes["ag"].value, probes["g"].value is None) == (None, False)
    assert "unknown" in str(probes["ag"].reason)


# --- where auditors cannot look --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotAvailable("the audit split of faces holds out 1 sample"), "the audit split of faces holds out 1 sample"),
        (
            TrainingDiverged("the loss is nan at 3"),
            "the training of an auditor diverged: the loss is nan at 3",
        ),
    ],
)
def test_pools_that_no_auditor_can_look_at_are_null_with_the_reason(
    root: Path, ffr: ResolvedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(benchmark.evaluation.audit, "load_auditors", fail)
    findings = look_at(ffr, root, tmp_path)
    assert findings.auditors == {}
    (pool,) = findings.pools
    assert set(pool.label_fidelity) == {"y", "y_raw", "a", "a_raw"}
    for null in (*pool.label_fidelity.values(), pool.quality["fid"], pool.quality["kid"]):
        assert (null.value, null.reason) == (None, reason)
    # Copies are looked for, and stages probed, without any auditor.
    assert pool.quality["memorised_share"].value is not None
    assert all(findings.probes[stage]["g"].value is not None for stage in ("synthetic", "real"))


def test_a_task_without_an_audit_split_has_no_auditors(root: Path, ffr: ResolvedCell) -> None:
    """A real split by the law: too small a share leaves no digit for the audit, and no lock pins it."""
    block = ffr.task.card.task
    shares = block.shares.model_copy(update={"audit": Fraction("0.001")})
    card = ffr.task.card.model_copy(update={"task": block.model_copy(update={"shares": shares, "split_version": 99})})
    task = type(ffr.task)(card)
    manifest = task.manifest(ffr.manifest.level, ffr.manifest.draw)
    assert len(manifest.splits[AUDIT]) == 0
    cell = dataclasses.replace(ffr, task=task, manifest=manifest)
    record = evaluate(cell, root, "no-split").record
    assert (record.status, record.auditors) == ("success", {})
    reason = "colorized-digits has no audit split at hand, so there are no auditors"
    assert {each.reason for each in record.pools[0].label_fidelity.values()} == {reason}
    for stage in record.stages:
        assert {stage.probes[name].value for name in ("a", "g", "ag")} == {None}


# --- auditors and fit ------------------------------------------------------------------------------------------------


class Curious(Method):
    """Loads the task's real auditors inside fit and asks one of them."""

    card = MethodCard("curious", 1, "Ask.", "test", Track.NONE, ("real",))
    auditors: Callable[[], Auditors]
    question: str

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Ask before training."""
        getattr(self.auditors().y, self.question)(data.train.images[:2])
        yield Stage("real", tools.train(data.train))


class CuriousAboutTheAttribute(Curious):
    """Asks the other one."""

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Ask after training: what is asked between stages is asked in fit too."""
        model = tools.train(data.train)
        self.auditors().a.answers(data.train.images[:2])
        yield Stage("real", model)


class CuriousOracle(Curious):
    """Asks too, but says so on its card."""

    card = dataclasses.replace(Curious.card, name="curious-oracle", oracle=True)


def fit(method: Method, cell: ResolvedCell, folder: Path) -> FitReport:
    own = dataclasses.replace(cell, method=method, hparams=Hparams(), track=Track.NONE)
    own = dataclasses.replace(own, request=dataclasses.replace(cell.request, method=method.card.name))
    job = make_job(own, store=folder / "store", device="cpu", precision="float32", threads=1, remember=False)
    return fit_stages(method, Hparams(), job, split_parts(own), folder, Silent(), lambda _: None)


@pytest.mark.parametrize(
    ("kind", "question", "of"),
    [(Curious, "answers", "y"), (Curious, "features", "y"), (CuriousAboutTheAttribute, "", "a")],
)
def test_a_real_auditor_refuses_to_answer_inside_fit_and_answers_afterwards(
    measured: Evaluation, root: Path, short_cell: Cell, tmp_path: Path, kind: type[Curious], question: str, of: str
) -> None:
    cell, store = short_cell("erm", steps=STEPS), Store(root / "store")
    method = kind()
    method.auditors = lambda: auditors_of(cell, store, measured.record.environment.precision)
    method.question = question
    with pytest.raises(OracleUse, match=f"curious asks the auditor of {of} inside fit"):
        fit(method, short_cell("erm"), tmp_path)
    assert len(method.auditors().y.answers(np.zeros((3, 32, 32, 3), dtype=np.uint8))) == 3


def test_a_declared_oracle_is_answered(measured: Evaluation, root: Path, short_cell: Cell, tmp_path: Path) -> None:
    cell, store = short_cell("erm", steps=STEPS), Store(root / "store")
    method = CuriousOracle()
    method.auditors = lambda: auditors_of(cell, store, measured.record.environment.precision)
    method.question = "answers"
    report = fit(method, short_cell("erm"), tmp_path)
    assert [stage.name for stage in report.stages] == ["real"]


# --- a classifier of another build -----------------------------------------------------------------------------------


class OwnModule(Method):
    """Generates images and yields a module without a last layer that the harness knows."""

    card = MethodCard("own-module", 1, "Own.", "test", Track.NONE, ("own",), uses_generator=True)

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Never train."""
        tools.synthesize(data, plan=tools.budget.balanced())
        yield Stage("own", self.build({}))

    def build(self, spec: Any) -> torch.nn.Module:
        """Build it."""
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))


def test_a_module_without_a_known_last_layer_has_no_probes_but_its_pool_is_measured(
    measured: Evaluation, root: Path, ffr: ResolvedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = OwnModule()
    own = dataclasses.replace(ffr, method=method, hparams=Hparams(), track=Track.NONE)
    monkeypatch.setattr(benchmark.evaluation.answer, "load_method", lambda _: method)
    findings = look_at(own, root, tmp_path)
    probes: dict[str, MetricValue] = findings.probes["own"]
    assert {name: each.value for name, each in probes.items()} == {"a": None, "g": None, "ag": None}
    assert "Sequential has no linear layer `fc`" in str(probes["a"].reason)
    assert findings.pools[0].label_fidelity["y_raw"].value is not None
    assert set(findings.auditors) == {"y", "a"}
