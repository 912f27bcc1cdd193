"""Images that were moved to another attribute: did the label stay, and was the attribute reached (protocol §5)?"""

from __future__ import annotations

import numpy as np

from benchmark.audits.auditors import Auditors
from benchmark.audits.correction import corrected_fidelity, raw_fidelity
from benchmark.metrics.data import IntArray, Metric
from benchmark.tasks.lazy import Images


def moved_metrics(images: Images, y: IntArray, a: IntArray, auditors: Auditors, *, seed: int) -> dict[str, Metric]:
    """Return P(y kept), P(a reached) and P(both), corrected for the auditors' errors, and raw.

    Both together are corrected with the product of the two confusion matrices: on one image the two auditors err
    independently of each other. Rows of the product are worth as many independent images as the poorer of the two.

    Args:
        images: The moved images, uint8 [n, h, w, 3].
        y: Label of the source of each, int64 [n].
        a: Attribute it was moved to, int64 [n].
        auditors: Of the task.
        seed: Decides the bootstrap.

    Returns:
        ``y_kept``, ``a_reached``, ``both`` and each with ``_raw`` behind it.
    """
    seen_y, seen_a = auditors.y.answers(images), auditors.a.answers(images)
    n_attributes = len(auditors.a.confusion)
    worth = np.minimum.outer(auditors.y.independent, auditors.a.independent).ravel()
    sides = {
        "y_kept": (y, seen_y, auditors.y.confusion, auditors.y.independent),
        "a_reached": (a, seen_a, auditors.a.confusion, auditors.a.independent),
        "both": (
            y * n_attributes + a,
            seen_y * n_attributes + seen_a,
            np.kron(auditors.y.confusion, auditors.a.confusion),
            worth,
        ),
    }
    metrics: dict[str, Metric] = {}
    for name, (wanted, seen, confusion, independent) in sides.items():
        metrics[name] = corrected_fidelity(wanted, seen, confusion, seed=seed, independent=independent)
        metrics[f"{name}_raw"] = raw_fidelity(wanted, seen)
    return metrics
