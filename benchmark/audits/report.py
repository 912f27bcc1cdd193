"""The report of an audit: what a generator, a pool, a training mixture or an invertible network shows of a task.

``genbias-bench audit`` fills these models and writes them as JSON; :mod:`benchmark.audits.page` makes a page for people
of them. Images are not in here. What is undefined is null with a reason.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark.audits.shares import Verdict
from benchmark.records.schema import (
    AuditorInfo,
    Environment,
    GroupAudit,
    MetricValue,
    Number,
    OwnGeneratorUse,
    Sha256,
    Shares,
    Tuning,
)

FORMAT_VERSION: Literal[1] = 1
"""Moves with any removal or change of meaning."""
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")

AskedBy = Literal["class", "group"]
"""What images were asked for by: the class alone, or class and attribute."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Subject(_Strict):
    """What was audited."""

    kind: Literal["generator", "pool", "mixture", "invertible"]
    name: str
    identity: dict[str, Any] = Field(description="name, revision, content_sha256 …: what the recipe of a pool says")
    pool_ids: list[Sha256]
    own: OwnGeneratorUse | None = Field(default=None, description="how it was trained, if from random weights")
    tuning: Tuning | None = Field(default=None, description="how it was fine-tuned; null for a generator as it is")


class AuditedTask(_Strict):
    """The task and the split whose training data the subject is held against."""

    id: str = Field(description="name@version")
    level: str
    draw: int = Field(ge=0)
    split_digest: Sha256
    faces: bool = Field(description="images show people: nothing of the report may be published (protocol §10)")
    label: str = Field(description="what the label is called")
    labels: list[str] = Field(min_length=2)
    attribute: str
    attributes: list[str] = Field(min_length=2)
    aligned: list[int] = Field(description="for each class the attribute value that goes with it in biased data")
    possible: list[list[int]] = Field(description="for each class the attribute values of its family, ascending")

    @model_validator(mode="after")
    def _names_what_exists(self) -> AuditedTask:
        values = range(len(self.attributes))
        if not len(self.aligned) == len(self.possible) == len(self.labels):
            raise ValueError(f"`aligned` and `possible` need one entry for each of {len(self.labels)} classes")
        for c, (aligned, possible) in enumerate(zip(self.aligned, self.possible, strict=True)):
            if not set(possible) <= set(values) or sorted(set(possible)) != possible or aligned not in possible:
                raise ValueError(
                    f"class {c}: {possible} must be ascending indices of {len(values)} attribute values, the aligned "
                    f"one ({aligned}) among them"
                )
        return self


class TrainingData(_Strict):
    """The real training split."""

    counts: list[list[int]] = Field(description="images, [classes][attributes]")
    conflicting: Number = Field(ge=0, le=1, description="share of bias-conflicting images")
    information_y_a: MetricValue = Field(description="I(Y;A) in bits, exact from the counts")


class HeldOut(_Strict):
    """What the auditor of a says of real images that it never saw: how far raw answers are off where truth is known."""

    images: int = Field(ge=1)
    shares: Shares = Field(description="true share of each group")
    raw: Shares = Field(description="share by the auditor's answers; rows are the true labels")
    conflicting: Number = Field(ge=0, le=1)
    conflicting_raw: MetricValue


class Fidelity(_Strict):
    """Share of images that show what was asked for: corrected with the confusion matrices, and as answered."""

    y: MetricValue
    a: MetricValue
    y_raw: MetricValue
    a_raw: MetricValue


class GroupEstimates(_Strict):
    """A corrected share per group with its 95 % interval."""

    value: Shares
    low: Shares
    high: Shares


class GroupFidelity(_Strict):
    """Label fidelity by the group asked for."""

    images: list[list[int]] = Field(description="images asked for, [classes][attributes]")
    y: GroupEstimates
    a: GroupEstimates


