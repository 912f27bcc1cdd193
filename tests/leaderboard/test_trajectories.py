"""Loops over their generations: one arm per configuration and level, judged together, and in no other table."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress, t
from typer.testing import CliRunner

from benchmark.cli.leaderboard import app
from benchmark.errors import DamagedFile, InvalidValue, UnknownName, UsageError
from benchmark.evaluation.scoring import labels_of, mixture_of
from benchmark.metrics import versions
from benchmark.metrics.data import TestLabels
from benchmark.metrics.groups import count_groups
from benchmark.metrics.registry import METRICS_VERSION
from benchmark.records.canonical import derive_seed, sha256_file, sha256_of
from benchmark.records.files import temporary_folder
from benchmark.records.predictions import StoredPredictions, write_predictions
from benchmark.records.results import RECORD_FILE, publish_run, read_record
from benchmark.records.schema import (
    CheckpointResult,
    GroupAudit,
    GroupTable,
    MetricValue,
    PoolUse,
    PredictionsFile,
    Record,
    StageResult,
)
from benchmark.tasks.catalog import load_task
from leaderboard.build import collect_trajectories
from leaderboard.charts import arm_label, draw_trajectories
from leaderboard.kept import read_labels
from leaderboard.markdown import render_markdown
from leaderboard.models import Board, Trajectory

ACCEPTED = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits" / "ffr"
TASK = load_task("colorized-digits")
FREE: list[list[None]] = [[None] * 10 for _ in range(10)]
REAL = {"generator": "real"}
"""The null arm that is trained again on the real data."""

Share = Callable[[int, int], float]


def falling(generation: int, seed: int) -> float:
    """A share of conflicting images that falls by a point per generation, more or less."""
    return 0.1 - 0.01 * generation + 0.002 * (-1) ** (seed + generation)


def level_share(generation: int, seed: int) -> float:
    """A share that goes nowhere."""
    return 0.1 + 0.004 * (-1) ** (seed + generation)


def measured(value: float | None, reason: str | None = None) -> MetricValue:
    return MetricValue(value=value, interval="none", reason=reason)


def audit_of(share: float) -> GroupAudit:
    return GroupAudit(
        asked=FREE, raw=FREE, corrected=FREE, low=FREE, high=FREE,
        conflicting=MetricValue(value=share, low=share - 0.01, high=share + 0.01, interval="percentile bootstrap"),
        conflicting_raw=measured(share + 0.02), information_y_a=measured(2.5 - 10 * (share - 0.1)), absent=[],
        extractor="features", neighbours=5, precision=FREE, recall=FREE, density=FREE, coverage=FREE,
    )  # fmt: skip


def pool_of(generation: int, seed: int, share: float, name: str) -> PoolUse:
    return PoolUse(
        pool_id=sha256_of([name, generation, seed]), recipe={"generation": generation}, ranges={},
        rows_sha256="0" * 64, kept=990, sampled=990, seconds=1.0,
        label_fidelity={"y": measured(0.9 - 0.01 * generation)}, quality={"fid": measured(10.0 + generation)},
        groups=audit_of(share),
    )  # fmt: skip


@functools.cache
def accepted(level: str, seed: int) -> tuple[Record, StoredPredictions]:
    """Return an accepted record of ffr with its defaults, and its last answers."""
    found = ((folder, read_record(folder)) for folder in sorted(ACCEPTED.glob(f"{level}-seed{seed}-*")))
    folder, record = next(pair for pair in found if pair[1].method.configuration == "default")
    file = record.stages[-1].checkpoints[0].predictions
    label = read_labels(folder, record, file, rows=file.rows, rows_digest=file.rows_digest)
    assert label is not None
    return record, StoredPredictions(label, np.full(len(label), 0.5, np.float16), file.rows_digest)


@functools.cache
def labels() -> TestLabels:
    """Return the labels of the test, which all levels and draws have in common."""
    return labels_of(TASK, TASK.manifest("0.9", 0))


def stage_of(folder: Path, level: str, seed: int, generation: int, lost: float, *, made: bool) -> StageResult:
    """Write the answers of one generation and return its stage."""
    (base, found), test = accepted(level, seed), labels()
    random = np.random.default_rng(derive_seed(seed=seed, generation=generation))
    misled = (test.y != test.a) & (random.random(len(test)) < lost * generation)
    label = np.where(misled, test.a, found.label).astype(np.uint8)
    file = f"predictions-generation-{generation}-last.parquet"
    write_predictions(folder / file, StoredPredictions(label, found.top_probability, found.rows_digest), 10)
    counts = count_groups(test, label)
    generated = made and generation > 0
    real = np.array(base.task.train_counts)
    table = np.stack([real // 2 if generated else real, np.zeros_like(real)], axis=-1)
    return StageResult(
        name=f"generation-{generation}", steps=400, seconds=1.0, remembered=False, curves=[],
        mixture=mixture_of(table.tolist(), (real.sum(axis=1) // 2).tolist() if generated else [0] * 10),
        checkpoints=[
            CheckpointResult(
                rule="last", track="none", step=400, weights_sha256="0" * 64, metrics={},
                predictions=PredictionsFile(
                    file=file, sha256=sha256_file(folder / file), rows=len(label), rows_digest=found.rows_digest
                ),
                groups=GroupTable(n=counts.n.tolist(), correct=counts.correct.tolist(), low=[], high=[]),
            )
        ],
    )  # fmt: skip


@dataclass
class Loops:
    """Makes records of a loop from accepted ones of ffr: their splits, identities and answers.

    Attributes:
        maker: Publishes further rows and verifies.
    """

    maker: Any

    def arm(
        self, changed: dict[str, Any] | None = None, *, lost: float = 0.04, share: Share = falling, level: str = "0.9",
        seeds: tuple[int, ...] = (0, 1, 2, 3, 4), rounds: int = 5, verified: str | None = "maintained",
        name: str = "acme/loop", change: Callable[[dict[str, Any], int], None] | None = None,
    ) -> list[Record]:  # fmt: skip
        """Publish the seeds of one arm.

        Args:
            changed: Hyper-parameters that are not the default; ``generator=real`` generates nothing.
            lost: Share of the right answers to conflicting images that each generation turns into the colour's digit.
            share: Corrected share of conflicting images by generation and seed.
            level: Bias level.
            seeds: Seeds 0 to 4.
            rounds: Generations after the real data's.
            verified: Level of verification.
            name: Name of the method.
            change: Changes a record's content before it gets its cell_id.
        """
        given = (changed or {}, lost, share, level)
        made = [self._remembered(*given, seed, rounds, name, change) for seed in seeds]
        if verified is not None:
            self.maker.verify([folder for folder, _ in made], verified, commit=made[0][1].environment.git_commit)
        return [record for _, record in made]

    def _remembered(
        self, changed: dict[str, Any], lost: float, share: Share, level: str, seed: int, rounds: int, name: str,
        change: Callable[[dict[str, Any], int], None] | None,
    ) -> tuple[Path, Record]:  # fmt: skip
        """Make each run once and copy it: most tests want the same."""
        if change is not None:
            return self._run(self.maker.results, changed, lost, share, level, seed, rounds, name, change)
        results = self.maker.cache / sha256_of([changed, lost, share.__name__, level, seed, rounds, name])
        if not results.exists():
            self._run(results, changed, lost, share, level, seed, rounds, name, change)
        folder = next(file.parent for file in results.rglob(RECORD_FILE))
        target = self.maker.results / folder.relative_to(results)
        return shutil.copytree(folder, target), read_record(folder)

    @staticmethod
    def _run(
        results: Path, changed: dict[str, Any], lost: float, share: Share, level: str, seed: int, rounds: int,
        name: str, change: Callable[[dict[str, Any], int], None] | None,
    ) -> tuple[Path, Record]:  # fmt: skip
        base, _ = accepted(level, seed)
        pools = (
            [] if changed == REAL else [pool_of(g, seed, share(g, seed), str(changed)) for g in range(1, rounds + 1)]
        )
        hparams = {"mixture": "accumulate", "labels": "prompt", "generator": "from-scratch"} | changed
        method = base.method.model_copy(
            update={
                "name": name, "origin": "plug-in", "package": "acme", "package_version": "1.0", "kind": "process",
                "source_digest": "5" * 64, "hparams": hparams, "hparams_changed": changed, "external_data": [],
                "configuration": "changed" if changed else "default", "uses_generator": False,
            }
        )  # fmt: skip
        allowed = {"synthetic": 990 * rounds, "sampled": 1980 * rounds, "steps": 400 * (rounds + 1)}
        cell = base.cell.model_copy(
            update={"method": f"{name}@1", "hparams": hparams, "generator": None, "budget": allowed}
        )
        total = 990 * len(pools)
        spent = {"synthetic_kept": total, "sampled": total, "steps_used": allowed["steps"]}
        with temporary_folder(results) as folder:
            stages = [stage_of(folder, level, seed, g, lost, made=bool(pools)) for g in range(rounds + 1)]
            content = base.model_dump(mode="json") | {
                "schema_version": "1.3", "method": method.model_dump(mode="json"), "cell": cell.model_dump(mode="json"),
                "stages": [stage.model_dump(mode="json") for stage in stages], "artifacts": {}, "auditors": {},
                "pools": [pool.model_dump(mode="json") for pool in pools],
                "budget": spent | {f"{key}_allowed": value for key, value in allowed.items()},
            }  # fmt: skip
            if change is not None:
                change(content, seed)
            content["cell_id"] = sha256_of(content["cell"])
            content["run_id"] = content["cell_id"][:12]
            record = Record.model_validate(content)
            return publish_run(folder, results, record), record

    def board(self) -> Board:
        """Collect the board."""
        board: Board = self.maker.board()
        return board

    def found(self) -> dict[tuple[str, str], Trajectory]:
        """Collect the board and return its trajectories by level and by what the arm changes."""
        rows = self.board().tasks[0].trajectories
        return {(row.level, ", ".join(f"{k}={v}" for k, v in row.changed.items())): row for row in rows}


@pytest.fixture
def loops(maker, monkeypatch) -> Loops:
    # Records of an older version need no metrics: the board computes them.
    monkeypatch.setattr(versions, "METRICS_VERSION", METRICS_VERSION + 1)
    return Loops(maker)


def conflicting_accuracies(records: list[Record]) -> np.ndarray:
    """Accuracies on conflicting images from the records' integers, [seeds, generations]."""
    off = ~np.eye(10, dtype=bool)
    tables = [[stage.checkpoints[0].groups for stage in record.stages] for record in records]
    return np.array([[(np.array(g.correct) / np.array(g.n))[off].mean() for g in row] for row in tables])


