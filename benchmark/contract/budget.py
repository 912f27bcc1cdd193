"""Budgets (protocol §4) and plans: how many generated images of which group, the same total for every method."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.contract.images import ImageSet
from benchmark.errors import BudgetExceeded, InvalidValue
from benchmark.tasks.levels import round_half_up

Group = tuple[int, int | None]
"""``(y, a)``; ``a`` is None where images are asked for by class alone."""

Plan = Mapping[Group, int]
"""How many generated images of each group."""


def usb_total(counts: NDArray[np.int64]) -> int:
    """Return how many images fill every group up to the largest (USB, Qraitem 2024)."""
    return int((counts.max() - counts).sum())


@dataclass(frozen=True)
class Budget:
    """What a method may spend on one task and level.

    Attributes:
        synthetic: B, the generated images that may be kept.
        steps: Optimiser steps over all stages.
        n_classes: Number of labels.
        n_attributes: Number of attribute values.
        allowed: Which pairs (y, a) are comparable groups of the task, bool [classes, attributes].
    """

    synthetic: int
    steps: int
    n_classes: int
    n_attributes: int
    allowed: tuple[tuple[bool, ...], ...]

    @property
    def sampled(self) -> int:
        """Images that may be sampled so that B can be kept."""
        return 2 * self.synthetic

    @property
    def groups(self) -> list[tuple[int, int]]:
        """All comparable groups, populated or not, in index order."""
        return [(y, a) for y in range(self.n_classes) for a in range(self.n_attributes) if self.allowed[y][a]]

    def for_process(self, *, images: int, rounds: int) -> Budget:
        """Return what a process may spend: in each round as many images, and once more all optimiser steps.

        Args:
            images: Real training images; a round may make as many.
            rounds: Rounds of generating; one classifier is trained before the first and one after each.
        """
        return replace(self, synthetic=images * rounds, steps=self.steps * (rounds + 1))

    @classmethod
    def of(cls, counts: NDArray[np.int64], *, per_real: Fraction, steps: int, allowed: NDArray[np.bool_]) -> Budget:
        """Compute B = min(USB total, per_real·N) from the training counts (the harness's, not the method's)."""
        masked = np.where(allowed, counts, counts.max())
        synthetic = min(usb_total(masked), round_half_up(per_real * int(counts.sum())))
        rows = tuple(tuple(bool(v) for v in row) for row in allowed)
        return cls(synthetic, steps, counts.shape[0], counts.shape[1], rows)

    def balanced(self) -> Plan:
        """``add``: the same number for every group (ASB with USB's total); a remainder goes to the first groups."""
        share, rest = divmod(self.synthetic, len(self.groups))
        return {group: share + (k < rest) for k, group in enumerate(self.groups) if share + (k < rest)}

    def balanced_by_class(self) -> Plan:
        """``add`` with class-only prompts: the same number for every class."""
        share, rest = divmod(self.synthetic, self.n_classes)
        return {(y, None): share + (y < rest) for y in range(self.n_classes) if share + (y < rest)}

    def fill(self, train: ImageSet, *, populated_only: bool = False) -> Plan:
        """``fill``: add to the smallest group until B is spent (USB); reads group counts, so track ``train``.

        Args:
            train: The real training images.
            populated_only: Leave out groups without a real image (for methods that copy).
        """
        counts = train.group_counts
        heap = [(int(counts[y, a]), y, a) for y, a in self.groups if counts[y, a] > 0 or not populated_only]
        heapq.heapify(heap)
        plan: dict[Group, int] = {}
        for _ in range(self.synthetic if heap else 0):
            size, y, a = heap[0]
            plan[y, a] = plan.get((y, a), 0) + 1
            heapq.heapreplace(heap, (size + 1, y, a))
        return dict(sorted(plan.items()))

    def fill_by_class(self, train: ImageSet) -> Plan:
        """``fill`` with class-only prompts: add to the smallest class until B is spent."""
        heap = [(int(n), y) for y, n in enumerate(train.class_counts)]
        heapq.heapify(heap)
        plan: dict[Group, int] = {}
        for _ in range(self.synthetic):
            size, y = heap[0]
            plan[y, None] = plan.get((y, None), 0) + 1
            heapq.heapreplace(heap, (size + 1, y))
        return dict(sorted(plan.items()))

    def like_training(self, train: ImageSet, plan: Plan) -> Plan:
        """Placebo: keep a plan's number per class, but spread it over attributes as the real training images are.

        The generated images then carry the training bias instead of repairing it, so a placebo shows what more
        images are worth by themselves. Largest remainders, ties by index; reads group counts, so track ``train``.
        """
        counts = train.group_counts
        result: dict[Group, int] = {}
        for y in range(self.n_classes):
            total = sum(n for (label, _), n in plan.items() if label == y)
            if counts[y].sum() == 0 or total == 0:
                continue
            shares = [Fraction(int(n) * total, int(counts[y].sum())) for n in counts[y]]
            whole = [int(s) for s in shares]
            rest = sorted(range(len(shares)), key=lambda a: (whole[a] - shares[a], a))
            for a in rest[: total - sum(whole)]:
                whole[a] += 1
            result |= {(y, a): n for a, n in enumerate(whole) if n}
        return result

    def marginal(self, train: ImageSet, total: int, *, by: Literal["class", "group"]) -> Plan:
        """Ask for ``total`` images with the real shares of the classes, or of the groups (reads group labels).

        Largest remainders, ties by index; what has no real image is not asked for.
        """
        if by == "class":
            counts: dict[Group, int] = {(y, None): int(n) for y, n in enumerate(train.class_counts)}
        else:
            table = train.group_counts
            counts = {group: int(table[group]) for group in self.groups}
        n = sum(counts.values())
        whole = {group: count * total // n for group, count in counts.items()}
        rest = sorted(counts, key=lambda group: -(counts[group] * total % n))
        for group in rest[: total - sum(whole.values())]:
            whole[group] += 1
        return {group: count for group, count in whole.items() if count}

    def check(self, plan: Plan) -> None:
        """Refuse a plan that names unknown groups or asks for more than B images.

        Raises:
            InvalidValue: For a negative number or an unknown group.
            BudgetExceeded: When it asks for more than B.
        """
        groups = {*self.groups, *((y, None) for y in range(self.n_classes))}
        for (y, a), n in plan.items():
            if n < 0 or (y, a) not in groups:
                raise InvalidValue(f"the plan asks for {n} images of group ({y}, {a}), which cannot be")
        if sum(plan.values()) > self.synthetic:
            raise BudgetExceeded(
                f"the plan asks for {sum(plan.values())} generated images, the budget is {self.synthetic}"
            )
