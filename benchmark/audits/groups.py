"""What auditors see in the groups of generated images: shares, and how good and varied each group is (protocol §8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from benchmark.audits.auditors import Auditors
from benchmark.audits.manifold import NEIGHBOURS, Features, by_group
from benchmark.audits.shares import FREE, GroupShares, group_audit
from benchmark.metrics.data import BoolArray, IntArray, Metric
from benchmark.records.schema import GroupAudit, MetricValue
from benchmark.tasks.lazy import Images

EXTRACTOR = "penultimate features of the auditor of y"


def groups_seen(
    images: Images,
    y: IntArray,
    a: IntArray,
    auditors: Auditors,
    *,
    aligned: Sequence[int],
    shape: tuple[int, int],
    seed: int,
    expected: BoolArray | None = None,
) -> tuple[GroupShares, IntArray]:
    """Return the shares of the groups, and the attribute that each image shows or was asked to show.

    Args:
        images: uint8 [n, h, w, 3].
        y: Label under which each image is used, int64 [n].
        a: Attribute asked for, int64 [n]; -1 where it was free, and then the auditor's answer says the group.
        auditors: Of the task.
        aligned: Aligned attribute of each label.
        shape: Numbers of labels and of attribute values.
        seed: Decides the bootstrap.
        expected: Groups that may be called absent where the attribute was free, bool [C, A]; None is all.
    """
    answered = auditors.a.answers(images)
    shares = group_audit(
        y, a, answered, auditors.a.confusion, independent=auditors.a.independent, aligned=aligned, n_classes=shape[0],
        n_attributes=shape[1], seed=seed, expected=expected,
    )  # fmt: skip
    return shares, np.where(a == FREE, answered, a)


def group_record(
    shares: GroupShares,
    group: IntArray,
    features: Features,
    real_group: IntArray,
    real_features: Features,
    shape: tuple[int, int],
) -> GroupAudit:
    """Return a record's part about groups.

    Args:
        shares: Of the groups.
        group: Index ``y * A + a`` of the group of some of the images, int64 [n].
        features: Their features, [n, d].
        real_group: The same of real images of the audit split, int64 [m].
        real_features: Their features, [m, d].
        shape: Numbers of labels and of attribute values.
    """
    manifolds = by_group(real_features, real_group, features, group, shape)
    return GroupAudit(
        asked=shares.asked,
        raw=shares.raw,
        corrected=shares.corrected,
        low=shares.low,
        high=shares.high,
        conflicting=as_value(shares.conflicting),
        conflicting_raw=as_value(shares.conflicting_raw),
        information_y_a=as_value(shares.information_y_a),
        absent=shares.absent,
        extractor=EXTRACTOR,
        neighbours=NEIGHBOURS,
        precision=manifolds.precision,
        recall=manifolds.recall,
        density=manifolds.density,
        coverage=manifolds.coverage,
    )


def as_value(metric: Metric) -> MetricValue:
    """Turn a computed metric into a record's."""
    return MetricValue(**asdict(metric))