def test_a_process_stands_among_the_trajectories_and_in_no_other_table(loops):
    loops.maker.row("erm", 0.5, level="0.9")
    loops.arm()
    board = loops.board()
    task = board.tasks[0]
    assert [row.method for rule in task.rules for table in rule.tables for row in table.rows] == ["erm@1"] * 3
    assert task.generated == []
    assert {row.method for row in task.stages} <= {"erm@1"}
    (arm,) = task.trajectories
    assert (arm.method, arm.level, arm.configuration, arm.changed) == ("acme/loop@1", "0.9", "default", {})
    assert (arm.verification, arm.seeds, arm.generations, len(arm.runs)) == ("maintained", [0, 1, 2, 3, 4], 5, 5)
    assert (board.runs, board.absent, board.unmatched_verifications) == (10, [], 0)


def test_a_task_with_loops_alone_has_no_table(loops):
    loops.arm()
    task = loops.board().tasks[0]
    assert (task.rules, task.stages, len(task.trajectories)) == ([], [], 1)


def test_points_are_means_over_seeds_with_t_intervals(loops):
    records = loops.arm()
    points = loops.found()["0.9", ""].points
    assert [point.generation for point in points] == [0, 1, 2, 3, 4, 5]
    expected = conflicting_accuracies(records)
    for point, values in zip(points, expected.T, strict=True):
        half = t.ppf(0.975, 4) * values.std(ddof=1) / 5**0.5
        found = point.values["acc_conflicting"]
        assert (found.value, found.low, found.high) == pytest.approx(
            (values.mean(), values.mean() - half, values.mean() + half)
        )
    third = points[3].values
    assert third["conflicting_share"].value == pytest.approx(np.mean([falling(3, seed) for seed in range(5)]))
    assert third["information_y_a"].value == pytest.approx(2.8, abs=0.01)
    assert (third["label_fidelity_y"].value, third["fid"].value) == (pytest.approx(0.87), 13.0)
    assert third["acc_group_mean"].value > third["acc_conflicting"].value


