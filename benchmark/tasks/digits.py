"""``colorized-digits``: the 1,797 real UCI digits that scikit-learn carries, rendered in ten ink colours."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.records.canonical import sha256_hex
from benchmark.tasks.card import DataCard
from benchmark.tasks.ink import colourise, ink_jitter, upsample_bilinear
from benchmark.tasks.manifest import UNCOLOURED, Listing, Rows
from benchmark.tasks.task import Task

_SIDE, _MAXIMUM, _SAMPLES = 8, 16, 1797


class ColorizedDigits(Task):
    """The embedded default task: needs no download, so that everything can be tried anywhere."""

    def list_samples(self) -> Listing:
        """List the digits as ``digit-0000`` … in the file's order."""
        labels = self._scans[:, -1]
        ids = tuple(f"digit-{k:04d}" for k in range(len(labels)))
        return Listing(ids, labels.astype(np.int64), np.full(len(ids), UNCOLOURED, dtype=np.int64))

    def render(self, rows: Rows) -> NDArray[np.uint8]:
        """Colour the scans of ``rows``: grey value × (palette colour + the digit's own jitter)."""
        pixels = self.card.task.pixels
        palette = pixels.palette or {}
        colours = np.array([palette[v] for v in self.card.task.attribute.values], dtype=np.int64)
        index = np.array([int(s.removeprefix("digit-")) for s in rows.sources], dtype=np.int64)
        jitter = ink_jitter(self.card.task.name, rows.sources, pixels.ink_jitter)
        return colourise(self._grey[index], colours[rows.a] + jitter)

    @functools.cached_property
    def _scans(self) -> NDArray[np.int64]:
        return read_scans(self.card)

    @functools.cached_property
    def _grey(self) -> NDArray[np.uint8]:
        scans = self._scans[:, :-1].reshape(-1, _SIDE, _SIDE)
        return upsample_bilinear(scans, self.card.task.pixels.size // _SIDE, _MAXIMUM)


def read_scans(card: DataCard) -> NDArray[np.int64]:
    """Read scikit-learn's bundled file without importing scikit-learn (a second of start-up).

    Returns:
        int64 [1797, 65]: 64 grey values 0..16 and the label.

    Raises:
        DataError: When scikit-learn or its file is missing, or the content is not the pinned one.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("scikit-learn is not installed; it carries the digits of colorized-digits")
    source = card.task.sources[0]
    path = Path(spec.origin).parent / source.location
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot read {source.location} inside scikit-learn: {error}; reinstall scikit-learn"
        ) from error
    if sha256_hex(content) != source.sha256:
        raise DataError(
            f"{source.location} inside scikit-learn is not the pinned file (sha256 {sha256_hex(content)[:12]}…, "
            f"expected {str(source.sha256)[:12]}…); install a scikit-learn that carries the original"
        )
    table = np.array([line.split(b",") for line in content.split()], dtype=np.float64).astype(np.int64)
    if table.shape != (_SAMPLES, _SIDE * _SIDE + 1):
        raise DataError(f"{source.location} holds {table.shape} values, expected ({_SAMPLES}, 65)")
    return table
