"""Generators that are trained from random weights on images which a method hands over, as they lie in the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Curve = tuple[dict[str, float | int | None], ...]


@dataclass(frozen=True)
class OwnModel:
    """A trained generator.

    Attributes:
        kind: Which.
        folder: Its files in the store; None where it has no weights.
        sha256: Of its weights.
        images: Images that it was trained on.
        seconds: How long its training took, also when it was there already.
        curves: One row per entry of the training log: ``step`` and losses.
    """

    kind: Literal["from-scratch", "invertible", "bootstrap"]
    folder: Path | None
    sha256: str
    images: int
    seconds: float
    curves: Curve

    def as_record(self) -> dict[str, str | None]:
        """Return its identity in the words of a pool's recipe."""
        return {"name": self.kind, "revision": None, "content_sha256": self.sha256}