def test_the_real_data_have_an_exact_share(loops):
    records = loops.arm()
    start = loops.found()["0.9", ""].points[0].values
    counts = [np.array(record.task.train_counts) for record in records]
    assert start["conflicting_share"].value == pytest.approx(np.mean([1 - np.trace(n) / n.sum() for n in counts]))
    bits = [record.stages[0].mixture.information_y_a.value for record in records]
    assert start["information_y_a"].value == pytest.approx(np.mean(bits))
    assert start["fid"].reason == start["label_fidelity_y"].reason == "no generated image joined"


def test_the_slopes_are_those_of_the_seeds_lines(loops):
    records = loops.arm()
    slopes = loops.found()["0.9", ""].slopes
    accuracy = [linregress(range(6), row).slope for row in conflicting_accuracies(records)]
    found = slopes["acc_conflicting"]
    assert found.value == pytest.approx(np.mean(accuracy))
    assert found.training_variance == pytest.approx(np.var(accuracy, ddof=1) / 5)
    assert found.test_variance > 0
    real = [1 - np.trace(np.array(record.task.train_counts)) / 990 for record in records]
    shares = [linregress(range(6), [real[s], *(falling(g, s) for g in range(1, 6))]).slope for s in range(5)]
    found = slopes["conflicting_share"]
    assert found.value == pytest.approx(np.mean(shares))
    assert (found.test_variance, found.seeds) == (0, [0, 1, 2, 3, 4])
    half = t.ppf(0.975, 4) * np.std(shares, ddof=1) / 5**0.5
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_arms_are_told_apart_and_judged(loops):
    loops.arm()
    loops.arm({"mixture": "replace"}, lost=0.0, share=lambda g, s: 0.2 - falling(g, s))
    loops.arm({"generator": "identity"}, lost=0.0, share=level_share)
    loops.arm(REAL, lost=0.0)
    found = loops.found()
    verdicts = {name: [slope.verdict for slope in arm.slopes.values()] for (_, name), arm in found.items()}
    assert verdicts == {
        "": ["amplified", "amplified"],
        "mixture=replace": ["reduced", "not distinguishable"],
        "generator=identity": ["not distinguishable", "not distinguishable"],
        "generator=real": ["not distinguishable", "not distinguishable"],
    }
    share = found["0.9", "generator=real"].slopes["conflicting_share"]
    assert (share.value, share.low, share.high, share.p_value) == (0, 0, 0, 1)
    assert share.reason == "constant: no seed's value changes over the generations"
    # The last and least of a family's p values is as it was; all of an arm's are the same number of times smaller.
    assert found["0.9", ""].slopes["conflicting_share"].adjusted_p_value == pytest.approx(
        4 * found["0.9", ""].slopes["conflicting_share"].p_value
    )


