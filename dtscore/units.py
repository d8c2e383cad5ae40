"""Durations and sizes as people write them in the configuration and on the command line."""

from __future__ import annotations

import math
import re

from dtscore.errors import UsageError

_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z")
_SECONDS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms",), 0.001),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _BYTES[f"{_letter}b"] = 1000**_power
    _BYTES[f"{_letter}ib"] = 1024**_power
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def _split(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> tuple[str, float]:
    match = _NUMBER_AND_UNIT.match(text)
    if not match or match[2].lower() not in units:
        raise UsageError(f"{text!r} is not a {what}", f"write it like {example}")
    return match[1], units[match[2].lower()]


def parse_duration(text: str) -> float:
    """Return seconds from '5', '5 s', '2 min', '1 h' or '1 d'; raise UsageError for anything else."""
    number, unit = _split(text, _SECONDS, "duration", "5 s, 2 min, 1 h or 1 d")
    return float(number) * unit


def parse_size(text: str) -> int:
    """Return bytes from '4096', '64 KiB' (1,024) or '10 GB' (1,000); raise UsageError for anything else."""
    number, unit = _split(text, _BYTES, "size", "4096, 64 KiB or 10 GiB")
    return int(number) * int(unit) if number.isdigit() else math.floor(float(number) * unit)


def show_duration(seconds: float) -> str:
    """Return seconds in the largest unit that divides them, as the configuration would write it."""
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= factor and seconds % factor == 0:
            return f"{int(seconds // factor)} {unit}"
    return f"{seconds:g} s"


def show_size(size: float) -> str:
    """Return bytes as people read them: '512 B', '1.5 KiB', '20 GiB'."""
    for unit in _BINARY[:-1]:
        if size < 1024:
            return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.3g} {_BINARY[-1]}"
