"""Checksums of a whole file out of those of its pieces, in whatever order these came.

Both adler32 and CRC32C can be combined, so that a file that travels in stripes is read once at either end.
Source: M. Adler's `adler32_combine` of zlib.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from crc32c import crc32c
from zlib_ng import zlib_ng

from dtscore.checksums import crc32c_combine

_ADLER = 65521

ENTRY = struct.Struct(">QIII")
"""Offset, length, CRC32C and adler32 of a piece, as the wire and the journal have them."""


@dataclass(frozen=True, slots=True)
class ChunkSum:
    """Checksums of the `length` bytes at `offset`."""

    offset: int
    length: int
    crc32c: int
    adler32: int

    def packed(self) -> bytes:
        """Return it as an entry; the pieces that are written down are shorter than 4 GiB."""
        return ENTRY.pack(self.offset, self.length, self.crc32c, self.adler32)


class RunningSum:
    """The checksums of a piece, block by block."""

    def __init__(self, offset: int) -> None:
        """Begin a piece at an offset."""
        self._offset = offset
        self.length = 0
        self._crc, self._adler = 0, 1

    def add(self, view: memoryview) -> None:
        """Take in the next block."""
        self._crc = crc32c(view, self._crc)
        self._adler = zlib_ng.adler32(view, self._adler)
        self.length += len(view)

    def sum(self) -> ChunkSum:
        """Return the checksums of all blocks so far."""
        return ChunkSum(self._offset, self.length, self._crc, self._adler)


def sum_of(view: memoryview, offset: int) -> ChunkSum:
    """Return the checksums of bytes that are in memory."""
    return ChunkSum(offset, len(view), crc32c(view), zlib_ng.adler32(view))


def sum_of_zeros(offset: int, length: int) -> ChunkSum:
    """Return the checksums of `length` zero bytes without looking at any."""
    ones = 0xFFFFFFFF
    return ChunkSum(offset, length, crc32c_combine(ones, ones, length), ((length % _ADLER) << 16) | 1)


def entries(packed: memoryview | bytes) -> list[ChunkSum]:
    """Return the pieces of so many entries; what is left over at the end is not looked at."""
    whole = len(packed) - len(packed) % ENTRY.size
    return [ChunkSum(*entry) for entry in ENTRY.iter_unpack(packed[:whole])]


def combine(chunks: Iterable[ChunkSum]) -> dict[str, str]:
    """Return the checksums of a whole file by algorithm; the chunks must cover it without gap or overlap.

    Raises ValueError if they do not.
    """
    crc, adler, end = 0, 1, 0
    for chunk in sorted(chunks, key=lambda one: one.offset):
        if chunk.offset != end:
            raise ValueError(f"a chunk begins at {chunk.offset}, the one before it ends at {end}")
        crc = crc32c_combine(crc, chunk.crc32c, chunk.length)
        adler = _add_adler(adler, chunk.adler32, chunk.length)
        end += chunk.length
    return {"crc32c": f"{crc:08x}", "adler32": f"{adler:08x}"}


def _add_adler(first: int, second: int, length: int) -> int:
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER
    high = ((first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)) % _ADLER
    return high << 16 | low
