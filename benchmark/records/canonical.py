"""Canonical JSON, SHA-256 and seeds derived from names: the base of every identity in the project."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_SEED_BITS = 63


def canonical_json(value: Any) -> bytes:
    """Serialise ``value`` so that equal values give equal bytes on every machine.

    Args:
        value: Anything made of dict, list, str, int, bool, float and None. Floats use Python's shortest repr.

    Returns:
        UTF-8 bytes with sorted keys and no spaces.

    Raises:
        ValueError: For NaN and infinities, which JSON does not have.
        TypeError: For anything else that JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of ``value``."""
    return sha256_hex(canonical_json(value))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def sha256_folder(folder: Path, suffixes: tuple[str, ...] = ()) -> str:
    """Return a SHA-256 over the relative names and contents of a folder's files.

    Args:
        folder: The folder; hidden files and folders are left out.
        suffixes: Only files with these suffixes count; empty means all.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder)))
    names = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files if not suffixes or p.suffix in suffixes}
    return sha256_of(names)


def derive_seed(**components: str | int) -> int:
    """Derive a seed from named components, so that only the chosen ones change it.

    Args:
        **components: For instance ``base=0, task="colorized-digits@1", method="erm@1", purpose="train/real"``.

    Returns:
        A non-negative integer below 2**63.
    """
    digest = hashlib.sha256(canonical_json(components)).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)
