"""What crosses the doors of the exposures' tables: frozen records, and nothing of SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

Value = str | int | float | bool
"""The value of a header card."""


class ExposureState(str, Enum):
    """Where an exposure stands."""

    LABELLED = "Labelled"
    """Its number was handed out; no frame was begun."""

    RECEIVING = "Receiving"
    """A PAN has begun; some expected detectors are not received yet."""

    COMPLETE = "Complete"
    """All expected detectors are received, in shared memory; not all of them are in a file."""

    PARTIAL = "Partial"
    """A file was saved with detectors missing; the late ones may still come."""

    SAVED = "Saved"
    """All expected detectors are in a file."""


class FrameState(str, Enum):
    """Where the frame of one detector stands."""

    EXPECTED = "Expected"
    RECEIVING = "Receiving"
    RECEIVED = "Received"
    SAVED = "Saved"


class FileState(str, Enum):
    """Where one version of an exposure's file stands."""

    REQUESTED = "Requested"
    SAVED = "Saved"
    ABANDONED = "Abandoned"
    """Its frames were lost with a node, or it failed; the same version is asked for again."""


@dataclass(frozen=True, slots=True)
class Label:
    """A number that was handed out: unique for ever, and the data label of the file."""

    exposure: int
    label: str
    camera: str
    program: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which node takes an exposure; `number` goes up with each node and fences off the ones before."""

    exposure: int
    node: str
    host: str
    port: int
    number: int


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A version of an exposure's file that is saved and registered; `detectors` are those whose pixels it took over.

    `size` in bytes, `checksum` canonical (algorithm:hex); `complete` is False while expected detectors are missing.
    """

    exposure: int
    version: int
    lfn: str
    size: int
    checksum: str
    detectors: tuple[str, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Begun:
    """What `begin` found: all detectors expected so far, and the files that hold detectors that were named again."""

    exposure: int
    assignment: int
    label: str
    expected: tuple[str, ...]
    saved: Mapping[str, SavedFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockRange:
    """The sum of one block as it was received: `rows` rows from `row` on, in readout order, CRC32C as sent."""

    row: int
    rows: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """One detector whose rows are all in shared memory, with the sums of its blocks by amplifier."""

    detector: str
    pan: str
    type: str
    blocks: Mapping[str, tuple[BlockRange, ...]]


@dataclass(frozen=True, slots=True)
class Due:
    """An exposure that is to be built now; `detectors` are received and in no file yet."""

    exposure: int
    camera: str
    label: str
    program: str
    assignment: int
    version: int
    complete: bool
    detectors: tuple[str, ...]
    missing: tuple[str, ...]
    begun_at: datetime


@dataclass(frozen=True, slots=True)
class Reservation:
    """A version of the file that was asked for, and which frames it is to hold.

    `detectors` are new in it, `missing` are neither in it nor in the version before, whose LFN is `supersedes` ('':
    none). `made_at` is the DATE of the file, so that a second attempt at it gives the same bytes.
    """

    exposure: int
    version: int
    camera: str
    label: str
    program: str
    lfn: str
    node: str
    assignment: int
    detectors: tuple[str, ...]
    missing: tuple[str, ...]
    supersedes: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Built:
    """What the builder learned of a file: custody's sums, what is wrong with its header; `cards_at` as in the table."""

    size: int
    checksum: str
    datasums: Mapping[str, int]
    violations: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    cards_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FrameLine:
    """One detector of an exposure as it stands; `saved_in` is the version that holds it (None: none)."""

    detector: str
    state: FrameState
    pan: str
    type: str
    blocks: Mapping[str, tuple[BlockRange, ...]]
    saved_in: int | None


@dataclass(frozen=True, slots=True)
class FileLine:
    """One version of an exposure's file as it stands."""

    version: int
    lfn: str
    state: FileState
    request: int | None
    size: int | None
    checksum: str
    detectors: tuple[str, ...]
    missing: tuple[str, ...]
    supersedes: str
    flags: tuple[str, ...]
    violations: tuple[str, ...]
    datasums: Mapping[str, int]
    saved_at: datetime | None
    node: str


@dataclass(frozen=True, slots=True)
class ExposureLine:
    """One exposure as it stands: counts of detectors, and the newest saved file's LFN ('': none)."""

    exposure: int
    camera: str
    label: str
    program: str
    state: ExposureState
    node: str
    assignment: int
    expected: int
    received: int
    saved: int
    labelled_at: datetime
    begun_at: datetime | None
    lfn: str = ""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Everything about one exposure."""

    line: ExposureLine
    frames: tuple[FrameLine, ...]
    files: tuple[FileLine, ...]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself with each heartbeat.

    `free` of `pages` pages of `page_bytes` each are free; `exposures` are in hand, and `active` those of them that
    got blocks since the last heartbeat. `highest` is the highest exposure number that this host knows of: after the
    database was restored from a backup, numbers are handed out above it.
    """

    node: str
    host: str
    port: int
    pages: int
    free: int
    page_bytes: int
    exposures: tuple[int, ...] = ()
    active: tuple[int, ...] = ()
    highest: int = 0
    software: str = ""


@dataclass(frozen=True, slots=True)
class NodeLine:
    """A builder node as the database knows it; `age` is the seconds since its last heartbeat."""

    node: str
    host: str
    port: int
    state: str
    age: float
    pages: int
    free: int
    page_bytes: int
    exposures: tuple[int, ...]
    software: str

    @property
    def draining(self) -> bool:
        """Whether it takes no new exposure."""
        return self.state == "draining"


@dataclass(frozen=True, slots=True)
class Card:
    """One piece of header metadata: '' as detector stands for the whole exposure."""

    keyword: str
    value: Value
    comment: str = ""
    detector: str = ""
