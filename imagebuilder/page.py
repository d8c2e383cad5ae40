"""A page of the frame cache: one detector of one exposure in shared memory, as it will lie in the FITS file.

    0      magic 'DTSPAGE1', length (u32) and CRC32C (u32) of the head, little-endian; the head: key=value lines
    4096   for each amplifier 8 bytes for each row: CRC32C (u32) and rows (u32) of the block that begins with it
    …      from a multiple of 4096 on, the FITS data unit: big-endian, BZERO applied, in the image's orientation

A block's pixels are written first and its entry after them, in one store of 8 bytes: a row that an entry covers is
whole, whatever process died when. What lies in rows that no entry covers means nothing, and no reader ever sees it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from crc32c import crc32c

from dtscore.errors import StorageFaultError
from imagebuilder.camera import Detector
from imagebuilder.placing import PIXEL_TYPES, Array, Placer, Region, pixel_bytes, regions
from imagebuilder.wire import Buffer, WireError, pack_body, parse_body

_MAGIC = b"DTSPAGE1"
_HEAD_AREA = 4096
_ENTRY = np.dtype([("crc", "<u4"), ("rows", "<u4")])


@dataclass(frozen=True, slots=True)
class BlockSum:
    """The CRC32C of one block of an amplifier's pixels as the PAN sent them: readout order, little-endian."""

    row: int
    rows: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class PageHead:
    """What a page holds: whose pixels, of which type, where each amplifier lies; `height` × `width` pixels.

    `expected` are the detectors that the node keeps room for in this exposure, this one among them.
    """

    exposure: int
    assignment: int
    camera: str
    detector: str
    pan: str
    pixel: str
    height: int
    width: int
    regions: tuple[Region, ...]
    expected: tuple[str, ...]

    @property
    def data_offset(self) -> int:
        """Return where the data unit begins."""
        return _HEAD_AREA + -(-sum(one.rows for one in self.regions) * _ENTRY.itemsize // 4096) * 4096

    @property
    def data_bytes(self) -> int:
        """Return the bytes of the data unit, without FITS's padding."""
        return self.height * self.width * pixel_bytes(self.pixel)

    @property
    def page_bytes(self) -> int:
        """Return the bytes that a page needs for this detector."""
        return self.data_offset + self.data_bytes


def page_head(detector: Detector, camera: str, pixel: str, *, exposure: int, assignment: int, pan: str,
              expected: tuple[str, ...]) -> PageHead:  # fmt: skip
    """Return the head of a page for a detector; UsageError when its amplifiers do not cover it."""
    height, width = detector.shape
    places = regions(detector)
    return PageHead(exposure, assignment, camera, detector.name, pan, pixel, height, width, places, expected)


def write_head(memory: memoryview, head: PageHead) -> None:
    """Make an empty page for `head` of memory that held something else."""
    packed = pack_body(_as_text(head))
    start = _MAGIC + len(packed).to_bytes(4, "little") + crc32c(packed).to_bytes(4, "little") + packed
    if len(start) > _HEAD_AREA:
        raise WireError("too-large", f"exposure {head.exposure} names too many detectors", "expect fewer at once")
    memory[: head.data_offset] = start.ljust(head.data_offset, b"\0")


def read_head(memory: memoryview) -> PageHead:
    """Return the head of a page, or raise StorageFaultError when it is damaged."""
    length = int.from_bytes(memory[8:12], "little")
    if bytes(memory[:8]) != _MAGIC or length > _HEAD_AREA - 16:
        raise StorageFaultError("this is no page of a frame cache", "let the PAN send it again")
    try:
        body = parse_body(memory[16 : 16 + length], int.from_bytes(memory[12:16], "little"))
        head = _from_text(body)
    except (WireError, KeyError, ValueError) as error:
        raise StorageFaultError(f"the head of a page is damaged: {error}", "let the PAN send it again") from error
    if head.page_bytes > memory.nbytes:
        raise StorageFaultError("a page is shorter than its head says", "let the PAN send it again")
    return head


def _as_text(head: PageHead) -> dict[str, object]:
    places = (
        f"{at.name}:{at.left}:{at.bottom}:{at.columns}:{at.rows}:{at.flip_x:d}:{at.flip_y:d}" for at in head.regions
    )
    return {
        "exposure": head.exposure, "assignment": head.assignment, "camera": head.camera, "detector": head.detector,
        "pan": head.pan, "type": head.pixel, "height": head.height, "width": head.width, "amplifiers": " ".join(places),
        "expected": " ".join(head.expected),
    }  # fmt: skip


def _from_text(body: Mapping[str, str]) -> PageHead:
    places = []
    for word in body["amplifiers"].split(" "):
        amplifier, *rest = word.split(":")
        left, bottom, columns, rows, flip_x, flip_y = (int(one) for one in rest)
        places.append(Region(amplifier, left, bottom, columns, rows, bool(flip_x), bool(flip_y)))
    if body["type"] not in PIXEL_TYPES:
        raise ValueError(f"unknown type {body['type']!r}")
    return PageHead(
        int(body["exposure"]), int(body["assignment"]), body["camera"], body["detector"], body["pan"], body["type"],
        int(body["height"]), int(body["width"]), tuple(places), tuple(body["expected"].split(" ")),
    )  # fmt: skip


class Frame:
    """The pixels of one detector, to read: the data unit, and which rows of which amplifier were received."""

    def __init__(self, memory: memoryview) -> None:
        """Look at a page; StorageFaultError when it is damaged."""
        self.head = head = read_head(memory)
        self.detector = head.detector
        self.data = memory[head.data_offset : head.data_offset + head.data_bytes]
        self.array: Array = np.frombuffer(self.data, dtype=PIXEL_TYPES[head.pixel][1]).reshape(head.height, head.width)
        self._tables: dict[str, Array] = {}
        offset = _HEAD_AREA
        for one in head.regions:
            table = np.frombuffer(memory, dtype=_ENTRY, count=one.rows, offset=offset)
            self._tables[one.name] = table
            offset += table.nbytes

    @property
    def amplifiers(self) -> tuple[str, ...]:
        """Return the amplifiers' names."""
        return tuple(self._tables)

    def blocks(self, amplifier: str) -> tuple[BlockSum, ...]:
        """Return the sums of the blocks received, by first row; no row is in two of them."""
        table = self._tables[amplifier]
        (starts,) = np.nonzero(table["rows"])
        return tuple(BlockSum(int(row), int(table["rows"][row]), int(table["crc"][row])) for row in starts)

    def received(self, amplifier: str) -> tuple[tuple[int, int], ...]:
        """Return the ranges of rows received, in readout order, both ends inclusive."""
        ranges: list[tuple[int, int]] = []
        for block in self.blocks(amplifier):
            last = block.row + block.rows - 1
            if ranges and ranges[-1][1] + 1 == block.row:
                ranges[-1] = (ranges[-1][0], last)
            else:
                ranges.append((block.row, last))
        return tuple(ranges)

    def missing(self, amplifier: str) -> tuple[tuple[int, int], ...]:
        """Return the ranges of rows not received, both ends inclusive."""
        gaps = []
        row = 0
        for first, last in self.received(amplifier):
            if first > row:
                gaps.append((row, first - 1))
            row = last + 1
        rows = len(self._tables[amplifier])
        return (*gaps, (row, rows - 1)) if row < rows else tuple(gaps)

    def complete(self, amplifier: str) -> bool:
        """Whether all rows of an amplifier were received."""
        return int(self._tables[amplifier]["rows"].sum()) == len(self._tables[amplifier])

    @property
    def whole(self) -> bool:
        """Whether all rows of all amplifiers were received."""
        return all(self.complete(amplifier) for amplifier in self._tables)


class Snapshot(Frame):
    """A frame as it was at one moment, in memory of its own where rows were missing: those hold 0 counts."""

    def __init__(self, memory: memoryview) -> None:
        """Take a private (copy-on-write) mapping of a page; what is received later is not seen."""
        super().__init__(memory)
        self._tables = {name: table.copy() for name, table in self._tables.items()}
        for one in self.head.regions:
            gaps = self.missing(one.name)
            if gaps:
                placer = Placer(self.array, self.head.pixel, one)
                for first, last in gaps:
                    placer.clear(first, last + 1 - first)


class Page(Frame):
    """A frame that a node is receiving."""

    def __init__(self, memory: memoryview) -> None:
        """Look at a page in writable shared memory."""
        super().__init__(memory)
        self._placers = {one.name: Placer(self.array, self.head.pixel, one) for one in self.head.regions}
        self._have = {name: self._covered(name) for name in self._tables}
        self._lock = threading.Lock()
        self._retired = self._why = ""
        self.touched_at = time.monotonic()

    def retire(self, code: str, why: str) -> None:
        """Refuse every further block with this code: the page is about to be given back."""
        with self._lock:
            self._retired = code
            self._why = why

    def _covered(self, amplifier: str) -> Array:
        have = np.zeros(len(self._tables[amplifier]), dtype=bool)
        for block in self.blocks(amplifier):
            have[block.row : block.row + block.rows] = True
        return have

    def check(self, amplifier: str, row: int, rows: int, size: int) -> None:
        """Raise WireError unless a block of `size` bytes may hold these rows: unknown-amplifier, bad-rows."""
        where = f"exposure {self.head.exposure}, detector {self.detector}"
        placer = self._placers.get(amplifier)
        if placer is None:
            known = " ".join(self._placers)
            raise WireError("unknown-amplifier", f"{where} has no amplifier {amplifier!r}", f"there are: {known}")
        height = len(self._have[amplifier])
        if not rows or row + rows > height:
            what = f"{where}, amplifier {amplifier} has {height} rows: {rows} from row {row} on are not in it"
            raise WireError("bad-rows", what, "count rows from 0 in readout order")
        if size != rows * placer.row_bytes:
            what = f"{where}, amplifier {amplifier}: {rows} rows are {rows * placer.row_bytes} bytes, not {size}"
            raise WireError("bad-rows", what, "send whole rows")

    def place(self, amplifier: str, row: int, rows: int, data: Buffer, crc: int) -> None:
        """Store a block that `check` accepted, whose sum `crc` is right; the same rows again change nothing.

        Raises WireError `overlap`, and stores nothing, when a row was received before with other pixels, and what
        `retire` said.
        """
        with self._lock:
            if self._retired:
                raise WireError(self._retired, self._why, "begin the exposure again")
            self.touched_at = time.monotonic()
            have = self._have[amplifier][row : row + rows]
            if not have.any():
                self._store(amplifier, row, rows, data, crc)
            else:
                self._place_again(amplifier, row, have.copy(), memoryview(data))

    def _store(self, amplifier: str, row: int, rows: int, data: Buffer, crc: int) -> None:
        self._placers[amplifier].place(data, row, rows)
        # one aligned store of 8 bytes, after the pixels: nobody ever sees half an entry
        self._tables[amplifier].view("<u8")[row] = (rows << 32) | crc
        self._have[amplifier][row : row + rows] = True

    def _place_again(self, amplifier: str, row: int, have: Array, data: memoryview) -> None:
        placer = self._placers[amplifier]
        pieces = [data[at * placer.row_bytes : (at + 1) * placer.row_bytes] for at in range(len(have))]
        for at in np.nonzero(have)[0]:
            if placer.readout(row + int(at), 1) != pieces[at]:
                what = f"exposure {self.head.exposure}, detector {self.detector}, amplifier {amplifier}"
                raise WireError("overlap", f"{what}: row {row + int(at)} was received before with other pixels",
                                "an exposure's number is used once")  # fmt: skip
        for first, last in _runs(~have):
            piece = data[first * placer.row_bytes : last * placer.row_bytes]
            self._store(amplifier, row + first, last - first, piece, crc32c(piece))


def _runs(mask: Array) -> list[tuple[int, int]]:
    """Return where a mask holds, as [first, end) ranges."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
