"""The blocks of one connection on their way into pages, and their acknowledgements.

A block is placed in the thread that read it. Handing it to another thread and reading the next one meanwhile gained a
twentieth with one PAN on two idle CPUs, and lost a tenth with two.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagebuilder import wire
from imagebuilder.link import Link
from imagebuilder.page import Page
from imagebuilder.wire import Header, Kind

_ACK_BLOCKS = 8
"""A RECEIVED covers at most so many blocks."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a BLOCK holds: rows of one amplifier, from `row` on, in readout order."""

    exposure: int
    detector: str
    amplifier: str
    row: int
    rows: int

    def follows(self, other: Rows) -> bool:
        """Whether these rows come right after others of the same amplifier."""
        ours, theirs = (self.exposure, self.detector, self.amplifier), (other.exposure, other.detector, other.amplifier)
        return ours == theirs and other.row + other.rows == self.row


class Blocks:
    """What becomes of a connection's blocks; belongs to the connection's thread."""

    def __init__(self, link: Link) -> None:
        """Acknowledge over the link."""
        self._link = link
        self._placed: list[Rows] = []

    def take(self, page: Page, rows: Rows, header: Header, data: memoryview) -> None:
        """Check and place a block's data; WireError when the page cannot take them."""
        page.check(rows.amplifier, rows.row, rows.rows, len(data))
        wire.check_data(header, data)
        page.place(rows.amplifier, rows.row, rows.rows, data, header.data_crc)
        if self._placed and (not rows.follows(self._placed[-1]) or len(self._placed) >= _ACK_BLOCKS):
            self.acknowledge()
        self._placed.append(rows)
        if not self._link.pending():
            self.acknowledge()

    def acknowledge(self) -> None:
        """Send RECEIVED for what was placed since the last one."""
        placed, self._placed = self._placed, []
        if placed:
            first = placed[0]
            where = {"exposure": first.exposure, "detector": first.detector, "amplifier": first.amplifier}
            self._link.send(Kind.RECEIVED, {**where, "row": first.row, "rows": sum(one.rows for one in placed)})
