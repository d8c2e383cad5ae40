"""DATASUM and CHECKSUM of FITS: the ones' complement sum of big-endian 32-bit words, and its spelling in ASCII."""

from __future__ import annotations

import numpy as np

from dtscore.checksums import Buffer

_ALL_ONES = 0xFFFFFFFF
_PUNCTUATION = frozenset(b":;<=>?@[\\]^_`")
EMPTY = "0" * 16
"""What stands as the CHECKSUM while the sum is taken."""


def datasum(data: Buffer) -> int:
    """Return the sum of a data unit; bytes that are missing to a whole word count as zeros."""
    view = memoryview(data).cast("B")
    whole = len(view) // 4 * 4
    total = int(np.frombuffer(view[:whole], ">u4").sum(dtype=np.uint64)) if whole else 0
    return add(total, int.from_bytes(bytes(view[whole:]).ljust(4, b"\0"), "big"))


def add(*sums: int) -> int:
    """Return the ones' complement sum of sums."""
    total = sum(sums)
    while total > _ALL_ONES:
        total = (total & _ALL_ONES) + (total >> 32)
    return total


def checksum_text(total: int) -> str:
    """Return the 16 characters that make the sum of the whole HDU all ones; `total` is its sum with EMPTY there."""
    text = bytearray(16)
    for place, byte in enumerate((~total & _ALL_ONES).to_bytes(4, "big")):
        quarter, rest = divmod(byte, 4)
        letters = [quarter + 48 + (rest if number == 0 else 0) for number in range(4)]
        while _PUNCTUATION.intersection(letters):
            for first in (0, 2):
                if _PUNCTUATION.intersection(letters[first : first + 2]):
                    letters[first] += 1
                    letters[first + 1] -= 1
        text[place::4] = letters
    return (text[-1:] + text[:-1]).decode("ascii")
