"""Thinning out generated images: keep those of each group that a filter scores best (protocol §3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmark.contract.generation import Filter
from benchmark.evaluation.auxiliary import Auxiliary
from benchmark.evaluation.job import group_key
from benchmark.generators.pools import Counts, PoolImages
from benchmark.generators.recipe import sorted_groups
from benchmark.records.schema import FilterUse


def thin_out(
    drawn: PoolImages,
    counts: Counts,
    auxiliary: Auxiliary,
    prompts: Mapping[tuple[int, int | None], str],
    keep: Filter,
) -> tuple[PoolImages, FilterUse, str]:
    """Keep the best of each group; among equals, and where the filter is refused, those with lower indices.

    Args:
        drawn: The images sampled.
        counts: How many of each group to keep.
        auxiliary: What gives the scores.
        prompts: Prompt of each group.
        keep: Which filter; not ``none``.

    Returns:
        The images kept, what the record says of the filter, and why it was refused (empty when it was not).
    """
    refused = auxiliary.refusal(drawn.a) if keep == "own" else ""
    scores = np.zeros(len(drawn.y)) if refused else auxiliary.scores(drawn.images, drawn.y, drawn.a, prompts, keep)
    best: list[int] = []
    indices: dict[str, list[int]] = {}
    for group in sorted_groups(counts):
        members = np.flatnonzero((drawn.y == group.y) & (drawn.a == group.attribute))
        chosen = np.sort(members[np.argsort(-scores[members], kind="stable")[: counts[group]]])
        best += chosen.tolist()
        indices[group_key(group.y, group.a)] = drawn.index[chosen].tolist()
    dropped = np.setdiff1d(np.arange(len(drawn.y)), best)
    use = FilterUse(
        kind="own" if keep == "own" else "clip",
        model=f"refused, so the first ones were kept: {refused}" if refused else auxiliary.filter_name(keep),
        kept_indices=indices,
        mean_score_kept=float(scores[best].mean()) if best and not refused else None,
        mean_score_dropped=float(scores[dropped].mean()) if len(dropped) and not refused else None,
    )
    return drawn.take(best), use, refused
