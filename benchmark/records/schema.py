"""The record of one run: what was asked, what was used, what came out. JSON on disk, these models in memory.

Numbers are numbers; what is undefined is null with a reason. Unknown fields of a newer minor version are kept.
The major version moves with any removal or change of meaning.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)  # fmt: skip

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 4
SCHEMA_VERSION = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}"
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")

Status = Literal["started", "success", "skipped", "error", "cancelled"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("NaN and infinities are not numbers here; use null with a reason")
    return value


Number = Annotated[float, AfterValidator(_finite)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class _Grown(_Part):
    """A part that gained fields in a later minor version: read from an older record, it is written as it was."""

    _added: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_it_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        absent = self._added - self.model_fields_set
        return {name: value for name, value in content.items() if name not in absent}


class MetricValue(_Part):
    """A metric with its 95 % interval from test sampling; null with a reason where it is undefined."""

    value: Number | None
    low: Number | None = None
    high: Number | None = None
    interval: str = Field(description="how the interval was made, or `none`")
    reason: str | None = Field(default=None, description="why the value, or its interval, is null")

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> MetricValue:
        if self.value is None and not self.reason:
            raise ValueError("a null metric needs a reason")
        return self


class GroupTable(_Part):
    """Test results by group: integers, from which every point metric can be recomputed."""

    n: list[list[int]] = Field(description="test rows, [classes][attributes]")
    correct: list[list[int]] = Field(description="right answers, [classes][attributes]")
    low: list[list[Number | None]] = Field(description="lower end of the simultaneous 95 % interval")
    high: list[list[Number | None]] = Field(description="upper end of the simultaneous 95 % interval")


class PredictionsFile(_Part):
    """The Parquet file of one checkpoint's answers on the test split, in the manifest's order."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.parquet$")
    sha256: Sha256
    rows: int = Field(ge=1)
    rows_digest: Sha256 = Field(description="digest of the test rows in their order")


class CheckpointResult(_Grown):
    """One stage under one selection rule."""

    _added = frozenset({"views"})

    rule: Literal["last", "val-average", "val-worst-group"]
    track: Literal["none", "val-select", "val-train", "train"]
    step: int = Field(ge=0, description="optimiser step of the stage at which the checkpoint was taken")
    weights_sha256: Sha256
    predictions: PredictionsFile
    metrics: dict[str, MetricValue]
    groups: GroupTable
    views: dict[str, PredictionsFile] = Field(
        default={}, description="answers to the task's further views of test images; since 1.1"
    )


class Mixture(_Part):
    """What a stage was trained on, and what its groups tell about labels and source."""

    real: list[list[int]] = Field(description="real images, [classes][attributes]")
    synthetic: list[list[int]] = Field(description="generated images by the group asked for, [classes][attributes]")
    synthetic_without_attribute: list[int] = Field(description="generated images asked for by class alone, [classes]")
    information_y_a: MetricValue = Field(description="I(Y;A) in bits, exact from the counts")
    information_y_ag: MetricValue = Field(description="I(Y;(A,G)) in bits, G = real or generated")


class StageResult(_Grown):
    """A named classifier that the method yielded; the last stage is ranked."""

    _added = frozenset({"probes"})

    name: str
    steps: int = Field(ge=0)
    seconds: Number = Field(ge=0, description="training time, also when it was remembered from an earlier run")
    remembered: bool
    mixture: Mixture | None
    curves: list[dict[str, Number | int | None]]
    checkpoints: list[CheckpointResult] = Field(
        description="one per selection rule; none in a trial, which never answers the test split"
    )
    probes: dict[str, MetricValue] = Field(
        default={},
        description="balanced accuracy of linear probes for a, g (real or generated) and ag on frozen penultimate "
        "features, and the chance level of each; empty without generated images; since 1.2",
    )


class AdapterUse(_Part):
    """Fine-tuned low-rank weights that made images of one group."""

    sha256: Sha256 = Field(description="of the weights; their address in the store")
    name: str = Field(description="what it was trained on: a group, a cluster of one, or a class")
    images: int = Field(ge=1, description="real training images")


class Tuning(_Part):
    """How the generator was fine-tuned for this run, and which weights made which group's images."""

    kind: str = Field(description="lora, dreambooth, clustered-dreambooth …")
    settings: dict[str, Any]
    adapters: dict[str, list[AdapterUse]] = Field(description="group → its adapters; empty: the base generator")
    seconds: Number = Field(ge=0, description="training time of the adapters, also when they were in the store")
    prior_images: int = Field(ge=0, description="images of the base generator for prior preservation; never trained on")


class FilterUse(_Part):
    """How generated images were thinned out before the method saw them."""

    kind: Literal["own", "clip"]
    model: str = Field(description="what gave the scores, and its identity")
    kept_indices: dict[str, list[int]] = Field(description="group → indices of the images kept")
    mean_score_kept: Number | None
    mean_score_dropped: Number | None


