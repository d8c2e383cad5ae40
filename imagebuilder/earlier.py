"""The file of an earlier version of an exposure, as a source of the pixels that a new version does not have anew."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dtscore.errors import ChecksumMismatchError, UsageError
from imagebuilder.camera import Detector
from imagebuilder.fitssum import datasum
from imagebuilder.mefile import data_units
from imagebuilder.placing import PIXEL_TYPES


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """One detector's pixels as they lie in a file, and what its header says of the amplifiers."""

    pixel: str
    data: memoryview
    valid: Mapping[str, bool]
    crc: Mapping[str, str]


class EarlierFile:
    """An uncompressed file of the image builder, mapped into memory; close it when the new file is written."""

    def __init__(self, path: Path) -> None:
        """Map the file; UsageError when it is no FITS file."""
        self.path = path
        self._headers = data_units(path)
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def find(self, detector: Detector) -> StoredFrame | None:
        """Return a detector's pixels, None if the file has none; ChecksumMismatchError if its DATASUM does not fit."""
        if detector.name not in self._headers:
            return None
        header, begin = self._headers[detector.name]
        pixel = pixel_type(header)
        if pixel is None or (header["NAXIS2"], header["NAXIS1"]) != detector.shape:
            raise UsageError(f"{self.path}: {detector.name} is not of the camera's size and type", "is it compressed?")
        data = memoryview(self._map)[begin : begin + detector.pixels * int(PIXEL_TYPES[pixel][1][-1])]
        if str(datasum(data)) != header.get("DATASUM"):
            raise ChecksumMismatchError(
                f"{self.path}: the pixels of {detector.name} do not fit their DATASUM",
                "take the earlier version from another replica",
            )
        names = [amplifier.name for amplifier in detector.amplifiers]
        valid = {name: bool(header.get("VALID" + name, False)) for name in names}
        crc = {name: str(header["PIXCRC" + name]) for name in names if "PIXCRC" + name in header}
        return StoredFrame(pixel, data, valid, crc)

    def close(self) -> None:
        """Let go of the file, if nobody looks at its pixels any more."""
        try:
            self._map.close()
        except BufferError:
            return  # a view of the pixels is still alive: the map goes with the last of them

    def __enter__(self) -> EarlierFile:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def pixel_type(header: Mapping[str, Any]) -> str | None:
    """Return the type of pixel that a header tells of, None if it is none of ours."""
    bits, zero = header.get("BITPIX"), header.get("BZERO", 0)
    for pixel, (_, stored, sign) in PIXEL_TYPES.items():
        if bits == (-1 if stored[1] == "f" else 1) * 8 * int(stored[-1]) and zero == sign:
            return pixel
    return None

