"""What can go wrong with the Hub: whatever its client raises becomes an error of one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import DamagedFile, GenBiasError, NotAvailable
from benchmark.records.files import storage_error

_STALE, _UNSURE = (409, 412), (408, 429)


class NoRepository(NotAvailable):
    """The Hub has no such repository, or does not show it to this token."""


class StaleHead(NotAvailable):
    """Somebody else committed since the head was read; nothing was written."""


class Unreachable(NotAvailable):
    """No answer, or one that says to try again; whether a commit was made is not known."""


def refusal(error: Exception, repository: str, address: str) -> GenBiasError:
    """Turn whatever the Hub's client raised into an error of ours.

    Args:
        error: What it raised.
        repository: The repository in words.
        address: Of the repository's page.
    """
    from huggingface_hub import errors

    wrapped = isinstance(error, errors.LocalEntryNotFoundError | RuntimeError)
    if wrapped and isinstance(error.__cause__, Exception):  # an upload or a download broke off
        return refusal(error.__cause__, repository, address)
    known: list[tuple[type[Exception], type[GenBiasError], str]] = [
        (errors.OfflineModeIsEnabled, NotAvailable, "the Hub's client is set to offline; unset HF_HUB_OFFLINE"),
        (errors.GatedRepoError, NotAvailable, f"{repository} is gated; accept its terms at {address}"),
        (errors.RepositoryNotFoundError, NoRepository,
         f"there is no {repository} at {address}, or this token may not see it; check the name"),
        (errors.RevisionNotFoundError, NotAvailable,
         f"{repository} has no such branch, commit or pull request; see {address}/discussions"),
    ]  # fmt: skip
    for kind, ours, reason in known:
        if isinstance(error, kind):
            return ours(reason)
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error.response.status_code, str(error), repository, address)
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return DamagedFile(f"the Hub does not accept the front matter of README.md: {' '.join(str(error).split())}")
    return _without_answer(error, repository, address)


def _without_answer(error: Exception, repository: str, address: str) -> GenBiasError:
    # The client is built on httpx or httpx2, by its version.
    library = type(error).__module__.partition(".")[0]
    if library in ("httpx", "httpx2") or isinstance(error, ConnectionError | TimeoutError):
        return Unreachable(f"{address} could not be reached ({cause(error)}); try again later")
    if isinstance(error, OSError) and error.errno is not None:
        return storage_error(Path(error.filename or "."), error)
    return NotAvailable(f"the Hub's client failed on {repository}: {cause(error)}")


def _by_status(status: int, said: str, repository: str, address: str) -> GenBiasError:
    if status == 401:
        return NotAvailable(
            "the Hub does not accept this token; make another at https://huggingface.co/settings/tokens and run "
            "`hf auth login`, or set HF_TOKEN"
        )
    if status == 403:
        return NotAvailable(
            f"this token may not do that with {repository}; use one that may, to push one with write access"
        )
    if status in _STALE:
        return StaleHead(f"somebody else committed to {repository} meanwhile; run the same command again")
    if status in _UNSURE or status >= 500:
        return Unreachable(f"{address} answered with status {status}; try again later")
    return NotAvailable(f"{address} refused with status {status}: {' '.join(said.split())}")


def cause(error: BaseException) -> str:
    """Return the first line of the error behind an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
