"""Progress for people: nested bars with time left on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINE_EVERY_S = 5.0


class Lines:
    """Plain lines: when a piece begins, every few seconds, and when it ends."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[Any]] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def start(self, name: str, total: int) -> int:
        """Begin a piece of work."""
        self._count += 1
        now = time.monotonic()
        self._pieces[self._count] = [name, total, 0, now, now]
        sys.stderr.write(f"{name}: 0/{total}\n")
        return self._count

    def advance(self, handle: int, n: int) -> None:
        """Say that more is done; prints at most every few seconds."""
        piece = self._pieces[handle]
        piece[2] += n
        now = time.monotonic()
        if now - piece[4] >= _LINE_EVERY_S and piece[2] < piece[1]:
            piece[4] = now
            left = (now - piece[3]) / piece[2] * (piece[1] - piece[2]) if piece[2] else 0.0
            sys.stderr.write(f"{piece[0]}: {piece[2]}/{piece[1]}, about {left:.0f} s left\n")

    def finish(self, handle: int) -> None:
        """End a piece."""
        name, total, done, start, _ = self._pieces.pop(handle)
        sys.stderr.write(f"{name}: {done}/{total} in {time.monotonic() - start:.1f} s\n")

    def message(self, text: str) -> None:
        """Say something once."""
        sys.stderr.write(f"{text}\n")


class Bars:
    """Nested bars on a terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )  # fmt: skip

        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=Console(stderr=True),
        )  # fmt: skip
        self._title = title
        self._tasks: list[TaskID] = []

    def __enter__(self) -> Self:
        self._progress.start()
        self._whole = self._progress.add_task(self._title, total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._progress.update(self._whole, total=1, completed=1)
        self._progress.stop()

    def start(self, name: str, total: int) -> int:
        """Begin a piece of work."""
        self._tasks.append(self._progress.add_task(f"  {name}", total=total))
        return len(self._tasks) - 1

    def advance(self, handle: int, n: int) -> None:
        """Say that more is done."""
        self._progress.advance(self._tasks[handle], n)

    def finish(self, handle: int) -> None:
        """End a piece."""
        self._progress.stop_task(self._tasks[handle])

    def message(self, text: str) -> None:
        """Say something once, above the bars."""
        self._progress.console.print(text, markup=False)


def progress(title: str) -> Lines | Bars:
    """Return bars on a terminal and lines elsewhere."""
    return Bars(title) if sys.stderr.isatty() else Lines()
