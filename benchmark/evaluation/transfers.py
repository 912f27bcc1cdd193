"""Real images that an invertible network moved to another attribute: what became of label and attribute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.audits.auditors import Auditors
from benchmark.audits.charts import Gallery
from benchmark.audits.groups import as_value
from benchmark.audits.joint import Answers
from benchmark.audits.moved import moved_metrics
from benchmark.audits.report import Moved, MovedPair, Transfer
from benchmark.evaluation import report_images
from benchmark.evaluation.audited_images import Material, Seen
from benchmark.evaluation.job import Part
from benchmark.generators.recipe import GroupKey
from benchmark.generators.transfer import transfer_sources
from benchmark.metrics.data import BoolArray, IntArray
from benchmark.records.canonical import derive_seed
from benchmark.tasks.card import DataCard


@dataclass(frozen=True, eq=False)
class Sources:
    """The real image that each moved image was made from.

    Attributes:
        seen: The moved images.
        position: Place of the source in the training split, int64 [n].
        attribute: Its attribute, int64 [n].
    """

    seen: Seen
    position: IntArray
    attribute: IntArray

    @classmethod
    def of(cls, seen: Seen, material: Material, train: Part) -> Sources:
        """Say again what was made from what.

        Args:
            seen: The moved images, of one pool.
            material: Its plan.
            train: The images that were moved.
        """
        made_from = transfer_sources(train.y, train.a, material.streams[0].counts)
        rows = zip(seen.asked_y.tolist(), seen.a.tolist(), seen.index.tolist(), strict=True)
        position = np.array([made_from[GroupKey(y, a), index][0] for y, a, index in rows], dtype=np.int64)
        return cls(seen, position, train.a[position])


def transfer(sources: Sources, auditors: Auditors) -> Transfer:
    """Measure how many images kept their label and reached the attribute, over all and from each value to each other.

    Args:
        sources: The moved images.
        auditors: Of the task.
    """
    seen = sources.seen
    answers = Answers.of(auditors, seed=derive_seed(images=len(seen), purpose="transfer"))
    pairs = []
    for source, target in sorted(set(zip(sources.attribute.tolist(), seen.a.tolist(), strict=True))):
        if source != target:
            chosen = (sources.attribute == source) & (seen.a == target)
            pairs.append(MovedPair(source=source, target=target, moved=_moved(seen, chosen, auditors, answers)))
    everything = np.ones(len(seen), dtype=np.bool_)
    return Transfer(overall=_moved(seen, everything, auditors, answers), pairs=pairs)


def _moved(seen: Seen, chosen: BoolArray, auditors: Auditors, answers: Answers) -> Moved:
    assert seen.answered is not None
    wanted = seen.asked_y[chosen], seen.a[chosen]
    answered = seen.answered["y"][chosen], seen.answered["a"][chosen]
    found = moved_metrics(wanted, answered, auditors, answers)
    return Moved(images=int(chosen.sum()), **{name: as_value(metric) for name, metric in found.items()})


def transfer_gallery(sources: Sources, train: Part, card: DataCard) -> Gallery:
    """Return for each class the first image that was moved to each attribute of its family, below its source."""
    seen, allowed = sources.seen, card.allowed_groups()
    widest = max(int(row.sum()) for row in allowed)
    panels: list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]] = []
    for y, label in enumerate(card.task.label.values):
        held = [np.flatnonzero((seen.asked_y == y) & (seen.a == a))[:1] for a in np.flatnonzero(allowed[y])]
        places = np.concatenate(held)
        where = np.flatnonzero(np.isin(seen.chosen, places))
        if len(where) == widest:
            of = sources.position[seen.chosen[where]]
            panels.append((label, np.stack([np.asarray(train.images[int(k)]) for k in of]), seen.images[where]))
    shared = bool((allowed == allowed[0]).all())
    return report_images.moved(panels, card.task.attribute.values if shared else ())
