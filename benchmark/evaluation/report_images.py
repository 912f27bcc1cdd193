"""The images on the page of an audit: samples by class and by group, typical ones, transfers and matched samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.audits.charts import Gallery
from benchmark.evaluation.audited_images import Seen
from benchmark.evaluation.typical import Rated, extremes
from benchmark.metrics.data import IntArray
from benchmark.tasks.card import DataCard

_PER_CLASS = 10
_PER_GROUP = 8
_TYPICAL = 6
_CODES = 6
_MANY_GROUPS = 20
_BLANK = 245
"""Grey level of a place without an image."""


def by_class(seen: Seen, card: DataCard) -> Gallery:
    """Return a row of images for each class that has some."""
    labels = card.task.label.values
    members = {labels[y]: np.flatnonzero(seen.y[seen.chosen] == y) for y in range(len(labels))}
    panel, rows = _rows(members, seen.images, _PER_CLASS)
    return Gallery(
        section="class",
        title=f"Images asked for by {card.task.label.name}",
        captions=("the first ones of each",),
        panels=(panel,),
        rows=rows,
    )


def by_group(seen: Seen, card: DataCard) -> list[Gallery]:
    """Return some images of each group, or one of each where there are many groups."""
    allowed = card.allowed_groups()
    y, a = seen.y[seen.chosen], seen.a[seen.chosen]
    title = f"Images asked for by {card.task.label.name} and {card.task.attribute.name}"
    labels, attributes = card.task.label.values, card.task.attribute.values
    if allowed.sum() <= _MANY_GROUPS:
        members = {
            f"{labels[c]}, {attributes[v]}": np.flatnonzero((y == c) & (a == v)) for c, v in np.argwhere(allowed)
        }
        panel, rows = _rows(members, seen.images, _PER_GROUP)
        return [Gallery("group", title, ("the first ones of each",), (panel,), rows=rows)]
    galleries = []
    for family in sorted({tuple(np.flatnonzero(row).tolist()) for row in allowed}):
        classes = [c for c in range(len(labels)) if tuple(np.flatnonzero(allowed[c]).tolist()) == family]
        panel = np.full((len(classes), len(family), *seen.images.shape[1:]), _BLANK, dtype=np.uint8)
        for row, c in enumerate(classes):
            for column, v in enumerate(family):
                found = np.flatnonzero((y == c) & (a == v))
                if len(found):
                    panel[row, column] = seen.images[found[0]]
        heads = tuple(attributes[v] for v in family)
        sides = tuple(labels[c] for c in classes)
        galleries.append(Gallery("group", title, ("the first one of each group",), (panel,), heads, sides))
    return galleries


def typical(found: Rated, card: DataCard) -> Gallery | None:
    """Return the most and least typical images of each group; of each class where groups are many or not known."""
    labels, attributes = card.task.label.values, card.task.attribute.values
    if (found.a < 0).any() or card.allowed_groups().sum() > _MANY_GROUPS:
        parts = {label: np.flatnonzero(found.y == y) for y, label in enumerate(labels)}
    else:
        parts = {
            f"{labels[y]}, {attributes[a]}": np.flatnonzero((found.y == y) & (found.a == a))
            for y, a in np.argwhere(card.allowed_groups())
        }
    captions, panels = [], []
    for caption, members in parts.items():
        most, least = extremes(members, found.typicality, min(_TYPICAL, len(members) // 2))
        if len(least):
            captions.append(caption)
            panels.append(np.stack([found.images[most], found.images[least]]))
    if not panels:
        return None
    return Gallery(
        section="typicality",
        title="Most and least typical of the generated images",
        captions=tuple(captions),
        panels=tuple(panels),
        rows=("most typical", "least typical"),
    )


def strips(images: Sequence[NDArray[np.uint8]], names: Iterable[str]) -> Gallery:
    """Return matched samples: in each row the same latent code, in each column a condition.

    Args:
        images: Of each condition, uint8 [codes, h, w, 3].
        names: Of the conditions.
    """
    pairs = np.stack(list(images), axis=1)
    panels = [pairs[start : start + _CODES] for start in range(0, len(pairs), _CODES)]
    return Gallery(
        section="matched",
        title="The same codes under each condition",
        captions=tuple(f"codes {_CODES * k + 1}–{_CODES * k + len(panel)}" for k, panel in enumerate(panels)),
        panels=tuple(panels),
        columns=tuple(names),
    )


def moved(pairs: Iterable[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]], columns: Sequence[str]) -> Gallery:
    """Return sources above what became of them, a panel for each class.

    Args:
        pairs: Class, sources and moved images, uint8 [columns, h, w, 3] each.
        columns: Attribute that the images of a column were moved to.
    """
    parts = list(pairs)
    return Gallery(
        section="transfer",
        title="Real images and what they became when moved to another attribute",
        captions=tuple(name for name, _, _ in parts),
        panels=tuple(np.stack([source, image]) for _, source, image in parts),
        columns=tuple(columns),
        rows=("source", "moved"),
    )


def _rows(
    members: dict[str, IntArray], images: NDArray[np.uint8], most: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return the first images of each entry that has some, as many of each, and the names of these entries."""
    there = {name: found for name, found in members.items() if len(found)}
    columns = min(most, *(len(found) for found in there.values()))
    return np.stack([images[found[:columns]] for found in there.values()]), tuple(there)