class OwnGeneratorUse(_Part):
    """A generator that was trained from random weights on images of the run."""

    kind: Literal["from-scratch", "invertible", "bootstrap"]
    settings: dict[str, Any]
    images: int = Field(ge=1, description="images it was trained on")
    weights_sha256: Sha256
    seconds: Number = Field(ge=0, description="training time, also when it was in the store")
    curves: list[dict[str, Number | int | None]]


class LabelUse(_Part):
    """Labels that generated images carry in place of those asked for; the pool's label fidelity is theirs."""

    source: Literal["classifier"]
    y: list[int] = Field(description="label of each kept image, in the pool's order")
    changed: int = Field(ge=0, description="images whose label is not the one asked for")


Shares = list[list[Number | None]]
"""A share or another number per group, [classes][attributes]; null where undefined."""


class GroupAudit(_Part):
    """What auditors see in the groups of a pool (protocol §8); rows are the labels under which images are used.

    Shares are of all images of the pool. The attribute is the auditor's answer, corrected per row with its confusion
    matrix; images count under the label they carry, whether or not they show it (that is label fidelity).
    """

    asked: Shares = Field(description="share asked for; null where the attribute was free")
    raw: Shares = Field(description="share by the auditor's answers as they are")
    corrected: Shares
    low: Shares = Field(description="lower end of the 95 % interval of `corrected`")
    high: Shares = Field(description="upper end")
    conflicting: MetricValue = Field(description="corrected share of bias-conflicting images")
    conflicting_raw: MetricValue
    information_y_a: MetricValue = Field(description="I(Y;A) in bits of the corrected shares")
    absent: list[tuple[int, int]] = Field(description="groups of which no image was seen, [label, attribute]")
    extractor: str = Field(description="what made the features of the four numbers below")
    neighbours: int = Field(ge=1)
    precision: Shares = Field(description="Kynkäänniemi 2019, per group; null with too few images")
    recall: Shares
    density: Shares = Field(description="Naeem 2020")
    coverage: Shares


class PoolUse(_Grown):
    """Generated images that the run used. The pool is shared, so its variance is not in the intervals."""

    _added = frozenset({"tuning", "filter", "quality", "own", "labels", "groups", "transfer"})

    pool_id: Sha256
    recipe: dict[str, Any]
    ranges: dict[str, tuple[int, int]] = Field(description="group → [start, stop) of the images used")
    rows_sha256: Sha256
    kept: int = Field(ge=0)
    sampled: int = Field(ge=0)
    seconds: Number = Field(ge=0, description="time this run spent sampling; 0 when the pool held everything")
    label_fidelity: dict[str, MetricValue] = Field(
        description="share of the kept images that show the y and the a asked for: by auditors, corrected with their "
        "confusion matrices; `y_raw` and `a_raw` uncorrected; null with a reason where no auditor could look"
    )
    tuning: Tuning | None = Field(default=None, description="null for the generator as it is; since 1.2")
    filter: FilterUse | None = Field(default=None, description="null where every sampled image was kept; since 1.2")
    quality: dict[str, MetricValue] = Field(
        default={},
        description="memorised_share, fid and kid of the kept images; what they are measured on stands in each "
        "interval's or reason's text; since 1.2",
    )
    own: OwnGeneratorUse | None = Field(default=None, description="null for text-to-image generators; since 1.3")
    labels: LabelUse | None = Field(default=None, description="null: labels as asked for; since 1.3")
    groups: GroupAudit | None = Field(
        default=None, description="of pools of a loop or of an own generator; null otherwise; since 1.3"
    )
    transfer: dict[str, MetricValue] = Field(
        default={},
        description="of an invertible network: y_kept, a_reached, both: corrected, and raw by the auditors' answers; "
        "conflicting_shown: corrected share of images whose shown class and attribute conflict; since 1.3",
    )


class TaskInfo(_Grown):
    """The task, its frozen split, and how much data the level leaves."""

    _added = frozenset({"recipe", "image_size", "resampling_unit", "missing_samples", "package", "package_version"})

    name: str
    version: int
    split_version: int
    card_digest: Sha256
    tier: Literal["demo", "core", "extended"]
    bias_kind: Literal["spurious", "subpopulation"]
    ranking_metric: str
    level: str
    draw: int
    split_digest: Sha256
    pinned: Literal["pinned", "unpinned", "partial"]
    labels: list[str]
    attributes: list[str]
    train_counts: list[list[int]]
    validation_counts: list[list[int]]
    test_rows: int
    n_train: int
    smallest_group: int = Field(description="images in the smallest populated training group")
    populated_groups: int
    realised_rho: list[Number | None] = Field(description="share of aligned training images per class")
    prepared_sha256: dict[str, Sha256] = Field(description="pixels of the train, validation and test splits")
    recipe: str = Field(default="default", description="which of the card's training recipes was asked for; since 1.1")
    image_size: int | None = Field(default=None, description="height and width in pixels; null before 1.1")
    resampling_unit: str = Field(
        default="sample", description="independent unit of the test: sample or identity; since 1.1"
    )
    missing_samples: list[str] | None = Field(
        default=[], description="samples of the data set that were not at hand; null where too many to list; since 1.1"
    )
    package: str | None = Field(default=None, description="package of a plug-in's task, else absent; since 1.4")
    package_version: str | None = Field(default=None, description="its version; since 1.4")


