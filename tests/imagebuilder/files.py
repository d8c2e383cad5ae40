"""Exposures with known pixels, laid out without any code of the image builder, and files made of them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from imagebuilder.assemble import Assembled, EarlierFile, ExposureHeader, FrameView, assemble
from imagebuilder.camera import Camera, Detector
from imagebuilder.records import Card

Sent: TypeAlias = dict[str, dict[str, NDArray[Any]]]
"""Pixels as a PAN sends them: rows and columns in readout order, by detector and amplifier."""

STORED = {"uint16": (">i2", 1 << 15), "int16": (">i2", 0), "uint32": (">i4", 1 << 31), "int32": (">i4", 0),
          "float32": (">f4", 0)}  # fmt: skip
MADE_AT = datetime(2026, 5, 3, 4, 5, 6, tzinfo=timezone.utc)
METADATA: tuple[Card, ...] = (
    Card("DATE-OBS", "2026-05-03T04:02:59.601219"), Card("DATE-END", "2026-05-03T04:04:29.7"),
    Card("DTUTC", "2026-05-03T04:04:50"), Card("MJD-OBS", 61163.168745384), Card("EXPTIME", 90.0),
    Card("EXPREQ", 90.0), Card("DARKTIME", 90.9), Card("OBSTYPE", "object"), Card("OBJECT", "DES wide hex 123-45"),
    Card("FILTER", "i DECam SDSS c0003 7835.0 1470.0"), Card("PROPID", "2012B-0001"), Card("OBSERVER", "O'Neill"),
    Card("TELRA", "05:43:04.141"), Card("TELDEC", "-35:49:47.30"), Card("ZD", 41.99), Card("AZ", 324.79),
    Card("AIRMASS", 1.34), Card("HUMIDITY", 15), Card("OUTTEMP", 15.3), Card("PRESSURE", 780.0),
    Card("TELFOCUS", "1451.31,-2890.19,2063.31,130.99,-35.55,-0.00"), Card("VSUB", True),
)  # fmt: skip


def sent_pixels(camera: Camera, pixel: str = "uint16", seed: int = 1) -> Sent:
    """Return random pixels, every bit of them used, for all detectors."""
    generator = np.random.default_rng(seed)
    kind = np.dtype(pixel).newbyteorder("<")
    made: Sent = {}
    for detector in camera.detectors:
        made[detector.name] = {}
        for amplifier in detector.amplifiers:
            shape = (amplifier.rows, amplifier.columns)
            if kind.kind == "f":
                made[detector.name][amplifier.name] = generator.normal(1000, 300, shape).astype(kind)
            else:
                low, high = np.iinfo(kind).min, np.iinfo(kind).max
                made[detector.name][amplifier.name] = generator.integers(low, high, shape, kind.newbyteorder("="), True)
    return made


def image_of(detector: Detector, sent: Mapping[str, NDArray[Any]], pixel: str = "uint16") -> NDArray[Any]:
    """Return the image that the readouts make: amplifiers that read from the right or the top are turned round."""
    image = np.zeros(detector.shape, pixel)
    for amplifier in detector.amplifiers:
        if amplifier.name in sent:
            rows = sent[amplifier.name]
            if amplifier.read.x1 > amplifier.read.x2:
                rows = np.fliplr(rows)
            if amplifier.read.y1 > amplifier.read.y2:
                rows = np.flipud(rows)
            left, bottom = amplifier.image.x1 - 1, amplifier.image.y1 - 1
            image[bottom : bottom + amplifier.rows, left : left + amplifier.columns] = rows
    return image


def view(detector: Detector, sent: Mapping[str, NDArray[Any]], pixel: str = "uint16") -> FrameView:
    """Return the page of a detector that has received these amplifiers."""
    stored, zero = STORED[pixel]
    image = image_of(detector, sent, pixel)
    page = image.astype(stored) if not zero else (image.astype("i8") - zero).astype(stored)
    kind = np.dtype(pixel).newbyteorder("<")
    crc = {name: f"{crc32c(rows.astype(kind).tobytes()):08x}" for name, rows in sent.items()}
    valid = {amplifier.name: amplifier.name in sent for amplifier in detector.amplifiers}
    return FrameView(detector.name, pixel, memoryview(page.tobytes()), valid, crc)


def views(camera: Camera, sent: Sent, pixel: str = "uint16") -> dict[str, FrameView]:
    """Return the pages of the detectors that are in `sent`."""
    return {name: view(camera.detector(name), rows, pixel) for name, rows in sent.items()}


def header(cards: Sequence[Card] = METADATA, **changes: Any) -> ExposureHeader:
    """Return what the headers are made of."""
    return ExposureHeader(160496, "ct4m20260503t040259", "DECam_00160496.fits", MADE_AT, cards=cards, **changes)


def write(assembled: Assembled, path: Path) -> Path:
    """Write a file out through its reader, a crooked number of bytes at a time."""
    reader = assembled.reader()
    buffer = memoryview(bytearray(100_003))
    with open(path, "xb") as file:
        while count := reader.readinto(buffer):
            file.write(buffer[:count])
    return path


def build(
    camera: Camera, sent: Sent, path: Path, *, pixel: str = "uint16", earlier: EarlierFile | None = None,
    cards: Sequence[Card] = METADATA,
) -> Assembled:  # fmt: skip
    """Assemble an exposure and write it to a file."""
    assembled = assemble(camera, header(cards), views(camera, sent, pixel), earlier=earlier)
    write(assembled, path)
    return assembled


def fitsverify(path: Path) -> str:
    """Return the last line that fitsverify says of a file; it must find neither errors nor warnings."""
    done = subprocess.run(["fitsverify", "-q", str(path)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if "verification OK" not in said:
        said = subprocess.run(["fitsverify", str(path)], capture_output=True, text=True, check=False).stdout
        raise AssertionError(said)
    return said
