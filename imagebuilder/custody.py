"""Custody: the proof that the pixels in a file are those that the camera sent.

A PAN sends each block with its CRC32C. The sums of an amplifier's blocks join to one for all its pixels, in readout
order and little-endian as sent, which stands in the header as PIXCRCx. From a file all of this can be computed anew:
the pixels are turned back into readout order, whatever was done to the file since, be it compressed or copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from dtscore import checksums
from dtscore.checksums import crc32c_combine
from imagebuilder.camera import Amplifier, Camera, Detector
from imagebuilder.earlier import pixel_type
from imagebuilder.fitssum import datasum
from imagebuilder.mefile import Extension, Stored, open_extensions, stored_units
from imagebuilder.page import BlockSum
from imagebuilder.placing import PIXEL_TYPES, Placer, region

_ALL_ONES = 0xFFFFFFFF
_READ = 4 << 20
_ROWS = 256


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the database holds of a file; whatever is empty is not compared.

    `checksum` of the file is written 'adler32:03da0195'; `datasums` are by detector, `blocks` by detector and
    amplifier, as they were received. For a compressed copy leave `size` and `checksum` empty, or give the copy's own.
    """

    size: int | None = None
    checksum: str = ""
    datasums: Mapping[str, int] | None = None
    blocks: Mapping[str, Mapping[str, tuple[BlockSum, ...]]] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: where ('file', 'S1', 'S1 A'), what, whether it is right, and what was found."""

    where: str
    check: str
    ok: bool
    detail: str = ""


def amplifier_crc(blocks: Iterable[BlockSum], row_bytes: int) -> str:
    """Return the CRC32C of an amplifier's pixels (8 hexadecimal digits) from the sums of its blocks, in row order."""
    total = 0
    for block in blocks:
        total = crc32c_combine(total, block.crc32c, block.rows * row_bytes)
    return f"{total:08x}"


def prove(path: Path, camera: Camera, recorded: Recorded | None = None) -> list[Finding]:
    """Compute all sums of a file, plain or compressed, anew, and compare them with its headers and with the record.

    Pixels are proven where a finding 'pixels' is right. Raises UsageError when it is no FITS file.
    """
    wanted = recorded or Recorded()
    findings = list(_file(path, wanted))
    findings += [_unit(unit) for unit in stored_units(path)]
    found = set()
    for extension in open_extensions(path):
        if extension.name in camera.names:
            found.add(extension.name)
            findings += _extension(extension, camera.detector(extension.name), wanted)
    findings += [Finding(name, "there", False, "has no extension") for name in camera.names if name not in found]
    return findings


def _file(path: Path, wanted: Recorded) -> Iterator[Finding]:
    size = path.stat().st_size
    if wanted.size is not None:
        yield Finding("file", "size", size == wanted.size, f"{size} bytes, {wanted.size} recorded")
    if wanted.checksum:
        expected = checksums.parse(wanted.checksum)
        hasher = checksums.new(expected.algorithm)
        with open(path, "rb") as file:
            while block := file.read(_READ):
                hasher.update(block)
        found = hasher.hexdigest()
        yield Finding("file", expected.algorithm, found == expected.value, f"{found}, {expected.value} recorded")


def _unit(unit: Stored) -> Finding:
    """Return whether header and data of an HDU, as they lie in the file, add up as its CHECKSUM says."""
    where = unit.name or "primary"
    if not unit.summed:
        return Finding(where, "CHECKSUM", False, "has no CHECKSUM")
    return Finding(where, "CHECKSUM", unit.total in (0, _ALL_ONES), f"sum {unit.total:08x}")


def _extension(extension: Extension, detector: Detector, wanted: Recorded) -> list[Finding]:
    pixel = pixel_type(extension.header)
    if pixel is None or extension.array.shape != detector.shape:
        return [Finding(detector.name, "geometry", False, f"{extension.array.shape}, {detector.shape} wanted")]
    stored = extension.array.astype(PIXEL_TYPES[pixel][1], copy=False)
    total = datasum(np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data)
    noted = str(extension.header.get("DATASUM", ""))
    findings = [Finding(detector.name, "DATASUM", str(total) == noted, f"{total}, {noted or 'none'} in the header")]
    if wanted.datasums is not None and detector.name in wanted.datasums:
        kept = wanted.datasums[detector.name]
        findings.append(Finding(detector.name, "DATASUM recorded", total == kept, f"{total}, {kept} recorded"))
    for amplifier in detector.amplifiers:
        placer = Placer(stored, pixel, region(amplifier))
        findings += _amplifier(placer, extension.header, detector, amplifier, wanted)
    return findings


def _amplifier(
    placer: Placer, header: Mapping[str, Any], detector: Detector, amplifier: Amplifier, wanted: Recorded
) -> Iterator[Finding]:
    where = f"{detector.name} {amplifier.name}"
    if header.get("VALID" + amplifier.name, False):
        noted = str(header.get("PIXCRC" + amplifier.name, ""))
        found = f"{_crc(placer, 0, amplifier.rows):08x}"
        yield Finding(where, "pixels", found == noted, f"{found}, {noted or 'none'} in the header")
    blocks = (wanted.blocks or {}).get(detector.name, {}).get(amplifier.name, ())
    if blocks:
        wrong = [block for block in blocks if _crc(placer, block.row, block.rows) != block.crc32c]
        detail = "; ".join(f"rows {block.row} to {block.row + block.rows - 1} differ" for block in wrong[:3])
        yield Finding(where, "pixels recorded", not wrong, detail or f"{len(blocks)} blocks")


def _crc(placer: Placer, row: int, rows: int) -> int:
    """Return the CRC32C of rows as they were sent."""
    total = 0
    for first in range(row, row + rows, _ROWS):
        total = crc32c(placer.readout(first, min(_ROWS, row + rows - first)), total)
    return total

