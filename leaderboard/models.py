"""The board as data: what `leaderboard build` computes, what Markdown and the site render, what leaderboard.json holds.

Strings that came from a record are kept as they are: whoever renders them escapes them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BOARD_FORMAT = 1
Level = Literal["self-reported", "recomputed", "replayed", "maintained"]
AbsentStatus = Literal["started", "skipped", "error", "cancelled", "left out"]
RANKING_LEVELS: tuple[Level, ...] = ("replayed", "maintained")
LEAST_DATA_SETS = 4
"""Pinned and ranked data sets outside the demo tier before an overall score is shown (protocol §7)."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Part):
    """A mean over a row's runs with the 95 % t interval of training (seed and draw); null with a reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class Measurement(Estimate):
    """A mean of what the runs of a row recorded about their generated images."""

    own_interval: bool = Field(
        default=False, description="all runs report one and the same measurement: low and high are its own"
    )


class Behind(_Part):
    """A row's paired difference to the best row of its family, on the ranking metric."""

    best: str = Field(description="id of the best row")
    difference: float = Field(description="this row minus the best, over common draws")
    low: float
    high: float
    p_value: float = Field(description="adjusted by Holm over the family: every row against the best")


class RankInterval(_Part):
    """Where a row may stand among the ranked rows of its table whose track is its own or a lower one."""

    low: int = Field(ge=1, description="1 + number of significantly better rows")
    high: int = Field(ge=1, description="number of rows - number of significantly worse rows")
    among: int = Field(ge=1, description="ranked rows of the family, this one included")
    behind: Behind | None = Field(description="null for the best row itself")


class Span(_Part):
    """A whole number that may differ between draws."""

    low: int
    high: int


class Extent(_Part):
    """A number that may differ between runs."""

    low: float
    high: float


class Data(_Part):
    """How much data the runs of a row had."""

    n_train: Span
    smallest_group: Span = Field(description="images in the smallest populated training group")
    populated_groups: Span
    synthetic_budget: Span = Field(description="B, kept generated images that were allowed")
    steps: int = Field(description="optimiser steps over all stages")


class RowCost(_Part):
    """Means per run; the generator's time counts in the run that made adapters and images, later ones share them."""

    training_seconds: float
    generator_seconds: float
    devices: dict[str, list[str]] = Field(description="kind of device → names, as recorded")


class StageSummary(_Part):
    """One stage of a method over its seeds, at its last step."""

    name: str
    steps: Span
    real: Span | None = Field(description="real training images of the stage")
    generated: Span | None = Field(description="generated training images of the stage (copies count here)")
    metrics: dict[str, Estimate] = Field(
        description="recomputed; of earlier stages as recorded where only numbers were kept"
    )
    information: dict[str, Estimate] = Field(description="of the training mixture in bits, as recorded")
    probes: dict[str, Estimate] = Field(
        description="balanced accuracy of linear probes for a, g and ag, as recorded; empty where no run was probed"
    )
    chance: dict[str, Extent] = Field(description="chance levels of the probes, as recorded; only those known")


class Row(_Part):
    """One configuration of one method on one task and level, under one selection rule, over its seeds."""

    id: str = Field(description="start of the SHA-256 of what makes runs seeds of one row")
    method: str = Field(description="name@version")
    configuration: Literal["default", "changed", "tuned"]
    changed: dict[str, Any] = Field(description="hyper-parameters that are not the default, and recipe changes")
    hparams: dict[str, Any]
    generator: str | None = Field(description="name and start of its revision or content digest")
    track: Literal["none", "val-select", "val-train", "train"]
    seeds: list[int]
    draws: list[int]
    runs: list[str] = Field(description="run ids")
    verification: Level
    rank: RankInterval | None
    not_ranked: list[str] = Field(description="reasons; empty for ranked rows")
    metrics: dict[str, Estimate] = Field(description="recomputed from the predictions")
    data: Data
    cost: RowCost
    external_data: list[str]
    oracle: bool
    stale: list[str] = Field(description="what has changed since the runs were made; empty when nothing has")
    remarks: list[str]


class Table(_Part):
    """Rows of one task, bias level, training recipe and selection rule: what is compared with each other."""

    level: str
    recipe: str = Field(description="one of the card's training recipes")
    recipe_summary: str = Field(description="the recipe's backbone, weights and image size in words")
    rows: list[Row]
    repeated: int = Field(description="further runs of a seed that a row already has, left out")


class RuleSection(_Part):
    """All levels of one task under one selection rule."""

    rule: Literal["last", "val-average", "val-worst-group"]
    tables: list[Table]


class StageRow(_Part):
    """The stages of one row of the table for rule `last` at the default level."""

    method: str
    changed: dict[str, Any]
    configuration: Literal["default", "changed", "tuned"]
    generator: str | None
    verification: Level
    seeds: int
    stages: list[StageSummary]


