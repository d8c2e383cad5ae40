"""Sections of an image as FITS headers write them: [x1:x2,y1:y2], counted from 1, both ends inclusive."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dtscore.errors import UsageError

_SECTION = re.compile(r"\[(\d{1,9}):(\d{1,9}),(\d{1,9}):(\d{1,9})\]\Z")


@dataclass(frozen=True, slots=True)
class Section:
    """A rectangle of pixels; where x1 > x2 or y1 > y2 the axis is read out from its high end."""

    x1: int
    x2: int
    y1: int
    y2: int

    @property
    def width(self) -> int:
        """Return the number of columns."""
        return abs(self.x2 - self.x1) + 1

    @property
    def height(self) -> int:
        """Return the number of rows."""
        return abs(self.y2 - self.y1) + 1

    @property
    def left(self) -> int:
        """Return the lowest column, counted from 0."""
        return min(self.x1, self.x2) - 1

    @property
    def bottom(self) -> int:
        """Return the lowest row, counted from 0."""
        return min(self.y1, self.y2) - 1

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return the index of a numpy image[row, column] that takes out the section, in ascending order."""
        return slice(self.bottom, self.bottom + self.height), slice(self.left, self.left + self.width)

    def holds(self, other: Section) -> bool:
        """Whether the other section lies within this one."""
        across = self.left <= other.left and other.left + other.width <= self.left + self.width
        return across and self.bottom <= other.bottom and other.bottom + other.height <= self.bottom + self.height

    def meets(self, other: Section) -> bool:
        """Whether the sections have a pixel in common."""
        across = self.left < other.left + other.width and other.left < self.left + self.width
        return across and self.bottom < other.bottom + other.height and other.bottom < self.bottom + self.height

    def __str__(self) -> str:
        """Return the section as a FITS header holds it."""
        return f"[{self.x1}:{self.x2},{self.y1}:{self.y2}]"


def parse_section(text: str) -> Section:
    """Return the section written as [x1:x2,y1:y2], or raise UsageError."""
    match = _SECTION.match(text)
    if not match or not all(int(number) for number in match.groups()):
        raise UsageError(f"{text[:80]!r} is not a section", "write [x1:x2,y1:y2], counted from 1, without blanks")
    return Section(*map(int, match.groups()))
