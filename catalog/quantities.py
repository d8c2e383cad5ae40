"""Header values → numbers, angles, moments and nights; None for what cannot be understood. Nothing here raises."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timedelta, timezone

from catalog.fitsheader import Value

_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\xff]+")
_LONGEST = 200
_LARGEST = 2**63 - 1
_MJD_ZERO = datetime(1858, 11, 17, tzinfo=timezone.utc)
_SEXAGESIMAL = re.compile(r"([+-]?)(\d{1,3})[: hd]+(\d{1,2})(?:[: m']+(\d{1,2}(?:\.\d*)?))?s?\"?\Z", re.ASCII)
_OLD_DATE = re.compile(r"(\d{2})/(\d{2})/(\d{2})\Z", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?\Z", re.ASCII)
_DIGITS = re.compile(r"\d{8}\Z", re.ASCII)

_TYPES = {
    "object": "science",
    "obj": "science",
    "sky": "science",
    "light": "science",
    "light frame": "science",
    "zero": "bias",
    "bias frame": "bias",
    "dark frame": "dark",
    "dome flat": "flat",
    "dflat": "flat",
    "flat field": "flat",
    "flat frame": "flat",
}
_BANDS = (
    re.compile(r"HSC-([GRIZY])2?\Z"),
    re.compile(r"(?:SDSS|PS1|DES)[ _-]?([ugrizyY])'?\Z"),
    re.compile(r"([ugrizyY])[._](?:MP|DECam|G0)\d*"),
)


def text(value: Value | None) -> str | None:
    """Return a printable text of at most 200 characters."""
    if value is None or isinstance(value, bool):
        return None
    cleaned = " ".join(_UNPRINTABLE.sub(" ", str(value)).split())[:_LONGEST]
    return cleaned or None


def number(value: object) -> float | None:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int | None:
    """Return a whole number of 64 bits."""
    if isinstance(value, str):
        value = int(value) if re.fullmatch(r"\s*\d{1,18}\s*", value, re.ASCII) else None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if abs(value) <= _LARGEST else None


def seconds(value: object) -> float | None:
    """Return a time in seconds, not negative."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def right_ascension(value: object) -> float | None:
    """Return degrees in [0, 360) from degrees or from hours, minutes and seconds."""
    found = number(value)
    if found is None:
        hours = _sexagesimal(value)
        found = None if hours is None else hours * 15
    return found if found is not None and 0 <= found < 360 else None


def declination(value: object) -> float | None:
    """Return degrees in [-90, 90] from degrees or from degrees, minutes and seconds."""
    found = number(value)
    found = _sexagesimal(value) if found is None else found
    return found if found is not None and -90 <= found <= 90 else None


def _sexagesimal(value: object) -> float | None:
    match = _SEXAGESIMAL.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    minutes, parts = int(match[3]), float(match[4] or 0)
    if minutes >= 60 or parts >= 60:
        return None
    size = int(match[2]) + minutes / 60 + parts / 3600
    return -size if match[1] == "-" else size


def longitude(value: object) -> float | None:
    """Return degrees in [-360, 360] as they are signed in the header."""
    found = number(value)
    found = _sexagesimal(value) if found is None else found
    return found if found is not None and -360 <= found <= 360 else None


def moment(day: object, clock: object) -> datetime | None:
    """Return the UTC moment of DATE-OBS and, if it holds a date only, of a clock time; also of the old DD/MM/YY."""
    if not isinstance(day, str):
        return None
    written = day.strip().rstrip("Z")
    old = _OLD_DATE.match(written)
    if old:
        written = f"19{old[3]}-{old[2]}-{old[1]}"
    try:
        found = datetime.fromisoformat(_six_digits(written))
    except ValueError:
        return None
    if len(written) == 10:
        found += _clock(clock)
    return _utc(found)


def _six_digits(written: str) -> str:
    """Shorten fractions of a second below the microsecond."""
    whole_part, dot, fraction = written.partition(".")
    return f"{whole_part}.{fraction[:6]:0<6}" if dot and fraction.isdigit() else written


def _clock(value: object) -> timedelta:
    match = _CLOCK.match(value.strip()) if isinstance(value, str) else None
    if match is None or int(match[1]) > 23:
        return timedelta()
    return timedelta(hours=int(match[1]), minutes=int(match[2]), seconds=int(match[3] or 0) + float(match[4] or 0))


def from_mjd(value: object) -> datetime | None:
    """Return the moment of a modified Julian date, for years 1859 to 2200."""
    days = number(value)
    return _MJD_ZERO + timedelta(days=days) if days is not None and 100 < days < 125_000 else None


def _utc(found: datetime) -> datetime | None:
    try:
        aware = found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found.astimezone(timezone.utc)
    except OverflowError:
        return None
    return aware if 1000 <= aware.year <= 9000 else None


def day(value: object) -> date | None:
    """Return a calendar day from 2026-11-20, 20261120 or a moment's first ten characters."""
    written = str(value).strip()[:10]
    if _DIGITS.match(written):
        written = f"{written[:4]}-{written[4:6]}-{written[6:8]}"
    try:
        found = date.fromisoformat(written)
    except ValueError:
        return None
    return found if 1000 <= found.year <= 9000 else None


def night_of(start: datetime, east: float | None) -> date:
    """Return the date of the night, which lasts from local noon to noon and is named by its evening.

    `east` is the site's longitude in degrees, east positive: local time is UTC + east/15 hours. Without it, UTC.
    """
    return (start + timedelta(hours=(east or 0.0) / 15 - 12)).date()


def kind_of(value: Value | None) -> str | None:
    """Return the kind of observation in lower case, with the usual synonyms as science, bias, dark, flat."""
    found = text(value)
    return None if found is None else _TYPES.get(found.lower(), found.lower())


def band(physical: str | None) -> str | None:
    """Return the short name of a filter: 'r' for 'r DECam SDSS c0002 6415.0 1480.0', 'HSC-R' or 'r.MP9601'."""
    if not physical:
        return None
    for pattern in _BANDS:
        match = pattern.match(physical)
        if match:
            letter = match[1]
            return letter if letter == "Y" and not physical.startswith("HSC") else letter.lower()
    return physical.split()[0]
