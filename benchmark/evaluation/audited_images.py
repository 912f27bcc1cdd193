"""The images of an audit: made where that is asked for, then read block by block, so that memory does not grow.

Of each image the audit keeps what it was asked for and what the auditors answer: some integers. Of the images
themselves it keeps an evenly spaced part, for everything that is measured on features or shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.audits.auditors import Auditors
from benchmark.audits.report import AskedBy
from benchmark.contract.budget import Plan
from benchmark.contract.images import NO_ATTRIBUTE, MethodData
from benchmark.errors import NotAvailable
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.job import FitJob
from benchmark.evaluation.own import OwnSynthesis
from benchmark.evaluation.subjects import FEWEST, AuditSubject, scaled
from benchmark.evaluation.synthesis import Generated, Synthesis
from benchmark.generators.pools import STREAM_BLOCK, Counts, Layout, Pool, open_pool
from benchmark.generators.recipe import GroupKey, PoolRecipe
from benchmark.metrics.data import BoolArray, IntArray
from benchmark.progress import Progress
from benchmark.records.schema import OwnGeneratorUse, PoolUse, Tuning
from benchmark.records.store import Store

MOST_LOOKED_AT = 5000
MOST_BYTES = 512 * 2**20
"""Images of a sample that are held in memory, at most: so many, and so many bytes."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The images of one pool that are audited.

    Attributes:
        pool: The pool.
        counts: Images of each group, from index 0.
        y: Label that each of them carries, in the pool's order, int64 [n].
        kept: Whether a filter kept it, bool [n].
        damaged: Shards of the pool that lay set aside as damaged before.
    """

    pool: Pool
    counts: Counts
    y: IntArray
    kept: BoolArray
    damaged: int

    @classmethod
    def of_pool(cls, pool: Pool, counts: Counts) -> Stream:
        """Return all images of some groups under the labels asked for."""
        y = Layout(counts).y
        return cls(pool, counts, y, np.ones(len(y), dtype=np.bool_), pool.damaged)

    @classmethod
    def of_use(cls, store: Store, use: PoolUse) -> Stream:
        """Return the images of a pool that a run used, under the labels that it gave them."""
        counts: Counts = {_group(key): stop for key, (_, stop) in use.ranges.items()}
        layout = Layout(counts)
        kept = np.ones(len(layout), dtype=np.bool_)
        if use.filter is not None:
            kept[:] = False
            for key, indices in use.filter.kept_indices.items():
                group = _group(key)
                own = (layout.y == group.y) & (layout.a == group.attribute)
                kept |= own & np.isin(layout.index, indices)
        y = layout.y.copy()
        if use.labels is not None:
            y[kept] = use.labels.y
        pool = open_pool(store, use.pool_id)
        return cls(pool, counts, y, kept, pool.damaged)

    def asked_by(self, by: AskedBy) -> Stream:
        """Return the part that was asked for in one way."""
        chosen = (Layout(self.counts).a == NO_ATTRIBUTE) == (by == "class")
        counts = {(y, a): n for (y, a), n in self.counts.items() if (a is None) == (by == "class")}
        return replace(self, counts=counts, y=self.y[chosen], kept=self.kept[chosen])

    def __len__(self) -> int:
        return int(self.kept.sum())


def _group(key: str) -> GroupKey:
    y, _, a = key.partition("-")
    return GroupKey(int(y), None if a == "any" else int(a))


@dataclass(frozen=True, eq=False)
class Material:
    """What is audited.

    Attributes:
        streams: Its images.
        identity: What the report says of it.
        own: How it was trained, for a generator that was trained from random weights.
        tuning: How it was fine-tuned.
        notes: What a reader should know.
    """

    streams: tuple[Stream, ...]
    identity: dict[str, Any]
    own: OwnGeneratorUse | None = None
    tuning: Tuning | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def pool_ids(self) -> list[str]:
        """Ids of the pools."""
        return list(dict.fromkeys(stream.pool.recipe.pool_id for stream in self.streams))


def obtain(subject: AuditSubject, job: FitJob, data: MethodData, progress: Progress) -> Material:
    """Train or fine-tune, generate what is missing, and say where the images lie.

    Args:
        subject: What is audited.
        job: The job of its cell.
        data: The training and validation splits.
        progress: Where to say how far it is.

    Raises:
        GeneratorError: When a generator cannot be loaded or fine-tuned, or fails.
        TrainingDiverged: When a loss is not finite.
        NotAvailable: When a pool holds too few images.
    """
    store = Store(job.store)
    if subject.pool is not None:
        held = subject.pool.held()
        if (total := sum(held.values())) < FEWEST:
            raise NotAvailable(f"{subject.name} holds {total} images; an audit needs {FEWEST}")
        notes = [f"{subject.images:,} of {total:,} images of the pool were looked at"] if total > subject.images else []
        stream = Stream.of_pool(subject.pool, scaled(held, subject.images))
        return Material((stream,), _identity(subject.pool.recipe), notes=notes)
    if subject.record is not None:
        uses = subject.record.pools
        streams = tuple(Stream.of_use(store, use) for use in uses)
        run = {"record": subject.record.run_id, "method": subject.record.cell.method}
        identities = [_identity(stream.pool.recipe) for stream in streams]
        return Material(streams, {**run, "generators": identities}, uses[-1].own, uses[-1].tuning)
    made = _generated(subject, job, data, progress)
    stream = Stream.of_use(store, made.use)
    return Material((stream,), _identity(stream.pool.recipe), made.use.own, made.use.tuning)


def _identity(recipe: PoolRecipe) -> dict[str, Any]:
    settings = ("scheduler", "steps", "guidance", "image_size", "batch_size", "precision", "device_kind", "generation")
    return {**recipe.generator, **{name: getattr(recipe, name) for name in settings}}


def _generated(subject: AuditSubject, job: FitJob, data: MethodData, progress: Progress) -> Generated:
    """Make the images of a generator; they are read again from the store."""
    auxiliary = Auxiliary(job, data, progress)
    cell, n = subject.cell, subject.images
    hparams: Any = cell.hparams
    if subject.source == "text-to-image":
        plan = {**cell.budget.marginal(data.train, n // 2, by="class"), **_balanced(subject, n - n // 2)}
        tuning = replace(hparams.tuning(), per="class") if subject.fine_tune else None
        return Synthesis(job, auxiliary, progress).images(data, plan, tuning, "none")
    synthesis = OwnSynthesis(job, auxiliary, progress)
    if subject.source == "from-scratch":
        plan = dict(cell.budget.marginal(data.train, n, by="class"))
        return synthesis.images(data.train, plan, hparams.from_scratch(), "none", 0)
    return synthesis.images(data.train, _balanced(subject, n), hparams.network(), "none", 0)


def _balanced(subject: AuditSubject, n: int) -> Plan:
    """Ask for equal numbers of all comparable groups."""
    return replace(subject.cell.budget, synthetic=n).balanced()


# --- looking at them -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of the images of a sample, and a part of the images themselves.

    Attributes:
        asked_by: How they were asked for.
        y: Label that each image carries, int64 [n].
        asked_y: Label asked for, int64 [n].
        a: Attribute asked for, int64 [n]; -1 where it was free.
        index: Index inside the group of its pool, int64 [n].
        stream: Which of the streams it is from, int64 [n].
        answered: Variable → what the auditor sees, int64 [n]; None without auditors.
        chosen: Places of the images that are held, among the n, int64 [m].
        images: These images, uint8 [m, h, w, 3].
    """

    asked_by: AskedBy
    y: IntArray
    asked_y: IntArray
    a: IntArray
    index: IntArray
    stream: IntArray
    answered: dict[str, IntArray] | None
    chosen: IntArray
    images: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.y)