class GeneratedRow(_Part):
    """The generated images of one row of a table for rule `last`, as recorded, and a classifier of them alone."""

    row: str = Field(description="id of the row in its table")
    level: str
    recipe: str
    method: str
    changed: dict[str, Any]
    configuration: Literal["default", "changed", "tuned"]
    generator: str | None
    verification: Level
    seeds: int
    tuning: list[str | None] = Field(description="kinds of fine-tuning; null is the generator as it is")
    adapters: Span = Field(description="different adapters of a run")
    base_groups: Span = Field(description="groups of a run with a fine-tuned generator that the base generator made")
    filters: list[Literal["own", "clip"] | None] = Field(description="null: every sampled image was kept")
    filter_models: list[str]
    kept: Span
    sampled: Span
    measures: dict[str, Measurement] = Field(
        description="label fidelity of y and a, corrected, and raw (y_raw, a_raw); memorised_share, fid, kid"
    )
    measured_on: dict[str, list[str]] = Field(description="what memorised_share, fid and kid were measured on")
    generated_only: Estimate = Field(
        description="acc_group_mean of the classifier trained on generated images only, recomputed from its "
        "predictions; as recorded where they were not kept"
    )
    tuning_seconds: float = Field(description="training of the adapters, also when the store held them; mean per run")
    sampling_seconds: float = Field(description="mean per run; 0 where the pool held everything")
    auxiliary_seconds: float = Field(description="classifiers that only cluster or filter images; mean per run")


class TrajectoryPoint(_Part):
    """One generation of an arm over its seeds."""

    generation: int = Field(ge=0, description="0 is the classifier trained on the real data")
    values: dict[str, Estimate] = Field(
        description="conflicting_share: the auditor's, corrected, of the images that joined in this generation, or "
        "exact of real ones; acc_conflicting and acc_group_mean, recomputed; information_y_a in bits; "
        "label_fidelity_y and fid of the generated images, as recorded"
    )


class TrajectorySlope(_Part):
    """Change per generation of a primary quantity: of the least-squares lines of the seeds, averaged."""

    value: float | None
    low: float | None = Field(description="lower end of the 95 % interval: training, and test sampling of accuracies")
    high: float | None
    test_variance: float | None = Field(description="part of the squared standard error from test sampling")
    training_variance: float | None = Field(description="part from seeds and draws")
    p_value: float | None = Field(description="two-sided, of no change")
    adjusted_p_value: float | None = Field(description="by Holm over arms and levels; null where it was not judged")
    verdict: Literal["amplified", "reduced", "not distinguishable", "too few"]
    reason: str | None = Field(description="why it was not judged, or why nothing can be told apart")
    seeds: list[int]
    left_out: list[str] = Field(description="seeds without a value in some generation, and why")


class Trajectory(_Part):
    """One arm of a process on one task and level over its generations and seeds; never ranked."""

    id: str = Field(description="start of the SHA-256 of what makes runs seeds of one arm")
    level: str
    recipe: str
    method: str = Field(description="name@version")
    configuration: Literal["default", "changed", "tuned"]
    changed: dict[str, Any] = Field(description="hyper-parameters that are not the default, and recipe changes")
    hparams: dict[str, Any]
    generator: str | None = Field(description="text-to-image generator; null for generators of the arm's own, or none")
    verification: Level
    seeds: list[int]
    runs: list[str] = Field(description="run ids")
    generations: int = Field(description="generations after the real data's")
    points: list[TrajectoryPoint]
    slopes: dict[str, TrajectorySlope] = Field(description="conflicting_share and acc_conflicting")
    stale: list[str]
    remarks: list[str]


class TaskSection(_Part):
    """One task on the board."""

    task: str = Field(description="name@version")
    superseded_by: str | None = Field(
        default=None, description="the task that took its place; this one then counts in no overall score"
    )
    title: str
    tier: Literal["demo", "core", "extended"]
    ranking_metric: str
    default_level: str
    test_rows: int
    rules: list[RuleSection]
    stages: list[StageRow] = Field(description="at the default level, checkpoint `last`")
    generated: list[GeneratedRow] = Field(description="rows with generated images, in the order of the tables")
    trajectories: list[Trajectory] = Field(description="processes, which stand in no other table")


class Absent(_Part):
    """Runs that are in no table, and why."""

    task: str
    level: str
    method: str
    status: AbsentStatus
    reason: str
    seeds: list[int]


class Board(_Part):
    """A whole board."""

    format_version: int = BOARD_FORMAT
    release: int
    schema_version: str
    metrics_version: int
    runs: int = Field(description="finished runs in the tables")
    data_sets_covered: int = Field(description="tasks outside the demo tier with a ranked row")
    tasks: list[TaskSection]
    absent: list[Absent]
    unmatched_verifications: int = Field(description="entries of verification.json whose record is not among these")
    written_to: str = Field(default="", exclude=True, description="the file that this process wrote; not in JSON")
