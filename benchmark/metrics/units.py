"""Resampling units and strata of a test split: what counts as one independent observation (protocol section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmark.metrics.data import IntArray, TestLabels


@dataclass(frozen=True, eq=False)
class Design:
    """How the test split was sampled.

    Attributes:
        unit: Index 0..units-1 of each row's unit, int64 [n].
        stratum: Index of each unit's stratum, int64 [units].
        n_strata: Number of strata.
        strata: ``label`` in crossed tests, ``group`` where no unit spans groups, else ``none``.
    """

    unit: IntArray
    stratum: IntArray
    n_strata: int
    strata: Literal["label", "group", "none"]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.stratum)


def sampling_design(test: TestLabels) -> Design:
    """Return units and strata of a test split."""
    _, first, unit = np.unique(test.unit, return_index=True, return_inverse=True)
    unit = unit.reshape(-1).astype(np.int64)
    kind: Literal["label", "group", "none"] = "none"
    law = np.zeros(len(first), dtype=np.int64)
    if test.crossed:
        kind, law = "label", test.y[first]
    elif (test.group == test.group[first][unit]).all():
        kind, law = "group", test.group[first]
    values, stratum = np.unique(law, return_inverse=True)
    return Design(unit, stratum.reshape(-1).astype(np.int64), len(values), kind)
