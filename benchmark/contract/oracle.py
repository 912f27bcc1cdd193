"""Auditors only measure: whatever is one calls :func:`guard`, which raises while a method's ``fit`` is running."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from benchmark.errors import OracleUse

_fitting: ContextVar[str | None] = ContextVar("fitting", default=None)


@contextlib.contextmanager
def fitting(method: str, *, oracle: bool) -> Iterator[None]:
    """Mark that ``fit`` of a method is running.

    Args:
        method: Its name, for the message.
        oracle: Whether its card says that it is an oracle: then it is measured, never ranked, and may ask.
    """
    token = _fitting.set(None if oracle else method)
    try:
        yield
    finally:
        _fitting.reset(token)


def guard(auditor: str) -> None:
    """Refuse to be used inside ``fit``; every auditor calls this before it answers.

    Raises:
        OracleUse: While a method that is no declared oracle is being fitted.
    """
    if (method := _fitting.get()) is not None:
        raise OracleUse(
            f"{method} asks the auditor of {auditor} inside fit; auditors only measure. Train a filter on the run's "
            "own training split instead, or declare oracle=True, which is never ranked"
        )
