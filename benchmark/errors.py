"""The one hierarchy of errors that users see: each message says what happened, with which value, and what to do.

The command line shows them without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenBiasError(Exception):
    """Base of every error that genbias-bench raises on purpose."""

    exit_code = 1


class UsageError(GenBiasError):
    """The caller asked for something that does not exist or makes no sense."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not registered; carries the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        """Say which ``kind`` of thing ``name`` should have been, and which names there are.

        Args:
            kind: What was looked up, such as ``"method"``.
            name: The name as given.
            known: Every name that would have been accepted.
            hint: What else to do, appended to the message.
        """
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.4)
        guess = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
        message = f"unknown {kind} {name!r}{guess}"
        message += f" Known: {', '.join(self.known) or 'none'}."
        super().__init__(f"{message} {hint}".rstrip())


class InvalidValue(UsageError):
    """An option or hyper-parameter has a value that cannot be used."""


class NotAvailable(GenBiasError):
    """Something that exists in principle (a device, a data set, weights) is not on this machine."""


class DataError(GenBiasError):
    """Source data are missing, damaged or not what the lock says they are."""


class StoreError(GenBiasError):
    """A folder cannot be read or written, or is of another format version."""


class DamagedFile(GenBiasError):
    """A file that we wrote, or were given, does not hold what its digest or format promises."""


class NewerSchema(GenBiasError):
    """A record of a newer major schema than this version can read."""


class GeneratorError(GenBiasError):
    """A generator cannot be loaded or produced something unusable."""


class TrainingDiverged(GenBiasError):
    """The loss became NaN or infinite."""


class ContractViolation(GenBiasError):
    """A method broke the rules of the contract."""


class UndeclaredGroupLabels(ContractViolation):
    """A method read group labels that its card does not declare."""


class OracleUse(ContractViolation):
    """A method called an auditor, which may only measure."""


class BudgetExceeded(ContractViolation):
    """A method asked for more images or optimiser steps than the protocol gives."""


class NotApplicable(GenBiasError):
    """A method cannot run on this cell for a reason of principle; the record's status becomes ``skipped``."""
