"""FITS headers → searchable columns.

The instruments that astro-metadata-translator knows are read through it; for all others, and for what it leaves open,
the first keyword of each list below that has a usable value counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

from catalog import quantities, translate
from catalog.fitsheader import Header, Value, is_fits, read_headers
from catalog.records import Metadata

__all__ = ["KEYWORDS", "Metadata", "harvest"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "instrument": ("INSTRUME", "INSTRUM", "CAMERA"),
    "exposure": ("EXPNUM", "EXPID", "OBSNUM", "OBSID"),
    "observation": ("OBSID", "OBS_ID", "OBS-ID", "EXPID"),
    "detector": ("CCDNUM", "DETECTOR", "CCD", "CHIPID"),
    "physical_filter": ("FILTER", "FILTNAM", "FILTNAM1", "FILTER1", "BAND"),
    "object": ("OBJECT", "TARGNAME", "OBJNAME"),
    "type": ("OBSTYPE", "IMAGETYP", "OBSMODE", "EXPTYPE"),
    "exposure_time": ("EXPTIME", "EXPOSURE", "ITIME"),
    "ra": ("RA", "TELRA", "RA_TARG"),
    "dec": ("DEC", "TELDEC", "DEC_TARG"),
    "proposal": ("PROPID", "PROP_ID", "PROPOSID", "PROPOSAL", "GEMPRGID"),
    "flags": ("PARTIAL",),
    "supersedes": ("SUPERSED",),
}
"""Which keywords feed a column, best first; date, night and a position from the WCS have rules of their own."""

_NIGHT = ("OBS-NITE", "DTCALDAT", "NIGHT")
_CLOCK = ("TIME-OBS", "UT", "UTC-OBS", "UTSTART")
_EAST = ("LONGITUD", "GEOLON", "LONG-OBS", "SITELONG")
_OTHERS = ("DATE-OBS", "MJD-OBS", "TIMESYS", "NEXTEND", "OBS-LONG", "CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2")
_WANTED = frozenset(
    name.encode() for name in (*_NIGHT, *_CLOCK, *_EAST, *_OTHERS, *(key for keys in KEYWORDS.values() for key in keys))
)
_OF_ONE_DETECTOR = frozenset({"CCDNUM", "DETECTOR", "CCD", "CHIPID", "CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2"})
_TAI_AHEAD = timedelta(seconds=37)

_READERS: Mapping[str, Callable[[Any], Any]] = {
    "instrument": quantities.text,
    "exposure": quantities.whole,
    "observation": quantities.text,
    "detector": quantities.whole,
    "physical_filter": quantities.text,
    "object": quantities.text,
    "type": quantities.kind_of,
    "exposure_time": quantities.seconds,
    "ra": quantities.right_ascension,
    "dec": quantities.declination,
    "proposal": quantities.text,
    "flags": lambda value: "partial" if value is True else None,
    "supersedes": quantities.text,
}


def harvest(head: bytes) -> Metadata | None:
    """Return what the FITS headers within the first bytes of a file say; None if it is not FITS or says nothing.

    Never raises: strange input gives part of the columns or none, and a warning in the log. Extension headers fill in
    what the primary header lacks; a detector or a WCS position is taken only from a file of one image.
    """
    if not is_fits(head):
        return None
    try:
        return _harvest(bytes(head))
    except Exception as error:
        # A file is not refused because its header is odd: it stays searchable by its name.
        _log.warning("a FITS header could not be read: %s: %s", type(error).__name__, error)
        return None


def _harvest(head: bytes) -> Metadata | None:
    headers = list(read_headers(head, _WANTED))
    values = _merged(headers)
    found = {column: _first(values, KEYWORDS[column], reader) for column, reader in _READERS.items()}
    found["date"] = _date(values)
    if (found["instrument"] or "").lower() in translate.KNOWN:
        found.update(translate.translated(head, headers if _alone(headers) else headers[:1]))
    found["night"] = _night(values, found["date"])
    found["filter"] = quantities.band(found["physical_filter"])
    if found["ra"] is None or found["dec"] is None:
        found["ra"], found["dec"] = _from_wcs(values)
    result = Metadata(**found)
    return None if result == Metadata() else result


def _merged(headers: list[Header]) -> dict[str, Value]:
    """Join the headers, the primary's words first."""
    values = dict(headers[0].values)
    alone = _alone(headers)
    for header in headers[1:]:
        for name, value in header.values.items():
            if alone or name not in _OF_ONE_DETECTOR:
                values.setdefault(name, value)
    return values


def _alone(headers: list[Header]) -> bool:
    """Tell whether the file holds one image, so that what an extension says is true of the file."""
    count = headers[0].values.get("NEXTEND")
    return len(headers) <= 2 and (count is None or count == 1)


def _first(values: Mapping[str, Value], names: tuple[str, ...], reader: Callable[[Value], T | None]) -> T | None:
    for name in names:
        value = values.get(name)
        if value is not None:
            found = reader(value)
            if found is not None:
                return found
    return None


def _date(values: Mapping[str, Value]) -> datetime | None:
    clock = next((values[name] for name in _CLOCK if name in values), None)
    found = quantities.moment(values.get("DATE-OBS"), clock) or quantities.from_mjd(values.get("MJD-OBS"))
    if found is not None and str(values.get("TIMESYS", "")).strip().upper() == "TAI":
        return found - _TAI_AHEAD
    return found


def _night(values: Mapping[str, Value], start: datetime | None) -> date | None:
    """Return the night that the header names, or the one from local noon to noon in which the exposure began."""
    named = _first(values, _NIGHT, quantities.day)
    if named is not None or start is None:
        return named
    west = quantities.longitude(values.get("OBS-LONG"))
    east = -west if west is not None else _first(values, _EAST, quantities.longitude)
    return quantities.night_of(start, east)


def _from_wcs(values: Mapping[str, Value]) -> tuple[float | None, float | None]:
    """Return the reference point of a celestial WCS in equatorial coordinates."""
    axes = {str(values.get(f"CTYPE{axis}", ""))[:4].rstrip("-"): values.get(f"CRVAL{axis}") for axis in (1, 2)}
    ra, dec = quantities.right_ascension(axes.get("RA")), quantities.declination(axes.get("DEC"))
    return (None, None) if ra is None or dec is None else (ra, dec)
