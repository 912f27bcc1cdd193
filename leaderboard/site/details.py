"""What the page tells of a row when it is opened: compact JSON, in which every text stands once.

Rows of one training under different selection rules share their details. A block is ``[kind, title, content]``, where
texts are numbers of the text in ``texts``; the script only lays blocks out:

* ``p``: lines; ``l``: links; ``k``: pairs of name and value; ``t``: ``[heads, rows]``; ``c``: a text to copy; ``i``:
  ``[alt, source]``;
* ``g``: accuracies by group: ``[task, values]``, values being mean and half the interval of each group in turn, in
  units of 1 / ``scale`` percent; -1 as half stands for no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark.audits.markup import hundredths, tenths_of_percent
from benchmark.contract.tracks import Track
from benchmark.metrics.across_seeds import mean_over_seeds
from benchmark.metrics.data import TestLabels
from benchmark.tasks.catalog import find_card
from leaderboard.answers import populated_accuracies
from leaderboard.claims import in_tree_card
from leaderboard.groups import Group, Scored
from leaderboard.models import Board, GeneratedRow, Row, StageSummary
from leaderboard.site import text
from leaderboard.site.pictures import Picture
from leaderboard.site.text import plain
from leaderboard.stages import BY_STAGE, INFORMATION, PROBES, stage_summaries
from leaderboard.submission import Submission

_FEW_GROUPS = 20
"""Up to so many, accuracies of groups have a decimal."""
_MOST_RUNS = 12
_BIBTEX = 4_000

Block = list[Any]


@dataclass
class Details:
    """The details of all rows.

    Attributes:
        of_row: Number of the details of each row, by the row's id.
        blocks: The details.
    """

    of_row: dict[str, int] = field(default_factory=dict)
    blocks: list[list[Block]] = field(default_factory=list)
    _texts: dict[str, int] = field(default_factory=dict)
    _tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Return what the page holds, as JSON has it."""
        return {"texts": list(self._texts), "tasks": self._tasks, "details": self.blocks}

    def text(self, value: str) -> int:
        """Return the number of a text."""
        return self._texts.setdefault(value, len(self._texts))

    def texts(self, values: Sequence[str]) -> list[int]:
        """Return the numbers of some texts."""
        return [self.text(value) for value in values]

    def lines(self, title: str, values: Sequence[str]) -> list[Block]:
        """Return a block of lines, or nothing."""
        return [["p", self.text(title), self.texts(values)]] if values else []

    def links(self, title: str, addresses: Sequence[str]) -> list[Block]:
        """Return a block of links, or nothing; the script makes a link of what begins with https only."""
        return [["l", self.text(title), self.texts(addresses)]] if addresses else []

    def pairs(self, title: str, values: Sequence[tuple[str, str]]) -> list[Block]:
        """Return a block of names and values, or nothing."""
        return [["k", self.text(title), [self.texts(pair) for pair in values]]] if values else []

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Block]:
        """Return a table."""
        return [["t", self.text(title), [self.texts(heads), [self.texts(row) for row in rows]]]]

    def to_copy(self, title: str, value: str) -> list[Block]:
        """Return a block of a text to copy, or nothing."""
        return [["c", self.text(title), self.text(value)]] if value else []

    def picture(self, found: Picture | None) -> list[Block]:
        """Return a picture, or nothing."""
        return (
            [["i", self.text("Generated beside real images"), self.texts([found.alt, found.source])]] if found else []
        )

    def groups(self, title: str, task: str, test: TestLabels, group: Group, values: list[int]) -> list[Block]:
        """Return a block of accuracies by group."""
        if task not in self._tasks:
            self._tasks[task] = self._names(test, group)
        return [["g", self.text(title), [self.text(task), values]]]

    def _names(self, test: TestLabels, group: Group) -> dict[str, Any]:
        """Return which label and attribute each value of a task's groups is of, and whether they are aligned."""
        card = find_card(group.first.run.record.cell.task).task
        present, values = group.first.split.sizes.reshape(test.n_classes, test.n_attributes) > 0, card.attribute.values
        return {
            "label": self.text(card.label.name),
            "attribute": self.text(card.attribute.name),
            "labels": self.texts([plain(value) for value in card.label.values]),
            "attributes": self.texts([plain(value) for value in values]),
            "places": [[int(a) for a in np.flatnonzero(row)] for row in present],
            "aligned": [values.index(value) for value in card.aligned],
            "scale": _scale(int(present.sum())),
        }


def _scale(groups: int) -> int:
    return 10 if groups <= _FEW_GROUPS else 1


