"""A picture of the whole focal plane: every detector in its place, binned, its overscan subtracted."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagebuilder.assemble import FrameView
from imagebuilder.camera import Amplifier, Camera, Detector
from imagebuilder.earlier import pixel_type
from imagebuilder.mefile import open_extensions
from imagebuilder.placing import PIXEL_TYPES, Array

LONGEST = 1225
"""Pixels along the longer side of a preview, unless told."""

_GAP = -np.inf
_MISSING = np.nan
_MISSING_COLOUR = "#702020"


@dataclass(frozen=True, slots=True)
class Picture:
    """One detector to draw: its pixels as FITS stores them, their type, and which amplifiers are valid."""

    detector: str
    pixel: str
    stored: Array
    valid: Mapping[str, bool]


def of_frames(camera: Camera, frames: Iterable[FrameView]) -> Iterator[Picture]:
    """Yield the pictures of pages."""
    for frame in frames:
        stored = np.frombuffer(frame.data, PIXEL_TYPES[frame.pixel][1])
        yield Picture(frame.detector, frame.pixel, stored.reshape(camera.detector(frame.detector).shape), frame.valid)


def of_file(camera: Camera, path: Path) -> Iterator[Picture]:
    """Yield the pictures of a file of ours, plain or compressed; UsageError when it is no FITS file."""
    for extension in open_extensions(path):
        pixel = pixel_type(extension.header)
        if pixel is not None and extension.name in camera.names:
            amplifiers = camera.detector(extension.name).amplifiers
            valid = {one.name: bool(extension.header.get("VALID" + one.name, True)) for one in amplifiers}
            yield Picture(extension.name, pixel, extension.array, valid)


def mosaic(camera: Camera, pictures: Iterable[Picture], longest: int = LONGEST) -> Array:
    """Return the focal plane in electrons, row 0 at the bottom; -inf between detectors, NaN for missing pixels."""
    step = max(1, -(-max(camera.detsize.width, camera.detsize.height) // longest))
    plane = np.full((-(-camera.detsize.height // step), -(-camera.detsize.width // step)), _GAP, np.float32)
    for detector in camera.detectors:
        for amplifier in detector.amplifiers:
            plane[_place(detector, amplifier, step)] = _MISSING
    for picture in pictures:
        detector = camera.detector(picture.detector)
        for amplifier in detector.amplifiers:
            if picture.valid.get(amplifier.name, False):
                where = _place(detector, amplifier, step)
                plane[where] = _to_shape(_electrons(picture, amplifier, step), plane[where].shape)
    return plane


def png(plane: Array) -> bytes:
    """Return a mosaic as a PNG, stretched between the limits that show the sky best; missing pixels are dark red."""
    from astropy.visualization import ZScaleInterval
    from matplotlib import colormaps, image

    seen = plane[np.isfinite(plane)]
    low, high = ZScaleInterval().get_limits(seen) if seen.size else (0.0, 1.0)
    if high <= low:
        low, high = low - 1.0, low + 1.0
    colours = colormaps["gray"].with_extremes(bad=_MISSING_COLOUR, under="black")
    # What is darker than the limits is drawn as the limit, so that `under` is for the gaps alone.
    shown = np.where(np.isneginf(plane), _GAP, np.maximum(plane, low))
    written = io.BytesIO()
    image.imsave(written, shown, vmin=low, vmax=high, cmap=colours, origin="lower", format="png")
    return written.getvalue()


def _place(detector: Detector, amplifier: Amplifier, step: int) -> tuple[slice, slice]:
    """Return where in the binned mosaic an amplifier lies."""
    left, bottom = detector.detsec.left + amplifier.ccd.left, detector.detsec.bottom + amplifier.ccd.bottom
    top, right = bottom + amplifier.ccd.height, left + amplifier.ccd.width
    return slice(round(bottom / step), round(top / step)), slice(round(left / step), round(right / step))


def _to_shape(binned: Array, shape: tuple[int, ...]) -> Array:
    """Return a binned amplifier one row or column longer or shorter, as the rounding of its place wants it."""
    rows, columns = (np.minimum(np.arange(length), have - 1) for length, have in zip(shape, binned.shape, strict=True))
    return np.asarray(binned[np.ix_(rows, columns)])


def _electrons(picture: Picture, amplifier: Amplifier, step: int) -> Array:
    """Return the image pixels of an amplifier, binned by their mean, in electrons above the overscan."""
    sign = PIXEL_TYPES[picture.pixel][2]
    counts = _binned(picture.stored[amplifier.data.slices], step, step) + sign
    if amplifier.bias is not None:
        # One level for the whole amplifier: the overscan of single rows is noisier than a binned sky.
        counts -= np.median(_binned(picture.stored[amplifier.bias.slices], step, amplifier.bias.width)) + sign
    return np.asarray(counts * amplifier.gain)


def _binned(stored: Array, rows: int, columns: int) -> Array:
    """Return the means of blocks of pixels; what is left over at the edges is left out."""
    high, wide = max(1, stored.shape[0] // rows), max(1, stored.shape[1] // columns)
    rows, columns = min(rows, stored.shape[0]), min(columns, stored.shape[1])
    used = stored[: high * rows, : wide * columns]
    sums = used.reshape(high, rows, wide * columns).sum(axis=1, dtype=np.float64)
    return np.asarray(sums.reshape(high, wide, columns).mean(axis=2) / rows)
