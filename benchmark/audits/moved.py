"""Images that were moved to another attribute: did the label stay, and was the attribute reached (protocol §5)?"""

from __future__ import annotations

import numpy as np

from benchmark.audits.auditors import Auditors
from benchmark.audits.correction import corrected_fidelity, raw_fidelity
from benchmark.audits.joint import Answers, both_shown
from benchmark.metrics.data import IntArray, Metric


def moved_metrics(
    wanted: tuple[IntArray, IntArray], answered: tuple[IntArray, IntArray], auditors: Auditors, answers: Answers
) -> dict[str, Metric]:
    """Return P(y kept), P(a reached) and P(both), corrected for the auditors' errors, and raw.

    Args:
        wanted: Label of the source of each image, and the attribute that it was moved to, int64 [n] each.
        answered: What the auditors see, int64 [n] each.
        auditors: Of the task.
        answers: What their answers count for together.

    Returns:
        ``y_kept``, ``a_reached``, ``both`` and each with ``_raw`` behind it.
    """
    metrics: dict[str, Metric] = {}
    sides = zip(("y_kept", "a_reached"), wanted, answered, (auditors.y, auditors.a), strict=True)
    for name, want, seen, auditor in sides:
        metrics[name] = corrected_fidelity(
            want, seen, auditor.confusion, seed=answers.seed, independent=auditor.independent
        )
        metrics[f"{name}_raw"] = raw_fidelity(want, seen)
    right = np.logical_and(wanted[0] == answered[0], wanted[1] == answered[1]).astype(np.int64)
    metrics["both"] = both_shown(wanted, answered, answers)
    metrics["both_raw"] = raw_fidelity(np.ones_like(right), right)
    return metrics
