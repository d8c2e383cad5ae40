"""One attempt at one file, as the replica manager sees it, and what it achieves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from sqlalchemy.engine import Connection

from catalog.records import Entry, Registration, Trashed
from dtscore.errors import (
    DeadlinePassedError,
    LeaseLostError,
    OutOfTimeError,
    StorageFaultError,
    WorkCancelledError,
)
from reqdb.store import ClaimedFile


class DrainedError(StorageFaultError):
    """The agent is ending and its grace is over: the file is handed back."""

    error_class = "drained"


class DatabaseAwayError(DrainedError):
    """The database went away in the middle of an attempt: the file is handed back, which waits until it is there."""

    error_class = "database"


INTERRUPTIONS = (DeadlinePassedError, DrainedError, LeaseLostError, OutOfTimeError, WorkCancelledError)
"""What the guard raises: nothing that an attempt met is to blame, and it must not go on with something else."""


_PACED = 64 * 1024
"""So many bytes wait for their turn at once where a queue has a rate."""


class Further(Protocol):
    """Rows of another room that belong to an attempt's result: written in the transaction that ends the file."""

    def hold(self, connection: Connection) -> None:
        """Lock what `write` is going to change; raise StateError when nobody wants the result any more."""

    def write(self, connection: Connection) -> Sequence[tuple[str, str]]:
        """Write the rows; return events (kind, message) for the history of the request."""


@dataclass(slots=True)
class CatalogChanges:
    """What an attempt asks the catalog to write in the transaction that ends the file."""

    registrations: list[Registration] = field(default_factory=list)
    verified: list[tuple[str, str, str]] = field(default_factory=list)
    """(LFN, element, depth)"""
    marks: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(LFN, element, state, error)"""
    withdrawn: list[tuple[str, str]] = field(default_factory=list)
    """(LFN, element)"""
    trashed: list[Trashed] = field(default_factory=list)
    further: Further | None = None


@dataclass(frozen=True, slots=True)
class Achieved:
    """What a successful attempt did; `bytes_moved` is 0 where the target already held the same bytes."""

    size: int
    checksum: str | None
    bytes_moved: int = 0
    source: str = ""
    protocol: str = ""
    seconds: float | None = None
    """Seconds of the work itself, where that is less than the whole attempt."""


def caught(work: Callable[[], Achieved]) -> Achieved | Exception:
    """Return what some work achieved, or why it did not."""
    try:
        return work()
    except Exception as error:
        return error


class Attempt:
    """A claimed file in work: a unique name, a guard to ask before each step, and the catalog's part of the result."""

    def __init__(
        self,
        file: ClaimedFile,
        token: int,
        *,
        entry: Entry | None,
        check: Callable[[], None],
        progressed: Callable[[int], None],
        time_limit: Callable[[int], float],
    ) -> None:
        """`check` raises when the file must be left alone; `time_limit` gives the seconds allowed for so many bytes."""
        self.file = file
        self.entry = entry
        self.token = token
        self.name = f"{file.id}-{file.attempt}-{token}"
        self.changes = CatalogChanges()
        self._check = check
        self._progressed = progressed
        self._time_limit = time_limit
        self._begun = time.monotonic()
        self._bytes = 0
        self.pace: Callable[[int], None] | None = None

    @property
    def overwrite(self) -> bool:
        """Whether the request allows other bytes at the destination to be replaced."""
        return self.file.operation.options.get("overwrite") == "yes"

    def logged(self) -> AbstractContextManager[None]:
        """Give all that is logged in a `with` block the numbers of request, operation, file and attempt."""
        operation = self.file.operation
        return structlog.contextvars.bound_contextvars(
            request=operation.request_id, operation=operation.id, file=self.file.id, attempt=self.file.attempt
        )

    def guard(self) -> None:
        """Raise when this attempt must not go on: lease lost, cancelled, deadline, drained, or out of time."""
        self._check()
        allowed = self._time_limit(max(self._bytes, self.file.size or 0))
        if time.monotonic() - self._begun > allowed:
            raise OutOfTimeError(
                f"{self.file.lfn} took longer than the {allowed:.0f} s allowed for one attempt",
                "see the speed of the storage elements: dts se check; or raise [timeout] base",
            )

    def allow(self, seconds: float) -> None:
        """Let this attempt take so many seconds more: it waits for somebody else's program."""
        self._begun += seconds

    def progress(self, bytes_so_far: int) -> None:
        """Say how many bytes were moved so far; waits where the queue has a rate."""
        before, self._bytes = self._bytes, bytes_so_far
        if self.pace is not None and bytes_so_far > before:
            self._wait(bytes_so_far - before)
        self._progressed(bytes_so_far)

    def _wait(self, count: int) -> None:
        """Wait until `count` bytes may pass, in small parts: a slow queue must not be deaf meanwhile."""
        assert self.pace is not None
        while count > 0:
            self.pace(min(count, _PACED))
            count -= _PACED
            if count > 0:
                self.guard()
