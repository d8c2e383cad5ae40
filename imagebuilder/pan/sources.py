"""Images that were read from files, to be sent as a camera would send them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtscore.errors import UsageError
from imagebuilder.camera import Amplifier, Camera
from imagebuilder.pan.arguments import TYPES
from imagebuilder.pan.client import PanClient
from imagebuilder.pan.sky import readout


@dataclass(frozen=True, slots=True)
class Readout:
    """The pixels of one amplifier, in readout order."""

    detector: str
    amplifier: str
    pixels: NDArray[Any]


def load(files: Sequence[Path], camera: Camera) -> list[Readout]:
    """Read files as `dts-pan send` takes them; all pixels have one type. Raises UsageError."""
    found: list[Readout] = []
    for path in files:
        found += _npy(path, camera) if path.suffix == ".npy" else _fits(path, camera)
    types = {one.pixels.dtype.name for one in found}
    if len(types) > 1 or not types <= set(TYPES):
        raise UsageError(
            f"the files hold pixels of {', '.join(sorted(types))}", f"all must be one of {', '.join(TYPES)}"
        )
    named = [(one.detector, one.amplifier) for one in found]
    for detector, amplifier in named:
        if named.count((detector, amplifier)) > 1:
            raise UsageError(f"the files hold detector {detector}, amplifier {amplifier} twice", "name each file once")
    return found


def send(
    pan: PanClient, exposure: int, images: Sequence[Readout], expected: Sequence[str], cards: Sequence[str], rows: int
) -> None:
    """Send an exposure, so many rows at once; `cards` are lines KEYWORD=value / comment. Raises WireError."""
    detectors = list(dict.fromkeys(one.detector for one in images))
    pan.begin(exposure, detectors, expected=expected, type=images[0].pixels.dtype.name)
    if cards:
        pan.metadata(exposure, "".join(f"{card}\n" for card in cards))
    for one in images:
        for row in range(0, len(one.pixels), rows):
            pan.block(exposure, one.detector, one.amplifier, row, one.pixels[row : row + rows])
    pan.end(exposure)


def _npy(path: Path, camera: Camera) -> list[Readout]:
    try:
        pixels: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:  # EOFError: the file is empty
        raise UsageError(f"{path} cannot be read: {error}", "give an array saved by numpy") from error
    name, _, amplifier_name = path.stem.partition(".")
    detector = camera.detector(name)
    if not amplifier_name:
        return _of_image(path, camera, name, pixels)
    amplifier = detector.amplifier(amplifier_name)
    _check_shape(path, pixels, (amplifier.rows, amplifier.columns))
    return [Readout(name, amplifier_name, pixels)]


def _of_image(path: Path, camera: Camera, name: str, pixels: NDArray[Any]) -> list[Readout]:
    detector = camera.detector(name)
    _check_shape(path, pixels, detector.shape)
    return [_readout(name, amplifier, pixels) for amplifier in detector.amplifiers]


def _readout(detector: str, amplifier: Amplifier, pixels: NDArray[Any]) -> Readout:
    return Readout(detector, amplifier.name, readout(pixels, amplifier))


def _check_shape(path: Path, pixels: NDArray[Any], shape: tuple[int, int]) -> None:
    if pixels.shape != shape:
        what = f"{path} holds an array of shape {pixels.shape}; the camera's has {shape}"
        raise UsageError(what, "give rows × columns with pre-, over- and postscan")


def _fits(path: Path, camera: Camera) -> list[Readout]:
    """Read the extensions of a FITS file whose EXTNAME is a detector of the camera."""
    from astropy.io import fits

    found: list[Readout] = []
    try:
        with fits.open(path, memmap=False) as units:
            for unit in units:
                if unit.name in camera.names and unit.data is not None:
                    found += _of_image(path, camera, unit.name, np.asarray(unit.data))
    except (OSError, ValueError, TypeError) as error:  # a file that was cut off in the middle of an image
        raise UsageError(f"{path} cannot be read: {error}", "give a whole FITS file, or DETECTOR.npy") from error
    if not found:
        what = f"no extension of {path} has the name of a detector of {camera.name}"
        raise UsageError(
            what, f"its detectors are {', '.join(camera.names[:8])}{', …' if len(camera.names) > 8 else ''}"
        )
    return found
