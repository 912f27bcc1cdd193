"""Contact sheets on the page: small, bounded, and of no task whose images stay on the machine that made them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import DamagedFile
from leaderboard.groups import Scored
from leaderboard.load import check_plain
from leaderboard.people import may_show_pictures
from leaderboard.site.text import plain

SHEET = "contact_sheet.png"
MOST_BYTES = 90_000
"""Of all pictures on the page; base64 adds a third."""
_MOST_FILE_BYTES, _MOST_PIXELS = 8 * 2**20, 16_000_000
_LARGEST, _QUALITY = (440, 330), 55


@dataclass(frozen=True)
class Picture:
    """A picture inside the page."""

    alt: str
    source: str


def pictures(runs: Sequence[Scored]) -> dict[str, Picture]:
    """Return the pictures that may be shown and fit, by run id: one for each method and generator of a task.

    Pictures of people, and of what was trained on them, are not even read (protocol §10).
    """
    found: dict[str, Picture] = {}
    shown: set[tuple[str, str, str]] = set()
    public = {task for task in {each.run.record.cell.task for each in runs} if may_show_pictures(task)}
    left = MOST_BYTES
    for scored in sorted(runs, key=lambda each: (each.run.record.cell.task, each.run.record.run_id)):
        cell = scored.run.record.cell
        key = (cell.task, cell.method, str(cell.generator))
        if key in shown or cell.task not in public:
            continue
        data = _small(scored.run.file.parent / SHEET)
        if data is not None and len(data) <= left:
            left -= len(data)
            shown.add(key)
            alt = f"Generated beside real images of {plain(cell.task)}, by group, from a run of seed {cell.seed}"
            source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
            found[scored.run.record.run_id] = Picture(alt, source)
    return found


def _small(file: Path) -> bytes | None:
    """Return a picture file as a small JPEG; None where there is none, or no picture that can be read safely."""
    try:
        check_plain(file, _MOST_FILE_BYTES)
    except DamagedFile:
        return None
    from PIL import Image

    try:
        with Image.open(file, formats=["PNG"]) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                return None
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    image.thumbnail(_LARGEST, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
