"""What the page of an audit draws, without a script: values on a track, heat maps of groups, and contact sheets."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.audits.markup import PERCENT, Number, Numbers, decimal, text
from benchmark.audits.report import AuditedTask
from benchmark.errors import InvalidValue
from benchmark.records.schema import Shares

MOST_BYTES = 1_200_000
"""Of all images on a page as PNG; base64 adds a third."""
_EDGES = (96, 64, 48, 32, 24, 16)
"""Longest side of a picture in pixels: the first at which a page's images fit."""
_SHOWN_SMALL, _SHOWN_LARGE = 48, 72
"""Width on the page, in CSS pixels, of pictures that have no more pixels than the first, and of others."""
_GAPS = 16
"""Gaps between pictures that would make one picture."""
_LONGEST_HEAD = 6
"""Characters that fit above a picture."""
_MANY_PANELS = 24
"""More panels scroll in a box."""
_STEPS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_UPRIGHT = 5
"""Heads of more columns than this are turned."""

# --- images ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images of a report, in panels of rows and columns.

    Attributes:
        section: Where they stand on the page: with the images asked for by class or by group, or in another section.
        title: What they are.
        captions: One for each panel.
        panels: Images of each panel, uint8 [rows, columns, h, w, 3]; panels may have different shapes.
        columns: Heads of the columns, the same for every panel; empty for none.
        rows: Heads of the rows, the same for every panel; empty for none.
    """

    section: Literal["class", "group", "typicality", "matched", "transfer"]
    title: str
    captions: tuple[str, ...]
    panels: tuple[NDArray[np.uint8], ...]
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be laid out."""
        if len(self.captions) != len(self.panels):
            raise InvalidValue(
                f"gallery {self.title!r} has {len(self.captions)} captions for {len(self.panels)} panels"
            )
        for panel in self.panels:
            if panel.dtype != np.uint8 or panel.ndim != 5 or panel.shape[-1] != 3 or 0 in panel.shape:
                raise InvalidValue(
                    f"gallery {self.title!r} needs panels of uint8 [rows, columns, h, w, 3], not {panel.dtype} "
                    f"{panel.shape}"
                )
            for heads, size in ((self.rows, panel.shape[0]), (self.columns, panel.shape[1])):
                if heads and len(heads) != size:
                    raise InvalidValue(f"gallery {self.title!r} has {len(heads)} heads for {size} rows or columns")


def contact_sheets(galleries: Sequence[Gallery], most_bytes: int = MOST_BYTES) -> list[list[bytes]]:
    """Return one PNG for each panel of each gallery, at the largest size at which all of them fit.

    Args:
        galleries: The images.
        most_bytes: Limit for all PNGs together.

    Raises:
        InvalidValue: When they do not fit at the smallest size either.
    """
    native = max((max(panel.shape[2:4]) for gallery in galleries for panel in gallery.panels), default=0)
    largest = min(native, _EDGES[0])
    for edge in (largest, *(edge for edge in _EDGES if edge < largest)):
        sheets = [[_sheet(panel, edge) for panel in gallery.panels] for gallery in galleries]
        if sum(len(sheet) for part in sheets for sheet in part) <= most_bytes:
            return sheets
    count = sum(math.prod(panel.shape[:2]) for gallery in galleries for panel in gallery.panels)
    raise InvalidValue(f"{count:,} images are too many for one page; show fewer of each group")


