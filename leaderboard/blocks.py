"""Made parts of a Markdown page that people write: what stands between two comments is replaced, all else stays."""

from __future__ import annotations

from benchmark.errors import DamagedFile


def comments(name: str) -> tuple[str, str]:
    """Return the comments that stand around the block of a name."""
    return f"<!-- {name}: start -->", f"<!-- {name}: end -->"


def framed(name: str, text: str) -> str:
    """Return a block: a text between the two comments of its name."""
    start, end = comments(name)
    return f"{start}\n{text}\n{end}"


def replace_block(content: str, name: str, block: str, origin: str) -> str:
    """Return a page with another block of a name.

    Args:
        content: The page.
        name: Of the block.
        block: The new one, with its comments.
        origin: Which page, for the error.

    Raises:
        DamagedFile: When the comments are not there once each, the first before the second.
    """
    start, end = comments(name)
    before, found, rest = content.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed) or start in rest or end in before + after:
        raise DamagedFile(f"{origin} must hold {start} and {end} once each, in this order")
    return f"{before}{block}{after}"
