"""Image sets of a few pixels, and tools that do what they are asked without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from benchmark.contract.budget import Budget, Plan
from benchmark.contract.generation import Filter, FineTuning, Invertible, OwnGenerator
from benchmark.contract.images import GroupNames, ImageSet, MethodData
from benchmark.contract.tracks import Track

NAMES = GroupNames(("cat", "dog", "owl"), ("day", "night"))
COUNTS = np.array([[6, 1], [0, 5], [2, 4]])
"""Training images per group; one group is empty."""


def images_of(
    groups: Sequence[tuple[int, int]],
    *,
    needs: Track = Track.TRAIN,
    granted: Track = Track.NONE,
    synthetic: bool = False,
) -> ImageSet:
    """One image of 2×2 per group named; its pixels tell its position."""
    y = np.array([label for label, _ in groups], dtype=np.int64)
    a = np.array([attribute for _, attribute in groups], dtype=np.int64)
    pixels = np.repeat(np.arange(len(groups), dtype=np.uint8), 12).reshape(-1, 2, 2, 3)
    return ImageSet(pixels, y, np.full(len(y), synthetic), NAMES, needs, granted, a)


def groups_of(counts: np.ndarray) -> list[tuple[int, int]]:
    """Every group as often as counted."""
    return [(y, a) for y in range(counts.shape[0]) for a in range(counts.shape[1]) for _ in range(counts[y, a])]


def data_of(granted: Track) -> MethodData:
    """A small biased training split and a validation split."""
    return MethodData(
        images_of(groups_of(COUNTS), granted=granted),
        images_of([(0, 0), (1, 1)], needs=Track.VALIDATION_TRAINS, granted=granted),
    )


@dataclass
class RecordingTools:
    """Lends a budget, hands out grey images by plan, reads group labels where the harness would, and takes notes.

    Attributes:
        granted: The track that the method declared.
        wrong: Positions in the training set that :meth:`predict` gets wrong.
        plans: What images were asked for.
        wishes: How generated images were asked for: fine-tuning and filter.
        own: Which own generators were trained, with which filter, and on how many images.
        generations: For which generation images were made, and which model gave them labels.
        trainings: What was trained, and how.
        refits: Each refit of a last layer: the model and the number of images.
        notes: What the method said.
    """

    granted: Track
    wrong: tuple[int, ...] = ()
    plans: list[dict[Any, int]] = field(default_factory=list)
    wishes: list[tuple[FineTuning | None, Filter]] = field(default_factory=list)
    own: list[tuple[OwnGenerator, Filter, int]] = field(default_factory=list)
    generations: list[tuple[int, str | None]] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)
    refits: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def budget(self) -> Budget:
        return Budget.of(COUNTS, per_real=Fraction(2), steps=100, allowed=np.ones((3, 2), dtype=bool))

    def synthesize(
        self,
        data: MethodData,
        *,
        plan: Plan,
        tuning: FineTuning | None = None,
        keep: Filter = "none",
        generation: int = 0,
        labels: str | None = None,
    ) -> ImageSet:
        if tuning is not None and tuning.per != "class":
            assert data.train.a.min() >= -1
        self.wishes.append((tuning, keep))
        return self._made(plan, generation, labels)

    def generate(
        self,
        images: ImageSet,
        *,
        plan: Plan,
        model: OwnGenerator,
        keep: Filter = "none",
        generation: int = 0,
        labels: str | None = None,
    ) -> ImageSet:
        if isinstance(model, Invertible) or getattr(model, "condition", "class") == "group":
            assert images.a.min() >= -1
        self.own.append((model, keep, len(images)))
        return self._made(plan, generation, labels)

    def _made(self, plan: Plan, generation: int, labels: str | None) -> ImageSet:
        self.budget.check(plan)
        self.plans.append(dict(plan))
        self.generations.append((generation, labels))
        groups = [(y, -1 if a is None else a) for (y, a), n in plan.items() for _ in range(n)]
        return images_of(groups, needs=Track.NONE, granted=self.granted, synthetic=True)

    def seed(self, purpose: str) -> int:
        return len(purpose)

    def copies(self, images: ImageSet, *, plan: Plan) -> ImageSet:
        self.plans.append(dict(plan))
        chosen = [
            int(np.flatnonzero((images.y == y) & (images.a == a))[0]) for (y, a), n in plan.items() for _ in range(n)
        ]
        return images.take(chosen)

    def reserve(self, *, plan: Plan) -> ImageSet:
        self.budget.check(plan)
        self.plans.append(dict(plan))
        groups = [group for group, n in plan.items() for _ in range(n)]
        # Two fewer than asked for, as where a group runs out.
        return images_of(groups[:-2], granted=self.granted, synthetic=True)

    def train(self, images: ImageSet, **options: Any) -> str:
        if options.get("loss", "erm") != "erm":
            assert images.a.min() >= 0
        self.trainings.append({"n": len(images), "synthetic": int(images.synthetic.sum()), **options})
        return f"model {len(self.trainings)}"

    def refit_last_layer(self, model: str, images: ImageSet) -> str:
        assert images.a.min() >= 0
        self.refits.append((model, len(images)))
        return f"{model} with another last layer"

    def predict(self, model: str, images: ImageSet) -> np.ndarray:
        del model
        answers = images.y.copy()
        answers[list(self.wrong)] = (answers[list(self.wrong)] + 1) % len(NAMES.labels)
        return answers

    def note(self, message: str) -> None:
        self.notes.append(message)


@dataclass(frozen=True)
class Contract:
    """What the tests of this folder share."""

    names = NAMES
    counts = COUNTS
    images_of = staticmethod(images_of)
    data_of = staticmethod(data_of)
    groups_of = staticmethod(groups_of)
    tools = RecordingTools


@pytest.fixture(scope="session")
def contract() -> Contract:
    """Small sets and recording tools."""
    return Contract()
