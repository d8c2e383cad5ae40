"""Files and headers for the catalog's tests."""

from __future__ import annotations

import io
from collections.abc import Mapping

from astropy.io import fits

from catalog.store import Metadata, Registration

DECAM: Mapping[str, object] = {
    "INSTRUME": "DECam",
    "TELESCOP": "CTIO 4.0-m telescope",
    "EXPNUM": 160496,
    "OBSID": "ct4m20121216t040000",
    "DATE-OBS": "2012-12-16T04:00:00.123456",
    "TIMESYS": "UTC",
    "EXPTIME": 90.0,
    "FILTER": "r DECam SDSS c0002 6415.0 1480.0",
    "OBSTYPE": "object",
    "OBJECT": "DES survey hex -23",
    "PROPID": "2012B-0001",
    "TELRA": "03:28:00.5",
    "TELDEC": "-28:05:00.1",
    "OBS-LONG": 70.81489,
    "NEXTEND": 70,
}
"""The primary header's words of a DECam exposure."""


def copy_of(
    lfn: str,
    element: str = "ctio",
    *,
    size: int = 2880,
    checksum: str = "adler32:03da0195",
    depth: str = "full",
    metadata: Metadata | None = None,
    replace: bool = False,
) -> Registration:
    """Return a registration with usual values."""
    return Registration(lfn, size, checksum, element, lfn.lstrip("/"), depth, metadata, replace)


def many(count: int, element: str = "ctio", folder: str = "/des/raw") -> list[Registration]:
    """Return `count` registrations in folders of 100 files."""
    return [
        copy_of(
            f"{folder}/{number // 100:04d}/f_{number:08d}.fits", element, size=number, checksum=f"adler32:{number:08x}"
        )
        for number in range(count)
    ]


def fits_head(words: Mapping[str, object], *extensions: Mapping[str, object]) -> bytes:
    """Return a FITS file with an empty primary HDU and image extensions, each with the given keywords."""
    hdus: list[object] = [fits.PrimaryHDU(header=_header(words))]
    for extension in extensions:
        hdu = fits.ImageHDU()
        hdu.header.update(_header(extension))
        hdus.append(hdu)
    stream = io.BytesIO()
    fits.HDUList(hdus).writeto(stream)
    return stream.getvalue()


def _header(words: Mapping[str, object]) -> fits.Header:
    header = fits.Header()
    for name, value in words.items():
        header[name] = value
    return header
