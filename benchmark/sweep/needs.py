"""What a cell shares with others: found by rehearsing its `fit` with tools that write down what is asked for.

Nothing is trained or sampled, no pixel is read, and torch is not imported. A rehearsal ends where an adapter looks at
something that only a real run has; what it asked for until then is known. Pools that it asks for after its first
training are its own business: making shared parts ends there too. So are images of the unchanged generator that
DreamBooth holds on to: whoever comes first makes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from benchmark.contract.budget import Budget, Plan
from benchmark.contract.generation import OVERSAMPLING, FineTuning
from benchmark.contract.images import NO_ATTRIBUTE, GroupNames, ImageSet, MethodData
from benchmark.contract.method import Tools, Trained
from benchmark.contract.tracks import Track
from benchmark.evaluation.cell import ResolvedCell
from benchmark.records.canonical import derive_seed, sha256_of
from benchmark.tasks.lazy import LazyImages
from benchmark.tasks.manifest import TRAIN, VALIDATION, Rows

PieceKind = Literal["pool", "adapters", "auditors"]
Counts = Mapping[tuple[int, int | None], int]


@dataclass(frozen=True)
class Need:
    """Something that the store keeps for every run that asks for it.

    Attributes:
        kind: A pool of the generator as it is; adapters with the images that they make; auditors.
        key: SHA-256 of what makes it the same thing for two runs.
        label: What to call it.
        counts: Images to sample of each group; empty for auditors.
        seeded: Whether another seed of the same draw may need something else.
    """

    kind: PieceKind
    key: str
    label: str
    counts: Counts = field(default_factory=dict)
    seeded: bool = False

    @property
    def images(self) -> int:
        """Images to sample."""
        return sum(self.counts.values())


class _Unforeseeable(Exception):
    """The adapter looked at something that only a real run has."""


def needs_of(cell: ResolvedCell) -> tuple[Need, ...]:
    """Return what a cell shares with others."""
    rehearsal = _Rehearsal(cell)
    # An adapter that cannot be rehearsed to its end has told what it asked for until then.
    with contextlib.suppress(Exception):
        for _ in cell.method.fit(rehearsal.data(), cast("Tools", rehearsal), cell.hparams):
            pass
    needs = rehearsal.needs
    if rehearsal.generates:
        recipe = cell.recipe.model_dump(mode="json")
        key = sha256_of({"auditors": cell.card.id, "recipe": recipe, "size": cell.image_size})
        needs.append(Need("auditors", key, f"auditors of {cell.card.id}"))
    return tuple(needs)


class _Rehearsal:
    """Tools that only write down."""

    def __init__(self, cell: ResolvedCell) -> None:
        self._cell = cell
        self._names = GroupNames(cell.card.task.label.values, cell.card.task.attribute.values)
        self._seeded = False
        self._own_part = False
        self.needs: list[Need] = []
        self.generates = False

    def data(self) -> MethodData:
        """Return the splits without their pixels."""
        splits = self._cell.manifest.splits
        return MethodData(
            self._real(splits[TRAIN], Track.TRAIN), self._real(splits[VALIDATION], Track.VALIDATION_TRAINS)
        )

    def _real(self, rows: Rows, needs: Track) -> ImageSet:
        return self._images(rows.y.copy(), rows.a.copy(), synthetic=False, needs=needs)

    def _images(
        self, y: NDArray[np.int64], a: NDArray[np.int64], *, synthetic: bool, needs: Track = Track.NONE
    ) -> ImageSet:
        return ImageSet(
            images=LazyImages(len(y), self._cell.image_size, _no_pixels),
            y=y,
            synthetic=np.full(len(y), synthetic),
            names=self._names,
            needs=needs,
            granted=self._cell.track,
            _attributes=a,
        )

    @property
    def budget(self) -> Budget:
        return self._cell.budget

    @property
    def device(self) -> NoReturn:
        raise _Unforeseeable

    def seed(self, purpose: str) -> int:
        self._seeded = True
        request = self._cell.request
        return derive_seed(base=request.seed, task=self._cell.card.id, method=request.method, purpose=purpose)

    def note(self, message: str) -> None:
        del message

    def synthesize(
        self, data: MethodData, *, plan: Plan, tuning: FineTuning | None = None, keep: str = "none", **_: Any
    ) -> ImageSet:
        del data
        factor = 1 if keep == "none" else OVERSAMPLING
        counts = {group: factor * n for group, n in plan.items() if n}
        self.generates |= bool(counts)
        if counts and not self._own_part:
            self.needs += _pools(self._cell, counts, tuning, seeded=self._seeded)
        return self._asked_for(plan)

    def generate(self, images: ImageSet, *, plan: Plan, **_: Any) -> ImageSet:
        del images
        self._own_part = True
        self.generates |= any(plan.values())
        return self._asked_for(plan)

    def copies(self, images: ImageSet, *, plan: Plan) -> ImageSet:
        del images
        return self._asked_for(plan)

    def reserve(self, *, plan: Plan) -> ImageSet:
        return self._asked_for(plan)

    def _asked_for(self, plan: Plan) -> ImageSet:
        groups = [(y, NO_ATTRIBUTE if a is None else a) for y, a in plan]
        table = np.repeat(np.array(groups, dtype=np.int64).reshape(-1, 2), list(plan.values()), axis=0)
        return self._images(table[:, 0].copy(), table[:, 1].copy(), synthetic=True)

    def train(self, images: ImageSet, **_: Any) -> Trained:
        self._own_part = True
        return Trained(
            spec={}, checkpoints={}, steps_at={}, digest="", curves=(), steps=0, seconds=0.0, remembered=False,
            training_set=images,
        )  # fmt: skip

    def refit_last_layer(self, model: Trained, images: ImageSet) -> Trained:
        del model
        return self.train(images)

    def predict(self, model: Trained, images: ImageSet) -> NoReturn:
        del model, images
        raise _Unforeseeable


def _no_pixels(index: NDArray[np.int64]) -> NoReturn:
    del index
    raise _Unforeseeable


def _pools(cell: ResolvedCell, counts: Counts, tuning: FineTuning | None, *, seeded: bool) -> list[Need]:
    """Return the pool that some images come from; of a fine-tuned generator, with its adapters."""
    if cell.generator is None:
        return []
    base = {
        "task": cell.card.id,
        "size": cell.image_size,
        "generator": cell.generator.as_record(),
        "sampling": cell.sampling.model_dump(mode="json"),
    }
    where = f"{cell.generator.name} for {cell.card.id}"
    if tuning is None:
        return [Need("pool", sha256_of(base), f"images of {where}", counts, seeded)]
    own: dict[str, Any] = {"tuning": asdict(tuning), "split": cell.manifest.digest, "groups": sorted(map(str, counts))}
    if tuning.per == "cluster":
        # What clusters the images is trained with the run's own seed, or is CLIP.
        seeded |= tuning.features == "erm"
        clip = None if cell.clip is None else cell.clip.as_record()
        own["clusters"] = cell.request.seed if tuning.features == "erm" else clip
    label = f"{tuning.kind} adapters and images of {where}, {cell.manifest.level}, draw {cell.manifest.draw}"
    return [Need("adapters", sha256_of(base | own), label, counts, seeded)]
