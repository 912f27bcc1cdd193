"""Everything that an audit measures of one sample of images, against the real data of the task."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.audits.auditors import Auditor, Auditors
from benchmark.audits.correction import corrected_fidelity, raw_fidelity
from benchmark.audits.division import divide
from benchmark.audits.groups import EXTRACTOR, as_value, group_record
from benchmark.audits.memorised import memorised_share
from benchmark.audits.probes import probe_metrics
from benchmark.audits.quality import frechet_and_kernel
from benchmark.audits.report import (
    Fidelity,
    GroupEstimates,
    GroupFidelity,
    HeldOut,
    Judgement,
    Probes,
    Sample,
    TrainingData,
)
from benchmark.audits.shares import SAME_ODDS, GroupShares, Verdict, group_audit, training_conflicting, verdict
from benchmark.contract.images import NO_ATTRIBUTE
from benchmark.evaluation.audit import MOST_REAL
from benchmark.evaluation.audited_images import Seen
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import Part
from benchmark.metrics.data import IntArray, Metric
from benchmark.metrics.information import information_y_a, information_y_ag
from benchmark.records.canonical import derive_seed
from benchmark.records.schema import MetricValue, Shares
from benchmark.tasks.lazy import LazyImages
from benchmark.tasks.manifest import AUDIT, TRAIN, Rows

PROBES = ("a", "g", "ag", "a_chance", "g_chance", "ag_chance")

_FREE = "images were asked for by class alone"
_ASKED = "the attribute was asked for, so its shares say nothing of the generator's own"
_WHY: dict[Verdict, str] = {
    "replicated": f"Everywhere in the interval, the odds of a conflicting image are within a factor of {SAME_ODDS} of "
    "those of the training data.",
    "amplified": "The whole interval lies below the share in the training data: fewer conflicting images.",
    "reduced": "The whole interval lies above the share in the training data: more conflicting images.",
    "not distinguishable": "The interval holds both shares that would count as replicated and others: the audit cannot "
    "tell, which does not say that nothing changed.",
}


@dataclass(frozen=True, eq=False)
class Reference:
    """What images are held against.

    Attributes:
        cell: Task, level and draw.
        train: The real training images.
        auditors: Of the task, if it has any.
        why_not: Why there are none.
        device: Where to compute.
    """

    cell: ResolvedCell
    train: Part
    auditors: Auditors | None
    why_not: str
    device: torch.device

    @functools.cached_property
    def counts(self) -> IntArray:
        """Training images per group, int64 [C, A]."""
        return self.cell.manifest.counts(TRAIN)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of labels and of attribute values."""
        return self.cell.task.n_classes, self.cell.task.n_attributes

    @property
    def aligned(self) -> tuple[int, ...]:
        """Aligned attribute of each label."""
        return self.cell.card.law.aligned

    @functools.cached_property
    def rows(self) -> Rows:
        """Real images of the audit split that features are compared with; the first ones, which are in hash order."""
        rows = self.cell.manifest.splits[AUDIT]
        return rows.take(range(min(len(rows), MOST_REAL)))

    @functools.cached_property
    def features(self) -> NDArray[np.float32]:
        """Their features, [n, d]; there must be auditors."""
        assert self.auditors is not None
        return self.auditors.y.features(self._images(self.rows))

    def training(self) -> TrainingData:
        """Describe the training data."""
        share, _ = training_conflicting(self.counts, self.aligned)
        information = information_y_a(self.counts[..., None])
        return TrainingData(counts=self.counts.tolist(), conflicting=share, information_y_a=as_value(information))

    def held_out(self) -> HeldOut | None:
        """Describe what the auditor of a says of real images that it never saw; None without auditors."""
        if self.auditors is None:
            return None
        rows = self.cell.task.manifest(self.cell.card.task.default_level, 0).splits[AUDIT]
        rows = rows.take(divide(rows, self.cell.card.id).held_out)
        found = self.shares(rows.y, rows.a, self.auditors.a.answers(self._images(rows)), self.auditors, seed=0)
        counts = rows.counts(*self.shape)
        return HeldOut(
            images=len(rows),
            shares=found.asked,
            raw=found.raw,
            conflicting=training_conflicting(counts, self.aligned)[0],
            conflicting_raw=as_value(found.conflicting_raw),
        )

    def shares(self, y: IntArray, a: IntArray, answered: IntArray, auditors: Auditors, seed: int) -> GroupShares:
        """Return the shares of groups; see :func:`group_audit`."""
        return group_audit(
            y, a, answered, auditors.a.confusion, independent=auditors.a.independent, aligned=self.aligned,
            n_classes=self.shape[0], n_attributes=self.shape[1], seed=seed, expected=self.counts > 0,
        )  # fmt: skip

    def _images(self, rows: Rows) -> LazyImages:
        return self.cell.task.images(rows, self.cell.image_size)