def details_of(
    board: Board, runs: Sequence[Scored], pictures: Mapping[str, Picture], submissions: Mapping[str, Submission]
) -> Details:
    """Gather the details of all rows.

    Args:
        board: The board.
        runs: The runs that it was built from.
        pictures: Pictures by run id.
        submissions: What submitters say about their methods, by ``name@version``.
    """
    by_run: dict[tuple[str, str], Scored] = {}
    for scored in sorted(runs, key=lambda each: each.run.attempt):
        by_run.setdefault((scored.run.record.run_id, scored.run.level), scored)
    details = Details()
    known: dict[tuple[str, ...], int] = {}
    for task in board.tasks:
        generated = {row.row: row for row in task.generated}
        for section in task.rules:
            for row in (row for table in section.tables for row in table.rows):
                key = (row.verification, *row.runs)
                if key not in known:
                    members = [by_run[run, row.verification] for run in row.runs]
                    group = Group(row.id, Track(row.track), section.rule, members)
                    known[key] = len(details.blocks)
                    picture = next((pictures[run] for run in row.runs if run in pictures), None)
                    details.blocks.append(
                        _blocks(details, row, group, generated.get(row.id), picture, submissions.get(row.method))
                    )
                details.of_row[row.id] = known[key]
    return details


def _blocks(
    details: Details,
    row: Row,
    group: Group,
    generated: GeneratedRow | None,
    picture: Picture | None,
    submission: Submission | None,
) -> list[Block]:
    summaries = stage_summaries(group, BY_STAGE)
    card = in_tree_card(group.first.run.record.method.name)
    cited = card.citation if card is not None else submission.citation if submission is not None else ""
    return [
        *details.pairs("Submitted", [] if submission is None else _submitted(submission)),
        *details.links("Links", [] if submission is None else submission.links),
        *_stages(details, summaries),
        *_groups(details, group),
        *details.pairs("Generated images", [] if generated is None else _generated(generated)),
        *details.picture(picture),
        *details.pairs("Hyper-parameters", text.pairs(row.hparams)),
        *details.lines("External data", [plain(each, 300) for each in row.external_data]),
        *details.pairs("Cost of a run, on average", _cost(row, group)),
        *details.pairs("Where it comes from", _provenance(row, group)),
        *details.to_copy("Citation", text.several_lines(cited, _BIBTEX)),
    ]


def _submitted(submission: Submission) -> list[tuple[str, str]]:
    pairs = [("title", plain(submission.title)), ("by", plain(", ".join(submission.authors), 1_000))]
    return pairs + [("note", plain(submission.note, 2_000))] * bool(submission.note)


def _stages(details: Details, summaries: Sequence[StageSummary]) -> list[Block]:
    """Return a table with a column for each stage."""
    heads = ["stage", *(plain(stage.name) for stage in summaries)]
    rows = [
        ["optimiser steps", *(text.span(stage.steps) for stage in summaries)],
        ["real images", *(text.NONE if s.real is None else text.span(s.real) for s in summaries)],
        ["generated images", *(text.NONE if s.generated is None else text.span(s.generated) for s in summaries)],
    ]
    for name in BY_STAGE:
        shown = [text.with_ends(stage.metrics[name], text.show_metric(name)) for stage in summaries]
        rows.append([text.metric_head(name), *shown])
    for name, label in zip(INFORMATION, ("I(Y;A) bits", "I(Y;(A,G)) bits"), strict=True):
        rows.append([label, *(text.with_ends(stage.information[name], hundredths) for stage in summaries)])
    for name in PROBES:
        if any(name in stage.probes for stage in summaries):
            found = [stage.probes.get(name) for stage in summaries]
            shown = [text.NONE if each is None else text.with_ends(each, tenths_of_percent) for each in found]
            rows.append([f"probe of {name.upper()} %", *shown])
    kept = [line for line in rows if set(line[1:]) != {text.NONE}]
    return details.table("Stages, at their last step", heads, kept)


def _groups(details: Details, group: Group) -> list[Block]:
    """Return the accuracies by group of each stage, and of the last stage's other checkpoints where they differ."""
    record, test = group.first.run.record, group.first.split.labels
    task, blocks, last = plain(record.cell.task), [], len(record.stages) - 1
    names = [stage.name for stage in record.stages]
    same = [each for each in group.runs if [stage.name for stage in each.run.record.stages] == names]
    for position, stage in enumerate(record.stages):
        seen: list[list[int]] = []
        for rule in sorted({checkpoint.rule for checkpoint in stage.checkpoints}):
            answers = [each.answers[position, rule] for each in same if (position, rule) in each.answers]
            values = _accuracies(populated_accuracies(answers))
            if values in seen or (rule != "last" and position < last):
                continue
            seen.append(values)
            title = f"Accuracy by group, %: stage {plain(stage.name)}"
            title += f", checkpoint {rule}" * (rule != "last")
            blocks += details.groups(title, task, test, group, values)
    return blocks