class ExternalData(_Part):
    """A pre-trained component, what it was trained on, and whether that may hold the task's images (protocol §3)."""

    component: str
    trained_on: str
    may_contain_task_images: bool | None = Field(description="null: not known")


class TuningUse(_Part):
    """The study that chose a configuration (protocol §3)."""

    study: Sha256 = Field(description="of the content of its tuning.json")
    trial: int = Field(ge=0, lt=20, description="number of the trial that won; 0 is the default configuration")
    trials: int = Field(ge=1, le=20, description="configurations that were tried")
    criterion: Literal["val-average", "val-worst-group"] = Field(
        description="cross-entropy on the validation split: its mean, or the mean of the worst populated group"
    )
    expected_best: list[Number] = Field(
        min_length=1, max_length=20, description="expected best value of the criterion after 1, 2 … trials"
    )


class TrialResult(_Part):
    """What a trial of a study found out, on the validation split alone."""

    study: Sha256 = Field(description="of what defines the study")
    number: int = Field(ge=0, lt=20)
    criterion: Literal["val-average", "val-worst-group"]
    value: Number = Field(ge=0, description="of the last stage, under the selection rule of the same name")


class MethodInfo(_Grown):
    """The method as it was run."""

    _added = frozenset({"tuning"})

    name: str
    version: int
    origin: Literal["in-tree", "plug-in"]
    package: str
    package_version: str
    source_digest: Sha256
    hparams: dict[str, Any] = Field(description="resolved")
    hparams_changed: dict[str, Any] = Field(description="those that differ from the defaults")
    kind: Literal["mitigation", "control", "process"]
    configuration: Literal["default", "changed", "tuned"]
    track: Literal["none", "val-select", "val-train", "train"] = Field(description="before the selection rule")
    uses_generator: bool
    external_data: list[ExternalData]
    oracle: bool
    tuning: TuningUse | None = Field(default=None, description="of a `tuned` configuration; since 1.4")

    @model_validator(mode="after")
    def _tuned_by_a_study(self) -> MethodInfo:
        if (self.configuration == "tuned") != (self.tuning is not None):
            raise ValueError("a tuned configuration, and no other, names the study that chose it")
        return self


class BudgetUse(_Part):
    """What the protocol allowed and what was spent."""

    synthetic_allowed: int
    synthetic_kept: int
    sampled_allowed: int
    sampled: int
    steps_allowed: int
    steps_used: int

    @model_validator(mode="after")
    def _within(self) -> BudgetUse:
        pairs = (
            (self.synthetic_kept, self.synthetic_allowed, "kept images"),
            (self.sampled, self.sampled_allowed, "sampled images"),
            (self.steps_used, self.steps_allowed, "optimiser steps"),
        )
        for used, allowed, what in pairs:
            if used > allowed:
                raise ValueError(f"{used} {what} used, {allowed} allowed")
        return self


class Environment(_Part):
    """Where it ran: no host or user names, no absolute paths."""

    environment_id: Sha256
    git_commit: str | None
    git_dirty: bool | None
    packages: dict[str, str]
    python: str
    system: str
    device: str
    device_kind: Literal["cpu", "cuda", "mps"]
    cpu_capability: str
    precision: Literal["float32", "bfloat16"]
    threads: int


class Isolation(_Part):
    """Whether `fit` ran without the test split and without a network."""

    requested: bool
    separate_process: bool
    test_split_absent: bool
    network_blocked: bool
    limits: list[str] = Field(description="what could not be isolated, and why")


class Cost(_Grown):
    """What it took; generator compute is shown, not matched."""

    _added = frozenset({"auxiliary_seconds"})

    wall_seconds: Number
    training_seconds: Number
    generator_seconds: Number = Field(description="fine-tuning and sampling")
    auxiliary_seconds: Number = Field(
        default=0.0, description="classifiers that only cluster or filter images: no stage starts from them; since 1.2"
    )
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    energy_joules: MetricValue