@pytest.mark.slow
def test_levels_belong_to_one_family_and_strangers_to_another(loops):
    loops.arm()
    loops.arm(level="0.95", share=level_share)
    before = loops.found()
    slope = before["0.9", ""].slopes["conflicting_share"]
    assert slope.adjusted_p_value == pytest.approx(2 * slope.p_value)
    for arm in ("a", "b"):
        loops.arm({"mixture": arm}, verified=None)
    after = loops.found()
    assert {key: after[key] for key in before} == before
    assert after["0.9", "mixture=a"].verification == "self-reported"
    submitted = after["0.9", "mixture=a"].slopes["conflicting_share"]
    assert submitted.adjusted_p_value == pytest.approx(2 * submitted.p_value)


def test_arms_stand_in_the_order_of_the_cards_levels(loops):
    loops.arm(level="0.99", seeds=(0,))
    loops.arm({"mixture": "replace"}, level="0.9", seeds=(0,))
    loops.arm(level="0.9", seeds=(0,))
    rows = loops.board().tasks[0].trajectories
    assert [(row.level, row.changed) for row in rows] == [("0.9", {}), ("0.9", {"mixture": "replace"}), ("0.99", {})]


def test_a_seed_without_a_value_in_a_generation_is_left_out_and_named(loops):
    def unseen(content, seed):
        if seed == 2:
            content["pools"][3]["groups"] = None

    loops.arm(change=unseen)
    arm = loops.found()["0.9", ""]
    share, accuracy = (arm.slopes[name] for name in ("conflicting_share", "acc_conflicting"))
    assert share.seeds == [0, 1, 3, 4]
    assert share.left_out == ["seed 2: generation 4: no auditor looked at the groups of the pool"]
    assert (share.verdict, share.adjusted_p_value) == ("too few", None)
    assert share.reason == "4 seed(s), at least 5 are needed"
    assert share.value < 0
    # Points average the seeds of the slope, and the other quantity misses nothing.
    expected = np.mean([falling(1, seed) for seed in (0, 1, 3, 4)])
    assert arm.points[1].values["conflicting_share"].value == pytest.approx(expected)
    assert (accuracy.seeds, accuracy.left_out, accuracy.verdict) == ([0, 1, 2, 3, 4], [], "amplified")