def _accuracies(found: tuple[Any, Any]) -> list[int]:
    shares, sizes = found[0][:, found[1] > 0], found[1]
    scale = 100 * _scale(int((sizes > 0).sum()))
    half = _half_widths(shares)
    pairs = np.stack([np.rint(scale * shares.mean(axis=0)), np.where(np.isnan(half), -1, np.rint(scale * half))])
    return [int(value) for value in pairs.T.ravel()]


def _half_widths(shares: Any) -> Any:
    """Return half the t interval over seeds of each group, float [groups]."""
    if len(shares) < 2:
        return np.full(shares.shape[1], np.nan)
    # The interval of a unit spread, times each group's spread: thousands of groups cost one quantile.
    unit = np.zeros(len(shares))
    unit[0] = 1.0
    found = mean_over_seeds(unit)
    half = (found.high or 0.0) - (found.value or 0.0)
    return half / unit.std(ddof=1) * shares.std(axis=0, ddof=1)


def _generated(row: GeneratedRow) -> list[tuple[str, str]]:
    kinds = " + ".join("as it is" if kind is None else plain(kind) for kind in row.tuning)
    filters = " + ".join("none" if kind is None else kind for kind in row.filters)
    measures = {
        "label shown %": ("y", tenths_of_percent),
        "attribute shown %": ("a", tenths_of_percent),
        "memorised %": ("memorised_share", tenths_of_percent),
        "FID": ("fid", text.figures),
        "KID": ("kid", text.figures),
    }
    pairs = [
        ("generator", f"{kinds}, {text.span(row.adapters)} adapters" if row.adapters.high else kinds),
        ("filter", _filtered(filters, row.filter_models)),
        ("kept of sampled", f"{text.span(row.kept)} of {text.span(row.sampled)}"),
    ]
    for label, (name, show) in measures.items():
        found = row.measures[name]
        value = text.with_ends(found, show) if found.value is not None else plain(found.reason or "not measured")
        pairs.append((label, value))
    alone = row.generated_only
    if alone.value is not None:
        pairs.append(("trained on them alone: acc_group_mean %", text.with_ends(alone, tenths_of_percent)))
    return pairs


def _filtered(kinds: str, models: Sequence[str]) -> str:
    more = [f"and {len(models) - 1} more, one for each split"] if len(models) > 1 else []
    return "; ".join([kinds, *map(plain, models[:1]), *more])


def _cost(row: Row, group: Group) -> list[tuple[str, str]]:
    costs = [each.run.record.cost for each in group.runs]
    known = [cost for cost in costs if cost is not None]
    joules = [cost.energy_joules.value for cost in known if cost.energy_joules.value is not None]
    peaks = {
        "most memory": max((cost.peak_memory_bytes or 0 for cost in known), default=0),
        "most device memory": max((cost.peak_device_memory_bytes or 0 for cost in known), default=0),
    }
    pairs = [
        ("training", f"{text.seconds(row.cost.training_seconds)} s"),
        ("generator, where it was not at hand", f"{text.seconds(row.cost.generator_seconds)} s"),
        ("in all", f"{text.seconds(float(np.mean([cost.wall_seconds for cost in known])))} s"),
    ]
    pairs += [(name, f"{peak / 2**30:,.1f} GiB") for name, peak in peaks.items() if peak]
    if joules:
        pairs.append(("energy", f"{float(np.mean(joules)) / 3.6e6:.3g} kWh"))
    return pairs


def _provenance(row: Row, group: Group) -> list[tuple[str, str]]:
    records = [each.run.record for each in group.runs]
    where = [record.environment for record in records]
    commits = {f"{each.git_commit or 'unknown'}{' with changes' * bool(each.git_dirty)}" for each in where}
    isolated = {each.isolation.test_split_absent for each in records}
    runs = [plain(run) for run in row.runs[:_MOST_RUNS]] + ["…"] * (len(row.runs) > _MOST_RUNS)
    said = {True: "without the test split", False: "test split within reach"}
    return [
        ("runs", " ".join(runs)),
        ("seeds; draws", f"{_numbers(row.seeds)}; {_numbers(row.draws)}"),
        ("commit", plain(", ".join(sorted(commits)))),
        ("package", plain(", ".join(sorted({f"{m.package} {m.package_version}" for m in _methods(records)})))),
        ("code of the method", plain(", ".join(sorted({m.source_digest[:12] for m in _methods(records)})))),
        ("device", plain("; ".join(sorted({f"{each.device}, {each.precision}" for each in where})))),
        ("system", plain("; ".join(sorted({f"{each.system}, Python {each.python}" for each in where})))),
        ("trained", " / ".join(said[each] for each in sorted(isolated))),
        ("split", " ".join(sorted({record.cell.split_digest[:12] for record in records}))),
    ]


def _methods(records: Sequence[Any]) -> list[Any]:
    return [record.method for record in records]


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:_MOST_RUNS])) + " …" * (len(values) > _MOST_RUNS)
