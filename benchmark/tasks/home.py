"""Where data are: the folder that `data fetch` fills, the user's own copies, and whether terms were accepted."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import DamagedFile, DataError, NotAvailable
from benchmark.records.canonical import sha256_of
from benchmark.records.files import make_folder, read_json, write_json
from benchmark.records.store import default_store
from benchmark.tasks.card import DataCard

logger = logging.getLogger(__name__)

LOCATION, ACCEPTED = "location.json", "accepted.json"
_FORMAT = 1


def data_home() -> Path:
    """Return the folder of fetched and prepared data, below the default store."""
    return default_store() / "data"


def fetched_folder(card: DataCard) -> Path:
    """Return where `data fetch` puts the files of a task's data set."""
    return data_home() / "files" / _data_set(card)


def prepared_folder(card: DataCard) -> Path:
    """Return the folder of a data set's prepared images."""
    return data_home() / "prepared" / _data_set(card)


def _data_set(card: DataCard) -> str:
    return card.task.data_set or card.task.name


# --- a copy of the user's own --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A folder that may hold a data set, and how it came to our notice."""

    folder: Path
    origin: str


def places(card: DataCard) -> Iterator[Place]:
    """Yield the folders to look into: named by `data fetch --from`, fetched, and below ``GENBIAS_DATA``."""
    location = fetched_folder(card) / LOCATION
    if location.is_file():
        try:
            named: Path | None = Path(read_json(location)["folder"])
        except (DamagedFile, KeyError, TypeError):
            named = None
        if named is not None and named.is_dir():
            yield Place(named, "named by --from")
        else:
            # Not an error: what was fetched or prepared may do, and another folder can be named.
            logger.warning(
                "the folder that was named for %s is gone: %s", _data_set(card), named or "its note is damaged"
            )
    yield Place(fetched_folder(card), "fetched")
    root = os.environ.get("GENBIAS_DATA")
    if root and Path(root).is_dir():
        yield Place(Path(root), "GENBIAS_DATA")
        for folder in sorted(p for p in Path(root).iterdir() if p.is_dir()):
            yield Place(folder, "GENBIAS_DATA")


def remember_location(card: DataCard, folder: Path) -> None:
    """Note a folder of the user's own, for later commands."""
    make_folder(fetched_folder(card))
    write_json(fetched_folder(card) / LOCATION, {"format_version": _FORMAT, "folder": str(folder.resolve())})


def find(card: DataCard, matches: Callable[[Path], bool]) -> Place | None:
    """Return the first place whose folder matches the data set's layout."""
    return next((place for place in places(card) if place.folder.is_dir() and matches(place.folder)), None)


def not_here(card: DataCard) -> NotAvailable:
    """Return the error for data that are nowhere, with what to do."""
    layouts = "; ".join(source.layout for source in card.task.sources if source.kind == "folder" and source.layout)
    return NotAvailable(
        f"the data of {card.task.name} are not here. Either `genbias-bench data fetch {card.task.name}` downloads "
        f"them, or `genbias-bench data fetch {card.task.name} --from FOLDER` uses a copy of yours"
        + (f" ({layouts})" if layouts else "")
        + "; a folder named by GENBIAS_DATA is looked through too"
    )


# --- terms of use --------------------------------------------------------------------------------------------------


def accept_terms(card: DataCard) -> None:
    """Note that the user has accepted a data set's terms of use."""
    folder = make_folder(fetched_folder(card))
    write_json(folder / ACCEPTED, {"format_version": _FORMAT, "terms_sha256": sha256_of(card.task.terms)})


def terms_accepted(card: DataCard) -> bool:
    """Return whether the terms, in their present wording, need no acceptance or have been accepted."""
    if not card.task.terms_accept:
        return True
    path = fetched_folder(card) / ACCEPTED
    try:
        return path.is_file() and read_json(path).get("terms_sha256") == sha256_of(card.task.terms)
    except (DamagedFile, AttributeError):
        return False


def require_terms(card: DataCard) -> None:
    """Refuse to touch data whose terms have not been accepted.

    Raises:
        DataError: With the terms and how to accept them.
    """
    if not terms_accepted(card):
        raise DataError(
            f"the data of {card.task.name} have terms of use that must be accepted first: {card.task.terms} If you "
            f"accept them, run `genbias-bench data fetch {card.task.name} --accept-terms`"
        )
