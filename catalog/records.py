"""What crosses the catalog's doors: frozen records, never rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date as Date
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file's header says; None where it says nothing.

    `exposure_time` is in seconds, `ra` and `dec` in degrees (ICRS or as the telescope wrote them), `date` is the
    start of the exposure in UTC, `night` the local date at which the observing night began, `filter` the band's
    letter or short name and `physical_filter` the instrument's full name for it. `flags` are the builder's words, such
    as 'partial', and `supersedes` is the LFN of the version that this one replaces.
    """

    instrument: str | None = None
    exposure: int | None = None
    observation: str | None = None
    detector: int | None = None
    filter: str | None = None
    physical_filter: str | None = None
    object: str | None = None
    type: str | None = None
    exposure_time: float | None = None
    date: datetime | None = None
    night: Date | None = None
    ra: float | None = None
    dec: float | None = None
    proposal: str | None = None
    flags: str | None = None
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """One replica to be written down: `size` in bytes, `checksum` as 'adler32:03da0195', `pfn` below the element.

    `depth` says how it was checked: 'full', 'readback', 'server-readback' (docs/catalog.md), 'size', or 'declared' (by
    nobody: the replica is Suspect).
    `replace` allows the entry to take another size and checksum.
    """

    lfn: str
    size: int
    checksum: str
    element: str
    pfn: str
    depth: str
    metadata: Metadata | None = None
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Conflict:
    """A registration that was left out because the catalog holds other bytes under its name."""

    lfn: str
    message: str


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a file on one storage element."""

    element: str
    pfn: str
    state: str
    registered_at: datetime
    verified_at: datetime | None
    depth: str
    error: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One logical file with its replicas, ordered by element, and its header metadata."""

    lfn: str
    size: int
    checksum: str
    registered_at: datetime
    replicas: tuple[Replica, ...] = ()
    metadata: Metadata | None = None

    @property
    def sources(self) -> tuple[Replica, ...]:
        """Return the replicas that may be read from: Good ones, newest verification first, then Suspect ones."""
        order = {"Good": 0, "Suspect": 1}
        usable = [replica for replica in self.replicas if replica.state in order]
        return tuple(sorted(usable, key=lambda each: (order[each.state], -_seconds(each.verified_at))))


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds: the full paths of its folders and its entries, both in code point order."""

    folders: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Trashed:
    """A file that was renamed into the trash of a storage element and may be unlinked after `purge_after`."""

    lfn: str
    element: str
    trash_path: str
    size: int
    purge_after: datetime


@dataclass(frozen=True, slots=True)
class TrashItem:
    """One row of the trash: `error` is what the last attempt to unlink it said."""

    id: int
    lfn: str
    element: str
    trash_path: str
    size: int
    trashed_at: datetime
    purge_after: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What `withdraw` did: whether a replica was removed and whether the entry went with it."""

    removed: bool
    forgotten: bool
