"""The metrics by name: definition, unit, direction. Docs, records and the board take their words from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

METRICS_VERSION = 1
"""Moves with any change of a definition or of an interval's method."""

Direction = Literal["higher", "lower", "none"]
Scope = Literal["predictions", "views", "training", "seeds", "reference"]


@dataclass(frozen=True)
class MetricDefinition:
    """What a metric is.

    Attributes:
        name: As in records.
        definition: One sentence.
        unit: ``share``, ``difference of shares``, ``ratio``, ``bits`` or ``index``.
        direction: Whether higher or lower is better; ``none`` where neither end is good or the number only describes.
        interval: Name of the interval's method.
        scope: What it needs: ``predictions`` of one checkpoint (these are what ``compute_metrics`` returns), further
            ``views`` of test images (only tasks that have them), the ``training`` mixture's counts, several
            ``seeds``, or ``reference`` runs beside its own.
    """

    name: str
    definition: str
    unit: str
    direction: Direction
    interval: str
    scope: Scope = "predictions"


_SHARE, _DIFFERENCE, _RATIO, _BITS, _INDEX = "share", "difference of shares", "ratio", "bits", "index"
_BOOTSTRAP, _SIDAK, _BAND, _EXACT, _NONE = "cluster-bootstrap", "sidak-propagated", "bootstrap-band", "exact", "none"