def test_without_any_complete_seed_there_is_no_slope(loops):
    loops.arm(change=lambda content, seed: content["pools"][0].update(groups=None), seeds=(0, 1))
    arm = loops.found()["0.9", ""]
    share = arm.slopes["conflicting_share"]
    assert (share.value, share.verdict, share.reason) == (None, "too few", "no seed has a value in every generation")
    assert arm.points[1].values["conflicting_share"].reason == "no auditor looked at the groups of the pool"
    assert arm.points[2].values["conflicting_share"].value is not None


def test_few_seeds_and_short_loops_are_shown_and_not_judged(loops):
    loops.arm({"generations": 3}, rounds=3)
    loops.arm(seeds=(0, 1, 2))
    loops.arm({"mixture": "replace"}, seeds=(0,))
    found = loops.found()
    short = found["0.9", "generations=3"].slopes["conflicting_share"]
    assert (short.verdict, short.reason) == ("too few", "3 generations after the real data's, at least 5 are needed")
    few = found["0.9", ""].slopes["acc_conflicting"]
    assert (few.verdict, few.reason) == ("too few", "3 seed(s), at least 5 are needed")
    assert few.low < few.value < few.high
    one = found["0.9", "mixture=replace"].slopes["acc_conflicting"]
    assert (one.low, one.p_value) == (None, None)
    assert one.value < 0


def test_a_run_that_ends_early_has_no_part_in_the_slope(loops):
    def shorten(content, seed):
        if seed == 4:
            content["stages"].pop()
            content["pools"].pop()
            content["budget"]["steps_used"] -= 400

    loops.arm(change=shorten)
    arm = loops.found()["0.9", ""]
    assert arm.generations == 5
    assert arm.slopes["acc_conflicting"].left_out == ["seed 4: generation 5: the run ends at generation 4"]


def test_what_is_no_loop_is_left_out_with_the_reason(loops):
    loops.arm(seeds=(0,), change=lambda content, seed: content["stages"][2].update(name="after"))
    loops.arm(seeds=(1,), change=lambda content, seed: content["pools"][2]["recipe"].update(generation=1))
    board = loops.board()
    assert board.tasks == []
    assert [(each.status, each.seeds) for each in board.absent] == [("left out", [1]), ("left out", [0])]
    assert board.absent[0].reason == "each pool of a process belongs to one generation of 1 to 5; one says 1"
    assert board.absent[1].reason.startswith("the stages of a process are generation-0, generation-1 and so on, not")