class Judgement(_Strict):
    """Bias-conflicting images: generated against training, and what follows."""

    training: Number | None = Field(
        description="share in the training data, its classes weighted like the images; null for a class without images"
    )
    generated: MetricValue = Field(description="corrected share in the images asked for by class alone")
    verdict: Verdict | Literal["not measured"] = Field(
        description="what became of the bias of the training data (protocol §8)"
    )
    why: str = Field(min_length=1)


class Probes(_Strict):
    """Balanced accuracy of linear probes for the attribute, the source (real or generated), and both."""

    a: MetricValue
    g: MetricValue
    ag: MetricValue
    a_chance: MetricValue
    g_chance: MetricValue
    ag_chance: MetricValue


class Sample(_Strict):
    """Images that were asked for in one way, and everything measured on them."""

    asked_by: AskedBy
    images: int = Field(ge=1)
    fidelity: Fidelity
    y_by_class: list[MetricValue] = Field(description="corrected label fidelity, [classes]")
    by_group: GroupFidelity | None = Field(description="null where the attribute was free")
    groups: GroupAudit | None
    groups_reason: str | None = Field(default=None, description="why `groups` is null")
    conflicting: Judgement
    conflicting_by_class: list[Judgement] = Field(description="[classes]")
    memorised_share: MetricValue
    fid: MetricValue
    kid: MetricValue
    probes: Probes
    information_y_a: MetricValue = Field(description="I(Y;A) in bits of the training data with these images")
    information_y_ag: MetricValue = Field(description="I(Y;(A,G)) in bits of the same, G = real or generated")

    @model_validator(mode="after")
    def _fits(self) -> Sample:
        if (self.by_group is None) != (self.asked_by == "class"):
            raise ValueError("`by_group` belongs to images that were asked for by group, and to no others")
        if self.groups is None and not self.groups_reason:
            raise ValueError("`groups` is null without a reason")
        return self


class TypicalImage(_Strict):
    """One image and how typical the generator finds it."""

    index: int = Field(ge=0, description="its row among the images that were looked at")
    typicality: Number


class GroupTypicality(_Strict):
    """Typicality within one group, or one class where the generator knows classes only."""

    y: int = Field(ge=0)
    a: int | None = Field(ge=0)
    mean: MetricValue
    most: list[TypicalImage] = Field(description="the most typical first")
    least: list[TypicalImage] = Field(description="the least typical first")


class Typicality(_Strict):
    """T(x|c), the loss without minus the loss with the condition, over the same noise (Siglidis 2024)."""

    of: Literal["real", "generated"] = Field(description="training images, or the subject's own")
    draws: int = Field(ge=1, description="pairs of noise and time per image")
    groups: list[GroupTypicality]


class Moved(_Strict):
    """Share of translated images that kept their label, reached the attribute asked for, and both."""

    images: int = Field(ge=1)
    y_kept: MetricValue
    a_reached: MetricValue
    both: MetricValue
    y_kept_raw: MetricValue
    a_reached_raw: MetricValue
    both_raw: MetricValue


class MovedPair(_Strict):
    """The same from one attribute value to another."""

    source: int = Field(ge=0)
    target: int = Field(ge=0)
    moved: Moved


class Transfer(_Strict):
    """Real images whose attribute an invertible network changed (Esser 2020; the measures are ours)."""

    overall: Moved
    pairs: list[MovedPair]


class Shift(_Strict):
    """Differences to the first condition, paired by latent code."""

    y: list[MetricValue]
    a: list[MetricValue]
    conflicting: MetricValue


class Condition(_Strict):
    """What the same latent codes become under one condition: corrected shares."""

    name: str
    y: list[MetricValue] = Field(description="[classes]")
    a: list[MetricValue] = Field(description="[attributes]")
    conflicting: MetricValue
    shift: Shift | None = Field(description="null for the first condition")