_DEFINITIONS = (
    MetricDefinition("acc_mean", "Share of right answers over all test images.", _SHARE, "higher", _BOOTSTRAP),
    MetricDefinition(
        "acc_adjusted",
        "Group accuracies weighted by the groups' shares of the real training split.",
        _SHARE,
        "higher",
        _BOOTSTRAP,
    ),
    MetricDefinition(
        "acc_group_mean", "Unweighted mean accuracy of the populated test groups.", _SHARE, "higher", _BOOTSTRAP
    ),
    MetricDefinition("acc_worst_group", "Lowest accuracy among the populated test groups.", _SHARE, "higher", _SIDAK),
    MetricDefinition(
        "acc_aligned", "Unweighted mean accuracy of the populated bias-aligned groups.", _SHARE, "higher", _BOOTSTRAP
    ),
    MetricDefinition(
        "acc_conflicting",
        "Unweighted mean accuracy of the populated bias-conflicting groups.",
        _SHARE,
        "higher",
        _BOOTSTRAP,
    ),
    MetricDefinition("gap", "acc_aligned minus acc_conflicting; 0 is ideal.", _DIFFERENCE, "none", _BOOTSTRAP),
    MetricDefinition(
        "max_disparity", "Accuracy of the best group minus that of the worst.", _DIFFERENCE, "lower", _SIDAK
    ),
    MetricDefinition(
        "max_disparity_expected",
        "What max_disparity would be on average if all groups shared one accuracy, acc_mean, at the same sizes.",
        _DIFFERENCE,
        "none",
        _NONE,
    ),
    MetricDefinition(
        "parity_difference_mean",
        "Largest difference of P(predicted class | attribute) between comparable attributes, mean over classes.",
        _DIFFERENCE,
        "lower",
        _SIDAK,
    ),
    MetricDefinition(
        "parity_difference_max", "The same, for the class where it is largest.", _DIFFERENCE, "lower", _SIDAK
    ),
    MetricDefinition(
        "opportunity_difference_mean",
        "Largest difference of a class's true-positive rate between comparable attributes, mean over classes.",
        _DIFFERENCE,
        "lower",
        _SIDAK,
    ),
    MetricDefinition(
        "opportunity_difference_max", "The same, for the class where it is largest.", _DIFFERENCE, "lower", _SIDAK
    ),
    MetricDefinition(
        "odds_difference_mean",
        "Larger of the true-positive and the false-positive rate's largest difference between comparable attributes, "
        "mean over classes.",
        _DIFFERENCE,
        "lower",
        _SIDAK,
    ),
    MetricDefinition(
        "odds_difference_max", "The same, for the class where it is largest.", _DIFFERENCE, "lower", _SIDAK
    ),
    MetricDefinition(
        "disparate_impact_mean",
        "Lowest over highest P(predicted class | attribute) among comparable attributes, mean over classes.",
        _RATIO,
        "higher",
        _SIDAK,
    ),
    MetricDefinition("disparate_impact_min", "The same, for the class where it is smallest.", _RATIO, "higher", _SIDAK),
    MetricDefinition(
        "accuracy_ratio",
        "Lowest over highest share of right answers among comparable attributes (the smallest over families).",
        _RATIO,
        "higher",
        _SIDAK,
    ),
    MetricDefinition(
        "bias_amplification",
        "BiasAmp A->T: mean over (class, attribute) of P(predicted class | attribute) - P(class | attribute), "
        "signed by the association in training.",
        _DIFFERENCE,
        "none",
        _BOOTSTRAP,
    ),
    MetricDefinition(
        "bias_retained",
        "Share of the training association that the predictions keep: 0 removed, 1 replicated, above 1 amplified, "
        "below 0 reversed.",
        _INDEX,
        "none",
        _BOOTSTRAP,
    ),
    MetricDefinition(
        "flip_rate",
        "Chance that two renderings of one unit, drawn with replacement over all attributes, are answered differently.",
        _SHARE,
        "lower",
        _BOOTSTRAP,
    ),
    MetricDefinition(
        "flip_any", "Share of units whose answer changes with the attribute at all.", _SHARE, "lower", _BOOTSTRAP
    ),
    MetricDefinition(
        "calibration_error",
        "Mean |accuracy - confidence| over 15 bins of equal mass of the top probability.",
        _DIFFERENCE,
        "lower",
        _BAND,
    ),
    MetricDefinition(
        "calibration_error_worst_group",
        "Largest calibration error of a group that has at least one test image per bin.",
        _DIFFERENCE,
        "lower",
        _BAND,
    ),
    MetricDefinition(
        "information_y_a",
        "Mutual information of label and attribute in the training mixture.",
        _BITS,
        "none",
        _NONE,
        "training",
    ),
    MetricDefinition(
        "information_y_ag",
        "Mutual information of label and (attribute, real or generated) in the training mixture.",
        _BITS,
        "none",
        _NONE,
        "training",
    ),
    MetricDefinition(
        "worst_group_of_mean",
        "Lowest group accuracy after averaging each group over seeds.",
        _SHARE,
        "higher",
        _NONE,
        "seeds",
    ),
    MetricDefinition(
        "recovered_gap",
        "(method - erm) / (real-oracle - erm) on the ranking metric.",
        _INDEX,
        "higher",
        "t",
        "reference",
    ),
    MetricDefinition(
        "bias_moved",
        "Change against erm of the accuracy gap over another attribute's values at fixed (label, attribute).",
        _DIFFERENCE,
        "lower",
        _BAND,
        "reference",
    ),
    MetricDefinition(
        "acc_clean", "Accuracy on the images whose ablated views follow.", _SHARE, "higher", _EXACT, "views"
    ),
    MetricDefinition(
        "acc_object_grey",
        "Accuracy with the object grey: high means reliance on the background.",
        _SHARE,
        "lower",
        _EXACT,
        "views",
    ),
    MetricDefinition("acc_box_grey", "Accuracy with the object's bounding box grey.", _SHARE, "lower", _EXACT, "views"),
    MetricDefinition(
        "acc_tiled", "Accuracy with the object's box tiled by its neighbourhood.", _SHARE, "lower", _EXACT, "views"
    ),
    MetricDefinition(
        "rfs",
        "Relative foreground sensitivity: (accuracy with noise on the background - on the foreground) / "
        "(2 min(mean, 1 - mean)), of accuracies averaged over classes.",
        _INDEX,
        "higher",
        _BOOTSTRAP,
        "views",
    ),
)

METRICS: dict[str, MetricDefinition] = {definition.name: definition for definition in _DEFINITIONS}
"""Every metric, in the order in which tables show them."""