def measured(seen: Seen, reference: Reference) -> Sample:
    """Measure one sample.

    Args:
        seen: The images.
        reference: What they are held against.
    """
    return _Measuring(seen, reference).sample()


class _Measuring:
    """The measures of one sample; seeds depend on how many images there are and how they were asked for."""

    def __init__(self, seen: Seen, reference: Reference) -> None:
        self._seen, self._reference = seen, reference
        self._by_group = seen.asked_by == "group"
        self._seed = derive_seed(asked_by=seen.asked_by, images=len(seen), purpose="audit of a sample")

    def sample(self) -> Sample:
        seen, reference = self._seen, self._reference
        mixture = np.stack([reference.counts, self._table()], axis=2)
        free = int((seen.a == NO_ATTRIBUTE).sum())
        shares, features = self._shares(), self._features()
        fid, kid = self._distances(features)
        return Sample(
            asked_by=seen.asked_by,
            images=len(seen),
            fidelity=self._fidelity(),
            y_by_class=[self._fidelity_of("y", seen.y == c) for c in range(reference.shape[0])],
            by_group=self._group_fidelity() if self._by_group else None,
            groups=None if shares is None or features is None else group_record(
                shares, self._shown(), features, reference.rows.y * reference.shape[1] + reference.rows.a,
                reference.features, reference.shape,
            ),
            groups_reason=reference.why_not or None,
            conflicting=self._judgement(shares, None),
            conflicting_by_class=[self._judgement(shares, c) for c in range(reference.shape[0])],
            memorised_share=as_value(memorised_share(seen.images, reference.train.images, device=reference.device)),
            fid=fid,
            kid=kid,
            probes=self._probes(features),
            information_y_a=as_value(information_y_a(mixture, free)),
            information_y_ag=as_value(information_y_ag(mixture, free)),
        )  # fmt: skip

    def _null(self) -> MetricValue:
        return as_value(Metric.undefined(self._reference.why_not))

    def _table(self) -> IntArray:
        """Count the images per group asked for, int64 [C, A]; those with a free attribute are left out."""
        seen, table = self._seen, np.zeros(self._reference.shape, dtype=np.int64)
        known = seen.a != NO_ATTRIBUTE
        np.add.at(table, (seen.y[known], seen.a[known]), 1)
        return table

    # --- label fidelity ---

    def _fidelity(self) -> Fidelity:
        everything = np.ones(len(self._seen), dtype=np.bool_)
        found = {}
        for of in ("y", "a"):
            found[of] = self._fidelity_of(of, everything)
            found[f"{of}_raw"] = self._fidelity_of(of, everything, raw=True)
        return Fidelity(**found)

    def _fidelity_of(self, of: str, chosen: NDArray[np.bool_], *, raw: bool = False) -> MetricValue:
        """Return the label fidelity of some of the images."""
        seen, auditors = self._seen, self._reference.auditors
        if of == "a" and not self._by_group:
            return as_value(Metric.undefined(_FREE))
        if auditors is None or seen.answered is None:
            return self._null()
        auditor: Auditor = getattr(auditors, of)
        requested, answered = getattr(seen, of)[chosen], seen.answered[of][chosen]
        if raw:
            return as_value(raw_fidelity(requested, answered))
        independent = auditor.independent
        return as_value(
            corrected_fidelity(requested, answered, auditor.confusion, seed=self._seed, independent=independent)
        )

    def _group_fidelity(self) -> GroupFidelity:
        seen, table = self._seen, self._table()
        estimates = {}
        for of in ("y", "a"):
            parts: dict[str, Shares] = {
                part: [[None] * table.shape[1] for _ in table] for part in GroupEstimates.model_fields
            }
            for y, a in np.argwhere(table):
                found = self._fidelity_of(of, (seen.y == y) & (seen.a == a))
                for part, shares in parts.items():
                    shares[y][a] = getattr(found, part)
            estimates[of] = GroupEstimates(**parts)
        return GroupFidelity(images=table.tolist(), **estimates)

    # --- groups ---

    def _shares(self) -> GroupShares | None:
        seen, auditors = self._seen, self._reference.auditors
        if auditors is None or seen.answered is None:
            return None
        return self._reference.shares(seen.y, seen.a, seen.answered["a"], auditors, self._seed)

    def _shown(self) -> IntArray:
        """Return the group of each image that is held: the attribute asked for or, where it was free, answered."""
        seen = self._seen
        assert seen.answered is not None
        shown = np.where(seen.a == NO_ATTRIBUTE, seen.answered["a"], seen.a)
        return (seen.y * self._reference.shape[1] + shown)[seen.chosen]

    def _judgement(self, shares: GroupShares | None, label: int | None) -> Judgement:
        """Hold the conflicting images of one class, or of all, against the training data's."""
        training = self._training_share(label)
        if self._by_group or shares is None or training is None:
            why = _ASKED if self._by_group else self._reference.why_not
            why = why or f"the training data hold no image of class {label}"
            return Judgement(
                training=training, generated=as_value(Metric.undefined(why)), verdict="not measured", why=why
            )
        generated = shares.conflicting if label is None else shares.conflicting_by_class[label]
        if generated.value is None:
            why = generated.reason or ""
            return Judgement(training=training, generated=as_value(generated), verdict="not measured", why=why)
        found = verdict(generated, training)
        return Judgement(training=training, generated=as_value(generated), verdict=found, why=_WHY[found])

    def _training_share(self, label: int | None) -> float | None:
        """Return the training data's share of conflicting images: of one class, or of all, weighted as generated."""
        counts, aligned = self._reference.counts, self._reference.aligned
        if label is not None:
            return training_conflicting(counts, aligned)[1][label] if counts[label].any() else None
        generated = np.bincount(self._seen.y, minlength=len(counts)) * (counts.sum(axis=1) > 0)
        return training_conflicting(counts, aligned, generated)[0] if generated.any() else None

    # --- features ---

    def _features(self) -> NDArray[np.float32] | None:
        auditors = self._reference.auditors
        return None if auditors is None else auditors.y.features(self._seen.images)

    def _distances(self, features: NDArray[np.float32] | None) -> tuple[MetricValue, MetricValue]:
        if features is None:
            return self._null(), self._null()
        found = frechet_and_kernel(self._reference.features, features, seed=self._seed, extractor=EXTRACTOR)
        return as_value(found["fid"]), as_value(found["kid"])

    def _probes(self, features: NDArray[np.float32] | None) -> Probes:
        if features is None:
            return Probes(**dict.fromkeys(PROBES, self._null()))
        reference = self._reference
        found = probe_metrics(
            reference.features, reference.rows.a, features, self._seen.a[self._seen.chosen],
            units=reference.cell.task.units(reference.rows), seed=derive_seed(purpose="probes"), extractor=EXTRACTOR,
        )  # fmt: skip
        return Probes(**{name: as_value(found[name]) for name in PROBES})
