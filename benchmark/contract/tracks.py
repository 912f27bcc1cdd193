"""Tracks (which group labels a method used) and selection rules (how its checkpoint was chosen); protocol §3."""

from __future__ import annotations

from enum import StrEnum


class Track(StrEnum):
    """Which group labels a row used, from none to all; a row is compared with its own or lower tracks."""

    NONE = "none"
    VALIDATION_SELECTS = "val-select"
    VALIDATION_TRAINS = "val-train"
    TRAIN = "train"

    @property
    def rank(self) -> int:
        """Position in the order of growing information."""
        return list(Track).index(self)

    def covers(self, other: Track) -> bool:
        """Whether this track allows everything that ``other`` does."""
        return self.rank >= other.rank


class SelectionRule(StrEnum):
    """How the ranked checkpoint of the last stage is chosen; one training writes one checkpoint per rule."""

    LAST = "last"
    VALIDATION_AVERAGE = "val-average"
    VALIDATION_WORST_GROUP = "val-worst-group"

    @property
    def needs(self) -> Track:
        """The group labels that the rule itself uses."""
        return Track.VALIDATION_SELECTS if self is SelectionRule.VALIDATION_WORST_GROUP else Track.NONE


def row_track(method: Track, rule: SelectionRule) -> Track:
    """Return the track of a row: the most that the method with its hyper-parameters and the rule used."""
    return max(method, rule.needs, key=lambda track: track.rank)
