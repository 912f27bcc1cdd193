"""Runs are gathered into the seeds of one row: what must be equal, and what is left out."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from benchmark.contract.tracks import Track
from benchmark.records.canonical import sha256_of
from benchmark.records.generations import PROCESS
from benchmark.records.schema import CheckpointResult
from leaderboard.answers import Answers, Split
from leaderboard.claims import foreign_changes, recipe_of
from leaderboard.load import Run


@dataclass(frozen=True, eq=False)
class Scored:
    """A run with its split and the answers of all its checkpoints."""

    run: Run
    split: Split
    answers: dict[tuple[int, str], Answers]

    def checkpoint(self, rule: str) -> CheckpointResult | None:
        """Return the ranked checkpoint under a rule, if the method has one."""
        return next((c for c in self.run.record.ranked_stage.checkpoints if c.rule == rule), None)

    @functools.cached_property
    def configuration(self) -> dict[str, Any]:
        """What must be equal in the seeds of one row, besides rule and track."""
        cell, method = self.run.record.cell, self.run.record.method
        return {
            "task": cell.task,
            "level": cell.level,
            "method": cell.method,
            "origin": [method.origin, method.package],
            "hparams": cell.hparams,
            "configuration": method.configuration,
            "generator": cell.generator,
            "backbone": [cell.backbone, cell.backbone_weights],
            "training": cell.training,
            # B may differ between draws, so only a budget that is not the protocol's makes another row.
            "budget": None if self.standard_budget else cell.budget,
            "oracle": method.oracle,
            "verification": self.run.level,
            # Left out where there is none: rows keep the identity that they had before there was any.
            **({} if cell.tuning is None else {"tuning": cell.tuning}),
        }

    @functools.cached_property
    def standard_budget(self) -> bool:
        """Whether the budget is the protocol's."""
        record, card = self.run.record, self.split.task.card
        budget, own = replace(self.split.budget, steps=card.recipe(recipe_of(record, card)).steps), record.cell.budget
        if record.method.kind == PROCESS:
            # The rounds are a hyper-parameter; those that the steps tell must be those that the images tell.
            budget = budget.for_process(images=record.task.n_train, rounds=own["steps"] // budget.steps - 1)
        return own == {"synthetic": budget.synthetic, "sampled": budget.sampled, "steps": budget.steps}

    def ranked_answers(self, rule: str) -> Answers:
        """Return the answers of the last stage's checkpoint under a rule."""
        return self.answers[len(self.run.record.stages) - 1, rule]


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that are seeds of one row, one per seed, in the order of seeds."""

    id: str
    track: Track
    rule: str
    runs: list[Scored]
    repeated: int = 0

    @property
    def first(self) -> Scored:
        """Any of the runs: what makes a row is equal in all."""
        return self.runs[0]

    @property
    def answers(self) -> list[Answers]:
        """The ranked answers of each seed."""
        return [scored.ranked_answers(self.rule) for scored in self.runs]

    def values(self, metric: str) -> list[float | None]:
        """Return one metric per seed."""
        return [answers.values[metric] for answers in self.answers]


def group_runs(runs: Iterable[Scored], rule: str) -> list[Group]:
    """Gather the runs of one task and level that are seeds of one row under one rule.

    Runs of different verification levels are different rows: a stranger's further seed changes no maintained row.
    """
    gathered: dict[str, list[Scored]] = defaultdict(list)
    tracks: dict[str, Track] = {}
    for scored in runs:
        checkpoint = scored.checkpoint(rule)
        if checkpoint is None:
            continue
        key = _row_key(scored, checkpoint)
        gathered[key].append(scored)
        tracks[key] = Track(checkpoint.track)
    groups = []
    for key, members in sorted(gathered.items()):
        seeds: dict[int, Scored] = {}
        for scored in sorted(members, key=lambda member: member.run.attempt):
            seeds.setdefault(scored.run.record.seed, scored)
        kept = [seeds[seed] for seed in sorted(seeds)]
        groups.append(Group(key[:12], tracks[key], rule, kept, len(members) - len(kept)))
    return groups


def _row_key(scored: Scored, checkpoint: CheckpointResult) -> str:
    return sha256_of({**scored.configuration, "rule": checkpoint.rule, "track": checkpoint.track})


def standard_recipe(scored: Scored) -> bool:
    """Return whether a run used the task's training recipe, or tuned it by the rules, and its budget.

    Only such runs are compared.
    """
    return not foreign_changes(scored.run.record, scored.split.task.card) and scored.standard_budget