class AuditorInfo(_Part):
    """A model that only measures: trained on held-out real images of the audit split, balanced by group."""

    id: Sha256 = Field(description="of everything that made it")
    trained_on: int = Field(ge=1, description="images")
    tested_on: int = Field(ge=1, description="other held-out images, behind the confusion matrix")
    confusion: list[list[int]] = Field(description="[true][answered]")


class Failure(_Part):
    """What went wrong; paths are scrubbed from the traceback."""

    kind: str
    message: str
    traceback: list[str]


class Cell(_Grown):
    """What identifies a run; `cell_id` is the SHA-256 of its canonical JSON."""

    _added = frozenset({"clip", "tuning"})

    task: str
    split_digest: Sha256
    level: str
    draw: int
    seed: int
    method: str
    hparams: dict[str, Any]
    generator: dict[str, Any] | None
    backbone: str
    backbone_weights: str
    training: dict[str, Any]
    budget: dict[str, int]
    schema_major: int
    clip: dict[str, Any] | None = Field(default=None, description="external CLIP model that was asked for; since 1.2")
    tuning: Sha256 | None = Field(
        default=None, description="study that the run is a trial of, or that chose its configuration; since 1.4"
    )


def _checkpoints(**number: int) -> dict[str, Any]:
    """Return a JSON Schema for how many checkpoints every stage has."""
    return {"properties": {"stages": {"items": {"properties": {"checkpoints": number}}}}}


class Record(_Grown):
    """One run, or a trial of a tuning study."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"kind": {"const": "trial"}}, "required": ["kind"]},
            "then": _checkpoints(maxItems=0),
            "else": _checkpoints(minItems=1),
        }
    )
    _added = frozenset({"auditors", "trial"})

    schema_version: str
    metrics_version: int
    run_id: str = Field(pattern=r"^[0-9a-f]{12}(-\d+)?$", description="start of cell_id, and the attempt")
    cell_id: Sha256
    cell: Cell
    kind: Literal["run", "trial"] = "run"
    status: Status
    started: str = Field(description="UTC, ISO 8601")
    finished: str | None
    seed: int
    task: TaskInfo
    method: MethodInfo
    budget: BudgetUse | None
    stages: list[StageResult]
    pools: list[PoolUse]
    environment: Environment
    isolation: Isolation
    cost: Cost | None
    notes: list[str]
    skipped_because: str | None = None
    failure: Failure | None = None
    artifacts: dict[str, str] = Field(description="pictures beside the record, by kind")
    auditors: dict[str, AuditorInfo] = Field(
        default={},
        description="auditors of y and a that looked at the pools; empty without generated images; since 1.2",
    )
    trial: TrialResult | None = Field(default=None, description="of a finished trial; since 1.4")

    @model_validator(mode="after")
    def _kind_fits(self) -> Record:
        answered = {bool(stage.checkpoints) for stage in self.stages}
        if answered - {self.kind == "run"}:
            raise ValueError("every stage of a run, and none of a trial, has checkpoints that answered the test split")
        if (self.trial is not None) != (self.kind == "trial" and self.status == "success"):
            raise ValueError("a finished trial, and nothing else, has the result of one")
        if self.kind == "run":
            study = self.method.tuning and self.method.tuning.study
        else:
            study = self.trial.study if self.trial else self.cell.tuning
        if study != self.cell.tuning:
            raise ValueError("its cell names another study than its method, or its trial")
        return self

    @model_validator(mode="after")
    def _status_fits(self) -> Record:
        if self.status == "success" and not (self.stages and self.budget and self.cost):
            raise ValueError("a success needs stages, a budget and a cost")
        if self.status == "success":
            self._spent_what_it_says()
        if self.status == "skipped" and not self.skipped_because:
            raise ValueError("a skipped run needs its reason")
        if self.status == "error" and self.failure is None:
            raise ValueError("an error needs its failure")
        return self

    def _spent_what_it_says(self) -> None:
        """Hold stages and pools against the budget that the record claims (protocol §4)."""
        assert self.budget is not None
        if (steps := sum(stage.steps for stage in self.stages)) != self.budget.steps_used:
            raise ValueError(f"the stages took {steps} optimiser steps, the budget says {self.budget.steps_used}")
        kept, sampled = (sum(getattr(pool, name) for pool in self.pools) for name in ("kept", "sampled"))
        if kept > self.budget.synthetic_kept or sampled > self.budget.sampled:
            raise ValueError(
                f"the pools hold {kept} kept and {sampled} sampled images, the budget says "
                f"{self.budget.synthetic_kept} and {self.budget.sampled}"
            )

    @property
    def ranked_stage(self) -> StageResult:
        """The last stage."""
        return self.stages[-1]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record, as committed in :data:`SCHEMA_FILE`."""
    return Record.model_json_schema()


if __name__ == "__main__":
    # python -m benchmark.records.schema > benchmark/records/record.schema.json
    sys.stdout.write(json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
