"""Which rows of an exposure were handed over, sent, and acknowledged: one byte for each row of an amplifier.

All that happens on a connection only changes these marks, and whatever waits is sent. So a lost connection, rows that
a node misses, and a block whose sum was wrong on arrival are one and the same case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dtscore.errors import UsageError

ABSENT, WAITING, SENT, THERE = range(4)
"""A row that was not handed over; one that waits; one on its way; one that the node says it has."""

_TO = [bytes([ABSENT]) + bytes([mark]) * 255 for mark in range(4)]
"""For each mark the table that sets it wherever a row was handed over."""

_LINE = re.compile(r"(\S{1,32}) (\S{1,32}) ([0-9]{1,10})-([0-9]{1,10})\Z")


class Marks:
    """The marks of one exposure's rows, by detector and amplifier."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], bytearray] = {}

    def add(self, detector: str, amplifier: str, row: int, rows: int) -> None:
        """Let rows wait to be sent; UsageError if one of them was handed over before."""
        marks = self._marks.setdefault((detector, amplifier), bytearray())
        marks.extend(bytes(max(0, row + rows - len(marks))))
        if any(marks[row : row + rows]):
            what = f"rows of {detector} {amplifier} from {row} to {row + rows - 1} were handed over before"
            raise UsageError(what, "hand over each row once")
        marks[row : row + rows] = bytes([WAITING]) * rows

    def set(self, detector: str, amplifier: str, first: int, last: int, mark: int) -> int:
        """Mark those of the rows first to last that were handed over; return their number."""
        marks = self._marks.get((detector, amplifier))
        if marks is None or first > last:
            return 0
        piece = marks[first : last + 1]
        held = len(piece) - piece.count(ABSENT)
        marks[first : last + 1] = piece.translate(_TO[mark])
        return held

    def set_listed(self, listing: str, mark: int) -> int:
        """Mark the rows of a list with lines such as `S1 A 0-4145`; return how many of them were handed over."""
        count = 0
        for line in listing.splitlines():
            if found := _LINE.match(line):
                count += self.set(found[1], found[2], int(found[3]), int(found[4]), mark)
        return count

    def set_detectors(self, detectors: frozenset[str], mark: int) -> None:
        """Mark all rows of these detectors."""
        for detector, amplifier in list(self._marks):
            if detector in detectors:
                self.set(detector, amplifier, 0, len(self._marks[detector, amplifier]), mark)

    @property
    def detectors(self) -> frozenset[str]:
        """The detectors of which rows were handed over."""
        return frozenset(detector for detector, _ in self._marks)

    def wait_again(self) -> None:
        """Let all rows wait: nothing is known of the node that comes next."""
        self.set_detectors(self.detectors, WAITING)

    def waiting(self, detector: str, amplifier: str, row: int, rows: int, most: int) -> Iterator[tuple[int, int]]:
        """Give (first row, number) of the runs of waiting rows among these, none longer than `most`, as they stand."""
        marks = self._marks[detector, amplifier]
        at = row
        while (at := marks.find(WAITING, at, row + rows)) >= 0:
            ahead = marks[at : min(row + rows, at + most)]
            count = len(ahead) - len(ahead.lstrip(bytes([WAITING])))
            yield at, count
            at += count

    def count(self, mark: int) -> int:
        """Return how many rows have a mark."""
        return sum(marks.count(mark) for marks in self._marks.values())

    @property
    def total(self) -> int:
        """How many rows were handed over."""
        return sum(len(marks) - marks.count(ABSENT) for marks in self._marks.values())