def look(
    streams: Sequence[Stream], by: AskedBy, auditors: Auditors | None, progress: Progress, block: int = STREAM_BLOCK
) -> Seen | None:
    """Let the auditors look at every image once, block by block.

    Args:
        streams: The images.
        by: Which of them: those that were asked for in one way.
        auditors: Of the task, if it has any.
        progress: Where to say how far it is.
        block: Images of a block, at most.

    Returns:
        None where no image was asked for so. Images that were missing or damaged are left out.
    """
    parts = [stream.asked_by(by) for stream in streams]
    total = sum(len(part) for part in parts)
    if not total:
        return None
    table = np.full((_COLUMNS, total), _ABSENT, dtype=np.int64)
    held = _Held(total, parts[0].pool.recipe)
    handle = progress.start(f"auditing images asked for by {'class alone' if by == 'class' else 'group'}", total)
    try:
        for places, rows, images in _blocks(parts, block):
            answers = [np.full(len(images), _ABSENT)] * 2
            if auditors is not None:
                answers = [auditors.y.answers(images), auditors.a.answers(images)]
            table[:, places] = [*rows, *answers]
            held.take(places, images)
            progress.advance(handle, len(images))
    finally:
        progress.finish(handle)
    present = np.flatnonzero(table[0] != _ABSENT)
    y, asked_y, a, index, stream, answered_y, answered_a = table[:, present]
    chosen, kept = held.finished(present)
    answered = None if auditors is None else {"y": answered_y, "a": answered_a}
    return Seen(by, y, asked_y, a, index, stream, answered, chosen, kept)


