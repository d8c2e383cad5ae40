"""The pixels of a camera that looks at a sky: bias, overscan, sky, noise and stars; the same for the same seed.

The noise is drawn once, into a field from which each detector takes another stretch: 1.2 GB of pixels take seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagebuilder.camera import Amplifier, Camera, Detector
from imagebuilder.geometry import Section

_BIAS = 1500.0
_SKY = 900.0
"""Counts of the empty sky in the middle of the field."""

_VIGNETTING = 0.25
"""The share of light that is lost in the corners of the field."""

_DENSITY = 4e-5
"""Stars on a pixel."""

_FAINTEST = 1500.0
_SLOPE = 0.9
_FWHM = 4.2
_REACH = ((0.0, 16), (60.0, 60), (1000.0, 200))
"""How far a star is drawn, in pixels, by its light in units of the faintest one's."""

_HALO = 1e-3
_RING = (5.0, 13.0)
"""Inner and outer radius in pixels of a star out of focus, as the focus detectors see it."""

_BAND = 64
_SHORTEST = 1 << 18


@dataclass(frozen=True, slots=True)
class _Stars:
    """Stars by their place in the mosaic (pixels from 0) and their counts."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]


class Sky:
    """What a camera sees. `kind` is `object` or `bias`; each exposure number sees another part of the sky."""

    def __init__(self, camera: Camera, seed: int, *, kind: str = "object") -> None:
        """Keep the choices; the noise is drawn at the first image."""
        self._camera = camera
        self._seed = seed
        self._lit = kind != "bias"
        self._stars: dict[int, _Stars] = {}

    def image(self, exposure: int, detector: Detector) -> NDArray[Any]:
        """Return a detector's image as the FITS file shall hold it, in the camera's type of pixels."""
        chance = np.random.default_rng([self._seed, exposure, self._camera.names.index(detector.name)])
        image = np.empty(detector.shape, dtype=np.int32 if self._wide else np.uint16)
        for number, amplifier in enumerate(detector.amplifiers):
            self._fill(
                image, amplifier.image, self._read_noise, _BIAS + 40 * number + 3 * (detector.number % 17), chance
            )
        if self._lit:
            self._add_sky(image, detector, chance)
            self._add_stars(image, detector, exposure)
        return image.astype(self._camera.pixel_type, copy=False)

    @property
    def _wide(self) -> bool:
        return self._camera.pixel_type != "uint16"

    def _field(self, width: float) -> NDArray[np.int16]:
        """Return noise of that width in counts, of which any stretch may be taken."""
        longest = max(detector.pixels for detector in self._camera.detectors)
        chance = np.random.default_rng([self._seed, int(width * 1000)])
        drawn = chance.standard_normal(2 * max(longest, _SHORTEST), dtype=np.float32)
        noise: NDArray[np.int16] = np.rint(drawn * np.float32(width)).astype(np.int16)
        return noise

    @cached_property
    def _read_noise(self) -> NDArray[np.int16]:
        first = self._camera.detectors[0].amplifiers[0]
        return self._field(first.noise / first.gain)

    @cached_property
    def _sky_noise(self) -> NDArray[np.int16]:
        return self._field(math.sqrt(_SKY / self._camera.detectors[0].amplifiers[0].gain))

    def _fill(
        self, image: NDArray[Any], where: Section, noise: NDArray[np.int16], level: float, chance: np.random.Generator
    ) -> None:
        """Write a level and noise into a section."""
        part = image[where.slices]
        start = int(chance.integers(len(noise) - part.size))
        np.add(noise[start : start + part.size].reshape(part.shape), int(level), out=part, casting="unsafe")

    def _add_sky(self, image: NDArray[Any], detector: Detector, chance: np.random.Generator) -> None:
        """Add the sky with its noise to the part of the image that sees light, in bands that fit the cache."""
        part = image[detector.data.slices]
        start = int(chance.integers(len(self._sky_noise) - part.size))
        noise = self._sky_noise[start : start + part.size].reshape(part.shape)
        across = self._camera.detsize.width / 2, self._camera.detsize.height / 2
        columns = detector.detsec.left + np.arange(part.shape[1]) - across[0]
        empty = _SKY * self._sensitivity(detector)
        rows = max(1, min(_BAND, self._camera.detsize.height // _BAND))
        for row in range(0, part.shape[0], rows):
            height = detector.detsec.bottom + row + rows / 2 - across[1]
            distance = (columns**2 + height**2) / (across[0] ** 2 + across[1] ** 2)
            level = np.rint(empty * (1 - _VIGNETTING * distance)).astype(np.int16)
            band = part[row : row + rows]
            np.add(band, noise[row : row + rows] + level, out=band, casting="unsafe")

    def _sensitivity(self, detector: Detector) -> NDArray[np.float64]:
        """Return, for each column, the counts that the same light gives, relative to the camera's first amplifier."""
        first = self._camera.detectors[0].amplifiers[0].gain
        found = np.ones(detector.data.width)
        for amplifier in detector.amplifiers:
            left = amplifier.data.left - detector.data.left
            found[left : left + amplifier.data.width] = first / amplifier.gain
        return found

    def _stars_of(self, exposure: int) -> _Stars:
        """Return the stars over the whole mosaic; only the last exposures' are remembered."""
        if exposure not in self._stars:
            size = self._camera.detsize
            chance = np.random.default_rng([self._seed, exposure])
            count = max(12 * len(self._camera.detectors), int(_DENSITY * size.width * size.height))
            flux = _FAINTEST * chance.pareto(_SLOPE, count).clip(0, 3000) + _FAINTEST
            drawn = _Stars(chance.uniform(0, size.width, count), chance.uniform(0, size.height, count), flux)
            self._stars = {number: stars for number, stars in self._stars.items() if number > exposure - 3}
            self._stars[exposure] = drawn
        return self._stars[exposure]

    def _add_stars(self, image: NDArray[Any], detector: Detector, exposure: int) -> None:
        stars, data, place = self._stars_of(exposure), detector.data, detector.detsec
        part = image[data.slices]
        x, y = stars.x - place.left, stars.y - place.bottom
        most = _REACH[-1][1]
        seen = (x > -most) & (x < part.shape[1] + most) & (y > -most) & (y < part.shape[0] + most)
        ceiling = int(min(self._saturation(amplifier) for amplifier in detector.amplifiers))
        defocused = detector.kind.startswith("focus")
        for one in np.flatnonzero(seen):
            _add_star(part, float(x[one]), float(y[one]), float(stars.flux[one]), ceiling, defocused)

    def _saturation(self, amplifier: Amplifier) -> float:
        return min(amplifier.saturation, 65_535.0)


