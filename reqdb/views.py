"""What reading the request database gives: frozen views of requests, operations, files, attempts and events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """How many files stand in each state."""

    queued: int
    todo: int
    running: int
    done: int
    failed: int
    cancelled: int

    @property
    def total(self) -> int:
        """All files."""
        return self.queued + self.todo + self.running + self.done + self.failed + self.cancelled

    @property
    def ended(self) -> int:
        """The files that are Done, Failed or Cancelled."""
        return self.done + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One request as a list shows it; `percent` is the share of files that are Done, sizes are in bytes."""

    id: int
    name: str
    owner: str
    priority: int
    state: str
    percent: float
    files: int
    done: int
    failed: int
    cancelled: int
    bytes_total: int
    bytes_done: int
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue: str


@dataclass(frozen=True, slots=True)
class OperationLine:
    """One operation of a request; `percent_bytes` is None where the size of a file that is to be done is unknown."""

    id: int
    sequence: int
    type: str
    source: str | None
    targets: tuple[str, ...]
    node: str | None
    options: dict[str, str]
    state: str
    counts: Counts
    bytes_total: int
    bytes_done: int
    percent_files: float
    percent_bytes: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Files that failed for one reason: how many, and one of them with its target as an example."""

    error_class: str
    error: str
    count: int
    lfn: str
    operation: int
    target: str


@dataclass(frozen=True, slots=True)
class RequestView:
    """One request with its operations and the reasons of its failures, most frequent first."""

    id: int
    name: str
    owner: str
    priority: int
    state: str
    counts: Counts
    bytes_total: int
    bytes_done: int
    percent_files: float
    percent_bytes: float | None
    not_before: datetime | None
    deadline: datetime | None
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancelled_at: datetime | None
    cancelled_by: str | None
    origin: str
    operations: tuple[OperationLine, ...]
    failures: tuple[Failure, ...]
    queue: str


@dataclass(frozen=True, slots=True)
class FileLine:
    """One file row: an LFN of an operation on its way to a target.

    `size` (bytes) and `checksum` are what was found, or what the request declares while nothing was found yet.
    """

    id: int
    operation: int
    type: str
    source: str
    target: str
    lfn: str
    pfn: str | None
    size: int | None
    checksum: str | None
    state: str
    waits_on: str | None
    not_before: datetime | None
    attempts: int
    failures: int
    error_class: str
    error: str
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One attempt at one file: when, by whom, how long (s), how many bytes it moved and how it ended."""

    file_id: int
    lfn: str
    attempt: int
    agent: str
    source: str
    target: str
    started_at: datetime
    seconds: float
    bytes: int
    outcome: str
    error_class: str
    error: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """Something that happened to a request, in a sentence."""

    id: int
    at: datetime
    kind: str
    message: str
    file_id: int | None


@dataclass(frozen=True, slots=True)
class Current:
    """A file that is being worked on now: bytes so far, its size where known, by whom and since when."""

    lfn: str
    type: str
    source: str
    target: str
    bytes_now: int
    size: int | None
    agent: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands at the moment `at`; rates are the mean since it started, `eta` is in seconds.

    `bytes_done` are those of files that are Done, `bytes_in_flight` those of files being worked on. What cannot be
    known yet is None: `percent_bytes` while sizes are unknown, rates and `eta` before anything was done.
    """

    request_id: int
    name: str
    state: str
    at: datetime
    counts: Counts
    bytes_total: int
    bytes_done: int
    bytes_in_flight: int
    percent_files: float
    percent_bytes: float | None
    files_per_second: float | None
    bytes_per_second: float | None
    eta: float | None
    current: tuple[Current, ...]
    failures: tuple[Failure, ...]


def percent(part: int, whole: int) -> float:
    """Return part of whole in percent, 100 where there is nothing to do, and never 100 before the end."""
    if part >= whole:
        return 100.0
    return min(99.9, round(100.0 * part / whole, 1))