_COLUMNS = 7
_ABSENT = -2


def _blocks(parts: Sequence[Stream], block: int) -> Iterator[tuple[IntArray, list[IntArray], NDArray[np.uint8]]]:
    """Yield places, the first five columns of the table, and images."""
    start = 0
    for number, part in enumerate(parts):
        layout = Layout(part.counts)
        place = start + np.cumsum(part.kept) - 1
        for images in part.pool.stream(part.counts, block):
            at = layout.positions(images)
            of_kept = np.flatnonzero(part.kept[at])
            at = at[of_kept]
            source = np.full(len(at), number, dtype=np.int64)
            rows = [part.y[at], layout.y[at], layout.a[at], layout.index[at], source]
            if len(at):
                yield place[at], rows, images.images[of_kept]
        start += len(part)


class _Held:
    """An evenly spaced part of the images.

    Args:
        total: Number of images in all.
        recipe: Says how large they are.
    """

    def __init__(self, total: int, recipe: PoolRecipe) -> None:
        most = min(total, MOST_LOOKED_AT, max(FEWEST, MOST_BYTES // recipe.bytes_per_image))
        self._places = np.unique(np.linspace(0, total - 1, most).round().astype(np.int64))
        self._slot = np.full(total, -1, dtype=np.int64)
        self._slot[self._places] = np.arange(len(self._places))
        self._images = np.empty((len(self._places), recipe.image_size, recipe.image_size, 3), dtype=np.uint8)

    def take(self, places: IntArray, images: NDArray[np.uint8]) -> None:
        """Keep those of some images that belong to the part."""
        slots = self._slot[places]
        mine = slots >= 0
        self._images[slots[mine]] = images[mine]

    def finished(self, present: IntArray) -> tuple[IntArray, NDArray[np.uint8]]:
        """Return the places of the part among the images that were there, and its images."""
        there = np.isin(self._places, present)
        chosen = np.searchsorted(present, self._places[there]).astype(np.int64)
        return chosen, self._images if there.all() else self._images[there]


def losses(streams: Sequence[Stream], seen: Sequence[Seen]) -> list[str]:
    """Say which pool lost how many images.

    Args:
        streams: The images that were to be audited.
        seen: Those that were there.

    Raises:
        NotAvailable: When too few are left.
    """
    notes = []
    for number, stream in enumerate(streams):
        name, lost = f"pool {stream.pool.recipe.pool_id[:12]}", len(stream)
        lost -= sum(int((part.stream == number).sum()) for part in seen)
        if lost:
            notes.append(
                f"{name} lacks {lost:,} of {len(stream):,} images, which are damaged or were set aside as damaged; the "
                "others were looked at"
            )
        elif (damaged := stream.pool.damaged - stream.damaged) > 0:
            notes.append(f"{name}: {damaged} damaged lists of images were set aside; how many they named is not known")
    total = sum(len(part) for part in seen)
    if total < FEWEST:
        why = f": {'; '.join(notes)}" if notes else ""
        raise NotAvailable(f"{total} intact images are too few for an audit, which needs {FEWEST}{why}")
    return notes