def _add_star(part: NDArray[Any], x: float, y: float, flux: float, ceiling: int, defocused: bool) -> None:
    """Add one star, with a halo if it is bright, as a ring if it is out of focus; nothing exceeds the ceiling."""
    reach = max(pixels for share, pixels in _REACH if flux >= share * _FAINTEST)
    left, right = max(0, int(x) - reach), min(part.shape[1], int(x) + reach + 1)
    low, high = max(0, int(y) - reach), min(part.shape[0], int(y) + reach + 1)
    if left >= right or low >= high:
        return
    across = (np.arange(left, right) - x) ** 2
    along = (np.arange(low, high) - y) ** 2
    squared = along[:, None] + across[None, :]
    light = flux * (_ring(squared) if defocused else _profile(squared))
    stamp = part[low:high, left:right]
    stamp[...] = np.minimum(stamp + np.rint(light), ceiling).astype(part.dtype)


def _profile(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a point as seen through the air: a core with a wide halo, whose sum is about one."""
    width = (_FWHM / 2.355) ** 2
    core = np.exp(-squared / (2 * width)) / (2 * math.pi * width)
    return core + _HALO / (1 + squared / 9.0) ** 1.25


def _ring(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the picture of the mirror that a star out of focus makes."""
    inner, outer = (radius**2 for radius in _RING)
    return ((squared >= inner) & (squared <= outer)) / (math.pi * (outer - inner))


def readout(image: NDArray[Any], amplifier: Amplifier) -> NDArray[Any]:
    """Return the pixels of one amplifier in the order in which they are read out (a view)."""
    part = image[amplifier.image.slices]
    return part[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
