"""Pixels on their way into a page: from readout order, little-endian, to the order, byte order and zero of FITS.

Turning rows and columns round, swapping bytes and applying BZERO are one pass over the block: numpy does the exclusive
or with the sign bit in pieces that fit the CPU's first cache, and stores them swapped. Where columns are turned round,
eight bytes are swapped at a time: that turns the pixels round and their bytes as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtscore.errors import UsageError
from imagebuilder.camera import Amplifier, Detector
from imagebuilder.geometry import Section
from imagebuilder.wire import Buffer

Array: TypeAlias = NDArray[Any]

PIXEL_TYPES: dict[str, tuple[str, str, int]] = {
    "uint16": ("<u2", ">i2", 0x8000),
    "int16": ("<i2", ">i2", 0),
    "uint32": ("<u4", ">i4", 0x80000000),
    "int32": ("<i4", ">i4", 0),
    "float32": ("<f4", ">f4", 0),
}
"""For each type of pixel: as a PAN sends it, as FITS holds it, and the sign bit that BZERO turns over."""


def pixel_bytes(pixel: str) -> int:
    """Return the bytes of one pixel of a type."""
    return int(PIXEL_TYPES[pixel][0][-1])


@dataclass(frozen=True, slots=True)
class Region:
    """Where an amplifier's rows lie in the image (pixels, counted from 0), and from which corner they are read."""

    name: str
    left: int
    bottom: int
    columns: int
    rows: int
    flip_x: bool
    flip_y: bool


def region(amplifier: Amplifier) -> Region:
    """Return where the pixels of an amplifier lie."""
    image = amplifier.image
    return Region(
        amplifier.name, image.left, image.bottom, amplifier.columns, amplifier.rows, amplifier.flip_x, amplifier.flip_y
    )


def regions(detector: Detector) -> tuple[Region, ...]:
    """Return the regions of a detector's amplifiers; UsageError unless they cover its image, each pixel once."""
    found = tuple(region(amplifier) for amplifier in detector.amplifiers)
    images = [amplifier.image for amplifier in detector.amplifiers]
    apart = not any(one.meets(other) for one, other in combinations(images, 2))
    inside = all(Section(1, detector.width, 1, detector.height).holds(one) for one in images)
    if not (apart and inside and sum(one.width * one.height for one in images) == detector.pixels):
        what = f"the amplifiers of detector {detector.name} do not cover its image, each pixel once"
        raise UsageError(what, "correct the camera's file")
    return found


class Placer:
    """Writes and reads one amplifier's rows in a data unit."""

    def __init__(self, image: Array, pixel: str, where: Region) -> None:
        """Take the image as FITS holds it (PIXEL_TYPES), writable for `place`."""
        sent, _, sign = PIXEL_TYPES[pixel]
        window = image[where.bottom : where.bottom + where.rows, where.left : where.left + where.columns]
        self.row_bytes = where.columns * image.itemsize
        self._pixels = window[:: -1 if where.flip_y else 1, :: -1 if where.flip_x else 1]
        self._sent = np.dtype(sent)
        self._sign = sign
        self._target, self._source, self._mask = self._fastest(window, where)

    def _fastest(self, window: Array, where: Region) -> tuple[Array, np.dtype[Any], Any]:
        """Return the view to store to, the type of what is stored, and the sign bits in that type."""
        size = window.itemsize
        if not where.flip_x or self.row_bytes % 8:
            unsigned = np.dtype(f"<u{size}")
            return self._pixels.view(f">u{size}"), unsigned, unsigned.type(self._sign)
        words = window.view(">u8")
        mask = int.from_bytes(self._sign.to_bytes(size, "little") * (8 // size), "little")
        return words[:: -1 if where.flip_y else 1, ::-1], np.dtype("<u8"), np.uint64(mask)

    def place(self, data: Buffer, row: int, rows: int) -> None:
        """Store rows of pixels as a PAN sends them; `data` holds rows × row_bytes bytes."""
        target = self._target[row : row + rows]
        source = np.frombuffer(data, dtype=self._source).reshape(target.shape)
        if self._sign:
            np.bitwise_xor(source, self._mask, out=target)
        else:
            target[...] = source

    def readout(self, row: int, rows: int) -> bytes:
        """Return rows as the PAN sent them."""
        pixels = self._pixels[row : row + rows].astype(self._sent.newbyteorder("<"))
        if self._sign:
            pixels ^= self._sent.type(self._sign)
        return pixels.tobytes()

    def clear(self, row: int, rows: int) -> None:
        """Store 0 counts."""
        self._pixels[row : row + rows].view(f">u{self._pixels.itemsize}")[...] = self._sign
