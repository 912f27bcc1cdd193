"""What a submission says about itself: the one file of free text in it, read as strictly as the rest.

Written by `submit`, read by `verify`, the site and the data set. Text is text: whoever renders it escapes it; what
could change how a reader sees it (controls, directional marks, hidden characters) is refused here.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import DamagedFile
from benchmark.records.canonical import canonical_json
from leaderboard.text import plain
from leaderboard.untrusted import JSON_BYTES, SUBMISSION_FILE, UntrustedFolder, parse_json

METHOD_NAME = re.compile(r"(?:[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}/)?[a-z0-9][a-z0-9-]{0,99}", re.ASCII)
"""``name`` of an in-tree method, or ``package/name`` of a plug-in."""
_METHOD = rf"^{METHOD_NAME.pattern}@[0-9]{{1,6}}$"
_HOST = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", re.ASCII)
_LINK = re.compile(r"[!-~]+", re.ASCII)
_MARKUP = frozenset("<>\"'`\\")
_LONGEST_LINK = 300


def hidden_characters(text: str) -> list[str]:
    """Return the names of characters that show nothing or change how others show; line breaks and tabs are none."""
    found = {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}
    return [f"U+{ord(character):04X}" for character in sorted(found - {"\n", "\t"})]


def _visible(text: str) -> str:
    if hidden := hidden_characters(text):
        raise ValueError(
            f"holds {', '.join(hidden[:3])}: controls, directional marks and hidden characters are refused"
        )
    return text


def _one_line(text: str) -> str:
    if text != text.strip() or not text or "\n" in text or "\t" in text:
        raise ValueError("has to be one line that is not empty, without white space around it")
    return _visible(text)


def _https(link: str) -> str:
    """Refuse what is not a plain public web address."""
    try:
        parts = urlsplit(link)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no web address: {error}") from error
    if parts.scheme != "https" or not link.startswith("https://"):
        raise ValueError("is not https")
    if "@" in parts.netloc or port is not None or not _HOST.fullmatch(parts.netloc.lower()):
        raise ValueError("has to name a host, without a user, password or port")
    if not _LINK.fullmatch(link) or _MARKUP & set(link):
        raise ValueError("holds characters that an address has to escape")
    return link


Line = Annotated[str, Field(max_length=100), AfterValidator(_one_line)]
Link = Annotated[str, Field(max_length=_LONGEST_LINK), AfterValidator(_https)]


class Submission(BaseModel):
    """The content of submission.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: Literal[1]
    method: str = Field(pattern=_METHOD, description="name@version; a plug-in's name is package/name")
    title: Line
    authors: list[Line] = Field(min_length=1, max_length=50)
    links: list[Link] = Field(default=[], max_length=20, description="https only")
    citation: Annotated[str, Field(max_length=4_000, description="BibTeX"), AfterValidator(_visible)] = ""
    note: Annotated[str, Field(max_length=2_000), AfterValidator(_visible)] = ""


def read_submission(folder: Path | UntrustedFolder) -> Submission:
    """Read the file ``submission.json`` of a submission folder.

    Args:
        folder: The submission folder, or one that is open already.

    Raises:
        DamagedFile: When it is missing, no plain file, too large, or does not fit; all that does not fit is named.
        UsageError: When there is no such folder.
    """
    if isinstance(folder, Path):
        with UntrustedFolder(folder) as opened:
            return read_submission(opened)
    content = parse_json(folder.read(SUBMISSION_FILE, JSON_BYTES), SUBMISSION_FILE)
    try:
        # As JSON, so that numbers stay numbers and text stays text.
        return Submission.model_validate_json(canonical_json(content))
    except ValidationError as error:
        raise DamagedFile(f"{SUBMISSION_FILE}: {problems_of(error)}") from error


def problems_of(error: ValidationError, most: int = 5) -> str:
    """Return what does not fit a model, on one line: the first few places and reasons."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    listed = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in found[:most]]
    further = [f"and {len(found) - most} more"] if len(found) > most else []
    return plain("; ".join(listed + further), 500)
