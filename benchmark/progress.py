"""How long-running work says where it is; the command line shows it, the library stays silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Nested progress: each piece of work has a name and a total."""

    def start(self, name: str, total: int) -> int:
        """Begin a piece of work and return its handle."""

    def advance(self, handle: int, n: int) -> None:
        """Say that ``n`` more of a piece are done."""

    def finish(self, handle: int) -> None:
        """End a piece."""

    def message(self, text: str) -> None:
        """Say something once."""


class Silent:
    """Progress that shows nothing."""

    def start(self, name: str, total: int) -> int:
        """Begin nothing."""
        del name, total
        return 0

    def advance(self, handle: int, n: int) -> None:
        """Show nothing."""

    def finish(self, handle: int) -> None:
        """End nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""