@pytest.mark.parametrize(("part", "value"), [("conflicting", 1.2), ("information_y_a", 4.0)])
def test_a_number_that_cannot_be_is_refused(loops, part, value):
    loops.arm(seeds=(0,), change=lambda content, seed: content["pools"][0]["groups"][part].update(value=value))
    with pytest.raises(DamagedFile, match=f"is {value}, outside of 0 to"):
        loops.board()


def test_seeds_that_share_pools_are_said(loops):
    loops.arm(change=lambda content, seed: [pool.update(pool_id="0" * 64) for pool in content["pools"]])
    arm = loops.found()["0.9", ""]
    assert arm.remarks == [
        "some of its seeds share pools of generated images, whose variance is not in the interval"
    ]  # fmt: skip


# --- LEADERBOARD.md --------------------------------------------------------------------------------------------------


def section(text: str) -> list[str]:
    """Return the lines of the section."""
    start = text.index("#### colorized-digits@1, bias over generations")
    return text[start : text.index("\n## ", start)].splitlines()


def grid(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_board_has_a_section_of_verdicts_and_generations(loops):
    loops.arm()
    loops.arm(REAL, lost=0.0, seeds=(0, 1))
    loops.maker.row("erm", 0.5, level="0.9")
    text = render_markdown(loops.board())
    assert "**Board release 1** · 12 runs of 2 methods" in text
    lines = section(text)
    rows = grid(lines)
    assert rows[0] == [
        "Bias level", "Method", "Generator", "Verification", "Seeds", "Generations",
        "conflicting images: points per generation", "conflicting images: verdict (p)",
        "acc_conflicting: points per generation", "acc_conflicting: verdict (p)", "Notes",
    ]  # fmt: skip
    main, real = (dict(zip(rows[0], row, strict=True)) for row in rows[2:4])
    assert main["Method"] == "acme/loop@1"
    assert re.fullmatch(r"-1\.\d\d \[-1\.\d\d, -1\.\d\d\]", main["conflicting images: points per generation"])
    assert re.fullmatch(r"amplified \(<0\.001\)", main["acc_conflicting: verdict (p)"])
    assert real["Method"] == "acme/loop@1 (generator=real)"
    assert real["conflicting images: points per generation"] == "0.00 [0.00, 0.00]"
    assert real["conflicting images: verdict (p)"] == "too few (a)"
    assert "- a: 2 seed(s), at least 5 are needed" in lines
    points = [row for row in rows if row[:2] == ["0.9", "acme/loop@1"] and len(row) == 10]
    assert [row[3] for row in points] == [
        "conflicting images %", "acc_conflicting %", "acc_group_mean %", "I(Y;A) bits", "y shown %", "FID",
    ]  # fmt: skip
    assert points[4][4:7] == ["–", "89.0 [89.0, 89.0]", "88.0 [88.0, 88.0]"]
    assert any(line.startswith("How to read it: ") and "Caveat: " in line for line in lines)


def test_hostile_names_stay_in_their_cell(loops):
    hostile = "x|y\n| 1 | <script>alert(1)</script> **b** [l](http://evil.example)\u202e$x_1$"
    loops.arm({hostile: hostile}, seeds=(0,), name="acme/x|<b>")
    board = loops.board()
    rows = grid(section(render_markdown(board)))
    assert {len(row) for row in rows} == {11, 10}
    assert len([row for row in rows if len(row) == 11]) == 3
    text = draw_trajectories({"t": board.tasks[0].trajectories}, ".svg").decode()
    assert "<script>" not in text
    assert "\u202e" not in text


def test_trajectories_survive_json(loops):
    loops.arm(seeds=(0, 1))
    board = loops.board()
    assert Board.model_validate_json(board.model_dump_json()) == board
    assert json.loads(board.model_dump_json())["tasks"][0]["trajectories"][0]["points"][5]["generation"] == 5


# --- the chart and the command ---------------------------------------------------------------------------------------


@pytest.fixture
def several(loops) -> dict[str, list[Trajectory]]:
    loops.arm(seeds=(0, 1))
    loops.arm({"mixture": "replace"}, lost=0.0, share=level_share, seeds=(0, 1), verified=None)
    loops.arm(REAL, lost=0.0, seeds=(0,), level="0.95")
    found, absent = collect_trajectories([loops.maker.results], verification=loops.maker.verification)
    assert absent == []
    return found


def test_the_chart_has_the_same_bytes_each_time_and_plain_text(several):
    drawn = draw_trajectories(several, ".svg")
    assert drawn == draw_trajectories(several, ".svg")
    text = drawn.decode()
    assert not re.search(r"<dc:date>|Matplotlib v", text)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {
        "colorized-digits@1, level 0.9", "colorized-digits@1, level 0.95", "acme/loop@1",
        "acme/loop@1: mixture=replace (self-reported)", "acme/loop@1: generator=real", "generation (0: real data)",
    } <= set(words)  # fmt: skip


def test_the_chart_is_900_pixels_wide(several):
    drawn = draw_trajectories(several, ".png")
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(drawn[16:20]) == 900
    assert b"Matplotlib" not in drawn


def test_a_chart_without_arms_or_with_another_suffix_is_refused(several):
    with pytest.raises(InvalidValue, match="no trajectory to draw"):
        draw_trajectories({}, ".svg")
    with pytest.raises(InvalidValue, match=r"has the suffix .svg or .png, not '.pdf'"):
        draw_trajectories(several, ".pdf")


def test_labels_of_arms_are_one_line_of_bounded_length(several):
    arm = several["colorized-digits@1"][0]
    long = arm.model_copy(update={"changed": {"a\nb": "c" * 500}, "generator": "tiny-sd@20e4098"})
    assert arm_label(long).startswith("acme/loop@1: a b=ccc")
    assert len(arm_label(long)) == 120


def test_the_command_prints_slopes_and_writes_the_chart(loops, tmp_path):
    loops.arm(verified=None)
    loops.arm(REAL, lost=0.0, verified=None, level="0.95")
    chart = tmp_path / "new" / "loops.svg"
    command = ["trajectories", "--results-dir", str(loops.maker.results), "--level", ".9", "--chart", str(chart)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    header, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(line[1], line[2], line[5], line[9]) for line in lines] == [
        ("0.9", "acme/loop@1 (self-reported)", "conflicting_share", "amplified"),
        ("0.9", "acme/loop@1 (self-reported)", "acc_conflicting", "amplified"),
    ]
    assert re.fullmatch(r"-1\.\d\d", dict(zip(header, lines[0], strict=True))["points per generation"])
    text = chart.read_text()
    assert "level 0.9<" in text
    assert "level 0.95" not in text
    both = CliRunner().invoke(app, ["trajectories", "--results-dir", str(loops.maker.results), "--json"])
    assert [arm["level"] for arm in json.loads(both.stdout)["colorized-digits@1"]] == ["0.9", "0.95"]


def test_the_command_says_what_there_is_not(loops, tmp_path):
    def error(*words: str) -> BaseException | None:
        return CliRunner().invoke(app, ["trajectories", "--results-dir", str(loops.maker.results), *words]).exception

    loops.maker.row("erm", 0.5, seeds=1)
    assert isinstance(error(), UsageError)
    assert "no finished run of a process" in str(error())
    loops.arm(seeds=(0,))
    assert isinstance(error("--task", "utkface"), UnknownName)
    assert isinstance(error("--level", "0.99"), UnknownName)
    assert isinstance(error("--chart", str(tmp_path / "x.pdf")), InvalidValue)
    shutil.rmtree(loops.maker.results)
    assert isinstance(error(), DamagedFile)
