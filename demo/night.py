"""A night of images for the demonstration: real FITS files that astropy ships, and a night of its own making."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import astropy
import numpy as np
from astropy.io import fits

NIGHT = "2026-11-20"
_FIRST_EXPOSURE = 1_048_576
_CCDS = ((25, "S1"), (26, "S2"), (32, "N1"), (33, "N2"))
_ROWS, _COLUMNS = 512, 1024
_SHIPPED = ("o4sp040b0_raw.fits", "test0.fits", "checksum.fits", "comp.fits")


@dataclass(frozen=True, slots=True)
class Exposure:
    """One exposure of the night: type, object, DECam's name of the filter, seconds, and sky position in degrees."""

    kind: str
    target: str
    filter: str
    seconds: float
    ra: float = 0.0
    dec: float = 0.0


_R, _G, _I = "r DECam SDSS c0002 6415.0 1480.0", "g DECam SDSS c0001 4720.0 1520.0", "i DECam SDSS c0003 7835.0 1470.0"


def exposures() -> list[Exposure]:
    """Return the night: bias frames, dome flats, and survey fields in g, r and i."""
    night = [Exposure("zero", "bias", "block", 0.0) for _ in range(4)]
    night += [Exposure("dome flat", f"{band[0]} flat", band, 8.0) for band in (_G, _R, _I)]
    for number, (ra, dec) in enumerate(((52.25, -27.8), (54.27, -28.1), (9.5, -43.9), (36.45, -4.6))):
        night += [Exposure("object", f"DES supernova field {number + 1}", band, 90.0, ra, dec) for band in (_G, _R, _I)]
    return night


def make_night(folder: Path) -> Iterator[Path]:
    """Write the exposures of the night below `folder`, one multi-extension FITS file each."""
    folder.mkdir(parents=True, exist_ok=True)
    start = datetime.fromisoformat(f"{NIGHT}T23:40:00")
    random = np.random.default_rng(42)
    for number, exposure in enumerate(exposures()):
        path = folder / f"DECam_{_FIRST_EXPOSURE + number:08d}.fits"
        moment = start + timedelta(minutes=4 * number)
        primary = fits.PrimaryHDU(header=_header(_FIRST_EXPOSURE + number, exposure, moment))
        images = [_ccd(random, exposure, number, name) for number, name in _CCDS]
        fits.HDUList([primary, *images]).writeto(path, checksum=True)
        yield path


def shipped(folder: Path) -> Iterator[Path]:
    """Copy images that astropy ships with its tests into `folder`; one is a raw frame of the Hubble telescope."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(astropy.__file__).parent / "io" / "fits" / "tests" / "data"
    for name in _SHIPPED:
        path = folder / name
        path.write_bytes((source / name).read_bytes())
        yield path


def _header(number: int, exposure: Exposure, moment: datetime) -> fits.Header:
    sky = [("RA", exposure.ra, "[deg] of the telescope"), ("DEC", exposure.dec, "[deg] of the telescope")]
    return fits.Header(
        [
            ("OBSERVAT", "CTIO", "Observatory"),
            ("TELESCOP", "CTIO 4.0-m telescope", "Telescope"),
            ("INSTRUME", "DECam", "Instrument"),
            ("EXPNUM", number, "Exposure number"),
            ("OBSID", f"ct4m{moment:%Y%m%dt%H%M%S}", "Observation"),
            ("PROPID", "2012B-0001", "Proposal"),
            ("OBSTYPE", exposure.kind, "Observation type"),
            ("OBJECT", exposure.target, "Object"),
            ("FILTER", exposure.filter, "Filter"),
            ("EXPTIME", exposure.seconds, "[s] exposure time"),
            ("DATE-OBS", moment.isoformat(timespec="milliseconds"), "UTC at the start of the exposure"),
            ("TIMESYS", "UTC", "Time system"),
            ("OBS-LONG", 70.81489, "[deg] longitude, west positive"),
            ("OBS-LAT", -30.16606, "[deg] latitude"),
            *sky,
        ]
    )


def _ccd(random: np.random.Generator, exposure: Exposure, ccd: int, name: str) -> fits.ImageHDU:
    """Return one chip: bias and read noise, light in proportion to the time, and a few stars."""
    light = {"zero": 0.0, "dome flat": 2500.0}.get(exposure.kind, 2.2) * exposure.seconds
    pixels = random.normal(1500.0, 3.0, (_ROWS, _COLUMNS)) + random.poisson(light, (_ROWS, _COLUMNS))
    if exposure.kind == "object":
        for row, column in random.integers(8, (_ROWS - 8, _COLUMNS - 8), (120, 2)):
            pixels[row - 2 : row + 3, column - 2 : column + 3] += random.exponential(4000.0)
    header = fits.Header([("EXTNAME", name, "Chip"), ("CCDNUM", ccd, "Number"), ("DETPOS", name, "Position")])
    return fits.ImageHDU(pixels.clip(0, 65535).astype(np.uint16), header=header)