def _sheet(panel: NDArray[np.uint8], edge: int) -> bytes:
    rows, columns, height, width, _ = panel.shape
    scale = min(1.0, edge / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Transparent, so that it has the colour of the page; one behind the last image keeps columns under their heads.
    gap = max(1, max(size) // _GAPS)
    sheet = Image.new("RGBA", (columns * (size[0] + gap), rows * (size[1] + gap)))
    for row, column in np.ndindex(rows, columns):
        picture = Image.fromarray(panel[row, column])
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(picture, (column * (size[0] + gap), row * (size[1] + gap)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def show_gallery(gallery: Gallery, sheets: Sequence[bytes], heading: Literal["h3", "h4"]) -> str:
    """Return a gallery as figures, each with its contact sheet inside."""
    figures = "".join(
        _figure(gallery, caption, panel, sheet)
        for caption, panel, sheet in zip(gallery.captions, gallery.panels, sheets, strict=True)
    )
    title = text(gallery.title)
    many = len(gallery.panels) > _MANY_PANELS
    box = f'class="gallery boxed" tabindex="0" role="region" aria-label="{title}"' if many else 'class="gallery"'
    return f"<{heading}>{title}</{heading}><div {box}>{figures}</div>"


def _figure(gallery: Gallery, caption: str, panel: NDArray[np.uint8], sheet: bytes) -> str:
    rows, columns, _, width, _ = panel.shape
    shown = columns * (_SHOWN_SMALL if width <= _SHOWN_SMALL else _SHOWN_LARGE)
    data = base64.b64encode(sheet).decode("ascii")
    alternative = text(f"{gallery.title}, {caption}: {rows} × {columns} images")
    turned = ' class="upright"' if any(len(head) > _LONGEST_HEAD for head in gallery.columns) else ""
    across = "".join(f"<span><span{turned}>{text(head)}</span></span>" for head in gallery.columns)
    down = "".join(f"<span>{text(head)}</span>" for head in gallery.rows)
    heads = f'<div class="across" style="--n:{columns}">{across}</div>' if across else ""
    side = f'<div class="down" style="--n:{rows}">{down}</div>' if down else ""
    return (
        f"<figure><figcaption>{text(caption)}</figcaption>"
        f'<div class="sheet{" sided" if side else ""}" style="--width:{shown}px">{heads}{side}'
        f'<img src="data:image/png;base64,{data}" alt="{alternative}"></div></figure>'
    )


# --- values on a track -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """A value on a track: a bar for real data, a ring for what was asked for, a dot for what was seen."""

    kind: Literal["real", "asked", "seen"]
    value: float | None
    low: float | None = None
    high: float | None = None


REAL = ("training data", Mark("real", 0.5))
ASKED = ("asked for", Mark("asked", 0.5))
SEEN = ("generated, with its interval", Mark("seen", 0.5, 0.1, 0.9))


def key(*kinds: tuple[str, Mark]) -> str:
    """Return what the marks mean."""
    items = "".join(f"<li>{track([mark], 1.0)}{text(name)}</li>" for name, mark in kinds)
    return f'<ul class="key">{items}</ul>'


def scale_end(values: Iterable[float | None]) -> float:
    """Return a round number at or above every value, for the end of a scale that starts at 0."""
    largest = max((value for value in values if value is not None), default=0.0)
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    # A value such as 0.30000000000000004 is a third step, not a fourth.
    return next(step * power for step in _STEPS if step * power >= largest * (1 - 1e-9))


def scale_head(end: float) -> str:
    """Return the head of a column of tracks: where they start and end, in percent."""
    shown = f"{decimal(100 * end, 0 if end >= 0.1 else 1)}{PERCENT}"
    return f'<span class="ends"><span>0</span><span>{shown}</span></span>'


def track(marks: Sequence[Mark], end: float) -> str:
    """Return a line from 0 to ``end`` with the marks on it, as SVG; the numbers stand in the cells beside it."""
    drawn = "".join(_drawn(mark, mark.value, end) for mark in marks if mark.value is not None)
    return f'<svg class="track" aria-hidden="true"><line class="base" x1="0" x2="100%" y1="50%" y2="50%"/>{drawn}</svg>'


def _drawn(mark: Mark, value: float, end: float) -> str:
    at = _place(value, end)
    if mark.kind == "real":
        return f'<line class="real" x1="{at}" x2="{at}" y1="8%" y2="92%"/>'
    if mark.kind == "asked":
        return f'<circle class="asked" cx="{at}" cy="50%" r="5.5"/>'
    line = ""
    if mark.low is not None and mark.high is not None:
        ends = f'x1="{_place(mark.low, end)}" x2="{_place(mark.high, end)}"'
        line = f'<line class="interval" {ends} y1="50%" y2="50%"/>'
    return f'{line}<circle class="seen" cx="{at}" cy="50%" r="3.5"/>'


def _place(value: float, end: float) -> str:
    # Some percent stay free on either side, so that marks at the ends are whole.
    return f"{3 + 94 * min(max(value / end, 0.0), 1.0):.2f}%"


# --- heat maps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """The groups of a table: which value stands in which cell, and under which heads.

    Attributes:
        down: What rows are.
        across: What columns are.
        rows: Heads of the rows.
        columns: Heads of the columns.
        places: For each row the indices of its values, as many as there are columns.
        names: Names of the values where a column holds another one in every row; empty where heads say it.
        aligned: For each row the index that is bias-aligned; empty for none.
    """

    down: str
    across: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()
    aligned: tuple[int, ...] = ()

    @classmethod
    def of_task(cls, task: AuditedTask) -> Grid:
        """Return classes × attribute values; of equally large families, only a class's own values stand in its row.

        A hundred fine classes in twenty superclasses then make five columns and not a hundred, nearly all empty.
        """
        return cls._of(task, task.label, task.attribute, task.labels, task.possible, task.aligned)

    @classmethod
    def between_attributes(cls, task: AuditedTask) -> Grid:
        """Return attribute values × attribute values, in the same way."""
        values = range(len(task.attributes))
        family = [next((own for own in task.possible if value in own), [value]) for value in values]
        return cls._of(task, "from", "to", task.attributes, family, [])

    @classmethod
    def _of(
        cls,
        task: AuditedTask,
        down: str,
        across: str,
        rows: Sequence[str],
        own: Sequence[Sequence[int]],
        aligned: Sequence[int],
    ) -> Grid:
        values, widths = tuple(task.attributes), {len(places) for places in own}
        compact = len(widths) == 1 and widths != {len(values)}
        width = widths.pop() if compact else len(values)
        return cls(
            down=down,
            across=across,
            rows=tuple(rows),
            columns=tuple(str(k + 1) for k in range(width)) if compact else values,
            places=tuple(tuple(places) for places in own) if compact else (tuple(range(width)),) * len(own),
            names=values if compact else (),
            aligned=tuple(aligned),
        )


def heat_map(
    grid: Grid,
    values: Shares,
    numbers: Numbers,
    *,
    caption: str,
    note: str = "",
    end: float,
    number: Number,
    why_null: str,
) -> str:
    """Return a table whose cells are shaded by their value.

    Args:
        grid: Which value stands where.
        values: [rows][values]; null where undefined.
        numbers: Where the reason is listed, if a value is null.
        caption: Of the table.
        note: Behind the caption, smaller.
        end: Value of the darkest shade; 0 is the lightest.
        number: How a value is written.
        why_null: Behind every "—".
    """
    corner = f"{text(grid.across)} →<br>{text(grid.down)} ↓"
    turned = ' class="upright"' if len(grid.columns) > _UPRIGHT else ""
    heads = "".join(f'<th scope="col"><span{turned}>{text(head)}</span></th>' for head in grid.columns)
    body, missing = "", False
    for row, places in enumerate(grid.places):
        cells = "".join(_cell(grid, row, place, values[row][place], end, number, why_null) for place in places)
        missing |= any(values[row][place] is None for place in places)
        body += f'<tr><th scope="row">{text(grid.rows[row])}</th>{cells}</tr>'
    mark = numbers.mark(why_null) if missing else ""
    return (
        f'<div class="scroll"><table class="heat"><caption>{text(caption)}{mark} <small>{text(note)}</small></caption>'
        f'<thead><tr><th scope="col" class="corner">{corner}</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(grid: Grid, row: int, place: int, value: float | None, end: float, number: Number, why_null: str) -> str:
    name = f"<small>{text(grid.names[place])}</small> " if grid.names else ""
    if value is None:
        return f'<td class="null" title="{text(why_null)}">{name}—</td>'
    content = f"{name}{number(value)}"
    if grid.aligned and grid.aligned[row] == place:
        content = f"<strong>{content}</strong>"
    return f'<td style="--v:{round(100 * min(max(value / end, 0.0), 1.0))}">{content}</td>'
