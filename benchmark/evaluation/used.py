"""The generated images that a method saw, read again from the store by what the record says."""

from __future__ import annotations

from benchmark.contract.images import NO_ATTRIBUTE
from benchmark.generators.pools import PoolImages, open_pool
from benchmark.records.schema import PoolUse
from benchmark.records.store import Store


def used_images(store: Store, use: PoolUse) -> PoolImages:
    """Return the images of a pool that a method saw: those sampled, without what a filter dropped."""
    counts: dict[tuple[int, int | None], int] = {}
    for key, (_, stop) in use.ranges.items():
        y, _, a = key.partition("-")
        counts[int(y), None if a == "any" else int(a)] = stop
    images = open_pool(store, use.pool_id).read(counts)
    if use.filter is None:
        return images
    kept = {
        (int(y), NO_ATTRIBUTE if a == "any" else int(a), index)
        for key, indices in use.filter.kept_indices.items()
        for y, _, a in [key.partition("-")]
        for index in indices
    }
    rows = zip(images.y.tolist(), images.a.tolist(), images.index.tolist(), strict=True)
    return images.take([k for k, row in enumerate(rows) if row in kept])