class Matched(_Strict):
    """Matched samples: each latent code decoded under every condition (Esser 2020)."""

    codes: int = Field(ge=1)
    conditions: list[Condition] = Field(min_length=2)

    @model_validator(mode="after")
    def _first_is_the_reference(self) -> Matched:
        if [condition.shift is None for condition in self.conditions] != [True] + [False] * (len(self.conditions) - 1):
            raise ValueError("every condition but the first needs its shift against the first")
        return self


class Report(_Strict):
    """One audit."""

    format_version: Literal[1] = FORMAT_VERSION
    created: str = Field(description="UTC, ISO 8601")
    seconds: Number = Field(ge=0)
    subject: Subject
    task: AuditedTask
    training: TrainingData
    auditors: dict[Literal["y", "a"], AuditorInfo] = Field(description="empty where there were none")
    held_out: HeldOut | None
    samples: list[Sample] = Field(max_length=2)
    typicality: Typicality | None
    typicality_reason: str | None = Field(default=None, description="why `typicality` is null")
    transfer: Transfer | None = Field(default=None, description="null but for an invertible network")
    matched: Matched | None = Field(default=None, description="null but for an invertible network")
    extractors: dict[str, str] = Field(description="what was measured → what made its features")
    environment: Environment
    notes: list[str] = Field(description="what was not measured, or only in part, and why")

    @model_validator(mode="after")
    def _consistent(self) -> Report:
        if self.typicality is None and not self.typicality_reason:
            raise ValueError("`typicality` is null without a reason")
        if len({sample.asked_by for sample in self.samples}) != len(self.samples):
            raise ValueError("two samples were asked for in the same way")
        c, a = len(self.task.labels), len(self.task.attributes)
        for name, table in self._tables():
            if len(table) != c or any(len(row) != a for row in table):
                raise ValueError(f"{name} is not of {c} classes and {a} attribute values")
        for name, column, size in self._columns():
            if len(column) != size:
                raise ValueError(f"{name} has {len(column)} entries, the task has {size}")
        for name, index, size in self._indices():
            if index >= size:
                raise ValueError(f"{name} {index} is beyond the {size} values of the task")
        return self

    def _tables(self) -> Iterator[tuple[str, list[list[Any]]]]:
        yield "training.counts", self.training.counts
        if self.held_out is not None:
            yield "held_out.shares", self.held_out.shares
            yield "held_out.raw", self.held_out.raw
        for sample in self.samples:
            if sample.by_group is not None:
                yield "by_group.images", sample.by_group.images
                for name in ("y", "a"):
                    estimates = getattr(sample.by_group, name)
                    for part in GroupEstimates.model_fields:
                        yield f"by_group.{name}.{part}", getattr(estimates, part)
            if sample.groups is not None:
                for name in ("asked", "raw", "corrected", "low", "high", "precision", "recall", "density", "coverage"):
                    yield f"groups.{name}", getattr(sample.groups, name)

    def _columns(self) -> Iterator[tuple[str, list[Any], int]]:
        c, a = len(self.task.labels), len(self.task.attributes)
        for sample in self.samples:
            yield "y_by_class", sample.y_by_class, c
            yield "conflicting_by_class", sample.conflicting_by_class, c
        for condition in self.matched.conditions if self.matched is not None else ():
            for part in (condition, condition.shift):
                if part is not None:
                    yield f"shares of y under {condition.name!r}", part.y, c
                    yield f"shares of a under {condition.name!r}", part.a, a

    def _indices(self) -> Iterator[tuple[str, int, int]]:
        c, a = len(self.task.labels), len(self.task.attributes)
        for group in self.typicality.groups if self.typicality is not None else ():
            yield "the class of a typicality", group.y, c
            yield "the attribute value of a typicality", group.a or 0, a
        for pair in self.transfer.pairs if self.transfer is not None else ():
            yield "an attribute value of a transfer", max(pair.source, pair.target), a


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a report, as committed in :data:`SCHEMA_FILE`."""
    return Report.model_json_schema()


if __name__ == "__main__":
    # python -m benchmark.audits.report > benchmark/audits/report.schema.json
    sys.stdout.write(json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
