"""What is known of a file before it is read, and whom an error is to be blamed on when it turns out otherwise."""

from __future__ import annotations

from datetime import datetime, timedelta

from agents.attempt import INTERRUPTIONS, Attempt
from dtscore.checksums import parse
from dtscore.errors import (
    CatalogConflictError,
    ChangedSinceQueuedError,
    ChecksumMismatchError,
    CredentialsError,
    FileMissingError,
    HostKeyError,
    SizeMismatchError,
    WorkError,
)
from storage.element import StorageElement

_CLOCK_GRAIN = timedelta(milliseconds=1)
"""Moments of change are rounded on their way: a file is taken as written later from here on."""


def blame(error: WorkError) -> str:
    """Return the state that an error gives to the replica it was met at; '' where the replica is not to blame.

    Bad only where the bytes are known to be wrong or gone: a key that expired must not condemn a whole archive.
    """
    if isinstance(error, (FileMissingError, SizeMismatchError, ChecksumMismatchError)):
        return "Bad"
    innocent = error.outage or isinstance(error, (CredentialsError, HostKeyError, *INTERRUPTIONS))
    return "" if innocent else "Suspect"


def expected_checksums(attempt: Attempt) -> tuple[str, ...]:
    """Return the checksums that the bytes must have: the declared one and, unless overwriting, the catalog's."""
    known = attempt.entry.checksum if attempt.entry and not attempt.overwrite else None
    return tuple(dict.fromkeys(text for text in (attempt.file.checksum, known) if text))


def expected_size(attempt: Attempt) -> int | None:
    """Return the size in bytes that the file must have, if anybody said one."""
    if attempt.file.size is None and attempt.entry and not attempt.overwrite:
        return attempt.entry.size
    return attempt.file.size


def refuse_conflict(attempt: Attempt) -> None:
    """Raise CatalogConflictError when the request declares other bytes than the catalog holds under this name."""
    entry, file = attempt.entry, attempt.file
    if entry is None or attempt.overwrite:
        return
    same_sum = not file.checksum or parse(file.checksum).algorithm != parse(entry.checksum).algorithm
    if file.size in (None, entry.size) and (same_sum or file.checksum == entry.checksum):
        return
    raise CatalogConflictError(
        f"{file.lfn} is in the catalog with {entry.size} bytes and {entry.checksum}; "
        f"the request declares {file.size or 'no'} bytes and {file.checksum or 'no checksum'}",
        'use another name, or say overwrite="yes"',
    )


def refuse_changed(attempt: Attempt, origin: StorageElement, pfn: str) -> None:
    """Raise ChangedSinceQueuedError when the source that the request names was written to after it was queued."""
    operation = attempt.file.operation
    since = operation.options.get("unmodified-since")
    if since is None or origin.name != operation.source:
        return
    modified = origin.stat(pfn).modified
    if modified is not None and modified > datetime.fromisoformat(since) + _CLOCK_GRAIN:
        raise ChangedSinceQueuedError(
            f"{pfn} on {origin.name} was written to at {modified:%Y-%m-%d %H:%M:%S.%f}Z, after it was queued",
            "queue it again as it is now", element=origin.name,
        )  # fmt: skip


def may_have_changed(attempt: Attempt, origin: StorageElement, pfn: str) -> bool:
    """Whether `refuse_changed` refuses the source, or it cannot be looked at: then it is tried alone, with others."""
    try:
        refuse_changed(attempt, origin, pfn)
    except WorkError:
        return True
    return False


def compare_size(attempt: Attempt, element: str, size: int) -> None:
    """Raise SizeMismatchError when a file on an element has not the size in bytes that it must have."""
    expected = expected_size(attempt)
    if expected is not None and size != expected:
        raise SizeMismatchError(
            f"{attempt.file.lfn} has {size} bytes on {element}, not {expected}", "see which one is right",
            element=element,
        )  # fmt: skip


def compare_checksum(attempt: Attempt, element: str, expected: str, found: str) -> None:
    """Raise ChecksumMismatchError when a file on an element has another checksum than expected."""
    if expected != found:
        raise ChecksumMismatchError(
            f"{attempt.file.lfn} on {element} has {found}, not {expected}", "replicate it from a good copy",
            element=element,
        )  # fmt: skip
