"""Cameras are configuration: detectors in the order of the file, their amplifiers and how each is read out.

A camera is one ini file, read by `imagebuilder.camerafile`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dtscore.errors import ConfigurationError, UsageError
from dtscore.inifile import nearest
from imagebuilder.dictionary import CardDictionary
from imagebuilder.geometry import Section

PixelType = Literal["uint16", "int16", "uint32", "int32", "float32"]

_HERE = Path(__file__).resolve().parent
SHIPPED = (_HERE / "cameras", _HERE.parent / "etc" / "cameras")
"""Where the cameras lie that come with the program: when it is installed, and in its source tree."""


@dataclass(frozen=True, slots=True)
class Amplifier:
    """One amplifier of a detector: where its pixels lie in the image, and from which corner they are read.

    An exposure's pixels of an amplifier are `rows` × `columns` in readout order; `image` is where they lie. With
    `flip_x` the first column that is read is the rightmost of `image`, with `flip_y` the first row is the top one, so:
    image[amplifier.image.slices] = readout[:: -1 if flip_y else 1, :: -1 if flip_x else 1].
    `read` is the part of the chip in the order of readout, `ccd` the same part in ascending order; the sections
    without pixels of this kind are None. `gain` in electrons per count, `noise` in electrons, `saturation` in counts.
    """

    name: str
    image: Section
    data: Section
    bias: Section | None
    pre: Section | None
    post: Section | None
    ccd: Section
    read: Section
    gain: float
    noise: float
    saturation: float

    @property
    def columns(self) -> int:
        """Return the pixels of a row."""
        return self.image.width

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self.image.height

    @property
    def flip_x(self) -> bool:
        """Whether the column read first is the rightmost."""
        return self.read.x1 > self.read.x2

    @property
    def flip_y(self) -> bool:
        """Whether the row read first is the top one."""
        return self.read.y1 > self.read.y2


@dataclass(frozen=True, slots=True)
class Detector:
    """One detector: its name in the focal plane, its number, its size in pixels, and where it lies.

    `data` is the part of the image without pre-, over- and postscan, `detsec` its place in the mosaic of the camera,
    `centre` the place of its middle in the focal plane in mm from the optical axis, along the image's x and y.
    `serial` is empty if the camera's file does not tell it, `kind` is the name of its layout.
    """

    name: str
    number: int
    serial: str
    kind: str
    width: int
    height: int
    data: Section
    detsec: Section
    centre: tuple[float, float]
    amplifiers: tuple[Amplifier, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns) of the image, as numpy counts."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """Return the number of pixels."""
        return self.width * self.height

    def amplifier(self, name: str) -> Amplifier:
        """Return an amplifier by its name, or raise UsageError."""
        for amplifier in self.amplifiers:
            if amplifier.name == name:
                return amplifier
        known = [amplifier.name for amplifier in self.amplifiers]
        raise UsageError(f"detector {self.name!r} has no amplifier {name[:40]!r}", nearest(name[:40], known))


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera: `detectors` in the order of the file's extensions.

    `detsize` is the mosaic that the detectors' `detsec` lie in, `pixel_size` in micrometres, `pixel_type` what it
    sends unless a PAN says otherwise; `matrix` is CD1_1, CD1_2, CD2_1, CD2_2 in degrees per pixel; `cards` says
    what its header cards are, and which of them stand in every primary header.
    """

    name: str
    detectors: tuple[Detector, ...]
    detsize: Section
    pixel_size: float
    pixel_type: PixelType
    matrix: tuple[float, float, float, float]
    cards: CardDictionary
    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Return the detectors' names in the order of the file."""
        return tuple(detector.name for detector in self.detectors)

    @property
    def pixel_scale(self) -> float:
        """Return the size of a pixel on the sky, in arcseconds."""
        a, b, c, d = self.matrix
        return 3600 * math.sqrt(abs(a * d - b * c))

    def detector(self, name: str) -> Detector:
        """Return a detector by its name, or raise UsageError that suggests the nearest one."""
        for detector in self.detectors:
            if detector.name == name:
                return detector
        raise UsageError(f"camera {self.name!r} has no detector {name[:40]!r}", nearest(name[:40], self.names))


def load_camera(path: Path) -> Camera:
    """Read a camera from its ini file; ConfigurationError names the file and what is wrong."""
    from imagebuilder.camerafile import read_camera

    return read_camera(path)


def find_camera(name: str, folders: Sequence[Path] = ()) -> Camera:
    """Load NAME.ini from the first folder that has it, or raise ConfigurationError that names what there is.

    After the folders given, the program's own are searched.
    """
    known: list[str] = []
    for folder in (*folders, *SHIPPED):
        found = sorted(folder.glob("*.ini"))
        for path in found:
            if path.stem.lower() == name.lower():
                return load_camera(path)
        known += [path.stem for path in found]
    raise ConfigurationError(f"there is no camera {name[:80]!r}", nearest(name[:80], known) if known else "write one")
