"""What data are here: for `data list`, from names, sizes and small indices only, so that it answers at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import DamagedFile, GenBiasError
from benchmark.records.files import read_json
from benchmark.tasks import home
from benchmark.tasks.card import DataCard, card_names, load_card
from benchmark.tasks.catalog import load_task
from benchmark.tasks.file_task import FileTask
from benchmark.tasks.law import DRAWS
from benchmark.tasks.locks import load_lock, split_key
from benchmark.tasks.prepare import IMAGES, INDEX


@dataclass(frozen=True)
class Entry:
    """One task's data.

    Attributes:
        task: Name and version.
        state: ``package``, ``here``, ``prepared only``, ``absent`` or a problem in words.
        origin: How the files came to our notice, or None.
        bytes: What fetched and prepared files take on disk; the user's own copies are not counted.
        prepared: Sizes that are prepared, such as ``96 px (16,458 images)``, or an empty string.
        terms: ``accepted``, ``not accepted`` or ``none``.
        licence: As the card's front matter says.
        pinned: How many of the levels times draws the lock pins.
    """

    task: str
    state: str
    origin: str | None
    bytes: int
    prepared: str
    terms: str
    licence: str
    pinned: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def inventory() -> list[Entry]:
    """Return the data of every task, in the order of names."""
    return [_entry(load_card(name)) for name in card_names()]


def _entry(card: DataCard) -> Entry:
    state, origin = _state(card)
    pinned = load_lock("splits").entries.get(card.task.name, {})
    wanted = [split_key(card, level, draw) for level in card.task.levels for draw in DRAWS]
    licence = str(card.hub.get("license_name") or card.hub["license"])
    terms = "none" if not card.task.terms_accept else "accepted" if home.terms_accepted(card) else "not accepted"
    return Entry(
        task=card.id,
        state=state,
        origin=origin,
        bytes=_bytes(home.fetched_folder(card)) + _bytes(home.prepared_folder(card)),
        prepared=", ".join(_prepared(home.prepared_folder(card))),
        terms=terms,
        licence=licence,
        pinned=f"{sum(key in pinned for key in wanted)} of {len(wanted)}",
    )


def _state(card: DataCard) -> tuple[str, str | None]:
    if any(source.kind == "package" for source in card.task.sources):
        return "package", None
    try:
        task = load_task(card.task.name)
        place = home.find(card, task.matches) if isinstance(task, FileTask) else None
    except GenBiasError as error:
        return str(error), None
    if place is not None:
        return "here", place.origin
    return ("prepared only" if _prepared(home.prepared_folder(card)) else "absent"), None


def _prepared(folder: Path) -> list[str]:
    found: Counter[int] = Counter()
    for file in folder.glob(f"*/{INDEX}"):
        try:
            index = read_json(file)
            found[int(index["recipe"]["size"])] = max(found[int(index["recipe"]["size"])], int(index["n"]))
        except (DamagedFile, KeyError, TypeError, ValueError):
            continue
    return [f"{size} px ({n:,} images)" for size, n in sorted(found.items())]


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        # Sparse while a preparation is under way, so blocks are counted there.
        if path.is_file():
            status = path.stat()
            total += status.st_blocks * 512 if path.name == IMAGES else status.st_size
    return total
